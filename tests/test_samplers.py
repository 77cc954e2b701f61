"""Samplers: orders of convergence on a known path, landing, counting, guidance and schedules."""

from __future__ import annotations

import functools
import itertools
import math
import sys

import numpy as np
import pytest
import torch

from foley_lab.samplers import CALLS, SAMPLERS, instants, sample
from foley_lab.samplers.guidance import GUIDANCES, Guidance, Guided, check_guidance, guided
from foley_lab.samplers.schedules import optimal_times, search_schedules, times

NOISE = torch.linspace(-2, 2, 31, dtype=torch.float64)[None, None]


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
    ("sampler", "least"),
    [("euler", 0.9), ("ab2", 1.7), ("midpoint", 1.7), ("heun", 1.7), ("rk4", 3.5), ("ddim", 0.9)],
)
@pytest.mark.parametrize("schedule", ["uniform", 2.0])
def test_error_falls_with_the_order_of_the_sampler(sampler, least, schedule):
    slope = math.log(error(sampler, 16, schedule) / error(sampler, 64, schedule), 4)
    assert least <= slope < least + 1


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_solvers_in_log_snr_are_of_second_order(sampler):
    # Their first and last steps, where the log diverges, are of first order: a floor at many steps.
    slope = math.log2(error(sampler, 8) / error(sampler, 16))
    assert 1.7 <= slope < 3.5
    assert error(sampler, 16) < error("euler", 16) / 4


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_straight_paths_land_in_any_number_of_steps(sampler, num_steps):
    noise, sound = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    got = sample(lambda x, t: noise - sound, noise, sampler, num_steps)
    # Solvers in log SNR leave 1e-6 of the noise out, see `schedulers`.
    assert torch.allclose(
        got.latents, sound, atol=1e-5 if sampler in ("dpmpp_2m", "unipc") else 1e-6
    )
    assert got.network_calls == CALLS.get(sampler, 1) * num_steps


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_calls_are_counted_and_come_at_falling_times(sampler, num_steps):
    asked = instants(sampler, num_steps, 3.0)
    assert len(asked) == num_steps * CALLS.get(sampler, 1)
    assert asked[0] == 1.0 and all(a >= b for a, b in itertools.pairwise(asked))
    steps = set(times(num_steps, 3.0)[:-1])
    assert steps <= set(asked)  # exactly: no rounding to a thousandth


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_keep_no_memory_of_other_clips(sampler):
    assert error(sampler, 7) == error(sampler, 7)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 9])
@pytest.mark.parametrize("schedule", ["uniform", "cosine", 0.5])
def test_ddim_with_the_same_times_is_euler(num_steps, schedule):
    got, wanted = (
        sample(mixture_velocity, NOISE, name, num_steps, schedule).latents
        for name in ("ddim", "euler")
    )
    assert torch.allclose(got, wanted, atol=1e-12)


# -------------------------------------------------------------------------------- ours = diffusers


def states(sampler, num_steps, schedule="uniform"):
    """After every step."""
    seen = []
    sample(mixture_velocity, NOISE, sampler, num_steps, schedule, lambda p: seen.append(p.latents))
    return seen


@pytest.mark.parametrize("num_steps", [1, 4, 16])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_that_of_diffusers_step_for_step(num_steps, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, num_steps + 1)[:-1])
    x, wanted = NOISE, []
    for t in theirs.timesteps:
        x = theirs.step(mixture_velocity(x, float(t) / 1000), t, x, return_dict=False)[0]
        wanted.append(x)
    for got in (
        states("euler", num_steps, shift),
        states(FlowMatchEulerDiscreteScheduler(shift=shift), num_steps),
    ):
        worst = max((a - b).abs().max() for a, b in zip(got, wanted, strict=True))
        assert worst < 1e-6


