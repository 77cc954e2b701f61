"""How exact is the timing: `foley-lab bench sync`.

The scale on which a model stands, all scored on the same clips of the procedural world,

    exact sound                  what the ear can see at best
    shifted 60 ms, jittered 30 ms   what small errors cost
    metronome, another clip      what is hit by chance: about 0 after its correction
    noise, silence               what is never a sound
    picture alone, with words    the small model

and no row is printed unless the onset detector passes its gate. The clips are made once and kept in
a cache folder; their seeds (from 20 000 for the test, from 30 000 for tuning) are used by no
training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from foley_lab.diagnosis.truth import gate
from foley_lab.evaluation.score import ClipScore, score_clip, summary
from foley_lab.evaluation.sync import EventCounts, count_events
from foley_lab.media import read_audio
from foley_lab.signals import SMALL_RATES, EventLog, FoleyError
from foley_lab.synthetic.dataset import make_clips
from foley_lab.synthetic.sounds import render_sound

Sound = NDArray[np.float32]

SAMPLE_RATE = SMALL_RATES.sample_rate
FIRST_SEED = {"test": 20_000, "tuning": 30_000}
TEMPI = tuple(range(30, 481, 30))
"""Beats per minute the metronome may choose from, one for all clips."""
SHIFT_S, JITTER_S = 0.06, 0.03
"""The shift lies between two tolerances: on one of them rounding would decide."""
CLICK_PEAK = 0.5
GATE_CLIPS = 120


def bench_sync(
    count: int = 60,
    first_seed: int | None = None,
    split: str = "clean",
    part: str = "test",
    lab: Any = None,
    model: bool = True,
    seconds: float = 8.0,
    size: tuple[int, int] = (640, 360),
    cache_dir: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The rows above on one split.

    Args:
        count: Clips.
        first_seed: Of the clips; None takes that of the part.
        split: "clean" or "ugly".
        part: "test", or "tuning" for choices that the test must not see.
        lab: The model, default the shipped one; `model=False` leaves its rows out.
        seconds, size: Of the clips.
        cache_dir: Where the clips are kept, default `~/.cache/foley_lab/sync`.
        options: Handed to the model (num_steps, guidance_scale, ...).

    Returns:
        clips, split, first_seed, metronome_bpm, gate (with clips, events and f1 of every family),
        and rows: by row the scores of `foley-lab score`.

    Raises:
        FoleyError: If the gate is closed.
        ValueError: If the part is unknown.
    """
    if part not in FIRST_SEED:
        raise ValueError(f"part {part!r}, wanted {' or '.join(FIRST_SEED)}")
    passed = gate(GATE_CLIPS)
    first = FIRST_SEED[part] if first_seed is None else first_seed
    films = evaluation_set(count, first, split, seconds, size, cache_dir)
    logs = [EventLog.from_json(film.with_suffix(".json").read_text("utf-8")) for film in films]
    truths = [read_audio(film.with_suffix(".wav"), mono=True).samples[0].numpy() for film in films]
    tempo = best_tempo(logs)
    rows: dict[str, Callable[[int], Sound]] = {
        "exact sound": lambda k: truths[k],
        f"shifted {1000 * SHIFT_S:g} ms": lambda k: shifted(truths[k], SHIFT_S),
        f"jittered {1000 * JITTER_S:g} ms": lambda k: render_sound(jittered(logs[k], JITTER_S)),
        "metronome": lambda k: metronome(logs[k].seconds, tempo),
        "another clip": lambda k: _fitted(truths[(k + 1) % count], truths[k].size),
        "white noise": lambda k: white_noise(truths[k].size, k),
        "silence": lambda k: np.zeros_like(truths[k]),
    }
    if model:
        from foley_lab.pipeline.presets import load

        lab = lab or load("small")

        def run(k: int, prompt: str) -> Sound:
            result = lab(films[k], prompt=prompt, seed=first + k, **options)
            return result.audio.samples.mean(0).numpy()

        rows["picture alone"] = lambda k: run(k, "")
        rows["with words"] = lambda k: run(k, logs[k].prompt)
    table = {}
    with tqdm(total=len(rows) * count, file=sys.stderr, disable=None) as bar:
        for name, make in rows.items():
            bar.set_description_str(name)
            scores: list[ClipScore] = []
            for k in range(count):
                scores.append(score_clip(make(k), logs[k], truths[k]))
                bar.update()
            table[name] = _rounded(summary(scores))
    described = {"clips": count, "split": split, "first_seed": first, "metronome_bpm": tempo}
    return described | {"gate": _rounded(asdict(passed)), "rows": table}


