"""Tensors into a module: every one that it needs, in the shape it needs, and no second copy.

The module is built on the meta device, where parameters have shapes and no memory, and takes the
tensors themselves:

    with torch.device("meta"):
        transformer = FoleyTransformer(XL)
    load_strictly(transformer, load_official("xl"), tolerate_unknown=True)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from foley_lab.signals import FoleyError

_SIZES = {(12, 24, 1408): "xl", (18, 36, 1536): "xxl"}
"""Two-stream blocks, audio-only blocks and width of the published transformers."""


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    tolerate_unknown: bool = False,
    source: str | os.PathLike[str] = "weights",
) -> list[str]:
    """Give a module its tensors, as they are: dtype and device become those of the tensors.

    Args:
        module: Anywhere; on the meta device nothing is made to be thrown away.
        tensors: By the names of the module's `state_dict`. They are taken over, not copied.
        tolerate_unknown: Pass over names the module does not know. The official transformers may
            carry what only their training used.
        source: File they come from, as errors are to name it.

    Returns:
        The names passed over, sorted.

    Raises:
        FoleyError: If a tensor is missing, has another shape or holds whole numbers where the
            module computes with fractions, or a name is unknown; the module is then left as it was.
    """
    wanted = module.state_dict()
    what = f"{type(module).__name__} of {len(wanted)} tensors"
    looks = describe_size(tensors)
    remedy = (
        f"the file looks like {looks}, which is the right size: fetch it again"
        if looks == describe_size(wanted)
        else f"the file looks like {looks}, name the model it belongs to or fetch it again"
    )
    if missing := wanted.keys() - tensors.keys():
        raise FoleyError(f"{source} without {_some(missing)}, wanted all for a {what}, {remedy}")
    if differing := [key for key in wanted if wanted[key].shape != tensors[key].shape]:
        key = differing[0]
        raise FoleyError(
            f"{source} with {key} {list(tensors[key].shape)} and {len(differing) - 1} more of "
            f"another shape, wanted {list(wanted[key].shape)} for a {what}, {remedy}"
        )
    whole = [
        key
        for key in wanted
        if wanted[key].is_floating_point() and not tensors[key].is_floating_point()
    ]
    if whole:
        raise FoleyError(
            f"{source} with {_some(whole)} of {tensors[whole[0]].dtype}, wanted floats for a "
            f"{what}, {remedy}"
        )
    unknown = sorted(tensors.keys() - wanted.keys())
    if unknown and not tolerate_unknown:
        raise FoleyError(f"{source} with {_some(unknown)}, wanted none but a {what}, {remedy}")
    module.load_state_dict({key: tensors[key] for key in wanted}, assign=True)
    left = [key for key, buffer in module.named_buffers() if buffer.is_meta]
    assert not left, f"{left} are in no state dict: build the module off the meta device"
    return unknown


def describe_size(tensors: Mapping[str, Tensor]) -> str:
    """Which published transformer the tensors are of: "xl (12 + 24 blocks of width 1408)", or what
    else they look like."""
    stem = tensors.get("empty_clip_feat"), tensors.get("audio_embedder.proj.weight")
    if any(tensor is None for tensor in stem):
        return f"no transformer of HunyuanVideo-Foley ({len(tensors)} tensors)"
    width = tensors["audio_embedder.proj.weight"].shape[0]
    triple, single = _count(tensors, "triple_blocks"), _count(tensors, "single_blocks")
    name = _SIZES.get((triple, single, width), "a transformer of no published size")
    return f"{name} ({triple} + {single} blocks of width {width})"


def _count(tensors: Iterable[str], blocks: str) -> int:
    numbers = {match[1] for key in tensors if (match := re.match(rf"{blocks}\.(\d+)\.", key))}
    return len(numbers)


def _some(keys: Iterable[str]) -> str:
    """The first few of many names."""
    first = sorted(keys)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more
