"""Which frames the official encoders are shown, and how many tokens come of them.

    film ─8 Hz, squeezed to 512 x 512→ content tokens, one a frame
         ─25 Hz, 224 x 224 from the middle→ segments of 16 frames, 8 apart ─→ 8 sync tokens each

Our own way, the default: slot k shows the frame that is on screen at k / rate, counted in
fractions, and a clip has a slot for every started 1 / rate. Its tail is filled up to a whole
segment with the last frame, because the sync tokens are spread evenly over the sound afterwards:
dropping up to 7 frames instead would stretch all others over their time and put them up to 0.4 s
late.

`compat="reference"` counts as the published code does, for comparisons with its output. There a
slot is a float64 that grows by 1 / rate, so a film of 25 Hz shows the next frame in slot 6 and from
slot 18 on for some 180 slots, and loses its last one; the clip ends at 15 s; the tail is dropped;
and the length of the sound is cut to whole latents in floating point, which loses one for 73 of the
first 1500 lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from foley_lab.signals import HUNYUAN_RATES, View

Compat = Literal["reference"] | None
"""Whose way of counting: ours, or that of the published code."""

VISUAL, SYNC = "visual", "sync"
"""Names of the views."""

VISUAL_RATE, SYNC_RATE = HUNYUAN_RATES.visual_rate, Fraction(25)
"""Frames per second that each network sees."""

SYNC_SIZE = 224
"""Pixels of a frame of the sync view."""

SEGMENT, STRIDE = 16, 8
"""Frames of a segment, and from one segment's start to the next; they overlap by half."""

SEGMENT_TOKENS = 8
"""Sync tokens of a segment: one for two frames."""

REFERENCE_SECONDS = 15.0
"""Where the published code stops to read; the frame that starts there is the last."""

REFERENCE_LONGEST_S = REFERENCE_SECONDS + 1 / float(SYNC_RATE)
"""The longest sound of the published code, which makes it in one pass."""


def frame_views(image_size: int, compat: Compat = None) -> Sequence[View]:
    """The views of the content encoder, `image_size` pixels square, and of the sync encoder."""
    visual = View(VISUAL, VISUAL_RATE, image_size, image_size, pick="shown")
    sync = View(SYNC, SYNC_RATE, SYNC_SIZE, SYNC_SIZE, "crop", "bicubic", pick="shown")
    if compat is None:
        return visual, sync
    return (
        View(
            VISUAL,
            VISUAL_RATE,
            image_size,
            image_size,
            pick="accumulated",
            until_s=REFERENCE_SECONDS,
            pillow=True,
        ),
        View(
            SYNC,
            SYNC_RATE,
            SYNC_SIZE,
            SYNC_SIZE,
            "crop",
            "bicubic",
            pick="accumulated",
            until_s=REFERENCE_SECONDS,
        ),
    )


def num_segments(frames: int, compat: Compat = None) -> int:
    """Segments of a clip of that many frames at 25 Hz, at least one.

    The published code drops the frames behind the last whole segment, and fails below 16; ours
    fills the last segment up.
    """
    beyond = max(0, frames - SEGMENT)
    return 1 + (beyond // STRIDE if compat else math.ceil(beyond / STRIDE))


def segment_frames(segments: int) -> int:
    """Frames that so many segments cover."""
    return SEGMENT + STRIDE * (segments - 1)


def num_visual(duration_s: float | Fraction) -> int:
    """Content tokens of a clip, one for every started 1/8 s."""
    return _slots(duration_s, VISUAL_RATE)


def num_sync(duration_s: float | Fraction) -> int:
    """Sync tokens of a clip."""
    return SEGMENT_TOKENS * num_segments(_slots(duration_s, SYNC_RATE))


def num_latents(frames: int, compat: Compat = None) -> int:
    """Latents of a clip of that many frames at 25 Hz: two a frame.

    The published code takes int(frames / 25 * 50) in float64, which may be one less.
    """
    if compat:
        return int(frames / 25 * HUNYUAN_RATES.latent_rate)
    return HUNYUAN_RATES.num_latents(frames / SYNC_RATE)


def _slots(duration_s: float | Fraction, rate: Fraction) -> int:
    samples = HUNYUAN_RATES.num_samples(duration_s)
    return max(1, math.ceil(Fraction(samples, HUNYUAN_RATES.sample_rate) * rate))
