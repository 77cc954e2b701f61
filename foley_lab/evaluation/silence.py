"""What sounds where nothing should: the level between events."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foley_lab.evaluation.spectral import envelope
from foley_lab.signals import EventLog

FADED_S = 0.6
"""So long after a blow its ring is no longer counted as sound of the clip."""
STEP_S = 0.01
LOWEST_DB = -120.0


def quiet_steps(log: EventLog) -> NDArray[np.bool_]:
    """Which steps of 10 ms hold neither an event nor its ring [seconds / 0.01]."""
    middles = (np.arange(round(log.seconds / STEP_S)) + 0.5) * STEP_S
    quiet = np.ones(middles.size, bool)
    spans = [(e.time_s, e.time_s) for e in log.events]
    spans += [(each.start_s, each.end_s) for each in log.continuous]
    for start, end in spans:
        quiet &= (middles < start - 0.02) | (middles > end + FADED_S)
    return quiet


def silence_level(sound: ArrayLike, log: EventLog) -> float | None:
    """Median level in dBFS of the steps in which nothing should sound; None when there are none.

    Digital silence is −120 dBFS.
    """
    rms = envelope(sound, STEP_S)
    quiet = quiet_steps(log)
    size = min(rms.size, quiet.size)
    chosen = rms[:size][quiet[:size]]
    if not chosen.size:
        return None
    return float(max(20 * np.log10(max(float(np.median(chosen)), 1e-9)), LOWEST_DB))
