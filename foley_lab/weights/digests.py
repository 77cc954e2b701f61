"""SHA-256 of files, and the record of them beside the official ones: `<folder>/digests.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foley_lab.signals import FoleyError, MissingWeights

_NAME = "digests.json"


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """By file name: `bytes`, `sha256` and where the file came from. Empty without a record.

    Raises:
        FoleyError: If the record is damaged.
    """
    path = folder / _NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        facts = [(each["bytes"], each["sha256"]) for each in record.values()]
        if not all(isinstance(size, int) and isinstance(digest, str) for size, digest in facts):
            raise TypeError("no size or digest")
        return record
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FoleyError(
            f"{path} is damaged ({error}), wanted sizes and digests, delete it and run "
            f"`foley-lab weights fetch {folder.name}`"
        ) from error


def record_digest(path: Path, digest: str, **origin: str) -> None:
    """Note size and SHA-256 of a file in its folder's record, moved into place."""
    record = read_digests(path.parent)
    record[path.name] = {"bytes": path.stat().st_size, "sha256": digest, **origin}
    _write(path.parent, record)


def forget_digest(path: Path) -> None:
    """Take a file that is no more out of its folder's record."""
    record = read_digests(path.parent)
    if record.pop(path.name, None):
        _write(path.parent, record)


def raise_together(faults: Sequence[FoleyError]) -> None:
    """One error of one line for all that was found wrong; nothing if nothing was.

    Raises:
        MissingWeights: If all are absences.
        FoleyError: Otherwise.
    """
    if not faults:
        return
    absent = all(isinstance(fault, MissingWeights) for fault in faults)
    told = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
    message = str(faults[0]) if len(faults) == 1 else f"{len(faults)} faults: {told}"
    raise (MissingWeights if absent else FoleyError)(message)


def _write(folder: Path, record: dict[str, dict[str, Any]]) -> None:
    aside = folder / f".{_NAME}.{os.getpid()}"
    try:
        aside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(aside, folder / _NAME)
    finally:
        aside.unlink(missing_ok=True)
