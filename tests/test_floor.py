"""Counts of the official sizes, and the economies that must not change a velocity."""

from dataclasses import replace

import pytest
import torch

from foley_lab.diagnosis.bench_transformer import bench_transformer
from foley_lab.diagnosis.floor import SIZES, Recomputing, floor, parameter_table
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.signals import HUNYUAN_RATES, Features

TINY = FoleyConfig(2, 2, 32, 2, clip_dim=6, sync_dim=5, condition_dim=7, audio_vae_latent_dim=4)


def filled(network):
    draw = torch.Generator().manual_seed(1)
    network.init_weights(draw)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return network.eval()


def features(seconds=0.96, clips=1, text=5):
    draw = torch.Generator().manual_seed(2)

    def tokens(count, width):
        return torch.randn(clips, count, width, generator=draw)

    words = tokens(text, 7), tokens(text, 7)
    return Features(tokens(8, 6), tokens(16, 5), *words, seconds)


@pytest.mark.parametrize(
    ("name", "recomputed", "ours", "parameters"),
    [("xl", 3.516, 3.516 - 0.38, 2_912_962_688), ("xxl", 6.177, 6.177 - 0.67, 5_134_014_848)],
)
def test_official_sizes_cost_what_the_published_analysis_says(name, recomputed, ours, parameters):
    counted = floor(SIZES[name])
    assert counted.recomputed_tflop == pytest.approx(recomputed, abs=0.001)
    assert counted.tflop == pytest.approx(ours, rel=0.01)
    assert counted.prepare_tflop < 0.05
    assert sum(parameter_table(SIZES[name]).values()) == parameters


def test_floor_is_the_slower_of_arithmetic_and_memory():
    counted = floor(SIZES["xl"])
    assert counted.seconds(790, 1e9) == pytest.approx(counted.tflop / 790)
    assert counted.seconds(1e9, 4300) == pytest.approx(counted.weights_gb / 4300)


@torch.no_grad()
def test_velocities_are_those_of_a_network_that_recomputes_everything():
    ours, plain = filled(FoleyTransformer(TINY)), Recomputing(TINY).eval()
    plain.load_state_dict(ours.state_dict())
    seen, x = features(), torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(3))
    empty = ours.without_video(seen.visual, seen.sync, torch.ones(1, dtype=torch.bool))
    visual, sync = torch.cat([empty[0], seen.visual]), torch.cat([empty[1], seen.sync])
    tokens = visual, sync, torch.cat([seen.negative_text, seen.text])
    conditions = ours.prepare(*tokens, 48)
    assert len(conditions.sync) == 8 + 16  # the empty ones repeat after a group
    conditions = replace(conditions, modulation=ours.tabulate([0.25]))
    got = ours.velocity(x.expand(2, -1, -1), 0.25, conditions)
    wanted = plain.call(x.expand(2, -1, -1), 0.25, tokens)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


@torch.no_grad()
def test_each_sample_may_have_its_own_time():
    network, seen = filled(FoleyTransformer(TINY)), features(clips=2)
    x = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(3))
    conditions = network.prepare(seen.visual, seen.sync, seen.text, 48)
    both = network.velocity(x, torch.tensor([0.2, 0.8]), conditions)
    for k, t in enumerate((0.2, 0.8)):
        alone = network.velocity(x, t, conditions)[k]
        assert torch.allclose(both[k], alone, atol=1e-5)


def test_a_masked_prompt_does_not_depend_on_its_padding():
    network, seen = filled(FoleyTransformer(TINY)), features(text=5)
    pad = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[True] * 5 + [False] * 3])
    longer = replace(
        seen,
        text=torch.cat([seen.text, pad], 1),
        negative_text=torch.cat([seen.negative_text, 2 * pad], 1),
        text_mask=mask,
        negative_text_mask=mask,
    )
    generator = FlowGenerator(network, HUNYUAN_RATES)
    options = {"num_steps": 2, "guidance_scale": 3.0}
    wanted = generator.generate(seen, **options)
    assert torch.allclose(generator.generate(longer, **options), wanted, atol=1e-4)
    unmasked = replace(longer, text_mask=None, negative_text_mask=None)
    assert not torch.allclose(generator.generate(unmasked, **options), wanted, atol=1e-2)


@pytest.mark.parametrize("sampler", ["euler", "heun", "midpoint", "rk4", "ab2"])
def test_tabulated_steps_are_the_steps(sampler, monkeypatch):
    network, seen = filled(FoleyTransformer(TINY)), features()
    generator = FlowGenerator(network, HUNYUAN_RATES)
    options = {"num_steps": 3, "guidance_scale": 3.0, "sampler": sampler, "schedule": 3.0}
    with_table = generator.generate(seen, **options)
    made = []
    real = type(network.triple_blocks[0]).modulate_at
    monkeypatch.setattr(network, "tabulate", lambda times: {})
    monkeypatch.setattr(
        type(network.triple_blocks[0]), "modulate_at",
        lambda self, x: (made.append(1), real(self, x))[1],
    )  # fmt: skip
    assert torch.allclose(generator.generate(seen, **options), with_table, atol=1e-4)
    calls = generator.sample(seen, **options).network_calls
    assert len(made) == 2 * len(network.triple_blocks) * calls  # what the table has saved


def test_bench_compares_two_ways_to_one_velocity():
    table = bench_transformer(repeats=1, config=replace(TINY, hidden_size=64))
    for name in ("float32", "bfloat16"):
        row = table[name]
        assert row["recomputing_tflop"] / row["ours_tflop"] == row["arithmetic_ratio"] > 1
        assert row["difference"] < (1e-4 if name == "float32" else 0.05)
        assert min(row["ours_s"], row["ceiling_tflops"], row["xl_8s_12_calls_s"]) > 0
