"""The eyes of the small model: decoded frames in, content out, and what sounds when.

Frames become patches by one matrix product. Half of the stem's channels are *appearance*; the other
half are *motion*: they are replaced by their differences to the previous and the next frame. A
difference after a linear stem is a stem on differences, at a third of the cost, and without it a
short training finds no events at all. A small convolutional trunk follows, flattened and not pooled
(where something moves matters), beside a few attention-pooled glances and a map of which material
sounds where (what it looks like does not depend on the place), then ConvNeXt blocks over time. The
network counts in frames: which clock they follow is decided outside (`encoders.clock`).

The main target is a heat map with `BINS` bins per frame: bin j stands for the instant j / BINS
frames, so that an event between two frames has a place of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foley_lab.signals import KINDS, MATERIALS

BINS = 4
"""Heat-map bins per frame."""

_HEADS = (BINS, 1, len(KINDS), len(MATERIALS), 2)
"""Outputs per frame: heat, strength, kind, material, motion."""


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the visual network. Frames are `size` pixels square, a multiple of 4 * `patch`."""

    size: int = 96
    patch: int = 6
    stem: int = 128
    trunk: int = 128
    deep: int = 192
    glances: int = 4
    width: int = 256
    blocks: int = 6
    kernel: int = 7
    sync: int = 128
    content: int = 128
    families: int = 13

    def as_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self)


class TemporalBlock(nn.Module):
    """ConvNeXt over time: depthwise convolution, norm, pointwise MLP, residual (Liu et al. 2022,
    arXiv:2201.03545)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, F, D]
        h = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.contract(F.gelu(self.expand(self.norm(h)), approximate="tanh"))


def _conv(channels: int, out: int, stride: int) -> nn.Sequential:
    """Convolution and batch norm; without the norm the trunk learns several times more slowly."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out)
    )


