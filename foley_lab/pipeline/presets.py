"""Names become objects here, and nowhere else: `load("small")` is a `Lab` with its weights.

small      eyes, transformer and codec that ship with the package; float32, but for the
           transformer in bfloat16 where the processor multiplies that in hardware
xl, xxl    the official sizes of HunyuanVideo-Foley, whose weights are fetched apart
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from foley_lab.decoders.vocoder import load_codec
from foley_lab.encoders.small import SmallEncoder
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.pipeline.lab import Defaults, Lab
from foley_lab.signals import SMALL_RATES, FoleyError
from foley_lab.weights import load_shipped, official_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    name: str = "small",
    device: str = "auto",
    dtype: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    offload: bool = False,
) -> Lab:
    """A model, ready to be called.

    Args:
        name: One of `PRESETS`.
        device: "auto" is the accelerator if there is one, else the processor; or "cpu", "cuda", ...
        dtype: Of the transformer: "auto", "float32" or "bfloat16".
        cache_dir, offload: Not used by any of these models yet; only None and False are taken.

    Raises:
        ValueError: If the name, device or dtype is unknown or not to be had.
        MissingWeights: If its weights are not on this machine.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r}, wanted one of {', '.join(PRESETS)}, choose another")
    if cache_dir is not None or offload:
        raise ValueError(
            f"cache_dir {cache_dir!r} and offload {offload!r}, wanted None and False: "
            f"{name!r} keeps no cache and fits into memory, leave them out"
        )
    chosen = choose_device(device)
    return PRESETS[name](chosen, choose_dtype(dtype, chosen))


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name, found to be there.

    Raises:
        ValueError: If it is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # absent devices are found only by use
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r}, wanted one of this machine, choose auto or cpu"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The transformer's precision.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "auto":
        quick = device.type == "cuda" or has_bfloat16_units()
        return torch.bfloat16 if quick else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r}, wanted auto, {' or '.join(DTYPES)}, choose another")
    return DTYPES[name]


def has_bfloat16_units() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere it is slower than float32.

    Known on Linux only, where the kernel lists what the processor can.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _small(device: torch.device, dtype: torch.dtype) -> Lab:
    tensors, config = load_shipped("foley")
    transformer = FoleyTransformer(FoleyConfig(**config))
    transformer.load_state_dict(tensors)
    encoder = SmallEncoder.from_shipped()
    encoder.eyes.to(device)
    codec = load_codec(*load_shipped("codec")).to(device)
    generator = FlowGenerator(transformer.to(device, dtype).eval(), SMALL_RATES)
    return Lab(encoder, generator, codec, "small", SMALL_RATES, Defaults())


def _official(name: str) -> Callable[[torch.device, torch.dtype], Lab]:
    def load_official(device: torch.device, dtype: torch.dtype) -> Lab:
        official_files(name)  # names the command that fetches them
        raise FoleyError(f"model {name!r} cannot be built yet, wanted small, choose that")

    return load_official


PRESETS: dict[str, Callable[[torch.device, torch.dtype], Lab]] = {
    "small": _small,
    "xl": _official("xl"),
    "xxl": _official("xxl"),
}
"""Models by name."""
