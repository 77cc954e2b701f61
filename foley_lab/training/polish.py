"""Adversarial polish of a trained codec: `python -m foley_lab.training.polish --minutes 30`.

Regression on magnitudes leaves the average of what might have been: attacks a little soft, noise a
little smooth. Here three discriminators look at complex spectra (Défossez et al. 2022,
arXiv:2210.13438) and the decoder learns from them, with the spectral loss as an anchor:

    decoder         spectral + .05 · mean(−D(decoded)) + .1 · Σ |features − features of the true|
    discriminator   mean max(0, 1 − D(true)) + mean max(0, 1 + D(decoded))

It starts from `.runs/codec/best.pt`, keeps the analysis, so that latents stay what they are, and
wants a GPU: on a processor core one step costs several times a step of the codec itself.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foley_lab.decoders.vocoder import load_codec
from foley_lab.signals import MissingWeights
from foley_lab.training.codec import BATCH, export, prepare, score
from foley_lab.training.loop import Run, parse_run, train
from foley_lab.training.losses_audio import LENGTHS, SpectralLoss
from foley_lab.weights import SHIPPED

RESOLUTIONS = (2048, 512, 128)
CHANNELS = 32
ADVERSARIAL_WEIGHT, FEATURE_WEIGHT = 0.05, 0.1


class Discriminator(nn.Module):
    """One judge of complex spectra: samples [B, N] to features, the last of them the verdicts."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = [2, *[channels] * 4]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(a, b, (3, 9), stride=(1, 1 if i == 0 else 2), padding=(1, 4))
            )
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.verdict = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> list[Tensor]:
        n = self.n_fft
        spectrum = torch.stft(
            samples.float(), n, n // 4, window=self.window, center=False, return_complex=True
        ).transpose(1, 2)
        parts = torch.view_as_real(spectrum * (2 / self.window.sum()))
        # Cube root of the magnitude: decays 60 dB down are seen as well as attacks.
        parts = parts * (parts.square().sum(-1, keepdim=True) + 1e-10).pow(-1 / 3)
        x, features = parts.permute(0, 3, 1, 2), []  # [B, 2, frames, bins]
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.verdict(x).float()]


class Discriminators(nn.ModuleList):
    """A judge for each window length."""

    def __init__(self) -> None:
        super().__init__(Discriminator(n) for n in RESOLUTIONS)

    def forward(self, samples: Tensor) -> list[list[Tensor]]:
        return [judge(samples) for judge in self]


def discriminator_loss(true: list[list[Tensor]], decoded: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the verdicts, a scalar."""
    pairs = zip(true, decoded, strict=True)
    return _mean([F.relu(1 - t[-1]).mean() + F.relu(1 + d[-1]).mean() for t, d in pairs])


def decoder_losses(true: list[list[Tensor]], decoded: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Adversarial and feature-matching loss, both scalars; the features of `true` are constants."""
    adversarial = -_mean([d[-1].mean() for d in decoded])
    matching = [
        (d.float() - t.float()).abs().mean() / (t.float().abs().mean() + 1e-5)
        for ts, ds in zip(true, decoded, strict=True)
        for t, d in zip(ts[:-1], ds[:-1], strict=True)
    ]
    return adversarial, _mean(matching)


def _mean(losses: list[Tensor]) -> Tensor:
    return sum(losses[1:], losses[0]) / len(losses)


def train_polish(run: Run, start: Path) -> None:
    """Polish the codec of the folder `start`, and leave the best averages in the run's folder.

    Raises:
        MissingWeights: If no codec has been trained there.
    """
    if not (start / "best.pt").exists():
        raise MissingWeights(
            f"no codec in {start}, wanted best.pt, run `python -m foley_lab.training.codec` first"
        )
    best = torch.load(start / "best.pt", map_location="cpu", weights_only=True)
    codec = load_codec(best["model"], best["config"])
    crops, held_out = prepare(start, codec)
    torch.manual_seed(run.seed)
    judges = Discriminators().to(crops.device)
    loss = SpectralLoss(codec.config.sample_rate).to(crops.device)
    rates = {"lr": 2e-4, "betas": (0.8, 0.99), "fused": True}
    optimizer = torch.optim.AdamW(codec.vocoder.parameters(), **rates)
    judging = torch.optim.AdamW(judges.parameters(), **rates)

    def step_fn(step: int) -> dict[str, Tensor]:
        rng = run.rng(step)
        latents, true = crops.draw(rng, BATCH)
        with torch.autocast(crops.device.type, torch.bfloat16):
            decoded = codec.vocoder.decode(latents, first_frame=int(rng.integers(256)))[:, 0]
            hinge = discriminator_loss(judges(true), judges(decoded.detach()))
        judging.zero_grad(set_to_none=True)
        hinge.backward()
        judging.step()
        with torch.autocast(crops.device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = judges(true)
            adversarial, matching = decoder_losses(wanted, judges(decoded))
        spectral = loss(decoded, true, LENGTHS[step % 2 :: 2])
        total = spectral + ADVERSARIAL_WEIGHT * adversarial + FEATURE_WEIGHT * matching
        parts = {"spectral": spectral, "adversarial": adversarial, "matching": matching}
        return {"loss": total, "hinge": hinge.detach(), **parts}

    extra = {"judges": judges, "judging": judging}
    train(
        run, codec, optimizer, step_fn, lambda: score(codec, loss, held_out), best["config"], extra
    )


if __name__ == "__main__":
    planned = parse_run(Run("codec-polish", minutes=30.0), (__doc__ or "").partition("\n")[0])
    train_polish(planned, Path(planned.root) / "codec")
    print(export(planned.folder, planned.stem(SHIPPED / "small" / "codec")))
