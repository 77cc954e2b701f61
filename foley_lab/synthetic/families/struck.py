"""What is struck on purpose: by a tool, a foot or a finger, or by another body that comes to meet
it. The instants are drawn first and the motion is laid through them, so they are exact; feints and
crossings look alike and are silent.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from foley_lab.signals import MATERIALS
from foley_lab.synthetic.bodies import FLOORS, SOLID, TICK_HZ, Body, Scene, heard, still
from foley_lab.synthetic.dice import Draw


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
        heard(look, material, w, h, still(cx, cy), d.seed()),
        Body("bar", tool, arm, d.u(0.03, 0.11), d.track(ax, ay, tilt), d.seed()),
        Body("ball", tool, 2 * head, 2 * head, d.track(hx, hy, tilt), d.seed()),
    ]
    scene = d.scene("strike", bodies, cy + h / 2 if d.chance(0.5) else None, d.pick(FLOORS))
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
        bodies.append(Body("bar", skin, size * 0.42, length, d.track(lx, ly, -lean), d.seed()))
        shoe = d.track(x, y, tilt)
        bodies.append(heard("box", sole, size, size * 0.36, shoe, d.seed(), True))
    scene = d.scene("footsteps", bodies, floor_y, surface)
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
        cap = heard("box", material, pitch * 0.86, 0.1, d.track(x, y + 0.05 + sink), d.seed())
        tip = y - hover * (1 - press[k]) + sink * (press[k] > 0.7)
        finger = d.track(x + 0.1 * hover * (1 - press[k]), tip - 0.3, 0.0)
        bodies += [cap, Body("bar", "skin", pitch * 0.5, 0.6, finger, d.seed())]
    return d.scene("typing", bodies, None, material)


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
        heard(
            "ball" if d.chance(0.7) else "box", b, 2 * rb, 2 * rb, d.track(xb, yb, axis), d.seed()
        ),
        heard("ball", a, 2 * ra, 2 * ra, d.track(xa, ya, spin), d.seed()),
    ]
    return d.scene("meet", bodies, None, b)
