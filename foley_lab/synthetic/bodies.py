"""What a scene is made of: bodies on their tracks, the floor below them, the log of what sounds.

Lengths are in picture heights, x runs from 0 to `aspect`, y from 0 (top) to 1 (bottom); a track has
a place for every tick. Beneath the two classes everything else of the world is built, above all the
rules that every family keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foley_lab.signals import MATERIALS, EventLog

TICK_HZ = 1000
"""Grid of all tracks."""
MIN_GAP_S = 0.06
"""No two events of a clip are closer: the ear parts them no better."""
FLOORS = ("wood", "metal", "rubber", "stone", "plastic", "gravel")
SOLID = tuple(m for m in MATERIALS if m != "gravel")


@dataclass
class Body:
    """Something to draw.

    Attributes:
        look: "ball", "box", "bar", "bell", "drop" or "ring".
        material: Texture and colour.
        width, height: In picture heights.
        track: float32 [ticks, 3] of x, y, angle (radians), or [1, 3] when it never moves.
        seed: Of its texture.
        shadow: Whether it throws one.
        shown: Optional (start_s, end_s) outside which it is not drawn.
        front: Drawn in front of all others (an occluder).
        heard: Whether it sounds or is struck: its material is one of the log's.
    """

    look: str
    material: str
    width: float
    height: float
    track: np.ndarray
    seed: int = 0
    shadow: bool = False
    shown: tuple[float, float] | None = None
    front: bool = False
    heard: bool = False

    @property
    def moves(self) -> bool:
        return len(self.track) > 1

    def at(self, time_s: float) -> np.ndarray:
        """x, y, angle at a time; the ends hold."""
        if not self.moves:
            return self.track[0]
        p = min(max(time_s * TICK_HZ, 0.0), len(self.track) - 1.001)
        i = int(p)
        return self.track[i] + (p - i) * (self.track[i + 1] - self.track[i])


@dataclass
class Scene:
    """Bodies, the floor they stand on and the log of what sounds.

    Attributes:
        floor_y: Top of the floor, or None: seen from above or mid-air.
        floor_speed: How fast the floor runs by under a camera that follows, in picture heights per
            second to the right.
        floor_heard: Whether the floor's material is one of the log's.
    """

    log: EventLog
    aspect: float
    bodies: list[Body]
    floor_y: float | None = None
    floor_material: str = "wood"
    floor_speed: float = 0.0
    floor_heard: bool = True


def still(x: float, y: float, angle: float = 0.0) -> np.ndarray:
    """The track [1, 3] of what never moves."""
    return np.array([[x, y, angle]], np.float32)


def heard(*what: Any) -> Body:
    """A body whose material is one of the log's; the fields of `Body` up to `shadow`."""
    return Body(*what, heard=True)
