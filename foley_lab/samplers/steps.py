"""How one step is taken, t to `end`; explicit methods, from Euler to the classical Runge-Kutta.

Diffusers has Euler and Heun too and agrees with these (tests); its Heun ends in an Euler step.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""v(x, t): x [B, C, T] and t in [0, 1] to [B, C, T]."""

Step = Callable[[Velocity, Tensor, float, float], Tensor]
"""One step from t to `end`: (velocity, x, t, end) to the new x."""


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


Past = tuple[Tensor, float]
"""The velocity of the step before and the step's (negative) size."""


def extrapolated(now: Tensor, h: float, past: Past | None) -> Tensor:
    """The mean velocity over a step of size h, as the line through this velocity and the last one
    has it: (1 + r/2)·vₙ − r/2·vₙ₋₁, r = hₙ/hₙ₋₁; without a past, vₙ."""
    if past is None:
        return now
    before, h_before = past
    r = h / h_before
    return (1 + r / 2) * now - r / 2 * before


class _AdamsBashforth2:
    """x + h·(the mean velocity extrapolated); the first step, without a past, is Euler's."""

    def __init__(self) -> None:
        self.past: Past | None = None

    def __call__(self, velocity: Velocity, x: Tensor, t: float, end: float) -> Tensor:
        h, now = end - t, velocity(x, t)
        past, self.past = self.past, (now, h)
        return x + h * extrapolated(now, h, past)


STEPS: dict[str, Callable[[], Step]] = {
    "euler": lambda: _euler,
    "midpoint": lambda: _midpoint,
    "heun": lambda: _heun,
    "ab2": _AdamsBashforth2,
    "rk4": lambda: _rk4,
}
"""How a step is taken, by name; each call makes a fresh one, with no memory of other clips."""
