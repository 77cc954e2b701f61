"""Latents to sound piece by piece: bounded memory, and the first sound early.

A piece is decoded with as many neighbours on both sides as the decoder's receptive field, and the
neighbours are cut off again, so that the pieces join into what one pass would give.

Loudness is limited in the same local way. Where a sample x exceeds the ceiling c, the gain

    g[n] = mean over |m − n| <= W of  min over |k − m| <= W of  min(1, c / |x[k]|)

never lets it through, since every minimum in the mean has seen it; the waveform is turned down for
2 · W samples to either side and keeps its shape (a peak limiter with look-ahead, Hämäläinen 2002).
What stays below the ceiling is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

CEILING = 0.99
"""Largest sample that leaves the house; rounding to 24 bits and to a codec stays below 1."""

REACH = 960
"""W, in samples: 20 ms, below which a gain would be heard as roughness."""


class PieceDecoder(Protocol):
    """A decoder that says how far it looks."""

    @property
    def receptive_field(self) -> int: ...

    def decode(self, latents: Tensor, first_frame: int = 0) -> Tensor: ...


def decode_pieces(
    decoder: PieceDecoder, latents: Tensor, hop_length: int, num_samples: int, piece: int
) -> Iterator[Tensor]:
    """The sound of latents [B, C, T] in pieces [B, 1, n] that join to [B, 1, num_samples].

    Args:
        decoder: Its `receptive_field` is in latent frames.
        hop_length: Samples per latent frame.
        num_samples: Length of the sound, at most T · hop_length.
        piece: Latent frames at once, at least 1.

    Returns:
        Float32 pieces on the CPU within ±`CEILING`, each made when it is asked for.
    """
    length = latents.shape[-1]
    margin = decoder.receptive_field + -(-2 * REACH // hop_length)
    for start in range(0, length, piece):
        first, last = max(0, start - margin), min(length, start + piece + margin)
        sound = decoder.decode(latents[..., first:last], first_frame=first).float()
        sound = limited(sound[..., : num_samples - first * hop_length])
        stop = min(num_samples, (start + piece) * hop_length)
        yield sound[..., (start - first) * hop_length : stop - first * hop_length].cpu()


def limited(samples: Tensor) -> Tensor:
    """Samples [B, 1, N] within ±`CEILING`: turned down around what exceeds it, else as they are."""
    level = samples.abs()
    if level.amax() <= CEILING:
        return samples
    attenuation = (level / CEILING).clamp(min=1.0)  # 1 / gain, so that the minimum is a maximum
    gain = 1.0 / _running_max(F.pad(attenuation, (REACH, REACH), value=1.0), 2 * REACH + 1)
    # By running sums: mean[n] = (sum to n + W − sum to n − W − 1) / count, in float64.
    sums = F.pad(gain.double().cumsum(-1), (1, 0))
    place = torch.arange(samples.shape[-1], device=samples.device)
    low = (place - REACH).clamp(min=0)
    high = (place + REACH + 1).clamp(max=samples.shape[-1])
    mean = (sums[..., high] - sums[..., low]) / (high - low)
    return (samples * mean.float()).clamp(-CEILING, CEILING)  # the clamp undoes rounding alone


def _running_max(x: Tensor, size: int) -> Tensor:
    """Largest of each `size` neighbours, [..., N] → [..., N − size + 1], by doubling the window."""
    width = 1
    while 2 * width <= size:
        x = torch.maximum(x[..., :-width], x[..., width:])
        width *= 2
    rest = size - width
    return torch.maximum(x[..., :-rest], x[..., rest:]) if rest else x
