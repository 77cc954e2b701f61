"""What must not be heard or seen: borders between pieces, and differences between runs.

A sound made in pieces may jump at their borders. The jump of a moment is the mean change of the
log-mel spectrum over it; the jumps at the borders are measured in standard deviations of the jumps
elsewhere. Drift, the other disease of long sounds, is `error_scores(...)["drift_ms_per_minute"]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from foley_lab.evaluation.spectral import FLOOR, SAMPLE_RATE, magnitudes, mel_bands

HOP = 240
N_FFT = 1024
N_MELS = 64
REACH = 3
"""A border is heard up to this many frames of 5 ms beside it."""


def seam_score(sound: ArrayLike, borders_s: Sequence[float]) -> float | None:
    """How much more the sound jumps at given moments than elsewhere, in standard deviations.

    Args:
        sound: Mono [N] at 48 kHz.
        borders_s: Where pieces meet, in seconds.

    Returns:
        Mean over the borders of (largest log-mel jump near it − expected) / deviation, where both
        come from stretches of the same width elsewhere; about 0 when nothing is heard, None when
        the sound has no borders inside or never changes.
    """
    samples = np.asarray(sound, np.float32)
    power = magnitudes(samples, N_FFT, HOP) ** 2 @ mel_bands(N_FFT, N_MELS).T
    jumps = np.abs(np.diff(np.log(np.maximum(power, FLOOR**2)), axis=0)).mean(1)
    width = 2 * REACH + 1
    frames = [round(b * SAMPLE_RATE / HOP) for b in borders_s]
    frames = [f for f in frames if REACH <= f < jumps.size - REACH]
    if not frames or jumps.size < 4 * width:
        return None
    near = np.zeros(jumps.size, bool)
    for frame in frames:
        near[frame - REACH : frame + REACH + 1] = True
    windows = np.lib.stride_tricks.sliding_window_view(jumps, width)
    elsewhere = windows[~np.lib.stride_tricks.sliding_window_view(near, width).any(1)].max(1)
    if not elsewhere.size or elsewhere.std() < 1e-9:
        return None
    at = np.array([jumps[f - REACH : f + REACH + 1].max() for f in frames])
    return float(((at - elsewhere.mean()) / elsewhere.std()).mean())


def first_difference(first: ArrayLike, second: ArrayLike) -> int | None:
    """Index of the first sample, flattened, whose bits differ; None for equal runs.

    Arrays of different shapes or types differ at 0.
    """
    a, b = np.ascontiguousarray(first), np.ascontiguousarray(second)
    if a.shape != b.shape or a.dtype != b.dtype:
        return 0
    bits = f"V{a.dtype.itemsize}"
    different = np.flatnonzero(a.ravel().view(bits) != b.ravel().view(bits))
    return int(different[0]) if different.size else None
