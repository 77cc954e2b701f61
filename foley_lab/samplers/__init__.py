"""From noise to latents: integrating dx/dt = v(x, t) from t = 1 (noise) to t = 0 (sound).

The path of rectified flow is x_t = (1 − t) · sound + t · noise, hence v = noise − sound (Liu et al.
2022, arXiv:2209.03003). `schedule` says where the steps stand, a sampler how one step is taken,
`guided` which velocity is followed:

    latents = sample(guided(pair, 2.0), noise, sampler="ab2", num_steps=8).latents

Costs and orders of a step of size h (error of the whole way ~ h^order):

    euler     1 call    order 1
    ab2       1 call    order 2   keeps the velocity of the step before
    midpoint  2 calls   order 2
    heun      2 calls   order 2
    rk4       4 calls   order 4
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""v(x, t): x [B, C, T] and t in [0, 1] to [B, C, T]."""

Callback = Callable[[int, int, Tensor], None]
"""Called after each step with the steps done, all steps, and the latents so far; may raise to
stop."""

Step = Callable[[Velocity, Tensor, float, float], Tensor]
"""One step from t to `end`: (velocity, x, t, end) to the new x."""


@dataclass(frozen=True)
class Sampled:
    """What sampling gave.

    Attributes:
        latents: [B, C, T] float32.
        network_calls: How often the network ran for it, whatever its batch.
    """

    latents: Tensor
    network_calls: int


def sample(
    velocity: Velocity,
    noise: Tensor,
    sampler: str = "euler",
    num_steps: int = 8,
    schedule: str | float = "uniform",
    callback: Callback | None = None,
) -> Sampled:
    """Follow the velocity from noise to latents.

    Args:
        velocity: v(x, t); may answer in lower precision, the state stays in the noise's dtype.
        noise: State at t = 1, [B, C, T].
        sampler: One of `SAMPLERS`.
        num_steps: Steps, at least 1.
        schedule: "uniform", or a shift, see `times`.
        callback: Told after each step.

    Raises:
        ValueError: If the sampler is unknown, or the schedule cannot be made.
    """
    if sampler not in SAMPLERS:
        raise ValueError(
            f"sampler {sampler!r}, wanted one of {', '.join(SAMPLERS)}, choose another"
        )
    calls = 0

    def counted(x: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return velocity(x, t).to(noise.dtype)

    step, x = SAMPLERS[sampler](), noise
    clock = times(num_steps, schedule)
    for done, (t, end) in enumerate(itertools.pairwise(clock), start=1):
        x = step(counted, x, t, end)
        if callback is not None:
            callback(done, num_steps, x)
    return Sampled(x, calls)


def times(num_steps: int, schedule: str | float = "uniform") -> list[float]:
    """The instants between which the steps are taken, from 1 to 0.

    Args:
        num_steps: Steps n, at least 1.
        schedule: "uniform", tᵢ = 1 − i/n; or a shift k > 0, k·t / (1 + (k − 1)·t), which for k > 1
            spends more steps near the noise (Esser et al. 2024, arXiv:2403.03206, eq. 23).

    Returns:
        n + 1 falling times, the first 1 and the last 0.

    Raises:
        ValueError: If there is no step, or the shift is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps}, wanted at least 1, ask for more steps")
    shift = 1.0 if schedule == "uniform" else schedule
    if isinstance(shift, str) or not shift > 0:
        raise ValueError(f"schedule {schedule!r}, wanted 'uniform' or a shift above 0, e.g. 3.0")
    even = [1.0 - i / num_steps for i in range(num_steps + 1)]
    return [shift * t / (1.0 + (shift - 1.0) * t) for t in even]


def instants(
    sampler: str = "euler", num_steps: int = 8, schedule: str | float = "uniform"
) -> list[float]:
    """The times at which `sample` asks for a velocity, falling, each once.

    Raises:
        ValueError: As `sample`.
    """
    asked: set[float] = set()

    def note(x: Tensor, t: float) -> Tensor:
        asked.add(t)
        return x

    sample(note, torch.zeros(1, 1, 1), sampler, num_steps, schedule)
    return sorted(asked, reverse=True)


def guided(
    velocity_pair: Callable[[Tensor, float], tuple[Tensor, Tensor]], guidance_scale: float
) -> Velocity:
    """Classifier-free guidance, v = v_u + g · (v_c − v_u) in float32 (Ho & Salimans 2022,
    arXiv:2207.12598).

    Args:
        velocity_pair: Gives the velocity without and with the conditions; both as one batch, so one
            network call.
        guidance_scale: g; 1 is the conditional velocity, more exaggerates what the conditions
            change.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        without, with_ = (v.float() for v in velocity_pair(x, t))
        return without.lerp(with_, guidance_scale)

    return velocity


def _euler(velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
    return x + (end - t) * velocity(x, t)


def _midpoint(velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
    middle = (t + end) / 2
    return x + (end - t) * velocity(_euler(velocity, x, t, middle), middle)


def _heun(velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
    first = velocity(x, t)
    last = velocity(x + (end - t) * first, end)
    return x + (end - t) / 2 * (first + last)


def _rk4(velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
    h, middle = end - t, (t + end) / 2
    v1 = velocity(x, t)
    v2 = velocity(x + h / 2 * v1, middle)
    v3 = velocity(x + h / 2 * v2, middle)
    v4 = velocity(x + h * v3, end)
    return x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)


class _AdamsBashforth2:
    """x + h·((1 + r/2)·vₙ − r/2·vₙ₋₁), r = hₙ/hₙ₋₁; the first step, without a past, is Euler's."""

    def __init__(self) -> None:
        self.past: tuple[Tensor, float] | None = None

    def __call__(self, velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
        h, now = end - t, velocity(x, t)
        past, self.past = self.past, (now, h)
        if past is None:
            return x + h * now
        before, h_before = past
        r = h / h_before
        return x + h * ((1 + r / 2) * now - r / 2 * before)


SAMPLERS: dict[str, Callable[[], Step]] = {
    "euler": lambda: _euler,
    "midpoint": lambda: _midpoint,
    "heun": lambda: _heun,
    "ab2": _AdamsBashforth2,
    "rk4": lambda: _rk4,
}
"""How a step is taken, by name; each call makes a fresh one, with no memory of other clips."""
