"""Step caches: what is skipped, what is kept apart, and that nothing changes where nothing is."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from dataclasses import replace

import pytest
import torch
from test_foley import TINY, features, tiny_transformer, tokens

from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import SMALL, FoleyTransformer
from foley_lab.generators.step_cache import (
    RATIOS,
    STEP_CACHES,
    CachedTransformer,
    FirstBlock,
    MagCache,
    StepCache,
    TaylorSeer,
    calibrate,
)
from foley_lab.signals import SMALL_RATES

pytest.importorskip("diffusers")

CONFIGS = {"small": TINY, "pooled": replace(TINY, pooled_text=True)}
FLAT = (1.0,) * 8
CACHES = {
    "first_block": FirstBlock(10.0),
    "taylorseer": TaylorSeer(3),
    "magcache": MagCache(ratios=FLAT, max_skips=2),
}
"""Each skips much."""
NEVER = {
    "first_block": FirstBlock(0.0),
    "taylorseer": TaylorSeer(1),
    "magcache": MagCache(0.0, ratios=FLAT, retention=0.0),
}
LENGTH, STEPS = 24, 8
TIMES = [1 - 0.01 * i for i in range(STEPS)]


def clip_conditions(transformer, batch=1, seed=2):
    clip = tokens(batch, LENGTH, transformer.config, seed=seed)
    return transformer.prepare(*clip, LENGTH)


def states(batch=1, seed=3):
    draw = torch.Generator().manual_seed(seed)
    start, way = torch.randn(2, batch, 4, LENGTH, generator=draw)
    return [start + 0.02 * i * way for i in range(STEPS)]


@torch.no_grad()
def follow(transformer, conditions, xs, context="all"):
    """Velocities along a given way."""
    found = []
    for x, t in zip(xs, TIMES, strict=True):
        if isinstance(transformer, CachedTransformer):
            with transformer.context(context):
                found.append(transformer.velocity(x, t, conditions))
        else:
            found.append(transformer.velocity(x, t, conditions))
    return torch.stack(found)


# Laws


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("cache", NEVER.values(), ids=NEVER.keys())
def test_a_cache_that_never_skips_is_no_cache_bit_for_bit(cache, config):
    transformer = tiny_transformer(config)
    conditions = clip_conditions(transformer)
    plain = follow(transformer, conditions, states())
    cached = cache.apply(transformer, STEPS)
    assert torch.equal(follow(cached, conditions, states()), plain)
    assert cached.blocks_run == cached.blocks_asked == STEPS * 4


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_what_is_skipped_changes_the_velocity_and_is_counted(cache, config):
    transformer = tiny_transformer(config)
    conditions = clip_conditions(transformer)
    plain = follow(transformer, conditions, states())
    cached = cache.apply(transformer, STEPS)
    spared = follow(cached, conditions, states())
    ran = {"first_block": 4 + 7, "taylorseer": 4 * 4, "magcache": 4 * 4}[cache.name]
    assert (cached.blocks_run, cached.blocks_asked) == (ran, STEPS * 4)
    assert torch.equal(spared[0], plain[0]) and not torch.allclose(spared, plain, atol=1e-3)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_the_transformer_is_left_as_it_was(cache):
    transformer = tiny_transformer()
    conditions = clip_conditions(transformer)
    plain = follow(transformer, conditions, states())
    names = [name for name, _ in transformer.named_modules()]
    cached = cache.apply(transformer, STEPS)
    first = follow(cached, conditions, states())
    assert torch.equal(follow(transformer, conditions, states()), plain)
    assert [name for name, _ in transformer.named_modules()] == names
    for module in transformer.modules():
        assert "forward" not in vars(module) and not hasattr(module, "_diffusers_hook")
    again = follow(cache.apply(transformer, STEPS), conditions, states())
    assert torch.equal(first, again)
    assert {id(p) for p in cached.parameters()} == {id(p) for p in transformer.parameters()}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_contexts_do_not_mix(cache):
    transformer = tiny_transformer()
    clips = [clip_conditions(transformer, seed=seed) for seed in (2, 5)]
    ways = [states(seed=seed) for seed in (3, 6)]
    alone = [
        follow(cache.apply(transformer, STEPS), c, xs) for c, xs in zip(clips, ways, strict=True)
    ]
    cached = cache.apply(transformer, STEPS)
    with torch.no_grad():
        for i, t in enumerate(TIMES):
            for name, (clip, way, wanted) in enumerate(zip(clips, ways, alone, strict=True)):
                with cached.context(str(name)):
                    assert torch.equal(cached.velocity(way[i], t, clip), wanted[i])


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@torch.no_grad()
def test_another_batch_in_the_same_context_is_another_memory(cache):
    transformer = tiny_transformer()
    cached = cache.apply(transformer, STEPS)
    one, two = (clip_conditions(transformer, batch) for batch in (1, 2))
    for i, t in enumerate(TIMES[:4]):
        cached.velocity(states()[i], t, one)
        both = cached.velocity(states(2)[i], t, two)
    wanted = follow(cache.apply(transformer, STEPS), two, states(2))
    assert torch.equal(both, wanted[3])


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@torch.no_grad()
def test_what_sat_out_a_step_starts_anew(cache):
    transformer = tiny_transformer()
    conditions, xs = clip_conditions(transformer), states()
    cached = cache.apply(transformer, STEPS)
    for name, i in (("a", 0), ("a", 1), ("b", 2), ("a", 3)):
        with cached.context(name):
            last = cached.velocity(xs[i], TIMES[i], conditions)
    assert torch.equal(last, transformer.velocity(xs[3], TIMES[3], conditions))


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_threads_do_not_meet(cache):
    transformer = tiny_transformer()
    ways = [states(seed=seed) for seed in range(4)]
    conditions = clip_conditions(transformer)
    wanted = [follow(cache.apply(transformer, STEPS), conditions, xs) for xs in ways]
    found: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        found[i] = follow(cache.apply(transformer, STEPS), conditions, ways[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], wanted[i]) for i in range(4))


@pytest.mark.parametrize("depths", [(0, 3), (3, 0)])
@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_blocks_of_one_kind_are_enough(cache, depths):
    config = replace(TINY, depth_triple_blocks=depths[0], depth_single_blocks=depths[1])
    transformer = tiny_transformer(config)
    cached = cache.apply(transformer, STEPS)
    assert follow(cached, clip_conditions(transformer), states()).isfinite().all()
    assert cached.blocks_run < cached.blocks_asked


@pytest.mark.parametrize("name", ["first_block", "magcache"])
def test_what_is_skipped_is_added_as_it_was(name):
    transformer = tiny_transformer()
    conditions = clip_conditions(transformer)
    before, after = [], []
    first = transformer.audio_embedder if name == "magcache" else transformer.triple_blocks[0]
    first.register_forward_hook(
        lambda _, __, out: before.append(out[0] if isinstance(out, tuple) else out)
    )
    transformer.final_layer.register_forward_pre_hook(lambda _, args: after.append(args[0]))
    follow(CACHES[name].apply(transformer, STEPS), conditions, states())
    added = [b - a for a, b in zip(before, after, strict=True)]
    # magcache: whole at 0 and 1, where its count starts; then two are skipped in a row.
    whole = [0] * STEPS if name == "first_block" else [0, 1, 1, 1, 4, 4, 4, 7]
    for i, k in enumerate(whole):
        assert torch.allclose(added[i], added[k], atol=1e-5)
    assert not torch.allclose(added[1], added[4], atol=1e-3) or name == "first_block"


def test_a_foretold_step_lies_on_the_line_of_the_last_two():
    """Order 1 on the block's output: exact, since the final layer sees just that sum."""
    transformer = tiny_transformer()
    conditions = clip_conditions(transformer)
    seen = []
    transformer.final_layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    follow(TaylorSeer(interval=8, warmup=2).apply(transformer, STEPS), conditions, states())
    # The schedule is that of diffusers: whole at 0 and 1 to warm up, and at 3.
    slope = seen[1] - seen[0]
    assert torch.allclose(seen[2], seen[1] + slope, atol=1e-5)
    slope = (seen[3] - seen[1]) / 2
    assert torch.allclose(seen[7], seen[3] + 4 * slope, atol=1e-5)


