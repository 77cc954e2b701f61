"""A second witness beside the eyes: small bodies are followed, and a sharp change of their
velocity is a contact.

    frames ─camera taken out, background taken off─→ blobs ─linked─→ tracks ─hinge─→ breaks

Between contacts a body is moved by forces, so its path is smooth; a contact changes its velocity at
once and leaves the forces as they were. In a short window the path is therefore a parabola with a
hinge,

    p(t) = p₀ + v·t + ½·a·t² + Δv·max(0, t − t*),

linear in everything but the instant t*, which is searched: two parabolas that share their
acceleration and meet at t*. As the parabolas may meet between frames, behind something or below
the picture, so may t*. The rival is a cubic with as many coefficients; the turning point of a swing
is a good cubic, a bounce is not. Constants are in pixels, frames or shares of the picture, never in
seconds, so that slow motion changes nothing but the number of frames.

The tracker knows nothing of sound, materials or people: it misses what does not move as one small
piece, and it says nothing where the camera moves more than it can take out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from foley_lab.signals import Event

Floats = NDArray[Any]
Bytes = NDArray[Any]

BLOCK, CONTEXT, SAMPLES = 24, 24, 15
"""Frames that share a background, how many more on either side it may be sampled from, and how many
samples it is the median of."""

PAN_CONTEXT, LARGEST_PAN = 8, 0.3
"""The same context under a moving camera, and the share of the picture beyond which a block is
given up."""

LEAST_CONTRAST, SPREADS = 14.0, 2.0
"""A body differs from the background by so many grey levels, and by so many times what the
background itself varies there."""

LEAST_AREA, LARGEST_SHARE, MOST_BLOBS = 3, 0.12, 12
"""Pixels of the smallest blob, share of the picture of the largest, and how many may be in a frame:
in a glittering sea nobody is followed."""

BORDER = 2
"""A blob so near the border, in pixels, may be cut off: nobody knows its centre."""

REACH = 0.22
"""Share of the picture that a body may cross from one frame to the next."""

MOST_MISSED = 2
"""Frames that a track bridges."""

WINDOW, SUPPORT = 7, 3
"""Points on either side that take part in a fit, and how many there must be."""

LONGEST_GAP, OUTSIDE = 24, 0.15
"""Frames that a body may stay out of sight, and how far beyond the border it may have turned, in
shares of the picture."""

CENTRE_PX = 0.2
"""Usual error of a blob's centre."""

LEAST_JUMP, LEAST_TURN, STEADY_FRAMES = 0.7, 0.35, 4
"""Least change of velocity in pixels a frame, as a share of the speed, and in frames of the steady
acceleration, which can do as much by itself: at the end of a swing it does."""

LEAST_GAIN = 1.5
"""How many times better than the cubic a hinge must fit."""

EVIDENCE, PRIOR = (0.72, 0.36, 1.33, -0.87), -3.57
"""Weights of the logarithms of gain, jump over its error, support and crowd, and what stands
without them: a logistic regression of "a contact within 40 ms" on 1 459 hinges of 359 procedural
clips, half of them rough."""

ALONE, BACKED, NEAR_S = 0.6, 0.4, 0.06
"""Confidence from which a break is an event by itself, and with weak heat of the eyes beside it;
how near an event of the eyes, in seconds, it is the same one."""


@dataclass(frozen=True)
class Break:
    """A sharp change of a small body's velocity.

    Attributes:
        time_s: When, between frames.
        strength: How much, in picture heights a second.
        x, y: Where, in shares of the picture; slightly outside when the contact was.
        confidence: 0 to 1.
    """

    time_s: float
    strength: float
    x: float
    y: float
    confidence: float


@dataclass
class Blobs:
    """What differs from the background, frame by frame.

    Attributes:
        frame: Index of the frame, ascending [n].
        place: Centre in pixels (x, y) of the scene, the camera's way taken out [n, 2].
        area: Pixels [n].
        contrast: Mean difference to the background in grey levels [n].
    """

    frame: NDArray[np.int64]
    place: Floats
    area: Floats
    contrast: Floats

    def like(self, a: list[int], b: list[int]) -> bool:
        """Whether two groups of blobs may be the same body."""
        return _ratio(self.area, a, b) < 2.5 and _ratio(self.contrast, a, b) < 2


