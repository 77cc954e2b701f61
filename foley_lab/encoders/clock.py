"""Which frames the eyes look at, and when those frames were.

The visual network counts in frames. It is tied to a clock of about 25 Hz and to motion of a usual
speed, so the clock is set before it looks:

1. *stride*: of fast recordings every n-th frame is read, so that 20 to 36 a second remain
   (`read_stride`);
2. *repeats* go: a film shown at a higher rate than it was shot stands still and jumps, which looks
   like a row of impacts. Frames that hardly differ from the one before, measured against the usual
   change, are dropped (`moving_frames`);
3. *step*: slow motion spreads a contact over more frames than the network expects, so the step
   doubles while the picture moves less than `SLOW_PX` a step (`time_step`). Events found at a
   coarse step are refined at step 1.

Times travel with the frames, so all results are in seconds of the film.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SLOW_PX = 1.9
MAX_STEP = 8
MIN_FRAMES = 12
_CELL = 12


def read_stride(frame_rate: float) -> int:
    """Every how many frames to look at."""
    return max(1, round(frame_rate / 27))


def grey(images: Tensor) -> Tensor:
    """The green channel, most of the luminance, uint8 [F, H, W] of [F, H, W, 3], not copied."""
    return images[..., 1]


def moving_frames(luma: Tensor, times_s: Tensor, share: float = 0.08) -> Tensor:
    """Indices [n] of the frames that are no repeats; the first frame always stays.

    Args:
        luma: Pictures [F, H, W], 0 to 255.
        times_s: Start of each frame [F]; equal times are the same frame shown again.
        share: Of the usual change below which a frame repeats the one before.
    """
    if len(luma) < 2:
        return torch.arange(len(luma))
    change = torch.cat([_change(luma[k : k + 257]) for k in range(0, len(luma) - 1, 256)])
    new = times_s[1:] > times_s[:-1]
    typical = _typical(change[new]) if new.any() else 0.0
    # A repeat stands between real changes; where nothing moves for long there is nothing to repair.
    # The turning point of a swing moves little too, but never as little as a frame shown twice.
    repeat = change < share * typical
    alternating = repeat & (_near(~repeat))
    keep = new & ~alternating
    return torch.cat([torch.zeros(1, dtype=torch.long), 1 + keep.nonzero()[:, 0]])


def _change(luma: Tensor) -> Tensor:
    """Mean absolute difference of each frame to the one before [F - 1]."""
    x = luma.float()
    return (x[1:] - x[:-1]).abs().mean((1, 2))


def _typical(change: Tensor) -> float:
    """Median of the changes that count; repeats may be most of them."""
    return float(change[change >= 0.1 * change.quantile(0.95)].median())


def _near(flags: Tensor, reach: int = 3) -> Tensor:
    """Whether a flag is set within `reach` places on both sides; beyond the ends all are."""
    x = F.pad(flags.float()[None, None], (reach, reach), value=1.0)
    before = F.max_pool1d(x[..., : -reach - 1], reach, 1)[0, 0][: len(flags)]
    after = F.max_pool1d(x[..., reach + 1 :], reach, 1)[0, 0][: len(flags)]
    return (before > 0) & (after > 0)


def image_speed(luma: Tensor) -> float:
    """Speed of the fastest part of the picture in pixels a frame: 75th percentile over frames.

    Lucas-Kanade flow in cells of 12 pixels, the largest trusted cell of each frame. It measures
    small motion, which is what the step rule asks about; motion of several pixels reads as "fast
    enough".
    """
    if len(luma) < 3:
        return SLOW_PX
    speeds = [_cell_speed(luma[k : k + 257]) for k in range(0, len(luma) - 1, 256)]
    return float(torch.cat(speeds).quantile(0.75))


def _cell_speed(luma: Tensor) -> Tensor:
    """Speed of the fastest trusted cell between neighbouring frames [F - 1]."""
    luma = luma.float()
    x = F.avg_pool2d(luma[:, None], 3, 1, 1)
    middle = (x[1:] + x[:-1]) / 2
    dt = x[1:] - x[:-1]
    dx = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    dy = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    dt = dt[..., 1:-1, 1:-1]

    def cells(value: Tensor) -> Tensor:
        return F.avg_pool2d(value, _CELL, _CELL // 2)

    a, b, c = cells(dx * dx), cells(dx * dy), cells(dy * dy)
    p, q = cells(dx * dt), cells(dy * dt)
    floor = 4.0  # grey levels squared: flat cells do not vote
    det = (a + floor) * (c + floor) - b * b
    u, v = -((c + floor) * p - b * q) / det, -((a + floor) * q - b * p) / det
    moved = cells(dt * dt) > 9.0
    return torch.where(moved, torch.hypot(u, v), 0.0).flatten(1).amax(1)


def time_step(luma: Tensor) -> int:
    """1, 2, 4 or 8: frames a step, doubled while the picture moves less than `SLOW_PX` a step."""
    step, n = 1, len(luma)
    while step < MAX_STEP and n // (2 * step) >= MIN_FRAMES:
        if image_speed(luma[::step]) >= SLOW_PX:
            break
        step *= 2
    return step


def positions(at_s: Tensor, times_s: Tensor) -> Tensor:
    """Fractional frame index of each instant; before the first and after the last frame the ends
    hold."""
    if len(times_s) < 2:
        return torch.zeros_like(at_s)
    right = torch.searchsorted(times_s, at_s, right=True).clamp(1, len(times_s) - 1)
    left = right - 1
    part = (at_s - times_s[left]) / (times_s[right] - times_s[left])
    return (left + part).clamp(0, len(times_s) - 1)


def instants(position: Tensor, times_s: Tensor) -> Tensor:
    """Seconds of fractional frame indices; past the last frame the last interval goes on."""
    if len(times_s) < 2:
        return times_s[:1].expand_as(position)
    left = position.long().clamp(0, len(times_s) - 2)
    return times_s[left] + (position - left) * (times_s[left + 1] - times_s[left])
