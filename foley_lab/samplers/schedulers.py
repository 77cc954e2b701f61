"""Schedulers of diffusers as samplers, fed exact times.

    dpmpp_2m   DPMSolverMultistepScheduler   DPM-Solver++(2M)     (Lu 2022, arXiv:2211.01095)
    unipc      UniPCMultistepScheduler       UniPC, B(h) = e^h − 1 (Zhao 2023, arXiv:2302.04867)
    ddim       DDIMScheduler                 DDIM, v-prediction   (Song 2021, arXiv:2010.02502)

Their own clocks lead astray in several ways: FlowMatchEuler's default takes its last step from
1/1000 to 0, shifts are applied twice, UniPC and DPM-Solver++ hand out integer timesteps, and the
latter starts at 0.999. So the times are ours: they are written into the scheduler, and the network
is told the very times of its steps.

DDIM lives on the sphere, where x̃ = x / |(1 − t, t)| = cos φ · sound + sin φ · noise, ᾱ = cos² φ and
ṽ = cos φ · noise − sin φ · sound. From x and v follow sound = x − t·v and noise = x + (1 − t)·v, so
the same network gives ṽ. With eta = 0 both go to the same place: on equal times DDIM is Euler.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foley_lab.samplers.quiet import quietly
from foley_lab.samplers.schedules import times
from foley_lab.samplers.steps import Velocity

BELOW_ONE = 1e-6
"""Multistep solvers count in log((1 − σ) / σ), which has no value at 1; diffusers steps back by as
much."""
KNOWN = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DDIMScheduler",
)
"""Schedulers that can be driven."""
REFUSED = (
    "use_dynamic_shifting",
    "shift_terminal",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "stochastic_sampling",
    "thresholding",
)
"""Settings of schedulers that fight with times of our own, equal runs or latents beyond ±1."""


class SchedulerSteps:
    """A step by a scheduler of diffusers.

    Args:
        sampler: One of `BY_SCHEDULER`, or a scheduler, which is copied.
        num_steps, schedule: As of `samplers.sample`; a scheduler's own shift holds where the
            schedule is "uniform".

    Attributes:
        clock: The n + 1 times.

    Raises:
        ValueError: If the scheduler cannot be driven, or diffusers is not installed.
    """

    def __init__(
        self, sampler: str | Any, num_steps: int, schedule: str | float | Sequence[float]
    ) -> None:
        scheduler = _named(sampler) if isinstance(sampler, str) else copy.deepcopy(sampler)
        self.kind = type(scheduler).__name__
        _check(scheduler, self.kind)
        config = scheduler.config
        own = getattr(config, "flow_shift", None) or getattr(config, "shift", None) or 1.0
        shift = own if schedule == "uniform" and own != 1.0 else schedule
        self.clock = times(num_steps, shift)
        self.scheduler = scheduler
        self.done = 0
        _set_times(scheduler, self.kind, self.clock)

    def __call__(self, velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
        if self.kind == "DDIMScheduler":
            x = self._ddim(velocity(x, t), x, t, end)
        elif self.kind == "FlowMatchHeunDiscreteScheduler":
            x = self._step(velocity(x, t), x)
            if end > 0:  # the last of its steps is Euler's
                x = self._step(velocity(x, end), x)
        else:
            x = self._step(velocity(x, t), x)
        self.done += 1
        return x

    def _step(self, v: Tensor, x: Tensor) -> Tensor:
        place = self.scheduler.step_index or 0
        return self.scheduler.step(v, self.scheduler.timesteps[place], x, return_dict=False)[0]

    def _ddim(self, v: Tensor, x: Tensor, t: float, end: float) -> Tensor:
        radius, next_radius = math.hypot(1 - t, t), math.hypot(1 - end, end)
        sound, noise = x - t * v, x + (1 - t) * v
        turning = ((1 - t) * noise - t * sound) / radius
        # Training "timesteps" count upwards from the sound: one for each of ours.
        place = len(self.clock) - 2 - self.done
        moved = self.scheduler.step(turning, place, x / radius, return_dict=False)[0]
        return moved * next_radius


def _named(name: str) -> Any:
    try:
        with quietly():
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
            from diffusers.schedulers.scheduling_dpmsolver_multistep import (
                DPMSolverMultistepScheduler,
            )
            from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
    except ImportError as error:
        raise ValueError(
            f"sampler {name!r} needs diffusers, which is not installed, "
            "run: pip install 'foley-lab[diffusers]'"
        ) from error
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    if name == "dpmpp_2m":
        return DPMSolverMultistepScheduler(solver_order=2, **flow)  # type: ignore[arg-type]
    if name == "unipc":
        return UniPCMultistepScheduler(solver_order=2, **flow)  # type: ignore[arg-type]
    return DDIMScheduler(prediction_type="v_prediction", clip_sample=False)


def _check(scheduler: Any, kind: str) -> None:
    if kind not in KNOWN or not hasattr(scheduler, "config"):
        raise ValueError(
            f"sampler {kind}, wanted a name or one of {', '.join(KNOWN)}, choose another"
        )
    config = scheduler.config
    prediction = getattr(config, "prediction_type", "flow_prediction")
    wanted = "v_prediction" if kind == "DDIMScheduler" else "flow_prediction"
    if prediction != wanted:
        raise ValueError(
            f"{kind} with prediction_type {prediction!r}, wanted {wanted!r}, make it with that"
        )
    if kind.endswith("MultistepScheduler") and not config.use_flow_sigmas:
        raise ValueError(
            f"{kind} with use_flow_sigmas False, which counts other sigmas, wanted True, "
            "make it with that"
        )
    for option in REFUSED:
        if getattr(config, option, None):
            raise ValueError(
                f"{kind} with {option}, which would change the times, the noise or the sound, "
                "wanted it off, make it without"
            )
    for option, wanted in (("predict_x0", True), ("algorithm_type", "dpmsolver++")):
        if (found := getattr(config, option, wanted)) != wanted:
            raise ValueError(
                f"{kind} with {option} {found!r}, wanted {wanted!r}, make it with that"
            )


def _set_times(scheduler: Any, kind: str, clock: Sequence[float]) -> None:
    """Our times instead of the scheduler's."""
    steps = len(clock) - 1
    sigmas = torch.tensor(clock, dtype=torch.float64)
    if kind == "DDIMScheduler":
        known = (1 - sigmas[:-1]).square() / ((1 - sigmas[:-1]).square() + sigmas[:-1].square())
        scheduler.alphas_cumprod = known.flip(0)
        scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
        scheduler.register_to_config(num_train_timesteps=steps, clip_sample=False)
        scheduler.set_timesteps(steps)
        return
    scheduler.set_timesteps(steps)
    if kind in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        sigmas[0] = min(float(sigmas[0]), 1 - BELOW_ONE)
    if kind == "FlowMatchHeunDiscreteScheduler":
        twice = sigmas[1:-1].repeat_interleave(2)
        scheduler.sigmas = torch.cat([sigmas[:1], twice, sigmas[-1:]])
        scheduler.timesteps = 1000 * torch.cat([sigmas[:1], twice])
    else:
        scheduler.sigmas = sigmas
        scheduler.timesteps = 1000 * sigmas[:-1]
    scheduler.set_begin_index(0)