def test_heun_is_that_of_diffusers_but_for_its_last_step():
    from diffusers import FlowMatchHeunDiscreteScheduler

    ours, theirs = states("heun", 8), states(FlowMatchHeunDiscreteScheduler(), 8)
    assert max((a - b).abs().max() for a, b in zip(ours[:-1], theirs[:-1], strict=True)) < 1e-6
    assert sample(mixture_velocity, NOISE, FlowMatchHeunDiscreteScheduler(), 8).network_calls == 15
    # The 1/1000 at which its own clock ends is ours no more: an empty last step would cost a call.
    assert instants(FlowMatchHeunDiscreteScheduler(), 2) == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("num_steps", [2, 5, 16])
def test_unipc_is_that_of_diffusers_step_for_step(num_steps):
    from diffusers import UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    theirs = UniPCMultistepScheduler(solver_order=2, **flow)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, num_steps + 1)[:-1])
    # Its sigmas are of single precision, which 1 − 1e-6 does not survive.
    theirs.sigmas = torch.tensor([1 - 1e-6, *times(num_steps)[1:]], dtype=torch.float64)
    x, wanted = NOISE, []
    for k, t in enumerate(theirs.timesteps):
        v = mixture_velocity(x, 1 - k / num_steps)  # its integer timestep would be off by 1/1000
        x = theirs.step(v, t, x, return_dict=False)[0]
        wanted.append(x)
    got = states("unipc", num_steps)
    assert max((a - b).abs().max() for a, b in zip(got, wanted, strict=True)) < 1e-6


@pytest.mark.parametrize("num_steps", [2, 5, 16])
def test_dpm_solver_is_the_published_one_step_for_step(num_steps):
    # Lu et al. 2022 (arXiv:2211.01095), algorithm 2, with α = 1 − t, σ = t.
    def log_snr(t):
        return math.log((1 - t) / t)

    clock, x, wanted, before = times(num_steps), NOISE, [], None
    for k, (t, end) in enumerate(itertools.pairwise(clock)):
        sound = x - t * mixture_velocity(x, t)
        t = min(t, 1 - 1e-6)
        if before is None or k == num_steps - 1:
            d = sound
        else:
            h, last = log_snr(end) - log_snr(t), log_snr(t) - before[1]
            r = last / h
            d = (1 + 1 / (2 * r)) * sound - 1 / (2 * r) * before[0]
        ratio = 0.0 if end == 0 else math.exp(log_snr(t) - log_snr(end))
        x = end / t * x - (1 - end) * (ratio - 1) * d
        before = (sound, log_snr(t))
        wanted.append(x)
    got = states("dpmpp_2m", num_steps)
    # Diffusers takes the step in single precision.
    assert max((a - b).abs().max() for a, b in zip(got, wanted, strict=True)) < 2e-6


@pytest.mark.parametrize("num_steps", [2, 5, 16])
def test_dpm_solver_is_that_of_diffusers_step_for_step(num_steps):
    from diffusers import DPMSolverMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    theirs = DPMSolverMultistepScheduler(solver_order=2, **flow)
    theirs.set_timesteps(num_steps)
    theirs.sigmas = torch.tensor([1 - 1e-6, *times(num_steps)[1:]], dtype=torch.float64)
    x, wanted = NOISE, []
    for k, t in enumerate(theirs.timesteps):
        x = theirs.step(mixture_velocity(x, 1 - k / num_steps), t, x, return_dict=False)[0]
        wanted.append(x)
    got = states("dpmpp_2m", num_steps)
    assert max((a - b).abs().max() for a, b in zip(got, wanted, strict=True)) < 1e-6


def test_a_scheduler_of_the_caller_keeps_its_shift_and_its_state():
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert instants(scheduler, 4) == times(4, 3.0)[:-1]
    assert instants(scheduler, 4, "cosine") == times(4, "cosine")[:-1]
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
    assert instants(UniPCMultistepScheduler(**flow), 4) == times(4, 2.0)[:-1]
    assert len(scheduler.timesteps) == 1000  # as it was made