@dataclass(frozen=True)
class Hinge:
    """The best hinge through points, times in frames and lengths in pixels.

    Attributes:
        at: Instant t*.
        place: Where [2].
        before, after: Velocities at t* [2].
        acceleration: Common to both sides [2].
        rms: Error of the fit along one axis.
        gain: Squared error of the cubic over that of the hinge.
        sigma: Standard error of the velocity change along one axis.
        support: Points on the poorer side.
        points: Points on both sides.
    """

    at: float
    place: Floats
    before: Floats
    after: Floats
    acceleration: Floats
    rms: float
    gain: float
    sigma: float
    support: int
    points: int

    @property
    def jump(self) -> float:
        """Length of Δv in pixels a frame."""
        return float(np.hypot(*(self.after - self.before)))

    @property
    def speed(self) -> float:
        """Of the faster side in pixels a frame."""
        return float(max(np.hypot(*self.before), np.hypot(*self.after)))


def velocity_breaks(images: Tensor, times_s: Tensor) -> list[Break]:
    """Where small bodies change their velocity at once.

    Args:
        images: uint8 [F, H, W, 3] or grey [F, H, W], without repeated frames.
        times_s: Start of each frame in seconds [F], ascending.

    Returns:
        Breaks in order of time; none of clips shorter than six frames.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if images.dim() == 3:
        images = images[..., None]
    if images.dim() != 4 or images.dtype != torch.uint8 or len(times_s) != len(images):
        raise ValueError(
            f"{images.dtype} pictures {tuple(images.shape)} with {len(times_s)} times, wanted "
            "uint8 [F, H, W, 3] or [F, H, W] and a time for each frame"
        )
    if len(images) < 2 * SUPPORT:
        return []
    frames = np.ascontiguousarray(images.permute(0, 3, 1, 2).numpy())  # [F, C, H, W]
    height, width = frames.shape[2:]
    times = times_s.double().numpy()
    spacing = float(np.median(np.diff(times)))
    clock = (times - times[0]) / spacing
    path = camera_path(frames[:, frames.shape[1] // 2])
    blobs = find_blobs(frames, path)
    tracks = link(blobs, clock, REACH * height)
    hinges = [h for t in tracks for h in _within(t, blobs, clock)] + _between(
        tracks, blobs, clock, path, (width, height)
    )
    count = np.bincount(blobs.frame, minlength=len(clock))
    found = []
    for hinge in hinges:
        near = np.abs(clock - hinge.at) <= WINDOW
        if (sure := _confidence(hinge, float(count[near].mean()), REACH * height)) > 0:
            way = [np.interp(hinge.at, clock, path[:, k]) for k in (0, 1)]
            x, y = (hinge.place - way + 0.5) / (width, height)
            time_s = float(times[0] + spacing * hinge.at)
            strength = hinge.jump / height / spacing
            found.append(Break(time_s, strength, float(x), float(y), sure))
    return _distinct(found, 3 * spacing)


def vote(
    events: Sequence[Event], breaks: Sequence[Break], heat: Callable[[float], float], weak: float
) -> list[Break]:
    """The breaks that are events the eyes did not dare to call.

    Breaks near an event change nothing: on procedural clips the eyes are as punctual there.

    Args:
        events: What the eyes saw.
        breaks: From `velocity_breaks`.
        heat: Highest probability of an event that the eyes give within `NEAR_S` of an instant.
        weak: Probability that backs a break.
    """
    return [
        b
        for b in breaks
        if all(abs(b.time_s - e.time_s) > NEAR_S for e in events)
        and (b.confidence >= ALONE or (b.confidence >= BACKED and heat(b.time_s) >= weak))
    ]


# ---------------------------------------------------------------------------------------- camera


def camera_path(luma: Bytes) -> Floats:
    """Pixels (x, y) by which each frame must be moved to lie on the first one [F, 2].

    Phase correlation of neighbouring frames (Kuglin and Hines 1975) at half the size. A shift is
    believed only if most parts of the picture that have something to hold on to agree: otherwise a
    lone body on a plain wall would move the wall.

    Args:
        luma: Grey pictures [F, H, W].
    """
    height, width = (n // 8 * 8 for n in luma.shape[1:])
    small = luma[:, :height, :width].astype(np.float32)
    small = small.reshape(len(luma), height // 2, 2, width // 2, 2).mean((2, 4))
    step = _phase_shifts(small)
    step[np.abs(step) < 0.1] = 0  # the error of the vertex, which would add up
    moving = np.flatnonzero(step.any(1))
    agreed = np.zeros(len(step), bool)
    if len(moving):
        back = _moved(small[moving + 1], -step[moving])
        agreed[moving] = _agreement(small[moving], small[moving + 1], back)
    step[~agreed] = 0
    return np.concatenate([np.zeros((1, 2)), -2.0 * step.cumsum(0)])


def _phase_shifts(luma: Floats) -> Floats:
    """How far the picture moves from each frame to the next, (x, y) [F - 1, 2]."""
    height, width = luma.shape[1:]
    taper = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    flat = (luma - luma.mean((1, 2), keepdims=True)) * taper.astype(np.float32)
    spectrum = torch.fft.rfft2(torch.from_numpy(flat))
    cross = spectrum[1:] * spectrum[:-1].conj()
    size = cross.abs()
    # Whitened only where there is more than the average: noise has a phase, too.
    surface = torch.fft.irfft2(cross / (size + size.mean((1, 2), keepdim=True) + 1e-6))
    surface = surface.numpy()
    peak = surface.reshape(len(surface), -1).argmax(1)
    row, column, n = peak // width, peak % width, np.arange(len(surface))

    def vertex(low: Floats, middle: Floats, high: Floats) -> Floats:
        return 0.5 * (low - high) / np.minimum(low - 2 * middle + high, -1e-9)

    top = surface[n, row, column]
    dx = vertex(surface[n, row, column - 1], top, surface[n, row, (column + 1) % width])
    dy = vertex(surface[n, row - 1, column], top, surface[n, (row + 1) % height, column])
    x, y = column + dx, row + dy
    return np.stack([x - width * (x > width / 2), y - height * (y > height / 2)], 1).astype(float)


def _agreement(before: Floats, after: Floats, back: Floats, cells: int = 4) -> NDArray[np.bool_]:
    """Whether most textured cells of each picture fit better when moved back [n]."""

    def mean(x: Floats) -> Floats:
        n, h, w = x.shape
        h, w = h // cells * cells, w // cells * cells
        return x[:, :h, :w].reshape(n, cells, h // cells, cells, w // cells).mean((2, 4))

    slope = np.abs(np.diff(before, axis=2, append=before[..., -1:]))
    slope += np.abs(np.diff(before, axis=1, append=before[:, -1:]))
    textured = mean(slope) > 2
    better = mean(np.abs(back - before)) < 0.7 * mean(np.abs(after - before))
    votes, voters = (better & textured).sum((1, 2)), textured.sum((1, 2))
    return (voters >= cells**2 / 2) & (votes > 0.6 * voters)


def _moved(pictures: Floats, shift: Floats) -> Floats:
    """Pictures [n, ..., H, W] moved by (x, y) [n, 2] pixels, bilinearly; edges are repeated."""
    out = np.empty(pictures.shape, np.float32)
    height, width = pictures.shape[-2:]
    for k, (x, y) in enumerate(shift):
        part_x, part_y = np.float32(x - np.floor(x)), np.float32(y - np.floor(y))
        rows, columns = np.arange(height) - int(np.floor(y)), np.arange(width) - int(np.floor(x))
        r0, r1 = rows.clip(0, height - 1), (rows - 1).clip(0, height - 1)
        c0, c1 = columns.clip(0, width - 1), (columns - 1).clip(0, width - 1)
        lines = pictures[k][..., r0, :] * (1 - part_y) + pictures[k][..., r1, :] * part_y
        out[k] = lines[..., c0] * (1 - part_x) + lines[..., c1] * part_x
    return out


# ----------------------------------------------------------------------------------------- blobs


def find_blobs(frames: Bytes, path: Floats) -> Blobs:
    """Small connected areas that differ from the median of their time.

    Args:
        frames: Pictures [F, C, H, W].
        path: From `camera_path`.
    """
    parts = [
        _block_blobs(frames, path, start, min(len(frames), start + BLOCK))
        for start in range(0, len(frames), BLOCK)
    ]
    return Blobs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _block_blobs(frames: Bytes, path: Floats, start: int, stop: int) -> tuple[Floats, ...]:
    """The blobs of frames start to stop, as the columns of `Blobs`."""
    height, width = frames.shape[2:]
    anchor = path[(start + stop) // 2]
    still = np.abs(path[start:stop] - anchor).max() < 0.3
    reach = CONTEXT if still else PAN_CONTEXT
    low, high = max(0, start - reach), min(len(frames), stop + reach)
    still = still and np.abs(path[low:high] - anchor).max() < 0.3
    samples = np.linspace(low, high - 1, min(SAMPLES, high - low)).round().astype(int)
    if still:
        past, now, margin = frames[samples], frames[start:stop], (0, 0, 0, 0)
    else:
        shift = path - anchor
        past = _moved(frames[samples], shift[samples]).round().astype(np.uint8)
        now = _moved(frames[start:stop], shift[start:stop]).round().astype(np.uint8)
        most, least = shift[low:high].max(0).clip(0), shift[low:high].min(0).clip(None, 0)
        margin = tuple(np.ceil([most[0], most[1], -least[0], -least[1]]).astype(int))
        if max(margin) > LARGEST_PAN * min(height, width):
            return _measured(np.zeros((0, height, width), np.float32), start, anchor)
    ordered = _sorted(past)
    middle, quarter = ordered[len(ordered) // 2], len(ordered) // 4
    # A body that rests here for a while widens one side of the distribution, noise widens both.
    above, below = ordered[-1 - quarter] - middle, middle - ordered[quarter]
    spread = np.minimum(above, below).max(0).astype(np.float32)  # [H, W]
    change = (np.maximum(now, middle) - np.minimum(now, middle)).max(1).astype(np.float32)
    excess = _smoothed(change) - (LEAST_CONTRAST + SPREADS * spread)
    left, top, right, bottom = margin
    excess[:, :, :left] = excess[:, :top] = 0
    excess[:, :, width - right :] = excess[:, height - bottom :] = 0
    return _measured(excess, start, anchor)


def _sorted(stack: Bytes) -> Bytes:
    """Pictures sorted along the first axis: exchanges of whole pictures beat np.sort by far."""
    stack = stack.copy()
    for turn in range(len(stack)):
        a, b = stack[turn % 2 : len(stack) - 1 : 2], stack[turn % 2 + 1 :: 2]
        lower = np.minimum(a, b)
        np.maximum(a, b, out=b)
        a[...] = lower
    return stack


def _smoothed(x: Floats) -> Floats:
    """Weighted by 1, 2, 1 along rows and columns [F, H, W]."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 16


