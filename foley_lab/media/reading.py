"""Files in: one decode per clip, only the frames that are wanted, resized at once.

Slot k of a view shows the first frame with time >= k / frame_rate, counted in fractions: adding
1/25 in floating point picks the next frame for three slots in four of a 25 Hz film. Time 0 is the
start of the first shown frame. A view of a clip that lasts d seconds has every slot with
k / frame_rate < d, which is ceil(d * frame_rate), at least one (d rounded to a sample of 48 kHz, as
all lengths are); slots after the last frame's start repeat the last frame.

A view may ask for another rule with `pick`. "shown": slot k shows the frame on screen at
k / frame_rate, the last one that has started by then, give or take a millisecond. "accumulated":
the first frame as above, but the slots' times are added up in floating point, nothing later than
the view's `until_s` is looked at, and nothing is repeated at the end; this is how the published
code of HunyuanVideo-Foley reads. With a true attribute `pillow` the view is resized as Pillow does
it.

A full-size frame lives only until its views are cut from it, so memory grows with the small views
alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.error import FFmpegError
from torch import Tensor
from torch.nn.functional import interpolate

from ..signals import SMALL_RATES, Frames, MediaError, Video, View
from .opening import (
    MAX_DAMAGED,
    MAX_SECONDS,
    Span,
    existing_file,
    opened,
    packets,
    picture_stream,
    shown,
)

MAX_FRAME_RATE = 240
"""Frames per second that a view of every frame keeps at most."""

MAX_VIEW_BYTES = 4 << 30
"""Bytes that one view may grow to."""

TRUNCATED_S = 0.5
"""Seconds that a file may end before its own declared end without being called truncated."""

CLOCK_S = Fraction(1, 1000)
"""By how much a frame may start late and still be on screen: Matroska rounds to milliseconds."""

MAX_SAMPLE_ASPECT = 16
"""Pixels more oblong than this are a damaged header, not a picture format."""

CUT_MARGIN = 4
"""A crop looks at no more than this many times the picture that it keeps."""


def num_slots(duration_s: float | Fraction, frame_rate: Fraction) -> int:
    """Slots of a view of a clip: every k with k / frame_rate < duration, at least one."""
    samples = SMALL_RATES.num_samples(duration_s)
    return max(1, math.ceil(Fraction(samples, SMALL_RATES.sample_rate) * Fraction(frame_rate)))


def probe(path: str | os.PathLike[str]) -> Video:
    """What a file holds, without views: only its first frame is decoded, the rest is counted.

    Raises:
        MediaError: If the file is no readable video.
    """
    return read_video(path, (), max_seconds=math.inf)


def read_video(
    path: str | os.PathLike[str],
    views: Sequence[View],
    start_s: float = 0.0,
    end_s: float | None = None,
    strict: bool = False,
    max_seconds: float = MAX_SECONDS,
    deadline_s: float | None = None,
) -> Video:
    """Decode a video once and keep what each view wants of it.

    Args:
        path: A film in any common container.
        views: What to keep. A view with frame_rate 0 keeps every frame, up to 240 per second.
        start_s, end_s: Section to read, in seconds of the picture; the section is then a clip of
            its own, with times and duration counted from `start_s`.
        strict: Raise for truncated and damaged files instead of warning in `Video.warnings`.
        max_seconds: Longest section that may be read.
        deadline_s: Seconds of wall time after which to give up, or None.

    Returns:
        Video with uint8 [F, H, W, 3] frames by view name.

    Raises:
        MediaError: If the file cannot be read, is too large or too long, or ends before the
            section.
        ValueError: If a view or the section makes no sense.
    """
    _check_request(views, start_s, end_s)
    path = existing_file(path)
    give_up = math.inf if deadline_s is None else time.monotonic() + deadline_s
    start = Fraction(start_s).limit_denominator(10_000_000)
    end = None if end_s is None else Fraction(end_s).limit_denominator(10_000_000)
    with opened(path) as container:
        walk = _Walk(container, path, give_up)
        _check_length(path, start, end, walk.declared, max_seconds)
        collectors = [_Collector(v, path, walk.aspect) for v in views]
        first = last = None
        stopped = False
        for frame, t in walk.frames(only_first=not views):
            first = first or frame
            if stopped := end is not None and t >= end:
                break
            last = (frame, t - start)
            if t >= start:
                _check_length(path, start, end, t, max_seconds)
            pixels = _Pixels(frame)
            for collector in collectors:
                collector.take(pixels, t - start)
        if first is None:
            raise MediaError(
                f"{shown(path)} has no frame that can be decoded, wanted at least one, "
                "copy or export it again"
            )
        length = walk.span.length
        if end is not None:
            length = end if stopped else min(length, end)
        if last is None or length <= start:
            raise MediaError(
                f"{shown(path)} lasts {float(walk.span.length):.3f} s, wanted a section from "
                f"{start_s:g} s on, choose an earlier start"
            )
        duration = length - start
        if last[1] >= duration:  # a clock that jumped
            duration = last[1] + walk.span.frame_s
        faults = walk.faults(whole=not stopped)
        if strict and faults:
            raise MediaError(
                f"{shown(path)}: {faults[0]}, wanted a whole video, copy or export it again"
            )
        if any(c.sizes > 1 for c in collectors):
            faults.append("the picture changes its size midway")
        width, height = _displayed_size(first, walk.aspect)
        return Video(
            path=path,
            duration_s=float(duration),
            width=width,
            height=height,
            frame_rate=float(walk.span.count / walk.span.length),
            views={c.view.name: c.finish(last, duration) for c in collectors},
            has_audio=bool(container.streams.audio),
            warnings=faults,
        )


def _check_request(views: Sequence[View], start_s: float, end_s: float | None) -> None:
    names = [v.name for v in views]
    if len(set(names)) < len(names):
        raise ValueError(f"views named {names}, wanted a name for each, rename one")
    for view in views:
        if view.frame_rate < 0 or min(view.height, view.width, view.every) < 1:
            raise ValueError(
                f"view {view.name!r} wants {view.width}x{view.height} at {view.frame_rate} Hz, "
                "wanted a positive size and rate (0 is every frame)"
            )
    if not (math.isfinite(start_s) and start_s >= 0) or (end_s is not None and end_s <= start_s):
        raise ValueError(f"section {start_s} to {end_s} s, wanted 0 <= start_s < end_s")


def _check_length(
    path: Path, start: Fraction, end: Fraction | None, length: Fraction | None, limit: float
) -> None:
    stop = min((s for s in (end, length) if s is not None), default=start)
    if stop - start > limit:
        raise MediaError(
            f"{shown(path)} runs {float(stop - start):.0f} s, wanted at most {limit:g} s at once, "
            "read it in sections (start_s, end_s)"
        )


class _Walk:
    """One way through a film: its frames as they are decoded, its clock and its faults.

    Attributes:
        span: Time of the packets met so far.
        declared: Seconds that the file claims to last, or None.
        aspect: Displayed width of a pixel over its height.
    """

    def __init__(self, container: Any, path: Path, give_up: float) -> None:
        self.container, self.path, self.give_up = container, path, give_up
        self.stream = picture_stream(container, path)
        self.span = Span.of(container, self.stream)
        self.declared = _declared_s(container, self.stream)
        self.aspect = _sample_aspect(self.stream)
        self.damaged, self.reached = 0, Fraction(0)

    def frames(self, only_first: bool) -> Iterator[tuple[Any, Fraction]]:
        """Shown frames and their starts in seconds of the picture.

        Args:
            only_first: Decode no more than the first one; the packets are walked to the end.
        """
        clock, origin = _Clock(self.span.by_dts), None
        for packet in packets(self.container, self.stream, *self.container.streams.audio):
            self._check_deadline()
            if packet.stream is not self.stream:
                self.reached = max(self.reached, _packet_end(packet))
                continue
            self.span.add(packet)
            if only_first and origin is not None:
                continue
            for frame in self._decoded(packet):
                moment = clock.time(frame)
                if moment is None:
                    continue
                if origin is None:
                    # Packets that no decoder can use (a broadcast cut between key frames) still
                    # take their time in a copy, so the packets' start is the picture's start.
                    start = None if self.span.by_dts else self.span.start
                    origin = moment if start is None else start
                yield frame, moment - origin

    def faults(self, whole: bool) -> list[str]:
        """What is wrong with the file; `whole` says that it was walked to its end."""
        found = []
        if whole and (missing := self._missing_s()) > TRUNCATED_S:
            found.append(
                f"the file is truncated: the last {float(missing):.2f} s of "
                f"{float(self.declared or 0):.2f} s are missing"
            )
        if self.damaged:
            found.append(f"{self.damaged} damaged packets were skipped")
        return found

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except FFmpegError as error:
            self.damaged += 1
            if self.damaged > MAX_DAMAGED:
                raise MediaError(
                    f"{shown(self.path)} has more than {MAX_DAMAGED} damaged packets, wanted a "
                    "whole video, copy or export it again"
                ) from error
            return []

    def _missing_s(self) -> Fraction:
        if self.declared is None or self.span.end is None:
            return Fraction(0)
        if self.stream.duration is not None:
            return self.declared - self.span.length
        # The declared length is the whole file's, which another stream may fill.
        start = Fraction(self.container.start_time or 0, av.time_base)
        return self.declared - (max(self.reached, self.span.end) - start)

    def _check_deadline(self) -> None:
        if time.monotonic() > self.give_up:
            raise MediaError(
                f"{shown(self.path)} was not read in time, wanted a shorter or smaller video, "
                "cut it or raise the deadline"
            )


def _declared_s(container: Any, stream: Any) -> Fraction | None:
    if stream.duration is not None:
        return stream.duration * Fraction(stream.time_base)
    if container.duration is not None:
        return Fraction(container.duration, av.time_base)
    return None


def _packet_end(packet: Any) -> Fraction:
    if packet.pts is None:
        return Fraction(0)
    return (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)


def _sample_aspect(stream: Any) -> Fraction:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or not Fraction(1, MAX_SAMPLE_ASPECT) <= aspect <= MAX_SAMPLE_ASPECT:
        return Fraction(1)
    return Fraction(aspect)


def _quarter_turns(frame: Any) -> int:
    return round(frame.rotation / 90) % 4


def _displayed_size(frame: Any, aspect: Fraction) -> tuple[int, int]:
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if _quarter_turns(frame) % 2 else (width, height)


class _Clock:
    """Display times of decoded frames, which leave the decoder in the order they are shown in.

    As ffmpeg does: presentation times are believed until they have gone back more often than
    decoding times. AVI stores no presentation times, so there the decoding times are believed from
    the start.
    """

    def __init__(self, by_dts: bool) -> None:
        self.by_dts = by_dts
        self.faults = {"pts": 0, "dts": 0}
        self.previous: dict[str, int] = {}
        self.last: Fraction | None = None

    def time(self, frame: Any) -> Fraction | None:
        """Start of a frame in seconds of the file's clock, or None if it has no time."""
        for name in ("pts", "dts"):
            ticks = getattr(frame, name)
            if ticks is not None:
                self.faults[name] += ticks <= self.previous.get(name, ticks - 1)
                self.previous[name] = ticks
        unit = Fraction(frame.time_base)
        trust_dts = self.by_dts or self.faults["pts"] > self.faults["dts"]
        if trust_dts and frame.dts is not None:
            self.last = frame.dts * unit
        elif trust_dts and self.last is not None:
            # Frames flushed from the decoder at the end carry no decoding time.
            self.last += (frame.duration or 1) * unit
        elif frame.pts is not None:
            self.last = frame.pts * unit
        else:
            return None
        return self.last