def test_samplers_of_diffusers_say_when_it_is_absent(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "diffusers"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'foley-lab\[diffusers\]'"):
        sample(mixture_velocity, NOISE, "unipc")


# ---------------------------------------------------------------------------------------- callbacks


def test_the_callback_sees_every_step_and_may_stop():
    noise = torch.zeros(1, 1, 3)
    seen = []
    sample(
        lambda x, t: x + 1,
        noise,
        num_steps=4,
        callback=lambda p: seen.append((p.done, p.total, p.t)),
    )
    assert seen == [(1, 4, 0.75), (2, 4, 0.5), (3, 4, 0.25), (4, 4, 0.0)]

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lambda x, t: x, noise, num_steps=3, callback=stop)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_a_straight_path_every_step_already_shows_the_sound(sampler):
    noise, sound = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = []
    sample(
        lambda x, t: noise - sound, noise, sampler, 4, callback=lambda p: seen.append(p.estimate)
    )
    assert len(seen) == 4
    assert all(torch.allclose(estimate, sound, atol=1e-5) for estimate in seen)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_callback_may_set_the_state(sampler):
    noise = torch.zeros(1, 1, 3)
    got = sample(
        lambda x, t: torch.zeros_like(x), noise, sampler, 3,
        callback=lambda p: p.latents + 5.0 if p.done == 3 else None,
    )  # fmt: skip
    assert torch.allclose(got.latents, torch.full_like(noise, 5.0))


def test_the_state_keeps_its_precision_when_the_network_does_not():
    noise = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    for sampler in SAMPLERS:
        assert sample(lambda x, t: x.bfloat16(), noise, sampler, 3).latents.dtype == torch.float32


# ----------------------------------------------------------------------------------------- guidance


def pair(x, t, both):
    """Two different velocities that depend on state and time."""
    return (torch.sin(2 * x) + t if both else None), torch.cos(x) - t * x


def follow(scale, guidance="plain", num_steps=6):
    noise = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    velocity = guided(pair, scale, guidance)
    return sample(velocity, noise, "euler", num_steps).latents, velocity


def test_guidance_extrapolates_from_without_to_with():
    ends = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 2.0]]])
    for scale, wanted in ((0.0, [1.0, 2.0]), (1.0, [3.0, 2.0]), (4.5, [10.0, 2.0])):
        got = guided(lambda x, t, both: (ends[0] if both else None, ends[1]), scale)
        assert got(ends[0], 0.5).flatten().tolist() == wanted


@pytest.mark.parametrize("name", GUIDANCES)
def test_guidance_of_one_is_the_conditional_velocity(name):
    got, velocity = follow(1.0, name)
    noise = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(got, sample(lambda x, t: pair(x, t, False)[1], noise, "euler", 6).latents)
    assert velocity.evaluations == 6


def test_an_interval_pays_for_two_velocities_only_where_it_holds():
    everywhere, all_of_it = follow(3.0, Guidance(start=1.0, stop=0.0))
    assert torch.equal(everywhere, follow(3.0)[0]) and all_of_it.evaluations == 12
    nowhere, none_of_it = follow(3.0, Guidance(start=0.0, stop=0.0))
    assert torch.equal(nowhere, follow(1.0)[0]) and none_of_it.evaluations == 6
    half, part_of_it = follow(3.0, Guidance(start=0.7, stop=0.3))
    assert part_of_it.evaluations == 6 + 3  # at 4, 3 and 2 sixths
    assert not torch.allclose(half, everywhere)


@pytest.mark.parametrize(
    ("ours", "name", "theirs"),
    [
        (Guidance(), "ClassifierFreeGuidance", {}),
        (Guidance(rescale=0.7), "ClassifierFreeGuidance", {"guidance_rescale": 0.7}),
        (
            Guidance(zero_star=True),
            "ClassifierFreeZeroStarGuidance",
            {"zero_init_steps": 0},
        ),
        (
            Guidance(zero_star=True, zero_init_steps=1, rescale=0.3),
            "ClassifierFreeZeroStarGuidance",
            {"zero_init_steps": 1, "guidance_rescale": 0.3},
        ),
        (Guidance(start=0.6, stop=0.4), "ClassifierFreeGuidance", {"start": 0.4, "stop": 0.7}),
    ],
)
def test_guidance_is_that_of_diffusers(ours, name, theirs):
    import diffusers.guiders

    noise = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    guider = getattr(diffusers.guiders, name)(guidance_scale=3.0, **theirs)
    got = sample(Guided(pair, 3.0, ours), noise, num_steps=10).latents
    wanted = sample(Guided(pair, 1.0, guider, calls=10), noise, num_steps=10).latents
    if ours.zero_init_steps and ours.rescale:  # theirs divides by the spread of zeros
        assert wanted.isnan().all() and not got.isnan().any()
    else:
        assert torch.allclose(got, wanted, atol=1e-5)


