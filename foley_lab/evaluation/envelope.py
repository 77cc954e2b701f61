"""Loudness over time of two sounds: do they rise and fall together, and which one is later.

Envelopes are RMS levels in dB every 5 ms, floored 60 dB below the loudest step, so that what is
heard counts and the noise does not. The lag is the shift of best correlation within ±500 ms, its
fraction of a step from a parabola through the best three.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foley_lab.evaluation.spectral import FLOOR, envelope, equal_lengths

STEP_S = 0.005
DEPTH_DB = 60.0
REACH_S = 0.5


def envelope_agreement(sound: ArrayLike, reference: ArrayLike) -> tuple[float | None, float | None]:
    """Correlation of the loudness in dB, and how much later the sound is.

    Args:
        sound, reference: Mono at 48 kHz, [N] and [M]; the sound is brought to the length M.

    Returns:
        Pearson's r at no shift, −1 to 1; and the lag in seconds, positive when the sound is late.
        Both None when one of them never changes, as silence does.

    Raises:
        ValueError: If the reference is empty, or a sound is not [N].
    """
    a, b = (_level(each) for each in equal_lengths(sound, reference))
    if np.ptp(a) < 1e-6 or np.ptp(b) < 1e-6:
        return None, None
    reach = min(round(REACH_S / STEP_S), a.size // 2)
    curve = np.array([_pearson(a, b, shift) for shift in range(-reach, reach + 1)])
    best = int(curve.argmax())
    fraction = 0.0
    if 0 < best < curve.size - 1:
        left, top, right = curve[best - 1 : best + 2]
        bend = left - 2 * top + right
        fraction = float(0.5 * (left - right) / bend) if bend < 0 else 0.0
    return float(curve[reach]), (best - reach + fraction) * STEP_S


def _level(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    rms = envelope(sound, STEP_S).astype(np.float64)
    floor = max(float(rms.max(initial=0.0)) * 10 ** (-DEPTH_DB / 20), FLOOR)
    return 20 * np.log10(np.maximum(rms, floor))


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64], shift: int) -> float:
    """Correlation of a, taken `shift` steps later, with b, over what they share."""
    x, y = (a[shift:], b[: b.size - shift]) if shift >= 0 else (a[:shift], b[-shift:])
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 1e-9 else 0.0