class _Pixels:
    """The RGB picture of a frame, made when first asked for and shared by the views."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame
        self.turns = _quarter_turns(frame)
        self._rgb: Tensor | None = None

    @property
    def rgb(self) -> Tensor:
        """uint8 [1, 3, H, W] as displayed, in channels-last memory: twice as fast to resize."""
        if self._rgb is None:
            pixels = torch.from_numpy(self.frame.to_ndarray(format="rgb24"))
            pixels = pixels.permute(2, 0, 1)[None]  # [1, 3, H, W]
            self._rgb = torch.rot90(pixels, self.turns, (2, 3)) if self.turns else pixels
        return self._rgb


class _Collector:
    """The frames of one view, filled slot by slot."""

    def __init__(self, view: View, path: Path, aspect: Fraction) -> None:
        self.view, self.path, self.aspect = view, path, aspect
        self.images = torch.empty((16, view.height, view.width, 3), dtype=torch.uint8)
        self.times: list[float] = []
        self.grid, self.offered = -1, 0
        self.sizes, self._size = 0, (0, 0)
        pick = view.pick if view.frame_rate else "every"
        self._fill = {
            "every": self._every,
            "first": self._first,
            "shown": self._shown,
            "accumulated": self._accumulated,
        }[pick]
        self.repeats_last = pick in ("first", "shown")
        self._on_screen: tuple[_Pixels, Fraction] | None = None
        self._next_s, self._until_s = 0.0, view.until_s

    def take(self, pixels: _Pixels, t: Fraction) -> None:
        """Offer a frame that starts at `t` seconds, below 0 when before the section."""
        size = (pixels.frame.width, pixels.frame.height)
        if t >= 0 and size != self._size:
            self.sizes, self._size = self.sizes + 1, size
        self._fill(pixels, t)

    def _every(self, pixels: _Pixels, t: Fraction) -> None:
        """Keep the frame, unless it comes too soon or `every` passes over it."""
        if t < 0:
            return
        # Nearest point of a 240 Hz grid: clocks in milliseconds keep every frame of 240 Hz.
        grid = math.floor(t * MAX_FRAME_RATE + Fraction(1, 2))
        if grid > self.grid:
            if self.offered % self.view.every == 0:
                self._put(pixels, t, 1)
            self.offered, self.grid = self.offered + 1, grid

    def _first(self, pixels: _Pixels, t: Fraction) -> None:
        """The frame fills every slot that waited for it."""
        count = math.floor(t * Fraction(self.view.frame_rate)) + 1
        self._put(pixels, t, count - len(self.times))

    def _shown(self, pixels: _Pixels, t: Fraction) -> None:
        """The frame before fills every slot that this one comes too late for."""
        if self._on_screen is not None:
            count = math.ceil((t - CLOCK_S) * Fraction(self.view.frame_rate))
            self._put(*self._on_screen, count - len(self.times))
        self._on_screen = pixels, t

    def _accumulated(self, pixels: _Pixels, t: Fraction) -> None:
        """The frame fills every slot that waited for it, by the clock of the published code."""
        count = 0
        while float(t) <= self._until_s and float(t) >= self._next_s:
            self._next_s += 1 / float(self.view.frame_rate)
            count += 1
        self._put(pixels, t, count)

    def finish(self, last: tuple[Any, Fraction], duration: Fraction) -> Frames:
        """Fill the slots after the last frame's start with the last frame."""
        count = len(self.times)
        if self.repeats_last:
            count = num_slots(duration, self.view.frame_rate)
            self._put(_Pixels(last[0]), last[1], count - len(self.times))
        images = self.images[:count]
        times = torch.tensor(self.times[:count], dtype=torch.float64)
        return Frames(images, times, self.view)

    def _put(self, pixels: _Pixels, t: Fraction, count: int) -> None:
        """Fill the next `count` slots, none if that is 0 or less."""
        if count <= 0:
            return
        start, stop = len(self.times), len(self.times) + count
        slot_bytes = self.view.height * self.view.width * 3
        if stop * slot_bytes > MAX_VIEW_BYTES:
            raise MediaError(
                f"{shown(self.path)} fills more than {MAX_VIEW_BYTES >> 30} GiB at "
                f"{self.view.width}x{self.view.height}, wanted less, read it in sections "
                "(start_s, end_s)"
            )
        if stop > len(self.images):
            room = torch.empty(
                (max(stop, 2 * len(self.images)), *self.images.shape[1:]), dtype=torch.uint8
            )
            room[:start] = self.images[:start]
            self.images = room
        aspect = 1 / self.aspect if pixels.turns % 2 else self.aspect
        self.images[start:stop] = fit(pixels.rgb, self.view, aspect)
        self.times += [float(t)] * count


