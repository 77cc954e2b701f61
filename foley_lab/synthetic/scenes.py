"""What happens: scenes whose motion, contacts and sounding materials are known exactly.

A scene is drawn from a seed. Its bodies carry tracks (x, y, angle on a 1 ms grid) and its log
carries every contact. Lengths are in picture heights, x runs from 0 to `aspect`, y from 0 (top) to
1 (bottom). Where contact times can be written down (flight under gravity, swings, strikes, gait)
the motion is closed-form and the times are exact; tumbling bodies are left to pymunk at 1 ms,
contact time = step - 0.5 ms.

Everything that sounds carries its `size`, the longer side of what is seen to sound; where the
ground sounds it is that of the shoe or the drop, since nobody sees where the ground ends.

Three rules keep the truth learnable: contacts softer than the eye can see are not logged as impacts
but as a rolling interval; no two events of a clip are closer than `MIN_GAP_S` (the ear parts them
no better); smooth turning points, feints and crossings without contact occur on purpose and are
silent. The ugly split may add sounds from outside the picture, which nothing in it tells of.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foley_lab.signals import MATERIALS, Event, EventLog, Interval, sort_events
from foley_lab.synthetic.words import prompt_for

TICK_HZ = 1000
MIN_GAP_S = 0.06
FLOORS = ("wood", "metal", "rubber", "stone", "plastic", "gravel")
OFF_SCREEN_SHARE = 0.15
"""Of the ugly clips with a sound, how many hear something from outside the picture as well."""
SOLID = tuple(m for m in MATERIALS if m != "gravel")
Point = tuple[float, float]


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


class Draw:
    """The dice of one scene: a NumPy generator with the few draws scenes need."""

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


def _still(x: float, y: float, angle: float = 0.0) -> np.ndarray:
    return np.array([[x, y, angle]], np.float32)


def _track(d: Draw, x: ArrayLike, y: ArrayLike, angle: ArrayLike = 0.0) -> np.ndarray:
    out = np.empty((d.ticks, 3), np.float32)
    out[:, 0], out[:, 1], out[:, 2] = x, y, angle
    return out


def _heard(*what: Any) -> Body:
    """A body whose material is one of the log's; the fields of `Body` up to `shadow`."""
    return Body(*what, heard=True)


# --- families -------------------------------------------------------------------------------------


def bounce(d: Draw) -> Scene:
    """Balls in free flight that come back up from the floor, softer each time, and roll out."""
    floor_y = d.u(0.62, 1.0) if d.chance(0.85) else d.u(1.0, 1.06)
    surface = d.pick(FLOORS)
    bodies = []
    for i in range(2 if d.chance(0.2) else 1):
        material, r = d.pick(MATERIALS), d.u(0.06, 0.17)
        g, e = d.log_u(1.2, 11.0), d.u(0.55, 0.9)
        y, v = d.u(-0.1, floor_y - 2.5 * r), d.u(-0.8, 0.6)
        x0, vx = d.u(0.1, d.aspect - 0.1), d.u(-0.35, 0.35)
        ground, t0 = floor_y - r, d.u(0.0, 0.5)
        # a ball that would leave the picture is slowed: what sounds can be seen
        vx = float(np.clip(vx, (0.6 * r - x0) / d.seconds, (d.aspect - 0.6 * r - x0) / d.seconds))
        ys = np.full(d.ticks, y)
        held = d.t < t0
        t, start = t0, t0
        while t < d.seconds:
            flight = (-v + math.sqrt(max(v * v + 2 * g * (ground - y), 0.0))) / g
            now = (d.t >= t) & (d.t < t + flight)
            dt = d.t[now] - t
            ys[now] = y + v * dt + 0.5 * g * dt * dt
            t, speed = t + flight, v + g * flight
            x = x0 + vx * (t - start)
            v, y = -e * speed, ground
            d.hit(t, speed / 3.5, x, floor_y, 2 * r, material=material, surface=surface, object=i)
            if 2 * abs(v) / g < 0.13 or abs(v) < 0.22:
                ys[d.t >= t] = ground
                break
        stop = t + d.u(0.3, 1.2)
        moving = np.clip(np.minimum(d.t, stop) - start, 0, None)
        xs = x0 + vx * np.where(held, 0.0, moving)
        if abs(vx) > 0.12 and stop < d.seconds - 0.2 and t < d.seconds - 0.3:
            speed = np.where(
                (d.t > t) & (d.t < stop), abs(vx) / 0.35 * (stop - d.t) / (stop - t), 0
            )
            d.continuous.append(
                Interval(
                    "roll",
                    round(t, 4),
                    round(stop, 4),
                    material,
                    surface,
                    i,
                    d.speeds(speed, t, stop),
                    round(2 * r, 4),
                )
            )
        bodies.append(
            _heard("ball", material, 2 * r, 2 * r, _track(d, xs, ys, xs / r), d.seed(), True)
        )
    return _scene(d, "bounce", bodies, floor_y, surface)


