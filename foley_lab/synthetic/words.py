"""What one would say of a clip: prompts written from an event log, in many wordings.

Every wording names the material that sounds by one of `MATERIAL_WORDS`, as a noun ("footsteps on
gravel") or as an adjective ("a wooden ball"); only a clip without a sound names none. Each family
has its own wordings and shares the plain ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foley_lab.signals import MATERIALS

if TYPE_CHECKING:
    import numpy as np

    from foley_lab.signals import EventLog

ADJECTIVES = {
    "wood": ("wooden", "wood", "oak", "timber"),
    "metal": ("metal", "steel", "iron", "metallic"),
    "glass": ("glass", "crystal", "glassy"),
    "rubber": ("rubber", "rubbery", "soft rubber"),
    "stone": ("stone", "rock", "marble"),
    "plastic": ("plastic", "hollow plastic", "hard plastic"),
    "gravel": ("gravel", "gravelly", "pebble"),
    "cloth": ("cloth", "fabric", "felt", "woollen"),
}
"""Before a noun: "a … ball"."""

NOUNS = {
    "wood": ("wood", "oak", "timber"),
    "metal": ("metal", "steel", "iron"),
    "glass": ("glass", "crystal"),
    "rubber": ("rubber", "soft rubber"),
    "stone": ("stone", "rock", "marble"),
    "plastic": ("plastic", "hollow plastic", "hard plastic"),
    "gravel": ("gravel", "loose gravel", "pebbles"),
    "cloth": ("cloth", "fabric", "felt"),
}
"""Alone: "steps on …"."""

MATERIAL_WORDS = {m: tuple(dict.fromkeys(ADJECTIVES[m] + NOUNS[m])) for m in MATERIALS}
"""All words for a material; no word stands for two."""

# {a}: adjective, {n}: noun of what sounds; {s}: noun of what it touches
_TEMPLATES = {
    "bounce": (
        "a {a} ball bounces on {s}",
        "{a} ball bouncing",
        "a bouncing {a} ball hits a floor of {s}",
        "a ball of {n} is dropped and bounces",
        "a {a} ball falls and jumps up again",
        "hops of a {a} ball on {s}",
    ),
    "tumble": (
        "{a} objects tumble onto {s}",
        "{a} blocks fall and collide",
        "a {a} thing drops on the floor",
        "pieces of {n} fall over each other",
        "a {a} object falls onto {s} and rolls over",
        "things made of {n} clatter down",
    ),
    "pendulum": (
        "a {a} pendulum knocks against {s}",
        "a {a} bob swings and hits a post",
        "a swinging {a} ball taps a post of {s}",
        "a ball of {n} on a string knocks again and again",
        "a {a} weight swings against {s}",
        "the steady knocking of a {a} pendulum",
    ),
    "strike": (
        "someone strikes a {a} object",
        "hitting {n}",
        "a hammer beats on {n}",
        "blows on a {a} block",
        "somebody knocks on {n} with a stick",
        "a mallet strikes a piece of {n}",
    ),
    "footsteps": (
        "footsteps on {n}",
        "someone walks on a {a} floor",
        "walking over {n}",
        "steps on a {a} surface",
        "a person in shoes walks across {n}",
        "slow steps over {a} ground",
    ),
    "typing": (
        "typing on {a} keys",
        "fingers press {a} keys",
        "a {a} keyboard clicks",
        "key clicks on a {a} keyboard",
        "somebody types on keys made of {n}",
        "the patter of {a} keys",
    ),
    "meet": (
        "two pucks collide, one of {n}",
        "{a} bodies knock together",
        "a {a} ball hits another ball",
        "a {a} puck clacks against {s}",
        "things of {n} bump into each other",
        "a {a} disc and a disc of {s} meet and part",
    ),
    "drops": (
        "water drops on {n}",
        "drops fall onto a {a} surface",
        "dripping on {n}",
        "water drips onto a {a} plate",
        "rain drops patter on {n}",
        "a tap drips on a {a} sink",
    ),
    "scrape": (
        "a {a} object scrapes over {s}",
        "dragging {n} across the floor",
        "{n} scraping to and fro",
        "a {a} block is pushed over {s}",
        "someone drags a {a} thing along",
        "the scraping of {n} on {s}",
    ),
    "roll": (
        "a {a} ball rolls on {s}",
        "{a} ball rolling",
        "a rolling {a} ball knocks at the end",
        "a ball of {n} rolls to and fro",
        "a {a} ball rolls slowly over {s}",
        "the rumble of a rolling {a} ball",
    ),
    "machine": (
        "a machine beats on {s} with a {a} head",
        "a {a} hammer driven by a motor",
        "the steady beat of a {a} press",
        "a crank drives a {a} piston",
        "a machine pounds with a head of {n}",
        "a mechanical {a} hammer falls again and again",
    ),
    "bell": (
        "a {a} bell rings",
        "a swinging {a} bell",
        "a {a} gong is struck with {s}",
        "a bell of {n} tolls",
        "ringing a {a} bell",
        "a clapper of {s} strikes a {a} bell",
    ),
}
_PLAIN = ("{n}", "{a} sound", "the sound of {n}", "{a} impacts", "it sounds like {n}")
_SILENT = (
    "something floats silently",
    "silence",
    "quiet room tone",
    "a thing glides by without a sound",
    "nothing can be heard",
    "something drifts past quietly",
)
_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


def main_material(log: EventLog) -> str | None:
    """The material of most of a log's sounds, or None for a silent log.

    What sounds outside the picture does not count: nobody who watches would name it.
    """
    seen = [e for e in log.events if not e.off_screen]
    sounding = [t.material for t in (*seen, *log.continuous)]
    return max(sorted(set(sounding)), key=sounding.count) if sounding else None


def prompt_for(log: EventLog, rng: np.random.Generator) -> str:
    """One wording for what the log tells; the material it names is that of most of its sounds."""
    return _say(log, main_material(log), rng)


def contradiction(log: EventLog, rng: np.random.Generator) -> tuple[str, str]:
    """A prompt for the same happenings in a material that is not the log's.

    Args:
        log: What happens; a silent log is contradicted by any material.
        rng: Draws the material and the wording.

    Returns:
        The other material and a prompt that names it, worded as `prompt_for` would.
    """
    others = [m for m in MATERIALS if m != main_material(log)]
    material = str(rng.choice(others))
    return material, _say(log, material, rng)


def _say(log: EventLog, material: str | None, rng: np.random.Generator) -> str:
    if material is None:
        return str(rng.choice(_SILENT))
    touched = [t.surface for t in (*log.events, *log.continuous) if t.surface in NOUNS]
    wordings = _PLAIN if rng.random() < 0.15 else _TEMPLATES.get(log.family, _PLAIN)
    # a surface that is not known is not named
    template = str(rng.choice([w for w in wordings if touched or "{s}" not in w]))
    text = template.format(
        a=rng.choice(ADJECTIVES[material]),
        n=rng.choice(NOUNS[material]),
        s=touched[0] if touched else "",
    )
    return _VOWEL.sub(r"\1n ", text)
