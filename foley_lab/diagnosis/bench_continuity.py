"""Is a long sound one sound, and the same one every time: `foley-lab bench continuity`.

*Seams.* The model denoises a long clip in overlapping windows and hands it out in chunks. What
jumps where windows begin or end, or where chunks meet, is measured in deviations of the jumps
elsewhere (`evaluation.continuity`), and so is the exact sound at the same moments, where a blow may
happen to lie as well: a seam is what the model has more of.

*Drift.* How much later per minute the sound comes than its events, which the model is told.

*Determinism.* Two runs of one request, streamed and whole, a take alone and among others, one
thread and two: equal to the bit, or from which sample on not and by how much.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from foley_lab.evaluation.continuity import first_difference, seam_score
from foley_lab.evaluation.gate import count_log
from foley_lab.evaluation.onsets import detect_onsets
from foley_lab.evaluation.sync import EventCounts
from foley_lab.generators.diffusion import split as split_windows
from foley_lab.pipeline.lab import STREAM_PIECE, Lab
from foley_lab.pipeline.presets import load
from foley_lab.signals import EventLog
from foley_lab.synthetic.dataset import make_clip
from foley_lab.synthetic.sounds import render_sound

Sound = NDArray[np.float32]

FIRST_SEED = 47_000
FAMILIES = ("strike", "footsteps", "roll", "scrape", "machine", "bell")
"""Of the clips, in turn: what goes on for as long as the clip does, in blows or without a pause."""
TAKES = 3


def bench_continuity(
    count: int = 4,
    first_seed: int = FIRST_SEED,
    split: str = "clean",
    lab: Lab | None = None,
    seconds: float = 30.0,
    short_s: float = 10.0,
    size: tuple[int, int] = (320, 180),
) -> dict[str, Any]:
    """Seams, drift and determinism of the small model.

    Args:
        count: Long clips.
        first_seed: Of the clips.
        split: "clean" or "ugly".
        lab: The model, default the shipped one.
        seconds: Of the long clips, of which seams and drift are measured.
        short_s: Of the clip that is played again and again; longer than a window.
        size: Of the pictures.

    Returns:
        clips, seconds, split, first_seed; seams, by window and chunk: borders (in all clips), model
        and exact (mean z-scores, None where there is none); drift_ms_per_minute of model and exact;
        determinism, by pair of runs: equal, first_difference (a sample, or None) and largest.
    """
    model = lab or load("small")
    seams: dict[str, dict[str, list[float]]] = {
        kind: {"model": [], "exact": []} for kind in ("window", "chunk")
    }
    borders = dict.fromkeys(seams, 0)
    drift = {"model": EventCounts(), "exact": EventCounts()}
    with tempfile.TemporaryDirectory() as folder:
        for k in tqdm(range(count), "clips", file=sys.stderr, disable=None):
            film, log = _clip(
                Path(folder), first_seed + k, FAMILIES[k % len(FAMILIES)], seconds, size, split
            )
            sounds = {"model": _streamed(model, film, log), "exact": render_sound(log)}
            for kind, times in (
                ("window", window_borders(model, log.seconds)),
                ("chunk", chunk_borders(model, log.seconds)),
            ):
                borders[kind] += len(times)
                for name, sound in sounds.items():
                    if (score := seam_score(sound, times)) is not None:
                        seams[kind][name].append(score)
            for name, sound in sounds.items():
                drift[name] += count_log(detect_onsets(sound), log)
        film, log = _clip(Path(folder), first_seed + count, FAMILIES[0], short_s, size, split)
        determinism = compare_runs(model, film, log)
    return {
        "clips": count,
        "seconds": seconds,
        "split": split,
        "first_seed": first_seed,
        "seams": {
            kind: {"borders": borders[kind]}
            | {name: float(np.mean(z)) if z else None for name, z in scores.items()}
            for kind, scores in seams.items()
        },
        "drift_ms_per_minute": {
            name: counts.scores()["error_160"]["drift_ms_per_minute"]
            for name, counts in drift.items()
        },
        "determinism": determinism,
    }


def window_borders(lab: Lab, seconds: float) -> list[float]:
    """Where windows begin and end inside a clip, in seconds."""
    generator, rate = lab.generator, lab.rates.latent_rate
    length = lab.rates.num_latents(seconds)
    windows = split_windows(length, generator.window, generator.overlap, generator._grid())
    edges = {w.start for w in windows[1:]} | {w.stop for w in windows[:-1]}
    return [edge / rate for edge in sorted(edges)]


def chunk_borders(lab: Lab, seconds: float) -> list[float]:
    """Where the chunks of a stream meet, in seconds."""
    chunks = math.ceil(lab.rates.num_latents(seconds) / STREAM_PIECE)
    return [k * STREAM_PIECE / lab.rates.latent_rate for k in range(1, chunks)]


def compare_runs(lab: Lab, film: Path, log: EventLog) -> dict[str, dict[str, Any]]:
    """Runs of one request in pairs, and how they differ."""

    def run(seed: int = 0, takes: int = 1) -> list[Sound]:
        result = lab(film, events=log, seed=seed, takes=takes)
        return [take.samples.numpy() for take in result.takes]

    with _threads(1):
        once = run()[0]
        again = run()[0]
        streamed = _streamed(lab, film, log)[None]
        last_alone, among = run(seed=TAKES - 1)[0], run(takes=TAKES)
    with _threads(2):
        in_two = run()[0]
    return {
        "run again": difference(once, again),
        "streamed": difference(once, streamed),
        f"first of {TAKES} takes": difference(once, among[0]),
        f"last of {TAKES} takes": difference(last_alone, among[-1]),
        "two threads": difference(once, in_two),
    }


def difference(first: Sound, second: Sound) -> dict[str, Any]:
    """Whether two runs of one shape are equal to the bit, from which sample on not, and the largest
    difference."""
    at = first_difference(first, second)
    largest = float(np.abs(first - second).max(initial=0.0))
    return {"equal": at is None, "first_difference": at, "largest": largest}


def _clip(
    folder: Path, seed: int, family: str, seconds: float, size: tuple[int, int], split: str
) -> tuple[Path, EventLog]:
    film = make_clip(folder, f"{seed}", seed, seconds, family, size, 25.0, split)
    return film, EventLog.read(film.with_suffix(".json"))


def _streamed(lab: Lab, film: Path, log: EventLog) -> Sound:
    """The stream's chunks, joined [N]."""
    chunks = [chunk.samples.mean(0) for chunk in lab.stream(film, events=log)]
    return torch.cat(chunks).numpy()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
