"""What fine-tuning learned, put into the weights of the model it was learned on.

    W ← W + (alpha / rank) · B A,    A [rank, in], B [out, rank]      (LoRA, arXiv:2106.09685)

An adapter is one safetensors file: `<module>.lora_A.weight` and `<module>.lora_B.weight` of every
matrix it moves, or whole tensors by name after full fine-tuning, and in the metadata which weights
it belongs to. It is merged once, at load, so that generating costs what it costs without, and peft,
which trained it, is not needed. A convolution over time [out, in, k] is the matrix [out, k · in]
that it multiplies with (`nn.layers.TimeConv`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foley_lab.generators.foley import FoleyTransformer
from foley_lab.signals import FoleyError

PROBED = 64
"""Values of each tensor that the fingerprint of a model looks at."""

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How peft names the two factors."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is, kept in its metadata.

    Attributes:
        base: Name of the model it was trained on.
        base_digest: `fingerprint` of that model's weights.
        data_digest: Of the windows it was trained on.
        rank: Of the updates; 0 where whole tensors were trained.
        alpha: Updates count alpha / rank.
        steps, seed: Of the training.
    """

    base: str
    base_digest: str
    data_digest: str
    rank: int
    alpha: float
    steps: int
    seed: int


def save_adapter(path: Path, tensors: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Write an adapter aside and move it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(stored, aside, metadata={"adapter": json.dumps(asdict(config))})
        aside.chmod(0o644)  # safetensors leaves it to its owner alone
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_adapter(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], AdapterConfig]:
    """Tensors and config of an adapter.

    Raises:
        FoleyError: If there is no such file, or it is none of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FoleyError(f"{path} is no file, wanted an adapter, check the path")
    try:
        with safe_open(path, framework="pt") as file:
            config = AdapterConfig(**json.loads((file.metadata() or {})["adapter"]))
            return {name: file.get_tensor(name) for name in file.keys()}, config  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FoleyError(
            f"{path} is no adapter of foley_lab ({error}), wanted one, "
            "make it with `foley-lab train foley --base small --data DIR`"
        ) from error


@torch.no_grad()
def apply_adapter(
    transformer: FoleyTransformer, path: str | os.PathLike[str], strength: float = 1.0
) -> AdapterConfig:
    """Merge an adapter into a transformer, in place; best before its weights are rounded.

    Args:
        transformer: With the weights that the adapter was trained on.
        path: From `foley-lab train foley --base ...`.
        strength: 1 is what was learned, 0 is the base.

    Returns:
        What the adapter is.

    Raises:
        FoleyError: If the file cannot be read, or belongs to another model.
    """
    tensors, config = read_adapter(path)
    if fingerprint(transformer) != config.base_digest:
        raise FoleyError(
            f"{path} was trained on other weights (of {config.base!r}), wanted these, "
            "load that model or train the adapter anew"
        )
    own = dict(transformer.named_parameters())
    moved = {name.removesuffix(DOWN).removesuffix(UP) for name in tensors}
    targets = moved if not config.rank else {f"{module}.weight" for module in moved}
    if unknown := sorted(targets - own.keys()):
        raise FoleyError(
            f"{path} moves {unknown[0]!r}, which this model has not, wanted its own parameters, "
            "train the adapter anew"
        )
    for name in moved:
        if config.rank:
            weight = own[f"{name}.weight"]
            update = low_rank_update(weight, tensors[name + DOWN], tensors[name + UP])
            update = update * (config.alpha / config.rank)
        else:
            weight = own[name]
            update = tensors[name].to(weight.device).float() - weight.float()
        weight.copy_(weight.float() + strength * update)
    return config


def low_rank_update(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """B A in the shape of `weight`, [out, in] or [out, in, k], float32.

    Args:
        weight: What it will be added to.
        down, up: A [rank, in] or [rank, k · in], and B [out, rank].
    """
    product = up.to(weight.device).float() @ down.to(weight.device).float()
    return product if weight.ndim == 2 else product.unflatten(1, (weight.shape[2], -1)).mT


def fingerprint(transformer: FoleyTransformer) -> str:
    """Digest of names, shapes and the first values of all parameters.

    Values are rounded to bfloat16, so that a model has one fingerprint in every precision.
    """
    digest = hashlib.sha256()
    for name, tensor in transformer.named_parameters():
        values = tensor.detach().flatten()[:PROBED].to("cpu", torch.bfloat16).float().numpy()
        digest.update(f"{name} {list(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]