def tumble(d: Draw) -> Scene:
    """Balls and boxes among floor and walls, simulated by pymunk at 1 ms."""
    import pymunk

    floor_y, surface, thick = d.u(0.75, 1.0), d.pick(FLOORS), 0.012
    space = pymunk.Space()
    space.iterations = 6
    space.gravity = (0.0, d.log_u(1.0, 9.0))
    walls: list[tuple[Point, Point]] = [((-3, floor_y), (d.aspect + 3, floor_y))]
    bodies: list[Body] = []
    if d.chance(0.6):
        for x in (d.u(0.0, 0.12), d.aspect - d.u(0.0, 0.12)):
            walls.append(((x, -2), (x, floor_y)))
            wall = _still(x, floor_y - 1.0)
            bodies.append(_heard("box", surface, 2 * thick, 2.0, wall, d.seed()))
    else:  # nothing leaves the picture
        walls += [((x, -2), (x, floor_y)) for x in (-thick, d.aspect + thick)]
    if d.chance(0.35):  # a ramp
        x, length, tilt = d.u(0.3, d.aspect - 0.3), d.u(0.3, 0.6), d.u(-0.5, 0.5)
        y = d.u(0.45, floor_y - 0.15)
        dx, dy = math.cos(tilt) * length / 2, math.sin(tilt) * length / 2
        walls.append(((x - dx, y - dy), (x + dx, y + dy)))
        bodies.append(_heard("bar", surface, length, 2 * thick, _still(x, y, tilt), d.seed()))
    for a, b in walls:
        segment = pymunk.Segment(space.static_body, a, b, thick)
        segment.elasticity, segment.friction = 1.0, 0.6
        space.add(segment)
    moving: list[tuple[pymunk.Body, Body]] = []
    index: dict[pymunk.Body, int] = {}
    for i in range(int(d.rng.integers(1, 4))):
        material, size = d.pick(MATERIALS), d.u(0.07, 0.14)
        body = pymunk.Body(1.0, 0.4 * size * size * (2.5 if i % 2 else 1.0))
        round_ = d.chance(0.55)
        if round_:
            shape: pymunk.Shape = pymunk.Circle(body, size)
            look = _heard("ball", material, 2 * size, 2 * size, _track(d, 0, 0), d.seed(), True)
        else:
            w, h = size * d.u(1.2, 2.6), size * d.u(1.0, 1.8)
            shape = pymunk.Poly.create_box(body, (w, h))
            look = _heard("box", material, w, h, _track(d, 0, 0), d.seed(), True)
        shape.elasticity, shape.friction = d.u(0.35, 0.8), d.u(0.2, 0.8)
        body.position = (d.u(0.25, d.aspect - 0.25), d.u(0.0, 0.35) - 0.35 * i)
        body.angle = d.u(-3, 3)
        body.velocity = (d.u(-0.8, 0.8), d.u(-0.5, 0.8))
        body.angular_velocity = d.u(-4, 4)
        space.add(body, shape)
        index[body] = len(moving)
        moving.append((body, look))
    last = dict.fromkeys(range(len(moving)), -1.0)
    now = 0.0

    def contact(arbiter: pymunk.Arbiter, _space: object, _data: object) -> None:
        impulse = (
            arbiter.total_impulse.length
        )  # per unit mass: the change of speed, heights per second
        if not arbiter.is_first_contact or impulse < 0.5:
            return
        ours = [index[s.body] for s in arbiter.shapes if s.body in index]
        i = ours[0]
        if now - last[i] < MIN_GAP_S:
            return
        last[i] = now
        p = arbiter.contact_point_set.points[0].point_a
        other = moving[ours[1]][1].material if len(ours) > 1 else surface
        d.hit(
            now - 0.0005,
            impulse / 4.5,
            p.x,
            p.y,
            max(moving[i][1].width, moving[i][1].height),
            material=moving[i][1].material,
            surface=other,
            object=i,
        )

    space.on_collision(None, None, post_solve=contact)
    for k in range(d.ticks):
        for body, look in moving:
            look.track[k] = (body.position.x, body.position.y, body.angle)
        now = (k + 1) / TICK_HZ
        space.step(1 / TICK_HZ)
    return _scene(d, "tumble", bodies + [look for _, look in moving], floor_y - thick, surface)


def pendulum(d: Draw) -> Scene:
    """A bob on a rod that swings against a post and comes back, |sin| with decay."""
    material, r = d.pick(MATERIALS), d.u(0.06, 0.14)
    length, px, py = d.u(0.45, 0.8), d.u(0.35, d.aspect - 0.35), d.u(-0.15, 0.12)
    omega, phase = d.u(3.0, 9.0), d.u(0.3, 2.8)
    swing = d.u(0.35, 0.9) * np.exp(-d.t * d.u(0.0, 0.3))
    rest, side = d.u(-0.15, 0.15), 1.0 if d.chance(0.5) else -1.0
    angle = rest + side * swing * np.abs(np.sin(omega * d.t + phase))
    free = d.chance(0.12)  # swings freely: no contact, no sound
    if free:
        angle = rest + swing * np.sin(omega * d.t + phase)
    x, y = px + length * np.sin(angle), py + length * np.cos(angle)
    other = d.pick(SOLID)
    bodies = []
    if not free:
        wall_x = px + length * math.sin(rest) - side * (r + 0.03)
        wall_y = py + length * math.cos(rest)
        bodies.append(_heard("box", other, 0.06, d.u(0.25, 0.7), _still(wall_x, wall_y), d.seed()))
        for k in range(1, int((omega * d.seconds + phase) / math.pi) + 1):
            t = (k * math.pi - phase) / omega
            if 0 <= t < d.seconds:
                v = float(np.interp(t, d.t, swing)) * omega * length
                d.hit(
                    t,
                    v / 3.0,
                    wall_x + side * 0.03,
                    wall_y,
                    2 * r,
                    material=material,
                    surface=other,
                    object=0,
                )
    rod = _track(d, (x + px) / 2, (y + py) / 2, -angle)
    bodies.append(Body("bar", d.pick(("rubber", "wood", "metal")), 0.014, length, rod, d.seed()))
    bodies.append(_heard("ball", material, 2 * r, 2 * r, _track(d, x, y, -angle), d.seed()))
    return _scene(d, "pendulum", bodies, None, other)


