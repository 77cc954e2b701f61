"""The official eyes for timing: the visual half of Synchformer (Iashin et al. 2024,
arXiv:2401.16423), whose 24 tokens a second say when something happens.

    frames [B, 3, F, 224, 224] at 25 Hz ─embed→ tubelets [B, F / 2, 196, D] ─cut→ segments of 16
    frames every 8 ─forward→ 8 tokens each ─join→ sync tokens [B, S · 8, D]

The trunk is MotionFormer's variant of a vision transformer (Patrick et al. 2021, arXiv:2106.05392)
with divided attention (Bertasius et al. 2021, arXiv:2102.05095): a patch attends to its own place
at all times, then to all places at its own time, and each time to the class token, which alone
attends to everything. At the end one more layer sums up each time step in a token of its own.

What changes nothing but the cost, against the published code:

* A patch spans two frames and segments start every eight, so neighbours share half of their
  patches: each is embedded once.
* Attention runs in its groups of 9 and 197 keys; there is no matrix over all 1569 tokens.
* The last layer computes the one token per time step that is read.
* Segments pass in small batches, so memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foley_lab.nn.attention import attend

EPS = 1e-6
"""Of every layer norm."""

PREFIX = "vfeat_extractor."
"""Of the visual half in the official file, where the other half hears and a third compares."""

UNUSED = ("patch_embed.proj.weight", "patch_embed.proj.bias")
"""Tensors of the visual half that nothing reads: patches of single frames, replaced by tubelets."""


@dataclass(frozen=True)
class SynchformerConfig:
    """Shape of a `Synchformer`; the defaults are the published values.

    Attributes:
        dim: Width D.
        depth: Number of blocks.
        num_heads: Heads H; D is a multiple of it.
        mlp_ratio: Width of the MLPs over D.
        image_size: Height and width of the frames in pixels.
        patch_size: Height and width of a patch in pixels.
        tubelet: Frames that a patch spans.
        segment, step: Frames of a segment and from one start to the next, multiples of `tubelet`.
    """

    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    image_size: int = 224
    patch_size: int = 16
    tubelet: int = 2
    segment: int = 16
    step: int = 8

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.image_size % self.patch_size:
            raise ValueError(
                f"dim {self.dim} with {self.num_heads} heads, image_size {self.image_size} with "
                f"patches of {self.patch_size}, wanted multiples, correct the configuration"
            )
        if self.segment % self.tubelet or self.step % self.tubelet:
            raise ValueError(
                f"segments of {self.segment} frames every {self.step}, wanted multiples of a "
                f"tubelet of {self.tubelet}, correct the configuration"
            )

    @property
    def places(self) -> int:
        """Patches of one time step."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def times(self) -> int:
        """Time steps, and tokens, of a segment."""
        return self.segment // self.tubelet

    def num_segments(self, frames: int) -> int:
        """Segments that fit into so many frames; shorter clips are one, padded."""
        return max(0, frames - self.segment) // self.step + 1


PUBLISHED = SynchformerConfig()


class _TubeletEmbedding(nn.Module):
    """Patches of `tubelet` frames: [B, 3, F, H, W] → [B, F / tubelet, places, D].

    The official convolution has kernel = stride, hence is a matrix product on cut-out patches.
    """

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        self.size = (config.tubelet, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.dim, self.size, self.size)

    def forward(self, frames: Tensor) -> Tensor:
        span, high, wide = self.size
        cut = frames.unflatten(4, (-1, wide)).unflatten(3, (-1, high)).unflatten(2, (-1, span))
        cut = cut.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, 3, span, high, wide]
        patches = cut.flatten(4).flatten(2, 3)  # [B, t, places, 3 · span · high · wide]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class _DividedAttention(nn.Module):
    """Self-attention of class token and patches [M, 1 + times · places, D], the patches in groups.

    Patches of one place attend to each other (`over_time`), or else those of one time step, and to
    the class token; the class token attends to all.
    """

    def __init__(self, config: SynchformerConfig, over_time: bool) -> None:
        super().__init__()
        self.over_time, self.times, self.heads = over_time, config.times, config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [M, 1 + N, 3, H, d]
        queries, keys, values = qkv.unbind(2)
        overall = attend(queries[:, :1], keys, values)  # [M, 1, D]

        grouped = qkv[:, 1:].unflatten(1, (self.times, -1))  # [M, times, places, 3, H, d]
        if self.over_time:
            grouped = grouped.transpose(1, 2)
        count = grouped.shape[1]
        token = qkv[:, None, :1, 1:].expand(-1, count, -1, -1, -1, -1)
        queries = grouped[:, :, :, 0].flatten(0, 1)  # [M · groups, n, H, d]
        keys_values = torch.cat([token, grouped[:, :, :, 1:]], dim=2).flatten(0, 1)
        among = attend(queries, *keys_values.unbind(2)).unflatten(0, (-1, count))
        if self.over_time:
            among = among.transpose(1, 2)
        return self.proj(torch.cat([overall, among.flatten(1, 2)], dim=1))


