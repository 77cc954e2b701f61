"""Checks of the official codec against reference data: one function for each kind of sidecar.

Each takes the sidecar and its folder, fails where a tolerance is missed, and returns the largest
error of each result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from foley_lab.decoders.dac_vae import PUBLISHED, DacConfig, DacVae, Posterior, load_dac
from foley_lab.weights.official import read_pickle


def check_dac_weights(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Names and shapes of the file are those of the codec that its constructor describes."""
    tensors = load_file(folder / sidecar["file"])
    dac = load_dac(tensors, sidecar["constructor"])
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        name: entry["shape"] for name, entry in sidecar["tensors"].items()
    }
    if "n_parameters" in sidecar:
        assert _official_size(dac, tensors) == sidecar["n_parameters"]
    return {}


def check_dac_encode_decode(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Decoding, posterior, seeded sample and divergence."""
    dac = load_dac(load_file(folder / f"{sidecar['weights']}.safetensors"), sidecar["constructor"])
    case = load_file(folder / sidecar["file"])
    assert dac.config.hop_length == sidecar["hop"]
    posterior = dac.encode(case["in.audio"])
    generator = torch.Generator().manual_seed(sidecar["seed_for_sample"])
    encode, decode = (sidecar["tolerance"][f"{name}_max_abs"] for name in ("encode", "decode"))
    errors = {
        "audio": _error(dac.decode(case["in.z"]), case["out.audio"], decode),
        "mean": _error(posterior.mean, case["out.mean"], encode),
        "logvar": _error(posterior.logvar, case["out.logvar_clamped"], encode),
        "std": _error(posterior.std, case["out.std"], encode),
        "sample": _error(posterior.sample(generator), case["out.sample_seeded"], encode),
        "kl": _error(posterior.kl(), case["out.kl"], encode),
    }
    assert torch.equal(posterior.mode(), posterior.mean)
    return errors


def check_dac_checkpoint(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """The container of the published file; its weights are those of the sidecar beside it."""
    tensors, metadata = read_pickle(folder / sidecar["file"])
    dac = load_dac(tensors, metadata["kwargs"])
    assert dac.config == DacConfig.from_metadata(sidecar["constructor"])
    beside = folder / sidecar["file"].replace("_checkpoint.pth", "_weights.safetensors")
    if beside.is_file():
        same = load_dac(load_file(beside), sidecar["constructor"]).state_dict()
        assert all(torch.equal(tensor, same[name]) for name, tensor in dac.state_dict().items())
    return {}


def check_posterior(sidecar: dict[str, Any], folder: Path) -> dict[str, float]:
    """Clamps, deviation, variance and divergence, within a relative tolerance."""
    case = load_file(folder / sidecar["file"])
    posterior = Posterior.from_parameters(case["in.params"])
    results = {
        "mean": posterior.mean,
        "logvar_clamped": posterior.logvar,
        "std": posterior.std,
        "var": posterior.std.square(),
        "kl": posterior.kl(),
    }
    errors = {}
    for name, got in results.items():
        wanted = case[f"out.{name}"]
        torch.testing.assert_close(got, wanted, rtol=sidecar["tolerance"]["rel"], atol=1e-30)
        errors[name] = ((got - wanted) / wanted.abs().clamp(min=1e-30)).abs().max().item()
    return errors


def check_dac_keys(listing: dict[str, Any]) -> None:
    """Names, shapes and counts of the published size, without memory for its weights."""
    tensors = {
        name: torch.empty(shape, device="meta") for name, shape in listing["tensors"].items()
    }
    assert len(tensors) == listing["n_tensors"]
    dac = load_dac(tensors, vars(PUBLISHED))
    assert _official_size(dac, tensors) == listing["n_parameters"]


CHECKS = {
    "DAC-VAE weights": check_dac_weights,
    "DAC-VAE encode/decode": check_dac_encode_decode,
    "DAC-VAE checkpoint container": check_dac_checkpoint,
    "diagonal gaussian posterior": check_posterior,
}


def _official_size(dac: DacVae, tensors: dict[str, Tensor]) -> int:
    """Parameters before weight norm is folded: ours and the lengths g of the file."""
    lengths = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith("weight_g"))
    return lengths + sum(parameter.numel() for parameter in dac.parameters())


def _error(got: Tensor, wanted: Tensor, tolerance: float) -> float:
    assert got.shape == wanted.shape and got.dtype == torch.float32
    error = (got - wanted).abs().max().item()
    assert error <= tolerance
    return error
