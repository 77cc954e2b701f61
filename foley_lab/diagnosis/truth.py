"""Sounds that are exactly right, to test the ear with before anything is scored.

`foley_lab.evaluation.gate` says what the onset detector has to reach; here are the clips it has to
reach it on, every family of the procedural world in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foley_lab.evaluation.gate import Gate, check_detector
from foley_lab.signals import EventLog
from foley_lab.synthetic.scenes import FAMILIES, make_scene
from foley_lab.synthetic.sounds import render_sound

FIRST_SEED = 40_000
"""Of the clips the detector is tested on; no model is trained or scored on them."""


def true_clips(count: int, seconds: float = 4.0) -> Iterator[tuple[NDArray[np.float32], EventLog]]:
    """Exact sounds [N] at 48 kHz and their logs, clean, families in turn, 1 to 2 × `seconds`."""
    families = list(FAMILIES)
    for k in range(count):
        longer = seconds * (1 + (k // len(families)) % 5 / 4)
        log = make_scene(FIRST_SEED + k, longer, families[k % len(families)]).log
        yield render_sound(log), log


@cache
def gate(count: int = 40) -> Gate:
    """What the detector reaches, heard once per process.

    Args:
        count: Clips; a few dozen tell whether the detector is broken, a hundred or more whether it
            meets the limits in every family.

    Raises:
        FoleyError: If it is not good enough to score with.
    """
    return check_detector(true_clips(count)).require()
