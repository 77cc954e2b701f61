"""From noise to latents: integrating dx/dt = v(x, t) from t = 1 (noise) to t = 0 (sound).

The path of rectified flow is x_t = (1 − t) · sound + t · noise, hence v = noise − sound (Liu et al.
2022, arXiv:2209.03003).

    schedules    where the steps stand
    steps        how one step is taken: Euler, Adams-Bashforth, midpoint, Heun, Runge-Kutta
    schedulers   the same through diffusers: DPM-Solver++, UniPC, DDIM, or one of the caller's
    guidance     which velocity is followed
    official     the published loop, mistakes included

    latents = sample(guided(velocities, 2.0), noise, sampler="ab2", num_steps=8).latents

Costs and orders of a step of size h (error of the whole way ~ h^order):

    euler      1 call    order 1
    ab2        1 call    order 2   keeps the velocity of the step before
    midpoint   2 calls   order 2
    heun       2 calls   order 2
    rk4        4 calls   order 4
    dpmpp_2m   1 call    order 2   in log signal-to-noise; keeps the estimate of the step before
    unipc      1 call    order 2   the same, each step corrected once the next call is known
    ddim       1 call    order 1   on the sphere; with eta 0 and the same times it is euler
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foley_lab.samplers.schedules import times
from foley_lab.samplers.steps import STEPS, Velocity

BY_SCHEDULER = ("dpmpp_2m", "unipc", "ddim")
"""Samplers that are schedulers of diffusers, see `schedulers`."""
SAMPLERS = (*STEPS, *BY_SCHEDULER)
"""All samplers by name."""
CALLS = {"midpoint": 2, "heun": 2, "rk4": 4}
"""Network calls a step, where it is not 1; for planning alone: what was spent is counted."""


@dataclass(frozen=True)
class Progress:
    """Where a sampler stands after a step.

    Attributes:
        done, total: Steps.
        t: Time reached, from 1 down to 0.
        latents: The state at t [B, C, T].
        velocity: The last one followed [B, C, T].
    """

    done: int
    total: int
    t: float
    latents: Tensor
    velocity: Tensor

    @property
    def estimate(self) -> Tensor:
        """Where the last velocity leads from here, x − t·v [B, C, T]: the sound as it is forming,
        and at t = 0 the latents themselves."""
        return self.latents - self.t * self.velocity


Callback = Callable[[Progress], Tensor | None]
"""Told after each step; may raise to stop, or answer the state to go on from."""


@dataclass(frozen=True)
class Sampled:
    """What sampling gave.

    Attributes:
        latents: [B, C, T] float32.
        network_calls: How often the network ran for it, whatever its batch.
        evaluations: Velocities computed for each of the latents: a call with guidance takes two,
            one with and one without the conditions.
        blocks_run: Share of the network's blocks that ran; below 1 only under a step cache.
    """

    latents: Tensor
    network_calls: int
    evaluations: int = 0
    blocks_run: float = 1.0


def sample(
    velocity: Velocity,
    noise: Tensor,
    sampler: str | Any = "euler",
    num_steps: int = 8,
    schedule: str | float | Sequence[float] = "uniform",
    callback: Callback | None = None,
) -> Sampled:
    """Follow the velocity from noise to latents.

    Args:
        velocity: v(x, t); may answer in lower precision, the state stays in the noise's dtype.
        noise: State at t = 1, [B, C, T].
        sampler: One of `SAMPLERS`, or a scheduler of diffusers for flow matching; it is copied, so
            one may serve many runs.
        num_steps: Steps, at least 1.
        schedule: Where the steps stand, see `schedules.times`.
        callback: Told after each step.

    Raises:
        ValueError: If the sampler is unknown, the schedule cannot be made, or diffusers is wanted
            and not installed.
    """
    calls = 0
    last = noise

    def counted(x: Tensor, t: float) -> Tensor:
        nonlocal calls, last
        calls += 1
        last = velocity(x, t).to(noise.dtype)
        return last

    stepper, clock = _start(sampler, num_steps, schedule)
    x = noise
    for done, (t, end) in enumerate(itertools.pairwise(clock), start=1):
        x = stepper(counted, x, t, end)
        if callback is not None:
            changed = callback(Progress(done, num_steps, end, x, last))
            x = x if changed is None else changed
    return Sampled(x, calls, calls)


def check_sampler(
    sampler: str | Any, num_steps: int, schedule: str | float | Sequence[float] = "uniform"
) -> None:
    """Refuse what `sample` would, before there is any work.

    Raises:
        ValueError: As `sample`.
    """
    _start(sampler, num_steps, schedule)


def instants(
    sampler: str | Any = "euler",
    num_steps: int = 8,
    schedule: str | float | Sequence[float] = "uniform",
) -> list[float]:
    """The times at which `sample` asks for a velocity, in its order, repeats included.

    Raises:
        ValueError: As `sample`.
    """
    asked: list[float] = []

    def note(x: Tensor, t: float) -> Tensor:
        asked.append(t)
        return x

    sample(note, torch.zeros(1, 1, 1), sampler, num_steps, schedule)
    return asked


def _start(
    sampler: str | Any, num_steps: int, schedule: str | float | Sequence[float]
) -> tuple[Callable[[Velocity, Tensor, float, float], Tensor], list[float]]:
    """A fresh stepper, with no memory of other clips, and its times."""
    if isinstance(sampler, str) and sampler in STEPS:
        return STEPS[sampler](), times(num_steps, schedule)
    if isinstance(sampler, str) and sampler not in BY_SCHEDULER:
        raise ValueError(
            f"sampler {sampler!r}, wanted one of {', '.join(SAMPLERS)}, choose another"
        )
    from foley_lab.samplers.schedulers import SchedulerSteps  # only who asks for it pays

    stepper = SchedulerSteps(sampler, num_steps, schedule)
    return stepper, stepper.clock
