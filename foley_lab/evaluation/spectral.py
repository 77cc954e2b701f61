"""How alike are two sounds: distances of spectra and of loudness over time.

All functions take mono sounds [N] at 48 kHz and bring the first to the length of the second: what
is missing is silence, what is too much is cut. Below −80 dB of full scale nothing is compared,
because nobody hears which noise it is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct

from foley_lab.signals import SMALL_RATES

Array = NDArray[np.float32]

SAMPLE_RATE = SMALL_RATES.sample_rate
FLOOR = 1e-4
"""Amplitude of −80 dB."""
SIZES = (512, 1024, 2048, 4096)
HIGH_BAND_HZ = (8_000.0, 20_000.0)
QUIET_DB, QUIET_HIGH_DB = -60.0, -70.0
"""A reference counts as at least this much white noise, dBFS, in the whole and in the high band.
Nearly all sounds with a blow lie above; without a floor, what is heard over silence would lie as
good as infinitely far from it and decide the mean of all clips."""


def mr_stft(
    sound: ArrayLike,
    reference: ArrayLike,
    sizes: tuple[int, ...] = SIZES,
    quiet_db: tuple[float, float] = (QUIET_DB, QUIET_HIGH_DB),
) -> tuple[float, float]:
    """Multi-resolution STFT distance (Yamamoto et al. 2020, arXiv:1910.11480, eq. 4 to 6).

    Args:
        sound, reference: [N] and [M].
        sizes: Windows in samples; the hop is a quarter.
        quiet_db: ‖R‖ is at least that of white noise of this level, dBFS, in either band.

    Returns:
        Mean over window sizes of ‖S − R‖ / ‖R‖ + mean |ln S − ln R|; 0 for equal sounds. First of
        all frequencies, then of 8 to 20 kHz alone, the band that most measures do not hear.

    Raises:
        ValueError: If the reference is empty, or a sound is not [N].
    """
    a, b = equal_lengths(sound, reference)
    distances = []
    for size in sizes:
        s, r = (magnitudes(each, size, size // 4) for each in (a, b))
        logs = np.abs(np.log(np.maximum(s, FLOOR)) - np.log(np.maximum(r, FLOOR)))
        low, high = (round(f * size / SAMPLE_RATE) for f in HIGH_BAND_HZ)
        noise = np.sqrt(6 / size)  # magnitude of white noise of full scale under a Hann window
        both = []
        for band, quiet in zip((slice(None), slice(low, high + 1)), quiet_db, strict=True):
            floor = 10 ** (quiet / 20) * noise * np.sqrt(r[:, band].size)
            loudness = max(float(np.linalg.norm(r[:, band])), float(floor))
            convergence = float(np.linalg.norm(s[:, band] - r[:, band])) / loudness
            both.append(convergence + float(logs[:, band].mean()))
        distances.append(both)
    whole, above = np.mean(distances, axis=0)
    return float(whole), float(above)


def log_spectral_distance(sound: ArrayLike, reference: ArrayLike) -> float:
    """Root mean square over frequency of the difference in dB, mean over frames (LSD).

    Raises:
        ValueError: As in `mr_stft`.
    """
    a, b = (magnitudes(each, 2048, 512) for each in equal_lengths(sound, reference))
    difference = 20 * np.log10(np.maximum(a, FLOOR) / np.maximum(b, FLOOR))
    return float(np.sqrt((difference**2).mean(1)).mean())


def mel_cepstral_distortion(sound: ArrayLike, reference: ArrayLike) -> float:
    """MCD-13 in dB (Kubichek 1993): distance of mel cepstra 1 to 13, without the level.

    Frames are compared one to one: the clips are in step, so nothing is warped.

    Raises:
        ValueError: As in `mr_stft`.
    """
    filters, cepstra = mel_bands(2048, 80), []
    for each in equal_lengths(sound, reference):
        energy = magnitudes(each, 2048, SAMPLE_RATE // 100) ** 2 @ filters.T
        logs = 0.5 * np.log(np.maximum(energy, FLOOR**2))
        cepstra.append(np.asarray(dct(logs, axis=1, norm="ortho"))[:, 1:14])
    distance = np.sqrt(2 * ((cepstra[0] - cepstra[1]) ** 2).sum(1)).mean()
    # √(2 / M) turns the orthonormal transform into cepstra of log|H| = c_0 + Σ c_k cos kω.
    return float(10 / np.log(10) * distance * np.sqrt(2 / filters.shape[0]))


def log_mel_l1(
    sound: ArrayLike, reference: ArrayLike, n_fft: int = 1024, n_mels: int = 64
) -> float:
    """Mean |ln M − ln R| over mel bands every 10 ms; 0 for equal sounds.

    Raises:
        ValueError: As in `mr_stft`.
    """
    filters = mel_bands(n_fft, n_mels)
    logs = []
    for each in equal_lengths(sound, reference):
        energy = magnitudes(each, n_fft, SAMPLE_RATE // 100) ** 2 @ filters.T
        logs.append(0.5 * np.log(np.maximum(energy, FLOOR**2)))
    return float(np.abs(logs[0] - logs[1]).mean())


def envelope_correlation(sound: ArrayLike, reference: ArrayLike) -> float | None:
    """Correlation of the loudness of both sounds in steps of 10 ms; −1 to 1, None for silence.

    Raises:
        ValueError: As in `mr_stft`.
    """
    a, b = (envelope(each).astype(float) for each in equal_lengths(sound, reference))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > FLOOR**2 else None


def envelope(sound: ArrayLike, step_s: float = 0.01) -> Array:
    """RMS of each step [N / step]; the rest shorter than a step is padded with silence."""
    samples = np.asarray(sound, np.float32)
    step = round(step_s * SAMPLE_RATE)
    steps = np.pad(samples, (0, -samples.size % step)).reshape(-1, step)
    return np.sqrt(np.mean(steps**2, axis=1))


def magnitudes(sound: Array, n_fft: int, hop_length: int) -> Array:
    """Magnitude STFT [frames, n_fft / 2 + 1]; a sine of full scale reaches 1."""
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    padded = np.pad(sound, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    spectra = np.fft.rfft(frames * window, axis=1)
    return np.abs(spectra).astype(np.float32) * np.float32(2 / window.sum())


@cache
def mel_bands(n_fft: int, n_mels: int, low_hz: float = 50.0) -> Array:
    """Triangular filters on the mel scale 2595 · log10(1 + f / 700), [n_mels, n_fft / 2 + 1].

    They reach from `low_hz` to half of 48 kHz and sum to one each.
    """
    frequencies = np.fft.rfftfreq(n_fft, 1 / SAMPLE_RATE)
    low, high = (2595 * np.log10(1 + f / 700) for f in (low_hz, SAMPLE_RATE / 2))
    corners = 700 * (10 ** (np.linspace(low, high, n_mels + 2) / 2595) - 1)
    left, middle, right = (corners[i : i + n_mels, None] for i in range(3))
    rise, fall = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    filters = np.clip(np.minimum(rise, fall), 0, None)
    # A band narrower than the grid hears at least the nearest bin.
    rows, nearest = np.arange(n_mels), np.abs(frequencies - middle).argmin(1)
    filters[rows, nearest] = np.maximum(filters[rows, nearest], 1e-3)
    return (filters / filters.sum(1, keepdims=True)).astype(np.float32)


def equal_lengths(sound: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    """Both as float32, the first cut or padded with silence to the length of the second.

    Raises:
        ValueError: If the reference is empty, or a sound is not [N].
    """
    a, b = np.asarray(sound, np.float32), np.asarray(reference, np.float32)
    if a.ndim != 1 or b.ndim != 1 or b.size == 0:
        raise ValueError(
            f"sounds of shapes {a.shape} and {b.shape}, wanted [N] with N > 0, mix them to mono"
        )
    return np.pad(a[: b.size], (0, max(0, b.size - a.size))), b
