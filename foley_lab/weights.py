"""The one door to checkpoints: what ships with the package, and what may lie beside it.

A checkpoint is safetensors with its config as JSON in the metadata, so that weights and the shape
they fit travel together. Files that ship stay below 15 MB: a larger checkpoint is a row of shards
`<part>-00001-of-00004.safetensors`, and a tensor larger than a shard is cut by rows into pieces
`<name>#0`, `<name>#1`, ... Floats are stored in half precision and come back as float32.

    foley_lab/checkpoints/<name>/<part>.safetensors     shipped, with digests in manifest.json
    $FOLEY_LAB_WEIGHTS/<name>/<file>                    official, brought by `weights fetch`

`python -m foley_lab.weights` writes the manifest anew after a shipped file has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foley_lab.signals import FoleyError, MissingWeights

SHIPPED = Path(__file__).parent / "checkpoints"
MAX_BYTES = 15_000_000

_FILE = re.compile(r"(?P<part>.+?)(-\d{5}-of-(?P<count>\d{5}))?\.safetensors")
_HEADER_BYTES = 64_000  # what names and config may take of a file
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Source:
    """Where weights come from and on which terms.

    Attributes:
        origin: Who made them, or the repository that holds them.
        licence: Its name, and where it does not apply.
        files: File names wanted below `<weights dir>/<name>/`; empty for what ships.
    """

    origin: str
    licence: str
    files: tuple[str, ...] = ()


_TENCENT = "Tencent Hunyuan Community License (not for the EU, the UK and South Korea)"
_HUB = ("config.json", "model.safetensors")

_OURS = Source("trained by foley_lab", "Apache-2.0")

SOURCES = {
    "text": Source("sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0"),
    "xl": Source("tencent/HunyuanVideo-Foley", _TENCENT, ("hunyuanvideo_foley_xl.pth",)),
    "xxl": Source("tencent/HunyuanVideo-Foley", _TENCENT, ("hunyuanvideo_foley.pth",)),
    "dac-vae": Source("tencent/HunyuanVideo-Foley", _TENCENT, ("vae_128d_48k.pth",)),
    "synchformer": Source("v-iashin/Synchformer", "MIT", ("synchformer_state_dict.pth",)),
    "siglip2": Source("google/siglip2-base-patch16-512", "Apache-2.0", _HUB),
    "clap": Source("laion/larger_clap_general", "Apache-2.0", _HUB),
}


@dataclass(frozen=True)
class Entry:
    """One line of `weights list`.

    Attributes:
        name: "small/codec" for a shipped part, "xl" for official weights.
        present: Whether every file is on this machine.
        bytes: Size on this machine; 0 when absent.
        licence, origin: On which terms, from whom.
        path: Where the files are looked for: a folder, or a shipped part without its suffix.
    """

    name: str
    present: bool
    bytes: int
    licence: str
    origin: str
    path: Path


def load_shipped(part: str, name: str = "small") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of a part that ships with the package, such as `codec` of `small`.

    Raises:
        MissingWeights: If the part is not there.
    """
    try:
        return load_shards(SHIPPED / name / part)
    except MissingWeights as error:
        raise MissingWeights(f"{error} or install foley_lab anew, it ships this part") from error


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
    count = int(_part(paths[0])[1]) if paths else 1
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


def weights_dir() -> Path:
    """Folder of the official weights: `$FOLEY_LAB_WEIGHTS`, else `~/.cache/foley_lab/weights`."""
    chosen = os.environ.get("FOLEY_LAB_WEIGHTS") or "~/.cache/foley_lab/weights"
    return Path(chosen).expanduser()


def official_files(name: str) -> list[Path]:
    """Files of official weights on this machine, in the order of `SOURCES[name].files`.

    Raises:
        ValueError: If no official weights have that name.
        MissingWeights: If a file is absent.
    """
    official = [key for key, source in SOURCES.items() if source.files]
    if name not in official:
        raise ValueError(f"no official weights {name!r}, wanted one of {', '.join(official)}")
    paths = [weights_dir() / name / file for file in SOURCES[name].files]
    for path in paths:
        if not path.is_file():
            raise MissingWeights(
                f"weights {name!r} are absent, wanted {path}, run `foley-lab weights fetch {name}`"
            )
    return paths


def catalogue() -> list[Entry]:
    """Everything the package can use: shipped parts first, then official weights."""
    wanted: dict[str, list[Path]] = {}
    for file in _manifest():
        if file.endswith(".safetensors"):
            wanted.setdefault(_part(Path(file))[0], []).append(SHIPPED / file)
    for name, source in SOURCES.items():
        if source.files:
            wanted[name] = [weights_dir() / name / file for file in source.files]
    entries = []
    for name, files in wanted.items():
        source = SOURCES.get(name.split("/")[0], _OURS)
        present = all(file.is_file() for file in files)
        size = sum(file.stat().st_size for file in files) if present else 0
        path = weights_dir() / name if source.files else SHIPPED / name
        entries.append(Entry(name, present, size, source.licence, source.origin, path))
    return entries


def verify(name: str) -> list[Path]:
    """Compare shipped files with the SHA-256 digests of the manifest.

    Args:
        name: "small", "text", or one part such as "small/codec".

    Returns:
        The files, all sound.

    Raises:
        ValueError: If the manifest lists nothing of that name.
        MissingWeights: If a file is absent.
        FoleyError: If a file differs.
    """
    manifest = _manifest()
    files = [f for f in manifest if name in (f.split("/")[0], _part(Path(f))[0])]
    if not files:
        known = ", ".join(sorted({file.split("/")[0] for file in manifest}))
        raise ValueError(f"no digests are known for {name!r}, wanted one of {known}")
    for file in files:
        if not (SHIPPED / file).is_file():
            raise MissingWeights(f"{SHIPPED / file} is absent, wanted it, install foley_lab anew")
        found, wanted = _sha256(SHIPPED / file), manifest[file]["sha256"]
        if found != wanted:
            raise FoleyError(
                f"{SHIPPED / file} has SHA-256 {found[:12]}…, wanted {wanted[:12]}…, "
                "install foley_lab anew"
            )
    return [SHIPPED / file for file in files]


def write_manifest() -> Path:
    """Write size and SHA-256 of every shipped file to `checkpoints/manifest.json`."""
    manifest = SHIPPED / "manifest.json"
    paths = [p for p in sorted(SHIPPED.rglob("*")) if p.is_file() and p.name[0] != "."]
    facts = {
        path.relative_to(SHIPPED).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in paths
        if path != manifest
    }
    manifest.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return manifest


def _manifest() -> dict[str, dict[str, Any]]:
    path = SHIPPED / "manifest.json"
    if not path.is_file():
        raise MissingWeights(f"{path} is absent, wanted a list of files, install foley_lab anew")
    return json.loads(path.read_text(encoding="utf-8"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _part(path: Path) -> tuple[str, int]:
    """Path without shard number and suffix, and how many shards there are to be."""
    match = _FILE.fullmatch(path.as_posix())
    return (match["part"], int(match["count"] or 1)) if match else (path.as_posix(), 1)


def _files(stem: Path) -> list[Path]:
    """Every file of a checkpoint, whole or not, in order."""
    found = stem.parent.glob(f"{stem.name}*.safetensors")
    return sorted(path for path in found if _part(path)[0] == stem.as_posix())


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


if __name__ == "__main__":
    print(write_manifest())