def strike(d: Draw) -> Scene:
    """A tool or limb that hits a thing along any axis; some blows are feints and stop short."""
    material = d.pick(MATERIALS)
    w, h = d.u(0.18, 0.45), d.u(0.12, 0.35)
    cx, cy = d.u(0.4, d.aspect - 0.4), d.u(0.45, 0.75)
    axis = d.u(-math.pi, 0.0) if d.chance(0.75) else d.u(-math.pi, math.pi)
    ux, uy = math.cos(axis), math.sin(axis)
    head = d.u(0.05, 0.11)
    gap = np.full(d.ticks, d.u(0.1, 0.3))
    lift_max = d.u(0.15, 0.5)
    times = d.times(0.22, 1.3, 0.5)
    begin, blows = 0.0, []
    for k, t in enumerate(times):
        end = times[k + 1] if k + 1 < len(times) else d.seconds + 0.5
        fall = min(d.u(0.06, 0.22), 0.6 * (t - begin))
        lift = lift_max * d.u(0.6, 1.2)
        feint = d.chance(0.12)
        floor = d.u(0.06, 0.15) if feint else 0.0
        up = (d.t >= begin) & (d.t < t - fall)
        p = (d.t[up] - begin) / max(t - fall - begin, 1e-6)
        start = gap[up][0] if up.any() else lift
        gap[up] = start + (lift - start) * 0.5 * (1 - np.cos(np.pi * p))
        down = (d.t >= t - fall) & (d.t < t)
        p = (d.t[down] - (t - fall)) / fall
        gap[down] = floor + (lift - floor) * (
            (1 - p * p) if not feint else 0.5 * (1 + np.cos(np.pi * p))
        )
        dwell = min(d.u(0.0, 0.12), 0.4 * (end - t)) if d.chance(0.6) else 0.0
        begin = t + dwell
        gap[d.t >= t] = floor
        if not feint:
            blows.append((t, 2 * lift / fall / 9.0))
    far = d.t >= begin
    gap[far] = gap[far] + lift_max * 0.5 * (1 - np.cos(np.clip((d.t[far] - begin) * 4, 0, np.pi)))
    arm = 1.6
    tool = d.pick(("skin", "wood", "metal", "rubber"))
    tilt = axis + d.u(-0.5, 0.5) if d.chance(0.5) else axis + (1.57 if d.chance(0.5) else -1.57)
    look = "box" if d.chance(0.7) else "ball"
    reach, px, py = _touch(look, w, h, axis, head)
    for t, strength in blows:
        d.hit(t, strength, cx + px, cy + py, max(w, h), material=material, surface=None, object=0)
    hx, hy = cx + ux * (reach + gap), cy + uy * (reach + gap)
    if math.cos(tilt) * (ux * reach - px) + math.sin(tilt) * (uy * reach - py) < 0:
        tilt += math.pi  # the arm would lie across the thing
    ax, ay = hx + math.cos(tilt) * arm / 2, hy + math.sin(tilt) * arm / 2
    bodies = [
        _heard(look, material, w, h, _still(cx, cy), d.seed()),
        Body("bar", tool, arm, d.u(0.03, 0.11), _track(d, ax, ay, tilt), d.seed()),
        Body("ball", tool, 2 * head, 2 * head, _track(d, hx, hy, tilt), d.seed()),
    ]
    scene = _scene(d, "strike", bodies, cy + h / 2 if d.chance(0.5) else None, d.pick(FLOORS))
    return replace(scene, floor_heard=False)


def _touch(look: str, w: float, h: float, axis: float, head: float) -> tuple[float, float, float]:
    """Where a round head stops that comes along `axis` towards a thing's centre.

    Returns:
        Distance from centre to centre, and the place x, y on the thing that is touched.
    """
    turn = np.linspace(0, 2 * math.pi, 4001)
    c, s = np.cos(turn), np.sin(turn)
    if look == "box":
        stretch = np.maximum(np.abs(c), np.abs(s))
        c, s = c / stretch, s / stretch
    x, y = w / 2 * c, h / 2 * s
    along, off = x * math.cos(axis) + y * math.sin(axis), y * math.cos(axis) - x * math.sin(axis)
    # (distance - along)² + off² = head² for the point of the outline that stops it first
    stops = np.where(np.abs(off) <= head, along + np.sqrt(np.clip(head**2 - off**2, 0, None)), 0.0)
    i = int(np.argmax(stops))
    return float(stops[i]), float(x[i]), float(y[i])


def footsteps(d: Draw) -> Scene:
    """Legs that walk across, or ahead of a following camera.

    Each landing sounds in the floor's material; who leaves the picture comes in on the other side.
    """
    surface, floor_y = d.pick(MATERIALS), d.u(0.7, 0.96)
    period, stride = d.u(0.7, 1.5), d.u(0.25, 0.6)
    lift, size = d.u(0.05, 0.16), d.u(0.16, 0.3)
    direction, follow = (1 if d.chance(0.5) else -1), d.chance(0.6)
    start = d.aspect / 2 if follow else d.aspect / 2 - direction * d.u(0.2, 0.8)
    phase0, duty = d.u(0, 1), d.u(0.3, 0.45)
    sole, skin = d.pick(("rubber", "wood", "plastic")), d.pick(("skin", "plastic", "rubber"))
    bodies: list[Body] = []
    strength = d.u(0.3, 0.9)
    speed = direction * stride / period
    hip_x = start + (0.0 if follow else speed) * d.t
    out = size + 0.5 * stride
    hip_x = (hip_x + out) % (d.aspect + 2 * out) - out
    for leg in range(2):
        cycle = d.t / period + phase0 + 0.5 * leg
        n, p = np.floor(cycle), cycle % 1.0
        swing = np.clip(p / duty, 0, 1)  # swings first, then stands
        fx = n + (1 - np.cos(np.pi * swing)) / 2
        x = hip_x + direction * stride * (fx - cycle - (1 - duty) / 2)
        y = floor_y - size * 0.18 - lift * np.sin(np.pi * swing) ** 1.2 * (p < duty)
        for k in range(int(cycle[-1]) + 2):
            t = (k + duty - phase0 - 0.5 * leg) * period
            if 0 <= t < d.seconds:
                landed = float(x[round(t * TICK_HZ)])
                d.hit(t, strength * d.u(0.75, 1.2), landed, floor_y, size, kind="step",
                      material=surface, surface=sole, object=leg)  # fmt: skip
        tilt = direction * 0.35 * np.sin(np.pi * swing) * (p < duty)
        top = min(floor_y - d.aspect * 0.5 - 0.2, -0.12)
        lx, ly = hip_x * 0.5 + x * 0.5 - direction * size * 0.12, (y + top) / 2
        lean = np.arctan2(x - hip_x, y - top)
        length = float(np.hypot(x - hip_x, y - top).max()) + 0.05
        bodies.append(Body("bar", skin, size * 0.42, length, _track(d, lx, ly, -lean), d.seed()))
        shoe = _track(d, x, y, tilt)
        bodies.append(_heard("box", sole, size, size * 0.36, shoe, d.seed(), True))
    scene = _scene(d, "footsteps", bodies, floor_y, surface)
    return replace(scene, floor_speed=-speed if follow else 0.0)


