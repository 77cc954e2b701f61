"""What slides, rolls or glides: sounds that last and follow the speed, or silence."""

from __future__ import annotations

import numpy as np

from foley_lab.signals import MATERIALS, Interval
from foley_lab.synthetic.bodies import FLOORS, TICK_HZ, Body, Scene, heard, still
from foley_lab.synthetic.dice import Draw


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
        heard("box", material, w, h, d.track(x, y), d.seed(), True),
        Body("bar", "skin", 0.1, 1.2, d.track(x + 0.2, y - 0.55, 0.35), d.seed()),
    ]
    return d.scene("scrape", bodies, floor_y, surface)


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
            post = still(edge + (-0.04 if edge == left else 0.04), floor_y - 0.15)
            bodies.append(heard("box", surface, 0.08, 0.3, post, d.seed()))
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
    bodies.append(heard("ball", material, 2 * r, 2 * r, d.track(x, y, x / r), d.seed(), True))
    return d.scene("roll", bodies, floor_y, surface)


def glide(d: Draw) -> Scene:
    """Smooth movers that touch nothing: orbits, lines, soft turns. Silence is the truth."""
    bodies = [drifter(d, big=True) for _ in range(int(d.rng.integers(1, 4)))]
    return d.scene("glide", bodies, d.u(0.7, 1.0) if d.chance(0.3) else None, d.pick(FLOORS))


def drifter(d: Draw, big: bool = False) -> Body:
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
        d.track(x, y, d.u(-2, 2) * d.t),
        d.seed(),
    )