def _measured(excess: Floats, start: int, anchor: Floats) -> tuple[Floats, ...]:
    """Columns of `Blobs` from what exceeds the threshold [n, H, W]; whatever touches the border is
    cut off and has no known centre."""
    n, height, width = excess.shape
    inside = np.zeros((n, height + 1, width), bool)  # a blank row keeps the frames apart
    inside[:, :-1] = excess > 0
    labels: Any = np.empty((n * (height + 1), width), np.int32)
    count: Any = ndimage.label(inside.reshape(-1, width), np.ones((3, 3)), output=labels)
    rows, columns = np.nonzero(labels)
    which, frame, row = labels[rows, columns] - 1, rows // (height + 1), rows % (height + 1)
    weight = excess[frame, row, columns].astype(float)

    def total(values: Floats | None = None) -> Floats:
        return np.bincount(which, values, minlength=count).astype(float)

    area, mass = total(), total(weight)
    inner = np.minimum(np.minimum(row, height - 1 - row), np.minimum(columns, width - 1 - columns))
    good = (area >= LEAST_AREA) & (area <= LARGEST_SHARE * height * width)
    good &= total((inner < BORDER).astype(float)) == 0
    of = np.zeros(count, int)
    of[which] = frame
    index = np.flatnonzero(good & (np.bincount(of[good], minlength=n)[of] <= MOST_BLOBS))
    index = index[np.argsort(of[index], kind="stable")]
    area, mass, of = area[index], mass[index], of[index]
    x, y = total(weight * columns)[index] / mass, total(weight * row)[index] / mass
    return of + start, np.stack([x, y], 1) + anchor, area, mass / area


