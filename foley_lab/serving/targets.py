"""Where results go when nobody says so."""

from __future__ import annotations

from pathlib import Path

from foley_lab.media import check_target
from foley_lab.media.opening import shown
from foley_lab.signals import MediaError

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm")
"""In the order in which they are tried."""


def default_target(video: Path, folder: Path, number: int = 1) -> Path:
    """`<stem>_foley.mp4` in a folder, or another container where .mp4 cannot hold the picture.

    Raises:
        MediaError: If none will do; says why .mp4 will not.
    """
    first: MediaError | None = None
    for suffix in SUFFIXES:
        target = numbered(folder / f"{video.stem}_foley{suffix}", number)
        try:
            return check_target(video, target, force=True)
        except MediaError as error:
            first = first or error
    assert first is not None
    raise first


def check_log_target(path: str) -> Path:
    """Where an event log is to be written.

    Raises:
        MediaError: If it is no .json file in a folder that is there.
    """
    target = Path(path)
    if target.suffix.lower() != ".json" or not target.parent.is_dir() or target.is_dir():
        raise MediaError(
            f"event log {shown(target)}, wanted a .json file in a folder that is there, "
            "choose another place"
        )
    return target


def numbered(path: Path, number: int) -> Path:
    """The path itself for 1, `<stem>_2<suffix>` for 2, and so on."""
    return path if number == 1 else path.with_stem(f"{path.stem}_{number}")