class _MLP(nn.Module):
    """fc2(gelu(fc1 x)), GELU in its exact form."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Attention over time, over places, MLP, each on normed tokens and added: [M, 1 + N, D]."""

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        self.norm3 = nn.LayerNorm(config.dim, EPS)
        self.timeattn = _DividedAttention(config, over_time=True)
        self.norm1 = nn.LayerNorm(config.dim, EPS)
        self.attn = _DividedAttention(config, over_time=False)
        self.norm2 = nn.LayerNorm(config.dim, EPS)
        self.mlp = _MLP(config.dim, config.dim * config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.timeattn(self.norm3(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _SpatialSummary(nn.Module):
    """A transformer layer that reads the places of each time step into one token, [G, N, D] → [G,
    D].

    Only the token put in front leaves the layer, so only it asks; all are asked.
    """

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.self_attn = nn.MultiheadAttention(dim, config.num_heads, batch_first=True)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.norm2 = nn.LayerNorm(dim, EPS)

    def forward(self, x: Tensor) -> Tensor:
        attention, width = self.self_attn, x.shape[-1]
        token = self.cls_token[0].expand(len(x), -1)  # [G, D]
        normed = self.norm1(torch.cat([token[:, None], x], dim=1))
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        queries = F.linear(normed[:, :1], weight[:width], bias[:width])
        keys_values = F.linear(normed, weight[width:], bias[width:])
        keys, values = keys_values.unflatten(-1, (2, attention.num_heads, -1)).unbind(2)
        queries = queries.unflatten(-1, (attention.num_heads, -1))
        token = token + attention.out_proj(attend(queries, keys, values))[:, 0]
        return token + self.linear2(F.gelu(self.linear1(self.norm2(token))))


class Synchformer(nn.Module):
    """Frames to sync tokens; batched = alone.

    It runs in the type of its weights, half precision too. Parts and tensors bear the official
    names beneath `vfeat_extractor.`; build it from the official file with `load_synchformer`.
    """

    def __init__(self, config: SynchformerConfig = PUBLISHED) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.places, config.dim))
        self.temp_embed = nn.Parameter(torch.zeros(1, config.times, config.dim))
        self.patch_embed_3d = _TubeletEmbedding(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, EPS)
        self.spatial_attn_agg = _SpatialSummary(config)

    @torch.no_grad()
    def encode(self, frames: Tensor, segments_at_once: int = 4) -> Tensor:
        """Sync tokens of clips.

        Args:
            frames: [B, 3, F, H, W] in RGB, 25 a second: uint8, or floats already within ±1. Frames
                after the last whole segment are not looked at, as officially. Of a clip too short
                for one segment the last frame is repeated (officially an error).
            segments_at_once: Of each pass; bounds the memory.

        Returns:
            Tokens [B, S · 8, D], float32, segment after segment, S = (F − 16) // 8 + 1.

        Raises:
            ValueError: If the shape is another.
        """
        c = self.config
        size = c.image_size
        if frames.ndim != 5 or frames.shape[1::2] != (3, size) or frames.shape[4] != size:
            raise ValueError(
                f"frames of shape {tuple(frames.shape)}, wanted [B, 3, F, {size}, {size}]; "
                "resize and cut them, and move the colours to the front"
            )
        if frames.shape[2] == 0 or segments_at_once < 1:
            raise ValueError(
                f"{frames.shape[2]} frames, {segments_at_once} segments at once, "
                "wanted at least 1 of each, give it a clip"
            )
        count = c.num_segments(frames.shape[2])
        tubelets = self._embed(frames, count)
        # [B, S, times, places, D], a view: neighbouring segments share memory as they share frames.
        segments = tubelets.unfold(1, c.times, c.step // c.tubelet).movedim(-1, 2)
        tokens = [
            self(segments[clips, numbers])
            for clips, numbers in zip(
                torch.arange(len(frames)).repeat_interleave(count).split(segments_at_once),
                torch.arange(count).repeat(len(frames)).split(segments_at_once),
                strict=True,
            )
        ]
        return torch.cat(tokens).float().unflatten(0, (-1, count)).flatten(1, 2)

    def forward(self, tubelets: Tensor) -> Tensor:
        """Embedded segments [M, times, places, D] to their tokens [M, times, D]."""
        place = self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(tubelets), -1, -1)
        x = torch.cat([token, (tubelets + place).flatten(1, 2)], dim=1)  # [M, 1 + N, D]
        for block in self.blocks:
            x = block(x)
        seen = self.norm(x[:, 1:]).unflatten(1, (self.config.times, -1))
        return self.spatial_attn_agg(seen.flatten(0, 1)).unflatten(0, (-1, self.config.times))

    def _embed(self, frames: Tensor, count: int) -> Tensor:
        """Tubelets [B, t, places, D] of so many segments, each made once, a segment at a time."""
        c = self.config
        length = c.segment + (count - 1) * c.step
        missing = length - frames.shape[2]
        if missing > 0:
            still = frames[:, :, -1:].expand(-1, -1, missing, -1, -1)
            frames = torch.cat([frames, still], dim=2)
        pieces = []
        for piece in frames[:, :, :length].split(c.segment, dim=2):
            if piece.dtype == torch.uint8:
                piece = (piece.float() / 255 - 0.5) / 0.5
            pieces.append(self.patch_embed_3d(piece.to(self.cls_token.dtype)))
        return torch.cat(pieces, dim=1)


def load_synchformer(
    state_dict: Mapping[str, Tensor], config: SynchformerConfig = PUBLISHED
) -> Synchformer:
    """The visual half of an official Synchformer, in float32 and eval mode.

    Args:
        state_dict: The whole official file, or its visual half with the prefix it has there, in any
            floating-point type. The hearing half, the comparison and `UNUSED` are passed over.
        config: Its shape.

    Raises:
        ValueError: If a tensor of the visual half is missing, unknown or of another shape.
    """
    visual = {
        name.removeprefix(PREFIX): tensor.to(torch.float32, copy=True)
        for name, tensor in state_dict.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in UNUSED
    }
    with torch.device("meta"):  # no tensors are made but those of the file
        synchformer = Synchformer(config)
    try:
        synchformer.load_state_dict(visual, assign=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"Synchformer weights with an unfit visual half ({why:.300}), wanted exactly the "
            f"tensors of its configuration beneath {PREFIX!r}, fetch the file again"
        ) from error
    return synchformer.requires_grad_(False).eval()
