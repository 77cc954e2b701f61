"""HunyuanVideo-Foley put together from its published parts (Shan et al. 2025, arXiv:2508.16930).

    SigLIP 2, Synchformer, CLAP ─→ transformer, 50 steps, guidance 4.5 ─→ DAC-VAE ─→ 48 kHz

Weights are those of `foley-lab weights fetch xl`. Beside a transformer or a Synchformer that is no
published one, a `config.json` tells its shape: for a transformer the official `model_kwargs`, for
Synchformer the fields of `SynchformerConfig`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from foley_lab.decoders.dac_vae import DacVae, load_dac
from foley_lab.encoders.pretrained import PretrainedEncoder, quiet_imports
from foley_lab.encoders.sampling import REFERENCE_LONGEST_S, SYNC_RATE, Compat
from foley_lab.encoders.synchformer import (
    PREFIX,
    PUBLISHED,
    Synchformer,
    SynchformerConfig,
    load_synchformer,
)
from foley_lab.generators.adapters import apply_adapter
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.eight_bit import to_eight_bit
from foley_lab.generators.foley import XL, XXL, FoleyConfig, FoleyTransformer, SingleBlock
from foley_lab.pipeline.lab import Defaults, Lab
from foley_lab.pipeline.residence import Residence
from foley_lab.signals import HUNYUAN_RATES, FoleyError
from foley_lab.weights import (
    Check,
    convert,
    load_official,
    load_schedules,
    load_strictly,
    official_files,
    official_metadata,
    weights_dir,
)

SIZES = {"xl": XL, "xxl": XXL}
PARTS = ("dac-vae", "synchformer", "siglip2", "clap")
DEFAULTS = Defaults(num_steps=50, guidance_scale=4.5, sampler="euler", decoder="dac-vae")


def load_official_lab(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    offload: bool = False,
    compat: Compat = None,
    adapter: str | os.PathLike[str] | None = None,
    whole_codec: bool = False,
) -> Lab:
    """A model of the official architecture.

    Args:
        name: "xl" or "xxl".
        device, dtype: Of the transformer; the encoders compute in the same precision, the codec in
            float32 as published. int8: weights of eight bits, all else in bfloat16.
        offload: Keep all weights in host memory; a stage's visit the device while it runs.
        compat: "reference" picks frames, counts lengths and reads padding as the published code,
            which ends at 15 s and knows no windows.
        adapter: Of a fine-tuning, merged into the transformer.
        whole_codec: Whether the codec shall encode too.

    Raises:
        MissingWeights: If a part is absent.
        FoleyError: If a file is damaged, carries code or belongs to another size.
    """
    eight_bit, dtype = dtype == torch.int8, torch.bfloat16 if dtype == torch.int8 else dtype
    for part in (name, *PARTS):
        official_files(part)  # names the first that is absent before any is read
    transformer = _transformer(name, load_official(name, _check_of(name)))
    transformer = transformer.to(dtype).requires_grad_(False).eval()
    if adapter is not None:
        apply_adapter(transformer, adapter)
    if eight_bit:
        with quiet_imports():
            to_eight_bit(transformer)
    elif not whole_codec:  # a training keeps the official tensors
        for block in transformer.single_blocks:
            cast(SingleBlock, block).sort_heads()
    sync = _sync(load_official("synchformer", _check_of("synchformer"))).to(dtype)
    tensors = load_official("dac-vae", _check_of("dac-vae"))
    codec = _codec(tensors, official_metadata("dac-vae"), whole_codec)
    home = torch.device("cpu") if offload else device
    empty = (transformer.empty_clip_feat.clone(), transformer.empty_sync_feat.clone())
    encoder = PretrainedEncoder.from_folder(
        weights_dir(), sync.to(home), empty, home, dtype, compat
    )
    spacing = Fraction(1) / SYNC_RATE
    # The published code knows no windows; its clips end before this one would.
    windows = {} if compat is None else {"window_s": REFERENCE_LONGEST_S}
    generator = FlowGenerator(
        transformer.to(home),
        HUNYUAN_RATES,
        spacing,
        sync_spread=compat is not None,
        schedules=load_schedules(name),
        **windows,
    )
    residences = {}
    if offload:
        encoder.device = device
        stages: dict[str, list[nn.Module]] = {
            "encode": [encoder.vision, encoder.text.model, sync],
            "generate": [transformer],
            "decode": [codec],
        }
        residences = {stage: Residence(parts, device) for stage, parts in stages.items()}
    return Lab(encoder, generator, codec.to(home), name, HUNYUAN_RATES, DEFAULTS, residences)


def convert_official(name: str) -> Path:
    """Keep a copy of official weights as safetensors, if they are those of the model.

    Args:
        name: "xl", "xxl", "dac-vae" or "synchformer".

    Returns:
        The copy, which may have been there.

    Raises:
        ValueError: If there is nothing to convert.
        MissingWeights: If the file is absent.
        FoleyError: If it is damaged, carries code, lacks tensors or holds what is no number, or
            there is no room for the copy.
    """
    return convert(name, _check_of(name) if name in (*SIZES, "synchformer", "dac-vae") else None)


def _check_of(name: str) -> Check:
    """Builds the part without memory, by the same steps as it is loaded, and looks for NaN."""

    def check(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        shapes = {key: tensor.to("meta") for key, tensor in tensors.items()}
        if name == "dac-vae":
            _codec(shapes, metadata, whole=True)
            read = set(tensors)
        elif name == "synchformer":
            read = {PREFIX + key for key in _sync(shapes).state_dict()}
        else:
            read = set(_transformer(name, shapes).state_dict())
        for key in sorted(read):
            if not bool(tensors[key].isfinite().all()):
                raise FoleyError(
                    f"{official_files(name)[0]} with NaN or infinity in {key}, wanted numbers, "
                    f"fetch it again: delete it and run `foley-lab weights fetch {name}`"
                )

    return check


def _transformer(name: str, tensors: Mapping[str, Tensor]) -> FoleyTransformer:
    """The transformer of its tensors, which it takes over.

    Raises:
        FoleyError: If its `config.json` describes none, or they are not those of it.
    """
    config, chosen = SIZES[name], _config(name)
    if chosen is not None:
        with _naming(weights_dir() / name / "config.json", ", or remove the file"):
            config = FoleyConfig.from_official(chosen)
    with torch.device("meta"):
        transformer = FoleyTransformer(config)
    load_strictly(transformer, tensors, tolerate_unknown=True, source=official_files(name)[0])
    return transformer


def _sync(tensors: Mapping[str, Tensor]) -> Synchformer:
    """Synchformer of the tensors of its file; errors as of `_transformer`."""
    shape, chosen = PUBLISHED, _config("synchformer")
    if chosen is not None:
        with _naming(weights_dir() / "synchformer" / "config.json", ", or remove the file"):
            known = {each.name for each in fields(SynchformerConfig)}
            for key, value in chosen.items():
                if key not in known or type(value) is not int or value < 1:
                    raise ValueError(
                        f"{key} = {value!r:.60}, wanted numbers from 1 on for some of "
                        f"{', '.join(sorted(known))}, correct it"
                    )
            shape = SynchformerConfig(**chosen)
    with _naming(official_files("synchformer")[0]):
        _check_floats({k: tensor for k, tensor in tensors.items() if k.startswith(PREFIX)})
        return load_synchformer(tensors, shape)


def _codec(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], whole: bool) -> DacVae:
    """The codec of the tensors and metadata of its file.

    Args:
        whole: Whether it shall encode too.

    Raises:
        FoleyError: If they do not fit each other.
    """
    kwargs = metadata.get("kwargs")
    with _naming(official_files("dac-vae")[0]):
        if not isinstance(kwargs, dict):
            raise ValueError(
                "no word of how the codec is built, wanted metadata with kwargs, fetch it again"
            )
        _check_floats(tensors)
        return load_dac(tensors, kwargs, with_encoder=whole)


def _check_floats(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{key} holds {tensor.dtype}, wanted floats, fetch the file again")


@contextmanager
def _naming(path: Path, remedy: str = "") -> Iterator[None]:
    """Put the file before what is wrong with it, and what else can be done behind it."""
    try:
        yield
    except ValueError as error:
        raise FoleyError(f"{path}: {error}{remedy}") from error


def _config(name: str) -> dict[str, Any] | None:
    """What the `config.json` beside the weights says, if there is one.

    Raises:
        FoleyError: If it is no JSON object.
    """
    path = weights_dir() / name / "config.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoleyError(
            f"{path} cannot be read ({error}), wanted a JSON object, correct or remove it"
        ) from error
    if not isinstance(content, dict):
        raise FoleyError(f"{path} is no JSON object, wanted one, correct or remove it")
    return content