def typing(d: Draw) -> Scene:
    """Fingers on a row of keys: a small, quick, dry pattern."""
    material = d.pick(SOLID)
    keys, y = int(d.rng.integers(3, 6)), d.u(0.55, 0.8)
    pitch = min(d.u(0.16, 0.28), (d.aspect - 0.2) / keys)
    x0 = d.u(0.1 + pitch / 2, d.aspect - 0.1 - pitch * (keys - 0.5))
    press = np.zeros((keys, d.ticks))
    hover, depth = d.u(0.05, 0.12), d.u(0.02, 0.035)
    used: list[list[float]] = [[] for _ in range(keys)]
    for t in d.times(0.16, 0.5, 0.3):
        k = int(d.rng.integers(keys))
        if used[k] and t - used[k][-1] < 0.3:
            k = (k + 1) % keys
        if used[k] and t - used[k][-1] < 0.3:
            continue
        used[k].append(t)
        down, up = d.u(0.05, 0.09), d.u(0.07, 0.13)
        s = np.clip((d.t - (t - down)) / down, 0, 1) ** 2 - np.clip((d.t - t - 0.03) / up, 0, 1)
        press[k] = np.maximum(press[k], np.clip(s, 0, 1))
        wide = max(pitch * 0.86, 0.1)
        d.hit(t, d.u(0.35, 0.8), x0 + k * pitch, y, wide, kind="key", material=material, object=k)
    bodies: list[Body] = []
    for k in range(keys):
        x = x0 + k * pitch
        sink = np.clip(press[k] - 0.7, 0, 1) / 0.3 * depth
        cap = _heard("box", material, pitch * 0.86, 0.1, _track(d, x, y + 0.05 + sink), d.seed())
        tip = y - hover * (1 - press[k]) + sink * (press[k] > 0.7)
        finger = _track(d, x + 0.1 * hover * (1 - press[k]), tip - 0.3, 0.0)
        bodies += [cap, Body("bar", "skin", pitch * 0.5, 0.6, finger, d.seed())]
    return _scene(d, "typing", bodies, None, material)


def meet(d: Draw) -> Scene:
    """Two bodies glide together and part again; some only cross, one behind the other."""
    a, b = d.pick(MATERIALS), d.pick(MATERIALS)
    ra, rb = d.u(0.06, 0.14), d.u(0.06, 0.14)
    axis = d.u(0, 2 * math.pi)
    ux, uy = math.cos(axis), math.sin(axis)
    cx, cy = d.u(0.4, d.aspect - 0.4), d.u(0.35, 0.65)
    times = d.times(0.5, 1.8, 0.6)
    crossing = d.chance(0.18)
    span = d.u(0.12, 0.4)
    gap = np.full(d.ticks, span)
    edges = [0.0 - d.u(0.3, 0.8), *times, d.seconds + d.u(0.3, 0.8)]
    edge = math.sqrt(1.03)
    for t0, t1 in itertools.pairwise(edges):
        now = (d.t >= t0) & (d.t < t1)
        p = (d.t[now] - t0) / (t1 - t0)
        height = span * min(1.0, (t1 - t0))
        # out and back at even speed, the turn rounded off: the contact is sharp, the turn smooth
        gap[now] = height * (edge - np.sqrt((2 * p - 1) ** 2 + 0.03)) / (edge - math.sqrt(0.03))
    share = d.u(0.25, 0.75)
    if crossing:
        along = span * np.sin(d.u(1.5, 4.0) * d.t + d.u(0, 6)) * 1.5
        xa, xb = cx + ux * along, np.full(d.ticks, cx)
        ya, yb = cy + uy * along, np.full(d.ticks, cy)
    else:
        xa, ya = cx - ux * (ra + gap * share), cy - uy * (ra + gap * share)
        xb, yb = cx + ux * (rb + gap * (1 - share)), cy + uy * (rb + gap * (1 - share))
        for t0, t1 in itertools.pairwise(edges):
            speed = 2 * span * min(1.0, t1 - t0) / (t1 - t0)
            d.hit(t1, 0.25 + speed / 2.0, cx, cy, 2 * ra, material=a, surface=b, object=0)
    spin = d.u(-2, 2) * d.t
    bodies = [
        # turned along the axis, a box meets the ball with the middle of its side
        _heard(
            "ball" if d.chance(0.7) else "box", b, 2 * rb, 2 * rb, _track(d, xb, yb, axis), d.seed()
        ),
        _heard("ball", a, 2 * ra, 2 * ra, _track(d, xa, ya, spin), d.seed()),
    ]
    return _scene(d, "meet", bodies, None, b)


