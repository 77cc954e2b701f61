"""Does it sound when it happened: onsets against events.

Found and true times are paired one to one in time order; f1, precision and recall count pairs
within a tolerance. A busy clip hits many events by chance, so the f1 of the same sound turned round
in time is taken off: f1_chance_corrected = (f1 − chance) / (1 − chance); 0 is no better than sounds
placed anywhere, 1 is perfect. What happens outside the picture is ignored: it is neither wanted nor
false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from foley_lab.evaluation.onsets import Times, detect_onsets, onset_strength

__all__ = [
    "EventCounts",
    "count_events",
    "detect_onsets",
    "event_scores",
    "match_events",
    "onset_strength",
]

TOLERANCES_S = (0.01, 0.02, 0.04, 0.08, 0.16)
ERROR_TOLERANCE_S = 0.08
WIDE_TOLERANCE_S = 0.16
NUM_TURNS = 64
IGNORED_S = 0.1
"""An onset this near to something off-screen is not false."""
NOTICED_MS = (-50.0, 125.0)
"""Sound earlier or later than this is noticed: the limits of broadcasting (ITU-R BT.1359)."""


def match_events(found: ArrayLike, true: ArrayLike, tolerance_s: float) -> list[tuple[int, int]]:
    """Pairs found and true times: as many pairs as possible, then as close as possible.

    Args:
        found, true: Times in seconds, ascending.
        tolerance_s: A pair lies no further apart than this.

    Returns:
        Pairs (index in `found`, index in `true`), ascending in both, every index at most once.
    """
    a, b = np.asarray(found, float), np.asarray(true, float)
    if not a.size or not b.size:
        return []
    distance = np.abs(a[:, None] - b)
    near = distance <= tolerance_s + 1e-9
    # A missed pair costs more than all distances together, so the number of pairs comes first.
    rows, columns = linear_sum_assignment(
        np.where(near, distance, 1 + 2 * tolerance_s * min(a.size, b.size))
    )
    kept = near[rows, columns]
    # Sorted anew, no two pairs cross; on a line this breaks no tolerance and costs nothing.
    return list(zip(sorted(rows[kept].tolist()), sorted(columns[kept].tolist()), strict=True))


@dataclass
class EventCounts:
    """What one clip adds to the scores; clips are pooled by adding their counts.

    Attributes:
        seconds: Length of the sound.
        true: Number of events.
        hits, false: By tolerance in seconds: pairs, and onsets that belong to no event.
        chance_hits, chance_false: The same for the sound turned round in time, mean over turns.
        errors_s: Found − true of the pairs within `ERROR_TOLERANCE_S`.
        wide: (true time, found − true) of the pairs within `WIDE_TOLERANCE_S`, in seconds.
    """

    seconds: float = 0.0
    true: int = 0
    hits: dict[float, float] = field(default_factory=dict)
    false: dict[float, float] = field(default_factory=dict)
    chance_hits: dict[float, float] = field(default_factory=dict)
    chance_false: dict[float, float] = field(default_factory=dict)
    errors_s: list[float] = field(default_factory=list)
    wide: list[tuple[float, float]] = field(default_factory=list)

    def __add__(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            self.seconds + other.seconds,
            self.true + other.true,
            _added(self.hits, other.hits),
            _added(self.false, other.false),
            _added(self.chance_hits, other.chance_hits),
            _added(self.chance_false, other.chance_false),
            self.errors_s + other.errors_s,
            self.wide + other.wide,
        )

    def scores(self) -> dict[str, Any]:
        """The scores of all pooled clips.

        Returns:
            f1 and f1_chance_corrected by tolerance in ms ("10", "20", ...), precision and recall at
            40 ms; bias_ms (found − true), mae_ms and p95_ms of the pairs within 80 ms, None without
            pairs; false_sounds_per_minute, onsets further than 80 ms from any event. f1_area is the
            mean f1 over the logarithm of the tolerance; error_160 the errors of the pairs within
            160 ms (see `error_scores`). Without events and without onsets f1 is 1: silence was
            right.
        """
        f1 = {t: _f1(self.hits[t], self.false[t], self.true) for t in self.hits}
        chance = {t: _f1(self.chance_hits[t], self.chance_false[t], self.true) for t in f1}
        hits, false = self.hits.get(0.04, 0.0), self.false.get(0.04, 0.0)
        errors_ms = 1000 * np.array(self.errors_s)
        some = errors_ms.size > 0
        stray = self.false.get(ERROR_TOLERANCE_S, 0.0)
        return {
            "f1": {_ms(t): f1[t] for t in f1},
            "f1_chance_corrected": {
                _ms(t): (f1[t] - c) / (1 - c) if c < 1 else f1[t] for t, c in chance.items()
            },
            "f1_area": _area(f1),
            "precision": hits / (hits + false) if hits + false else float(self.true == 0),
            "recall": hits / self.true if self.true else 1.0,
            "bias_ms": float(errors_ms.mean()) if some else None,
            "mae_ms": float(np.abs(errors_ms).mean()) if some else None,
            "p95_ms": float(np.quantile(np.abs(errors_ms), 0.95)) if some else None,
            "error_160": error_scores(self.wide),
            "false_sounds_per_minute": 60 * stray / self.seconds if self.seconds else 0.0,
        }


def error_scores(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """How early or late the paired sounds are.

    Args:
        pairs: (true time, found − true) in seconds; of several clips one after the other.

    Returns:
        median_ms, mae_ms, p95_ms; jitter_ms, the median distance from the median; outside, the
        share earlier or later than `NOTICED_MS`; drift_ms_per_minute, the slope of the error over
        the time in the clip. None without pairs, the drift without three different times.
    """
    names = ("median_ms", "mae_ms", "p95_ms", "jitter_ms", "outside", "drift_ms_per_minute")
    if not pairs:
        return dict.fromkeys(names)
    times, errors = np.array(pairs, float).T
    ms = 1000 * errors
    early, late = NOTICED_MS
    spread = times - times.mean()
    drift = float(60 * spread @ ms / (spread @ spread)) if np.unique(times).size > 2 else None
    values = (
        float(np.median(ms)),
        float(np.abs(ms).mean()),
        float(np.quantile(np.abs(ms), 0.95)),
        float(np.median(np.abs(ms - np.median(ms)))),
        float(np.mean((ms < early) | (ms > late))),
        drift,
    )
    return dict(zip(names, values, strict=True))


def count_events(
    found: ArrayLike,
    true: ArrayLike,
    seconds: float,
    tolerances: Sequence[float] = TOLERANCES_S,
    lasting: Sequence[tuple[float, float]] = (),
    ignored: ArrayLike = (),
) -> EventCounts:
    """Counts one clip.

    Args:
        found, true: Times in seconds.
        seconds: Length of the clip, the circle on which chance turns the found times.
        tolerances: In seconds; 40, 80 and 160 ms are always counted, precision and errors need
            them.
        lasting: Start and end of scrapes and rolls. What is found inside them (30 ms earlier to
            100 ms later) may pair with an event but is never false: a rough sound starts anew all
            the time.
        ignored: Times of what sounds off-screen; what is found within 100 ms of one and has no
            pair is not false.

    Returns:
        Counts, to be added to those of other clips.
    """
    a, b = np.sort(np.asarray(found, float)), np.sort(np.asarray(true, float))
    spared = [(start - 0.03, end + 0.1) for start, end in lasting]
    spared += [(t - IGNORED_S, t + IGNORED_S) for t in np.asarray(ignored, float).tolist()]
    counts = EventCounts(seconds=seconds, true=b.size)
    # Steps by the golden section meet no rhythm of the clip twice.
    turns = [seconds * (0.618034 * k % 1) for k in range(1, NUM_TURNS + 1)]
    turned = [np.sort((a + turn) % seconds) if seconds > 0 else a for turn in turns]
    for tolerance in sorted({*tolerances, 0.04, ERROR_TOLERANCE_S, WIDE_TOLERANCE_S}):
        pairs = match_events(a, b, tolerance)
        counts.hits[tolerance] = len(pairs)
        counts.false[tolerance] = _stray(a, [i for i, _ in pairs], spared)
        swept = [_sweep(each, b, tolerance) for each in turned]
        chance_false = [_stray(t, hit, spared) for t, hit in zip(turned, swept, strict=True)]
        counts.chance_hits[tolerance] = sum(map(len, swept)) / NUM_TURNS
        counts.chance_false[tolerance] = sum(chance_false) / NUM_TURNS
        if tolerance == ERROR_TOLERANCE_S:
            counts.errors_s = [float(a[i] - b[j]) for i, j in pairs]
        if tolerance == WIDE_TOLERANCE_S:
            counts.wide = [(float(b[j]), float(a[i] - b[j])) for i, j in pairs]
    return counts


def event_scores(
    found: ArrayLike,
    true: ArrayLike,
    tolerances: Sequence[float] = TOLERANCES_S,
    seconds: float | None = None,
    lasting: Sequence[tuple[float, float]] = (),
    ignored: ArrayLike = (),
) -> dict[str, Any]:
    """Scores of one clip: `count_events(...).scores()`.

    `seconds` defaults to a tenth of a second after the last found or true time.
    """
    if seconds is None:
        seconds = float(max([*np.ravel(found), *np.ravel(true)], default=0.0)) + 0.1
    return count_events(found, true, seconds, tolerances, lasting, ignored).scores()


def _sweep(a: Times, b: Times, tolerance_s: float) -> list[int]:
    """Which of `a` have a partner: as many as in `match_events`, found in one sweep."""
    first, second, limit = a.tolist(), b.tolist(), tolerance_s + 1e-9
    hit, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        distance = first[i] - second[j]
        if abs(distance) <= limit:
            hit.append(i)
            i, j = i + 1, j + 1
        elif distance < 0:
            i += 1
        else:
            j += 1
    return hit


def _stray(found: Times, hit: list[int], spared: Sequence[tuple[float, float]]) -> int:
    """How many found times have no pair and lie in no spared stretch."""
    if not spared:
        return found.size - len(hit)
    free = np.ones(found.size, bool)
    free[hit] = False
    for start, end in spared:
        free &= (found < start) | (found > end)
    return int(free.sum())


def _f1(hits: float, false: float, true: int) -> float:
    total = hits + false + true
    return 2 * hits / total if total else 1.0


def _area(f1: dict[float, float]) -> float | None:
    """Mean of f1 over ln(tolerance), by trapezoids; None without two tolerances."""
    if len(f1) < 2:
        return None
    tolerances, values = np.log(sorted(f1)), [f1[t] for t in sorted(f1)]
    return float(np.trapezoid(values, tolerances) / (tolerances[-1] - tolerances[0]))


def _added(a: dict[float, float], b: dict[float, float]) -> dict[float, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in sorted({*a, *b})}


def _ms(tolerance_s: float) -> str:
    return f"{1000 * tolerance_s:g}"
