"""A film gets a new sound; its picture is copied packet by packet, untouched.

The copy starts at the first shown frame: its time becomes 0, sample 0 of the sound is placed there,
and the sound is cut or padded to the last shown frame's end. Rotation and pixel aspect travel with
the stream, frames hidden by an edit list stay hidden (their packets keep times before 0), tags,
chapters and subtitles are carried over where the container can.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..signals import Audio, MediaError
from .opening import (
    Span,
    is_flush,
    opened,
    packets,
    picture_span,
    picture_stream,
    shown,
)
from .sound import read_audio
from .writing import (
    BIT_RATE,
    FILM_FILES,
    SAMPLE_RATE,
    SoundTrack,
    aside,
    at_film_rate,
    check_target,
    checked_samples,
    fitted,
    holds,
    open_target,
)

OWN_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
"""Tags that describe the old file itself, not what it shows."""


def mux(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    audio: Audio,
    keep_audio_db: float | None = None,
    force: bool = False,
    codec: str | None = None,
    bit_rate: int = BIT_RATE,
) -> list[str]:
    """Write `source` with the sound `audio` to `target`.

    Args:
        source: The film that gives the picture.
        target: .mp4, .mov, .mkv or .webm.
        audio: The new sound; sample 0 sounds with the first shown frame.
        keep_audio_db: Level at which the film's own sound is mixed under, in dB; None replaces it.
            If the mixture exceeds full scale, all of it is turned down.
        force: Whether an existing target may be replaced.
        codec: "aac", "libopus" or "flac"; None is the container's usual one.
        bit_rate: Bits per second of AAC and Opus in stereo; mono takes half.

    Returns:
        What could not be carried over, one line each.

    Raises:
        MediaError: If the source or target will not do (see `check_target`).
        ValueError: If the sound has the wrong shape or the codec does not fit the container.
    """
    target = check_target(source, target, force)
    source = Path(os.fsdecode(source))
    suffix = target.suffix.lower()
    if suffix not in FILM_FILES:
        raise MediaError(
            f"{shown(target)} is a sound, wanted one of {' '.join(FILM_FILES)} for a "
            "film, rename it"
        )
    codecs = FILM_FILES[suffix][1]
    codec = codec or codecs[0]
    if codec not in codecs:
        raise ValueError(f"sound codec {codec!r} in {suffix}, wanted one of {' '.join(codecs)}")
    samples = checked_samples(at_film_rate(audio))
    span = picture_span(source)
    if span.hidden and suffix in (".mkv", ".webm"):
        raise MediaError(
            f"{shown(source)} hides {span.hidden} frames behind an edit list, which {suffix} would "
            "show, wanted .mp4 or .mov, choose that suffix"
        )
    count = round(span.length * SAMPLE_RATE)
    if keep_audio_db is None:
        samples = samples[:, :count]
    else:
        samples = _mixed_under(fitted(samples, count), source, keep_audio_db)
    with opened(source) as film, aside(target) as temporary, open_target(temporary) as output:
        return _copy(film, output, source, suffix, span, samples, count, codec, bit_rate)


def _mixed_under(samples: np.ndarray, source: Path, level_db: float) -> np.ndarray:
    with opened(source) as film:
        if not film.streams.audio:
            return samples
    own = fitted(read_audio(source, SAMPLE_RATE).samples.numpy(), samples.shape[1])
    mixture = samples + own * np.float32(10 ** (level_db / 20))  # mono spreads to both channels
    return mixture / max(1.0, float(np.abs(mixture).max(initial=0.0)))


def _copy(
    film: Any,
    output: Any,
    source: Path,
    suffix: str,
    span: Span,
    samples: np.ndarray,
    count: int,
    codec: str,
    bit_rate: int,
) -> list[str]:
    assert span.start is not None, "`picture_span` refuses a film without frames"
    picture = picture_stream(film, source)
    streams, lost = _streams_to_keep(film, picture, suffix)
    output.metadata.update({k: v for k, v in film.metadata.items() if k not in OWN_TAGS})
    copies = {}
    for stream in streams:
        copy = output.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(
            {k: v for k, v in stream.metadata.items() if k.lower() not in OWN_TAGS}
        )
        copy.disposition = stream.disposition
        copies[stream.index] = copy
    track = SoundTrack(output, samples, codec, bit_rate)
    output.set_chapters(_moved_chapters(film, span.start))
    times = _CopyTimes(span)
    copied = 0
    for packet in packets(film, *streams):
        if is_flush(packet):
            continue
        if packet.stream is picture:
            copied += 1
            if copied > span.shown_until:
                continue  # hidden at the end: no shown frame depends on what is decoded after it
            times.move(packet)
            track.push(max(0, round(packet.dts * packet.time_base * SAMPLE_RATE)) + SAMPLE_RATE)
        else:
            shift = round(span.start / packet.time_base)
            packet.pts = (packet.dts if packet.pts is None else packet.pts) - shift
            packet.dts = packet.pts
        packet.stream = copies[packet.stream.index]
        output.mux(packet)
    track.finish(count)
    return lost


def _streams_to_keep(film: Any, picture: Any, suffix: str) -> tuple[list[Any], list[str]]:
    streams, lost = [picture], []
    for stream in film.streams:
        if stream is picture or stream.type == "audio":
            continue
        if stream.type == "subtitle" and stream.codec_context is not None and holds(suffix, stream):
            streams.append(stream)
        elif stream.type != "data" or not film.chapters():  # chapters of .mp4 lie in a data stream
            lost.append(f"stream {stream.index} ({stream.type}) cannot be kept in {suffix}")
    return streams, lost


def _moved_chapters(film: Any, start: Fraction) -> list[Any]:
    chapters = []
    for chapter in film.chapters():
        shift = round(start / chapter["time_base"])
        chapters.append(
            {
                **chapter,
                "start": max(0, chapter["start"] - shift),
                "end": max(1, chapter["end"] - shift),
            }
        )
    return chapters


class _CopyTimes:
    """Times of the copied picture packets: the first shown frame at 0, decoding times rising.

    AVI leaves display times out and some files repeat decoding times; muxers refuse both.
    """

    def __init__(self, span: Span) -> None:
        self.shift = span.first_pts or 0
        self.frame_s = span.frame_s
        self.last: int | None = None

    def move(self, packet: Any) -> None:
        """Give a packet the times it has in the copy."""
        if packet.dts is not None:
            dts = packet.dts - self.shift
        elif packet.pts is not None and self.last is None:
            dts = packet.pts - self.shift
        else:
            dts = 0 if self.last is None else self.last + 1
        if self.last is not None:
            dts = max(dts, self.last + 1)
        pts = dts if packet.pts is None else packet.pts - self.shift
        packet.dts, packet.pts, self.last = dts, max(pts, dts), dts
        if not packet.duration:
            packet.duration = max(1, round(self.frame_s / packet.time_base))
