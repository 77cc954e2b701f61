"""Can the score be fooled: `foley-lab bench injections`.

Something wrong is put into exact sound in growing doses, and the score has to give the dose back:

    shift      every event earlier or later      → median error, lag of the envelope
    jitter     every event moved by its own draw → error_160 / jitter_ms
    dropped    events left out                   → recall
    spurious   blows between the events          → false_sounds_per_minute
    material   events in another material        → material_accuracy

`spearman` is the rank correlation of dose and response (misses and wrong names are counted as they
grow, so that 1 is perfect everywhere), `shift` says how far the shift read is from the one put in.
The other way round, what knows nothing of a clip has to score nothing: silence, another clip, and a
metronome at every tempo.

No model takes part. Seeds from 60 000 are used by no training, no tuning and no other benchmark.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.stats import spearmanr

from foley_lab.diagnosis.bench_sync import metronome, shifted
from foley_lab.diagnosis.truth import gate
from foley_lab.evaluation.envelope import envelope_agreement
from foley_lab.evaluation.gate import count_log
from foley_lab.evaluation.onsets import Times, detect_onsets
from foley_lab.evaluation.score import score_clip, summary
from foley_lab.evaluation.sync import EventCounts
from foley_lab.signals import MATERIALS, Event, EventLog
from foley_lab.synthetic.scenes import make_scene
from foley_lab.synthetic.sounds import render_sound

FIRST_SEED = 60_000
SECONDS = 6.0
LEAST_GAP_S = 0.35
"""Between events, more than twice the widest tolerance: no dose confuses one with the next."""

SHIFTS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16)
"""Each is put in both ways; the onsets are asked up to 120 ms, short of their widest tolerance."""
WIDEST_BY_ONSETS_S = 0.12
JITTERS_S = (0.001, 0.005, 0.01, 0.02, 0.03, 0.045)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BESIDE_S = 0.17
"""A spurious blow comes so long after an event."""
TEMPI = tuple(range(30, 481, 5))
"""Beats per minute."""

Change = Callable[[EventLog, float, Generator], EventLog]


def bench_injections(
    count: int = 60,
    first_seed: int = FIRST_SEED,
    split: str = "clean",
    tempi: Sequence[float] = TEMPI,
) -> dict[str, Any]:
    """Doses and what the score makes of them.

    Args:
        count: Clips for the doses and for chance; of few, chance may be lucky.
        first_seed: Of the clips.
        split: "clean" or "ugly"; all that differs in sound is what comes from outside the picture.
        tempi: Beats per minute the metronome tries.

    Returns:
        clips, first_seed; events and shift {mae_ms by median error, lag_mae_ms by envelope};
        spearman by kind of dose; responses, by kind the dose and the response to it; and chance,
        f1_chance_corrected at 40 ms of silence, another clip and the metronome (at its best tempo
        and which that is).

    Raises:
        FoleyError: If the onset detector fails on exact sound.
    """
    gate()
    logs = list(itertools.islice(sparse_logs(first_seed, split), count))
    rows = {
        "shift": both_ways(logs),
        "jitter": responses(logs, jittered, JITTERS_S, lambda s: s["error_160"]["jitter_ms"]),
        "dropped": responses(logs, dropped, SHARES, lambda s: 1 - s["recall"]),
        "spurious": responses(logs, spurious, SHARES, lambda s: s["false_sounds_per_minute"]),
        "material": responses(logs, renamed, SHARES, lambda s: 1 - s["material_accuracy"]),
    }
    read = [(dose, ms / 1000) for dose, ms in rows["shift"]]
    scenes = [make_scene(first_seed + k, SECONDS, split=split).log for k in range(count)]
    return {
        "clips": count,
        "split": split,
        "first_seed": first_seed,
        "events": sum(len(log.events) for log in logs),
        "shift": {"mae_ms": _mae_ms(read), "lag_mae_ms": _mae_ms(lags_of(logs))},
        "spearman": {kind: round(_spearman(pairs), 4) for kind, pairs in rows.items()},
        "responses": {
            kind: {f"{dose:g}": round(float(value), 4) for dose, value in pairs}
            for kind, pairs in rows.items()
        },
        "chance": chance(scenes, tempi),
    }


# ------------------------------------------------------------------------------------------- doses


def sparse_logs(
    first_seed: int, split: str = "clean", seconds: float = SECONDS
) -> Iterator[EventLog]:
    """Clips of the world thinned until their events lie `LEAST_GAP_S` apart, without what lasts.

    Those with fewer than three events are passed over.
    """
    for seed in itertools.count(first_seed):
        log = make_scene(seed, seconds, split=split, off_screen=False).log
        kept: list[Event] = []
        for event in log.events:
            last_s = kept[-1].time_s if kept else -np.inf
            inside = LEAST_GAP_S / 2 < event.time_s < seconds - LEAST_GAP_S
            if inside and event.time_s - last_s >= LEAST_GAP_S:
                kept.append(event)
        if len(kept) >= 3:
            yield replace(log, events=kept, continuous=[])


def responses(
    logs: Sequence[EventLog],
    change: Change,
    doses: Sequence[float],
    metric: Callable[[dict[str, Any]], float],
) -> list[tuple[float, float]]:
    """(dose, pooled metric) of the sounds of changed logs, scored against the true ones."""
    answers = []
    for dose in doses:
        clips = [
            score_clip(render_sound(change(log, dose, np.random.default_rng([log.seed, 9]))), log)
            for log in logs
        ]
        answers.append((dose, metric(summary(clips))))
    return answers


def both_ways(logs: Sequence[EventLog]) -> list[tuple[float, float]]:
    """(shift in s, median error in ms), from early to late."""
    doses = [d for s in SHIFTS_S if s <= WIDEST_BY_ONSETS_S for d in (-s, s)]
    return responses(logs, delayed, sorted(doses), lambda s: s["error_160"]["median_ms"])


def lags_of(logs: Sequence[EventLog]) -> list[tuple[float, float]]:
    """(shift in s, mean lag of the envelope in s), from early to late."""
    truths = [render_sound(log) for log in logs]
    doses = sorted(d for s in SHIFTS_S for d in (-s, s))
    answers = []
    for dose in doses:
        lags = [envelope_agreement(shifted(truth, dose), truth)[1] for truth in truths]
        answers.append((dose, float(np.mean([lag for lag in lags if lag is not None]))))
    return answers


def delayed(log: EventLog, dose: float, rng: Generator) -> EventLog:
    """Every event `dose` seconds later."""
    return replace(log, events=[replace(e, time_s=e.time_s + dose) for e in log.events])


def jittered(log: EventLog, dose: float, rng: Generator) -> EventLog:
    """Every event moved by a normal draw of that deviation, at most 2.5 of it."""
    draws = rng.normal(0, 1, len(log.events)).clip(-2.5, 2.5)
    moved = zip(log.events, draws.tolist(), strict=True)
    return replace(log, events=[replace(e, time_s=e.time_s + dose * d) for e, d in moved])


def dropped(log: EventLog, dose: float, rng: Generator) -> EventLog:
    """That share of the events left out."""
    return replace(log, events=[e for e, u in _draws(log, rng) if u >= dose])


def spurious(log: EventLog, dose: float, rng: Generator) -> EventLog:
    """After that share of the events another blow, of something else."""
    extra = [
        Event(e.time_s + BESIDE_S, "impact", "plastic", 0.8, object=99)
        for e, u in _draws(log, rng)
        if u < dose
    ]
    return replace(log, events=sorted([*log.events, *extra], key=lambda e: e.time_s))


def renamed(log: EventLog, dose: float, rng: Generator) -> EventLog:
    """That share of the events in another material."""
    events = []
    for event, u in _draws(log, rng):
        others = [m for m in MATERIALS if m != event.material]
        other = others[int(rng.integers(len(others)))]
        events.append(replace(event, material=other) if u < dose else event)
    return replace(log, events=events)


def _draws(log: EventLog, rng: Generator) -> list[tuple[Event, float]]:
    """Every event with a uniform draw; a larger dose keeps the draws of a smaller one."""
    return list(zip(log.events, rng.random(len(log.events)).tolist(), strict=True))


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    doses, answers = np.array(pairs, float).T
    rank: Any = spearmanr(doses, answers)  # SciPy leaves its result untyped
    return float(rank.statistic)


def _mae_ms(pairs: Sequence[tuple[float, float]]) -> float:
    return round(1000 * float(np.mean([abs(read - put) for put, read in pairs])), 4)


# ------------------------------------------------------------------------------------------ chance


def chance(logs: Sequence[EventLog], tempi: Sequence[float]) -> dict[str, float]:
    """f1_chance_corrected at 40 ms of sounds that know nothing of the clips, all pooled.

    Args:
        logs: Of one length.
        tempi: Beats per minute the metronome tries.
    """
    sounds = [render_sound(log) for log in logs]
    found = [detect_onsets(sound) for sound in sounds]
    silent = detect_onsets(np.zeros_like(sounds[0]))
    clicks = {t: detect_onsets(metronome(logs[0].seconds, t)) for t in tempi}
    beats = {t: _pooled(logs, [heard] * len(logs)) for t, heard in clicks.items()}
    best = max(beats, key=lambda t: beats[t])
    return {
        "exact sound": _pooled(logs, found),
        "silence": _pooled(logs, [silent] * len(logs)),
        "another clip": _pooled(logs, [*found[1:], found[0]]),
        "metronome, best tempo": beats[best],
        "metronome, its bpm": best,
    }


def _pooled(logs: Sequence[EventLog], found: Sequence[Times]) -> float:
    counts = (count_log(times, log) for times, log in zip(found, logs, strict=True))
    scores = sum(counts, EventCounts()).scores()
    return round(scores["f1_chance_corrected"]["40"], 4)