def fit(rgb: Tensor, view: View, sample_aspect: Fraction = Fraction(1)) -> Tensor:
    """A picture as a view wants it.

    Args:
        rgb: uint8 [1, 3, H, W].
        sample_aspect: Displayed width of a pixel over its height.

    Returns:
        uint8 [view.height, view.width, 3].
    """
    height, width = rgb.shape[2:]
    size, top, left = (view.height, view.width), 0, 0
    if view.fit == "crop":
        scale = max(Fraction(view.height, height), view.width / (width * sample_aspect))
        # A hair-thin picture would blow up to gigabytes before its centre is cut out of it.
        high = min(height, math.ceil(CUT_MARGIN * view.height / scale))
        wide = min(width, math.ceil(CUT_MARGIN * view.width / (scale * sample_aspect)))
        top, left = (height - high) // 2, (width - wide) // 2
        rgb = rgb[..., top : top + high, left : left + wide]
        size = (
            max(view.height, int(high * scale)),
            max(view.width, int(wide * sample_aspect * scale)),
        )
        top, left = round((size[0] - view.height) / 2), round((size[1] - view.width) / 2)
    if view.pillow:
        rgb = _as_pillow(_as_pillow(rgb, size[1], -1), size[0], -2)
    elif size != tuple(rgb.shape[2:]):
        rgb = interpolate(rgb, size, mode=view.resample, antialias=True)
    rgb = rgb[..., top : top + view.height, left : left + view.width]
    return rgb[0].permute(1, 2, 0)  # [H, W, 3]


