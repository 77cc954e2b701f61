"""The codec of the small model: a fixed analysis into latents and a learned one-pass decoder.

    samples [B, 1, N] ─LatentAnalysis.encode→ latents [B, 128, T] ─Vocoder.decode→ [B, 1, T · 1920]

*Analysis* is not learned, so that it cannot collapse and a generator can train on it from the first
minute: 64 log-mel bands at 100 Hz say what sounds, 8 log-energy bands at 400 Hz say when, and PCA
keeps 128 of these 384 numbers per latent frame of 40 ms. Latent frame k describes the samples from
k · 1920 to (k + 1) · 1920.

*Vocoder* is a ConvNeXt on frames whose last layer is an inverse Fourier transform, as in Vocos
(Siuzdak 2023, arXiv:2306.00814). A struck body needs two things that one window cannot give, long
windows for its partials and short ones for its attack, so there are two heads:

    ring    complex spectrum, windows of 40 ms, times a gain drawn every 2.5 ms against pre-echo
    noise   magnitudes of random phase, windows of 5 ms: clicks, gravel, scrapes (after DDSP,
            Engel et al. 2020, arXiv:2001.04643)

Phases of the ring head are relative to a sinusoid that runs through from frame to frame at the
centre of each bin, so that a partial that lasts is an output that stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE_PERIOD = 4096
"""Noise frames after which the fixed noise repeats (10.24 s); a multiple of a latent frame."""


@dataclass(frozen=True)
class VocoderConfig:
    """Shape of the codec, saved in its checkpoint; lengths in samples at `sample_rate`.

    Attributes:
        sample_rate: Samples per second.
        hop_length: Samples per latent frame.
        latent_dim: Latent channels.
        n_mels, mel_n_fft, mel_hop_length, mel_floor: Log-mel part of the analysis; the floor is an
            amplitude, where a full-scale sine is 1.
        n_bands, band_n_fft, band_hop_length, band_floor, band_weight: Log-energy part.
        width: Channels of the decoder.
        expansion: Hidden channels of a block / width.
        slow_blocks, fast_blocks: Blocks at the latent rate and at the rate of the ring frames.
        ring_n_fft, ring_hop_length: Windows of the ring head.
        noise_n_fft, noise_hop_length: Windows of the noise head.
        noise_seed: Seed of the noise, fixed so that decoding is a function of the latents.
    """

    sample_rate: int = 48_000
    hop_length: int = 1920
    latent_dim: int = 128
    n_mels: int = 64
    mel_n_fft: int = 1024
    mel_hop_length: int = 480
    mel_floor: float = 2e-4
    n_bands: int = 8
    band_n_fft: int = 256
    band_hop_length: int = 120
    band_floor: float = 1e-3
    band_weight: float = 0.7
    width: int = 256
    expansion: int = 3
    slow_blocks: int = 2
    fast_blocks: int = 6
    ring_n_fft: int = 1920
    ring_hop_length: int = 480
    noise_n_fft: int = 240
    noise_hop_length: int = 120
    noise_seed: int = 0


# ---------------------------------------------------------------------------------------- analysis


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangles of unit peak, evenly spaced in mel from 0 Hz to Nyquist: [n_fft // 2 + 1, n_mels].

    Where the triangles are narrower than a bin they are widened to one, so that no band is empty.
    """
    top = 2595.0 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, n_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]
    left, centre, right = (edges[i : i + n_mels] * n_fft / sample_rate for i in range(3))
    rising = (bins - left) / (centre - left).clamp(min=1.0)
    falling = (right - bins) / (right - centre).clamp(min=1.0)
    shifted = 1 - (bins - centre).abs()  # a band narrower than its bin, seen from the nearest bins
    return torch.maximum(torch.minimum(rising, falling), shifted).clamp(0, 1).float()


