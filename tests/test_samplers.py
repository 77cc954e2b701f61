"""Samplers: orders of convergence on a known path, landing, counting, and the published solver."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from foley_lab.samplers import SAMPLERS, guided, sample, times

NOISE = torch.linspace(-2, 2, 31, dtype=torch.float64)[None, None]
CALLS = {"euler": 1, "ab2": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def mixture_velocity(x, t, means=(-1.5, 0.2, 1.0), scale=0.3):
    """Exact velocity, E[noise − sound | x], for sound from three normals of equal weight."""
    variance = (1 - t) ** 2 * scale**2 + t**2
    centred = torch.stack([x - (1 - t) * mean for mean in means])
    weights = (-(centred**2) / (2 * variance)).softmax(0)
    noise = t / variance * centred
    sound = torch.tensor(means)[:, None, None, None] + (1 - t) * scale**2 / variance * centred
    return (weights * (noise - sound)).sum(0)


@functools.cache
def exact():
    return sample(mixture_velocity, NOISE, "rk4", 1000).latents


def error(sampler, num_steps, schedule="uniform"):
    got = sample(mixture_velocity, NOISE, sampler, num_steps, schedule).latents
    return (got - exact()).abs().mean().item()


@pytest.mark.parametrize(
    ("sampler", "order"), [("euler", 1), ("ab2", 2), ("midpoint", 2), ("heun", 2), ("rk4", 4)]
)
@pytest.mark.parametrize("schedule", ["uniform", 2.0])
def test_error_falls_with_the_order_of_the_sampler(sampler, order, schedule):
    slope = math.log(error(sampler, 32, schedule) / error(sampler, 128, schedule), 4)
    assert order - 0.3 < slope < order + 0.6


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_straight_paths_land_in_any_number_of_steps(sampler, num_steps):
    noise, sound = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    got = sample(lambda x, t: noise - sound, noise, sampler, num_steps)
    assert torch.allclose(got.latents, sound, atol=1e-6)
    assert got.network_calls == CALLS[sampler] * num_steps


def test_samplers_keep_no_memory_of_other_clips():
    assert error("ab2", 7) == error("ab2", 7)


def test_the_callback_sees_every_step_and_may_stop():
    noise = torch.zeros(1, 1, 3)
    seen = []
    sample(lambda x, t: x + 1, noise, num_steps=3, callback=lambda *a: seen.append(a[:2]))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lambda x, t: x, noise, num_steps=3, callback=stop)


def test_the_state_keeps_its_precision_when_the_network_does_not():
    noise = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    got = sample(lambda x, t: x.bfloat16(), noise).latents
    assert got.dtype == torch.float32


def test_guidance_extrapolates_from_without_to_with():
    pair = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    for scale, wanted in ((0.0, [1.0, 2.0]), (1.0, [3.0, 2.0]), (4.5, [10.0, 2.0])):
        assert guided(lambda x, t: pair, scale)(pair[0], 0.5).tolist() == wanted


def test_times_fall_from_one_to_zero():
    assert times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert times(4, 1.0) == times(4)
    shifted = times(4, 3.0)
    assert shifted[0] == 1.0 and shifted[-1] == 0.0
    assert shifted[2] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "warp"}, "sampler 'warp', wanted one of euler"),
        ({"num_steps": 0}, "num_steps 0, wanted at least 1"),
        ({"schedule": 0.0}, "schedule 0.0, wanted 'uniform' or a shift above 0"),
        ({"schedule": "steep"}, "schedule 'steep', wanted 'uniform'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(lambda x, t: x, torch.zeros(1, 1, 1), **options)
