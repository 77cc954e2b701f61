"""A sound as 400 numbers, made by hand: what a distance between sets of sounds is measured on.

    3 × 64  mean, deviation and mean change of 64 log-mel bands
    16 × 8  modulation: how much each of 16 bands beats at eight rates from 0.5 to 50 Hz
    16 × 4  decay: how 16 bands rise and fall, as quantiles of their slope
    16      crest: how far single bins stand above their band

Levels are in dB / 20 relative to the loudest band-frame of the clip, so that gain does not matter.
The definition is fixed: distances of different versions are not compared.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foley_lab.evaluation.spectral import SAMPLE_RATE, magnitudes, mel_bands

N_FFT, HOP = 2048, 480
N_MELS, N_BANDS = 64, 16
RATES_HZ = (0.5, 1, 2, 4, 7, 12, 20, 32, 50)
SLOPE_QUANTILES = (0.02, 0.25, 0.75, 0.98)
DEPTH_DB = 80.0
SHORTEST_S = 1.0
SIZE = 3 * N_MELS + N_BANDS * (len(RATES_HZ) - 1 + len(SLOPE_QUANTILES) + 1)


def describe(sound: ArrayLike) -> NDArray[np.float64]:
    """The numbers of one sound [400]; sounds below a second are padded with silence.

    Raises:
        ValueError: If the sound is not [N] with finite samples.
    """
    samples = np.asarray(sound, np.float32)
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError(
            f"sound of shape {samples.shape}, wanted finite samples [N], mix it to mono"
        )
    samples = np.pad(samples, (0, max(0, round(SHORTEST_S * SAMPLE_RATE) - samples.size)))
    spectra = magnitudes(samples, N_FFT, HOP) ** 2  # [T, bins]
    energy = spectra @ mel_bands(N_FFT, N_MELS).T
    floor = 10 ** (-DEPTH_DB / 10)
    levels = np.log10(energy / max(float(energy.max()), 1e-9) + floor) / 2  # dB / 20, [T, 64]
    coarse = levels.reshape(len(levels), N_BANDS, -1).mean(2)  # [T, 16]
    changes = np.diff(levels, axis=0)
    slopes = np.quantile(np.diff(coarse, axis=0), SLOPE_QUANTILES, axis=0)
    parts = (levels.mean(0), levels.std(0), np.abs(changes).mean(0), _beats(coarse), slopes)
    return np.concatenate([*(part.ravel() for part in parts), _crests(spectra)]).astype(np.float64)


def _beats(levels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Modulation depth of each band in each range of rates [16, 8]."""
    swing = np.abs(np.fft.rfft(levels - levels.mean(0), axis=0)) ** 2 / len(levels) ** 2
    rates = np.fft.rfftfreq(len(levels), HOP / SAMPLE_RATE)
    ranges = itertools.pairwise(RATES_HZ)
    depth = [swing[(rates >= a) & (rates < b)].sum(0) for a, b in ranges]
    return np.sqrt(np.stack(depth, 1))


def _crests(spectra: NDArray[np.float32]) -> NDArray[np.float64]:
    """log10 of the highest over the mean bin of each band, of the loudest tenth of frames [16]."""
    loud = spectra[np.argsort(spectra.sum(1))[-max(1, len(spectra) // 10) :]]
    edges = np.geomspace(4, spectra.shape[1], N_BANDS + 1).astype(int)
    bands = [loud[:, a:b] for a, b in itertools.pairwise(edges)]
    return np.array([np.log10((b.max(1) + 1e-12) / (b.mean(1) + 1e-12)).mean() for b in bands])
