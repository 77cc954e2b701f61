"""What falls: balls, boxes, a bob on its rod and drops, moved by gravity alone.

Flights and swings are closed-form and their contacts exact; tumbling bodies are left to pymunk at
1 ms, contact time = step - 0.5 ms.
"""

from __future__ import annotations

import math

import numpy as np

from foley_lab.signals import MATERIALS, Interval
from foley_lab.synthetic.bodies import (
    FLOORS,
    MIN_GAP_S,
    SOLID,
    TICK_HZ,
    Body,
    Scene,
    heard,
    still,
)
from foley_lab.synthetic.dice import Draw

Point = tuple[float, float]


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
            heard("ball", material, 2 * r, 2 * r, d.track(xs, ys, xs / r), d.seed(), True)
        )
    return d.scene("bounce", bodies, floor_y, surface)


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
            wall = still(x, floor_y - 1.0)
            bodies.append(heard("box", surface, 2 * thick, 2.0, wall, d.seed()))
    else:  # nothing leaves the picture
        walls += [((x, -2), (x, floor_y)) for x in (-thick, d.aspect + thick)]
    if d.chance(0.35):  # a ramp
        x, length, tilt = d.u(0.3, d.aspect - 0.3), d.u(0.3, 0.6), d.u(-0.5, 0.5)
        y = d.u(0.45, floor_y - 0.15)
        dx, dy = math.cos(tilt) * length / 2, math.sin(tilt) * length / 2
        walls.append(((x - dx, y - dy), (x + dx, y + dy)))
        bodies.append(heard("bar", surface, length, 2 * thick, still(x, y, tilt), d.seed()))
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
            look = heard("ball", material, 2 * size, 2 * size, d.track(0, 0), d.seed(), True)
        else:
            w, h = size * d.u(1.2, 2.6), size * d.u(1.0, 1.8)
            shape = pymunk.Poly.create_box(body, (w, h))
            look = heard("box", material, w, h, d.track(0, 0), d.seed(), True)
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
    return d.scene("tumble", bodies + [look for _, look in moving], floor_y - thick, surface)


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
        bodies.append(heard("box", other, 0.06, d.u(0.25, 0.7), still(wall_x, wall_y), d.seed()))
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
    rod = d.track((x + px) / 2, (y + py) / 2, -angle)
    bodies.append(Body("bar", d.pick(("rubber", "wood", "metal")), 0.014, length, rod, d.seed()))
    bodies.append(heard("ball", material, 2 * r, 2 * r, d.track(x, y, -angle), d.seed()))
    return d.scene("pendulum", bodies, None, other)


def drops(d: Draw) -> Scene:
    """Water drops that fall onto a surface, a few or a rain; a ring spreads where each lands."""
    surface, floor_y = d.pick(MATERIALS), d.u(0.65, 0.92)
    g, size = d.u(4.0, 12.0), d.u(0.035, 0.07)
    ground = still(d.aspect / 2, floor_y + 0.25)
    bodies = [heard("box", surface, d.aspect + 1, 0.5, ground, d.seed())]
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
            Body("drop", "glass", s * 1.2, s * 2, d.track(x, y), d.seed(), False, (t - fall, t))
        )
        bodies.append(
            Body("ring", "glass", s * 5, s * 1.2, still(x, floor_y), d.seed(), False, (t, t + 0.16))
        )
        d.hit(t, d.u(0.4, 0.9), x, floor_y, 2 * s, kind="drop", material=surface,
              surface="water", object=i)  # fmt: skip
    return d.scene("drops", bodies, floor_y, surface)