class _Bands(nn.Module):
    """Amplitudes of bands [B, frames, bands] of samples [B, N]; frame j is centred in hop j."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_bands: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window * 2 / window.sum(), persistent=False)
        filters = mel_filters(sample_rate, n_fft, n_bands)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        around = (self.n_fft - self.hop_length) // 2
        frames = F.pad(samples, (around, around)).unfold(-1, self.n_fft, self.hop_length)
        spectrum = torch.fft.rfft(frames * self.window)
        return (spectrum.abs().square() @ self.filters).sqrt()


class LatentAnalysis(nn.Module):
    """The fixed encoder: bands → logarithm → PCA (`mean`, `projection`) → `scale`.

    Principal components are divided by the square root of their deviation: whitening would make a
    generator spend its loss on what cannot be heard, raw scale would let five channels rule.
    """

    mean: Tensor
    projection: Tensor
    scale: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.mel = _Bands(c.sample_rate, c.mel_n_fft, c.mel_hop_length, c.n_mels)
        self.band = _Bands(c.sample_rate, c.band_n_fft, c.band_hop_length, c.n_bands)
        mel_frames = c.hop_length // c.mel_hop_length
        band_frames = c.hop_length // c.band_hop_length
        size = mel_frames * c.n_mels + band_frames * c.n_bands
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("projection", torch.eye(size)[: c.latent_dim].clone())
        self.register_buffer("scale", torch.ones(c.latent_dim))

    @torch.no_grad()
    def describe(self, samples: Tensor) -> Tensor:
        """What is heard in each latent frame, before the PCA: [B, 1, N] → [B, T, 384]."""
        c = self.config
        if samples.ndim != 3 or samples.shape[1] != 1 or samples.shape[2] == 0:
            raise ValueError(
                f"samples of shape {tuple(samples.shape)}, wanted [B, 1, N] with N > 0; "
                "mix to mono and add the batch"
            )
        num_frames = math.ceil(samples.shape[-1] / c.hop_length)
        samples = F.pad(samples[:, 0].float(), (0, num_frames * c.hop_length - samples.shape[-1]))
        mel = torch.log(self.mel(samples) + c.mel_floor)
        band = torch.log(self.band(samples) + c.band_floor) * c.band_weight
        parts = [part.reshape(len(samples), num_frames, -1) for part in (mel, band)]
        return torch.cat(parts, -1)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> Tensor:
        """Find mean, projection and scale from sounds [B, 1, N]; the only learning there is.

        Returns:
            Share of the variance explained by the first 1 … 384 components [384].
        """
        described = torch.cat([self.describe(samples).flatten(0, 1) for samples in batches])
        mean = described.double().mean(0)
        centred = described.double() - mean
        variance, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        variance, directions = variance.flip(0).clamp(min=0), directions.flip(1)
        kept = variance[: self.config.latent_dim]
        overall = kept.sqrt().mean().sqrt()  # deviation of all numbers after the division by σ^½
        # Rounded to half precision here, so that a shipped analysis gives the very same latents.
        self.mean.copy_(mean.half())
        self.projection.copy_(directions[:, : len(kept)].T.half())
        self.scale.copy_((kept.clamp(min=1e-8).pow(0.25) * overall).half())
        return (variance.cumsum(0) / variance.sum()).float()

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Samples [B, 1, N] to latents [B, 128, T], T = ceil(N / 1920), zeros added on the right.

        Raises:
            ValueError: If the shape is another.
        """
        latents = (self.describe(samples) - self.mean) @ self.projection.T / self.scale
        return latents.transpose(1, 2)  # [B, C, T]


# ----------------------------------------------------------------------------------------- decoder


