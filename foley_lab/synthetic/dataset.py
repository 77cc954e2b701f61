"""Clips as files: a drawn scene becomes a film, its exact sound and its event log.

    seed ─make_scene→ Scene ─Painter→ frames ─┐
                        └ log ─render_sound→ ─┴→ 0000.mp4, 0000.wav, 0000.json

Sample k of the sound and picture time k / 48 000 are the same instant, in the .wav as in the film.
A clip lasts a whole number of frames, so picture and sound end together. A clip is made aside and
moved into place, its log last: where there is a log, the clip is whole. Equal arguments give equal
bytes, whatever the number of workers.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import torch

from foley_lab.media import write_audio, write_video
from foley_lab.signals import Audio, EventLog
from foley_lab.synthetic.pairs import can_change, other_scene
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import FAMILIES, Scene, make_scene
from foley_lab.synthetic.sounds import render_sound, render_stems

SPLITS = ("clean", "ugly")
MOST_CLIPS = 100_000
CLEAN_SIZE, CLEAN_FPS = (1280, 720), 25.0
MOST_TRIES = 100
"""How many seeds in a row may have nothing to change before a request for pairs is given up."""
_RATES = (24.0, 25.0, 30000 / 1001, 30.0, 60.0)
_ASPECTS = (16 / 9, 4 / 3, 9 / 16)
CRF = 23
"""Quality of the films: what is drawn stays sharp, a clean second takes about 100 kB at 720p."""


def make_clip(
    folder: str | os.PathLike[str],
    stem: str,
    seed: int,
    seconds: float = 8.0,
    family: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    split: str = "clean",
    silent: bool = False,
    stems: bool = False,
) -> Path:
    """Write one clip: `<stem>.mp4`, `<stem>.wav` (48 kHz) and `<stem>.json` (the event log).

    Args:
        folder: Where to; it is made if it is missing.
        stem: Name of the three files.
        seed: Everything follows from it and the arguments below.
        seconds: Length, rounded to whole frames.
        family: One of `FAMILIES`, or None for a draw by their shares.
        size: Width and height in pixels, both even; they set what the scene has room for.
        fps: Frames per second; frame k shows the scene at k / fps. If neither size nor fps is
            given, an ugly clip draws both (`ugly_format`), a clean one is 1280x720 at 25.
        split: "clean", or "ugly" as phones and uploads are.
        silent: The film carries its picture alone; .wav and log are written all the same.
        stems: Each body's own sound as well, `<stem>.stem-<object>.wav`, and the noise floor,
            `<stem>.stem-room.wav`; together they are `<stem>.wav`.

    Returns:
        Path of the film.

    Raises:
        ValueError: If an argument is out of its range.
        MediaError: If the folder takes no files.
    """
    check_request(1, seed, seconds, [family] if family else [], size, fps, split)
    size, fps = _format(seed, split, size, fps)
    frames = _frames(seconds, fps)
    scene = make_scene(seed, frames / fps, family, size[0] / size[1], split)
    return _write_clip(Path(folder), stem, scene, frames, size, fps, silent, stems)


def ugly_format(seed: int, pixels: int = 1280 * 720) -> tuple[tuple[int, int], float]:
    """What a phone or an upload might come in: landscape or upright, at one of five frame rates.

    Args:
        seed: Everything follows from it.
        pixels: About how many a frame has.

    Returns:
        Width and height, both even, and frames per second.
    """
    rng = np.random.default_rng([seed, 81])
    aspect, fps = float(rng.choice(_ASPECTS)), float(rng.choice(_RATES))
    height = (pixels / aspect) ** 0.5
    return (2 * round(height * aspect / 2), 2 * round(height / 2)), fps


def _format(
    seed: int, split: str, size: tuple[int, int] | None, fps: float | None
) -> tuple[tuple[int, int], float]:
    if split == "ugly" and size is None and fps is None:
        return ugly_format(seed)
    return (CLEAN_SIZE if size is None else size), (CLEAN_FPS if fps is None else fps)


def _frames(seconds: float, fps: float) -> int:
    """Whole frames of a clip, which lasts a tenth of a second at least."""
    return max(math.ceil(fps / 10), round(seconds * fps))


def _write_clip(
    folder: Path,
    stem: str,
    scene: Scene,
    frames: int,
    size: tuple[int, int],
    fps: float,
    silent: bool,
    stems: bool,
) -> Path:
    log = scene.log
    log.fps, log.size = float(fps), (int(size[0]), int(size[1]))
    sound = _audio(render_sound(log))
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
        for part, samples in render_stems(log).items() if stems else ():
            part = "none" if part is None else part
            write_audio(aside / f"{stem}.stem-{part}.wav", _audio(samples))
        (aside / f"{stem}.json").write_text(log.to_json() + "\n", encoding="utf-8")
        with suppress(FileNotFoundError):  # the log of an older clip must not vouch for new halves
            (folder / f"{stem}.json").unlink()
        made = sorted(aside.iterdir(), key=lambda path: path.suffix == ".json")
        for path in made:
            os.replace(path, folder / path.name)
    return folder / f"{stem}.mp4"


def _audio(samples: np.ndarray) -> Audio:
    return Audio(torch.from_numpy(samples)[None])


def make_clips(
    folder: str | os.PathLike[str],
    count: int,
    seed: int,
    seconds: float = 8.0,
    families: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    split: str = "clean",
    silent: bool = False,
    workers: int = 1,
    stems: bool = False,
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
        (folder, f"{k:04d}", seed + k, seconds, family, size, fps, split, silent, stems)
        for k in range(count)
        for family in [families[k % len(families)] if families else None]
    ]
    return _run(jobs, min(workers, count))


def make_pairs(
    folder: str | os.PathLike[str],
    count: int,
    seed: int,
    factor: str,
    seconds: float = 8.0,
    families: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    split: str = "clean",
    silent: bool = False,
) -> Iterator[tuple[Path, Path]]:
    """Write pairs of clips that differ in one factor: `0000-a`, `0000-b`, `0001-a`, ...

    Args:
        seed: The first that is tried; seeds whose clip has nothing to change (silence has no
            material) are left out.
        factor: One of `pairs.FACTORS`.
        families: Taken in turn; none leaves the draw to each seed.

    Returns:
        The films' paths, a pair as soon as it is done; arguments are checked at once.

    Raises:
        ValueError, MediaError: As `make_clip`, and if families and factor never go together.
    """
    check_request(count, seed, seconds, families, size, fps, split)
    can_change(EventLog("", seed, seconds), factor)  # refuses an unknown factor
    return _write_pairs(Path(folder), count, seed, factor, seconds, families, size, fps, split,
                        silent)  # fmt: skip


def _write_pairs(
    folder: Path,
    count: int,
    seed: int,
    factor: str,
    seconds: float,
    families: Sequence[str],
    wanted_size: tuple[int, int] | None,
    wanted_fps: float | None,
    split: str,
    silent: bool,
) -> Iterator[tuple[Path, Path]]:
    seeds = itertools.count(seed)
    for k in range(count):
        family = families[k % len(families)] if families else None
        for tried in itertools.islice(seeds, MOST_TRIES):
            size, fps = _format(tried, split, wanted_size, wanted_fps)
            frames = _frames(seconds, fps)
            scene = make_scene(tried, frames / fps, family, size[0] / size[1], split)
            if can_change(scene.log, factor):
                break
        else:
            raise ValueError(
                f"{MOST_TRIES} clips of {family or 'any family'} without a {factor} to change, "
                "wanted one, choose another family"
            )
        with _one_thread():
            a, b = (
                _write_clip(folder, f"{k:04d}-{name}", one, frames, size, fps, silent, False)
                for name, one in (("a", scene), ("b", other_scene(scene, factor)))
            )
        yield a, b


def check_request(
    count: int,
    seed: int,
    seconds: float,
    families: Sequence[str],
    size: tuple[int, int] | None,
    fps: float | None,
    split: str,
) -> None:
    """Refuse what cannot be made; a size or rate of None is chosen later.

    Raises:
        ValueError: One line: what came, what was wanted.
    """
    if not 1 <= count <= MOST_CLIPS:
        raise ValueError(f"count {count}, wanted 1 to {MOST_CLIPS} clips")
    if seed < 0:
        raise ValueError(f"seed {seed}, wanted 0 or more")
    if not 0.1 <= seconds <= 600:
        raise ValueError(f"{seconds:g} seconds, wanted 0.1 to 600")
    if fps is not None and not 1 <= fps <= 240:
        raise ValueError(f"{fps:g} frames per second, wanted 1 to 240")
    if size is not None:
        _check_size(size)
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}, wanted one of {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, wanted {' or '.join(SPLITS)}")


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or any(n != int(n) or n % 2 or not 16 <= n <= 4096 for n in size):
        raise ValueError(
            f"size {'x'.join(map(str, size))}, wanted WIDTHxHEIGHT, both even, 16 to 4096 pixels"
        )
    if not 1 / 4 <= size[0] / size[1] <= 4:
        raise ValueError(
            f"size {size[0]}x{size[1]}, wanted sides no more than 4 to 1, choose another"
        )


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