# In the generator


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_windows_of_a_long_clip_keep_their_own(cache):
    generator = FlowGenerator(tiny_transformer(), SMALL_RATES, window_s=2.0, overlap_s=0.5)
    clip = features(1, 150)  # 6 s: four windows of 2 s and a shorter one, two contexts
    plain = generator.sample(clip, num_steps=STEPS)
    spared, again = (generator.sample(clip, num_steps=STEPS, step_cache=cache) for _ in range(2))
    assert torch.equal(spared.latents, again.latents)
    assert spared.blocks_run < 0.7 and plain.blocks_run == 1.0
    assert not torch.allclose(spared.latents, plain.latents, atol=1e-3)
    never = generator.sample(clip, num_steps=STEPS, step_cache=NEVER[cache.name])
    assert torch.equal(never.latents, plain.latents)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_guidance_in_an_interval_keeps_its_branches_apart(cache):
    generator = FlowGenerator(tiny_transformer(), SMALL_RATES)
    options = {"num_steps": STEPS, "guidance": "interval", "guidance_scale": 2.0}
    plain = generator.sample(features(1, 50), **options)
    never = generator.sample(features(1, 50), step_cache=NEVER[cache.name], **options)
    spared = generator.sample(features(1, 50), step_cache=cache, **options)
    assert torch.equal(never.latents, plain.latents)
    assert not torch.allclose(spared.latents, plain.latents, atol=1e-3)