def test_any_guider_of_two_predictions_may_be_handed_over():
    from diffusers.guiders import AdaptiveProjectedGuidance, SkipLayerGuidance

    guider = AdaptiveProjectedGuidance(
        guidance_scale=2.0, adaptive_projected_guidance_momentum=-0.5
    )
    runs = [
        sample(Guided(pair, 1.0, guider, calls=6), NOISE.float(), num_steps=6).latents
        for _ in range(2)
    ]
    assert torch.equal(*runs)  # its momentum is this run's alone
    with pytest.raises(ValueError, match="a guider of diffusers that mixes two predictions"):
        guided(pair, 2.0, SkipLayerGuidance(skip_layer_guidance_layers=[0]))


# ---------------------------------------------------------------------------------------- schedules


def test_times_fall_from_one_to_zero():
    assert times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert times(4, 1.0) == times(4) == times(4, (1.0, 0.75, 0.5, 0.25, 0.0))
    shifted = times(4, 3.0)
    assert shifted[0] == 1.0 and shifted[-1] == 0.0
    assert shifted[2] == pytest.approx(0.75)
    round_ = times(4, "cosine")
    assert round_[2] == pytest.approx(0.5) and 0.5 < round_[1] < 0.75


@functools.cache
def teacher(points=48):
    states = [NOISE]
    sample(mixture_velocity, NOISE, "rk4", points, callback=lambda p: states.append(p.latents))
    return times(points), states


@functools.cache
def searched(order, most=8):
    clock, states = teacher()
    return search_schedules(mixture_velocity, states, clock, order, most)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("ab2", 2)])
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8])
def test_optimised_schedules_miss_the_end_by_less(sampler, order, n):
    clock, states = teacher()
    best, distance = searched(order)[n]
    assert len(best) == n + 1 and set(best) <= set(clock)

    def miss(schedule):
        end = sample(mixture_velocity, NOISE, sampler, n, schedule).latents
        return ((end - states[-1]).norm() / states[-1].norm()).item()

    assert miss(best) == pytest.approx(distance)  # as the search says
    assert miss(best) < miss("uniform")


@pytest.mark.parametrize("order", [1, 2])
def test_the_search_asks_as_often_as_it_says(order):
    clock, states = teacher(6)
    asked, told = [], []

    def velocity(x, t):
        asked.append(t)
        return mixture_velocity(x, t)

    found = search_schedules(velocity, states, clock, order, 6, lambda *a: told.append(a))
    assert told == [(k + 1, len(asked)) for k in range(len(asked))]
    assert found[1][0] == [1.0, 0.0] and found[6][0] == clock
    with pytest.raises(ValueError, match="7 states, 7 times and 7 steps"):
        search_schedules(velocity, states, clock, order, 7)


def test_tables_are_read_by_order_and_between_their_rows():
    tables = {"1": {2: [1.0, 0.9, 0.0]}, "2": {4: [1.0, 0.8, 0.5, 0.2, 0.0], 8: times(8, 3.0)}}
    assert optimal_times(tables, "euler", 2) == [1.0, 0.9, 0.0]
    assert optimal_times(tables, "heun", 4) == [1.0, 0.8, 0.5, 0.2, 0.0]
    assert optimal_times(tables, "ab2", 2) == [1.0, 0.5, 0.0]
    between = optimal_times(tables, "ab2", 5)
    assert len(between) == 6 and times(5, between) == between
    with pytest.raises(ValueError, match="make one with foley-lab train schedule"):
        optimal_times({}, "euler", 4)


# ------------------------------------------------------------------------------------ at the door


