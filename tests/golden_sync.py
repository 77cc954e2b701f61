"""Checks of the official sync encoder against reference data: one function for each kind of
sidecar.

Each takes the sidecar and its folder, fails where a tolerance is missed, and returns the largest
error of each result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from foley_lab.encoders.synchformer import (
    PREFIX,
    UNUSED,
    Synchformer,
    SynchformerConfig,
    load_synchformer,
)


def check_sync_weights(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Names and shapes of the file are those of the encoder that its sidecar describes."""
    tensors = load_file(folder / sidecar["file"])
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        name: entry["shape"] for name, entry in sidecar["tensors"].items()
    }
    load_synchformer(tensors, _config(sidecar))
    return {}


def check_sync_features(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Features of a small encoder from stored weights."""
    weights = load_file(folder / f"{sidecar['weights']}.safetensors")
    return _check(sidecar, folder, load_synchformer(weights, _config(sidecar)))


def check_sync_published_size(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Features at the published size, with weights from the recipe."""
    config = _config(sidecar)
    recipe = sidecar["weight_recipe"]
    weights = _from_recipe(config, recipe["seed"])
    assert len(weights) == recipe["n_tensors"]
    assert sum(tensor.numel() for tensor in weights.values()) == recipe["n_parameters"]
    case = load_file(folder / sidecar["file"])
    for which in ("first_tensor", "last_tensor"):
        head = case[f"check.{which}_head"]
        assert torch.equal(weights[sidecar[which]].flatten()[: len(head)], head)
    return _check(sidecar, folder, load_synchformer(weights, config))


def check_sync_keys(listing: dict[str, Any]) -> None:
    """Names, shapes and counts of the published size, without memory for its weights."""
    tensors = {
        name: torch.empty(shape, device="meta") for name, shape in listing["tensors"].items()
    }
    assert len(tensors) == listing["n_tensors"]
    assert sum(tensor.numel() for tensor in tensors.values()) == listing["n_parameters"]
    synchformer = load_synchformer(tensors)
    visual = [name for name in tensors if name.startswith(PREFIX)]
    ours = {PREFIX + name for name in (*synchformer.state_dict(), *UNUSED)}
    assert ours == set(visual)


CHECKS = {
    "Synchformer visual extractor weights": check_sync_weights,
    "Synchformer visual features": check_sync_features,
    "Synchformer visual features, published size": check_sync_published_size,
}


def _config(sidecar: dict[str, Any]) -> SynchformerConfig:
    shape = sidecar["config"]
    return SynchformerConfig(shape["dim"], shape["depth"], shape["heads"], shape["mlp"])


def _check(sidecar: dict[str, Any], folder: Path, synchformer: Synchformer) -> dict[str, float]:
    case = load_file(folder / sidecar["file"])
    frames = _frames(sidecar["frames"], sidecar["k"], synchformer.config.image_size)
    assert torch.equal(frames.long().sum((1, 2, 3)), case["in.checksum_frames"])
    got, wanted = synchformer.encode(frames.transpose(0, 1)[None]), case["out.features"]
    assert got.shape == wanted.shape and got.dtype == torch.float32
    error = (got - wanted).abs().max().item()
    assert error <= sidecar["tolerance"]["max_abs"]
    return {"features": error}


def _frames(count: int, k: int, size: int) -> Tensor:
    """The pattern of the sidecars' `input_recipe`, uint8 [F, 3, H, W]."""
    t = torch.arange(count)[:, None, None, None]
    c = torch.arange(3)[:, None, None]
    y, x = torch.arange(size)[:, None], torch.arange(size)
    waves = 3 * x**2 + 5 * y**2 + (t + 1) * x * y + 17 * t**2 + 29 * c * (x + 2 * y)
    waves = torch.div(waves + k * t * (x - y), 7, rounding_mode="floor")
    return (waves + (x + y + 4 * t) * (c + 1)).remainder(256).to(torch.uint8)


def _from_recipe(config: SynchformerConfig, seed: int) -> dict[str, Tensor]:
    """The weights of the sidecar's `weight_recipe`, by official name."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in Synchformer(config).state_dict().items()}
    patch = (config.dim, 3, config.patch_size, config.patch_size)
    shapes |= dict(zip(UNUSED, (patch, patch[:1]), strict=True))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in sorted(PREFIX + name for name in shapes):
        shape = shapes[name.removeprefix(PREFIX)]
        values = torch.randn(shape, generator=generator)
        embedding = any(part in name for part in ("cls_token", "pos_embed", "temp_embed"))
        if values.ndim >= 2 and not embedding:
            values = values * (0.7 / values[0].numel() ** 0.5)
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values = values * (0.1 if name.endswith("bias") else 0.3)
        weights[name] = values.bfloat16().float()
    return weights