def _ratio(values: Floats, a: list[int], b: list[int]) -> float:
    p, q = sorted(values[a])[len(a) // 2], sorted(values[b])[len(b) // 2]
    return float(max(p, q) / max(min(p, q), 1e-6))


# ---------------------------------------------------------------------------------------- tracks


def link(blobs: Blobs, clock: Floats, reach: float) -> list[list[int]]:
    """Bodies in smooth motion, as lists of rows of `blobs`.

    A track starts with three blobs in three frames that lie almost evenly on a line, goes on where
    it is expected, and ends where it is not: so every sharp break ends a track and starts another.

    Args:
        clock: Times of the frames, in frames [F].
        reach: Longest step in pixels.
    """
    by_frame = [[] for _ in range(len(clock))]
    for row, frame in enumerate(blobs.frame):
        by_frame[frame].append(row)
    done: list[list[int]] = []
    alive: list[list[int]] = []
    taken: set[int] = set()
    for frame in range(len(clock)):
        alive = _continued(alive, by_frame[frame], blobs, clock, frame, taken)
        ended = [t for t in alive if frame - blobs.frame[t[-1]] > MOST_MISSED]
        done += ended
        alive = [t for t in alive if t not in ended]
        if frame >= 2:
            free = [[r for r in by_frame[frame - k] if r not in taken] for k in (2, 1, 0)]
            alive += _started(free, blobs, clock, reach, taken)
    return done + alive


def _continued(
    tracks: list[list[int]],
    rows: list[int],
    blobs: Blobs,
    clock: Floats,
    frame: int,
    taken: set[int],
) -> list[list[int]]:
    """Tracks with the blob of this frame that fits each best, the longest track choosing first."""
    tracks = sorted(tracks, key=len, reverse=True)
    for track in tracks if rows else ():
        expected, velocity = _expected(track, blobs, clock, clock[frame])
        ahead = clock[frame] - clock[blobs.frame[track[-1]]]
        error = np.hypot(*(blobs.place[rows] - expected).T)
        allowed = (1.5 + 0.4 * np.hypot(*velocity)) * ahead
        for k in np.argsort(error):
            if error[k] > allowed:
                break
            if rows[k] not in taken and blobs.like(track[-3:], [rows[k]]):
                track.append(rows[k])
                taken.add(rows[k])
                break
    return tracks


def _expected(track: list[int], blobs: Blobs, clock: Floats, now: float) -> tuple[Floats, Floats]:
    """Where a body should be now, and its velocity: steady, or accelerated once it is known well
    enough."""
    recent = track[-5:]
    t, p = clock[blobs.frame[recent]] - now, blobs.place[recent]
    if len(recent) < 5:
        t, p = t[-3:], p[-3:]
    basis = np.stack([t**k for k in range(2 if len(recent) < 5 else 3)], 1)
    weights = np.linalg.lstsq(basis, p, rcond=None)[0]
    return weights[0], weights[1]


def _started(
    free: list[list[int]], blobs: Blobs, clock: Floats, reach: float, taken: set[int]
) -> list[list[int]]:
    """New tracks through blobs of the last three frames that nobody took."""
    if not all(free):
        return []
    a, b, c = (blobs.place[rows] for rows in free)
    t0, t1, t2 = (clock[blobs.frame[rows[0]]] for rows in free)
    part = (t1 - t0) / (t2 - t0)
    whole = c[None, None] - a[:, None, None]
    bend = b[None, :, None] - a[:, None, None] - part * whole
    length, bend = np.hypot(*np.moveaxis(whole, -1, 0)), np.hypot(*np.moveaxis(bend, -1, 0))
    fits = (bend <= 0.5 + 0.1 * length) & (length <= reach * (t2 - t0))  # [a, b, c]
    cost = np.where(fits, bend + 0.1 * length, np.inf)
    new = []
    for flat in np.argsort(cost, axis=None)[: np.count_nonzero(fits)]:
        i, j, k = np.unravel_index(flat, cost.shape)
        rows = [free[0][i], free[1][j], free[2][k]]
        if not taken.intersection(rows) and blobs.like(rows[:1], rows[1:]):
            new.append(rows)
            taken.update(rows)
    return new


# ---------------------------------------------------------------------------------------- hinges


def _within(track: list[int], blobs: Blobs, clock: Floats) -> list[Hinge]:
    """Hinges inside one track: slow bodies break without leaving it."""
    n = len(track)
    if n < 2 * SUPPORT:
        return []
    t, p = clock[blobs.frame[track]], blobs.place[track]
    v = np.diff(p, axis=0) / np.diff(t)[:, None]
    # Mean velocities of the two steps before and after each inner point.
    k = np.arange(SUPPORT - 1, n - SUPPORT + 1)
    jump = np.hypot(*((v[k] + v[np.minimum(k + 1, n - 2)]) / 2 - (v[k - 1] + v[k - 2]) / 2).T)
    found = []
    for i in np.flatnonzero(jump > 0.5):
        if jump[i] < jump[max(0, i - 2) : i + 3].max():
            continue
        at = k[i]
        window = slice(max(0, at - WINDOW), at + WINDOW + 1)
        if hinge := fit_hinge(t[window], p[window], float(t[at]) - 1.5, float(t[at]) + 1.5):
            found.append(hinge)
    return found


def _between(
    tracks: list[list[int]],
    blobs: Blobs,
    clock: Floats,
    path: Floats,
    size: tuple[int, int],
) -> list[Hinge]:
    """Hinges where one track ends and another goes on from the same place, seen or not."""
    found = []
    begins = np.array([clock[blobs.frame[b[0]]] for b in tracks])
    for a in tracks:
        end = clock[blobs.frame[a[-1]]]
        candidates = []
        for k in np.flatnonzero((begins > end) & (begins <= end + LONGEST_GAP)):
            b, gap = tracks[k], begins[k] - end
            if not blobs.like(a[-4:], b[:4]):
                continue
            reach = max(WINDOW, round(gap))  # who extrapolates far looks back as far
            rows = a[-reach:] + b[:reach]
            t, p = clock[blobs.frame[rows]], blobs.place[rows]
            hinge = fit_hinge(t, p, float(end) - 1.5, float(begins[k]) + 1.5)
            if hinge and (gap <= MOST_MISSED + 1 or _hidden(hinge, gap, path, size)):
                candidates.append(hinge)
        if candidates:
            found.append(min(candidates, key=lambda h: h.rms))
    return found


def _hidden(hinge: Hinge, gap: float, path: Floats, size: tuple[int, int]) -> bool:
    """Whether a long absence is explained: the body was beyond the border, and was watched for
    twice as long as it was away or nearly."""
    place = hinge.place - path[min(len(path) - 1, max(0, round(hinge.at)))]
    x, y = place / size
    inner = min(x, y, 1 - x, 1 - y)
    return -OUTSIDE <= inner <= 0.06 and hinge.points >= 1.5 * gap


def fit_hinge(t: Floats, p: Floats, low: float, high: float) -> Hinge | None:
    """The best hinge with t* in [low, high], or None if a side lacks points.

    Args:
        t: Times in frames [n], ascending.
        p: Places [n, 2].
    """
    low, high = max(low, t[SUPPORT - 1]), min(high, t[-SUPPORT])
    if len(t) < 2 * SUPPORT or high < low:
        return None
    tries = np.linspace(low, high, max(3, round(8 * (high - low)) + 1))
    origin = t.mean()
    s, y = t - origin, p - p.mean(0)
    basis = _basis(s, tries - origin)  # [K, n, 4]
    gram = basis.transpose(0, 2, 1) @ basis + 1e-9 * np.eye(4)
    solution = np.linalg.solve(gram, basis.transpose(0, 2, 1) @ y)  # [K, 4, 2]
    error = ((basis @ solution - y) ** 2).sum((1, 2))
    k = int(error.argmin())
    at = tries[k]
    if 0 < k < len(tries) - 1:
        e0, e1, e2 = error[k - 1 : k + 2]
        at += 0.5 * (e0 - e2) / max(e0 - 2 * e1 + e2, 1e-12) * (tries[1] - tries[0])
    one = _basis(s, np.array([at - origin]))[0]
    weights = np.linalg.solve(one.T @ one + 1e-9 * np.eye(4), np.stack([*one.T]) @ y)
    squared = float(((one @ weights - y) ** 2).sum())
    cubic = np.stack([np.ones_like(s), s, s**2, s**3], 1)
    rival = float(((cubic @ np.linalg.lstsq(cubic, y, rcond=None)[0] - y) ** 2).sum())
    free = max(1, 2 * len(t) - 9)  # 2 × 4 coefficients and t*
    noise = max(squared / free, CENTRE_PX**2)
    inverse = np.linalg.inv(one.T @ one + 1e-9 * np.eye(4))
    here = at - origin
    before = weights[1] + 2 * weights[2] * here
    return Hinge(
        at=float(at),
        place=weights[0] + weights[1] * here + weights[2] * here**2 + p.mean(0),
        before=before,
        after=before + weights[3],
        acceleration=2 * weights[2],
        rms=float(np.sqrt(squared / free)),
        gain=(rival + free * CENTRE_PX**2) / (squared + free * CENTRE_PX**2),
        sigma=float(np.sqrt(noise * inverse[3, 3])),
        support=int(min((t <= at + 0.05).sum(), (t >= at - 0.05).sum())),
        points=len(t),
    )


def _basis(t: Floats, at: Floats) -> Floats:
    """Columns 1, t, t² and the hinge at each instant [K, n, 4]."""
    smooth = np.stack([np.ones_like(t), t, t**2], 1)[None].repeat(len(at), 0)
    return np.concatenate([smooth, np.maximum(0, t[None] - at[:, None])[..., None]], 2)


def _confidence(hinge: Hinge, crowd: float, reach: float) -> float:
    """Probability that the velocity broke at a contact; 0 for what is no hinge at all.

    Args:
        crowd: Blobs a frame around the instant: among many everything finds a partner.
        reach: Longest step of a body in pixels.
    """
    jump, speed = hinge.jump, hinge.speed
    steady = float(np.hypot(*hinge.acceleration))
    if hinge.rms > 0.4 + 0.05 * speed or speed > reach or hinge.support < SUPPORT:
        return 0.0
    least = max(LEAST_JUMP, LEAST_TURN * speed, STEADY_FRAMES * steady, 4 * hinge.sigma)
    if jump < least or hinge.gain < LEAST_GAIN:
        return 0.0
    seen = (min(hinge.gain, 50), jump / hinge.sigma, min(hinge.support, WINDOW), max(crowd, 0.5))
    score = sum(w * math.log(x) for w, x in zip(EVIDENCE, seen, strict=True)) + PRIOR
    return 1 / (1 + math.exp(-score))


def _distinct(breaks: list[Break], apart_s: float) -> list[Break]:
    """Of breaks close in time the surest, in order of time."""
    kept: list[Break] = []
    for candidate in sorted(breaks, key=lambda b: -b.confidence):
        if all(abs(candidate.time_s - b.time_s) > apart_s for b in kept):
            kept.append(candidate)
    return sorted(kept, key=lambda b: b.time_s)
