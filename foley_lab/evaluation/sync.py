"""When does it sound, and is that when it happened: onsets of a sound, and onsets against events.

**Onsets.** Energy in twelve bands on a 1 ms grid, in dB, L_b(t) ≥ the noise. A sound starts where
the bands rise together above what is still heard of the last 100 ms,

    novelty(t) = mean_b max(0, L_b(t) − max_{k ≥ 9 ms} (L_b(t − k) − ¼ dB/ms · (k − 9 ms))),

a spectral flux (Bello et al. 2005, "A tutorial on onset detection") with forward masking in place
of the previous frame: the grains and beats inside one sound stay below the fading memory of its
attack, a new blow does not. 9 ms bridge an attack that a decoder has smeared.

**Scores.** Found and true times are paired one to one in time order; f1, precision and recall count
pairs within a tolerance. A busy clip hits many events by chance, so the f1 of the same sound turned
round in time is taken off: f1_chance_corrected = (f1 − chance) / (1 − chance); 0 is no better than
sounds placed anywhere, 1 is perfect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter1d
from scipy.optimize import linear_sum_assignment

Times = NDArray[np.float64]

TOLERANCES_S = (0.01, 0.02, 0.04, 0.08, 0.16)

BAND_EDGES_HZ = (0, 250, 500, 900, 1400, 2000, 2800, 4000, 5600, 8000, 11000, 15000, 20000)
REACH_S = 0.009
MEMORY_S = 0.1
FADE_DB_PER_S = 250.0
DEPTH_DB = 62.0
"""Below the loudest moment by this much, nothing is heard."""
CEILING_DB = 30.0
"""A rise counts no more than this in one band, so that no single band decides."""
BIAS_S = 0.0004
"""How far the steepest rise lies behind the true start; measured on exact sounds."""


# --------------------------------------------------------------------------------------- onsets


def onset_strength(samples: ArrayLike, sample_rate: int = 48_000) -> tuple[Times, Times]:
    """How much newly sounds at each moment.

    Args:
        samples: Sound [N] or [channels, N], −1 to 1.
        sample_rate: Hz, at least 8 000.

    Returns:
        Times in seconds [M] (about 1 ms apart) and novelty in dB [M], 0 to 30.

    Raises:
        ValueError: If there are no samples, some are not finite, or the rate is too low.
    """
    sound = _mono(samples, sample_rate)
    hop = max(1, round(sample_rate / 1000))
    level = _band_levels(sound, sample_rate, hop)
    memory, reach = round(MEMORY_S * sample_rate / hop), round(REACH_S * sample_rate / hop)
    # Before the sound its usual level: noise does not start at 0 s, an event at 0 s does.
    usual = np.median(level, axis=0, keepdims=True)
    level = np.concatenate([usual.repeat(reach, axis=0), level])
    slope = np.arange(len(level), dtype=np.float32)[:, None] * (FADE_DB_PER_S * hop / sample_rate)
    # max_k (L(t − k) − slope·k) is a running maximum of L + slope·t, taken down again.
    past = {"origin": (memory - 1) // 2, "mode": "constant", "cval": -np.inf}
    heard = maximum_filter1d(level + slope, memory, axis=0, **past) - slope
    novelty = np.clip(level[reach:] - heard[:-reach], 0, CEILING_DB).mean(1)
    return np.arange(novelty.size) * (hop / sample_rate), novelty.astype(np.float64)


def detect_onsets(
    samples: ArrayLike,
    sample_rate: int = 48_000,
    threshold_db: float = 3.0,
    min_gap_s: float = 0.02,
) -> Times:
    """When something starts to sound.

    On exact synthetic sound with events at least 60 ms apart: f1 .98 at 20 ms, mean error .6 ms.

    Args:
        samples: Sound [N] or [channels, N], −1 to 1.
        sample_rate: Hz.
        threshold_db: Least rise, averaged over the bands.
        min_gap_s: Of two onsets closer than this the weaker one is dropped.

    Returns:
        Times in seconds [K], ascending, without constant bias.

    Raises:
        ValueError: As in `onset_strength`.
    """
    times, novelty = onset_strength(samples, sample_rate)
    step_s = times[1] - times[0] if times.size > 1 else 0.0
    width = 2 * max(1, round(min_gap_s / max(step_s, 1e-4))) + 1
    peaks = np.flatnonzero((novelty == maximum_filter1d(novelty, width)) & (novelty > threshold_db))
    # On a plateau every frame is a maximum; its first one is the start.
    peaks = peaks[np.diff(peaks, prepend=-width) > width // 2]
    found = times[peaks] + _vertex(novelty, peaks) * step_s - BIAS_S
    return np.clip(found, 0, None)


def _mono(samples: ArrayLike, sample_rate: int) -> NDArray[np.float32]:
    sound = np.asarray(samples, np.float32)
    if sound.ndim == 2:
        sound = sound.mean(0)
    if sound.ndim != 1 or sound.size == 0:
        raise ValueError(f"sound of shape {np.shape(samples)}, wanted [N] or [channels, N], N > 0")
    if not np.isfinite(sound).all():
        raise ValueError("sound with NaN or infinite samples, wanted −1 to 1; check its decoder")
    if sample_rate < 8000:
        raise ValueError(f"sample rate {sample_rate} Hz, wanted at least 8000; resample the sound")
    return sound


def _band_levels(sound: NDArray[np.float32], sample_rate: int, hop: int) -> NDArray[np.float32]:
    """Level of each band in dB [M, bands], floored at the noise."""
    size = 2 ** round(np.log2(0.0053 * sample_rate))
    padded = np.pad(sound, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1).astype(np.complex64)) ** 2
    bins = np.unique(np.round(np.array(BAND_EDGES_HZ) * size / sample_rate).astype(int))
    bins = bins[bins < power.shape[1]]
    energy = np.add.reduceat(power[:, : bins[-1]], bins[:-1], axis=1)
    # Three floors: the noise of this sound, what lies far below its loudest moment, silence.
    loudest = np.quantile(energy.sum(1), 0.999)
    floor = np.maximum(4 * np.quantile(energy, 0.1, axis=0), loudest * 10 ** (-DEPTH_DB / 10))
    return (10 * np.log10(energy + np.maximum(floor, 1e-8))).astype(np.float32)


def _vertex(curve: Times, peaks: NDArray[np.int64]) -> Times:
    """Top of the parabola through each peak and its neighbours, in steps from the peak [K]."""
    inner = np.clip(peaks, 1, curve.size - 2)
    left, top, right = curve[inner - 1], curve[inner], curve[inner + 1]
    bend = left - 2 * top + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1.0), 0.0)
    return np.where(peaks == inner, np.clip(shift, -0.5, 0.5), 0.0)


# --------------------------------------------------------------------------------------- scores


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
    """

    seconds: float = 0.0
    true: int = 0
    hits: dict[float, float] = field(default_factory=dict)
    false: dict[float, float] = field(default_factory=dict)
    chance_hits: dict[float, float] = field(default_factory=dict)
    chance_false: dict[float, float] = field(default_factory=dict)
    errors_s: list[float] = field(default_factory=list)

    def __add__(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            self.seconds + other.seconds,
            self.true + other.true,
            _added(self.hits, other.hits),
            _added(self.false, other.false),
            _added(self.chance_hits, other.chance_hits),
            _added(self.chance_false, other.chance_false),
            self.errors_s + other.errors_s,
        )

    def scores(self) -> dict[str, Any]:
        """The scores of all pooled clips.

        Returns:
            f1 and f1_chance_corrected by tolerance in ms ("10", "20", ...), precision and recall at
            40 ms; bias_ms (found − true), mae_ms and p95_ms of the pairs within 80 ms, None without
            pairs; false_sounds_per_minute, onsets further than 80 ms from any event. Without events
            and without onsets f1 is 1: silence was right.
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
            "precision": hits / (hits + false) if hits + false else float(self.true == 0),
            "recall": hits / self.true if self.true else 1.0,
            "bias_ms": float(errors_ms.mean()) if some else None,
            "mae_ms": float(np.abs(errors_ms).mean()) if some else None,
            "p95_ms": float(np.quantile(np.abs(errors_ms), 0.95)) if some else None,
            "false_sounds_per_minute": 60 * stray / self.seconds if self.seconds else 0.0,
        }


ERROR_TOLERANCE_S = 0.08
NUM_TURNS = 12


def count_events(
    found: ArrayLike,
    true: ArrayLike,
    seconds: float,
    tolerances: Sequence[float] = TOLERANCES_S,
    lasting: Sequence[tuple[float, float]] = (),
) -> EventCounts:
    """Counts one clip.

    Args:
        found, true: Times in seconds.
        seconds: Length of the clip, the circle on which chance turns the found times.
        tolerances: In seconds; 40 and 80 ms are always counted, precision and errors need them.
        lasting: Start and end of scrapes and rolls. What is found inside them (30 ms earlier to
            100 ms later) may pair with an event but is never false: a rough sound starts anew all
            the time.

    Returns:
        Counts, to be added to those of other clips.
    """
    a, b = np.sort(np.asarray(found, float)), np.sort(np.asarray(true, float))
    counts = EventCounts(seconds=seconds, true=b.size)
    # Steps by the golden section meet no rhythm of the clip twice.
    turns = [seconds * (0.618034 * k % 1) for k in range(1, NUM_TURNS + 1)]
    for tolerance in sorted({*tolerances, 0.04, ERROR_TOLERANCE_S}):
        pairs = match_events(a, b, tolerance)
        counts.hits[tolerance] = len(pairs)
        counts.false[tolerance] = _stray(a, pairs, lasting)
        turned_hits = turned_false = 0
        for turn in turns:
            turned = np.sort((a + turn) % seconds) if seconds > 0 else a
            turned_pairs = _sweep(turned, b, tolerance)
            turned_hits += len(turned_pairs)
            turned_false += _stray(turned, turned_pairs, lasting)
        counts.chance_hits[tolerance] = turned_hits / NUM_TURNS
        counts.chance_false[tolerance] = turned_false / NUM_TURNS
        if tolerance == ERROR_TOLERANCE_S:
            counts.errors_s = [float(a[i] - b[j]) for i, j in pairs]
    return counts


def event_scores(
    found: ArrayLike,
    true: ArrayLike,
    tolerances: Sequence[float] = TOLERANCES_S,
    seconds: float | None = None,
    lasting: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """Scores of one clip: `count_events(...).scores()`.

    `seconds` defaults to a tenth of a second after the last found or true time.
    """
    if seconds is None:
        seconds = float(max([*np.ravel(found), *np.ravel(true)], default=0.0)) + 0.1
    return count_events(found, true, seconds, tolerances, lasting).scores()


def _sweep(a: Times, b: Times, tolerance_s: float) -> list[tuple[int, int]]:
    """As many pairs as `match_events`, found in one sweep, not the closest ones."""
    pairs, i, j = [], 0, 0
    while i < a.size and j < b.size:
        if abs(a[i] - b[j]) <= tolerance_s + 1e-9:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return pairs


def _stray(
    found: Times, pairs: list[tuple[int, int]], lasting: Sequence[tuple[float, float]]
) -> int:
    """How many found times have no pair and lie in nothing that lasts."""
    free = np.ones(found.size, bool)
    free[[i for i, _ in pairs]] = False
    for start, end in lasting:
        free &= (found < start - 0.03) | (found > end + 0.1)
    return int(free.sum())


def _f1(hits: float, false: float, true: int) -> float:
    total = hits + false + true
    return 2 * hits / total if total else 1.0


def _added(a: dict[float, float], b: dict[float, float]) -> dict[float, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in sorted({*a, *b})}


def _ms(tolerance_s: float) -> str:
    return f"{1000 * tolerance_s:g}"