def drops(d: Draw) -> Scene:
    """Water drops that fall onto a surface, a few or a rain; a ring spreads where each lands."""
    surface, floor_y = d.pick(MATERIALS), d.u(0.65, 0.92)
    g, size = d.u(4.0, 12.0), d.u(0.035, 0.07)
    ground = _still(d.aspect / 2, floor_y + 0.25)
    bodies = [_heard("box", surface, d.aspect + 1, 0.5, ground, d.seed())]
    gaps_s = (1.15 * MIN_GAP_S, 0.12) if d.chance(0.15) else (0.12, 0.9)
    for i, t in enumerate(d.times(*gaps_s)):
        x, s = d.u(0.15, d.aspect - 0.15), size * d.u(0.8, 1.2)
        top = d.u(-0.1, 0.15)
        fall = math.sqrt(2 * (floor_y - top) / g)
        y = (
            floor_y
            - s
            - 0.5 * g * np.clip(t - d.t, 0, None) * (2 * fall - np.clip(t - d.t, 0, None))
        )
        bodies.append(
            Body("drop", "glass", s * 1.2, s * 2, _track(d, x, y), d.seed(), False, (t - fall, t))
        )
        bodies.append(
            Body(
                "ring", "glass", s * 5, s * 1.2, _still(x, floor_y), d.seed(), False, (t, t + 0.16)
            )
        )
        d.hit(t, d.u(0.4, 0.9), x, floor_y, 2 * s, kind="drop", material=surface,
              surface="water", object=i)  # fmt: skip
    return _scene(d, "drops", bodies, floor_y, surface)


def scrape(d: Draw) -> Scene:
    """A thing dragged to and fro over a surface: sound follows speed, and stops with it."""
    material, surface, floor_y = d.pick(MATERIALS), d.pick(FLOORS), d.u(0.65, 0.95)
    w, h = d.u(0.15, 0.35), d.u(0.1, 0.25)
    x = np.full(d.ticks, d.u(0.3, d.aspect - 0.3))
    t = d.u(0.1, 0.7)
    side = 1 if x[0] < d.aspect / 2 else -1
    while t < d.seconds - 0.3:
        length = min(d.u(0.35, 1.2), d.seconds - t - 0.05)
        way = side * d.u(0.15, 0.5)
        way = float(np.clip(x[-1] + way, 0.15, d.aspect - 0.15) - x[-1])
        p = np.clip((d.t - t) / length, 0, 1)
        x = x + way * (1 - np.cos(np.pi * p)) / 2
        if abs(way) > 0.06:
            speed = np.where(
                (p > 0) & (p < 1), abs(way) * np.pi / 2 / length * np.sin(np.pi * p), 0
            )
            d.continuous.append(
                Interval(
                    "scrape",
                    round(t, 4),
                    round(t + length, 4),
                    material,
                    surface,
                    0,
                    d.speeds(speed / 1.2, t, t + length),
                    round(max(w, h), 4),
                )
            )
        t += length + (d.u(0.1, 0.5) if d.chance(0.6) else 0.0)
        side = -side
    y = floor_y - h / 2
    bodies = [
        _heard("box", material, w, h, _track(d, x, y), d.seed(), True),
        Body("bar", "skin", 0.1, 1.2, _track(d, x + 0.2, y - 0.55, 0.35), d.seed()),
    ]
    return _scene(d, "scrape", bodies, floor_y, surface)


def roll(d: Draw) -> Scene:
    """A ball that rolls to and fro, rumbling on the way and knocking at the two ends."""
    material, surface, floor_y = d.pick(MATERIALS), d.pick(FLOORS), d.u(0.6, 0.95)
    r, speed = d.u(0.06, 0.15), d.u(0.25, 1.1)
    left, right = d.u(0.02, 0.2), d.aspect - d.u(0.02, 0.2)
    knock = d.chance(0.65)  # otherwise it leaves the picture or turns on a slope without a sound
    x, y = np.empty(d.ticks), floor_y - r
    bodies: list[Body] = []
    if knock:
        p, v, e = d.u(left + r, right - r), speed * (1 if d.chance(0.5) else -1), d.u(0.6, 0.95)
        t = 0.0
        while t < d.seconds:
            goal = right - r if v > 0 else left + r
            need = max((goal - p) / v, 1e-3)
            now = (d.t >= t) & (d.t < t + need)
            x[now] = p + v * (d.t[now] - t)
            d.hit(t + need, abs(v) / 1.6, goal + (r if v > 0 else -r), y, 2 * r,
                  material=material, surface=surface, object=0)  # fmt: skip
            t, p, v = t + need, goal, -v * e
            if abs(v) < 0.08:
                x[d.t >= t] = p
                break
        for edge in (left, right):
            post = _still(edge + (-0.04 if edge == left else 0.04), floor_y - 0.15)
            bodies.append(_heard("box", surface, 0.08, 0.3, post, d.seed()))
    else:
        omega, phase = d.u(0.8, 2.2), d.u(0, 6)
        x = d.aspect / 2 + (d.aspect / 2 - 0.2) * np.sin(omega * d.t + phase)
    pace = np.abs(np.gradient(x, 1 / TICK_HZ))
    d.continuous.append(
        Interval(
            "roll",
            0.0,
            round(d.seconds, 4),
            material,
            surface,
            0,
            d.speeds(pace / 1.2, 0, d.seconds),
            round(2 * r, 4),
        )
    )
    bodies.append(_heard("ball", material, 2 * r, 2 * r, _track(d, x, y, x / r), d.seed(), True))
    return _scene(d, "roll", bodies, floor_y, surface)


def glide(d: Draw) -> Scene:
    """Smooth movers that touch nothing: orbits, lines, soft turns. Silence is the truth."""
    bodies = [_drifter(d, big=True) for _ in range(int(d.rng.integers(1, 4)))]
    return _scene(d, "glide", bodies, d.u(0.7, 1.0) if d.chance(0.3) else None, d.pick(FLOORS))


@dataclass(frozen=True)
class Motor:
    """Turns at `rate` Hz from `on_s` to `off_s` and stands still before and after."""

    rate: float
    on_s: float
    off_s: float
    phase: float

    @classmethod
    def draw(cls, d: Draw) -> Motor:
        on_s = d.u(0.1, 0.7) if d.chance(0.3) else 0.0
        off_s = d.seconds - (d.u(0.1, 0.7) if d.chance(0.2) else 0.0)
        return cls(d.log_u(0.8, 5.0), on_s, off_s, d.u(0, 1))

    def turns(self, t: np.ndarray) -> np.ndarray:
        """Turns done at the times t."""
        return self.phase + self.rate * (np.clip(t, self.on_s, self.off_s) - self.on_s)

    def times(self, part: float) -> list[float]:
        """When `part` of a turn (0 to 1) is reached, once a turn."""
        turns = range(int(self.rate * (self.off_s - self.on_s)) + 3)
        at = [self.on_s + (k + part - self.phase) / self.rate for k in turns]
        return [t for t in at if self.on_s < t < self.off_s]


