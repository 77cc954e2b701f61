"""What the transformer learns: the velocity from sound to noise (flow matching, arXiv:2209.03003,
arXiv:2403.03206).

    x_t = (1 − t) · latents + t · noise,   loss = mean ‖v(x_t, t) − (noise − latents)‖²

t is drawn logit-normally, which favours the middle of the way, where the answer is hardest. What is
withheld now and then, so that guidance has a velocity to compare with, is decided by whoever draws
the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foley_lab.generators.foley import FoleyTransformer


def flow_matching_loss(
    transformer: FoleyTransformer,
    latents: Tensor,
    visual: Tensor,
    sync: Tensor,
    text: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared error of the velocity at random times.

    Args:
        transformer: The student.
        latents: Clean latents [B, C, T].
        visual, sync, text: Its tokens [B, V, ·], [B, S, ·], [B, L, ·].
        generator: Source of times and noise, on the CPU.

    Returns:
        Scalar float32.
    """
    batch, device = latents.shape[0], latents.device
    t = torch.randn(batch, generator=generator).sigmoid().to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    x_t = latents.lerp(noise, t[:, None, None])
    conditions = transformer.prepare(visual, sync, text, latents.shape[-1])
    velocity = transformer.velocity(x_t, t, conditions)
    return F.mse_loss(velocity.float(), noise - latents)
