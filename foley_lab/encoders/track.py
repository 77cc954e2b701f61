"""What was seen, written down as a score: the sync stream of the small model.

    events, intervals ─event_track→ sync tokens [S, TRACK_DIM], one per latent frame

The eyes decide what happens and when; the generator plays what is written. Every token holds, for
its 40 ms,

    onset      8 bins of 5 ms, a bump of 6 ms around each event: contacts have a place in a frame
    strength   of the event, and its kind (one of four)
    trace      strength · exp(−age / 0.15 s) of the last event: where in its decay the sound is
    motion     speed of scraping and of rolling
    material   of what sounds, held while it rings

An explicit onset track keeps generators in time (FoleyCrafter, arXiv:2407.01494), and because it is
a function of an event log alone, the generator learns from exact logs, whatever eyes it gets, and
a user can move, mute or recast an event and have it played again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foley_lab.signals import MATERIALS, SMALL_RATES, Event, Interval, Rates

ONSET_BINS, ONSET_SIGMA_S = 8, 0.006
TRACE_S, HOLD_S, HELD_S = 0.15, 0.3, 1.0
INSTANTS = ("impact", "step", "key", "drop")
LASTING = ("scrape", "roll")

_STRENGTH = ONSET_BINS
_KIND = _STRENGTH + 1
_TRACE = _KIND + len(INSTANTS)
_MOTION = _TRACE + 1
_MATERIAL = _MOTION + len(LASTING)
TRACK_DIM = _MATERIAL + len(MATERIALS)
"""Width of a sync token."""

KIND_PART = slice(_KIND, _TRACE)
MATERIAL_PART = slice(_MATERIAL, TRACK_DIM)
SOUND_PART = slice(_TRACE, _MATERIAL)
"""Where kind and material stand in a token (zeros there mean "not known"), and what tells that
something sounds."""


def event_track(
    events: Sequence[Event],
    intervals: Sequence[Interval],
    seconds: float,
    rates: Rates = SMALL_RATES,
) -> Tensor:
    """Sync tokens of these happenings, float32 [S, TRACK_DIM], S = `rates.num_latents(seconds)`.

    Events and intervals of an unknown kind or material are drawn without it.
    """
    count, spacing = rates.num_latents(seconds), 1 / rates.latent_rate
    track = torch.zeros(count, TRACK_DIM)
    start = torch.arange(count) * spacing
    bins = start[:, None] + spacing * torch.arange(ONSET_BINS) / ONSET_BINS
    for event in sorted(events, key=lambda e: e.time_s):
        bump = torch.exp(-0.5 * ((bins - event.time_s) / ONSET_SIGMA_S) ** 2)
        track[:, :ONSET_BINS] = torch.maximum(track[:, :ONSET_BINS], bump)
        near = bump.amax(1)
        track[:, _STRENGTH] = torch.maximum(track[:, _STRENGTH], near * event.strength)
        if event.kind in INSTANTS:
            at = _KIND + INSTANTS.index(event.kind)
            track[:, at] = torch.maximum(track[:, at], near)
        age = start + spacing - event.time_s
        rings = (age > 0) & (age < HELD_S)
        age = age.clamp(min=0)  # long before an event the exponentials below would overflow
        after = torch.exp(-age / TRACE_S) * rings
        track[:, _TRACE] = torch.where(rings, event.strength * after, track[:, _TRACE])
        held = torch.maximum(torch.exp(-age / HOLD_S) * rings, near)
        # the last event is what is heard: it takes the place of those before it
        track[:, MATERIAL_PART] *= (held < 0.05)[:, None] | ~rings[:, None]
        _hold(track, event.material, held)
    for each in intervals:
        middle = start + spacing / 2
        inside = (middle >= each.start_s) & (middle <= each.end_s)
        speed = _curve(each, middle) * inside
        if each.kind in LASTING:
            at = _MOTION + LASTING.index(each.kind)
            track[:, at] = torch.maximum(track[:, at], speed)
        _hold(track, each.material, (speed > 0.02).float())
    return track


def _hold(track: Tensor, material: str, weight: Tensor) -> None:
    if material in MATERIALS:
        at = _MATERIAL + MATERIALS.index(material)
        track[:, at] = torch.maximum(track[:, at], weight)


def _curve(each: Interval, at_s: Tensor) -> Tensor:
    """Speed of an interval at these instants, its ends held."""
    speed = torch.tensor(each.speed or (1.0, 1.0), dtype=torch.float32)
    if len(speed) == 1:
        speed = speed.repeat(2)
    place = (at_s - each.start_s) / max(each.end_s - each.start_s, 1e-6) * (len(speed) - 1)
    place = place.clamp(0, len(speed) - 1)
    left = place.long().clamp(max=len(speed) - 2)
    part = place - left
    return speed[left] * (1 - part) + speed[left + 1] * part
