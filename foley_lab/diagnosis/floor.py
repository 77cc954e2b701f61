"""How little time a step of the transformer can take: its arithmetic and its weights, counted.

Networks are built on the meta device, which knows shapes and holds no numbers, so the official
sizes are counted on any machine in seconds. Two ways are counted: as `velocity` does it on prepared
conditions, and with everything recomputed in each call, as the official code does.

    floor of a step = max(arithmetic / peak of the processor, weights / speed of its memory)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from foley_lab.generators.foley import (
    XL,
    XXL,
    Conditions,
    FoleyConfig,
    FoleyTransformer,
    Rotary,
    TripleBlock,
)
from foley_lab.nn.attention import interleaved_positions, nearest_index, rotary_table
from foley_lab.signals import HUNYUAN_RATES

SIZES = {"xl": XL, "xxl": XXL}
TEXT_TOKENS = 77


class Recomputing(FoleyTransformer):
    """The same network without the economies; its velocities are equal up to rounding."""

    def __init__(self, config: FoleyConfig):
        super().__init__(config)
        for block in self.triple_blocks:
            cast(TripleBlock, block).reads_visual_out = True

    def _hear(
        self, sync: Tensor, length: int, per_latent: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.sync_in(sync)[:, nearest_index(sync.shape[1], length).to(sync.device)], None

    def _velocity(
        self, x_t: Tensor, time: Tensor, conditions: Conditions, modulation: Any = None
    ) -> Tensor:
        velocity = super()._velocity(x_t, time, conditions)
        steering = conditions.sync + self.time_in(time)[:, None]
        self.final_layer.adaLN_modulation(steering)  # computed and never applied
        return velocity

    def call(self, x_t: Tensor, t: float, tokens: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """A velocity from nothing but the features."""
        for cache in (Rotary.build, rotary_table, nearest_index, interleaved_positions):
            cache.cache_clear()
        time = torch.full((len(x_t),), 1000.0 * t, device=x_t.device)  # a time for each sample
        return self._velocity(x_t, time, self.prepare(*tokens, x_t.shape[-1]))


class _Counted(FoleyTransformer):
    """Ours on the meta device, where equal tokens cannot be found but are known: with guidance,
    the tokens of the empty branch repeat after one group."""

    def _hear(
        self, sync: Tensor, length: int, per_latent: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        count = (len(sync) // 2) * (sync.shape[1] + self.config.sync_positions)
        rows = self.sync_in(sync.new_empty(count, sync.shape[2]))
        return rows, torch.zeros(len(sync), length, dtype=torch.long, device=sync.device)


@dataclass(frozen=True)
class Floor:
    """What a guided step needs at least.

    Attributes:
        tflop: Arithmetic of a step as we do it, in 10¹² operations (2 per multiply-add).
        recomputed_tflop: With everything recomputed.
        prepare_tflop: What is done once per clip instead.
        weights_gb: Weights read by a step, in bfloat16.
    """

    tflop: float
    recomputed_tflop: float
    prepare_tflop: float
    weights_gb: float

    def seconds(self, tflops: float, gb_per_s: float) -> float:
        """Floor of a step on a processor of that speed and memory of that speed."""
        return max(self.tflop / tflops, self.weights_gb / gb_per_s)


@lru_cache(maxsize=8)
def floor(config: FoleyConfig, seconds: float = 8.0) -> Floor:
    """Count a guided step (batch of two) for a clip of that length."""
    rates = HUNYUAN_RATES
    length = rates.num_latents(seconds)
    group = max(1, config.sync_positions)
    counts = {
        "clip_dim": round(seconds * rates.visual_rate),
        "sync_dim": group * max(1, int(seconds * rates.sync_rate) // group),
        "condition_dim": min(TEXT_TOKENS, config.text_length),
    }
    with torch.device("meta"), torch.inference_mode():
        ours, plain = _Counted(config), Recomputing(config)
        x = torch.empty(2, config.audio_vae_latent_dim, length)
        visual, sync, text = (
            torch.empty(2, count, getattr(config, width)) for width, count in counts.items()
        )
        tokens = (visual, sync, text)
        prepared: list[Conditions] = []
        prepare = _tflop(lambda: prepared.append(ours.prepare(*tokens, length)))
        table = {0.5: tuple((x.new_empty(1, 1, 9 * config.hidden_size),) * 2
                            for _ in range(config.depth_triple_blocks))}  # fmt: skip
        conditions = replace(prepared[0], modulation=table)
        step = _tflop(lambda: ours.velocity(x, 0.5, conditions))
        whole = _tflop(lambda: plain.call(x, 0.5, tokens))
    for cache in (Rotary.build, rotary_table, nearest_index, interleaved_positions):
        cache.cache_clear()  # nothing of the meta device may stay
    weights = sum(count for name, count in parameter_table(config).items() if name != "inert")
    tabulated = 18 * config.depth_triple_blocks * config.hidden_size * (config.hidden_size + 1)
    return Floor(step, whole, prepare, 2e-9 * (weights - tabulated))


def parameter_table(config: FoleyConfig) -> dict[str, int]:
    """Parameters by part: embedders, two_stream, two_stream_modulation, audio_only,
    audio_only_modulation, audio_only_conv_mlp, final and inert (loaded, without influence).

    Together they are all parameters.
    """
    with torch.device("meta"):
        network = FoleyTransformer(config)
    table: dict[str, int] = dict.fromkeys(
        ("embedders", "two_stream", "two_stream_modulation", "audio_only",
         "audio_only_modulation", "audio_only_conv_mlp", "final", "inert"), 0,
    )  # fmt: skip
    last = f"triple_blocks.{config.depth_triple_blocks - 1}."
    unread = ("v_cond_attn_q_norm", "v_cond_self_proj", "v_cond_cross", "v_cond_mlp")
    for name, parameter in network.named_parameters():
        if "adaLN_modulation" in name or (
            name.startswith(last) and name.removeprefix(last).startswith(unread)
        ):
            part = "inert"
        elif name.startswith("triple_blocks."):
            part = "two_stream_modulation" if "_mod." in name else "two_stream"
        elif name.startswith("single_blocks."):
            kinds = {".modulation.": "audio_only_modulation", ".linear2.": "audio_only_conv_mlp"}
            part = next((kind for key, kind in kinds.items() if key in name), "audio_only")
        else:
            part = "final" if name.startswith("final_layer") else "embedders"
        table[part] += parameter.numel()
    return table


def _tflop(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12