def _as_pillow(image: Tensor, size: int, axis: int) -> Tensor:
    """Antialiased bilinear resize of a uint8 image along one axis, to the last bit as in Pillow.

    Pillow weighs with 22 binary digits and rounds to uint8 after each axis. It resizes rows first,
    then columns; from version 13 on it may turn that round where a picture is higher than wide,
    which changes values by 1. The quicker kernel of torch weighs with 16 bits and differs by 1 in
    one or two of a thousand values where it makes a picture smaller.
    """
    length = image.shape[axis]
    if length == size:
        return image
    scale = length / size
    reach = max(scale, 1.0)
    middle = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first = (middle - reach + 0.5).long().clamp(min=0)
    stop = (middle + reach + 0.5).long().clamp(max=length)
    place = first + torch.arange(int((stop - first).max()))[:, None]  # [taps, size]
    weights = (1 - ((place - middle + 0.5) * (1 / reach)).abs()).clamp(min=0) * (place < stop)
    weights = (weights / weights.cumsum(0)[-1] * (1 << 22) + 0.5).int()
    lines = image.transpose(axis, -2).contiguous()  # whole lines are quick to pick
    total = torch.full((), 1 << 21, dtype=torch.int32)
    for at, weight in zip(place.clamp(max=length - 1), weights, strict=True):
        total = total + lines.index_select(-2, at) * weight[:, None]
    return (total >> 22).to(torch.uint8).transpose(axis, -2)
