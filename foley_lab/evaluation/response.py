"""Does the sound answer to its causes: harder is louder, larger is lower, metal rings.

*Within a clip* the measured energy of the first 40 ms of every blow should rise with the strength
in the log (rank correlation). *Between the two clips of a counterfactual pair*, which differ in one
cause and in no time, four properties are compared,

    level     energy of the first 40 ms
    centroid  mean frequency of the first 60 ms
    decay     T20, the time in which a blow falls by 20 dB
    lowest    frequency of the lowest strong mode

each as the logarithm of its ratio b / a. The sign has to be that of the exact pair, and the slope
through the origin of measured over exact log-ratios tells the size of the effect: 1 is the physical
one, 0 none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter1d
from scipy.stats import spearmanr

from foley_lab.signals import SMALL_RATES, EventLog

SAMPLE_RATE = SMALL_RATES.sample_rate
ENERGY_S = 0.04
CENTROID_S = 0.06
PROPERTIES = ("level", "centroid", "decay", "lowest")
LEAST_EFFECT = 0.05
"""Smaller differences (as |ln ratio|) of the exact pair have no sign worth asking for."""
N_FFT = 8192
STRONG_DB = 12.0
DECAY_STEP_S = 0.0025
LONGEST_DECAY_S = 1.0


def onset_energies(sound: ArrayLike, times_s: Sequence[float]) -> NDArray[np.float64]:
    """Mean square of the 40 ms after each time, less what was there before, in dB [K].

    Args:
        sound: Mono [N] at 48 kHz.
        times_s: Onsets in seconds, inside the sound.
    """
    square = np.asarray(sound, np.float64) ** 2
    total = np.concatenate([[0.0], np.cumsum(square)])
    long = round(ENERGY_S * SAMPLE_RATE)
    starts = np.clip(np.round(np.asarray(times_s) * SAMPLE_RATE).astype(int), 0, square.size)
    after = total[np.minimum(starts + long, square.size)] - total[starts]
    quarter = long // 4  # a ring that goes on would count as part of the blow
    before = total[np.maximum(starts - 96, 0)] - total[np.maximum(starts - 96 - quarter, 0)]
    return 10 * np.log10(np.maximum(after - 4 * before, 0.05 * after) / long + 1e-12)


def strength_response(
    sound: ArrayLike, times_s: Sequence[float], strengths: Sequence[float]
) -> float | None:
    """Rank correlation (Spearman) of logged strength and measured energy, −1 to 1.

    None with fewer than four blows, or when all are equally strong.
    """
    if len(times_s) < 4 or np.ptp(strengths) < 1e-6:
        return None
    energies = onset_energies(sound, times_s)
    rank: Any = spearmanr(strengths, energies)  # SciPy leaves its result untyped
    return float(rank.statistic) if np.ptp(energies) > 0 else 0.0


def properties(sound: ArrayLike, log: EventLog) -> dict[str, float | None]:
    """What the blows of a clip sound like together.

    Args:
        sound: Mono [N] at 48 kHz.
        log: When the blows are.

    Returns:
        Natural logarithms of `PROPERTIES` (level as amplitude, centroid and lowest in Hz, decay in
        s); None where the clip has no blow or nothing sounds.
    """
    samples = np.asarray(sound, np.float64)
    times = sorted(e.time_s for e in log.events if 0 <= e.time_s < log.seconds - ENERGY_S)
    starts = [round(t * SAMPLE_RATE) for t in times]
    starts = [s for s in starts if s + ENERGY_S * SAMPLE_RATE <= samples.size]
    if not starts or not np.any(samples):
        return dict.fromkeys(PROPERTIES)
    ends = [*starts[1:], samples.size]
    level = float(np.median(onset_energies(samples, [s / SAMPLE_RATE for s in starts])))
    short = _spectrum(samples, starts, ends, CENTROID_S)
    frequencies = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE).astype(np.float64)
    centroid = float(frequencies @ short / max(short.sum(), 1e-20))
    decays = [_decay(samples[a:b]) for a, b in zip(starts, ends, strict=True)]
    known = [d for d in decays if d is not None]
    lowest = _lowest_mode(_spectrum(samples, starts, ends, 0.12), frequencies)
    return {
        "level": level * np.log(10) / 20,
        "centroid": float(np.log(max(centroid, 1.0))),
        "decay": float(np.log(np.median(known))) if known else None,
        "lowest": float(np.log(lowest)),
    }


def response(
    first: ArrayLike, first_log: EventLog, second: ArrayLike, second_log: EventLog
) -> dict[str, float | None]:
    """ln(second / first) of each of `PROPERTIES`; None where one of them is unknown.

    Raises:
        ValueError: If the logs are no pair: their events lie at other times.
    """
    times = [[e.time_s for e in log.events] for log in (first_log, second_log)]
    if times[0] != times[1]:
        raise ValueError(
            "two logs with events at different times, wanted a counterfactual pair, which differs "
            "in one cause alone; make it with foley_lab.synthetic.pairs"
        )
    a, b = properties(first, first_log), properties(second, second_log)
    pairs = {name: (a[name], b[name]) for name in PROPERTIES}
    return {k: None if x is None or y is None else y - x for k, (x, y) in pairs.items()}


def response_scores(
    measured: Sequence[dict[str, float | None]], exact: Sequence[dict[str, float | None]]
) -> dict[str, dict[str, float | int | None]]:
    """How the responses of a model compare with the exact ones.

    Args:
        measured, exact: From `response`, one per pair, in the same order.

    Returns:
        By property: pairs with an effect, sign_accuracy, effect_ratio (see the module); None
        without such pairs.
    """
    scores: dict[str, dict[str, float | int | None]] = {}
    for name in PROPERTIES:
        both = [
            (m, e)
            for given, true in zip(measured, exact, strict=True)
            if (m := given[name]) is not None
            and (e := true[name]) is not None
            and abs(e) >= LEAST_EFFECT
        ]
        m, e = np.array(both, float).reshape(-1, 2).T
        scores[name] = {
            "pairs": len(both),
            "sign_accuracy": float(np.mean(np.sign(m) == np.sign(e))) if both else None,
            "effect_ratio": float(m @ e / (e @ e)) if both else None,
        }
    return scores


def _spectrum(
    samples: NDArray[np.float64], starts: list[int], ends: list[int], seconds: float
) -> NDArray[np.float64]:
    """Power spectrum of the beginnings, each with equal weight [N_FFT / 2 + 1]."""
    total = np.zeros(N_FFT // 2 + 1)
    for start, end in zip(starts, ends, strict=True):
        piece = samples[start : min(end, start + round(seconds * SAMPLE_RATE))]
        power = np.abs(np.fft.rfft(piece * np.hanning(2 * piece.size)[piece.size :], N_FFT)) ** 2
        total += power / max(float(power.sum()), 1e-20)
    return total / len(starts)


def _lowest_mode(power: NDArray[np.float64], frequencies: NDArray[np.float64]) -> float:
    """The lowest frequency above 40 Hz at which a strong peak stands, in Hz."""
    power = np.where(frequencies < 40, 0.0, power)
    strong = power >= power.max() * 10 ** (-STRONG_DB / 10)
    peaks = np.flatnonzero(strong & (power == maximum_filter1d(power, 9)))
    return float(frequencies[peaks[0]])


def _decay(blow: NDArray[np.float64]) -> float | None:
    """T20 of one blow in seconds, from the slope between −3 and −23 dB, or as far as it is heard.

    None when the next blow comes before it has fallen by 6 dB.
    """
    step = round(DECAY_STEP_S * SAMPLE_RATE)
    steps = min(blow.size, round(LONGEST_DECAY_S * SAMPLE_RATE)) // step
    if steps < 4:
        return None
    energy = np.square(blow[: steps * step]).reshape(steps, step).mean(1)
    # The greatest of what is still to come falls steadily, where the energy itself beats.
    level = 10 * np.log10(np.maximum.accumulate(energy[::-1])[::-1] + 1e-12)
    level -= level[0]
    used = (level <= -3) & (level >= -23)
    if level[-1] > -6 or used.sum() < 2:
        return None if level[-1] > -6 else DECAY_STEP_S * float((level > -20).sum())
    times = np.flatnonzero(used) * DECAY_STEP_S
    slope = np.polyfit(times, level[used], 1)[0]
    return float(np.clip(-20 / min(slope, -1e-3), DECAY_STEP_S, 10.0))
