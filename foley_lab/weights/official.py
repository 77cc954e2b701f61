"""Official weights, opened without running code.

A `.pth` file is a pickle, a small program that may do anything when it is run. It is read by the
restricted reader of torch, which builds tensors and plain containers and refuses everything else.
After the first reading a copy is kept beside it as safetensors, in the precision the model computes
in. From then on the copy is mapped: pages are read when they are used and shared between processes,
and the pickle is not opened again.

    hunyuanvideo_foley_xl.pth            as published, kept
    hunyuanvideo_foley_xl.safetensors    the copy; its metadata say which pickle it was made from
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import pickletools
import re
import shutil
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foley_lab.signals import FoleyError
from foley_lab.weights.digests import read_digests, record_digest
from foley_lab.weights.sources import SOURCES, converted, official_files

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types of numbers, as safetensors names them."""

Check = Callable[[Mapping[str, Tensor], Mapping[str, Any]], None]
"""Raises where tensors and metadata are not those of the model they are to become."""


def load_official(name: str, check: Check | None = None) -> dict[str, Tensor]:
    """Tensors of official weights by name, on the CPU, mapped from the file where possible.

    The transformers come in bfloat16, everything else as it was published. The first call keeps a
    copy that later calls map; where there is no room for it, the pickle is read each time.

    Args:
        check: Asked before a copy is made, so that none is kept of a file that does not fit.

    Raises:
        ValueError: If no official weights have that name.
        MissingWeights: If they are absent.
        FoleyError: If the file is damaged, carries code, or holds no tensors.
    """
    return _open(name, check)[0]


def official_metadata(name: str, check: Check | None = None) -> dict[str, Any]:
    """What the file tells beside its tensors: of the codec `{"kwargs": {...}}`, else nothing.

    Args and errors are those of `load_official`.
    """
    return _open(name, check)[1]


def convert(name: str, check: Check | None = None) -> Path:
    """Keep a copy of a pickle as safetensors, written aside and moved into place.

    Args:
        check: Asked about the copy, too, if it was there.

    Returns:
        The copy, which may have been there.

    Raises:
        ValueError: If these weights come as safetensors.
        FoleyError: If there is no room, or the file is damaged or carries code.
    """
    path = _checkpoint(name)
    if path.name in SOURCES[name].files and path.suffix == ".safetensors":
        raise ValueError(f"{name!r} comes as safetensors, wanted a pickle, use it as it is")
    if path.suffix == ".safetensors" or is_copy_of(converted(path), path):
        if check:
            check(*_map(converted(path)))
        return converted(path)
    try:
        return _convert(name, path, check)
    except OSError as error:
        raise FoleyError(
            f"{converted(path)} cannot be written ({_reason(error)}), wanted room for a copy, "
            "free some space or choose another disk with FOLEY_LAB_WEIGHTS"
        ) from error


