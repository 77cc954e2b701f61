"""The form of our own checkpoints: safetensors with the config as JSON in the metadata, so that
weights and the shape they fit travel together.

Files that ship stay below 15 MB: a larger checkpoint is a row of shards
`<part>-00001-of-00004.safetensors`, and a tensor larger than a shard is cut by rows into pieces
`<name>#0`, `<name>#1`, ... Floats are stored in half precision and come back as float32.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foley_lab.signals import MissingWeights

MAX_BYTES = 15_000_000

_FILE = re.compile(r"(?P<part>.+?)(-\d{5}-of-(?P<count>\d{5}))?\.safetensors")
_HEADER_BYTES = 64_000  # what names and config may take of a file
_HALF = (torch.float16, torch.bfloat16)


def load_shards(stem: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_shards` wrote.

    Args:
        stem: Path without shard number and suffix, e.g. `checkpoints/small/codec`.

    Returns:
        Tensors by name, on the CPU, half precision widened to float32; and the config.

    Raises:
        MissingWeights: If the checkpoint or one of its shards is absent.
        ValueError: If a file is damaged, or the files belong to different savings.
    """
    stem = Path(stem)
    paths = _files(stem)
    count = int(part_of(paths[0])[1]) if paths else 1
    if len(paths) < count or not paths:
        raise MissingWeights(
            f"checkpoint {stem} has {len(paths)} of {count} files, wanted all, "
            f"run `foley-lab train {stem.name}`"
        )
    pieces: dict[str, list[Tensor]] = {}
    configs: set[str] = set()
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                configs.add((file.metadata() or {}).get("config", "{}"))
                for key in sorted(file.keys(), key=_piece):
                    pieces.setdefault(_piece(key)[0], []).append(file.get_tensor(key))
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged ({error}), wanted safetensors, save or install it anew"
            ) from error
    if len(configs) > 1:
        raise ValueError(f"the files of {stem} are of different savings, wanted one, save it anew")
    stored = {name: torch.cat(p) if len(p) > 1 else p[0] for name, p in pieces.items()}
    tensors = {name: t.float() if t.dtype in _HALF else t for name, t in stored.items()}
    config = json.loads(configs.pop())
    config.pop("saving", None)
    return tensors, config


def save_shards(
    stem: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    max_bytes: int = MAX_BYTES,
    dtype: torch.dtype = torch.float16,
) -> list[Path]:
    """Write a checkpoint aside and move it into place, as one file or as shards.

    Args:
        stem: Path without suffix; its folder is made when absent.
        tensors: By name; floats are stored as `dtype`, everything else as it is.
        config: Anything JSON can hold; travels in the metadata of every shard.
        max_bytes: Limit of one file.
        dtype: Stored precision of floats.

    Returns:
        The files, in order. Equal input gives equal bytes.

    Raises:
        ValueError: If a value does not fit into `dtype`, or a row does not fit into a file.
    """
    stem = Path(stem)
    shards, digest, room = [{}], hashlib.sha256(), max_bytes - _HEADER_BYTES
    for name, piece in _pieces(tensors, dtype, max_bytes - _HEADER_BYTES):
        if piece.nbytes > room:
            shards.append({})
            room = max_bytes - _HEADER_BYTES
        shards[-1][name] = piece
        room -= piece.nbytes
        digest.update(name.encode() + piece.flatten().view(torch.uint8).numpy().tobytes())
    # The digest tells shards of this saving from those of another; a second key of metadata would
    # stand now before and now behind the first, and equal input would not give equal bytes.
    metadata = {"config": json.dumps({**config, "saving": digest.hexdigest()[:16]})}

    of = [f"-{i:05d}-of-{len(shards):05d}" for i in range(1, len(shards) + 1)]
    paths = [Path(f"{stem}{suffix if len(of) > 1 else ''}.safetensors") for suffix in of]
    aside = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        for path, shard in zip(aside, shards, strict=True):
            save_file(shard, path, metadata)
            path.chmod(0o644)  # safetensors leaves it to its owner alone
        for old in set(_files(stem)) - set(paths):
            old.unlink()
        for path, final in zip(aside, paths, strict=True):
            os.replace(path, final)
    finally:
        for path in aside:
            path.unlink(missing_ok=True)
    return paths


def part_of(path: Path) -> tuple[str, int]:
    """Path without shard number and suffix, and how many shards there are to be."""
    match = _FILE.fullmatch(path.as_posix())
    return (match["part"], int(match["count"] or 1)) if match else (path.as_posix(), 1)


def _files(stem: Path) -> list[Path]:
    """Every file of a checkpoint, whole or not, in order."""
    found = stem.parent.glob(f"{stem.name}*.safetensors")
    return sorted(path for path in found if part_of(path)[0] == stem.as_posix())


def _piece(key: str) -> tuple[str, int]:
    """Tensor name and number of the piece."""
    name, _, index = key.partition("#")
    return name, int(index or 0)


def _pieces(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, max_bytes: int
) -> Iterator[tuple[str, Tensor]]:
    """Tensors as they are stored; those above the limit in pieces of whole rows."""
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        stored = value.to(dtype) if value.is_floating_point() else value
        if not torch.equal(stored.isfinite(), value.isfinite()):
            raise ValueError(
                f"tensor {name!r} reaches {value.abs().max():.3g}, wanted values that fit into "
                f"{dtype}, save it as torch.float32"
            )
        if stored.nbytes <= max_bytes:
            yield name, stored.contiguous().clone()  # safetensors refuses shared memory
            continue
        rows = max_bytes * len(stored) // stored.nbytes
        if rows == 0:
            raise ValueError(f"a row of {name!r} is larger than a file, wanted larger shards")
        for i, piece in enumerate(stored.split(rows)):
            yield f"{name}#{i}", piece.contiguous().clone()
