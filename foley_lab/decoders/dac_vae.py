"""The official codec: a variational autoencoder of waveforms with snake activations.

    samples [B, 1, N] ─encode→ Posterior of latents [B, 128, T] ─decode→ samples [B, 1, 960 · T]

Layout after the Descript Audio Codec (Kumar et al. 2023, arXiv:2306.06546), with a Gaussian
posterior (Kingma & Welling 2014, arXiv:1312.6114) in place of its quantiser. The encoder shortens
by each of its rates, the decoder lengthens by each of its own:

    residual unit   x + conv₁(snake(conv₇(snake(x)))), conv₇ with dilation 1, 3 or 9
    encoder block   three units, snake, strided convolution
    decoder block   snake, transposed convolution, three units
    snake(x)        x + sin²(αx) / α, one α per channel (Ziyin et al. 2020, arXiv:2006.08195)

Parts and tensors bear the names of the official file; its weight norm, W = g · v / ‖v‖, is folded
once at loading. Inside, signals are [B, N, C], channels last: matrix units of processors and
accelerators read that order without rearranging, which in bfloat16 on a CPU is five times as quick.
The codec is for inference: no gradients, activations overwritten where nobody reads them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DILATIONS = (1, 3, 9)
"""Of the three residual units of a block."""

SNAKE_BLOCK = 1 << 17
"""Values that a snake takes at once on a CPU: its float32 scratch stays in the cache."""


@dataclass(frozen=True)
class DacConfig:
    """Shape of a `DacVae`; the defaults are the published values.

    Attributes:
        encoder_dim: Channels after the first convolution; doubled by each encoder block.
        encoder_rates: Strides of the encoder blocks.
        latent_dim: Latent channels C.
        decoder_dim: Channels before the first decoder block; halved by each.
        decoder_rates: Strides of the decoder blocks.
        sample_rate: Samples per second.
    """

    encoder_dim: int = 128
    encoder_rates: tuple[int, ...] = (2, 3, 4, 5, 8)
    latent_dim: int = 128
    decoder_dim: int = 2048
    decoder_rates: tuple[int, ...] = (8, 5, 4, 3, 2)
    sample_rate: int = 48_000

    def __post_init__(self) -> None:
        rates = (*self.encoder_rates, *self.decoder_rates)
        if min(rates, default=0) < 2 or self.hop_length != math.prod(self.encoder_rates):
            raise ValueError(
                f"encoder_rates {self.encoder_rates} and decoder_rates {self.decoder_rates}, "
                "wanted rates from 2 on with the same product, correct the configuration"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates) or self.decoder_dim < 1:
            raise ValueError(
                f"decoder_dim {self.decoder_dim} with {len(self.decoder_rates)} decoder_rates, "
                "wanted a width that each of them can halve, correct the configuration"
            )

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.decoder_rates)

    @classmethod
    def from_metadata(cls, kwargs: Mapping[str, Any]) -> DacConfig:
        """Read the constructor arguments that an official file carries.

        Unknown names, and those of the quantiser that a continuous codec has no use for, are
        passed over; absent ones are as published, but for `latent_dim`, whose official default is
        the width that the encoder ends in.

        Raises:
            ValueError: If the codec is a discrete one, or a value fits no codec.
        """
        if not kwargs.get("continuous", True):
            raise ValueError(
                "a discrete DAC (continuous = False), wanted the continuous DAC-VAE, "
                "use vae_128d_48k.pth"
            )
        known: dict[str, Any] = {k: kwargs[k] for k in cls.__dataclass_fields__ if k in kwargs}
        try:
            for name, value in known.items():
                if name.endswith("_rates"):
                    known[name] = tuple(int(rate) for rate in value)
                elif value is not None:
                    known[name] = int(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"DAC-VAE configuration {known!r:.200}, wanted whole numbers and lists of rates, "
                "correct the metadata"
            ) from error
        if known.get("latent_dim") is None:
            known.pop("latent_dim", None)
            config = cls(**known)
            known["latent_dim"] = config.encoder_dim * 2 ** len(config.encoder_rates)
        return cls(**known)


PUBLISHED = DacConfig()


@dataclass(frozen=True)
class Posterior:
    """Gaussian of the latents of a sound, one mean and deviation per number.

    Attributes:
        mean: [B, C, T].
        logvar: Logarithm of the variance [B, C, T], within −30 and 20.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Posterior:
        """Halves of [B, 2 · C, T]: mean, and logarithm of the variance before its bounds."""
        mean, logvar = parameters.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @property
    def std(self) -> Tensor:
        """Standard deviation [B, C, T]."""
        return (self.logvar / 2).exp()

    def mode(self) -> Tensor:
        """The likeliest latents [B, C, T]."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B, C, T] drawn from it.

        Args:
            generator: On the CPU, where the noise is drawn whatever the device, so that a seed
                gives the same latents everywhere.
        """
        noise = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32, device="cpu")
        return self.mean + self.std * noise.to(self.mean)

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian, mean over channels and time [B]."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.mean(dim=(1, 2))


