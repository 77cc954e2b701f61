"""Which material a prompt names: the one thing in its words that may contradict the eyes.

The transformer reads the whole prompt by itself. Here is only settled who is right when a prompt
says glass and the eyes wrote wood into the track: the words are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from foley_lab.signals import Event, Interval

WORDS = {
    "wood": "wood wooden oak timber plank",
    "metal": "metal metallic steel iron brass copper tin aluminium aluminum",
    "glass": "glass glassy crystal",
    "rubber": "rubber rubbery",
    "stone": "stone rock marble concrete granite brick",
    "plastic": "plastic",
    "gravel": "gravel gravelly pebble pebbles",
    "cloth": "cloth fabric felt woollen woolen cotton",
}
"""Words for each of `signals.MATERIALS`; none stands for two."""

_MATERIAL = {word: material for material, words in WORDS.items() for word in words.split()}
_ANY = re.compile(rf"\b({'|'.join(_MATERIAL)})\b")


def named_material(prompt: str) -> str | None:
    """The material that a prompt names first, which is what sounds ("a glass ball on wood")."""
    found = _ANY.search(prompt.lower())
    return _MATERIAL[found.group()] if found else None


def recast(
    prompt: str, events: Sequence[Event], intervals: Sequence[Interval]
) -> tuple[list[Event], list[Interval]]:
    """What was seen, in the material the prompt names if nothing seen is made of it."""
    material = named_material(prompt)
    if material is None or any(x.material == material for x in (*events, *intervals)):
        return list(events), list(intervals)
    return (
        [replace(e, material=material) for e in events],
        [replace(i, material=material) for i in intervals],
    )
