"""Counterfactual pairs: the same happenings twice, one factor changed, everything else alike.

Both of a pair have the seed, so bodies, blows, room, camera and background are drawn alike; times
and places are untouched. What differs in the sound therefore comes from the factor alone:

    material   everything made of the clip's main material is made of another, in picture and sound
    surface    everything made of the main surface that is struck, likewise
    strength   every blow is softer or harder by one ratio, in the sound alone
    size       everything sounds smaller or larger by one ratio, in the sound alone: another radius
               in the picture would move the contacts

Sounds from outside the picture stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic.scenes import Scene, make_scene
from foley_lab.synthetic.words import main_material, prompt_for

FACTORS = ("material", "surface", "strength", "size")


def can_change(log: EventLog, factor: str) -> bool:
    """Whether the log has what the factor changes: silence has no material, a drop no surface.

    Raises:
        ValueError: If the factor is unknown.
    """
    if factor not in FACTORS:
        raise ValueError(f"unknown factor {factor!r}, wanted one of {', '.join(FACTORS)}")
    if factor in ("material", "surface"):
        return _changed_material(log, factor) is not None
    seen = [e for e in log.events if not e.off_screen]
    if factor == "strength":
        return bool(seen)
    return any(t.size for t in (*seen, *log.continuous))


def counterfactual(
    log: EventLog,
    factor: str,
    value: str | float | None = None,
    rng: np.random.Generator | None = None,
) -> EventLog:
    """The log with one factor changed.

    Args:
        log: What happens.
        factor: One of `FACTORS`.
        value: The other material, or the ratio of new to old strength or size; None draws one that
            can be heard.
        rng: Draws it; None takes dice that hang on the log's seed.

    Returns:
        A log with the same times and, worded alike, the prompt that fits it.

    Raises:
        ValueError: If there is nothing to change or the value changes nothing.
    """
    if not can_change(log, factor):
        raise ValueError(f"clip {log.seed} has no {factor} to change, wanted one that sounds so")
    rng = np.random.default_rng([log.seed, 80]) if rng is None else rng
    if factor in ("material", "surface"):
        old, new = _materials(log, factor, value, rng)
        log = _remade(log, old, new)
        return replace(log, prompt=prompt_for(log, np.random.default_rng([log.seed, 78])))
    ratio = _ratio(log, factor, rng) if value is None else float(value)
    if not (0 < ratio < float("inf") and ratio != 1):
        raise ValueError(f"{factor} times {value}, wanted a positive ratio other than 1")
    return _scaled(log, factor, ratio)


def other_scene(
    scene: Scene,
    factor: str,
    value: str | float | None = None,
    rng: np.random.Generator | None = None,
) -> Scene:
    """The scene with one factor changed, in its log and, for materials, in what is drawn.

    Args, raises: As `counterfactual`.
    """
    if factor in ("material", "surface") and can_change(scene.log, factor):
        rng = np.random.default_rng([scene.log.seed, 80]) if rng is None else rng
        old, value = _materials(scene.log, factor, value, rng)
        scene = _repainted(scene, old, value)
    return replace(scene, log=counterfactual(scene.log, factor, value, rng))


def pair(
    seed: int,
    factor: str,
    seconds: float = 4.0,
    family: str | None = None,
    aspect: float = 16 / 9,
    split: str = "clean",
    value: str | float | None = None,
) -> tuple[Scene, Scene]:
    """A scene of `make_scene` and its counterfactual.

    Raises:
        ValueError: As `make_scene` and `counterfactual`; `can_change` tells beforehand.
    """
    scene = make_scene(seed, seconds, family, aspect, split)
    return scene, other_scene(scene, factor, value)


def _changed_material(log: EventLog, factor: str) -> str | None:
    """The material that the factor replaces, or None.

    A surface is heard under blows alone; one that sounds elsewhere in the clip does not count,
    since the log could not tell the two apart.
    """
    if factor == "material":
        return main_material(log)
    silent = set(MATERIALS) - {t.material for t in (*log.events, *log.continuous)}
    struck = [e.surface for e in log.events if e.surface in silent and e.kind != "key"]
    return max(sorted(set(struck)), key=struck.count) if struck else None


def _materials(
    log: EventLog, factor: str, value: str | float | None, rng: np.random.Generator
) -> tuple[str, str]:
    """The material that goes and the one that comes, which is new to the clip if possible."""
    old = _changed_material(log, factor)
    assert old is not None, "`can_change` has been asked"
    if value is None:
        things = (*log.events, *log.continuous)
        present = {t.material for t in things} | {t.surface for t in things}
        new = [m for m in MATERIALS if m not in present] or [m for m in MATERIALS if m != old]
        value = str(rng.choice(new))
    if not isinstance(value, str) or value not in MATERIALS or value == old:
        raise ValueError(f"{factor} {value!r}, wanted a material other than {old}")
    return old, value


def _remade(log: EventLog, old: str, new: str) -> EventLog:
    def swap(thing: Event | Interval) -> dict[str, str | None]:
        return {
            "material": new if thing.material == old else thing.material,
            "surface": new if thing.surface == old else thing.surface,
        }

    return replace(
        log,
        events=[e if e.off_screen else replace(e, **swap(e)) for e in log.events],
        continuous=[replace(c, **swap(c)) for c in log.continuous],
    )


def _repainted(scene: Scene, old: str, new: str) -> Scene:
    bodies = [
        replace(b, material=new) if b.heard and b.material == old else b for b in scene.bodies
    ]
    floor = new if scene.floor_heard and scene.floor_material == old else scene.floor_material
    return replace(scene, bodies=bodies, floor_material=floor)


def _ratio(log: EventLog, factor: str, rng: np.random.Generator) -> float:
    """Down where the clip is hard or large, up where it is soft or small."""
    seen = [e for e in log.events if not e.off_screen]
    if factor == "strength":
        down = np.mean([e.strength for e in seen]) > 0.45
    else:
        sizes = [t.size for t in (*seen, *log.continuous) if t.size]
        down = np.exp(np.mean(np.log(sizes))) > 0.14
    return float(rng.uniform(0.35, 0.5) if down else rng.uniform(2.0, 2.8))


def _scaled(log: EventLog, factor: str, ratio: float) -> EventLog:
    def event(e: Event) -> Event:
        if e.off_screen:
            return e
        if factor == "strength":
            return replace(e, strength=round(min(max(e.strength * ratio, 0.04), 1.0), 4))
        return replace(e, size=e.size and round(e.size * ratio, 4))

    def interval(c: Interval) -> Interval:
        return c if factor == "strength" else replace(c, size=c.size and round(c.size * ratio, 4))

    return replace(
        log, events=[event(e) for e in log.events], continuous=[interval(c) for c in log.continuous]
    )