class TinyEyes(nn.Module):
    """The visual network; see the module's text."""

    def __init__(self, config: TinyConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or TinyConfig()
        half = c.stem // 2
        self.patches = nn.Linear(3 * c.patch**2, c.stem)
        self.shrink1 = _conv(half * 3, c.trunk, 2)
        self.same1 = _conv(c.trunk, c.trunk, 1)
        self.shrink2 = _conv(c.trunk, c.deep, 2)
        self.same2 = _conv(c.deep, c.deep, 1)
        side = c.size // (4 * c.patch)
        self.flat = nn.Linear(c.deep * side * side, c.width)
        self.glance_scores = nn.Linear(c.trunk, c.glances)
        self.glance = nn.Linear(c.trunk * c.glances, c.width)
        self.place_heads = nn.Linear(c.trunk, len(MATERIALS) + 1)
        self.presence = nn.Linear(2 * len(MATERIALS), c.width)
        self.norm = nn.LayerNorm(c.width)
        self.to_content = nn.Linear(c.width, c.content)
        self.content_norm = nn.LayerNorm(c.content)
        self.content_heads = nn.Linear(c.content, len(MATERIALS) + c.families)
        self.blocks = nn.ModuleList(TemporalBlock(c.width, c.kernel) for _ in range(c.blocks))
        self.to_sync = nn.Linear(c.width, c.sync)
        self.sync_norm = nn.LayerNorm(c.sync)
        self.heads = nn.Linear(c.sync, sum(_HEADS))
        nn.init.constant_(self.heads.bias[:BINS], -3.0)  # events are rare

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Look at clips.

        Args:
            frames: uint8 RGB [B, F, H, W, 3] of `config.size`.

        Returns:
            heat [B, F, BINS], strength [B, F], kind [B, F, K], material [B, F, M] and motion [B, F,
            2] (scraping and rolling speed) as logits; content tokens [B, F, Dc]; whole [B, F, M +
            families] logits of the content stream; where [B, F, P, M + 1] logits of what sounds at
            each place.

        Raises:
            ValueError: If the frames have another size.
        """
        c = self.config
        if frames.shape[2:] != (c.size, c.size, 3):
            raise ValueError(
                f"frames of shape {tuple(frames.shape)}, wanted [B, F, {c.size}, {c.size}, 3], "
                "read the encoder's view"
            )
        b, f = frames.shape[:2]
        p, n, half = c.patch, c.size // c.patch, c.stem // 2
        dtype = torch.bfloat16 if torch.is_autocast_enabled(frames.device.type) else torch.float32
        x = frames.reshape(b * f, n, p, n, p, 3).transpose(2, 3).reshape(b * f, n, n, 3 * p * p)
        x = self.patches((x.to(dtype) - 120) / 60)  # [BF, n, n, stem]
        looks, moves = x[..., :half], x[..., half:].unflatten(0, (b, f))
        step = torch.diff(moves, dim=1)
        zero = torch.zeros_like(moves[:, :1])
        before, after = torch.cat([zero, step], 1), torch.cat([step, zero], 1)
        x = torch.cat([looks, before.flatten(0, 1), after.flatten(0, 1)], -1)
        x = F.relu(x, inplace=True).permute(0, 3, 1, 2)  # channels-last memory already
        x = F.relu(self.shrink1(x), inplace=True)
        x = x + F.relu(self.same1(x), inplace=True)
        places = x.permute(0, 2, 3, 1).flatten(1, 2)  # [BF, P, trunk]
        weights = self.glance_scores(places).softmax(1)  # [BF, P, glances]
        glances = torch.einsum("npg,npc->ngc", weights, places).flatten(1)
        where = self.place_heads(
            places
        ).float()  # [BF, P, M + 1], the last class is "nothing that sounds"
        share = where.softmax(-1)[..., :-1]
        present = torch.cat([share.amax(1), share.sum(1).clamp_min(1e-4).log()], -1)
        x = F.relu(self.shrink2(x), inplace=True)
        x = x + F.relu(self.same2(x), inplace=True)
        x = self.flat(x.permute(0, 2, 3, 1).flatten(1))
        x = x + self.glance(glances) + self.presence(present.to(x.dtype))
        x = self.norm(x).unflatten(0, (b, f))
        content = self.content_norm(self.to_content(x))
        for block in self.blocks:
            x = block(x)
        out = self.heads(self.sync_norm(self.to_sync(x))).float()
        heat, strength, kind, material, motion = out.split(_HEADS, -1)
        return {
            "heat": heat,
            "strength": strength[..., 0],
            "kind": kind,
            "material": material,
            "motion": motion,
            "content": content.float(),
            "where": where.unflatten(0, (b, f)),
            "whole": self.content_heads(content).float(),
        }


def find_peaks(heat: Tensor, threshold: float, min_gap_bins: float) -> tuple[Tensor, Tensor]:
    """Local maxima of a heat map, refined by a parabola through the logarithm.

    Args:
        heat: Probabilities [F, BINS].
        threshold: Smallest probability.
        min_gap_bins: Of two closer peaks the higher stays.

    Returns:
        Positions in frames [n] (float64, ascending) and probabilities [n].
    """
    p = heat.flatten().double()
    if len(p) < 3:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    padded = F.pad(p, (1, 1))
    left, right = padded[:-2], padded[2:]
    where = ((p >= threshold) & (p > left) & (p >= right)).nonzero()[:, 0]
    kept: list[int] = []
    for i in sorted(where.tolist(), key=lambda i: -p[i].item()):
        if all(abs(i - k) >= min_gap_bins for k in kept):
            kept.append(i)
    index = torch.tensor(sorted(kept), dtype=torch.long)
    a, b, c = (x.clamp_min(1e-6).log()[index] for x in (left, p, right))
    shift = torch.where(
        (index > 0) & (index < len(p) - 1), 0.5 * (a - c) / (a - 2 * b + c).clamp_max(-1e-6), 0.0
    )
    return (index + shift.clamp(-0.5, 0.5)) / BINS, p[index]
