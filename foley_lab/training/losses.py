"""What the transformer learns: the velocity from sound to noise (flow matching, arXiv:2209.03003,
arXiv:2403.03206).

    x_t = (1 − t) · latents + t · noise,   loss = mean w · ‖v(x_t, t) − (noise − latents)‖²

t is drawn logit-normally, which favours the middle of the way, where the answer is hardest, and
leans a little to the noise, where it is decided what will sound. The weights w of latent frames
depend on the conditions alone, so the best answer stays the same; they let a network that sees
mostly silence learn from what sounds. What is withheld now and then, so that guidance has a
velocity to compare with, is decided by whoever draws the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foley_lab.generators.foley import FoleyTransformer

SOUND_WEIGHT = 3.0
"""How much more a latent frame counts in which something sounds."""

LEAN = 0.4
"""Mean of the normal draw whose logistic is t."""


def flow_matching_loss(
    transformer: FoleyTransformer,
    latents: Tensor,
    visual: Tensor,
    sync: Tensor,
    text: Tensor,
    generator: torch.Generator | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the velocity at random times.

    Args:
        transformer: The student.
        latents: Clean latents [B, C, T].
        visual, sync, text: Its tokens [B, V, ·], [B, S, ·], [B, L, ·].
        generator: Source of times and noise, on the CPU.
        weight: Of each latent frame [B, T], default 1.

    Returns:
        Scalar float32.
    """
    batch, device = latents.shape[0], latents.device
    t = (torch.randn(batch, generator=generator) + LEAN).sigmoid().to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    x_t = latents.lerp(noise, t[:, None, None])
    conditions = transformer.prepare(visual, sync, text, latents.shape[-1])
    velocity = transformer.velocity(x_t, t, conditions)
    error = F.mse_loss(velocity.float(), noise - latents, reduction="none").mean(1)  # [B, T]
    return error.mean() if weight is None else (weight * error).sum() / weight.sum()
