"""Files out: sounds, films with sound, and films made of frames.

Everything is written beside its target under a hidden name and moved into place when it is whole,
so that a full disk, an error or Ctrl-C leaves either the old file or none. Sample 0 sounds at
picture time 0: AAC and Opus delay the sound by a known number of samples, which the containers
store and players take off again.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from av.codec.context import Flags
from av.error import FFmpegError

from ..signals import Audio, MediaError
from .opening import existing_file, one_line, opened, picture_stream, shown

SAMPLE_RATE = 48_000
"""Rate of every sound that is put into a film, in Hz; Opus knows no other of this quality."""

BIT_RATE = 192_000
"""Bits per second of AAC and Opus in stereo, at which neither is told from the original."""

SOUND_FILES = {".wav": ("WAV", "PCM_24"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS")}
"""Container and sample format by suffix."""

FILM_FILES = {
    ".mp4": ("mp4", ("aac", "libopus", "flac")),
    ".mov": ("mov", ("aac",)),
    ".mkv": ("matroska", ("flac", "libopus")),
    ".webm": ("webm", ("libopus",)),
}
"""Container and sound codecs by suffix, the first codec being the default.

AAC is missing for .mkv: some players do not take its delay off there, and the sound comes 1024
samples late."""

MAX_CHANNELS = 2

PIECE = SAMPLE_RATE // 2
"""Samples that are encoded at once, which sets how coarsely sound and picture interleave."""


def check_target(
    source: str | os.PathLike[str] | None, target: str | os.PathLike[str], force: bool = False
) -> Path:
    """Find out before hours of work whether its result can be written.

    Args:
        source: The film whose picture goes into the target, or None.
        target: The file to be written.
        force: Whether a file that stands there may be replaced.

    Returns:
        The target as a path.

    Raises:
        MediaError: If the kind of file is unknown, cannot hold the source's picture or would
            overwrite the source, or if the folder is missing or takes no new files.
    """
    target = Path(os.fsdecode(target))
    kinds = FILM_FILES | SOUND_FILES
    if target.suffix.lower() not in kinds:
        raise MediaError(
            f"{shown(target)} ends in {target.suffix or 'nothing'!r}, wanted one of "
            f"{' '.join(kinds)}, rename it"
        )
    folder = target.parent
    if not folder.is_dir():
        raise MediaError(
            f"the folder {shown(folder)} does not exist, wanted a place for "
            f"{shown(target.name)}, create it first"
        )
    if target.is_dir():
        raise MediaError(f"{shown(target)} is a folder, wanted a file, choose another name")
    if target.exists() and not force:
        raise MediaError(
            f"{shown(target)} exists already, wanted a new file, choose another name "
            "or allow overwriting"
        )
    try:
        # Asking for permission is not enough: a superuser meets read-only file systems too.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MediaError(
            f"the folder {shown(folder)} takes no new files ({error.strerror}), "
            "wanted a writable one, choose another"
        ) from error
    if source is not None:
        source = existing_file(source)
        if target.exists() and os.path.samefile(source, target):
            raise MediaError(
                f"{shown(target)} is the source itself, wanted another file, choose another name"
            )
        if target.suffix.lower() in FILM_FILES:
            _check_picture_fits(source, target)
    return target


def _check_picture_fits(source: Path, target: Path) -> None:
    with opened(source) as container:
        stream = picture_stream(container, source)
        codec = stream.codec_context.codec.canonical_name
        suffix = target.suffix.lower()
        if not holds(suffix, stream):
            able = [s for s in FILM_FILES if holds(s, stream)]
            raise MediaError(
                f"{shown(source)} has a {codec} picture, which {suffix} cannot hold, wanted one of "
                f"{' '.join(able) or 'another codec'}, "
                + ("choose that suffix" if able else "convert the picture to H.264 first")
            )


def holds(suffix: str, stream: Any) -> bool:
    """Whether films of a suffix can carry a stream as it is."""
    with tempfile.TemporaryFile() as nowhere:
        try:
            # Some muxers refuse a codec only when they write the header.
            with av.open(nowhere, "w", format=FILM_FILES[suffix][0]) as output:
                output.add_stream_from_template(stream, opaque=True)
                output.start_encoding()
        except (FFmpegError, ValueError):
            return False
    return True


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A hidden name beside `target`; at the end of the block its file takes the target's place.

    Raises:
        MediaError: If the file cannot be written or moved. On any exception it is removed.
    """
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix.lower()}")
    try:
        yield temporary
        os.replace(temporary, target)
    except (FFmpegError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise MediaError(
            f"{shown(target)}: {one_line(error)}, wanted a file that can be written, check the "
            "disk, the folder and the codec"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def checked_samples(audio: Audio) -> np.ndarray:
    """The samples [channels, N] float32 of a sound that is fit to be written.

    Raises:
        ValueError: If the shape is wrong or a sample is no number.
        MediaError: If the sound would clip.
    """
    samples = torch.as_tensor(audio.samples).detach().cpu().to(torch.float32).numpy()
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= MAX_CHANNELS or audio.sample_rate < 1:
        raise ValueError(
            f"sound of shape {list(samples.shape)} at {audio.sample_rate} Hz, wanted [channels, N] "
            "with one or two channels, reshape it"
        )
    if not np.isfinite(samples).all():
        raise ValueError("sound with samples that are no numbers, wanted [-1, 1], check its model")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 1:
        raise MediaError(
            f"the sound peaks at {peak:.3f}, wanted samples within [-1, 1], divide it by its peak"
        )
    return np.ascontiguousarray(samples)


def write_audio(path: str | os.PathLike[str], audio: Audio) -> None:
    """Write a sound alone: .wav and .flac with 24 bits, .ogg as Vorbis.

    Raises:
        MediaError: If the suffix or folder will not do, or the sound clips.
        ValueError: If the sound has the wrong shape.
    """
    target = check_target(None, path, force=True)
    suffix = target.suffix.lower()
    if suffix not in SOUND_FILES:
        raise MediaError(
            f"{shown(target)} is a film, wanted one of {' '.join(SOUND_FILES)} for a "
            "sound alone, rename it"
        )
    samples = checked_samples(audio).T
    kind, subtype = SOUND_FILES[suffix]
    with aside(target) as temporary:
        try:
            with soundfile.SoundFile(
                temporary, "w", audio.sample_rate, samples.shape[1], subtype, format=kind
            ) as file:
                # In pieces: the Vorbis encoder keeps a whole call on its stack.
                for start in range(0, len(samples), audio.sample_rate):
                    file.write(samples[start : start + audio.sample_rate])
        except soundfile.SoundFileError as error:
            raise OSError(str(error)) from error


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    audio: Audio | None = None,
    codec: str = "libx264",
    crf: int = 20,
    preset: str = "veryfast",
    pix_fmt: str = "yuv420p",
) -> None:
    """Write a film from frames; the same frames give the same bytes.

    Args:
        frames: uint8 [H, W, 3] each, RGB, all of one size.
        fps: Frames per second.
        audio: Its sound, cut or padded with silence to the picture's length.
        codec: Name of an FFmpeg encoder.
        crf, preset: Quality and speed, for encoders that know them (libx264, libx265).

    Raises:
        MediaError: If the target will not do, or the encoder refuses the frames.
        ValueError: If a frame has the wrong shape or type, or there is none.
    """
    target = check_target(None, path, force=True)
    suffix = target.suffix.lower()
    if suffix not in FILM_FILES:
        raise MediaError(
            f"{shown(target)} is a sound, wanted one of {' '.join(FILM_FILES)} for a "
            "film, rename it"
        )
    rate = Fraction(fps).limit_denominator(100_000)
    if rate <= 0:
        raise ValueError(f"{fps} frames per second, wanted more than 0")
    samples = None if audio is None else checked_samples(at_film_rate(audio))
    options = {"crf": str(crf), "preset": preset} if codec in ("libx264", "libx265") else {}
    if codec == "libx264":
        options["mbtree"] = "0"  # its macroblock tree gives other bytes from run to run
    shape, count, track = None, 0, None
    with aside(target) as temporary, open_target(temporary) as output:
        stream = output.add_stream(codec, rate=rate, options=options | {"threads": "1"})
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.flags |= Flags.bitexact
        for pixels in frames:
            if shape is None:
                shape = pixels.shape
                if pixels.ndim == 3:
                    stream.height, stream.width = shape[:2]
                if samples is not None:
                    track = SoundTrack(output, samples, FILM_FILES[suffix][1][0])
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
                raise ValueError(
                    f"frame of {pixels.dtype} {list(pixels.shape)}, wanted uint8 [H, W, 3]"
                )
            if pixels.shape != shape:
                raise ValueError(
                    f"frame {count} of {list(pixels.shape)}, wanted {list(shape)} as the first one"
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = count, 1 / rate
            output.mux(stream.encode(frame))
            count += 1
            if track is not None:
                track.push(round(count / rate * SAMPLE_RATE))
        if shape is None:
            raise ValueError("no frames, wanted at least one")
        output.mux(stream.encode(None))
        if track is not None:
            track.finish(round(count / rate * SAMPLE_RATE))


@contextmanager
def open_target(temporary: Path) -> Iterator[Any]:
    """A muxer that writes neither dates nor its version: equal input gives equal bytes."""
    suffix = temporary.suffix
    options = {"fflags": "+bitexact"}
    if suffix in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
    with av.open(
        str(temporary), "w", format=FILM_FILES[suffix][0], container_options=options
    ) as output:
        yield output


def at_film_rate(audio: Audio) -> Audio:
    """The sound at 48 kHz, with as many samples as its length says."""
    if audio.sample_rate == SAMPLE_RATE:
        return audio
    samples = checked_samples(audio)
    layout = "mono" if len(samples) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = audio.sample_rate
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE)
    parts = [f.to_ndarray() for f in (*resampler.resample(frame), *resampler.resample(None))]
    count = round(samples.shape[1] * SAMPLE_RATE / audio.sample_rate)
    # Resampling overshoots a full-scale wave by a little.
    sound = fitted(np.concatenate(parts, axis=1), count).clip(-1, 1)
    return Audio(torch.from_numpy(sound), SAMPLE_RATE)


def fitted(samples: np.ndarray, count: int) -> np.ndarray:
    """Samples [channels, N] cut or padded with silence to `count`."""
    missing = max(0, count - samples.shape[1])
    return np.pad(samples[:, :count], ((0, 0), (0, missing)))


class SoundTrack:
    """Encodes a sound into a film piece by piece, so that it lies beside its picture."""

    def __init__(
        self, output: Any, samples: np.ndarray, codec: str, bit_rate: int = BIT_RATE
    ) -> None:
        self.output, self.samples, self.written = output, samples, 0
        self.layout = "mono" if len(samples) == 1 else "stereo"
        self.stream = output.add_stream(codec, rate=SAMPLE_RATE, layout=self.layout)
        self.stream.time_base = Fraction(1, SAMPLE_RATE)
        self.stream.codec_context.flags |= Flags.bitexact
        if codec != "flac":
            self.stream.bit_rate = bit_rate if len(samples) > 1 else bit_rate // 2
        sample_format = {"flac": "s32", "libopus": "flt"}.get(codec, "fltp")
        self.stream.format = sample_format
        self.resampler = av.AudioResampler(
            format=sample_format, layout=self.layout, rate=SAMPLE_RATE
        )

    def push(self, until: int) -> None:
        """Encode up to sample `until`, in whole pieces, as far as there is sound."""
        until = min(until, self.samples.shape[1])
        while self.written + PIECE <= until:
            self._encode(PIECE)

    def finish(self, count: int) -> None:
        """Encode the rest, silence included, so that the track lasts `count` samples."""
        while self.written < count:
            self._encode(min(PIECE, count - self.written))
        self.output.mux(self.stream.encode(None))

    def _encode(self, count: int) -> None:
        piece = fitted(self.samples[:, self.written : self.written + count], count)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(piece), format="fltp", layout=self.layout
        )
        frame.sample_rate, frame.pts = SAMPLE_RATE, self.written
        frame.time_base = Fraction(1, SAMPLE_RATE)
        for part in self.resampler.resample(frame):
            self.output.mux(self.stream.encode(part))
        self.written += count
