"""What is wrong with a sound, event by event: "event 17, glass on wood, 34 ms late, 6 dB soft"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foley_lab.evaluation.response import onset_energies
from foley_lab.evaluation.sync import IGNORED_S, WIDE_TOLERANCE_S, match_events
from foley_lab.signals import MATERIALS, Event, EventLog, sort_events

LATE_S = 0.02
SOFT_DB = 6.0
LEVELS_DB = {
    "impact": (-12.5, -12.0, -12.3, -9.6, -20.4, -16.7, -18.6, -17.5),
    "step": (-12.5, -12.2, -12.5, -9.4, -15.8, -14.6, -15.3, -15.0),
    "key": (-22.2, -25.3, -24.5, -19.6, -27.1, -24.9, -27.4, -25.6),
    "drop": (-18.6, -20.8, -20.2, -16.1, -24.0, -21.4, -24.1, -22.5),
}
"""What a blow of full strength leaves in its first 40 ms, by kind and `MATERIALS`: a thud of rubber
is 11 dB stronger than the tick of a stone. Means over 200 clips of the world with five single blows
each, strength .15 to .95, size .04 to .5; a body differs from its mean by 1 to 2 dB."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: "missing", "false" or "off" (heard, but late, early, soft, loud or misnamed).
        time_s: When it should have sounded, or when it did without a cause.
        event: Number of the event in order of time, from 0, or None.
        what: "glass on wood", or None.
        late_s: Found − true, or None.
        louder_db: Than its kind, material and strength ask for beside the other blows of the clip,
            or None.
        heard_as: The material it was taken for where that is wrong, or None.
    """

    kind: str
    time_s: float
    event: int | None = None
    what: str | None = None
    late_s: float | None = None
    louder_db: float | None = None
    heard_as: str | None = None

    def __str__(self) -> str:
        if self.kind == "false":
            return f"a sound at {self.time_s:.3f} s without an event"
        words = [f"event {self.event} at {self.time_s:.3f} s", self.what or "unknown"]
        if self.kind == "missing":
            words.append("not heard")
        if self.late_s is not None and abs(self.late_s) >= LATE_S:
            words.append(
                f"{abs(self.late_s) * 1000:.0f} ms {'late' if self.late_s > 0 else 'early'}"
            )
        if self.louder_db is not None and abs(self.louder_db) >= SOFT_DB:
            side = "loud" if self.louder_db > 0 else "soft"
            words.append(f"{abs(self.louder_db):.0f} dB {side}")
        if self.heard_as:
            words.append(f"sounds like {self.heard_as}")
        return ", ".join(words)

    @property
    def weight(self) -> float:
        """How bad it is: 1 for what is missing or false, less for what is merely off."""
        if self.kind != "off":
            return 1.0
        late, louder = abs(self.late_s or 0.0), abs(self.louder_db or 0.0)
        return min(1.0, late / WIDE_TOLERANCE_S + louder / 40 + (0.4 if self.heard_as else 0.0))


def errors(
    found: ArrayLike,
    log: EventLog,
    sound: ArrayLike | None = None,
    heard: Sequence[str] | None = None,
) -> list[Fault]:
    """The faults of one clip in order of time.

    Args:
        found: Onsets in seconds, ascending.
        log: What should sound; off-screen events are neither wanted nor false.
        sound: Mono [N] at 48 kHz; without it loudness is not judged.
        heard: Material of each onset in `found`, as the judge names it; without it materials are
            not judged.
    """
    times = np.asarray(found, float)
    events = [e for e in sort_events(log.events) if 0 <= e.time_s < log.seconds]
    wanted = [e for e in events if not e.off_screen]
    pairs = match_events(times, [e.time_s for e in wanted], WIDE_TOLERANCE_S)
    levels = _levels(sound, [float(times[i]) for i, _ in pairs], [wanted[j] for _, j in pairs])
    faults = []
    for (i, j), level in zip(pairs, levels, strict=True):
        event, late = wanted[j], float(times[i] - wanted[j].time_s)
        wrong = heard[i] if heard is not None and heard[i] != event.material else None
        if abs(late) >= LATE_S or (level is not None and abs(level) >= SOFT_DB) or wrong:
            faults.append(Fault("off", event.time_s, j, _what(event), late, level, wrong))
    matched = {j for _, j in pairs}
    for j, event in enumerate(wanted):
        if j not in matched:
            faults.append(Fault("missing", event.time_s, j, _what(event)))
    spared = [(each.start_s - 0.03, each.end_s + 0.1) for each in log.continuous]
    spared += [(e.time_s - IGNORED_S, e.time_s + IGNORED_S) for e in events if e.off_screen]
    free = sorted(set(range(times.size)) - {i for i, _ in pairs})
    for time in times[free].tolist():
        if not any(start <= time <= end for start, end in spared):
            faults.append(Fault("false", time))
    return sorted(faults, key=lambda fault: fault.time_s)


def _what(event: Event) -> str:
    return f"{event.material} on {event.surface}" if event.surface else event.material


def _levels(sound: ArrayLike | None, times: list[float], events: list[Event]) -> list[float | None]:
    """How much louder each blow is than the log asks for beside the others, in dB."""
    if sound is None or len(times) < 4:
        return [None] * len(times)
    # The level of a blow as the world sets it; the median of what is left is the clip's own gain.
    asked = [20 * np.log10(0.07 + 0.93 * e.strength**1.4) + _own_level(e) for e in events]
    left = onset_energies(sound, times) - asked
    return (left - np.median(left)).tolist()


def _own_level(event: Event) -> float:
    """Of a blow of full strength, in dB; what the world does not know is taken for wood."""
    levels = LEVELS_DB.get(event.kind, LEVELS_DB["impact"])
    return levels[MATERIALS.index(event.material)] if event.material in MATERIALS else levels[0]
