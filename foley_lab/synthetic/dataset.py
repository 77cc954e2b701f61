"""Clips as files: a drawn scene becomes a film, its exact sound and its event log.

    seed ─make_scene→ Scene ─Painter→ frames ─┐
                        └ log ─render_sound→ ─┴→ 0000.mp4, 0000.wav, 0000.json

Sample k of the sound and picture time k / 48 000 are the same instant, in the .wav as in the film.
A clip lasts a whole number of frames, so picture and sound end together. A clip is made aside and
moved into place, its log last: where there is a log, the clip is whole. Equal arguments give equal
bytes, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import torch

from foley_lab.media import write_audio, write_video
from foley_lab.signals import Audio
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import FAMILIES, make_scene
from foley_lab.synthetic.sounds import render_sound

SPLITS = ("clean", "ugly")
MOST_CLIPS = 100_000
CRF = 23
"""Quality of the films: what is drawn stays sharp, a clean second takes about 100 kB at 720p."""


def make_clip(
    folder: str | os.PathLike[str],
    stem: str,
    seed: int,
    seconds: float = 8.0,
    family: str | None = None,
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    split: str = "clean",
    silent: bool = False,
) -> Path:
    """Write one clip: `<stem>.mp4`, `<stem>.wav` (48 kHz) and `<stem>.json` (the event log).

    Args:
        folder: Where to; it is made if it is missing.
        stem: Name of the three files.
        seed: Everything follows from it and the arguments below.
        seconds: Length, rounded to whole frames.
        family: One of `FAMILIES`, or None for a draw by their shares.
        size: Width and height in pixels, both even; they set what the scene has room for.
        fps: Frames per second; frame k shows the scene at k / fps.
        split: "clean", or "ugly" as phones and uploads are.
        silent: The film carries its picture alone; .wav and log are written all the same.

    Returns:
        Path of the film.

    Raises:
        ValueError: If an argument is out of its range.
        MediaError: If the folder takes no files.
    """
    check_request(1, seed, seconds, [family] if family else [], size, fps, split)
    frames = max(1, round(seconds * fps))
    scene = make_scene(seed, frames / fps, family, size[0] / size[1], split)
    scene.log.fps, scene.log.size = float(fps), (int(size[0]), int(size[1]))
    sound = Audio(torch.from_numpy(render_sound(scene.log))[None])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=folder) as name:
        aside = Path(name)
        pictures = Painter(scene, *size).frames(fps, frames)
        # superfast leaves macroblock trees out, whose x264 code gives other bytes on every run
        write_video(
            aside / f"{stem}.mp4",
            pictures,
            fps,
            None if silent else sound,
            crf=CRF,
            preset="superfast",
        )
        write_audio(aside / f"{stem}.wav", sound)
        (aside / f"{stem}.json").write_text(scene.log.to_json() + "\n", encoding="utf-8")
        with suppress(FileNotFoundError):  # the log of an older clip must not vouch for new halves
            (folder / f"{stem}.json").unlink()
        for suffix in (".mp4", ".wav", ".json"):
            os.replace(aside / f"{stem}{suffix}", folder / f"{stem}{suffix}")
    return folder / f"{stem}.mp4"


def make_clips(
    folder: str | os.PathLike[str],
    count: int,
    seed: int,
    seconds: float = 8.0,
    families: Sequence[str] = (),
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    split: str = "clean",
    silent: bool = False,
    workers: int = 1,
) -> Iterator[Path]:
    """Write clips `0000`, `0001`, ... with the seeds `seed`, `seed + 1`, ...

    Args:
        families: Taken in turn; none leaves the draw to each seed.
        workers: Processes; clips are independent of their number.

    Returns:
        The films' paths in order, each as soon as it and those before it are done. Nothing is
        written before the first is asked for; arguments are checked at once.

    Raises:
        ValueError, MediaError: As `make_clip`.
    """
    check_request(count, seed, seconds, families, size, fps, split)
    if workers < 1:
        raise ValueError(f"{workers} workers, wanted at least 1")
    jobs = [
        (folder, f"{k:04d}", seed + k, seconds, family, size, fps, split, silent)
        for k in range(count)
        for family in [families[k % len(families)] if families else None]
    ]
    return _run(jobs, min(workers, count))


def check_request(
    count: int,
    seed: int,
    seconds: float,
    families: Sequence[str],
    size: tuple[int, int],
    fps: float,
    split: str,
) -> None:
    """Refuse what cannot be made.

    Raises:
        ValueError: One line: what came, what was wanted.
    """
    if not 1 <= count <= MOST_CLIPS:
        raise ValueError(f"count {count}, wanted 1 to {MOST_CLIPS} clips")
    if seed < 0:
        raise ValueError(f"seed {seed}, wanted 0 or more")
    if not 0.1 <= seconds <= 600:
        raise ValueError(f"{seconds:g} seconds, wanted 0.1 to 600")
    if not 1 <= fps <= 240:
        raise ValueError(f"{fps:g} frames per second, wanted 1 to 240")
    if len(size) != 2 or any(n != int(n) or n % 2 or not 16 <= n <= 4096 for n in size):
        raise ValueError(
            f"size {'x'.join(map(str, size))}, wanted WIDTHxHEIGHT, both even, 16 to 4096 pixels"
        )
    if not 1 / 4 <= size[0] / size[1] <= 4:
        raise ValueError(
            f"size {size[0]}x{size[1]}, wanted sides no more than 4 to 1, choose another"
        )
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}, wanted one of {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, wanted {' or '.join(SPLITS)}")


def _run(jobs: list[tuple], workers: int) -> Iterator[Path]:
    if workers == 1:
        with _one_thread():
            for job in jobs:
                yield make_clip(*job)
        return
    # A forked child would inherit the locks of torch's threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        pending = [pool.submit(make_clip, *job) for job in jobs]
        try:
            for clip in pending:
                yield clip.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread: at these sizes its threads cost more than they bring."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
