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

What a scene is made of stands in `bodies`, the dice in `dice`, and the families, by what moves
them, in `families`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from foley_lab.signals import MATERIALS, Event, EventLog, sort_events
from foley_lab.synthetic.bodies import FLOORS, MIN_GAP_S, SOLID, TICK_HZ, Body, Scene, still
from foley_lab.synthetic.dice import Draw
from foley_lab.synthetic.families.falling import bounce, drops, pendulum, tumble
from foley_lab.synthetic.families.machines import bell, machine
from foley_lab.synthetic.families.sliding import drifter, glide, roll, scrape
from foley_lab.synthetic.families.struck import footsteps, meet, strike, typing
from foley_lab.synthetic.words import prompt_for

__all__ = [
    "FAMILIES", "FLOORS", "MIN_GAP_S", "OFF_SCREEN_SHARE", "SOLID", "TICK_HZ",
    "Body", "Draw", "Scene", "make_scene",
]  # fmt: skip

OFF_SCREEN_SHARE = 0.15
"""Of the ugly clips with a sound, how many hear something from outside the picture as well."""

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
            scene.bodies.insert(int(dice.integers(len(scene.bodies) + 1)), drifter(d))
    if split == "ugly" and dice.random() < 0.25:  # a post in the foreground
        material, width = str(dice.choice(MATERIALS)), float(dice.uniform(0.03, 0.12))
        place = still(float(dice.uniform(0.1, aspect - 0.1)), 0.5)
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