class _Block(nn.Module):
    """ConvNeXt block (Liu et al. 2022, arXiv:2201.03545) on [B, T, D]."""

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.gamma * self.contract(F.gelu(self.expand(self.norm(y))))


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Frames [B, J, n] to samples [B, J · hop], frame j centred in hop j; n a multiple of hop."""
    batch, count, size = frames.shape
    overlap = size // hop_length
    pieces = frames.reshape(batch, count, overlap, hop_length).unbind(2)
    shifted = [F.pad(piece, (0, 0, i, overlap - 1 - i)) for i, piece in enumerate(pieces)]
    total = sum(shifted[1:], shifted[0])
    around = (size - hop_length) // 2
    return total.flatten(1)[:, around : around + count * hop_length]


class Vocoder(nn.Module):
    """Latents to sound in one pass, deterministic; batched = alone.

    A sample depends on the latent frames within `receptive_field` of its own and on its place
    modulo 10.24 s (the fixed noise), so a long sound may be decoded in pieces: decode each with
    that many frames of context on both sides, name its place with `first_frame`, and cut the
    context off.
    """

    noise: Tensor
    turns: Tensor
    ring_window: Tensor
    noise_window: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.fast_rate = c.hop_length // c.ring_hop_length  # ring frames per latent frame
        self.fine_rate = c.ring_hop_length // c.noise_hop_length  # noise frames per ring frame
        ring_bins, noise_bins = c.ring_n_fft // 2 + 1, c.noise_n_fft // 2 + 1
        self.sizes = [ring_bins, ring_bins, self.fine_rate, self.fine_rate * noise_bins]
        hidden, scale = c.width * c.expansion, 1.0 / (c.slow_blocks + c.fast_blocks)
        self.enter = nn.Conv1d(c.latent_dim, c.width, 3, padding=1)
        self.slow = nn.ModuleList(_Block(c.width, hidden, scale) for _ in range(c.slow_blocks))
        self.upsample = nn.Linear(c.width, c.width * self.fast_rate)
        self.fast = nn.ModuleList(_Block(c.width, hidden, scale) for _ in range(c.fast_blocks))
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, sum(self.sizes))
        with torch.no_grad():
            # Start near silence (levels about −55 dB) with open gains.
            starts = zip(self.head.bias.split(self.sizes), (-6.0, 0.0, 3.0, -7.0), strict=True)
            for bias, value in starts:
                bias.fill_(value)
        self._add_tables()

    def _add_tables(self) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(c.noise_seed)
        angles = 2 * math.pi * torch.rand(NOISE_PERIOD, c.noise_n_fft // 2 + 1, generator=generator)
        # A bin of the ring head turns by 2π · k · hop / n_fft from one frame to the next.
        steps = torch.arange(c.ring_n_fft // c.ring_hop_length)[:, None]
        bins = torch.arange(c.ring_n_fft // 2 + 1)[None]
        turns = 2 * math.pi * ((steps * bins * c.ring_hop_length) % c.ring_n_fft) / c.ring_n_fft
        tables = {"noise": torch.stack([angles.cos(), angles.sin()]), "turns": turns}
        # Scaled so that a bin of magnitude 1 is a sine of amplitude 1 (ring), or noise of level 1.
        tables["ring_window"] = torch.hann_window(c.ring_n_fft) * c.ring_n_fft / 2
        tables["noise_window"] = torch.hann_window(c.noise_n_fft) * c.noise_n_fft**0.5
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    @property
    def receptive_field(self) -> int:
        """Latent frames on each side of its own on which a latent frame of sound depends."""
        c = self.config
        fast = 3 * c.fast_blocks + c.ring_n_fft // (2 * c.ring_hop_length)
        return 1 + 3 * c.slow_blocks + math.ceil(fast / self.fast_rate)

    def decode(self, latents: Tensor, first_frame: int = 0) -> Tensor:
        """Latents [B, 128, T] to samples [B, 1, T · 1920], float32.

        Args:
            latents: From `LatentAnalysis.encode` or from a generator.
            first_frame: Place of the first latent frame in the whole sound, for decoding in pieces.

        Raises:
            ValueError: If the shape is another.
        """
        c = self.config
        if latents.ndim != 3 or latents.shape[1] != c.latent_dim or latents.shape[2] == 0:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)}, wanted [B, {c.latent_dim}, T], T > 0; "
                "encode with the analysis of this codec"
            )
        x = self.enter(latents.to(self.enter.weight.dtype)).transpose(1, 2)  # [B, T, D]
        for block in self.slow:
            x = block(x)
        x = self.upsample(x).unflatten(-1, (self.fast_rate, -1)).flatten(1, 2)  # [B, 4T, D]
        for block in self.fast:
            x = block(x)
        level, phase, gain, noise = self.head(self.norm(x)).float().split(self.sizes, -1)
        samples = self._ring(level, phase, gain) + self._noise(noise, first_frame)
        return samples[:, None]  # [B, 1, N]

    def _ring(self, level: Tensor, phase: Tensor, gain: Tensor) -> Tensor:
        c = self.config
        turns = self.turns.repeat(level.shape[1] // len(self.turns) + 1, 1)[: level.shape[1]]
        magnitude, phase = level.clamp(max=2.0).exp(), phase + turns
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())  # [B, J, bins]
        frames = torch.fft.irfft(spectrum) * self.ring_window
        weight = torch.hann_window(c.ring_n_fft, device=frames.device).expand(1, level.shape[1], -1)
        ring = _overlap_add(frames, c.ring_hop_length) / _overlap_add(weight, c.ring_hop_length)
        gains = torch.sigmoid(gain.flatten(1))[:, None]  # [B, 1, 16T], every 2.5 ms
        smooth = F.interpolate(gains, size=ring.shape[-1], mode="linear")
        return ring * smooth[:, 0]

    def _noise(self, level: Tensor, first_frame: int) -> Tensor:
        c = self.config
        level = level.unflatten(-1, (self.fine_rate, -1)).flatten(1, 2)  # [B, 16T, bins]
        start = first_frame * (c.hop_length // c.noise_hop_length)
        place = (start + torch.arange(level.shape[1], device=level.device)) % NOISE_PERIOD
        magnitude, phase = level.clamp(max=2.0).exp(), self.noise[:, place]
        spectrum = torch.complex(magnitude * phase[0], magnitude * phase[1])  # [B, 16T, bins]
        frames = torch.fft.irfft(spectrum) * self.noise_window
        return _overlap_add(frames, c.noise_hop_length)


# ------------------------------------------------------------------------------------------- whole


class Codec(nn.Module):
    """Analysis and vocoder, which share one checkpoint; a decoder with an `encode`."""

    def __init__(self, config: VocoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or VocoderConfig()
        self.analysis = LatentAnalysis(self.config)
        self.vocoder = Vocoder(self.config)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Samples [B, 1, N] to latents [B, 128, ceil(N / 1920)]."""
        return self.analysis.encode(samples)

    @torch.no_grad()
    def decode(self, latents: Tensor, first_frame: int = 0) -> Tensor:
        """Latents [B, 128, T] to samples [B, 1, T · 1920]; see `Vocoder`."""
        return self.vocoder.decode(latents, first_frame)

    @property
    def receptive_field(self) -> int:
        """Latent frames of context that a piece needs on each side."""
        return self.vocoder.receptive_field


def load_codec(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Codec:
    """The codec of a checkpoint, in float32 and eval mode.

    Args:
        tensors: Its state, in any floating-point type.
        config: Fields of `VocoderConfig`.

    Raises:
        ValueError: If the configuration has fields that are unknown here.
        RuntimeError: If keys or shapes differ (strict loading).
    """
    unknown = set(config) - {item.name for item in fields(VocoderConfig)}
    if unknown:
        raise ValueError(
            f"codec configuration with {sorted(unknown)}, wanted fields of VocoderConfig; "
            "export the checkpoint again"
        )
    codec = Codec(VocoderConfig(**config))
    codec.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return codec.eval()
