"""Pictures of a sound: its wave, its spectrogram, what happened when, and where the time went.

Every function hands back a `Picture`: a small PNG for the eye and a sentence for whoever reads the
notebook without pictures. Frequencies run from 0 to 16 kHz, levels over the 80 dB below the loudest
moment of all sounds in the picture, so that sounds drawn together can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from foley_lab.signals import Audio, Event

STAGES = ("read", "encode", "generate", "decode", "write")
COLOURS = ("#d1495b", "#1b6ca8", "#3a7d44", "#8d5a97")
"""Of the groups of events, apart for most kinds of colour blindness."""

WIDTH_IN, DPI, NUM_COLOURS = 8.0, 80, 256
N_FFT = 1024
MAX_COLUMNS = 640
TOP_HZ = 16_000
RANGE_DB = 80.0


@dataclass(frozen=True)
class Picture:
    """A PNG that a notebook shows.

    Attributes:
        png: The file.
        words: What is to be seen on it.
    """

    png: bytes = field(repr=False)
    words: str

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return {"image/png": self.png, "text/plain": self.words}


def sound_picture(audio: Audio, marks: Mapping[str, Sequence[Event]] | None = None) -> Picture:
    """Wave and spectrogram of a sound, and between them a lane of events for each name in `marks`.

    Args:
        audio: Samples [channels, N]; the channels are averaged.
        marks: Events by name, e.g. {"true": ..., "seen": ...}. A mark is as high as its event is
            strong; a thin line carries it through wave and spectrogram.

    Raises:
        ValueError: If the sound is empty.
    """
    marks = marks or {}
    lanes = [0.3] * len(marks)
    figure = blank_figure(2.9 + 0.35 * len(marks))
    axes = figure.subplots(2 + len(marks), 1, sharex=True, height_ratios=[1, *lanes, 1.6])
    wave, spectrum = axes[0], axes[-1]
    samples = mono_samples(audio)
    wave.plot(*outline(samples, audio.sample_rate), color="#444444", lw=0.6)
    wave.set(ylabel="wave", yticks=[], xlim=(0, audio.duration_s))
    wave.tick_params(bottom=False)
    levels = _levels(samples, audio.sample_rate)
    _spectrogram(spectrum, levels, audio.duration_s, float(levels.max()))
    for lane, (name, events), colour in zip(axes[1:-1], marks.items(), COLOURS, strict=False):
        times = [e.time_s for e in events]
        lane.vlines(times, 0, [max(0.15, e.strength) for e in events], color=colour, lw=2)
        lane.set(ylim=(0, 1), yticks=[])
        lane.tick_params(bottom=False)
        lane.set_ylabel(name, rotation=0, ha="right", va="center", color=colour)
        for axis in (wave, spectrum):
            axis.vlines(
                times, 0, 1, transform=axis.get_xaxis_transform(), color=colour, lw=0.8, alpha=0.6
            )
    counts = ", ".join(f"{len(events)} {name}" for name, events in marks.items())
    return finished(figure, "wave and spectrogram" + (f", events: {counts}" if counts else ""))


def spectrograms(sounds: Mapping[str, Audio]) -> Picture:
    """Spectrograms of several sounds below each other, on one scale of levels.

    Raises:
        ValueError: If there is no sound, or one is empty.
    """
    if not sounds:
        raise ValueError("no sounds, wanted at least one, e.g. {'take 0': result.audio}")
    figure = blank_figure(0.6 + 1.1 * len(sounds))
    axes = figure.subplots(len(sounds), 1, sharex=True, squeeze=False)[:, 0]
    levels = [_levels(mono_samples(audio), audio.sample_rate) for audio in sounds.values()]
    top_db = max(float(level.max()) for level in levels)
    for axis, level, (name, audio) in zip(axes, levels, sounds.items(), strict=True):
        _spectrogram(axis, level, audio.duration_s, top_db)
        axis.set_title(name, fontsize=9, loc="left")
    for axis in axes[:-1]:
        axis.set_xlabel("")
    return finished(figure, f"spectrograms: {', '.join(sounds)}")


def waterfall(seconds: Mapping[str, float]) -> Picture:
    """The stages as bars, each where the one before it ended.

    Args:
        seconds: Of the stages by name, as `Timings.as_dict()`; other names are left out.

    Raises:
        ValueError: If no stage is among them.
    """
    stages = {name: seconds[name] for name in STAGES if name in seconds}
    if not stages:
        raise ValueError(f"timings of {list(seconds)}, wanted some of {', '.join(STAGES)}")
    lengths = np.array(list(stages.values()))
    ends = np.cumsum(lengths)
    figure = blank_figure(0.7 + 0.3 * len(stages))
    axis = figure.subplots()
    bars = axis.barh(list(stages), lengths, left=ends - lengths, color=COLOURS[1])
    axis.bar_label(bars, [f" {1000 * length:.0f} ms" for length in lengths])
    axis.set(xlabel="s", xlim=(0, 1.15 * max(ends[-1], 1e-9)))
    axis.invert_yaxis()
    return finished(figure, f"bars: {', '.join(stages)}")


def _spectrogram(axis: Axes, level: NDArray[np.float32], seconds: float, top_db: float) -> None:
    axis.imshow(
        level, origin="lower", aspect="auto", cmap="magma", vmin=top_db - RANGE_DB, vmax=top_db,
        extent=(0, seconds, 0, TOP_HZ / 1000), interpolation="nearest",
    )  # fmt: skip
    axis.set(ylabel="kHz", xlabel="s")


def _levels(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Levels in dB [bins up to TOP_HZ, columns], a column at most every 5 ms."""
    hop = max(sample_rate // 200, -(-samples.size // MAX_COLUMNS))
    padded = np.pad(samples, (N_FFT // 2, N_FFT // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT), axis=1)) ** 2
    heard = power[:, : round(TOP_HZ * N_FFT / sample_rate) + 1]
    return (10 * np.log10(heard + 1e-10)).astype(np.float32).T


def outline(
    samples: NDArray[np.float32], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Times and levels of a line that touches the lowest and highest sample of every column."""
    columns = np.array_split(samples, min(2 * MAX_COLUMNS, samples.size))
    edges = np.cumsum([0, *(column.size for column in columns[:-1])]) / sample_rate
    ends = np.array([(column.min(), column.max()) for column in columns], np.float32)
    return np.repeat(edges, 2), ends.ravel()


def mono_samples(audio: Audio) -> NDArray[np.float32]:
    """The channels averaged [N].

    Raises:
        ValueError: If the sound is empty.
    """
    samples = np.asarray(audio.samples, np.float32)
    if samples.ndim != 2 or not samples.size:
        raise ValueError(f"sound of shape {list(samples.shape)}, wanted [channels, N] with N > 0")
    return samples.mean(axis=0)


def blank_figure(height_in: float) -> Figure:
    """A figure as wide as the page, `height_in` inches high."""
    # No pyplot: a figure of its own is drawn once and leaves nothing open.
    return Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")


def finished(figure: Figure, words: str) -> Picture:
    """The figure as a small PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    drawn.seek(0)
    # A palette makes a third of the file; a spectrogram shows no difference.
    small, file = Image.open(drawn).convert("RGB").quantize(NUM_COLOURS), io.BytesIO()
    small.save(file, format="PNG", optimize=True)
    return Picture(file.getvalue(), words)