def evaluation_set(
    count: int,
    first_seed: int,
    split: str,
    seconds: float = 8.0,
    size: tuple[int, int] = (640, 360),
    cache_dir: Path | None = None,
) -> list[Path]:
    """Films with their .wav and .json, made once and found again afterwards.

    Args:
        count, first_seed, split, seconds, size: Which clips.
        cache_dir: Default `~/.cache/foley_lab/sync`.

    Raises:
        FoleyError: If a clip that is there was made by another version of the world.
    """
    above = cache_dir or Path("~/.cache/foley_lab/sync").expanduser()
    folder = Path(above) / f"{split}-{first_seed}-{seconds:g}s-{size[0]}x{size[1]}"
    films = [folder / f"{k:04d}.mp4" for k in range(count)]
    if not all(film.with_suffix(".json").is_file() for film in films):
        workers = min(2, os.cpu_count() or 1)
        making = make_clips(
            folder, count, first_seed, seconds=seconds, size=size, fps=25.0, split=split,
            workers=workers,
        )  # fmt: skip
        for _ in tqdm(making, "clips", count, file=sys.stderr, disable=None):
            pass
    # A change to one kind of sound leaves the clips without it as they were, so all are looked at.
    for film in films:
        log = EventLog.from_json(film.with_suffix(".json").read_text("utf-8"))
        kept = read_audio(film.with_suffix(".wav"), mono=True).samples[0].numpy()
        made = render_sound(log)
        if kept.shape != made.shape or np.abs(kept - made).max() > 1e-3:
            raise FoleyError(
                f"{film.with_suffix('.wav')} was made by another version of the world, wanted this "
                "one, delete its folder"
            )
    return films


# --------------------------------------------------------------------------- sounds to compare with


def metronome(seconds: float, beats_per_minute: float) -> Sound:
    """Clicks at an even tempo [N], peak at most 1; they know nothing of the picture."""
    sound = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    click = np.exp(-np.arange(960) / 96.0) * np.random.default_rng(0).standard_normal(960)
    click = (CLICK_PEAK / np.abs(click).max() * click).astype(np.float32)
    for time in metronome_times(seconds, beats_per_minute):
        start = round(time * SAMPLE_RATE)
        sound[start : start + 960] += click[: sound.size - start]
    # Faster than 3000 a minute the clicks overlap.
    return sound / max(1.0, float(np.abs(sound).max(initial=0.0)))


def metronome_times(seconds: float, beats_per_minute: float) -> NDArray[np.float64]:
    """When it clicks, from half a beat on, in seconds [K]."""
    beat = 60 / beats_per_minute
    return np.arange(beat / 2, seconds - 0.03, beat)


def white_noise(size: int, seed: int) -> Sound:
    """Steady noise at −20 dBFS [size]."""
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def shifted(sound: Sound, seconds: float) -> Sound:
    """The sound later by `seconds` (earlier when negative), as long as before [N]."""
    moved = np.zeros_like(sound)
    step = round(seconds * SAMPLE_RATE)
    if step >= 0:
        moved[step:] = sound[: sound.size - step]
    else:
        moved[:step] = sound[-step:]
    return moved


def jittered(log: EventLog, seconds: float, seed: int = 0) -> EventLog:
    """The log with every event moved by a normal draw of that deviation, inside the clip."""
    rng = np.random.default_rng([seed, log.seed])
    moved = [
        replace(e, time_s=float(np.clip(e.time_s + t, 0, log.seconds - 0.01)))
        for e, t in zip(log.events, rng.normal(0, seconds, len(log.events)), strict=True)
    ]
    return replace(log, events=sorted(moved, key=lambda e: e.time_s))


def best_tempo(logs: list[EventLog]) -> float:
    """The tempo whose clicks hit most of all clips together; the strongest of the chance rows."""

    def hits(tempo: float) -> float:
        counts = EventCounts()
        for log in logs:
            true = [e.time_s for e in log.events if not e.off_screen]
            counts += count_events(metronome_times(log.seconds, tempo), true, log.seconds)
        return counts.scores()["f1"]["40"]

    return float(max(TEMPI, key=hits))


def _fitted(sound: Sound, size: int) -> Sound:
    return np.pad(sound[:size], (0, max(0, size - sound.size)))


def _rounded(value: Any) -> Any:
    """Tables with four decimals, so that two machines print the same."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value
