"""Where things stand on a drawing: values along an axis, its ticks, and labels beside markers.

Places are in the units of the drawing, x to the right and y downward, as in SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.07
"""Of an axis beyond its outermost values, as a part of what they span."""
LEAST_FACTOR = 5.0
"""A logarithmic axis spans at least this factor, so that it has two ticks."""
NUM_TICKS = 7
"""About as many on a linear axis."""
WIDE_DECADES = 3.2
"""From here on, a logarithmic axis names the powers of ten only."""

DIGIT, LINE, GAP = 7.2, 12.0, 2.0
"""Width of a digit and height of a line of labels, and how far a label keeps from others."""
SIDES = ((0, -1), (-1, 0), (1, 0), (0, 1), (-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8))
"""Where a label may stand beside its marker, most wanted first; y is turned round for labels that
are wanted below."""


@dataclass(frozen=True)
class Axis:
    """From values to places.

    Attributes:
        low, high: Values at its ends.
        start, end: Places of its ends.
        logarithmic: Whether equal factors are equally far; `low` is above 0 then.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value stands."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> dict[float, str]:
        """Round values within the axis, and how they are written."""
        if self.logarithmic:
            steps = (1,) if math.log10(self.high / self.low) > WIDE_DECADES else (1, 2, 5)
            return {value: written(value) for value in self._powers(steps)}
        rough = (self.high - self.low) / NUM_TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= 0.999 * rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return {k * step: f"{k * step + 0.0:.{digits}f}" for k in range(first, last + 1)}

    def lines(self) -> list[float]:
        """Where the grid is drawn: at the ticks, and between the powers of ten."""
        return self._powers(range(1, 10)) if self.logarithmic else list(self.ticks())

    def _powers(self, steps: Sequence[int]) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [s * 10.0**k for k in range(first, last + 1) for s in steps]
        return [value for value in values if self.low <= value <= self.high]


def fitted_axis(
    values: Sequence[float], start: float, end: float, logarithmic: bool = False
) -> Axis:
    """An axis around values, at least one, with a margin beyond the outermost."""
    low, high = min(values), max(values)
    if logarithmic:
        wider = math.sqrt(max(1.0, LEAST_FACTOR * low / high))
        low, high = low / wider, high * wider
        margin = (high / low) ** MARGIN
        return Axis(low / margin, high * margin, start, end, True)
    margin = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low - margin, high + margin, start, end)


def written(value: float) -> str:
    """A figure for the eye: three digits that count, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.3g}"


@dataclass(frozen=True)
class Spot:
    """A marker that wants a label.

    Attributes:
        x, y: Centre of the marker.
        reach: Its radius.
        text: Of the label.
        rank: Lower ones choose their place first.
        below: Rather below the marker than above it.
    """

    x: float
    y: float
    reach: float
    text: str
    rank: int = 0
    below: bool = False


Box = tuple[float, float, float, float]


def free_places(spots: Sequence[Spot], frame: Box) -> list[tuple[float, float] | None]:
    """Centres of the labels, each beside its marker, on no marker and no other label.

    Args:
        spots: In any order.
        frame: Left, top, right and bottom, which no label crosses.

    Returns:
        A place for each spot, or None where it is too crowded.
    """
    taken = [(s.x - s.reach, s.y - s.reach, s.x + s.reach, s.y + s.reach) for s in spots]
    places: list[tuple[float, float] | None] = [None] * len(spots)
    for k in sorted(range(len(spots)), key=lambda k: spots[k].rank):
        spot = spots[k]
        half_width, half_height = DIGIT * len(spot.text) / 2, LINE / 2
        for right, down in SIDES:
            x = spot.x + right * (spot.reach + half_width + GAP)
            y = spot.y + (-down if spot.below else down) * (spot.reach + half_height)
            box = (x - half_width, y - half_height, x + half_width, y + half_height)
            inside = box[0] >= frame[0] and box[1] >= frame[1]
            inside = inside and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append((box[0] - GAP, box[1], box[2] + GAP, box[3]))
                places[k] = (x, y)
                break
    return places


def _overlap(one: Box, other: Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]
