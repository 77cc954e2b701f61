"""What one would say of a clip: prompts written from an event log, in many wordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from foley_lab.signals import EventLog

MATERIAL_WORDS = {
    "wood": ("wooden", "wood", "oak", "timber"),
    "metal": ("metal", "steel", "iron", "metallic"),
    "glass": ("glass", "crystal", "glass", "glassy"),
    "rubber": ("rubber", "rubber", "soft rubber", "rubbery"),
    "stone": ("stone", "rock", "marble", "stone"),
    "plastic": ("plastic", "plastic", "hollow plastic", "plastic"),
    "gravel": ("gravel", "pebble", "gravelly", "loose gravel"),
}
_ON = {
    "wood": "wood",
    "metal": "metal",
    "glass": "glass",
    "rubber": "rubber",
    "stone": "stone",
    "plastic": "plastic",
    "gravel": "gravel",
}
_TEMPLATES = {
    "bounce": ("a {m} ball bounces on {s}", "{m} ball bouncing", "bouncing {m} ball hits the {s} floor"),
    "tumble": ("{m} objects tumble onto {s}", "{m} blocks fall and collide", "a {m} thing drops on the floor"),
    "pendulum": ("a {m} pendulum knocks against a {s} post", "{m} bob swings and hits", "swinging {m} ball taps"),
    "strike": ("someone strikes a {m} object", "hitting {m}", "a hammer beats on {m}", "blows on a {m} block"),
    "footsteps": ("footsteps on {m}", "someone walks on a {m} floor", "walking over {m}", "steps on {m} ground"),
    "typing": ("typing on {m} keys", "fingers press {m} keys", "a {m} keyboard clicks"),
    "meet": ("two {m} pucks collide", "{m} bodies knock together", "a {m} ball hits another"),
    "drops": ("water drops on {m}", "drops fall onto a {m} surface", "dripping on {m}"),
    "scrape": ("a {m} object scrapes over {s}", "dragging {m} across the floor", "{m} scraping to and fro"),
    "roll": ("a {m} ball rolls on {s}", "{m} ball rolling", "rolling {m} ball knocks at the end"),
    "glide": ("something floats silently", "silence", "quiet room tone", "a thing glides by without a sound"),
}
_PLAIN = ("{m}", "{m} sound", "the sound of {m}", "{m} impacts", "it sounds like {m}")


def prompt_for(log: EventLog, rng: np.random.Generator) -> str:
    """One wording for what the log tells; the material it names is that of most of its sounds."""
    sounding = [e.material for e in log.events] + [c.material for c in log.continuous]
    if not sounding:
        return str(rng.choice(_TEMPLATES["glide"]))
    material = max(sorted(set(sounding)), key=sounding.count)
    surfaces = [e.surface for e in log.events if e.surface in _ON] + ["wood"]
    plain = rng.random() < 0.15
    template = str(rng.choice(_PLAIN if plain else _TEMPLATES.get(log.family, _PLAIN)))
    word = str(rng.choice(MATERIAL_WORDS[material]))
    return template.format(m=word, s=_ON[str(surfaces[0])])
