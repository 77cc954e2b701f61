"""How far a decoded sound is from the true one, at several window lengths.

At each length n, with |S| the magnitudes scaled so that a full-scale sine is 1:

    .5 · ‖|S| − |Ŝ|‖ / ‖|S|‖  +  .5 · mean |log|S| − log|Ŝ||  +  mean |log mel − log m̂el|

(Yamamoto et al. 2020, arXiv:1910.11480, with a mel term). Logarithms have floors, because nobody
hears what lies 80 dB below a full-scale sine. The transform is one product with a windowed Fourier
matrix in bfloat16, which processors with matrix units do several times faster than an FFT; its
rounding lies far below the floors for all but the loudest frames. Scores use the exact transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foley_lab.decoders.vocoder import mel_filters

LENGTHS = (128, 512, 1024, 2048)
FLOOR = 1e-4  # −80 dB
NUM_MELS = {128: 8, 512: 48, 1024: 80, 2048: 128}  # the short one weighs attacks and pre-echo


class SpectralLoss(nn.Module):
    """Distance of sounds [B, N] at some of the window lengths; hop a quarter of the window."""

    def __init__(self, sample_rate: int, lengths: Sequence[int] = LENGTHS) -> None:
        super().__init__()
        self.lengths = tuple(lengths)
        for n in lengths:
            angles = torch.outer(torch.arange(n), torch.arange(n // 2 + 1)) % n * (2 * math.pi / n)
            window = torch.hann_window(n)
            window = (window * 2 / window.sum())[:, None]
            basis = torch.cat([window * angles.cos(), window * angles.sin()], 1)  # [n, 2 · bins]
            self.register_buffer(f"basis{n}", basis.bfloat16(), persistent=False)
            filters = mel_filters(sample_rate, n, NUM_MELS[n])
            self.register_buffer(f"mel{n}", filters, persistent=False)

    def magnitudes(self, samples: Tensor, n: int, exact: bool = False) -> Tensor:
        """Magnitudes [B, frames, bins] of samples [B, N] with windows of n."""
        if exact:
            window = torch.hann_window(n, device=samples.device)
            spectrum = torch.stft(
                samples, n, n // 4, window=window, center=False, return_complex=True
            )
            return spectrum.abs().transpose(1, 2) * (2 / window.sum())
        hop_length = n // 4
        hops = samples[:, : samples.shape[1] // hop_length * hop_length].bfloat16()
        hops = hops.unflatten(1, (-1, hop_length))
        count = hops.shape[1] - 3
        frames = torch.cat([hops[:, i : i + count] for i in range(4)], -1)  # [B, frames, n]
        real, imag = (frames @ self.get_buffer(f"basis{n}")).float().chunk(2, -1)
        return (real.square() + imag.square() + 1e-12).sqrt()  # the root has no slope at 0

    def terms(
        self, decoded: Tensor, true: Tensor, n: int, exact: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spectral convergence, log-magnitude L1 and log-mel L1, each a mean over all."""
        with torch.no_grad():
            wanted = self.magnitudes(true, n, exact)
        got = self.magnitudes(decoded, n, exact)
        # Quiet crops weigh less: their own norm would blow the noise floor up to full loss.
        size = wanted.flatten(1).norm(dim=1).clamp(min=0.1)
        convergence = ((got - wanted).flatten(1).norm(dim=1) / size).mean()
        log = (torch.log(got + FLOOR) - torch.log(wanted + FLOOR)).abs().mean()
        filters = self.get_buffer(f"mel{n}")
        bands = [torch.log((x.square() @ filters).sqrt() + FLOOR) for x in (got, wanted)]
        mel = (bands[0] - bands[1]).abs().mean()
        return convergence, log, mel

    def forward(self, decoded: Tensor, true: Tensor, lengths: Sequence[int]) -> Tensor:
        """Mean loss over `lengths`, a scalar."""
        total = decoded.new_zeros(())
        for n in lengths:
            convergence, log, mel = self.terms(decoded, true, n)
            total = total + 0.5 * convergence + 0.5 * log + mel
        return total / len(lengths)