def machine(d: Draw) -> Scene:
    """A press on a crank or a trip hammer, one blow a turn; some run free and touch nothing."""
    build = _press if d.chance(0.55) else _trip_hammer
    return _scene(d, "machine", build(d, Motor.draw(d), d.chance(0.12)), None, d.pick(FLOORS))


def _press(d: Draw, motor: Motor, free: bool) -> list[Body]:
    """Crank, connecting rod and a head in a guide: s = r·cos θ + √(l² − r²·sin² θ).

    The anvil stops the head `short` of the end of its stroke, and the rod's end slides on in the
    head. With s_c = l + r − short the contact is at cos θ = (s_c² + r² − l²) / (2·r·s_c), θ < 0.
    """
    material, other, iron = d.pick(MATERIALS), d.pick(SOLID), d.pick(("metal", "wood", "plastic"))
    r, rod, long, wide = d.u(0.06, 0.12), d.u(0.2, 0.28), d.u(0.12, 0.2), d.u(0.12, 0.3)
    stop = rod + r - d.u(0.15, 0.5) * min(r, long)
    axis = math.pi / 2
    if d.aspect > 1 and d.chance(0.4):
        axis = 0.0 if d.chance(0.5) else math.pi
    ux, uy = math.cos(axis), math.sin(axis)
    middle = (stop + long / 2 + 0.1 - r) / 2  # of the machine, seen from the crank
    cx = d.u(0.35, d.aspect - 0.35) - ux * middle
    cy = d.u(0.4, 0.6) - uy * middle
    theta = 2 * math.pi * motor.turns(d.t)
    px = cx + r * (np.cos(theta) * ux - np.sin(theta) * uy)
    py = cy + r * (np.cos(theta) * uy + np.sin(theta) * ux)
    end = r * np.cos(theta) + np.sqrt(rod**2 - (r * np.sin(theta)) ** 2)
    head = end if free else np.minimum(end, stop)
    ex, ey = cx + ux * end, cy + uy * end
    wheel, pin = _track(d, cx, cy, theta), _track(d, px, py)
    link = _track(d, (px + ex) / 2, (py + ey) / 2, np.arctan2(ey - py, ex - px))
    ram = _track(d, cx + ux * head, cy + uy * head, axis)
    bodies = [
        Body("ball", iron, 2.3 * r, 2.3 * r, wheel, d.seed()),
        Body("bar", iron, rod, 0.03, link, d.seed()),
        Body("ball", "rubber", 0.04, 0.04, pin, d.seed()),
        _heard("box", material, long, wide, ram, d.seed()),
    ]
    if free:
        return bodies
    face = stop + long / 2
    anvil = _still(cx + ux * (face + 0.06), cy + uy * (face + 0.06), axis)
    bodies.insert(0, _heard("box", other, 0.12, wide * d.u(1.0, 1.7), anvil, d.seed()))
    angle = math.acos((stop**2 + r**2 - rod**2) / (2 * r * stop))
    slope = r * math.sin(angle) * (1 + r * math.cos(angle) / (stop - r * math.cos(angle)))
    for t in motor.times(1 - angle / (2 * math.pi)):
        d.hit(t, 2 * math.pi * motor.rate * slope / 1.8, cx + ux * face, cy + uy * face,
              max(long, wide), material=material, surface=other, object=0)  # fmt: skip
    return bodies


def _trip_hammer(d: Draw, motor: Motor, free: bool) -> list[Body]:
    """A cam lifts the arm by `lift` radians and lets go: it falls freely, lift − ½·fall·t², lands
    at every whole turn and lies until the next cam comes."""
    material, other, iron = d.pick(MATERIALS), d.pick(SOLID), d.pick(("metal", "wood", "plastic"))
    side = 1.0 if d.chance(0.5) else -1.0
    arm, head = d.u(0.3, min(0.6, d.aspect - 0.2)), d.u(0.06, 0.12)
    px, py = d.aspect / 2 - side * arm * d.u(0.4, 0.7), d.u(0.5, 0.75)
    fall, rest = d.log_u(20.0, 70.0) * max(1.0, motor.rate / 2), d.u(0.0, 0.25)
    lift = min(d.u(0.3, 0.8), 0.5 * fall * (0.45 / motor.rate) ** 2)
    drop = math.sqrt(2 * lift / fall) * motor.rate  # of a turn
    part = motor.turns(d.t) % 1.0
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((part - rest) / (1 - drop - rest), 0, 1))
    angle = np.where(part < 1 - drop, lift * rise, lift * (1 - ((part - 1 + drop) / drop) ** 2))
    if free:
        angle = lift * (0.5 - 0.5 * np.cos(2 * np.pi * part))
    hx, hy = px + side * arm * np.cos(angle), py - arm * np.sin(angle)
    cam = 0.35 * arm
    wheel = _track(d, px + side * cam, py + 0.1, -side * np.pi * motor.turns(d.t))
    beam = _track(d, (px + hx) / 2, (py + hy) / 2, -side * angle)
    bodies = [
        Body("box", iron, 0.05, 0.5, _still(px, py + 0.24), d.seed()),
        Body("bar", iron, 0.18, 0.05, wheel, d.seed()),
        Body("bar", d.pick(("wood", "metal")), arm, 0.035, beam, d.seed()),
        _heard("ball", material, 2 * head, 2 * head, _track(d, hx, hy, -side * angle), d.seed()),
    ]
    if free:
        return bodies
    x, y, height = px + side * arm, py + head, d.u(0.1, 0.25)
    block = _still(x, y + height / 2)
    bodies.insert(0, _heard("box", other, d.u(0.16, 0.3), height, block, d.seed()))
    for t in motor.times(0.0):
        d.hit(t, math.sqrt(2 * lift * fall) * arm / 4.5, x, y, 2 * head,
              material=material, surface=other, object=0)  # fmt: skip
    return bodies


