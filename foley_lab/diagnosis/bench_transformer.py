"""What one call of the transformer costs, and what is left to win: `foley-lab bench transformer`.

The official XL width with one two-stream and two audio-only blocks, at the lengths of an 8 s clip,
guidance as a batch of two, random weights. Two ways compute the same velocity,

    ours          `velocity` on conditions that were prepared once
    recomputing   the same class made to do in each call what the official code does: conditions,
                  tables, steering of every token, the visual tail and the final modulation that
                  nobody reads

timed in turns, beside the best that this machine's matrix product reaches on the shapes that carry
most of the arithmetic. The ratio of the two ways has a limit: their ratio of arithmetic.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from foley_lab.diagnosis.floor import Recomputing
from foley_lab.generators.eight_bit import block_bytes, to_eight_bit
from foley_lab.generators.foley import XL, Conditions, FoleyConfig, FoleyTransformer, TripleBlock
from foley_lab.signals import FoleyError

SECONDS = 8
AUDIO, VISUAL, TEXT, SYNC = 400, 64, 77, 192
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def bench_transformer(
    repeats: int = 5, depth: tuple[int, int] = (1, 2), config: FoleyConfig = XL
) -> dict[str, Any]:
    """Seconds, arithmetic and share of the ceiling of one guided velocity call.

    Args:
        repeats: Timed calls of each way, after one to warm up.
        depth: Two-stream and audio-only blocks.
        config: Width and everything else.

    Returns:
        threads, tokens, and by dtype: ours_s, recomputing_s (medians), speedup, arithmetic_ratio
        (of what is computed), ours_tflop, recomputing_tflop, ceiling_tflops (of a matrix product),
        share_of_ceiling, difference (largest, relative to the largest velocity), and
        xl_8s_12_calls_s: twelve guided calls of the whole XL from the times of its blocks. And
        under int8 what weights of eight bits do: call_s, bfloat16_call_s, error (relative L2
        against float32), bfloat16_error, memory (of the blocks, over bfloat16); None without
        torchao.
    """
    config = replace(config, depth_triple_blocks=depth[0], depth_single_blocks=depth[1])
    table: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "tokens": {"audio": AUDIO, "visual": VISUAL, "text": TEXT, "sync": SYNC, "batch": 2},
    }
    for name, dtype in DTYPES.items():
        table[name] = _bench(config, dtype, repeats)
    table["int8"] = _eight_bit(config, repeats)
    return table


@torch.inference_mode()
def _bench(config: FoleyConfig, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    ours, plain = _filled(FoleyTransformer(config)), Recomputing(config)
    plain.load_state_dict(ours.state_dict())
    ours, plain = ours.to(dtype).eval(), plain.to(dtype).eval()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.audio_vae_latent_dim, AUDIO, generator=draw).expand(2, -1, -1)
    seen = [
        torch.randn(1, count, width, generator=draw)
        for count, width in ((VISUAL, config.clip_dim), (SYNC, config.sync_dim))
    ]
    text = torch.randn(2, TEXT, config.condition_dim, generator=draw)
    drop = torch.ones(1, dtype=torch.bool)
    visual, sync = (
        torch.cat(both)
        for both in zip(ours.without_video(seen[0], seen[1], drop), seen, strict=True)
    )
    tokens = (visual, sync, text)
    t = 0.5
    conditions = replace(ours.prepare(*tokens, AUDIO), modulation=ours.tabulate([t]))

    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours.velocity(x, t, conditions),
        "recomputing": lambda: plain.call(x, t, tokens),
    }
    results = {name: way() for name, way in ways.items()}
    flops = {name: _tflop(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "product")}
    product, product_tflop = _product(config, dtype)
    for _ in range(repeats):  # in turns: the machine's moods hit all alike
        for name, way in (*ways.items(), ("product", product)):
            times[name].append(_seconds(way))
    median = {name: statistics.median(each) for name, each in times.items()}
    ceiling = product_tflop / median["product"]
    difference = (results["ours"].float() - results["recomputing"].float()).abs().max()
    return {
        "ours_s": median["ours"],
        "recomputing_s": median["recomputing"],
        "speedup": statistics.median(
            b / a for a, b in zip(times["ours"], times["recomputing"], strict=True)
        ),
        "arithmetic_ratio": flops["recomputing"] / flops["ours"],
        "ours_tflop": flops["ours"],
        "recomputing_tflop": flops["recomputing"],
        "ceiling_tflops": ceiling,
        "share_of_ceiling": flops["ours"] / median["ours"] / ceiling,
        "difference": float(difference / results["recomputing"].float().abs().max()),
        "xl_8s_12_calls_s": 12 * _whole(ours, conditions, x, t, repeats),
    }


@torch.inference_mode()
def _eight_bit(config: FoleyConfig, repeats: int) -> dict[str, float] | None:
    """Velocity, time and memory of weights of eight bits beside bfloat16."""
    exact = _filled(FoleyTransformer(config)).eval()
    half = copy.deepcopy(exact).bfloat16()
    try:
        small = to_eight_bit(copy.deepcopy(half))
    except FoleyError:
        return None
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.audio_vae_latent_dim, AUDIO, generator=draw)
    visual = torch.randn(2, VISUAL, config.clip_dim, generator=draw)
    sync = torch.randn(2, SYNC, config.sync_dim, generator=draw)
    text = torch.randn(2, TEXT, config.condition_dim, generator=draw)
    wanted = exact.velocity(x, 0.5, exact.prepare(visual, sync, text, AUDIO))
    errors, times = [], []
    for network in (small, half):
        conditions = network.prepare(visual, sync, text, AUDIO)
        got = network.velocity(x, 0.5, conditions).float()
        errors.append(float((got - wanted).norm() / wanted.norm()))
        call = partial(network.velocity, x, 0.5, conditions)
        times.append(statistics.median(_seconds(call) for _ in range(repeats)))
    return {
        "call_s": times[0],
        "bfloat16_call_s": times[1],
        "error": errors[0],
        "bfloat16_error": errors[1],
        "memory": block_bytes(small) / block_bytes(half),
    }


def _whole(
    transformer: FoleyTransformer, conditions: Conditions, x: Tensor, t: float, repeats: int
) -> float:
    """Seconds of one call of XL: what a call costs without blocks, and its blocks as often as XL
    has them."""
    audio = transformer.audio_embedder(x.to(transformer.dtype))
    modulation, rotary = conditions.modulation[t], conditions.rotary
    first = cast(TripleBlock, transformer.triple_blocks[0])
    single = transformer.single_blocks[0]
    rows = torch.nn.functional.silu(conditions.sync)
    reads, first.reads_visual_out = first.reads_visual_out, True  # all of them but the last do
    parts = {
        "triple": lambda: first(
            audio, conditions.visual, modulation[0], conditions.text[0], rotary
        )[0],
        "single": lambda: single(audio, rows, conditions.sync_index, rotary.audio),
        "ends": lambda: transformer.final_layer(transformer.audio_embedder(x.to(audio.dtype))),
    }
    best = {
        name: statistics.median(_seconds(part) for _ in range(repeats))
        for name, part in parts.items()
    }
    first.reads_visual_out = reads
    depths = XL.depth_triple_blocks, XL.depth_single_blocks
    return best["ends"] + depths[0] * best["triple"] + depths[1] * best["single"]


def _product(config: FoleyConfig, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """The matrix product that carries most of the arithmetic, and its 10¹² operations."""
    width, hidden = 3 * config.hidden_size, 256 * -(-(2 * config.mlp_dim // 3) // 256)
    a, b = torch.randn(2 * AUDIO, width, dtype=dtype), torch.randn(hidden, width, dtype=dtype)
    return lambda: torch.nn.functional.linear(a, b), 2e-12 * 2 * AUDIO * width * hidden


def _filled(transformer: FoleyTransformer) -> FoleyTransformer:
    """Random parameters, none of them zero."""
    draw = torch.Generator().manual_seed(0)
    transformer.init_weights(draw)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return transformer


def _tflop(way: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops() / 1e12


def _seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