def _open(name: str, check: Check | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = _checkpoint(name)
    if path.suffix == ".safetensors":
        return _map(path)
    if is_copy_of(converted(path), path):
        return _map(converted(path))
    try:
        return _map(_convert(name, path, check))
    except OSError as error:
        warnings.warn(
            f"{converted(path)} cannot be written ({_reason(error)}), {path.name} is read itself, "
            "which is slower and takes more memory",
            stacklevel=1,  # told once per file, whoever asks
        )
    tensors, metadata = read_pickle(path)
    dtype = _dtype(name)
    return {key: _cast(tensor, dtype) for key, tensor in tensors.items()}, metadata


def _checkpoint(name: str) -> Path:
    """The one file that holds tensors."""
    (path,) = (p for p in official_files(name) if p.suffix in (".pth", ".safetensors"))
    return path


def _dtype(name: str) -> torch.dtype | None:
    return getattr(torch, SOURCES[name].dtype) if SOURCES[name].dtype else None


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


# --------------------------------------------------------------------------------------- pickles


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a `.pth` file, mapped where it is of the newer form.

    The file holds tensors by name, or `{"state_dict": tensors by name, "metadata": ...}`.

    Raises:
        FoleyError: If it carries code, is damaged, or holds something else.
    """
    try:
        mapped = zipfile.is_zipfile(path)  # files of the older form cannot be
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bare pickles, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        told = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if code := told[1] if told else _called_by(path):
            raise FoleyError(
                f"{path} carries code ({code}), which has not been run, wanted tensors alone, "
                "fetch the file anew from its publisher"
            ) from error
        raise _damaged(path, "no pickle of tensors") from error
    except Exception as error:  # there is no telling where damaged bytes lead the reader
        why = textwrap.shorten(str(error).partition("\n")[0], 120, placeholder=" …")
        raise _damaged(path, why or "it is empty") from error
    if not isinstance(content, Mapping):
        raise _damaged(path, f"it holds a {type(content).__name__}")
    tensors, metadata = content, {}
    if isinstance(content.get("state_dict"), Mapping):
        tensors, metadata = content["state_dict"], content.get("metadata") or {}
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _damaged(path, f"{str(key)[:60]!r} is a {type(value).__name__}")
        if value.layout != torch.strided or value.dtype not in _NAMES:
            raise _damaged(path, f"{key[:60]!r} is {value.layout} of {value.dtype}")
    if not tensors or not isinstance(metadata, Mapping):
        raise _damaged(path, "it holds no tensors")
    return dict(tensors), dict(metadata)


def _called_by(path: Path) -> str | None:
    """What a bare pickle would call first, read without running it; None where it calls nothing.

    torch's reader stops before these names where a pickle is of another protocol than its own.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    words: list[str] = []
    try:
        for step, argument, _ in pickletools.genops(head):
            if isinstance(argument, str):
                words += argument.split(" ")  # module and name
            if step.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                name = ".".join(words[-2:])
                if name != "collections.OrderedDict" and not name.startswith("torch."):
                    return name
    except Exception:  # as above: these bytes are nobody's
        return None
    return None


def _damaged(path: Path, why: str) -> FoleyError:
    return FoleyError(
        f"{path} cannot be read ({why}), wanted tensors by name, delete it if it is damaged "
        f"and run `foley-lab weights fetch {path.parent.name}`"
    )


# ------------------------------------------------------------------------------------ safetensors


def _convert(name: str, path: Path, check: Check | None) -> Path:
    """The copy, made anew of a file that fits, beside a record that can be written to.

    Raises:
        OSError: If it cannot be written.
    """
    read_digests(path.parent)
    tensors, metadata = read_pickle(path)
    if check:
        check(tensors, metadata)
    turned = [
        key
        for key, tensor in tensors.items()
        if SOURCES[name].token_major and tensor.ndim == 3 and tensor.shape[2] > 1
    ]
    told = {
        "format": "pt",
        "source": _identity(path),
        "turned": json.dumps(turned),
        "metadata": json.dumps(metadata, default=str),
    }
    stored = tensors | {key: tensors[key].transpose(1, 2) for key in turned}
    target = converted(path)
    digest = write_safetensors(target, stored, told, _dtype(name))
    record_digest(target, digest, converted_from=path.name)
    return target


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> str:
    """Write tensors one after the other, aside, and move the file into place.

    Unlike `safetensors.torch.save_file` it holds one tensor in memory, not all of them, which for
    ten gigabytes of float32 to be kept in half precision is the difference between working and not.

    Args:
        dtype: What floats are stored as; None: as they are.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If there is no room, or the folder cannot be written to.
    """
    types = {k: dtype if dtype and t.is_floating_point() else t.dtype for k, t in tensors.items()}
    order = sorted(tensors, key=lambda key: (-types[key].itemsize, key))  # keeps each aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key in order:
        start, end = end, end + tensors[key].numel() * types[key].itemsize
        shape = list(tensors[key].shape)
        header[key] = {"dtype": _NAMES[types[key]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if shutil.disk_usage(path.parent).free < end + len(text) + 8:
        raise OSError(errno.ENOSPC, f"{end / 1e9:.1f} GB do not fit", str(path))

    digest = hashlib.sha256()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            for part in (len(text).to_bytes(8, "little"), text):
                file.write(part)
                digest.update(part)
            for key in order:
                stored = _cast(tensors[key], dtype).contiguous().flatten().view(torch.uint8)
                part = stored.numpy().data
                file.write(part)
                digest.update(part)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return digest.hexdigest()


def _map(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            told = file.metadata() or {}
        turned = {key: tensors[key].transpose(1, 2) for key in json.loads(told.get("turned", "[]"))}
        return tensors | turned, json.loads(told.get("metadata", "{}"))
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _identity(path: Path) -> str:
    """What tells a file from one put in its place, without reading it."""
    facts = path.stat()
    return json.dumps({"file": path.name, "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns})


def is_copy_of(copy: Path, path: Path) -> bool:
    """Whether a copy was made of this very file, which nobody has replaced or touched since."""
    if not copy.is_file():
        return False
    try:
        with safe_open(copy, framework="pt") as file:
            return (file.metadata() or {}).get("source") == _identity(path)
    except SafetensorError:  # made anew
        return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
