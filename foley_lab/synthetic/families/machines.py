"""What goes round or swings by itself: a press, a trip hammer, a bell and a gong.

Each contact falls on a known phase of a turn, a swing or a stroke, so its time is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foley_lab.signals import MATERIALS
from foley_lab.synthetic.bodies import FLOORS, SOLID, Body, Scene, heard, still
from foley_lab.synthetic.dice import Draw


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
    return d.scene("machine", build(d, Motor.draw(d), d.chance(0.12)), None, d.pick(FLOORS))


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
    wheel, pin = d.track(cx, cy, theta), d.track(px, py)
    link = d.track((px + ex) / 2, (py + ey) / 2, np.arctan2(ey - py, ex - px))
    ram = d.track(cx + ux * head, cy + uy * head, axis)
    bodies = [
        Body("ball", iron, 2.3 * r, 2.3 * r, wheel, d.seed()),
        Body("bar", iron, rod, 0.03, link, d.seed()),
        Body("ball", "rubber", 0.04, 0.04, pin, d.seed()),
        heard("box", material, long, wide, ram, d.seed()),
    ]
    if free:
        return bodies
    face = stop + long / 2
    anvil = still(cx + ux * (face + 0.06), cy + uy * (face + 0.06), axis)
    bodies.insert(0, heard("box", other, 0.12, wide * d.u(1.0, 1.7), anvil, d.seed()))
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
    wheel = d.track(px + side * cam, py + 0.1, -side * np.pi * motor.turns(d.t))
    beam = d.track((px + hx) / 2, (py + hy) / 2, -side * angle)
    bodies = [
        Body("box", iron, 0.05, 0.5, still(px, py + 0.24), d.seed()),
        Body("bar", iron, 0.18, 0.05, wheel, d.seed()),
        Body("bar", d.pick(("wood", "metal")), arm, 0.035, beam, d.seed()),
        heard("ball", material, 2 * head, 2 * head, d.track(hx, hy, -side * angle), d.seed()),
    ]
    if free:
        return bodies
    x, y, height = px + side * arm, py + head, d.u(0.1, 0.25)
    block = still(x, y + height / 2)
    bodies.insert(0, heard("box", other, d.u(0.16, 0.3), height, block, d.seed()))
    for t in motor.times(0.0):
        d.hit(t, math.sqrt(2 * lift * fall) * arm / 4.5, x, y, 2 * head,
              material=material, surface=other, object=0)  # fmt: skip
    return bodies


def bell(d: Draw) -> Scene:
    """A bell that swings around its clapper, or a hanging gong and its beater."""
    material = d.pick(("metal", "metal", "glass")) if d.chance(0.75) else d.pick(SOLID)
    build = _swinging_bell if d.chance(0.6) else _gong
    return d.scene("bell", build(d, material), None, d.pick(FLOORS))


def _swinging_bell(d: Draw, material: str) -> list[Body]:
    """The bell swings as a sine; its clapper lies on one side, comes over, ever faster, and strikes
    the other at a fixed phase of the swing. Without a clapper it is silent."""
    h = d.u(0.25, 0.45)
    w, ball = h * d.u(0.8, 1.1), h * d.u(0.12, 0.2)
    px, py = d.u(0.4, d.aspect - 0.4), d.u(0.05, 0.9 - 1.3 * h)
    omega, phase, late = d.u(2.6, 6.5), d.u(0, 2 * math.pi), d.u(0.0, 0.7)
    fade = d.u(0.0, 0.06)
    lean = d.u(0.35, 0.6) * np.exp(-fade * d.t) * np.sin(omega * d.t + phase)
    cup = d.track(px - np.sin(lean) * h / 2, py + np.cos(lean) * h / 2, lean)
    bodies = [
        Body("bar", d.pick(("wood", "metal")), 0.3, 0.04, still(px, py), d.seed()),
        heard("bell", material, w, h, cup, d.seed()),
    ]
    if d.chance(0.1):
        return bodies
    far = math.asin((w / 2 - ball) / h)  # the ball hangs in the mouth and touches its rim
    half = (omega * d.t + phase - math.pi / 2 - late) / math.pi  # a stroke is one half swing
    way = np.clip((half % 1.0 - 0.3) / 0.7, 0, 1) ** 2
    hang = lean + np.where(np.floor(half) % 2 == 0, 1.0, -1.0) * far * (1 - 2 * way)
    clapper = d.pick(("metal", "wood", "rubber"))
    bx, by = px - h * np.sin(hang), py + h * np.cos(hang)
    stem = d.track((bx + px) / 2, (by + py) / 2, hang)
    bodies += [
        Body("bar", clapper, 0.02, h, stem, d.seed()),
        heard("ball", clapper, 2 * ball, 2 * ball, d.track(bx, by, hang), d.seed()),
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
             d.track(x + e * 0.5 * r, (cy - 0.86 * r - 0.15) / 2), d.seed())
        for e in (-1, 1)
    ]  # fmt: skip
    return [
        *cords,
        heard("ball", material, 2 * r, 2 * r, d.track(x, cy), d.seed()),
        Body("bar", "wood", handle, 0.025, d.track(hx, hy, slope), d.seed()),
        heard("ball", other, 2 * ball, 2 * ball, d.track(bx, cy), d.seed()),
    ]
