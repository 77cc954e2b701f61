"""Everything the package can use in one list, and whether what is there is sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foley_lab.signals import FoleyError
from foley_lab.weights.digests import read_digests, sha256
from foley_lab.weights.shipped import SHIPPED, shipped_parts, verify_shipped
from foley_lab.weights.sources import (
    OURS,
    SOURCES,
    is_official,
    located,
    needed_for,
    official_files,
    weights_dir,
)


@dataclass(frozen=True)
class Entry:
    """One line of `weights list`.

    Attributes:
        name: "small/codec" for a shipped part, "xl" for official weights.
        present: Whether every file is on this machine.
        bytes: Size on this machine; 0 when absent.
        licence, origin: On which terms, from whom.
        path: Where the files are looked for: a folder, or a shipped part without its suffix.
        missing: Names of the files that are absent.
        about_bytes: Size to expect of official weights; 0 when unknown.
    """

    name: str
    present: bool
    bytes: int
    licence: str
    origin: str
    path: Path
    missing: tuple[str, ...] = ()
    about_bytes: int = 0


def catalogue() -> list[Entry]:
    """Everything the package can use: shipped parts first, then official weights."""
    shipped = [_shipped(name, files) for name, files in shipped_parts().items()]
    return shipped + [_official(name) for name in SOURCES if is_official(name)]


def _shipped(name: str, files: list[Path]) -> Entry:
    source = SOURCES.get(name.split("/")[0], OURS)
    missing = tuple(file.name for file in files if not file.is_file())
    size = 0 if missing else sum(file.stat().st_size for file in files)
    return Entry(name, not missing, size, source.licence, source.origin, SHIPPED / name, missing)


def _official(name: str) -> Entry:
    source, files = SOURCES[name], located(name)
    missing = tuple(file for file, path in files.items() if path is None)
    size = 0 if missing else sum(path.stat().st_size for path in files.values() if path)
    folder, about = weights_dir() / name, source.about_bytes
    return Entry(name, not missing, size, source.licence, source.origin, folder, missing, about)


def verify(name: str) -> list[Path]:
    """Compare files with the sizes and SHA-256 digests they are to have.

    Args:
        name: "small", "text", or one part such as "small/codec"; or official weights, "xl" and
            "xxl" with everything the model needs.

    Returns:
        The files, all sound.

    Raises:
        ValueError: If nothing of that name is known.
        MissingWeights: If a file is absent.
        FoleyError: If a file differs, or no digest has been recorded for it.
    """
    if not is_official(name):
        return verify_shipped(name)
    needed = needed_for(name)
    for each in needed:
        official_files(each)  # what is absent is told before minutes of reading
    return [path for each in needed for path in _verify_official(each)]


def _verify_official(name: str) -> list[Path]:
    folder, remedy = weights_dir() / name, f"run `foley-lab weights fetch {name}`"
    record = read_digests(folder)
    for path in official_files(name):
        if path.name not in record:
            raise FoleyError(
                f"{path} has no digest on record, wanted one to compare with, {remedy}, which asks "
                "the hub for it"
            )
    sound = []
    for file, wanted in record.items():
        path = folder / file
        if not path.is_file():
            continue  # a pickle whose copy is kept, or a copy whose pickle is
        size = path.stat().st_size
        if size != wanted["bytes"]:
            raise FoleyError(
                f"{path} has {size} bytes, wanted {wanted['bytes']}, delete it and {remedy}"
            )
        found = sha256(path)
        if found != wanted["sha256"]:
            raise FoleyError(
                f"{path} has SHA-256 {found[:12]}…, wanted {wanted['sha256'][:12]}…, "
                f"delete it and {remedy}"
            )
        sound.append(path)
    return sound