@pytest.mark.parametrize("name", STEP_CACHES)
def test_the_small_model_hardly_changes_under_the_defaults(name):
    from foley_lab.weights import load_shipped

    tensors, config = load_shipped("foley")
    transformer = FoleyTransformer(SMALL)
    assert transformer.config == type(SMALL)(**config)
    transformer.load_state_dict(tensors)
    draw = torch.Generator().manual_seed(0)
    clip = replace(
        features(1, 50),
        visual=torch.randn(1, 13, SMALL.clip_dim, generator=draw),
        sync=torch.rand(1, 50, SMALL.sync_dim, generator=draw),
        text=torch.zeros(1, 32, SMALL.condition_dim),
        negative_text=torch.zeros(1, 32, SMALL.condition_dim),
    )
    generator = FlowGenerator(transformer, SMALL_RATES)
    plain = generator.sample(clip, num_steps=16)
    spared = generator.sample(clip, num_steps=16, step_cache=STEP_CACHES[name])
    change = (spared.latents - plain.latents).norm() / plain.latents.norm()
    assert spared.blocks_run < 1 and 0 < change < 0.25


# Calibration


def test_calibration_measures_what_the_blocks_add():
    transformer = tiny_transformer()
    conditions, xs = clip_conditions(transformer), states()
    inputs, outputs = [], []
    transformer.triple_blocks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    transformer.final_layer.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    ratios = calibrate(transformer, lambda t: follow(t, conditions, xs))
    sizes = [(after - before).norm(dim=-1) for before, after in zip(inputs, outputs, strict=True)]
    wanted = [1.0] + [float((b / a).mean()) for a, b in itertools.pairwise(sizes)]
    assert ratios == pytest.approx(wanted, rel=1e-4)
    MagCache(ratios=ratios)

    def uneven(t):
        follow(t, conditions, xs, "a")
        with t.context("b"):
            t.velocity(xs[0], 0.5, conditions)

    for run in (uneven, lambda t: None):
        with pytest.raises(ValueError, match="wanted the same number, at least 1"):
            calibrate(transformer, run)


def test_the_small_model_has_its_ratios():
    tables = json.loads(RATIOS.read_text())
    assert {int(calls): len(ratios) for calls, ratios in tables.items()} == {
        8: 8, 16: 16, 32: 32, 64: 64,
    }  # fmt: skip
    assert all(ratios[0] == 1.0 and 0.5 < r < 2 for ratios in tables.values() for r in ratios)
    small = FoleyTransformer(SMALL)
    for calls in (1, 8, 20, 1000):
        MagCache().apply(small, calls)


# The door


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StepCache.named("teacache"), "wanted one of first_block, taylorseer, magcache"),
        (lambda: StepCache.named("first_block", interval=2), "option 'interval' of step cache"),
        (lambda: FirstBlock(-0.1), "threshold -0.1"),
        (lambda: FirstBlock(float("nan")), "threshold nan"),
        (lambda: FirstBlock("0.1"), "threshold '0.1'"),
        (lambda: TaylorSeer(0), "interval 0"),
        (lambda: TaylorSeer(2.0), "interval 2.0"),
        (lambda: TaylorSeer(warmup=0), "warmup 0"),
        (lambda: TaylorSeer(order=5), "order 5"),
        (lambda: MagCache(max_skips=True), "max_skips True"),
        (lambda: MagCache(retention=1.5), "retention 1.5"),
        (lambda: MagCache(ratios=()), "no ratios"),
        (lambda: MagCache(ratios=(1.0, -1.0)), "a ratio -1.0"),
        (lambda: FirstBlock().apply(tiny_transformer(), 0), "num_calls 0"),
        (lambda: MagCache().apply(tiny_transformer(), 8), "for a transformer of width 32"),
        (
            lambda: FirstBlock().apply(tiny_transformer(replace(TINY, depth_triple_blocks=0,
            depth_single_blocks=1)), 8),
            "a transformer of 1 block",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=r"^[^\n]*wanted[^\n]*$") as caught:
        make()
    assert says in str(caught.value)


def test_names_find_their_cache():
    assert StepCache.named("first_block") == STEP_CACHES["first_block"]
    assert StepCache.named("taylorseer", interval=5) == TaylorSeer(5)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
def test_without_diffusers_the_command_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'foley-lab\[diffusers\]'"):
        cache.apply(tiny_transformer(), STEPS)
