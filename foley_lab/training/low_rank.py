"""Low-rank adapters on the transformer, by peft: W x + (alpha / rank) · B A x, the base frozen
(LoRA, Hu et al. 2021, arXiv:2106.09685).

The attention and the MLPs of every block are adapted. Two of their layers are not used the way peft
expects, and would otherwise learn nothing or be left out:

    linear_qkv          its weight is read and its rows sorted, its forward is never called
    TimeConv            a convolution over time that is a product over gathered neighbours
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from foley_lab.generators.foley import FoleyTransformer, SingleBlock, TripleBlock
from foley_lab.nn.layers import TimeConv

ADAPTER = "default"


class AdaptedLinear(Linear):
    """A linear layer that is adapted where it is called and where its `weight` is read."""

    @property
    def weight(self) -> Tensor:
        """The adapted weight [out, in], in the base's precision."""
        base = cast(nn.Linear, self.get_base_layer()).weight
        return base + self.get_delta_weight(ADAPTER).to(base.dtype)


class AdaptedTimeConv(Linear):
    """A `TimeConv` with an update of low rank on its matrix [out, k · in]."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        dim_out, dim_in, kernel = cast(TimeConv, module).weight.shape
        return kernel * dim_in, dim_out

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.project(self.gather(x))

    def gather(self, x: Tensor) -> Tensor:
        """Each token with its neighbours: [B, N, in] → [B, N, k · in]."""
        return cast(TimeConv, self.get_base_layer()).gather(x)

    def project(self, gathered: Tensor) -> Tensor:
        """The adapted product: [B, N, k · in] → [B, N, out]."""
        result = cast(TimeConv, self.get_base_layer()).project(gathered)
        down = cast(nn.Linear, self.lora_A[ADAPTER])
        update = self.lora_dropout[ADAPTER](gathered.to(down.weight.dtype))
        update = self.lora_B[ADAPTER](down(update)) * self.scaling[ADAPTER]
        return result + update.to(result.dtype)


def targets(transformer: FoleyTransformer) -> list[str]:
    """Names of the layers that are adapted: attention and MLPs, but for the tail of the last
    two-stream block that works on visual tokens nobody reads."""
    names = []
    for kind in ("triple_blocks", "single_blocks"):
        for i, block in enumerate(transformer.get_submodule(kind).children()):
            assert isinstance(block, (TripleBlock, SingleBlock))
            unread = isinstance(block, TripleBlock) and not block.reads_visual_out
            for name, layer in block.named_modules():
                steering = name.partition(".")[0] in ("audio_mod", "v_cond_mod", "modulation")
                inert = unread and name.startswith("v_cond") and name != "v_cond_attn_qkv"
                if isinstance(layer, (nn.Linear, TimeConv)) and not (steering or inert):
                    names.append(f"{kind}.{i}.{name}")
    return names


def adapt(
    transformer: FoleyTransformer, rank: int, alpha: float, dropout: float, seed: int
) -> dict[str, nn.Parameter]:
    """Freeze a transformer and give its blocks adapters, which at first change nothing.

    Args:
        transformer: Changed in place.
        rank: Of the updates.
        alpha: Updates count alpha / rank.
        dropout: Share of an adapter's inputs that training leaves out.
        seed: Of the first A; B starts at zero.

    Returns:
        What is to be trained, float32, by the names of the adapter file.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - a quotient, no need to be whole
        lora_dropout=dropout,
        target_modules=targets(transformer),
    )
    # Layers of one's own are an experiment of peft's, hence the underscore.
    config._register_custom_module({TimeConv: AdaptedTimeConv, nn.Linear: AdaptedLinear})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer, ADAPTER)
    trained = {}
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # Adam's small steps need it
            trained[name.replace(f".{ADAPTER}.", ".")] = parameter
    return trained
