"""What the transformer learns: the velocity from sound to noise (flow matching, arXiv:2209.03003,
arXiv:2403.03206).

    x_t = (1 − t) · latents + t · noise,   loss = mean ‖v(x_t, t) − (noise − latents)‖²

t is drawn logit-normally, which favours the middle of the way, where the answer is hardest. Now and
then the picture, the words, or both are withheld, so that guidance has a velocity to compare with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foley_lab.generators.foley import FoleyTransformer

DROP_ALL = 0.10
DROP_TEXT = 0.15
DROP_VIDEO = 0.10
"""Shares of samples that train without anything, without words only, without pictures only."""


def flow_matching_loss(
    transformer: FoleyTransformer,
    latents: Tensor,
    visual: Tensor,
    sync: Tensor,
    text: Tensor,
    generator: torch.Generator | None = None,
    dropout: bool = True,
) -> Tensor:
    """Mean squared error of the velocity at random times.

    Args:
        transformer: The student.
        latents: Clean latents [B, C, T].
        visual, sync, text: Its tokens [B, V, ·], [B, S, ·], [B, L, ·].
        generator: Source of times, noise and dropout, on the CPU.
        dropout: Withhold conditions; off for validation.

    Returns:
        Scalar float32.
    """
    batch, device = latents.shape[0], latents.device
    t = torch.randn(batch, generator=generator).sigmoid().to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    if dropout:
        no_video, no_text = draw_dropout(batch, generator)
        visual, sync = transformer.without_video(visual, sync, no_video.to(device))
        text = text * ~no_text.to(device)[:, None, None]
    x_t = latents.lerp(noise, t[:, None, None])
    conditions = transformer.prepare(visual, sync, text, latents.shape[-1])
    velocity = transformer.velocity(x_t, t, conditions)
    return F.mse_loss(velocity.float(), noise - latents)


def draw_dropout(batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Which samples go without pictures and which without words, boolean [batch] each."""
    u = torch.rand(batch, generator=generator)
    everything = u < DROP_ALL
    words = (u >= DROP_ALL) & (u < DROP_ALL + DROP_TEXT)
    pictures = (u >= DROP_ALL + DROP_TEXT) & (u < DROP_ALL + DROP_TEXT + DROP_VIDEO)
    return everything | pictures, everything | words
