"""Where the steps stand between t = 1 (noise) and t = 0 (sound).

    uniform   tᵢ = 1 − i/n
    shift k   k·t / (1 + (k − 1)·t): k > 1 spends more steps near the noise (Esser et al. 2024,
              arXiv:2403.03206, eq. 23), k < 1 near the sound
    cosine    equal angles φ of the sphere, t = sin φ / (sin φ + cos φ): the steps of DDIM under the
              cosine schedule of diffusion
    optimal   a table found by dynamic programming on a teacher's trajectories (after Pei et al.
              2025, arXiv:2503.21774)

The table is found so. A teacher takes N fine steps and keeps its states x₀ … x_N. Let zₖ(j) be the
nearest a sampler comes to xⱼ with k steps, each between two of the teacher's times; then

    zₖ(j) = zₖ₋₁(i) followed by one step i → j,  i that with the least distance |zₖ(j) − xⱼ|

and the schedule of n steps is the way to zₙ(N). Each zₖ₋₁(i) costs one call, N · n in all, and
gives the schedules of all numbers of steps up to n. The states are the sampler's own, so errors
count as the network carries them on; sums of single errors, which are cheaper, mislead here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from foley_lab.samplers.steps import Past, Velocity, extrapolated

LEAST_SHIFT, MOST_SHIFT = 0.01, 100.0
"""Beyond, the steps but one are as good as empty."""
NAMES = ("uniform", "cosine", "optimal")
FIRST_ORDER = ("euler", "ddim", "FlowMatchEulerDiscreteScheduler", "DDIMScheduler")


def times(num_steps: int, schedule: str | float | Sequence[float] = "uniform") -> list[float]:
    """The instants between which the steps are taken, from 1 to 0.

    Args:
        num_steps: Steps n, at least 1.
        schedule: "uniform", "cosine", a shift k > 0, or the n + 1 times themselves. "optimal" is a
            table of a model's, so it is looked up by who knows the model (`optimal_times`).

    Returns:
        n + 1 falling times, the first 1 and the last 0.

    Raises:
        ValueError: If there is no step, or the schedule is none.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps {num_steps}, wanted at least 1, ask for more steps")
    if hasattr(schedule, "tolist"):  # arrays and tensors
        schedule = schedule.tolist()  # type: ignore[union-attr]
    if isinstance(schedule, (list, tuple)):
        return _given(num_steps, schedule)
    even = [1.0 - i / num_steps for i in range(num_steps + 1)]
    if schedule == "cosine":
        angles = [math.pi / 2 * t for t in even]
        inner = [math.sin(a) / (math.sin(a) + math.cos(a)) for a in angles[1:-1]]
        return [1.0, *inner, 0.0]
    shift = 1.0 if schedule == "uniform" else schedule
    number = isinstance(shift, (int, float)) and not isinstance(shift, bool)
    if not number or not LEAST_SHIFT <= shift <= MOST_SHIFT:  # type: ignore[operator]
        raise ValueError(
            f"schedule {schedule!r}, wanted {', '.join(map(repr, NAMES))}, a shift from "
            f"{LEAST_SHIFT:g} to {MOST_SHIFT:g} or falling times from 1 to 0, e.g. 3.0"
        )
    shift = float(shift)  # type: ignore[arg-type]
    return [shift * t / (1.0 + (shift - 1.0) * t) for t in even]


def _given(num_steps: int, clock: Sequence[float]) -> list[float]:
    if len(clock) != num_steps + 1:
        raise ValueError(
            f"a schedule of {len(clock)} times for {num_steps} steps, wanted {num_steps + 1}, "
            "one more than steps"
        )
    for a, b in itertools.pairwise(clock):
        if isinstance(a, str) or isinstance(b, str) or not a > b:
            raise ValueError(
                f"a schedule with {b!r} after {a!r}, wanted falling times from 1 to 0, "
                "e.g. [1.0, 0.5, 0.0]"
            )
    if clock[0] != 1 or clock[-1] != 0:
        raise ValueError(
            f"a schedule from {clock[0]} to {clock[-1]}, wanted falling times from 1 to 0, "
            "e.g. [1.0, 0.5, 0.0]"
        )
    return [float(t) for t in clock]