class Strange:
    """No scheduler."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "warp"}, "sampler 'warp', wanted one of euler, midpoint, heun, ab2, rk4, dpm"),
        ({"sampler": Strange()}, "sampler Strange, wanted a name or one of FlowMatchEuler"),
        ({"num_steps": 0}, "num_steps 0, wanted at least 1"),
        ({"num_steps": 2.5}, "num_steps 2.5, wanted"),
        ({"schedule": 0.0}, "schedule 0.0, wanted 'uniform', 'cosine', 'optimal', a shift from"),
        ({"schedule": math.nan}, "schedule nan, wanted"),
        ({"schedule": 1e300}, "schedule 1e\\+300, wanted"),
        ({"schedule": 1e-300}, "schedule 1e-300, wanted"),
        ({"schedule": [1.0, math.nan, 0.0], "num_steps": 2}, "nan after 1.0"),
        ({"schedule": "steep"}, "schedule 'steep', wanted 'uniform'"),
        ({"schedule": [1.0, 0.0]}, "a schedule of 2 times for 8 steps, wanted 9"),
        ({"schedule": [1.0, 0.5, 0.5, 0.0], "num_steps": 3}, "wanted falling times from 1 to 0"),
        ({"schedule": [0.9, 0.5, 0.0], "num_steps": 2}, "a schedule from 0.9 to 0.0, wanted fall"),
    ],
)
def test_bad_options_are_named_before_any_work(options, message):
    def never(x, t):
        raise AssertionError("the network ran")

    with pytest.raises(ValueError, match=message):
        sample(never, torch.zeros(1, 1, 1), **options)


def test_schedulers_that_cannot_be_driven_are_refused():
    import diffusers

    for scheduler, message in (
        (diffusers.DDPMScheduler(), "sampler DDPMScheduler, wanted a name or one of"),
        (
            diffusers.UniPCMultistepScheduler(),
            "'epsilon', wanted 'flow_prediction'",
        ),
        (diffusers.DDIMScheduler(), "prediction_type 'epsilon', wanted 'v_prediction'"),
        (
            diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            "with use_dynamic_shifting, which would change",
        ),
        (
            diffusers.DPMSolverMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                algorithm_type="sde-dpmsolver++",
            ),
            "with algorithm_type 'sde-dpmsolver\\+\\+'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            sample(mixture_velocity, NOISE, scheduler)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for kind, options in (
        (diffusers.UniPCMultistepScheduler, {"use_flow_sigmas": False}),
        (diffusers.UniPCMultistepScheduler, {"predict_x0": False}),
        (diffusers.DPMSolverMultistepScheduler, {"thresholding": True}),
        (diffusers.FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
        (diffusers.FlowMatchEulerDiscreteScheduler, {"shift_terminal": 0.1}),
    ):
        own = {} if kind is diffusers.FlowMatchEulerDiscreteScheduler else flow
        with pytest.raises(ValueError, match=f"with {next(iter(options))}"):
            sample(mixture_velocity, NOISE, kind(**own | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"guidance": "strong"},
            "guidance 'strong', wanted one of plain, interval, zero",
        ),
        ({"guidance": 3}, "guidance 3, wanted one of plain"),
        ({"guidance": Guidance}, "a class, wanted"),
        ({"scale": -1.0}, "guidance_scale -1.0, wanted a number from 0 to 50"),
        ({"scale": math.nan}, "guidance_scale nan, wanted"),
        ({"scale": "much"}, "guidance_scale 'much', wanted"),
    ],
)
def test_bad_guidance_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        check_guidance(**{"guidance": "plain", "scale": 2.0, "most": 50.0} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.2, "stop": 0.8}, "guidance from t = 0.2 to 0.8, wanted 1 ≥ start ≥ stop ≥ 0"),
        ({"start": 1.5}, "guidance from t = 1.5"),
        ({"rescale": 2.0}, "rescale 2.0 of the guidance, wanted 0 to 1"),
        ({"zero_init_steps": -1}, "zero_init_steps -1, wanted 0 or more"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**options)
