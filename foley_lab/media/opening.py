"""Opens a file safely and tells the time of its picture without decoding it.

Whatever a stranger hands in is met here: only containers that hold one film or one sound are tried
(no playlists, no image files, no addresses), sizes and numbers of streams are bounded, and every
failure leaves as a `MediaError` of one line. `Span` reads the picture's clock from the packets
alone, which costs about a hundredth of decoding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from ..signals import MediaError

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,"
    "wav,w64,flac,mp3,aac,aiff,caf"
)
MAX_PIXELS = 4096 * 2304
MAX_STREAMS = 32
MAX_DAMAGED = 50
"""Packets that may fail to decode before a file is given up."""

MAX_SECONDS = 3600
"""Longest film that is taken at once; longer ones are mostly files whose clock jumps."""

FALLBACK_FRAME_S = Fraction(1, 25)
"""How long a frame lasts when the file says nothing at all about it."""


def existing_file(path: str | os.PathLike[str], wanted: str = "a video file") -> Path:
    """The path, if a regular file with something in it stands there.

    Raises:
        MediaError: If there is no such file, or it is a folder, a device or empty.
    """
    name = os.fsdecode(path)
    if "://" in name:
        raise MediaError(
            f"{shown(name)} is an address, wanted {wanted} on this machine, download it first"
        )
    path = Path(name)
    try:
        if path.is_dir():
            raise MediaError(f"{shown(path)} is a folder, wanted {wanted}, name a file inside it")
        if not path.exists():
            raise MediaError(f"{shown(path)} does not exist, wanted {wanted}, check the path")
        if not path.is_file():
            raise MediaError(
                f"{shown(path)} is no regular file, wanted {wanted}, copy it to a file first"
            )
        if path.stat().st_size == 0:
            raise MediaError(f"{shown(path)} is empty, wanted {wanted}, copy or export it again")
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{shown(path)} cannot be looked up ({error}), wanted {wanted}, check the path"
        ) from error
    return path


def shown(path: str | os.PathLike[str]) -> str:
    """A path fit for a message: one line, printable whatever bytes the name holds."""
    return printable(os.fsdecode(path))


def printable(text: str) -> str:
    """Text without line breaks and without characters that no terminal can encode."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """What an error of the library or the system says."""
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


@contextmanager
def media_errors(path: str | os.PathLike[str], wanted: str, remedy: str) -> Iterator[None]:
    """Turn whatever the library throws inside the block into a one-line `MediaError`.

    Besides its own errors PyAV lets `IndexError`, `TypeError` and `ValueError` through for files
    without streams, without times, or with impossible parameters.
    """
    try:
        yield
    except MediaError:
        raise
    except (FFmpegError, OSError, IndexError, TypeError, ValueError) as error:
        own = isinstance(error, (FFmpegError, OSError))
        reason = one_line(error) if own else "its streams make no sense"
        raise MediaError(f"{shown(path)}: {reason}, wanted {wanted}, {remedy}") from error


@contextmanager
def opened(path: Path, wanted: str = "a readable video") -> Iterator[Any]:
    """The demuxer of a file, closed at the end of the block (open demuxers keep much memory).

    Raises:
        MediaError: If the file is none of `FORMATS`, or fails while it is read inside the block.
    """
    with (
        media_errors(path, wanted, "export it again as .mp4 or .mkv"),
        av.open(
            str(path),
            mode="r",
            container_options={
                "format_whitelist": FORMATS,
                "protocol_whitelist": "file",
                "max_streams": str(4 * MAX_STREAMS),
            },
            metadata_errors="replace",
        ) as container,
    ):
        if len(container.streams) > MAX_STREAMS:
            raise MediaError(
                f"{shown(path)} has {len(container.streams)} streams, wanted at most "
                f"{MAX_STREAMS}, export the picture and its sound alone"
            )
        yield container


def picture_stream(container: Any, path: Path) -> Any:
    """The first moving picture of an open file, its decoder bounded and ready for threads.

    Raises:
        MediaError: If there is none (cover pictures of songs do not count), or it is too large.
    """
    stream = find_picture(container)
    if stream is None:
        raise MediaError(
            f"{shown(path)} has no moving picture, wanted a video, choose another file"
        )
    decoder = stream.codec_context
    if decoder is None:
        raise MediaError(
            f"{shown(path)} uses an unknown picture codec, wanted a common one, "
            "convert it to H.264 first"
        )
    if decoder.width * decoder.height > MAX_PIXELS:
        raise MediaError(
            f"{shown(path)} is {decoder.width}x{decoder.height}, wanted at most 4096x2304 "
            "pixels, scale it down first"
        )
    # Only through the codec's own options does the limit also hold for sizes that grow later.
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    decoder.thread_count = min(8, os.cpu_count() or 1)
    return stream


def find_picture(container: Any) -> Any:
    """The first video stream that is no cover picture, or None."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def packets(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams, empty flush packets included (they empty the decoder).

    A read error in the middle ends the walk as a truncated file does: what came before is good.
    """
    walk = container.demux(*streams)
    first = True
    while True:
        try:
            packet = next(walk)
        except StopIteration:
            return
        except FFmpegError:
            if first:
                raise
            return
        first = False
        yield packet


def is_flush(packet: Any) -> bool:
    """Whether a packet only tells the decoder that the stream is over."""
    return packet.size == 0 and packet.dts is None


@dataclass
class Span:
    """The picture's time as its packets tell it, in seconds of the file's own clock.

    AVI knows decoding times only, there the display times that the library guesses are wrong for
    B-frames; every other container stores display times. Packets behind an edit list ("discard")
    are decoded but never shown.

    Attributes:
        start, end: First shown frame's start and last shown frame's end; None before any packet.
        count: Shown packets.
        shown_until: Packets up to and including the last shown one, in the file's order.
        hidden: Packets before the last shown one that an edit list hides.
        first_pts: Smallest shown presentation time, in ticks of the stream.
    """

    by_dts: bool
    time_base: Fraction
    frame_s: Fraction
    start: Fraction | None = None
    end: Fraction | None = None
    count: int = 0
    shown_until: int = 0
    hidden: int = 0
    first_pts: int | None = None
    _seen: int = 0

    @classmethod
    def of(cls, container: Any, stream: Any) -> Span:
        """A span still without packets."""
        rate = stream.average_rate or stream.guessed_rate
        frame_s = 1 / Fraction(rate) if rate else FALLBACK_FRAME_S
        return cls(container.format.name == "avi", Fraction(stream.time_base), frame_s)

    @property
    def length(self) -> Fraction:
        """Seconds from the first shown frame's start to the last one's end."""
        return Fraction(0) if self.start is None or self.end is None else self.end - self.start

    def add(self, packet: Any) -> None:
        """Count a packet of the picture."""
        if is_flush(packet):
            return
        self._seen += 1
        if packet.is_discard:
            return
        ticks = packet.dts if self.by_dts or packet.pts is None else packet.pts
        if ticks is None:
            return
        begin = ticks * self.time_base
        end = begin + (packet.duration * self.time_base if packet.duration else self.frame_s)
        self.start = begin if self.start is None else min(self.start, begin)
        self.end = end if self.end is None else max(self.end, end)
        pts = ticks if packet.pts is None else packet.pts
        self.first_pts = pts if self.first_pts is None else min(self.first_pts, pts)
        self.count += 1
        self.hidden += self._seen - self.shown_until - 1
        self.shown_until = self._seen


def picture_span(path: Path) -> Span:
    """The time of a file's picture, read from its packets.

    Raises:
        MediaError: If the file has no picture, no packet of it, or lasts longer than `MAX_SECONDS`.
    """
    with opened(path) as container:
        stream = picture_stream(container, path)
        span = Span.of(container, stream)
        for packet in packets(container, stream):
            span.add(packet)
    if span.start is None:
        raise MediaError(f"{shown(path)} holds no frame, wanted at least one, record it again")
    if span.length > MAX_SECONDS:
        raise MediaError(
            f"{shown(path)} lasts {float(span.length):.0f} s by its clock, wanted at most "
            f"{MAX_SECONDS} s, cut it or repair its clock first"
        )
    return span
