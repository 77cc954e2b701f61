"""Scores of sounds against the logs of what happens: `foley-lab score`.

    sound ─detect→ onsets ─match→ events        when: f1, bias, error     (`sync`)
                     ├───judge───→ materials    what: material_accuracy   (`material`)
                     └──measure──→ strengths    how hard                  (`response`)
    sound ─────compare───→ reference            how:  mr_stft, ...        (`spectral`, `envelope`)
    sounds ────describe──→ references           as a set: kernel_distance (`distance`)

Clips are pooled: events of all clips count alike, however many a clip has.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foley_lab.evaluation.descriptor import describe
from foley_lab.evaluation.distance import kernel_distance
from foley_lab.evaluation.envelope import envelope_agreement
from foley_lab.evaluation.gate import count_log
from foley_lab.evaluation.material import load_judge
from foley_lab.evaluation.onsets import detect_onsets
from foley_lab.evaluation.response import strength_response
from foley_lab.evaluation.silence import silence_level
from foley_lab.evaluation.spectral import (
    FLOOR,
    envelope_correlation,
    log_mel_l1,
    log_spectral_distance,
    mel_cepstral_distortion,
    mr_stft,
)
from foley_lab.evaluation.sync import (
    ERROR_TOLERANCE_S,
    EventCounts,
    count_events,
    match_events,
)
from foley_lab.media import read_audio
from foley_lab.signals import MATERIALS, EventLog, FoleyError, MediaError, sort_events

SUFFIXES = (".wav", ".flac", ".ogg", ".mp4", ".mkv", ".mov", ".webm")
LISTEN_EVERY_S = 0.25
"""How often the judge listens to what lasts."""
LENGTH_SLACK_S = 0.15
"""A sound that differs more from the length of its log belongs to another clip."""
FEWEST_FOR_DISTANCE = 8
FEWEST_TO_FIT, LEAST_FIT = 4, 0.3
"""Of so many events, the log's own sound reaches .9 over chance, another clip's hardly ever .3."""
FEWEST_FOR_POOL = 24
"""With fewer clips it takes longer to start other processes than they save."""

Sound = NDArray[np.float32]

_LIKENESS = (
    "envelope_correlation",
    "mr_stft",
    "mr_stft_high",
    "log_mel_l1",
    "lsd_db",
    "mcd_db",
    "envelope_db_correlation",
    "envelope_lag_ms",
)


@dataclass
class ClipScore:
    """Scores of one clip.

    Attributes:
        counts: Onsets against events.
        judged, named: How many sounds the judge heard, and how many it named right.
        likeness: mr_stft, log_mel_l1, envelope_correlation, ...; None without a reference.
        strength: Rank correlation of strength and energy, None with fewer than four blows.
        silence_db: Level where nothing should sound, dBFS, None where something always does.
        descriptors: Of the sound and the reference [2, 400], None without a reference.
        reference_fits: Whether the reference sounds when the log says; None when that cannot be
            told.
    """

    counts: EventCounts
    judged: int
    named: int
    likeness: dict[str, float | None]
    strength: float | None = None
    silence_db: float | None = None
    descriptors: NDArray[np.float64] | None = field(default=None, repr=False)
    reference_fits: bool | None = None


def score_files(generated: Path, events: Path, workers: int | None = None) -> dict[str, Any]:
    """Scores of files or folders.

    A sound belongs to the log with its name: `0007.json` is the log of `0007_foley.*` or `0007.*`.
    With a folder of logs and a single sound, the log is found by the name of the sound. If
    `0007.wav` lies beside the log it is the reference. Sounds of any rate are resampled to 48 kHz,
    stereo is mixed to mono, silence has scores like any other sound.

    What lasts (scrape, roll) sounds anew all the time: onsets inside it are never counted as false.
    Events off-screen are neither wanted, nor is an onset near them false.

    Args:
        generated: A sound or film, or a folder of them.
        events: An event log, or a folder of them.
        workers: Processes; None takes the free cores when there are many clips. The scores do not
            depend on it.

    Returns:
        clips, f1 and f1_chance_corrected {"10" ... "160"} by tolerance in ms, precision and recall
        at 40 ms, bias_ms, mae_ms, p95_ms, false_sounds_per_minute, f1_area, error_160 (see
        `EventCounts.scores`); material_accuracy of the events that were heard and of what lasts;
        strength_response, the mean rank correlation of strength and energy; silence_db, the median
        level where nothing should sound; against the references envelope_correlation (linear,
        10 ms), envelope_db_correlation and envelope_lag_ms (in dB, 5 ms), mr_stft, mr_stft_high,
        log_mel_l1, lsd_db, mcd_db and, of eight or more clips, kernel_distance; None where there
        is nothing to measure; per_clip, the same for each clip with its name as `clip`, and
        `reference_fits`, which is False where the reference does not sound when the log says.

    Raises:
        MediaError: If a file or a partner is missing or cannot be read, or a sound has NaN in it.
        FoleyError: If a log is none or that of another clip.
        MissingWeights: If the judge of materials is absent.
    """
    partners = find_partners(Path(generated), Path(events))
    scores = list(_score_all(partners, workers))
    names = [log.stem for _, log in partners]
    per_clip = [
        {"clip": n} | summary([s]) | {"reference_fits": s.reference_fits}
        for n, s in zip(names, scores, strict=True)
    ]
    return {"clips": len(scores)} | summary(scores) | {"per_clip": per_clip}


def score_clip(sound: Sound, log: EventLog, reference: Sound | None = None) -> ClipScore:
    """Scores of one sound [N] at 48 kHz against its log and, if there is one, a reference [M]."""
    found = detect_onsets(sound)
    events = [e for e in sort_events(log.events) if 0 <= e.time_s < log.seconds]
    true = [e for e in events if not e.off_screen]
    true_s = [event.time_s for event in true]
    counts = count_events(
        found,
        true_s,
        log.seconds,
        lasting=[(each.start_s, each.end_s) for each in log.continuous],
        ignored=[e.time_s for e in events if e.off_screen],
    )
    heard = match_events(found, true_s, ERROR_TOLERANCE_S)
    times = [float(found[i]) for i, _ in heard]
    strengths = [true[j].strength for _, j in heard]
    strength = strength_response(sound, times, strengths)
    materials = [true[j].material for _, j in heard]
    for each in log.continuous:
        # The first and last tenth of a second fade.
        listening = np.arange(each.start_s + 0.1, each.end_s - 0.1, LISTEN_EVERY_S).tolist()
        times += listening
        materials += [each.material] * len(listening)
    pairs = [(t, m) for t, m in zip(times, materials, strict=True) if m in MATERIALS]
    named = load_judge().name(sound, [time for time, _ in pairs])
    right = sum(
        name == material and _sounds(sound, time)
        for name, (time, material) in zip(named, pairs, strict=True)
    )
    silence = silence_level(sound, log)
    likeness: dict[str, float | None] = dict.fromkeys(_LIKENESS)
    if reference is None:
        return ClipScore(counts, len(pairs), right, likeness, strength, silence)
    likeness = _likeness(sound, reference)
    descriptors = np.stack([describe(sound), describe(reference)])
    fits = reference_fits(reference, log)
    return ClipScore(counts, len(pairs), right, likeness, strength, silence, descriptors, fits)


def _likeness(sound: Sound, reference: Sound) -> dict[str, float | None]:
    """The measures of `_LIKENESS`."""
    whole, high = mr_stft(sound, reference)
    agreement, lag_s = envelope_agreement(sound, reference)
    values = (
        envelope_correlation(sound, reference),
        whole,
        high,
        log_mel_l1(sound, reference),
        log_spectral_distance(sound, reference),
        mel_cepstral_distortion(sound, reference),
        agreement,
        None if lag_s is None else 1000 * lag_s,
    )
    return dict(zip(_LIKENESS, values, strict=True))


def reference_fits(reference: Sound, log: EventLog) -> bool | None:
    """Whether a sound [M] at 48 kHz that should be the log's own sounds when the log says.

    None where the log has too few events to tell: anything meets one or two of them by chance.
    """
    if sum(0 <= e.time_s < log.seconds for e in log.events) < FEWEST_TO_FIT:
        return None
    scores = count_log(detect_onsets(reference), log).scores()
    return scores["f1_chance_corrected"]["40"] >= LEAST_FIT


def summary(scores: Sequence[ClipScore]) -> dict[str, Any]:
    """Scores of pooled clips under the keys of `score --json`."""
    judged = sum(s.judged for s in scores)
    pooled = sum((s.counts for s in scores), EventCounts()).scores()
    pooled["material_accuracy"] = sum(s.named for s in scores) / judged if judged else None
    pooled["strength_response"] = _mean([s.strength for s in scores])
    levels = [s.silence_db for s in scores if s.silence_db is not None]
    pooled["silence_db"] = float(np.median(levels)) if levels else None
    for name in _LIKENESS:
        pooled[name] = _mean([s.likeness[name] for s in scores])
    described = [s.descriptors for s in scores if s.descriptors is not None]
    pooled["kernel_distance"] = None
    if len(described) >= FEWEST_FOR_DISTANCE:
        generated, reference = np.stack(described, 1)
        pooled["kernel_distance"] = kernel_distance(generated, reference)[0]
    return pooled


def _sounds(sound: Sound, time_s: float) -> bool:
    """Whether there is anything to name: the judge has an answer for silence too."""
    start = max(0, round(time_s * 48_000))
    return bool(np.abs(sound[start : start + 4800]).max(initial=0.0) > FLOOR)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ---------------------------------------------------------------------------------------- files


def find_partners(generated: Path, events: Path) -> list[tuple[Path, Path]]:
    """Sounds and their logs, in the order of names.

    Raises:
        MediaError: If a file, a folder or a partner is missing.
    """
    for path in (generated, events):
        if not path.exists():
            raise MediaError(f"{path} does not exist, wanted a file or a folder, check the path")
    if events.is_file():
        return [(_sound_of(events, generated) if generated.is_dir() else generated, events)]
    if generated.is_file():
        log = events / f"{generated.stem.removesuffix('_foley')}.json"
        if not log.is_file():
            raise MediaError(f"{generated} has no log, wanted {log}, give the log itself")
        return [(generated, log)]
    logs = sorted(events.glob("*.json"))
    if not logs:
        raise MediaError(f"{events} holds no event log, wanted *.json, see `foley-lab world make`")
    return [(_sound_of(log, generated), log) for log in logs]


def _sound_of(log: Path, folder: Path) -> Path:
    """The sound of a log in a folder: what was generated comes before what was there."""
    for stem in (f"{log.stem}_foley", log.stem):
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise MediaError(
        f"{folder} holds no sound for {log.name}, wanted {log.stem}.wav, {log.stem}_foley.mp4 or "
        "the like, generate it first"
    )


def read_clip(sound_path: Path, log_path: Path) -> tuple[Sound, EventLog]:
    """A sound, mono [N] at 48 kHz, and its log.

    Raises:
        MediaError: If the sound cannot be read, is empty or has NaN in it.
        FoleyError: If the log is none, or its length is not that of the sound.
    """
    log = EventLog.read(log_path)
    sound = read_sound(sound_path)
    seconds = sound.size / 48_000
    if abs(seconds - log.seconds) > LENGTH_SLACK_S:
        raise FoleyError(
            f"{sound_path} lasts {seconds:.2f} s and {log_path} {log.seconds:.2f} s, wanted the "
            "log of this clip, check their names"
        )
    return sound, log


def _score_all(partners: list[tuple[Path, Path]], workers: int | None) -> Iterator[ClipScore]:
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = workers or (min(free or 1, 8) if len(partners) >= FEWEST_FOR_POOL else 1)
    if workers == 1:
        yield from map(_score_pair, partners)
        return
    # A forked child would inherit the locks of torch's threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        try:
            yield from pool.map(_score_pair, partners)
        finally:
            pool.shutdown(cancel_futures=True)


def _score_pair(paths: tuple[Path, Path]) -> ClipScore:
    reference = paths[1].with_suffix(".wav")
    sound, log = read_clip(*paths)
    return score_clip(sound, log, read_sound(reference) if reference.is_file() else None)


def read_sound(path: Path) -> Sound:
    """A sound, mono [N] at 48 kHz.

    Raises:
        MediaError: If it cannot be read, is empty or has NaN in it.
    """
    sound = read_audio(path, mono=True).samples[0].numpy()
    if not sound.size or not np.isfinite(sound).all():
        what = "samples that are NaN or infinite" if sound.size else "no samples"
        raise MediaError(f"{path} has {what}, wanted a whole sound, make it again")
    return sound