def bell(d: Draw) -> Scene:
    """A bell that swings around its clapper, or a hanging gong and its beater."""
    material = d.pick(("metal", "metal", "glass")) if d.chance(0.75) else d.pick(SOLID)
    build = _swinging_bell if d.chance(0.6) else _gong
    return _scene(d, "bell", build(d, material), None, d.pick(FLOORS))


def _swinging_bell(d: Draw, material: str) -> list[Body]:
    """The bell swings as a sine; its clapper lies on one side, comes over, ever faster, and strikes
    the other at a fixed phase of the swing. Without a clapper it is silent."""
    h = d.u(0.25, 0.45)
    w, ball = h * d.u(0.8, 1.1), h * d.u(0.12, 0.2)
    px, py = d.u(0.4, d.aspect - 0.4), d.u(0.05, 0.9 - 1.3 * h)
    omega, phase, late = d.u(2.6, 6.5), d.u(0, 2 * math.pi), d.u(0.0, 0.7)
    fade = d.u(0.0, 0.06)
    lean = d.u(0.35, 0.6) * np.exp(-fade * d.t) * np.sin(omega * d.t + phase)
    cup = _track(d, px - np.sin(lean) * h / 2, py + np.cos(lean) * h / 2, lean)
    bodies = [
        Body("bar", d.pick(("wood", "metal")), 0.3, 0.04, _still(px, py), d.seed()),
        _heard("bell", material, w, h, cup, d.seed()),
    ]
    if d.chance(0.1):
        return bodies
    far = math.asin((w / 2 - ball) / h)  # the ball hangs in the mouth and touches its rim
    half = (omega * d.t + phase - math.pi / 2 - late) / math.pi  # a stroke is one half swing
    way = np.clip((half % 1.0 - 0.3) / 0.7, 0, 1) ** 2
    hang = lean + np.where(np.floor(half) % 2 == 0, 1.0, -1.0) * far * (1 - 2 * way)
    clapper = d.pick(("metal", "wood", "rubber"))
    bx, by = px - h * np.sin(hang), py + h * np.cos(hang)
    stem = _track(d, (bx + px) / 2, (by + py) / 2, hang)
    bodies += [
        Body("bar", clapper, 0.02, h, stem, d.seed()),
        _heard("ball", clapper, 2 * ball, 2 * ball, _track(d, bx, by, hang), d.seed()),
    ]
    first = math.ceil((phase - math.pi / 2 - late) / math.pi)
    for k in range(first, first + int(omega * d.seconds / math.pi) + 2):
        t = (k * math.pi + math.pi / 2 + late - phase) / omega
        if not 0 <= t < d.seconds:
            continue
        tilt = float(np.interp(t, d.t, lean))
        across, down = (-w / 2 if k % 2 == 0 else w / 2), h * math.cos(far)
        x = px + across * math.cos(tilt) - down * math.sin(tilt)
        y = py + across * math.sin(tilt) + down * math.cos(tilt)
        d.hit(t, 1.2 * far * omega * h * math.exp(-fade * t), x, y, max(w, h),
              material=material, surface=clapper, object=0)  # fmt: skip
    return bodies


def _gong(d: Draw, material: str) -> list[Body]:
    """A disc on two cords; the beater's fall ends on its rim, and each blow sets it swinging."""
    r, ball, side = d.u(0.1, 0.22), d.u(0.035, 0.06), 1.0 if d.chance(0.5) else -1.0
    cx, cy = d.u(0.4, d.aspect - 0.4), d.u(0.4, 0.65)
    other, away, times = d.pick(("wood", "rubber", "cloth")), d.u(0.1, 0.25), d.times(0.4, 2.0, 0.5)
    gap, push, x = np.full(d.ticks, away), d.u(0.01, 0.03), np.full(d.ticks, cx)
    blows: list[tuple[float, float]] = []
    for k, t in enumerate(times):
        fall, lift = d.u(0.08, 0.2), away * d.u(0.6, 1.3)
        blows.append((t, 2 * lift / fall / 5.0))
        before = times[k - 1] if k else 0.0
        up = (d.t >= before) & (d.t < t - fall)
        p = (d.t[up] - before) / max(t - fall - before, 1e-6)
        start = 0.0 if k else away
        gap[up] = start + (lift - start) * 0.5 * (1 - np.cos(np.pi * p))
        down = (d.t >= t - fall) & (d.t < t)
        gap[down] = lift * (1 - ((d.t[down] - t + fall) / fall) ** 2)
        since = np.clip(d.t - t, 0, None)
        x = x - side * push * np.exp(-since / 0.5) * np.sin(7.0 * since)
    if times:
        since = d.t[d.t >= times[-1]] - times[-1]
        gap[d.t >= times[-1]] = away * 0.5 * (1 - np.cos(np.clip(since * 4, 0, np.pi)))
    bx = x + side * (r + ball + gap)
    handle = 0.5
    hx, hy = bx + side * 0.6 * handle / 2, cy + 0.8 * handle / 2
    slope = math.atan2(0.8, side * 0.6)
    for t, strength in blows:
        rim = float(np.interp(t, d.t, x)) + side * r
        d.hit(t, strength, rim, cy, 2 * r, material=material, surface=other, object=0)
    cords = [
        Body("bar", "rubber", 0.012, cy - r + 0.15,
             _track(d, x + e * 0.5 * r, (cy - 0.86 * r - 0.15) / 2), d.seed())
        for e in (-1, 1)
    ]  # fmt: skip
    return [
        *cords,
        _heard("ball", material, 2 * r, 2 * r, _track(d, x, cy), d.seed()),
        Body("bar", "wood", handle, 0.025, _track(d, hx, hy, slope), d.seed()),
        _heard("ball", other, 2 * ball, 2 * ball, _track(d, bx, cy), d.seed()),
    ]


