"""The dice of one scene: a NumPy generator with the few draws that families need, the clock they
share and the log that they write while they move their bodies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foley_lab.signals import Event, EventLog, Interval, sort_events
from foley_lab.synthetic.bodies import TICK_HZ, Body, Scene


class Draw:
    """The dice of one scene and its notebook.

    Attributes:
        t: Seconds of all ticks [ticks].
        events, continuous: What has been logged so far.
    """

    def __init__(self, seed: int, seconds: float, aspect: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.seconds, self.aspect = seconds, aspect
        self.ticks = round(seconds * TICK_HZ) + 1
        self.t = np.arange(self.ticks) / TICK_HZ
        self.events: list[Event] = []
        self.continuous: list[Interval] = []

    def u(self, low: float, high: float) -> float:
        """Uniform; where a narrow picture leaves no room (high < low) the middle of the two."""
        return float(self.rng.uniform(low, high)) if high > low else (low + high) / 2

    def log_u(self, low: float, high: float) -> float:
        return math.exp(self.u(math.log(low), math.log(high)))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def seed(self) -> int:
        return int(self.rng.integers(1 << 31))

    def times(self, low: float, high: float, first: float = 0.3) -> list[float]:
        """Instants with gaps between `low` and `high`, rhythmic or loose."""
        base, loose = self.log_u(low, high), self.u(0.0, 0.45)
        out, t = [], self.u(first * 0.5, first + base)
        while t < self.seconds - 0.08:
            out.append(t)
            t += max(low, base * self.u(1 - loose, 1 + loose))
        return out

    def hit(
        self, time_s: float, strength: float, x: float, y: float, size: float, **what: Any
    ) -> None:
        """Log an instant of something `size` picture heights long; contacts outside the picture
        count but are marked invisible."""
        if 0.02 <= time_s < self.seconds - 0.03:
            fx, fy = x / self.aspect, y
            self.events.append(
                Event(
                    round(float(time_s), 6),
                    strength=round(float(np.clip(strength, 0.04, 1.0)), 4),
                    x=round(fx, 4),
                    y=round(fy, 4),
                    visible=bool(-0.02 <= fx <= 1.02 and -0.02 <= fy <= 1.02),
                    size=round(size, 4),
                    **what,
                )
            )

    def speeds(self, speed: np.ndarray, start_s: float, end_s: float) -> tuple[float, ...]:
        """A speed curve at 50 Hz for the log, normalised to 0..1 by the curve's own use."""
        n = max(2, int((end_s - start_s) * 50))
        at = np.linspace(start_s, end_s, n)
        return tuple(np.round(np.clip(np.interp(at, self.t, speed), 0, 1), 3).tolist())

    def track(self, x: ArrayLike, y: ArrayLike, angle: ArrayLike = 0.0) -> np.ndarray:
        """A track [ticks, 3] of x, y and angle, each [ticks] or constant."""
        out = np.empty((self.ticks, 3), np.float32)
        out[:, 0], out[:, 1], out[:, 2] = x, y, angle
        return out

    def scene(self, family: str, bodies: list[Body], floor_y: float | None, surface: str) -> Scene:
        """The scene of these bodies, with everything logged so far; its seed is filled in later."""
        events = sort_events(self.events)
        log = EventLog(family, 0, self.seconds, events=events, continuous=self.continuous)
        return Scene(log, self.aspect, bodies, floor_y, surface)