def optimal_times(
    tables: Mapping[str, Mapping[int, Sequence[float]]], sampler: str, num_steps: int
) -> list[float]:
    """The optimised schedule of a sampler and a number of steps.

    Args:
        tables: By order ("1", "2") and number of steps, the n + 1 times. Numbers of steps that were
            not tabulated are read between their neighbours.
        sampler: Its name; those of `FIRST_ORDER` read the first table, all others the second.

    Raises:
        ValueError: If the model has no table.
    """
    table = tables.get("1" if sampler in FIRST_ORDER else "2", {})
    if not table:
        raise ValueError(
            "schedule 'optimal' for a model without a table of its own, wanted another, "
            "choose uniform or make one with foley-lab train schedule"
        )
    if num_steps in table:
        return list(table[num_steps])
    nearest = min(table, key=lambda n: abs(math.log(n / num_steps)))
    known = table[nearest]
    places = [i * (len(known) - 1) / num_steps for i in range(num_steps + 1)]
    clock = [known[min(int(p), len(known) - 2)] for p in places]
    rest = [known[min(int(p) + 1, len(known) - 1)] for p in places]
    mixed = [
        a + (b - a) * (p - min(int(p), len(known) - 2))
        for a, b, p in zip(clock, rest, places, strict=True)
    ]
    return [1.0, *mixed[1:-1], 0.0]


@dataclass(frozen=True)
class _Arrival:
    """The nearest a sampler comes to a state of the teacher with some number of steps."""

    distance: float
    state: Tensor
    past: Past | None
    clock: tuple[float, ...]


def search_schedules(
    velocity: Velocity,
    states: Sequence[Tensor],
    clock: Sequence[float],
    order: int,
    most_steps: int,
    callback: Callable[[int, int], None] | None = None,
) -> dict[int, tuple[list[float], float]]:
    """The best subsets of a teacher's times.

    Args:
        velocity: v(x, t) for all trajectories at once.
        states: x₀ … x_N of the teacher, [B, C, T] each.
        clock: Its N + 1 times, falling from 1 to 0.
        order: Of the sampler: 1 is "euler", 2 "ab2".
        most_steps: Up to which number of steps, at most N.
        callback: Told (calls done, calls in all).

    Returns:
        By number of steps n, from 1, its n + 1 times and how far it ends from the teacher,
        |z − x_N| / |x_N|.

    Raises:
        ValueError: If the order is neither, states and times differ in number, or there are more
            steps than the teacher took.
    """
    n = len(clock) - 1
    if order not in (1, 2):
        raise ValueError(f"order {order}, wanted 1 or 2")
    if len(states) != n + 1 or not 1 <= most_steps <= n:
        raise ValueError(
            f"{len(states)} states, {n + 1} times and {most_steps} steps, wanted as many states as "
            "times and no more steps than lie between them"
        )
    size = float(states[-1].norm())
    reached = {0: _Arrival(0.0, states[0], None, (float(clock[0]),))}
    found: dict[int, tuple[list[float], float]] = {}
    done, total = 0, sum(n - k for k in range(1, most_steps)) + 1
    for k in range(1, most_steps + 1):
        arrivals: dict[int, _Arrival] = {}
        for i, start in reached.items():
            if i == n:
                continue
            now = velocity(start.state, clock[i]).to(start.state.dtype)
            done += 1
            for j in range(i + 1, n + 1):
                h = clock[j] - clock[i]
                state = start.state + h * extrapolated(now, h, start.past)
                distance = float((state - states[j]).norm())
                if j not in arrivals or distance < arrivals[j].distance:
                    past = (now, h) if order == 2 else None
                    clock_so_far = (*start.clock, float(clock[j]))
                    arrivals[j] = _Arrival(distance, state, past, clock_so_far)
            if callback is not None:
                callback(done, total)
        reached = arrivals
        found[k] = (list(reached[n].clock), reached[n].distance / size)
    return found
