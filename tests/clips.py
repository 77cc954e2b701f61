"""Small films for tests, made on the spot: every frame says which one it is.

Frame i is a flat grey of level `grey(i)`, with a white square in the top left corner of the picture
as it is encoded, so that a test can tell from pixels which frame it got and which way up it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SAMPLE_RATE = 48_000
LEVELS = 20
"""Greys in use; frame i and frame i + LEVELS look alike."""


def grey(index: int) -> int:
    """Level of frame `index`, far enough from its neighbours to survive any codec."""
    return 20 + 10 * (index % LEVELS)


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Frame `index`, uint8 [H, W, 3]."""
    pixels = np.full((height, width, 3), grey(index), np.uint8)
    pixels[: height // 4, : width // 4] = 255
    return pixels


def clicks(seconds: float, times_s: Sequence[float], channels: int = 2) -> np.ndarray:
    """Silence with single loud samples, float32 [channels, N] at 48 kHz."""
    sound = np.zeros((channels, round(seconds * SAMPLE_RATE)), np.float32)
    for time_s in times_s:
        sound[:, round(time_s * SAMPLE_RATE)] = 0.9
    return sound


def make_film(
    path: Path,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    fps: Fraction | int = 25,
    frames: int = 50,
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    sound_start: int = 0,
    rotation: int = 0,
    sample_aspect: Fraction | None = None,
    tags: dict[str, str] | None = None,
    chapters: list[Any] | None = None,
    subtitle: str | None = None,
    draw: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """Write a film.

    Args:
        ticks: Start of each frame in 1/1000 s, for films of variable rate; None is an even `fps`.
        sound: float32 [channels, N] at 48 kHz, or None.
        sound_start: Sample of the film's clock at which the sound begins.
        rotation: Degrees counter-clockwise, stored as a display matrix.
        subtitle: Name of a subtitle codec; one line from 0.2 to 0.8 s is written.
    """
    width, height = size
    unit = Fraction(1, 1000) if ticks is not None else 1 / Fraction(fps)
    with av.open(str(path), "w", container_options=container_options or {}) as output:
        output.metadata.update(tags or {})
        stream = output.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = unit
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000  # its default is too coarse to tell the greys apart
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        track = None
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            track = output.add_stream(sound_codec, rate=SAMPLE_RATE, layout=layout)
        if subtitle is not None:
            words = output.add_mux_stream(subtitle)
            words.time_base = Fraction(1, 1000)
        if chapters:
            output.set_chapters(chapters)
        if track is not None:
            output.mux(_encoded(track, sound, sound_start))
        if subtitle is not None:
            text = b"hello"
            line = av.Packet(
                len(text).to_bytes(2, "big") + text if subtitle == "mov_text" else text
            )
            line.stream, line.time_base = words, Fraction(1, 1000)
            line.pts = line.dts = 200
            line.duration = 600
            output.mux(line)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, width, height), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = unit
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def make_sound(path: Path, sound: np.ndarray, codec: str, rate: int = SAMPLE_RATE) -> Path:
    """Write a file that holds a sound alone."""
    with av.open(str(path), "w") as output:
        layout = "mono" if len(sound) == 1 else "stereo"
        track = output.add_stream(codec, rate=rate, layout=layout)
        output.mux(_encoded(track, sound, 0))
    return path


def _encoded(track: Any, sound: np.ndarray, start: int) -> list[Any]:
    layout, rate = track.layout.name, track.rate
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
    resampler = av.AudioResampler(format=track.format.name, layout=layout, rate=rate)
    coded = []
    for part in resampler.resample(frame):
        coded += track.encode(part)
    return coded + track.encode(None)


def copy_shifted(source: Path, target: Path, shift_s: float, keep: slice = slice(None)) -> Path:
    """Copy a film's streams with all times moved; into .mp4, times before 0 become an edit list.

    Args:
        keep: Which packets of the picture to copy.
    """
    options = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(source)) as film,
        av.open(str(target), "w", container_options=options) as output,
    ):
        copies = {s.index: output.add_stream_from_template(s) for s in film.streams}
        coded = [p for p in film.demux() if p.dts is not None]
        shown = [p for p in coded if p.stream.type == "video"]
        dropped = set(map(id, shown)) - set(map(id, shown[keep]))
        for packet in coded:
            if id(packet) in dropped:
                continue
            shift = round(Fraction(shift_s).limit_denominator(1000) / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = copies[packet.stream.index]
            output.mux(packet)
    return target


def payloads(path: Path) -> list[bytes]:
    """The picture's coded packets, in the order of the file."""
    with av.open(str(path)) as film:
        return [bytes(p) for p in film.demux(film.streams.video[0]) if p.size]


def shown_times(path: Path) -> list[Fraction]:
    """Start of each decoded frame in seconds from the first one's, read without the package."""
    with av.open(str(path)) as film:
        times = [f.pts * Fraction(f.time_base) for f in film.decode(film.streams.video[0])]
    return [t - times[0] for t in times]
