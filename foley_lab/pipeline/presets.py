"""Names become objects here, and nowhere else: `load("small")` is a `Lab` with its weights.

small      eyes, transformer and codec that ship with the package; float32, but for the
           transformer in bfloat16 where the processor multiplies that in hardware
xl, xxl    the official sizes of HunyuanVideo-Foley, whose weights are fetched apart (`official`)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from foley_lab.decoders.vocoder import load_codec
from foley_lab.encoders.small import SmallEncoder
from foley_lab.generators.adapters import apply_adapter
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.pipeline.lab import Defaults, Lab
from foley_lab.signals import SMALL_RATES
from foley_lab.weights import load_schedules, load_shipped

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,  # weights alone, see `generators.eight_bit`
}


SMALL_DEFAULTS = Defaults(num_steps=8, guidance_scale=2.5, sampler="ab2")
"""Chosen from the table of `foley-lab bench samplers` (50 clips of 4 s, seeds 20000 to 20049).

Eight calls of ab2 hit as many events as fifty of Euler (F1@40 .931), name as many materials right
within half a point (.681, .686) and lie nearer to the true sound (MR-STFT 2.57, 3.22), 6.4 times as
fast. Four calls hit as many (.929) but name fewer materials (.654); among samplers of one call a
step Euler, at eight too, names fewer (.670) and lies farther away (2.81). Schedules nearer to what
many steps give ("optimal") follow the guidance more exactly, which is not nearer to the truth.
"""


def load(
    name: str = "small",
    device: str = "auto",
    dtype: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    offload: bool = False,
    compat: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    whole_codec: bool = False,
) -> Lab:
    """A model, ready to be called.

    Args:
        name: One of `PRESETS`.
        device: "auto" is the accelerator if there is one, else the processor; or "cpu", "cuda", ...
        dtype: Of the transformer: "auto", "float32", "bfloat16" or "float16"; of the official sizes
            on the processor also "int8", which halves the memory of bfloat16 weights.
        cache_dir: Not used by any of these models yet; only None is taken.
        offload: Of the official sizes, keep the weights in host memory and on the device only those
            of the stage that runs.
        compat: "reference" lets the official sizes pick frames, count lengths and read padding as
            the published code does, mistakes included; None is right.
        adapter: File of a fine-tuning (`foley-lab train foley --base`), merged into the weights.
        whole_codec: Of the official sizes, also load what encodes sound; training wants it.

    Raises:
        ValueError: If the name, device or dtype is unknown or not to be had.
        MissingWeights: If its weights are not on this machine.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r}, wanted one of {', '.join(PRESETS)}, choose another")
    if cache_dir is not None:
        raise ValueError(f"cache_dir {cache_dir!r}, wanted None: there is no cache, leave it out")
    official = name in ("xl", "xxl")
    if not official and (offload or compat is not None):
        raise ValueError(
            f"offload {offload!r} and compat {compat!r} for {name!r}, wanted False and None, "
            "leave them out or choose xl"
        )
    if compat not in (None, "reference"):
        raise ValueError(f"compat {compat!r}, wanted None or 'reference', leave it out")
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    if precision == torch.int8 and (not official or offload or chosen.type != "cpu"):
        raise ValueError(
            f"dtype 'int8' for {name!r} on {chosen} with offload {offload!r}, wanted an official "
            "size on the cpu without offload, choose bfloat16"
        )
    extras: dict[str, Any] = {} if adapter is None else {"adapter": adapter}
    if official:
        extras |= {"offload": offload, "compat": compat, "whole_codec": whole_codec}
    return PRESETS[name](chosen, precision, **extras)


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
        raise ValueError(f"dtype {name!r}, wanted auto, {', '.join(DTYPES)}, choose another")
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


def _small(
    device: torch.device, dtype: torch.dtype, adapter: str | os.PathLike[str] | None = None
) -> Lab:
    tensors, config = load_shipped("foley")
    transformer = FoleyTransformer(FoleyConfig(**config))
    transformer.load_state_dict(tensors)
    if adapter is not None:
        apply_adapter(transformer, adapter)
    encoder = SmallEncoder.from_shipped()
    encoder.eyes.to(device)
    encoder.empty = tensors["empty_clip_feat"]
    codec = load_codec(*load_shipped("codec")).to(device)
    transformer = transformer.to(device, dtype).eval()
    generator = FlowGenerator(transformer, SMALL_RATES, schedules=load_schedules("small"))
    return Lab(encoder, generator, codec, "small", SMALL_RATES, SMALL_DEFAULTS)


def _official(name: str) -> Callable[..., Lab]:
    def load_it(device: torch.device, dtype: torch.dtype, **options: Any) -> Lab:
        from foley_lab.pipeline.official import load_official_lab  # only who asks for it pays

        return load_official_lab(name, device, dtype, **options)

    return load_it


PRESETS: dict[str, Callable[..., Lab]] = {
    "small": _small,
    "xl": _official("xl"),
    "xxl": _official("xxl"),
}
"""Models by name."""
WITHOUT_EVENTS = ("xl", "xxl")
"""Those that see without naming events, and play no log."""
