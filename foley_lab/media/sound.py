"""Sounds in: any common file, resampled, in time with the picture it belongs to."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError

from ..signals import Audio, MediaError
from .opening import (
    MAX_DAMAGED,
    MAX_SECONDS,
    existing_file,
    find_picture,
    is_flush,
    opened,
    packets,
    picture_span,
    shown,
)

SOUND_GAP_S = Fraction(1, 50)
"""Jumps of the sound's clock that are real; smaller ones are rounding of the container's clock."""


def read_audio(
    path: str | os.PathLike[str],
    sample_rate: int = 48_000,
    mono: bool = False,
    max_seconds: float = MAX_SECONDS,
) -> Audio:
    """The sound of a file of any common kind.

    Sample 0 is the picture's time 0 if the file has a picture, else the start of the sound. Gaps
    become silence.

    Args:
        path: A film or a sound.
        sample_rate: Rate to resample to, in Hz.
        mono: Average the channels; otherwise one or two come back (more are mixed to two).
        max_seconds: Longest sound that is read.

    Returns:
        Audio with samples [channels, N] float32.

    Raises:
        MediaError: If the file has no sound, cannot be decoded or is too long.
    """
    path = existing_file(path, "a sound or a video file")
    wanted = "a readable sound"
    with opened(path, wanted) as container:
        if not container.streams.audio:
            raise MediaError(f"{shown(path)} has no sound, wanted one, choose another file")
        if container.streams.audio[0].codec_context is None:
            raise MediaError(
                f"{shown(path)} uses an unknown sound codec, wanted a common one, convert it first"
            )
        origin = None if find_picture(container) is None else picture_span(path).start
        runs, end = _sound_runs(container, path, sample_rate)
    if not runs:
        raise MediaError(
            f"{shown(path)} has no sound that can be decoded, wanted {wanted}, export it again"
        )
    if origin is None:
        origin = runs[0].start
    placed = [(round((run.start - origin) * sample_rate), run.samples()) for run in runs]
    length = max(0, *(begin + samples.shape[1] for begin, samples in placed))
    if end is not None:
        length = min(length, max(0, round((end - origin) * sample_rate)))
    if length > max_seconds * sample_rate:
        raise MediaError(
            f"{shown(path)} sounds for {length / sample_rate:.0f} s, wanted at most "
            f"{max_seconds:g} s, cut it first"
        )
    sound = np.zeros((max(s.shape[0] for _, s in placed), length), np.float32)
    for begin, samples in placed:
        samples = samples[:, max(0, -begin) : max(0, length - begin)]
        begin = max(0, begin)
        sound[:, begin : begin + samples.shape[1]] = samples
    if mono:
        sound = sound.mean(axis=0, keepdims=True)
    return Audio(torch.from_numpy(sound), sample_rate)


class _Run:
    """Sound without a gap."""

    def __init__(self, start: Fraction, frame: Any, sample_rate: int) -> None:
        self.start = self.expected = start
        self.format = (frame.format.name, frame.layout.name, frame.sample_rate)
        layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
        self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=sample_rate)
        self.parts: list[np.ndarray] = []

    def add(self, frame: Any) -> None:
        """Take the next frame, which continues the run."""
        self.expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None  # the run keeps its own time
        self.parts += [f.to_ndarray() for f in self.resampler.resample(frame)]

    def samples(self) -> np.ndarray:
        """All of the run, [channels, N]."""
        self.parts += [f.to_ndarray() for f in self.resampler.resample(None) if f is not None]
        return np.concatenate(self.parts, axis=1)


def _sound_runs(container: Any, path: Path, sample_rate: int) -> tuple[list[_Run], Fraction | None]:
    """The runs of a file's first sound, and its end where packets tell it to the sample.

    Encoders fill up their last block with silence; only the packet's duration says from where.
    """
    stream = container.streams.audio[0]
    exact = Fraction(stream.time_base) == Fraction(1, stream.sample_rate or 1)
    end: Fraction | None = None
    runs: list[_Run] = []
    damaged = 0
    for packet in packets(container, stream):
        if exact and packet.pts is not None and packet.duration:
            end = max(end or Fraction(0), (packet.pts + packet.duration) * packet.time_base)
        try:
            frames = packet.decode()
        except FFmpegError as error:
            damaged += not is_flush(packet)
            if damaged > MAX_DAMAGED:
                raise MediaError(
                    f"{shown(path)} has more than {MAX_DAMAGED} damaged packets, wanted a whole "
                    "sound, copy or export it again"
                ) from error
            continue
        for frame in frames:
            run = runs[-1] if runs else None
            expected = run.expected if run else Fraction(0)
            start = expected if frame.pts is None else frame.pts * Fraction(frame.time_base)
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if run is None or abs(start - expected) > SOUND_GAP_S or form != run.format:
                runs.append(run := _Run(start, frame, sample_rate))
            run.add(frame)
    return runs, end
