"""What a score says: tables of figures, curves over a dose of something wrong, bars of what is
compared, faults marked over a wave, and a whole report inside the page.

Everything is handed in: nothing is measured here.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from matplotlib import colormaps

from foley_lab.signals import Audio
from foley_lab.widgets.pictures import (
    COLOURS,
    Picture,
    blank_figure,
    finished,
    mono_samples,
    outline,
)

MARKERS = "os^Dv*"
KIND_COLOURS = {"missing": "#d1495b", "false": "#9a5b00", "off": "#1b6ca8"}
MOST_LABELS = 16
MILLI = ("_ms", "_db")
"""Columns that end so are told to a tenth, all others to a hundredth."""


class Flaw(Protocol):
    """Something wrong with a sound; `str` of it says what."""

    @property
    def kind(self) -> str: ...
    @property
    def time_s(self) -> float: ...
    @property
    def late_s(self) -> float | None: ...


@dataclass(frozen=True)
class Page:
    """A page of its own, such as a report, in a frame of the notebook; it needs no network.

    Attributes:
        text: HTML.
        height: Of the frame, in pixels.
    """

    text: str = field(repr=False)
    height: int = 560

    def _repr_html_(self) -> str:
        return (
            f'<div><iframe width="100%" height="{self.height}" style="border:1px solid #ccc" '
            f'srcdoc="{html.escape(self.text)}"></iframe></div>'
        )


def table(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """Figures as text, a line for each name, a column for each measure.

    Args:
        rows: Measures by name, all of the same measures; None is a dash.

    Raises:
        ValueError: If there are no rows, or they differ in their measures.
    """
    measures = _measures(rows)
    lines = [["", *measures]]
    lines += [[name, *(_cell(row[m], m) for m in measures)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def curves(
    doses: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    label: str,
) -> Picture:
    """How measures answer to a dose of something, a panel for each name.

    Args:
        doses: Of what is wrong, ascending [K].
        panels: By the title of a panel, its lines: K values by name; None leaves a gap.
        label: Of the doses, with their unit.

    Raises:
        ValueError: If there is no panel, or a line has not K values.
    """
    if not panels:
        raise ValueError("no panels, wanted at least one, e.g. {'f1': {'10 ms': [1.0, 0.5]}}")
    for name, values in ((n, v) for lines in panels.values() for n, v in lines.items()):
        if len(values) != len(doses):
            raise ValueError(f"{len(values)} values of {name} for {len(doses)} doses")
    figure = blank_figure(2.9)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        shades = colormaps["viridis"](np.linspace(0, 0.85, len(lines)))
        for k, (name, values) in enumerate(lines.items()):
            # Hollow and smaller from line to line: lines that coincide are still seen.
            marker, size = MARKERS[k % len(MARKERS)], max(3, 8 - 1.5 * k)
            axis.plot(
                doses, np.array(values, float), color=shades[k], lw=1.4, label=name,
                marker=marker, ms=size, mfc="none",
            )  # fmt: skip
        axis.update_datalim([(doses[0], 0)])  # every panel holds the 0
        axis.autoscale_view()
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, framealpha=0.6)
    return finished(figure, f"curves over {label}: {', '.join(panels)}")


def bars(rows: Mapping[str, Mapping[str, float | None]]) -> Picture:
    """Measures of several things beside each other, a bar for each, the first row on top.

    Args:
        rows: Measures by name, all of the same measures; None has no bar.

    Raises:
        ValueError: If there are no rows, or they differ in their measures.
    """
    measures = _measures(rows)
    figure = blank_figure(0.9 + 0.32 * len(rows))
    axis = figure.subplots()
    thick, places = 0.8 / len(measures), np.arange(len(rows))
    for k, measure in enumerate(measures):
        lengths = np.array([row[measure] for row in rows.values()], float)
        colour = COLOURS[k % len(COLOURS)]
        axis.barh(places + (k - (len(measures) - 1) / 2) * thick, lengths, thick, color=colour)
        axis.plot([], [], "s", color=colour, label=measure)
    axis.set_yticks(places, list(rows))
    axis.invert_yaxis()
    axis.axvline(0, color="#444444", lw=0.8)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(measures), fontsize=8, frameon=False)
    return finished(figure, f"bars of {', '.join(measures)}: {', '.join(rows)}")


def fault_picture(audio: Audio, faults: Sequence[Flaw]) -> Picture:
    """The wave of a sound, below it what is wrong with it, each fault hung from its instant.

    What is late or early is shaded from where it should sound to where it does. No more than
    `MOST_LABELS` faults are written out.

    Raises:
        ValueError: If the sound is empty.
    """
    written = faults[:MOST_LABELS]
    figure = blank_figure(1.5 + 0.19 * max(1, len(written)))
    heights = [1.1, 0.19 * max(1, len(written))]
    wave, words = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    wave.plot(*outline(mono_samples(audio), audio.sample_rate), color="#444444", lw=0.6)
    wave.set(ylabel="wave", yticks=[], xlim=(0, audio.duration_s))
    words.set(ylim=(max(1, len(written)) - 0.5, -0.5), yticks=[], xlabel="s")
    for side in ("top", "bottom", "left", "right"):
        words.spines[side].set_visible(False)
    for row, fault in enumerate(written):
        colour, time = KIND_COLOURS.get(fault.kind, "#444444"), fault.time_s
        wave.axvline(time, color=colour, lw=1)
        words.vlines(time, -0.5, row, color=colour, lw=0.8)
        if fault.late_s is not None:
            wave.axvspan(time, time + fault.late_s, color=colour, alpha=0.25, lw=0)
        left = time < 0.55 * audio.duration_s
        words.annotate(
            str(fault), (time, row), (4 if left else -4, 0), textcoords="offset points",
            ha="left" if left else "right", va="center", fontsize=8, color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    if not faults:
        words.set_title("nothing is wrong", y=0, fontsize=8)
    counts = Counter(fault.kind for fault in faults)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
    return finished(figure, f"wave and faults: {listed}")


def _measures(rows: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    measures = list(next(iter(rows.values()), ()))
    if not measures or any(list(row) != measures for row in rows.values()):
        raise ValueError("rows of different measures or none, wanted the same measures in each")
    return measures


def _cell(value: float | None, measure: str) -> str:
    if value is None:
        return "–"
    digits = 1 if measure.endswith(MILLI) else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: nothing is −0.0
