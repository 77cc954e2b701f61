"""A scene in memory, small enough for a page: its frames, its sound and the parts of its sound.

What `dataset` writes into files is made here without them, so that a notebook can change a scene
and show it again at once.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from foley_lab.signals import Audio, EventLog, Frames, View
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import Scene
from foley_lab.synthetic.sounds import render_sound, render_stems


def frames_of(scene: Scene, height: int = 144, fps: float = 25.0) -> Frames:
    """All frames of a scene; frame k shows it at k / fps.

    Args:
        height: Pixels, even; the width follows from the scene's aspect.

    Raises:
        ValueError: If the height is odd or less than 16.
    """
    if height < 16 or height % 2:
        raise ValueError(f"height {height}, wanted an even number of pixels from 16 on, e.g. 144")
    width = 2 * round(height * scene.aspect / 2)
    count = max(1, round(scene.log.seconds * fps))
    images = np.stack(list(Painter(scene, width, height).frames(fps, count)))
    view = View("page", Fraction(0), height, width)
    return Frames(torch.from_numpy(images), torch.arange(count, dtype=torch.float64) / fps, view)


def sound_of(log: EventLog) -> Audio:
    """The exact sound of a log, mono [1, N] at 48 kHz.

    Raises:
        ValueError: As `render_sound`.
    """
    return Audio(torch.from_numpy(render_sound(log))[None])


def stems_of(log: EventLog) -> dict[str, Audio]:
    """Each body's own sound by number and material, e.g. "0 glass", and the noise floor, "room".

    Raises:
        ValueError: As `render_stems`.
    """
    made_of = {thing.object: thing.material for thing in (*log.events, *log.continuous)}
    return {
        f"{name} {made_of[name]}" if name in made_of else str(name): Audio(
            torch.from_numpy(samples)[None]
        )
        for name, samples in render_stems(log).items()
    }
