"""When does it sound: onsets of a sound, to a fraction of a millisecond.

Energy in twelve bands on a 1 ms grid, in dB, L_b(t) ≥ the noise. A sound starts where the bands
rise together above what is still heard of the last 100 ms,

    novelty(t) = mean_b max(0, L_b(t) − max_{k ≥ 9 ms} (L_b(t − k) − ¼ dB/ms · (k − 9 ms))),

a spectral flux (Bello et al. 2005, "A tutorial on onset detection") with forward masking in place
of the previous frame: the grains and beats inside one sound stay below the fading memory of its
attack, a new blow does not. 9 ms bridge an attack that a decoder has smeared. What rises must also
stay: a new sound is louder for the next 40 ms than the 40 ms before were, a late grain of an old
one is not.

`VERSION` names this definition; scores of different versions are not compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter1d

Times = NDArray[np.float64]

VERSION = 2

BAND_EDGES_HZ = (0, 250, 500, 900, 1400, 2000, 2800, 4000, 5600, 8000, 11000, 15000, 20000)
REACH_S = 0.009
MEMORY_S = 0.1
FADE_DB_PER_S = 250.0
DEPTH_DB = 62.0
"""Below the loudest moment by this much, nothing is heard."""
CEILING_DB = 30.0
"""A rise counts no more than this in one band, so that no single band decides."""
STAY_S = 0.04
STAY_DB = 1.2
"""How much louder, averaged over the bands, the next `STAY_S` are than the last."""
SUMMIT = 0.9
"""The first summit of this share of the highest is the attack; grains may rise a little higher."""
BIAS_S = 0.00025
"""How far the summit lies behind the true start; measured on exact sounds."""


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
    novelty = _novelty(_band_levels(sound, sample_rate, hop), hop / sample_rate)
    times = np.arange(novelty.size, dtype=np.float64) * (hop / sample_rate)
    return times, novelty


def detect_onsets(
    samples: ArrayLike,
    sample_rate: int = 48_000,
    threshold_db: float = 2.5,
    min_gap_s: float = 0.02,
) -> Times:
    """When something starts to sound.

    On exact synthetic sound with events at least 60 ms apart: f1 above .99 at 10 ms, bias below
    .2 ms, mean error .3 ms (`foley_lab.evaluation.gate` holds it to that).

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
    sound = _mono(samples, sample_rate)
    hop = max(1, round(sample_rate / 1000))
    step_s = hop / sample_rate
    level = _band_levels(sound, sample_rate, hop)
    novelty = _novelty(level, step_s)
    width = 2 * max(1, round(min_gap_s / step_s)) + 1
    peaks = np.flatnonzero((novelty == maximum_filter1d(novelty, width)) & (novelty > threshold_db))
    # On a plateau every frame is a maximum; its first one is the start.
    peaks = peaks[np.diff(peaks, prepend=-width) > width // 2]
    peaks = np.array([_first_summit(novelty, p, round(REACH_S / step_s)) for p in peaks], int)
    peaks = peaks[_stays(level, peaks, step_s) > STAY_DB]
    found = peaks * step_s + _vertex(novelty, peaks) * step_s - BIAS_S
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
    padded = np.pad(sound, (size // 2, max(0, size // 2 - sound.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1).astype(np.complex64)) ** 2
    # Where the sound is cut off its last whole frame stays: the cut itself would click.
    missing = -(-sound.size // hop) - len(power)
    power = np.pad(power, ((0, max(0, missing)), (0, 0)), mode="edge")
    bins = np.unique(np.round(np.array(BAND_EDGES_HZ) * size / sample_rate).astype(int))
    bins = bins[bins < power.shape[1]]
    energy = np.add.reduceat(power[:, : bins[-1]], bins[:-1], axis=1)
    # Three floors: the noise of this sound, what lies far below its loudest moment, silence.
    loudest = np.quantile(energy.sum(1), 0.999)
    floor = np.maximum(4 * np.quantile(energy, 0.1, axis=0), loudest * 10 ** (-DEPTH_DB / 10))
    return (10 * np.log10(energy + np.maximum(floor, 1e-8))).astype(np.float32)


def _novelty(level: NDArray[np.float32], step_s: float) -> Times:
    memory, reach = round(MEMORY_S / step_s), round(REACH_S / step_s)
    # Before the sound its usual level: noise does not start at 0 s, an event at 0 s does.
    usual = np.median(level, axis=0, keepdims=True)
    level = np.concatenate([usual.repeat(reach, axis=0), level])
    slope = np.arange(len(level), dtype=np.float32)[:, None] * np.float32(FADE_DB_PER_S * step_s)
    # max_k (L(t − k) − slope·k) is a running maximum of L + slope·t, taken down again.
    past = {"origin": (memory - 1) // 2, "mode": "constant", "cval": -np.inf}
    heard = maximum_filter1d(level + slope, memory, axis=0, **past) - slope
    return np.clip(level[reach:] - heard[:-reach], 0, CEILING_DB).mean(1).astype(np.float64)


def _first_summit(novelty: Times, peak: int, reach: int) -> int:
    """The first local maximum of nearly the peak's height, at most `reach` steps before it."""
    start = max(0, peak - reach)
    climb = novelty[start : peak + 1]
    summits = np.flatnonzero((climb >= SUMMIT * climb[-1]) & np.append(climb[:-1] >= climb[1:], 1))
    return start + int(summits[0])


def _stays(level: NDArray[np.float32], peaks: NDArray[np.int64], step_s: float) -> Times:
    """How much louder it is after each peak than before, mean over the bands in dB [K]."""
    long, gap = round(STAY_S / step_s), round(0.003 / step_s)
    usual = np.median(level, axis=0, keepdims=True).repeat(long + gap, axis=0)
    energy = 10 ** (np.concatenate([usual, level]).astype(np.float64) / 10)
    total = np.concatenate([np.zeros((1, energy.shape[1])), np.cumsum(energy, axis=0)])
    starts = peaks + long + gap
    ends = np.minimum(starts + long, len(energy))
    after = (total[ends] - total[starts]) / (ends - starts)[:, None]
    before = (total[peaks + long] - total[peaks]) / long
    return np.clip(10 * np.log10(after / before), 0, CEILING_DB).mean(1)


def _vertex(curve: Times, peaks: NDArray[np.int64]) -> Times:
    """Top of the parabola through each peak and its neighbours, in steps from the peak [K]."""
    if curve.size < 3:
        return np.zeros(peaks.size)
    inner = np.clip(peaks, 1, curve.size - 2)
    left, top, right = curve[inner - 1], curve[inner], curve[inner + 1]
    bend = left - 2 * top + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1.0), 0.0)
    return np.where(peaks == inner, np.clip(shift, -0.5, 0.5), 0.0)
