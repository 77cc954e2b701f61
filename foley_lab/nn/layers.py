"""Layers without opinions: everything of a transformer that is not attention.

Tokens are [B, N, D] throughout, also where the official files keep convolution weights: a
convolution over time is a matrix product over neighbouring tokens, which needs no transposes and is
twice as quick as `conv1d` on a CPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeConv(nn.Module):
    """Convolution over time, zero-padded so that the length stays: [B, N, in] → [B, N, out].

    `weight` has the shape [out, in, k] of `nn.Conv1d` and lies in memory as [out, k, in], so that
    it becomes the matrix of the product without a copy. It is therefore not contiguous: call
    `.contiguous()` before safetensors.
    """

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 1, bias: bool = False):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(dim_out, kernel, dim_in).transpose(1, 2))
        self.bias = nn.Parameter(torch.empty(dim_out)) if bias else None
        self.product: nn.Linear | None = None
        self.register_load_state_dict_post_hook(TimeConv._lay_out)

    def as_product(self) -> None:
        """Keep the matrix as an `nn.Linear`, which others know how to change; for inference."""
        matrix = self.weight.detach().transpose(1, 2).flatten(1)
        self.product = nn.Linear(matrix.shape[1], matrix.shape[0], self.bias is not None, "meta")
        self.product.weight = nn.Parameter(matrix, requires_grad=False)
        if self.bias is not None:
            self.product.bias = self.bias
        self.weight, self.bias = nn.Parameter(matrix.new_empty(0), requires_grad=False), None

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.gather(x))

    def _lay_out(self, _keys: Any) -> None:
        """Restore the order in memory where loading put the file's own tensor in place."""
        matrix = self.weight.detach().transpose(1, 2)
        if not matrix.is_contiguous():
            self.weight = nn.Parameter(matrix.contiguous().transpose(1, 2))

    def gather(self, x: Tensor) -> Tensor:
        """Each token with its neighbours: [B, N, in] → [B, N, k · in]."""
        if self.kernel == 1:
            return x
        return _Neighbours.apply(x, self.kernel)

    def project(self, gathered: Tensor) -> Tensor:
        """The product on `gather`ed tokens: [B, N, k · in] → [B, N, out]."""
        if self.product is not None:
            return self.product(gathered)
        return F.linear(gathered, self.weight.transpose(1, 2).flatten(1), self.bias)


class _Neighbours(torch.autograd.Function):
    """Each token beside its k − 1 neighbours, zeros beyond the ends: [B, N, D] → [B, N, k · D].

    Its backward pass adds the shifted thirds in place; torch's own would fill a zero tensor for
    each of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int) -> Tensor:
        ctx.kernel = kernel
        padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
        return torch.cat([padded[:, i : i + x.shape[1]] for i in range(kernel)], dim=-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parts = grad.chunk(ctx.kernel, dim=-1)
        length, half = grad.shape[1], ctx.kernel // 2
        total = parts[half].clone()
        for i, part in enumerate(parts):
            shift = i - half  # token n showed token n + shift
            if shift < 0:
                total[:, :shift] += part[:, -shift:]
            elif shift > 0:
                total[:, shift:] += part[:, : length - shift]
        return total, None


class ConvMLP(nn.Module):
    """Gated MLP over time, w2(silu(w1 x) · w3 x), without biases (SwiGLU, Shazeer 2020,
    arXiv:2002.05202).

    Its width is two thirds of `hidden`, rounded up to a multiple of 256.
    """

    def __init__(self, dim: int, hidden: int, kernel: int):
        super().__init__()
        width = 256 * math.ceil((2 * hidden // 3) / 256)
        self.w1 = TimeConv(dim, width, kernel)
        self.w2 = TimeConv(width, dim, kernel)
        self.w3 = TimeConv(dim, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.w1.gather(x)  # shared by w1 and w3
        return self.w2(F.silu(self.w1.project(gathered)) * self.w3.project(gathered))


class SwiGLU(nn.Module):
    """Gated projection of single tokens, w2(silu(w1 x) · w3 x), without biases: [B, N, in] → [B, N,
    dim]."""

    def __init__(self, dim_in: int, dim: int):
        super().__init__()
        self.w1 = nn.Linear(dim_in, dim, bias=False)
        self.w2 = nn.Linear(dim, dim, bias=False)
        self.w3 = nn.Linear(dim_in, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class MLP(nn.Module):
    """fc2(gelu(fc1 x)), GELU in its tanh form."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TextProjection(nn.Module):
    """linear_2(silu(linear_1 x)): [B, L, in] → [B, L, dim]."""

    def __init__(self, dim_in: int, dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeEmbedding(nn.Module):
    """Sinusoids of the time, then an MLP: [B] → [B, dim].

    The 128 frequencies fall from 1 to 10 000^(−127/128); they are meant for t in 0 .. 1000.
    """

    def __init__(self, dim: int, sinusoids: int = 256):
        super().__init__()
        self.sinusoids = sinusoids
        self.mlp = nn.Sequential(nn.Linear(sinusoids, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = self.sinusoids // 2
        ramp = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * torch.exp(-math.log(10_000.0) / half * ramp)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1)
        dtype = cast(nn.Linear, self.mlp[0]).weight.dtype
        return self.mlp(waves.to(dtype))


class RMSNorm(nn.Module):
    """The gain of an RMS norm over heads; `normalise_and_rotate` applies it together with the
    rotary turn."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))


class Modulation(nn.Module):
    """Shift, gain and gate from an embedding (adaLN, Peebles & Xie 2022, arXiv:2212.09748).

    The `factor` chunks come in threes, [shift, scale, gate]. The 1 of the gain 1 + scale is put
    into the bias, one small vector, rather than added to every token.
    """

    def __init__(self, dim: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(dim, factor * dim)

    def forward(self, activated: Tensor) -> Tensor:
        """silu(embedding) [B, N, D] → [B, N, factor · D]: chunks shift, 1 + scale, gate, shift,
        …"""
        weight, bias = self.linear.weight, self.linear.bias
        one = _gain_offset(bias.numel(), self.factor, bias.device)
        return F.linear(activated, weight, (bias + one).to(weight.dtype))


@lru_cache(maxsize=32)
def _gain_offset(size: int, factor: int, device: torch.device) -> Tensor:
    """1 in every second chunk of three, 0 elsewhere: float32 [size]."""
    with torch.inference_mode(False), torch.no_grad():  # kept across calls, see `rotary_table`
        offset = torch.zeros(factor, size // factor)
        offset[1::3] = 1.0
        return offset.flatten().to(device)


def modulate(x: Tensor, shift: Tensor, gain: Tensor, eps: float) -> Tensor:
    """LN(x) · gain + shift, the norm over channels without parameters of its own.

    Args:
        x: Tokens [B, N, D].
        shift, gain: [1 or B, 1 or N, D].
    """
    if shift.shape[:2] == (1, 1):  # one time for the whole batch: all of it in one kernel
        return F.layer_norm(x, x.shape[-1:], gain[0, 0], shift[0, 0], eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), gain)
