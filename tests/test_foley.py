"""The transformer and its generator: laws that need no published numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foley_lab.encoders.track import MATERIAL_PART, TRACK_DIM
from foley_lab.generators.diffusion import FlowGenerator, Window, crossfade, make_noise, split
from foley_lab.generators.foley import (
    XL,
    XXL,
    FoleyConfig,
    FoleyTransformer,
    Rotary,
)
from foley_lab.nn.attention import (
    attend,
    nearest_index,
    normalise_and_rotate,
    rotary_table,
    spaced_index,
)
from foley_lab.nn.layers import TimeConv
from foley_lab.samplers import sample
from foley_lab.samplers.guidance import guided
from foley_lab.signals import HUNYUAN_RATES, SMALL_RATES, Features
from foley_lab.training.foley import OWN_SHARE, SOUND_WEIGHT, WORDINGS, FeatureSet
from foley_lab.training.losses import flow_matching_loss

TINY = FoleyConfig(
    2, 2, 32, 2, 2.0, clip_dim=6, sync_dim=5, condition_dim=7, text_length=8, sync_positions=0,
    audio_vae_latent_dim=4, inert_parameters=False,
)  # fmt: skip


def tiny_transformer(config=TINY):
    """A transformer in which nothing is zero, so that nothing is tested vacuously."""
    transformer = FoleyTransformer(config)
    generator = torch.Generator().manual_seed(1)
    transformer.init_weights(generator)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return transformer


def local_transformer():
    """A transformer that looks at one instant only: no picture, text, attention or neighbours."""
    transformer = tiny_transformer(replace(TINY, depth_triple_blocks=0, depth_single_blocks=1))
    block = transformer.single_blocks[0]
    with torch.no_grad():
        block.linear1.weight.zero_()
        for conv in (block.linear2.w1, block.linear2.w2, block.linear2.w3):
            conv.weight[..., [0, 2]] = 0.0
    return transformer


def tokens(batch, length, config=TINY, seed=2, visual=None, sync=None, text=5):
    """Visual, sync and text tokens for `length` latents of SMALL_RATES."""
    draw = torch.Generator().manual_seed(seed)
    counts = (visual or max(1, length // 4), sync or length, text)
    widths = (config.clip_dim, config.sync_dim, config.condition_dim)
    return [
        torch.randn(batch, count, width, generator=draw)
        for count, width in zip(counts, widths, strict=True)
    ]


def features(batch, length, seed=2):
    visual, sync, text = tokens(batch, length, seed=seed)
    return Features(visual, sync, text, text.flip(1), duration_s=length / 25)


@pytest.mark.parametrize(("config", "count"), [(XL, 2_912_962_688), (XXL, 5_134_014_848)])
def test_published_sizes_have_the_official_number_of_parameters(config, count):
    with torch.device("meta"):
        transformer = FoleyTransformer(config)
    assert sum(p.numel() for p in transformer.parameters()) == count
    assert not list(transformer.buffers())


# --- laws of the transformer -------------------------------------------------------------------

LAW_CONFIGS = {
    "small": TINY,
    "official": replace(TINY, sync_positions=8, inert_parameters=True),
    "kernel 3": replace(TINY, sync_kernel=3),
}


@pytest.mark.parametrize("config", LAW_CONFIGS.values(), ids=LAW_CONFIGS.keys())
@pytest.mark.parametrize(("length", "sync"), [(24, 24), (37, 16), (11, 16)])
@torch.no_grad()
def test_batched_is_alone_and_prepared_is_forward(config, length, sync):
    transformer = tiny_transformer(config)
    visual, sync, text = tokens(3, length, config, sync=sync)
    x = torch.randn(3, 4, length, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.9, 0.5, 0.1])
    conditions = transformer.prepare(visual, sync, text, length)
    together = transformer.velocity(x, t, conditions)
    assert torch.allclose(together, transformer(x, 1000 * t, visual, text, sync), atol=1e-6)
    for i in range(3):
        row = conditions.select(torch.tensor([i]))
        alone = transformer.velocity(x[i : i + 1], t[i].item(), row)
        assert torch.allclose(alone, together[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_one_time_for_all_is_that_time_for_each():
    transformer = tiny_transformer()
    x = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(3))
    conditions = transformer.prepare(*tokens(2, 20), 20)
    each = transformer.velocity(x, torch.tensor([0.3, 0.3]), conditions)
    assert torch.allclose(transformer.velocity(x, 0.3, conditions), each, atol=1e-5)


@pytest.mark.parametrize(("sync", "length"), [(6, 18), (18, 6), (12, 12)])
@torch.no_grad()
def test_sync_tokens_steer_their_own_time(sync, length):
    transformer = local_transformer()
    visual, heard, text = tokens(1, length, sync=sync)
    changed = heard.clone()
    changed[:, sync // 2] += 1.0
    before, after = (
        transformer.velocity(
            torch.zeros(1, 4, length), 0.5, transformer.prepare(visual, s, text, length)
        )
        for s in (heard, changed)
    )
    moved = (before - after).abs().amax((0, 1)) > 1e-6
    source = ((torch.arange(length) + 0.5) * sync / length).floor()
    assert moved.tolist() == (source == sync // 2).tolist()


def test_from_nothing_the_velocity_is_zero_and_learns():
    transformer = FoleyTransformer(TINY)
    transformer.init_weights(torch.Generator().manual_seed(0))
    seen, generator = tokens(8, 12), torch.Generator().manual_seed(4)
    x = torch.randn(8, 4, 12, generator=generator)
    assert transformer(x, torch.full((8,), 500.0), seen[0], seen[2], seen[1]).abs().max() == 0.0

    optimiser = torch.optim.AdamW(transformer.parameters(), lr=1e-2)
    latents, losses = torch.randn(8, 4, 12, generator=generator), []
    for _ in range(40):
        loss = flow_matching_loss(transformer, latents, *seen, generator=generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.0, rel=0.2)  # E(noise − latents)² of two unit normals
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_no_parameter_of_the_small_shape_is_idle():
    transformer = tiny_transformer()
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 4, 8, generator=draw)
    visual, sync, text = tokens(64, 8)
    half_blind = transformer.without_video(visual, sync, torch.arange(64) % 2 == 0)
    flow_matching_loss(transformer, latents, *half_blind, text, generator=draw).backward()
    idle = [n for n, p in transformer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_tables_made_in_inference_serve_training():
    transformer = tiny_transformer()
    rotary_table.cache_clear()
    Rotary.build.cache_clear()
    seen = tokens(1, 9)
    with torch.inference_mode():
        transformer(torch.zeros(1, 4, 9), torch.ones(1), seen[0], seen[2], seen[1])
    transformer(torch.zeros(1, 4, 9), torch.ones(1), seen[0], seen[2], seen[1]).sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": (1, 3, 9)}, r"visual tokens \[1, 3, 9\], wanted \[batch, at least 1, 6\]"),
        ({"sync": (1, 0, 5)}, r"sync tokens \[1, 0, 5\]"),
        ({"text": (2, 5, 7)}, "2 clips of text tokens beside 1 of visual tokens"),
        ({"text": (1, 9, 7)}, "9 text tokens, wanted at most 8"),
    ],
)
def test_misfit_features_are_named(change, message):
    shapes = {"visual": (1, 3, 6), "sync": (1, 12, 5), "text": (1, 5, 7), **change}
    given = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        tiny_transformer().prepare(**given, latents_length=12)


def test_misfit_latents_groups_and_configurations_are_named():
    transformer = tiny_transformer()
    conditions = transformer.prepare(*tokens(1, 12), 12)
    with pytest.raises(ValueError, match=r"latents \[1, 4, 13\], wanted \[1, 4, 12\]"):
        transformer.velocity(torch.zeros(1, 4, 13), 0.5, conditions)
    grouped = FoleyTransformer(replace(TINY, sync_positions=8))
    with pytest.raises(ValueError, match="12 sync tokens, wanted a multiple of 8"):
        grouped.prepare(*tokens(1, 12), 12)
    with pytest.raises(ValueError, match="hidden_size 30 with 4 heads"):
        replace(TINY, hidden_size=30, num_heads=4)
    with pytest.raises(ValueError, match="sync_modulation = True in the model options"):
        FoleyConfig.from_official({"sync_modulation": True})


# --- the written-out backward passes -----------------------------------------------------------


def gradients(function, inputs, seed=5):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    return out, torch.autograd.grad((out * weight).sum(), leaves)


def assert_same_gradients(ours, plain, inputs):
    (out, grads), (out_plain, grads_plain) = gradients(ours, inputs), gradients(plain, inputs)
    assert torch.allclose(out, out_plain, atol=1e-5)
    for grad, grad_plain in zip(grads, grads_plain, strict=True):
        assert torch.allclose(grad, grad_plain, atol=2e-5, rtol=1e-4)


def test_norm_and_rotation_have_the_right_gradient():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 3, 8, generator=draw)
    table = rotary_table(7, 8, torch.device("cpu"))
    cos, sin = (p[:, None].repeat_interleave(2, -1) for p in (table.real, table.imag))

    def plain(x, weight):
        y = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
        swapped = torch.stack([-y[..., 1::2], y[..., 0::2]], dim=-1).flatten(-2)
        return y * cos + swapped * sin

    def ours(x, weight):
        return normalise_and_rotate(x, weight, table, 1e-6)

    assert_same_gradients(ours, plain, [x, torch.randn(8, generator=draw)])
    with torch.no_grad():  # the path of inference
        assert torch.allclose(ours(x, torch.ones(8)), plain(x, torch.ones(8)), atol=1e-5)


def test_attention_has_the_right_gradient():
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, n, 3, 8, generator=draw) for n in (7, 5, 5)]

    def plain(queries, keys, values):
        weights = torch.einsum("bnhd,bmhd->bhnm", queries, keys).div(8**0.5).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, values).flatten(2)

    assert_same_gradients(attend, plain, inputs)
    with torch.no_grad():  # the path of inference
        assert torch.allclose(attend(*inputs), plain(*inputs), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_time_conv_is_conv1d(kernel):
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=draw) for shape in ((2, 9, 4), (6, 4, kernel), (6,))]
    conv = TimeConv(4, 6, kernel, bias=True)

    def ours(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    def plain(x, weight, bias):
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=kernel // 2).transpose(1, 2)

    assert_same_gradients(ours, plain, inputs)


@pytest.mark.parametrize("assign", [True, False])
def test_loaded_time_convs_need_no_copy_of_their_weights(assign):
    state = {"weight": torch.arange(72.0).reshape(6, 4, 3)}
    conv = TimeConv(4, 6, 3)
    conv.load_state_dict(state, assign=assign)
    assert torch.equal(conv.weight, state["weight"])
    assert conv.weight.transpose(1, 2).is_contiguous()


# --- laws of the generator ---------------------------------------------------------------------


def test_up_to_a_window_generation_is_the_plain_path():
    transformer, seen = tiny_transformer(), features(2, 30)
    got = FlowGenerator(transformer, SMALL_RATES).sample(
        seen, num_steps=3, guidance_scale=2.0, sampler="heun", seeds=[5, 9]
    )
    with torch.no_grad():
        everything = torch.ones(2, dtype=torch.bool)
        empty = transformer.without_video(seen.visual, seen.sync, everything)
        without = transformer.prepare(*empty, seen.negative_text, 30)
        with_ = transformer.prepare(seen.visual, seen.sync, seen.text, 30)

        def velocities(x, t, both):
            return transformer.velocity(x, t, without), transformer.velocity(x, t, with_)

        plain = sample(guided(velocities, 2.0), make_noise([5, 9], 1, (4, 30)), "heun", 3)
    assert torch.allclose(got.latents, plain.latents, atol=1e-4)
    assert got.network_calls == 6 and got.evaluations == 12
    assert not got.latents.requires_grad


@pytest.mark.parametrize("length", [30, 70])
def test_same_seed_same_result_and_takes_batched_are_takes_alone(length):
    generator = FlowGenerator(tiny_transformer(), SMALL_RATES, window_s=1, overlap_s=0.2)
    options = {"num_steps": 2, "sampler": "ab2"}
    both = generator.generate(features(2, length), seeds=[3, 100], takes=2, **options)
    assert torch.equal(
        both, generator.generate(features(2, length), seeds=[3, 100], takes=2, **options)
    )
    assert both.shape == (4, 4, length)
    one = features(2, length)
    one = Features(
        *(t[1:] for t in (one.visual, one.sync, one.text, one.negative_text)), one.duration_s
    )
    for take in range(2):
        alone = generator.generate(one, seeds=100 + take, **options)
        assert torch.allclose(alone[0], both[2 + take], atol=1e-4)
    assert not torch.allclose(both[2], both[3], atol=1e-2)


def test_without_guidance_the_negative_prompt_is_not_read():
    generator, seen = FlowGenerator(tiny_transformer(), SMALL_RATES), features(1, 20)
    other = replace(seen, negative_text=seen.negative_text + 1.0)
    plain = generator.generate(seen, num_steps=2, guidance_scale=1.0)
    assert torch.equal(plain, generator.generate(other, num_steps=2, guidance_scale=1.0))
    guided_ = generator.generate(seen, num_steps=2, guidance_scale=2.0)
    assert not torch.allclose(guided_, generator.generate(other, num_steps=2, guidance_scale=2.0))


@pytest.mark.parametrize("length", [26, 49, 83, 250])
def test_windows_do_not_change_what_depends_on_one_instant(length):
    """Windows, their batches, their tokens and their blending cancel out, without a seam."""
    transformer, seen = local_transformer(), features(2, length)
    options = {"num_steps": 2, "seeds": [7, 8], "takes": 2}
    whole = FlowGenerator(transformer, SMALL_RATES, window_s=10).sample(seen, **options)
    cut = FlowGenerator(transformer, SMALL_RATES, window_s=1, overlap_s=0.2).sample(seen, **options)
    assert torch.allclose(cut.latents, whole.latents, atol=1e-4)
    assert whole.network_calls == 2
    assert cut.network_calls == (2 if length == 49 else 4 if length < 100 else 8)


@pytest.mark.parametrize(
    ("length", "window", "overlap", "grid"),
    [
        (200, 200, 50, 4),
        (201, 200, 50, 4),
        (350, 200, 50, 4),
        (1503, 200, 50, 4),
        (1000, 400, 100, 16),
    ],
)
def test_windows_cover_the_clip_and_their_weights_add_up(length, window, overlap, grid):
    windows = split(length, window, overlap, grid)
    assert windows[0].start == 0 and windows[-1].stop == length
    for before, after in itertools.pairwise(windows):
        assert after.start % grid == 0
        assert before.length == window
        assert before.stop - after.start > overlap - grid
    assert window - grid < windows[-1].length <= window or len(windows) == 1
    weights = crossfade(windows, length)
    assert torch.allclose(weights.sum(0), torch.ones(length))
    assert (weights.diff(dim=-1).abs() < 2 * torch.pi / overlap).all()


@pytest.mark.parametrize("rates", [SMALL_RATES, HUNYUAN_RATES], ids=["small", "official"])
def test_tokens_of_a_window_are_those_of_its_time(rates):
    """Each token carries its own time: a window must hear tokens from its own start on."""
    official = rates is HUNYUAN_RATES
    config = replace(TINY, sync_positions=8 if official else 0, clip_dim=1, sync_dim=1)
    spacing = Fraction(1, 25)
    generator = FlowGenerator(FoleyTransformer(config), rates, sync_spacing_s=spacing)
    seconds = 20
    sync_count = 8 * ((seconds * 25 - 16) // 8 + 1) if official else seconds * 25
    visual = torch.arange(round(seconds * rates.visual_rate)) / float(rates.visual_rate)
    sync = torch.arange(sync_count) / 25
    seen = Features(
        visual[None, :, None], sync[None, :, None], torch.zeros(1), torch.zeros(1), seconds
    )
    length = rates.num_latents(seconds)
    windows = split(length, generator.window, generator.overlap, generator._grid())
    assert len(windows) > 2
    for window in windows:
        seen_, heard = generator._cut(seen, window, length)
        start_s = window.start / rates.latent_rate
        assert heard[0, 0, 0] == pytest.approx(start_s, abs=1e-6)
        assert seen_[0, 0, 0] == pytest.approx(start_s, abs=0.5 / float(rates.visual_rate) + 1e-6)
        if window.stop < length:
            assert heard.shape[1] == (192 if official else 200)
        assert heard.shape[1] % max(1, config.sync_positions) == 0
    assert generator._cut(seen, Window(0, length), length) == (seen.visual, seen.sync)


def test_bad_requests_are_named():
    generator, seen = FlowGenerator(tiny_transformer(), SMALL_RATES), features(2, 20)
    with pytest.raises(ValueError, match="3 seeds and 1 takes for 2 clips"):
        generator.generate(seen, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="latents_length -1, wanted at least 1"):
        generator.generate(seen, latents_length=-1)
    with pytest.raises(ValueError, match="wanted equal shapes"):
        generator.generate(replace(seen, negative_text=seen.text[:, :2]))
    with pytest.raises(ValueError, match=r"overlap of 5 s in windows of 8\.0 s"):
        FlowGenerator(tiny_transformer(), SMALL_RATES, overlap_s=5)


# --- training ----------------------------------------------------------------------------------


def test_words_are_withheld_only_where_the_score_itself_sounds():
    """Without words a contradicting sound could not be told from that of the score."""

    class Model:
        def without_video(self, visual, sync, drop):
            return visual * ~drop[:, None, None], sync * ~drop[:, None, None]

    clips = 8
    data = FeatureSet.__new__(FeatureSet)
    data.visual, data.sync = torch.ones(clips, 50, 2), torch.ones(clips, 200, TRACK_DIM)
    data.watched = torch.arange(clips) < 4
    data.latents = torch.zeros(clips, 2, 3, 200)
    data.latents[:, 1] = 1.0  # the contradicting sound
    data.text, data.words = torch.ones(1, 4, 2), torch.zeros(clips, 2, WORDINGS, dtype=torch.long)
    drawn = [data.draw(np.random.default_rng(k), Model(), 64) for k in range(60)]
    other = torch.cat([b["latents"][:, 0, 0] for b in drawn]) > 0
    words = torch.cat([b["text"][:, 0, 0] for b in drawn]) > 0
    seen = torch.cat([b["sync"][:, 0, 0] for b in drawn]) > 0
    assert words[other].all()
    assert (~other).float().mean().item() == pytest.approx(OWN_SHARE, abs=0.03)
    named = torch.cat([b["sync"][:, 0, MATERIAL_PART].amax(-1) for b in drawn]) > 0
    assert (~words[~other]).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (~seen & ~words)[~other].float().mean().item() == pytest.approx(0.10, abs=0.03)
    assert named[seen & words].float().mean().item() == pytest.approx(0.7, abs=0.03)
    looked = torch.cat([b["visual"][:, 0, 0] for b in drawn]) > 0
    assert 0.3 < looked.float().mean() < 0.8 and not looked[~seen].any()
    heavy = torch.cat([b["weight"][:, 0] for b in drawn])
    assert (heavy == 1 + SOUND_WEIGHT).all()  # every frame of these scores sounds


def test_the_loss_is_zero_for_the_true_velocity():
    class Oracle:
        def without_video(self, visual, sync, drop):
            return visual, sync

        def prepare(self, visual, sync, text, length):
            return visual

        def velocity(self, x_t, t, latents):
            return (x_t - latents) / t[:, None, None]

    latents = torch.randn(16, 4, 10, generator=torch.Generator().manual_seed(0))
    loss = flow_matching_loss(
        Oracle(), latents, latents, latents, latents, torch.Generator().manual_seed(1)
    )
    assert loss < 1e-6


def test_the_pooled_prompt_steers_blocks_that_never_ask_the_text():
    config = replace(TINY, pooled_text=True, depth_triple_blocks=0)
    transformer = tiny_transformer(config)
    visual, sync, text = tokens(2, 8, config)
    text[1] = text[0]
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(4))
    x[1], visual[1], sync[1] = x[0], visual[0], sync[0]
    padded = torch.cat([text, torch.zeros(2, 2, 7)], 1)  # what follows a prompt is zero
    with torch.no_grad():
        alike = transformer.velocity(x, 0.3, transformer.prepare(visual, sync, text, 8))
        longer = transformer.velocity(x, 0.3, transformer.prepare(visual, sync, padded, 8))
        padded[1] = 0.0
        silent = transformer.prepare(visual, sync, padded, 8)
        apart = transformer.velocity(x, 0.3, silent)
        swapped = transformer.velocity(x.flip(0), 0.3, silent.select(torch.tensor([1, 0])))
    assert torch.allclose(alike[0], alike[1], atol=1e-6)
    assert torch.allclose(alike, longer, atol=1e-6)
    assert not torch.allclose(apart[0], apart[1], atol=1e-3)
    assert torch.allclose(swapped.flip(0), apart, atol=1e-6)


def test_weights_choose_what_is_learned_from():
    transformer = tiny_transformer()
    visual, sync, text = tokens(3, 8)
    latents = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(5))

    def loss(weight):
        draw = torch.Generator().manual_seed(6)
        return flow_matching_loss(transformer, latents, visual, sync, text, draw, weight).item()

    assert loss(None) == pytest.approx(loss(torch.full((3, 8), 2.0)), rel=1e-5)
    rows = [loss(torch.eye(3)[k][:, None].expand(3, 8)) for k in range(3)]
    assert sum(rows) / 3 == pytest.approx(loss(None), rel=1e-5)
    assert max(rows) > min(rows)


def test_sync_tokens_lie_as_densely_as_in_training():
    # 8 s are what the network learned from: 192 tokens to 400 latents, spread or not.
    assert torch.equal(spaced_index(192, 400, 192 / 400), nearest_index(192, 400))
    longer = spaced_index(200, 410, 192 / 400)
    assert torch.equal(longer[:400], nearest_index(192, 400))
    assert longer.max() < 200
    assert spaced_index(96, 208, 0.48)[-1] == 95  # beyond the last token the last one


def test_spread_of_sync_tokens_is_the_generators_choice():
    config = replace(TINY, sync_positions=8)
    network = tiny_transformer(config)
    visual, sync, text = tokens(1, 41, config, visual=7, sync=24)
    seen = Features(visual, sync, text, text.flip(1), duration_s=0.82)
    rates = HUNYUAN_RATES
    spread, dense = (
        FlowGenerator(network, rates, sync_spread=choice).generate(seen, num_steps=1)
        for choice in (True, False)
    )
    assert not torch.allclose(spread, dense)
