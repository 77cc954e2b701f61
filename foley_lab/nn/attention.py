"""Attention with rotary positions (Su et al. 2021, arXiv:2104.09864).

A head of width d is read as d / 2 complex numbers; position p turns number i by p·θ^(−2i/d),
θ = 10 000:

    (x₀ + i·x₁) · exp(i·p·θ^(−2i/d)),   (x₀, x₁) a pair of neighbouring channels.

The turn is therefore one complex product, which on a CPU is ten times quicker than the same sum
written with cosines and sines over strided halves. Tables depend on length, width and device alone:
they are built once and kept.

Training on a CPU takes paths of its own, `_NormaliseAndRotate` and `_Attention`: the same equations
with the backward pass written out. Torch's chains of small operations and its fused attention
kernel spend two to three times as long there; a whole training step gets a fifth shorter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

THETA = 10_000.0


@lru_cache(maxsize=128)
def rotary_table(length: int, dim: int, device: torch.device, stretch: float = 1.0) -> Tensor:
    """Turns exp(i · position · frequency) for positions 0 .. length − 1.

    Args:
        length: Number of positions.
        dim: Head width d, even.
        device: Where the table lives.
        stretch: Factor on every frequency (tokens that stand `stretch` times as far apart).

    Returns:
        complex64 [length, d / 2]. Angles are float32 products of position and frequency: a table
        made in float64 differs from the published model by 1e-4 at position 1 500.
    """
    # The table outlives the call: born as an inference tensor, it would be refused in training.
    with torch.inference_mode(False), torch.no_grad():
        frequency = 1.0 / THETA ** (
            torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
        )  # [d/2]
        angle = torch.outer(
            torch.arange(length, dtype=torch.float32, device="cpu"), frequency * stretch
        )
        return torch.complex(angle.cos(), angle.sin()).to(device)


@lru_cache(maxsize=128)
def nearest_index(source: int, target: int) -> Tensor:
    """Which of `source` tokens each of `target` evenly spaced places shows ("nearest-exact").

    Returns:
        int64 [target] on the CPU, floor((i + ½) · source / target) in float32 arithmetic: exact
        integers differ for a few lengths (512 and 82, for one), hence the ramp goes through the
        very kernel that is imitated.
    """
    with torch.inference_mode(False), torch.no_grad():
        ramp = torch.arange(source, dtype=torch.float32, device="cpu")[None, None]
        return F.interpolate(ramp, size=target, mode="nearest-exact")[0, 0].long()


def spaced_index(source: int, target: int, ratio: float) -> Tensor:
    """`nearest_index` for tokens that stand `ratio` of a place apart whatever their number: int64
    [target], floor((i + ½) · ratio) in float32, the last token where they end too early."""
    place = torch.arange(target, dtype=torch.float32, device="cpu") + 0.5
    return (place * ratio).floor().long().clamp_(max=source - 1)


@lru_cache(maxsize=128)
def interleaved_positions(audio: int, visual: int) -> tuple[Tensor, Tensor | None]:
    """Where visual tokens stand on the common clock [a₀, v₀, a₁, v₁, …].

    Audio token i stands at 2i.

    Returns:
        Positions int64 [visual], and the visual token whose query and key are read at each place,
        int64 [visual], or None when every token is its own (always so while audio >= visual).
    """
    slot = nearest_index(audio, visual)
    source = nearest_index(visual, audio)[slot]
    own = bool((source == torch.arange(visual, device="cpu")).all())
    return 2 * slot + 1, None if own else source


def normalise_and_rotate(x: Tensor, weight: Tensor, table: Tensor, eps: float) -> Tensor:
    """RMS norm over each head, then the turn of its position; both in float32.

    Args:
        x: Queries or keys [B, N, H, d].
        weight: Gain of the norm [d].
        table: From `rotary_table`, [N, d / 2].
        eps: Added to the mean square.

    Returns:
        [B, N, H, d] in x's dtype.
    """
    if _trains_on_cpu(x):
        return _NormaliseAndRotate.apply(x, weight.float(), table, eps)
    normed = F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)
    return torch.view_as_real(_pairs(normed) * table[:, None]).flatten(-2).to(x.dtype)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention, scale d^−½: [B, N, H, d] × [B, M, H, d] → [B, N, H·d].

    Args:
        mask: Which keys are read, bool [B, M]; None for all.
    """
    if mask is None and _trains_on_cpu(queries):
        return _Attention.apply(queries, keys, values).flatten(2)
    heads = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        None if mask is None else mask[:, None, None],
    )
    return heads.transpose(1, 2).flatten(2)


def _trains_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()


def _pairs(x: Tensor) -> Tensor:
    """Neighbouring channels as complex numbers: [..., d] → [..., d / 2], the same memory."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class _NormaliseAndRotate(torch.autograd.Function):
    """y = turn(w · u), u = x · r, r = (mean x² + ε)^−½; hence with h = w · turn⁻¹(g):

    ∂w = Σ u · turn⁻¹(g),   ∂x = r · (h − u · mean(h · u)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, table: Tensor, eps: float) -> Tensor:
        y = x.float() if x.dtype != torch.float32 else x.clone()
        square = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_()
        r = square.div_(y.shape[-1]).add_(eps).rsqrt_()  # [B, N, H, 1]
        ctx.save_for_backward(x, weight, table, r)
        y = y.mul_(r).mul_(weight).contiguous()
        _pairs(y).mul_(table[:, None])
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, table, r = ctx.saved_tensors
        h = grad.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        _pairs(h).mul_(table.conj()[:, None])
        u = x.float() * r
        product = h * u
        to_weight = product.flatten(0, -2).sum(0)
        projection = (product @ weight).div_(weight.numel())[..., None]  # [B, N, H, 1]
        h.mul_(weight).addcmul_(u, projection, value=-1).mul_(r)
        return h.to(x.dtype), to_weight, None, None


class _Attention(torch.autograd.Function):
    """p = softmax(d^−½ q kᵀ), o = p v, as plain matrix products; keeps p, which is small for the
    windows trained on.

    In bfloat16 the scores are rounded before the softmax, unlike in the fused kernel: noise of
        about one percent on p.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ctx.scale, ctx.batch = queries.shape[-1] ** -0.5, queries.shape[0]
        q = (queries * ctx.scale).transpose(1, 2).flatten(0, 1)  # [B·H, N, d]
        k, v = keys.transpose(1, 2).flatten(0, 1), values.transpose(1, 2).flatten(0, 1)
        p = torch.bmm(q, k.transpose(1, 2)).softmax(dim=-1)  # [B·H, N, M]
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v).unflatten(0, (ctx.batch, -1)).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, p = ctx.saved_tensors
        grad = grad.transpose(1, 2).flatten(0, 1)
        to_v = torch.bmm(p.transpose(1, 2), grad)
        to_p = torch.bmm(grad, v.transpose(1, 2))
        # p · (dp − Σ p · dp) in one call, for which torch has no public name.
        to_scores_of = torch._softmax_backward_data  # pyright: ignore[reportPrivateImportUsage]
        to_scores = to_scores_of(to_p, p, -1, p.dtype)
        to_q = torch.bmm(to_scores, k).mul_(ctx.scale)
        to_k = torch.bmm(to_scores.transpose(1, 2), q)
        return tuple(g.unflatten(0, (ctx.batch, -1)).transpose(1, 2) for g in (to_q, to_k, to_v))