# ------------------------------------------------------------------------------------------- parts


class _Snake(nn.Module):
    """x + sin²(αx) / (α + 1e-9) on [B, N, C]; float32 inside, where αx may be many turns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        out = x if overwrite else torch.empty_like(x)
        alpha = self.alpha.flatten().float()
        scale = 1.0 / (alpha + 1e-9)
        rows = max(1, SNAKE_BLOCK // x.shape[-1]) if x.device.type == "cpu" else x[..., 0].numel()
        blocks = (tensor.view(-1, x.shape[-1]).split(rows) for tensor in (x, out))
        for source, target in zip(*blocks, strict=True):
            values = source.float()
            square = (values * alpha).sin_().square_()
            torch.addcmul(values, square, scale, out=target)
        return out


class _Conv(nn.Module):
    """Convolution over time, [B, N, in] → [B, N', out], in the type of its input.

    `weight` has the official shape [out, in, k] and lies in memory as [out, k, in].
    """

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        reach = dilation * (kernel - 1) // 2
        self.padding = reach if stride == 1 else math.ceil(stride / 2)
        self.weight = nn.Parameter(torch.empty(dim_out, kernel, dim_in).transpose(1, 2))
        self.bias = nn.Parameter(torch.empty(dim_out))
        self.register_load_state_dict_post_hook(_Conv._lay_out)

    def _lay_out(self, _keys: Any) -> None:
        """Restore the order in memory where loading put the file's own tensor in place."""
        ordered = self.weight.detach().transpose(1, 2).contiguous()
        self.weight = nn.Parameter(ordered.transpose(1, 2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if weight.shape[-1] == 1:
            return F.linear(x, weight[..., 0], bias)
        # Torch knows the order "channels last" of pictures alone: these are one pixel high.
        y = F.conv2d(
            x.transpose(1, 2)[:, :, None],
            weight[:, :, None],
            bias,
            stride=(1, self.stride),
            padding=(0, self.padding),
            dilation=(1, self.dilation),
        )
        return y[:, :, 0].transpose(1, 2).contiguous()  # a copy only where the order is another


class _TransposedConv(nn.Module):
    """Transposed convolution with kernel 2s and stride s, [B, N, in] → [B, s · N, out].

    Each frame contributes to its own s samples by the first half of the kernel and to the next s
    by the second, so the whole is two matrix products, shifted by a frame and added. `weight` has
    the official shape [in, out, 2s] and lies in memory as [2s, out, in].
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(2 * stride, dim_out, dim_in).permute(2, 1, 0))
        self.bias = nn.Parameter(torch.empty(dim_out))
        self.register_load_state_dict_post_hook(_TransposedConv._lay_out)

    def _lay_out(self, _keys: Any) -> None:
        ordered = self.weight.detach().permute(2, 1, 0).contiguous()
        self.weight = nn.Parameter(ordered.permute(2, 1, 0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        s, length = self.stride, x.shape[1]
        own, following = self.weight.permute(2, 1, 0).flatten(0, 1).chunk(2)  # [s · out, in] each
        y = F.linear(F.pad(x, (0, 0, 0, 1)), own, self.bias.repeat(s))  # [B, N + 1, s · out]
        y[:, 1:] += F.linear(x, following)
        first = math.ceil(s / 2)
        y = y.unflatten(-1, (s, -1)).flatten(1, 2)  # [B, s · (N + 1), out]
        return y[:, first : first + s * length].contiguous()


class _ResidualUnit(nn.Module):
    """x + conv₁(snake(conv₇(snake(x)))) on [B, N, C]; x is overwritten."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            [_Snake(dim), _Conv(dim, dim, 7, dilation=dilation), _Snake(dim), _Conv(dim, dim, 1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        snake, wide, second_snake, narrow = self.block
        return x.add_(narrow(second_snake(wide(snake(x)), overwrite=True)))


class _EncoderBlock(nn.Module):
    """[B, N, C] → [B, N / stride, 2 · C]; its input is overwritten."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        units = [_ResidualUnit(dim, dilation) for dilation in DILATIONS]
        shorten = _Conv(dim, 2 * dim, 2 * stride, stride)
        self.block = nn.ModuleList([*units, _Snake(dim), shorten])

    def forward(self, x: Tensor) -> Tensor:
        *units, snake, shorten = self.block
        for unit in units:
            x = unit(x)
        return shorten(snake(x, overwrite=True))


class _DecoderBlock(nn.Module):
    """[B, N, C] → [B, N · stride, C / 2]; its input is overwritten."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        units = [_ResidualUnit(dim // 2, dilation) for dilation in DILATIONS]
        self.block = nn.ModuleList([_Snake(dim), _TransposedConv(dim, dim // 2, stride), *units])

    def forward(self, x: Tensor) -> Tensor:
        snake, lengthen, *units = self.block
        x = lengthen(snake(x, overwrite=True))
        for unit in units:
            x = unit(x)
        return x


class _Encoder(nn.Module):
    """Samples to what the posterior is read from: [B, N, 1] → [B, T, C]."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        widths = [config.encoder_dim * 2**i for i in range(len(config.encoder_rates) + 1)]
        steps = zip(widths, config.encoder_rates, strict=False)
        self.block = nn.ModuleList(
            [
                _Conv(1, widths[0], 7),
                *(_EncoderBlock(dim, stride) for dim, stride in steps),
                _Snake(widths[-1]),
                _Conv(widths[-1], config.latent_dim, 3),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for part in self.block:
            x = part(x)
        return x


class _Decoder(nn.Module):
    """Latents to samples: [B, T, C] → [B, N, 1], float32."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        widths = [config.decoder_dim // 2**i for i in range(len(config.decoder_rates) + 1)]
        steps = zip(widths, config.decoder_rates, strict=False)
        self.model = nn.ModuleList(
            [
                _Conv(config.latent_dim, widths[0], 7),
                *(_DecoderBlock(dim, stride) for dim, stride in steps),
                _Snake(widths[-1]),
                _Conv(widths[-1], 1, 7),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = self.model
        for part in parts:
            x = part(x)
        return last(x.float()).tanh_()  # samples in steps of a half type would be heard as noise


# ------------------------------------------------------------------------------------------- whole


class DacVae(nn.Module):
    """The codec; batched = alone, deterministic but for the drawing from a posterior.

    A sample depends on the latent frames within `receptive_field` of its own, so a long sound may
    be decoded in pieces: decode each with that many frames of context on both sides and cut the
    context off. It runs in the type of its weights, float32 or bfloat16.

    Args:
        config: Its shape.
        with_encoder: Without, it can only decode, and needs a fifth of the memory.
    """

    def __init__(self, config: DacConfig = PUBLISHED, with_encoder: bool = True) -> None:
        super().__init__()
        self.config = config
        if with_encoder:
            self.encoder = _Encoder(config)
            self.quant_conv = _Conv(config.latent_dim, 2 * config.latent_dim, 1)
        self.post_quant_conv = _Conv(config.latent_dim, config.latent_dim, 1)
        self.decoder = _Decoder(config)

    @property
    def receptive_field(self) -> int:
        """Latent frames on each side of its own on which a latent frame of sound depends.

        Followed backwards from the samples of frame 0, layer by layer.
        """
        units = sum(3 * dilation for dilation in DILATIONS)
        first, last = -3, self.config.hop_length - 1 + 3  # the last convolution
        for stride in reversed(self.config.decoder_rates):
            padding = math.ceil(stride / 2)
            # Sample n of a transposed convolution hears the frames i with 0 <= n + p − s·i < 2s.
            first = math.ceil((first - units + padding - 2 * stride + 1) / stride)
            last = math.floor((last + units + padding) / stride)
        return max(3 - first, last + 3)

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Posterior:
        """Samples [B, 1, N] to a posterior of latents [B, C, ceil(N / hop)], float32.

        Zeros are added on the right up to a whole number of latent frames.

        Raises:
            ValueError: If the shape is another, or the codec was loaded without its encoder.
        """
        if not hasattr(self, "encoder"):
            raise ValueError(
                "a DAC-VAE without encoder, wanted the whole codec to encode, "
                "load it with with_encoder=True"
            )
        if samples.ndim != 3 or samples.shape[1] != 1 or samples.shape[2] == 0:
            raise ValueError(
                f"samples of shape {tuple(samples.shape)}, wanted [B, 1, N] with N > 0; "
                "mix to mono and add the batch"
            )
        missing = -samples.shape[-1] % self.config.hop_length
        samples = F.pad(samples.to(self.post_quant_conv.weight.dtype), (0, missing))
        parameters = self.quant_conv(self.encoder(samples.transpose(1, 2)))
        return Posterior.from_parameters(parameters.float().transpose(1, 2))

    @torch.no_grad()
    def decode(self, latents: Tensor, first_frame: int = 0) -> Tensor:
        """Latents [B, C, T] to samples [B, 1, T · hop], float32 within ±1.

        Args:
            latents: From `encode` or from a generator, without scaling or shift.
            first_frame: Place of the first latent frame in the whole sound. Every decoder is told
                it; this one decodes alike at every place.

        Raises:
            ValueError: If the shape is another.
        """
        wanted = self.config.latent_dim
        if latents.ndim != 3 or latents.shape[1] != wanted or latents.shape[2] == 0:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)}, wanted [B, {wanted}, T], T > 0; "
                "encode with this codec"
            )
        x = latents.to(self.post_quant_conv.weight.dtype).transpose(1, 2).contiguous()  # [B, T, C]
        return self.decoder(self.post_quant_conv(x)).transpose(1, 2)  # [B, 1, N]


# ----------------------------------------------------------------------------------------- loading


def load_dac(
    state_dict: Mapping[str, Tensor], kwargs: Mapping[str, Any], with_encoder: bool = True
) -> DacVae:
    """The codec of an official state dict, in float32 and eval mode.

    Args:
        state_dict: Tensors by official name, in any floating-point type, weight norm as
            `weight_g` and `weight_v`.
        kwargs: Official constructor arguments, see `DacConfig.from_metadata`.
        with_encoder: Whether it shall encode too.

    Raises:
        ValueError: If the arguments fit no codec, or a tensor is missing, superfluous or of
            another shape.
    """
    config = DacConfig.from_metadata(kwargs)
    if not with_encoder:
        unread = ("encoder.", "quant_conv.")
        state_dict = {k: v for k, v in state_dict.items() if not k.startswith(unread)}
    with torch.device("meta"):  # no tensors are made but those of the file
        dac = DacVae(config, with_encoder)
    try:
        dac.load_state_dict(_folded(state_dict), assign=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"DAC-VAE weights that do not fit their metadata ({why:.300}), wanted exactly the "
            "tensors of its configuration, fetch the file again"
        ) from error
    return dac.requires_grad_(False).eval()


def _folded(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight norm multiplied out, W = g · v / ‖v‖ with the norm over all axes but the first.

    A lone g or v is handed on as it is: strict loading will name it.
    """
    folded = {}
    for name, tensor in state_dict.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight_v" and f"{stem}.weight_g" in state_dict:
            v, g = tensor.float(), state_dict[f"{stem}.weight_g"].float()
            length = torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)
            folded[f"{stem}.weight"] = v * (g / length)
        elif kind != "weight_g" or f"{stem}.weight_v" not in state_dict:
            folded[name] = tensor.to(torch.float32, copy=True)
    return folded
