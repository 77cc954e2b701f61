"""May the ear be trusted: the onset detector on sound whose events are known exactly.

No figure of a model means more than the detector behind it. On exact sound the detector has to
reach f1 ≥ .99 at 10 ms and a median error within ±.5 ms; where it does not, nothing is scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foley_lab.evaluation.onsets import VERSION, detect_onsets
from foley_lab.evaluation.sync import EventCounts, count_events
from foley_lab.signals import EventLog, FoleyError

LEAST_F1 = 0.99
MOST_BIAS_MS = 0.5
TOLERANCE_S = 0.01


@dataclass(frozen=True)
class Family:
    """What the detector reaches in one family: `f1` at 10 ms over all `events` of its `clips`."""

    clips: int
    events: int
    f1: float


@dataclass(frozen=True)
class Gate:
    """What the detector reaches on exact sound.

    Attributes:
        version: Of the detector, `onsets.VERSION`.
        clips, events: How much was heard.
        f1: At 10 ms.
        bias_ms: Median of found − true within 160 ms.
        families: The same by family, in alphabetical order.
    """

    version: int
    clips: int
    events: int
    f1: float
    bias_ms: float
    families: dict[str, Family]

    @property
    def open(self) -> bool:
        """Whether models may be scored."""
        return self.f1 >= LEAST_F1 and abs(self.bias_ms) <= MOST_BIAS_MS

    def require(self) -> Gate:
        """The gate itself, when it is open.

        Raises:
            FoleyError: If it is not.
        """
        if not self.open:
            raise FoleyError(
                f"the onset detector (version {self.version}) reaches f1 {self.f1:.4f} at 10 ms "
                f"and bias {self.bias_ms:+.2f} ms on exact sound, wanted {LEAST_F1} and "
                f"±{MOST_BIAS_MS} ms, correct it before anything is scored"
            )
        return self


def check_detector(clips: Iterable[tuple[NDArray[np.float32], EventLog]]) -> Gate:
    """Listen to exact sounds.

    Args:
        clips: Sounds [N] at 48 kHz, each with the log it was rendered from.

    Raises:
        ValueError: If the clips hold no event.
    """
    heard: dict[str, list[EventCounts]] = {}
    for sound, log in clips:
        heard.setdefault(log.family, []).append(count_log(detect_onsets(sound), log))
    count = sum(map(len, heard.values()))
    pooled = {name: sum(each, EventCounts()) for name, each in sorted(heard.items())}
    total = sum(pooled.values(), EventCounts())
    if not total.true:
        raise ValueError(f"{count} clips without any event, wanted some that sound")
    errors = [error for _, error in total.wide]
    return Gate(
        VERSION,
        count,
        total.true,
        _f1(total),
        1000 * float(np.median(errors)) if errors else float("nan"),
        {name: Family(len(heard[name]), c.true, _f1(c)) for name, c in pooled.items()},
    )


def count_log(found: NDArray[np.float64], log: EventLog) -> EventCounts:
    """Counts of onsets [K] (seconds) against everything that sounds in a log."""
    true = [e.time_s for e in log.events if 0 <= e.time_s < log.seconds]
    lasting = [(each.start_s, each.end_s) for each in log.continuous]
    return count_events(found, true, log.seconds, lasting=lasting)


def _f1(counts: EventCounts) -> float:
    return counts.scores()["f1"][f"{1000 * TOLERANCE_S:g}"]
