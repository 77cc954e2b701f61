"""How the official loop steps, for comparing with its results; `samplers.sample` is the right way.

The official schedule has t = sigma, n + 1 values from 1 to 0. Its solvers work in stages, each one
call of the network, and hand back a state after every stage:

    euler        x + h v
    heun-2       x + h v₁,    then x + h (v₁ + v₂) / 2
    midpoint-2   x + h/2 v₁,  then x + h v₂
    kutta-4      x + h/2 v₁,  + h/2 v₂,  + h v₃ (each added to the state before it, where the
                 classical method starts from x again), then x + h (v₁ + 2 v₂ + 2 v₃ + v₄) / 6

The loop calls them once per step of the schedule and tells the network that step's time, so that a
solver of two stages ends half-way, at sigma 1/2, and kutta-4 at 3/4. Only euler arrives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from foley_lab.samplers import Callback, Progress, Sampled
from foley_lab.samplers.steps import Velocity

FLUX_TOKENS = (256, 4096)
"""Numbers of tokens between which the shift of `flux` runs from its base to its most."""


def official_sigmas(
    num_steps: int,
    shift: float = 1.0,
    reverse: bool = True,
    use_flux_shift: bool = False,
    flux_base_shift: float = 0.5,
    flux_max_shift: float = 1.15,
    n_tokens: int | None = None,
) -> Tensor:
    """The official schedule: float32 [num_steps + 1], from 1 to 0, or back when not `reverse`.

    Args:
        shift: k of k·σ / (1 + (k − 1)·σ).
        use_flux_shift: Instead e^μ / (e^μ + 1/σ − 1), μ linear in `n_tokens`.

    Raises:
        ValueError: If the flux shift has no number of tokens.
    """
    sigmas = torch.linspace(1, 0, num_steps + 1)
    if use_flux_shift:
        if n_tokens is None:
            raise ValueError("the flux shift without n_tokens, wanted their number, give it")
        (low, high), span = FLUX_TOKENS, flux_max_shift - flux_base_shift
        factor = math.exp(flux_base_shift + span * (n_tokens - low) / (high - low))
        sigmas = factor / (factor + (1 / sigmas - 1))
    elif shift != 1.0:
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return sigmas if reverse else 1 - sigmas


def _euler(x: Tensor, h: float, v: list[Tensor], now: Tensor) -> Tensor:
    return x + h * v[0]


def _heun(x: Tensor, h: float, v: list[Tensor], now: Tensor) -> Tensor:
    return x + h * v[0] if len(v) == 1 else x + h * (v[0] + v[1]) / 2


def _midpoint(x: Tensor, h: float, v: list[Tensor], now: Tensor) -> Tensor:
    return x + h / 2 * v[0] if len(v) == 1 else x + h * v[1]


def _kutta(x: Tensor, h: float, v: list[Tensor], now: Tensor) -> Tensor:
    if len(v) < 4:
        return now + (h if len(v) == 3 else h / 2) * v[-1]
    return x + h * (v[0] / 6 + v[1] / 3 + v[2] / 3 + v[3] / 6)


Stage = Callable[[Tensor, float, list[Tensor], Tensor], Tensor]
"""A stage's state from (x at the step's start, h, velocities so far, state before the stage)."""

SOLVERS: dict[str, tuple[Stage, tuple[float, ...]]] = {
    "euler": (_euler, (0.0,)),
    "heun-2": (_heun, (0.0, 1.0)),
    "midpoint-2": (_midpoint, (0.0, 0.5)),
    "kutta-4": (_kutta, (0.0, 0.5, 0.5, 1.0)),
}
"""Official solvers by name: how a stage is taken, and where in the step each stage stands."""


def sample_officially(
    velocity: Velocity,
    noise: Tensor,
    solver: str = "euler",
    num_steps: int = 50,
    shift: float = 1.0,
    callback: Callback | None = None,
    whole_steps: bool = False,
) -> Sampled:
    """Follow the velocity as the official loop does.

    Args:
        velocity: v(x, t), t = sigma.
        noise: State at sigma 1 [B, C, T].
        solver: One of `SOLVERS`.
        num_steps: Network calls; with `whole_steps` steps of all stages.
        shift: Of the schedule.
        callback: Told after each call; with `whole_steps` after each step.
        whole_steps: Drive the solver as its own equations ask: every stage at its time, all steps.

    Raises:
        ValueError: If the solver is unknown.
    """
    if solver not in SOLVERS:
        raise ValueError(
            f"official solver {solver!r}, wanted one of {', '.join(SOLVERS)}, choose another"
        )
    stage, places = SOLVERS[solver]
    sigmas = official_sigmas(num_steps, shift)
    x = start = noise
    step, velocities = 0, []
    for call in range(num_steps * len(places) if whole_steps else num_steps):
        h = float(sigmas[step + 1] - sigmas[step])
        place = places[len(velocities)]
        t = float(sigmas[step]) + place * h if whole_steps else float(sigmas[call])
        last = velocity(x, t).to(noise.dtype)
        velocities.append(last)
        x = stage(start, h, velocities, x)
        done = len(velocities) == len(places)
        if done:
            start, step, velocities = x, step + 1, []
        if callback is not None and (done or not whole_steps):
            count = step if whole_steps else call + 1
            callback(Progress(count, num_steps, float(sigmas[count]), x, last))
    calls = num_steps * len(places) if whole_steps else num_steps
    return Sampled(x, calls, calls)