FAMILIES: dict[str, Callable[[Draw], Scene]] = {
    f.__name__: f
    for f in (
        bounce,
        tumble,
        pendulum,
        strike,
        footsteps,
        typing,
        meet,
        drops,
        scrape,
        roll,
        glide,
        machine,
        bell,
    )
}
"""Checkpoints count on the order: new ones are added at the end."""
_SHARES = (
    0.162, 0.117, 0.09, 0.153, 0.09, 0.054, 0.072, 0.045, 0.045, 0.036, 0.036, 0.05, 0.05,
)  # fmt: skip


def _drifter(d: Draw, big: bool = False) -> Body:
    """A silent body on a smooth path."""
    size = d.u(0.08, 0.3) if big else d.u(0.03, 0.16)
    if d.chance(0.4):  # across and out
        x = d.u(-0.3, d.aspect + 0.3) + d.u(-0.6, 0.6) * d.t
        y = d.u(0, 1) + d.u(-0.2, 0.2) * d.t
    else:
        x = d.u(0.2, d.aspect - 0.2) + d.u(0.05, 0.5) * np.sin(d.u(0.5, 6) * d.t + d.u(0, 6))
        y = d.u(0.2, 0.8) + d.u(0.0, 0.3) * np.sin(d.u(0.5, 6) * d.t + d.u(0, 6))
    look = d.pick(("ball", "box", "bar"))
    height = size * (0.3 if look == "bar" else d.u(0.6, 1.4))
    return Body(
        look,
        d.pick((*MATERIALS, "skin")),
        size,
        height,
        _track(d, x, y, d.u(-2, 2) * d.t),
        d.seed(),
    )


def _scene(d: Draw, family: str, bodies: list[Body], floor_y: float | None, surface: str) -> Scene:
    log = EventLog(family, 0, d.seconds, events=sort_events(d.events), continuous=d.continuous)
    return Scene(log, d.aspect, bodies, floor_y, surface)


def _too_close(log: EventLog) -> bool:
    times = [e.time_s for e in log.events]
    return any(b - a < MIN_GAP_S for a, b in itertools.pairwise(times))


def _parted(log: EventLog) -> EventLog:
    """Of events closer than `MIN_GAP_S` the stronger one stays."""
    kept: list[Event] = []
    for event in log.events:
        if kept and event.time_s - kept[-1].time_s < MIN_GAP_S:
            if event.strength > kept[-1].strength:
                kept[-1] = event
        else:
            kept.append(event)
    return replace(log, events=kept)


def _elsewhere(log: EventLog, rng: np.random.Generator) -> list[Event]:
    """One to four blows outside the picture, in a material that nothing in it has."""
    present = {t for e in (*log.events, *log.continuous) for t in (e.material, e.surface)}
    material = str(rng.choice([m for m in MATERIALS if m not in present]))
    number = 1 + max((e.object or 0 for e in (*log.events, *log.continuous)), default=0)
    taken, added = [e.time_s for e in log.events], []
    for _ in range(int(rng.integers(1, 5))):
        time_s = round(float(rng.uniform(0.02, log.seconds - 0.03)), 6)
        strength = round(float(rng.uniform(0.2, 0.9)), 4)
        if all(abs(time_s - t) >= MIN_GAP_S for t in taken):
            taken.append(time_s)
            added.append(Event(time_s, "impact", material, strength, object=number, visible=False))
    return added


def make_scene(
    seed: int,
    seconds: float = 4.0,
    family: str | None = None,
    aspect: float = 16 / 9,
    split: str = "clean",
    off_screen: bool = True,
) -> Scene:
    """Draw a scene.

    Args:
        seed: Everything follows from it.
        seconds: Length.
        family: One of `FAMILIES`, or None for a draw by their shares.
        aspect: Width over height of the picture.
        split: "clean", or "ugly": silent distractors and occluders, a rough picture, and at times
            sounds from outside it.
        off_screen: False leaves those sounds out; all else stays as it is.

    Raises:
        ValueError: If the family or the split is unknown or the length is not positive.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}, wanted one of {', '.join(FAMILIES)}")
    if split not in ("clean", "ugly"):
        raise ValueError(f"unknown split {split!r}, wanted clean or ugly")
    if not 0.1 <= seconds <= 600:
        raise ValueError(f"a scene of {seconds} s, wanted 0.1 to 600")
    dice = np.random.default_rng([seed, 77])
    name = family or str(dice.choice(list(FAMILIES), p=_SHARES))
    for attempt in range(6):  # crowded draws are thrown again, then thinned
        d = Draw(int(dice.integers(1 << 62)) + attempt, seconds, aspect)
        scene = FAMILIES[name](d)
        if not _too_close(scene.log):
            break
    if dice.random() < (0.12 if split == "clean" else 0.45):
        for _ in range(int(dice.integers(1, 3))):
            scene.bodies.insert(int(dice.integers(len(scene.bodies) + 1)), _drifter(d))
    if split == "ugly" and dice.random() < 0.25:  # a post in the foreground
        material, width = str(dice.choice(MATERIALS)), float(dice.uniform(0.03, 0.12))
        place = _still(float(dice.uniform(0.1, aspect - 0.1)), 0.5)
        post = Body("box", material, width, 1.6, place, d.seed(), front=True)
        scene.bodies.append(post)
    log = _parted(scene.log)
    log.seed, log.split = seed, split
    log.prompt = prompt_for(log, np.random.default_rng([seed, 78]))
    dice = np.random.default_rng([seed, 79])  # of its own: the picture does not know
    wanted = split == "ugly" and off_screen and bool(log.events or log.continuous)
    if wanted and dice.random() < OFF_SCREEN_SHARE:
        log.events = sort_events([*log.events, *_elsewhere(log, dice)])
    return replace(scene, log=log)
