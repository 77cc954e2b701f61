"""What does it sound like: a small judge that names the material of a blow.

It hears a fifth of a second around an onset: how loud each of 32 mel bands is before the blow and
in six windows after it, which shows pitch and decay, and how far single partials stand out, which
tells ringing from rustling. Everything is relative to the loudest band, so level does not matter. A
two-layer network turns these numbers into one score per material; it has learned from synthetic
sound alone, a part of it blurred as decoders blur (`foley_lab.training.judge`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from foley_lab.evaluation.spectral import mel_bands
from foley_lab.signals import MATERIALS, SMALL_RATES
from foley_lab.weights import load_shipped

SAMPLE_RATE = SMALL_RATES.sample_rate
WINDOWS_S = (-0.030, -0.006, 0.004, 0.014, 0.030, 0.055, 0.100, 0.180)
"""Edges of the windows whose energies are heard, relative to the onset; the first is before it."""
NUM_BANDS = 32
N_FFT, HOP = 1024, 96
"""21 ms frames every 2 ms, so that neighbouring windows share as little as possible."""
TONE_FFT = 4096
NUM_TONE_BANDS = 12
DEPTH_DB = 60.0
NUM_FEATURES = (len(WINDOWS_S) - 1) * NUM_BANDS + NUM_TONE_BANDS


@dataclass(frozen=True)
class JudgeConfig:
    """Shape of the judge.

    Attributes:
        num_features: Numbers heard per blow.
        width: Hidden units.
        materials: Names of the outputs, in order.
    """

    num_features: int = NUM_FEATURES
    width: int = 96
    materials: tuple[str, ...] = MATERIALS


class MaterialJudge(nn.Module):
    """Features of blows [K, F] to one score per material [K, M] (logits)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config or JudgeConfig()
        self.register_buffer("mean", torch.zeros(self.config.num_features))
        self.register_buffer("scale", torch.ones(self.config.num_features))
        self.layers = nn.Sequential(
            nn.Linear(self.config.num_features, self.config.width),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(self.config.width, self.config.width),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(self.config.width, len(self.config.materials)),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.scale)

    @torch.no_grad()
    def judge(self, samples: ArrayLike, times_s: Sequence[float]) -> Tensor:
        """Log-probability of each material for each blow [K, M].

        Args:
            samples: Mono sound [N] at 48 kHz.
            times_s: Onsets in seconds.
        """
        features = torch.from_numpy(material_features(samples, times_s))
        return self(features).log_softmax(-1)

    def name(self, samples: ArrayLike, times_s: Sequence[float]) -> list[str]:
        """Most likely material of each blow; arguments as in `judge`."""
        best = self.judge(samples, times_s).argmax(-1)
        return [self.config.materials[i] for i in best.tolist()]

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and config, as a checkpoint keeps them."""
        return dict(self.state_dict()), asdict(self.config)


@cache
def load_judge() -> MaterialJudge:
    """The judge that ships with the package.

    Raises:
        MissingWeights: If its checkpoint is not there.
    """
    tensors, config = load_shipped("material", "judge")
    judge = MaterialJudge(JudgeConfig(**{**config, "materials": tuple(config["materials"])}))
    judge.load_state_dict(tensors)
    return judge.eval()


def material_features(samples: ArrayLike, times_s: Sequence[float]) -> NDArray[np.float32]:
    """What the judge hears.

    Args:
        samples: Mono sound [N] at 48 kHz.
        times_s: Onsets in seconds.

    Returns:
        [K, F]: levels in dB / 20, windows × bands, then how tonal 12 bands are.

    Raises:
        ValueError: If the sound is not [N] or not finite.
    """
    sound = np.asarray(samples, np.float32)
    if sound.ndim != 1 or sound.size == 0 or not np.isfinite(sound).all():
        raise ValueError(f"sound of shape {sound.shape}, wanted finite samples [N], mix it to mono")
    if not len(times_s):
        return np.zeros((0, NUM_FEATURES), np.float32)
    before = N_FFT // 2 - round(WINDOWS_S[0] * SAMPLE_RATE)
    after = round(WINDOWS_S[-1] * SAMPLE_RATE) + N_FFT // 2
    padded = np.pad(sound, (before, after + HOP))
    starts = np.round(np.asarray(times_s) * SAMPLE_RATE).astype(int)
    starts = np.clip(starts, 0, sound.size - 1)
    pieces = padded[starts[:, None] + np.arange(before + after + HOP)]  # [K, n]
    return np.concatenate([_levels(pieces), _tones(pieces[:, before:])], 1).astype(np.float32)


def _levels(pieces: NDArray[np.float32]) -> NDArray[np.float32]:
    """Level of each band in each window, 0 at the loudest [K, windows · bands]."""
    frames = np.lib.stride_tricks.sliding_window_view(pieces, N_FFT, axis=1)[:, ::HOP]
    spectra = np.fft.rfft(frames * _window(N_FFT), axis=-1).astype(np.complex64)
    mel = np.abs(spectra) ** 2 @ mel_bands(N_FFT, NUM_BANDS).T  # [K, frames, bands]
    middles = WINDOWS_S[0] + HOP / SAMPLE_RATE * np.arange(mel.shape[1])
    windows = itertools.pairwise(WINDOWS_S)
    means = [mel[:, (middles >= a) & (middles < b)].mean(1) for a, b in windows]
    energy = np.stack(means, 1)  # [K, windows, bands]
    loudest = energy.max((1, 2), keepdims=True) + 1e-9
    levels = 10 * np.log10(energy / loudest + 10 ** (-DEPTH_DB / 10))
    return (levels / 20).reshape(len(pieces), -1)


def _tones(pieces: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the highest partial stands above its band, log10 [K, 12]."""
    spectra = np.fft.rfft(pieces[:, :TONE_FFT] * _window(2 * TONE_FFT)[TONE_FFT:], axis=-1)
    power = np.abs(spectra).astype(np.float32) ** 2
    edges = np.geomspace(16, power.shape[1], NUM_TONE_BANDS + 1).astype(int)
    bands = [power[:, a:b] for a, b in itertools.pairwise(edges)]
    crests = [np.log10((b.max(1) + 1e-9) / (b.mean(1) + 1e-9)) for b in bands]
    return np.stack(crests, 1)


@cache
def _window(size: int) -> NDArray[np.float32]:
    return np.hanning(size + 2)[1:-1].astype(np.float32)
