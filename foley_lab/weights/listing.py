"""Everything the package can use in one list, and whether what is there is sound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foley_lab.signals import FoleyError
from foley_lab.weights.digests import raise_together, read_digests, sha256
from foley_lab.weights.official import is_copy_of
from foley_lab.weights.shipped import SHIPPED, shipped_names, shipped_parts, verify_shipped
from foley_lab.weights.sources import (
    OURS,
    SOURCES,
    converted,
    is_official,
    located,
    needed_for,
    official_files,
    official_names,
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
    return shipped + [_official(name) for name in official_names()]


def catalogue_report() -> dict[str, Any]:
    """The catalogue as JSON can hold it, with the folder in which official weights are looked
    for: `{"folder": ..., "weights": [{"name": ..., "present": ..., ...}, ...]}`."""
    entries = [asdict(entry) | {"path": str(entry.path)} for entry in catalogue()]
    return {"folder": str(weights_dir()), "weights": entries}


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
        FoleyError: If a file differs, no digest has been recorded for it, or a copy was made of
            another file than lies beside it; the message tells of every fault that was found.
    """
    if not is_official(name):
        if name not in (known := shipped_names()):
            everything = ", ".join([*known, *official_names()])
            raise ValueError(f"no weights {name!r}, wanted one of {everything}")
        return verify_shipped(name)
    weights_dir()  # a wrong one is a fault of its own, not of each part
    sound: list[Path] = []
    faults: list[FoleyError] = []
    for each in needed_for(name):
        try:
            paths, record = _on_record(each)
        except FoleyError as error:
            faults.append(error)
            continue
        for path in paths:
            try:
                _compare(path, record)
                sound.append(path)
            except FoleyError as error:
                faults.append(error)
    raise_together(faults)
    return sound


def _on_record(name: str) -> tuple[list[Path], dict[str, dict[str, Any]]]:
    """What lies there of official weights, wanted files and mapped copies included; and the record.

    Raises:
        MissingWeights: If a wanted file is absent.
        FoleyError: If the record is damaged.
    """
    folder, wanted = weights_dir() / name, official_files(name)
    record = read_digests(folder)
    copies = [converted(path) for path in wanted if path.suffix == ".pth"]
    paths = dict.fromkeys([*(folder / file for file in record), *wanted, *copies])
    # Of a pickle and its copy one may have been thrown away.
    return [path for path in paths if path.is_file()], record


def _compare(path: Path, record: dict[str, dict[str, Any]]) -> None:
    """Find a file as the record has it.

    Raises:
        FoleyError: If it differs, or there is nothing to compare it with.
    """
    remedy = f"run `foley-lab weights fetch {path.parent.name}`"
    if path.name not in record:
        raise FoleyError(
            f"{path} has no digest on record, wanted one to compare with, {remedy}, which asks "
            "the hub for it"
        )
    wanted, size = record[path.name], path.stat().st_size
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
    pickle = path.with_name(wanted.get("converted_from", path.name))
    if pickle != path and pickle.is_file() and not is_copy_of(path, pickle):
        raise FoleyError(
            f"{path} was made of another file than the {pickle.name} beside it, wanted its copy, "
            "delete it: the next start makes it anew"
        )
