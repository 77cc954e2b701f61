"""What samplers cost and give: points of price × quality, and which of them are worth their price.

A point is dominated if another is not dearer and not worse, and better in one of the two. Those
that no other dominates are the Pareto front: for less time than theirs, less must do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from foley_lab.signals import Audio, Frames


@dataclass(frozen=True)
class Measure:
    """A way to say how good a sound is.

    Attributes:
        name: Under which points know it.
        label: What stands on the page, with its unit.
        higher_is_better: False for distances.
        logarithmic: Values over a logarithmic axis; all are above 0 then.
        digits: Behind the point, in figures.
    """

    name: str
    label: str
    higher_is_better: bool = True
    logarithmic: bool = False
    digits: int = 2


@dataclass(frozen=True, eq=False)
class Point:
    """A sampler with a number of steps, and what it costs and gives.

    Attributes:
        sampler: Its name; points of one name have one colour and one marker.
        num_steps, network_calls: Steps taken and how often the network ran.
        price_s: Time it takes.
        measures: By name; None or absent where nothing was measured.
        sound: To be heard, or None.
    """

    sampler: str
    num_steps: int
    network_calls: int
    price_s: float
    measures: Mapping[str, float | None]
    sound: Audio | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Sampler and steps, in words."""
        return f"{self.sampler}, {self.num_steps} step{'s' * (self.num_steps != 1)}"


def pareto_front(points: Sequence[Point], measure: Measure) -> list[Point]:
    """The points that no other point dominates, cheapest first; without those not measured.

    Equals do not dominate each other: all of them are on the front.
    """
    sign = 1 if measure.higher_is_better else -1
    losses = [(p.price_s, -sign * value, k) for k, p, value in measured(points, measure)]
    least_loss, paid_s, front = math.inf, math.inf, []
    for price_s, loss, k in sorted(losses):
        if loss < least_loss or (loss == least_loss and price_s == paid_s):
            least_loss, paid_s = loss, price_s
            front.append(points[k])
    return front


def measured(points: Sequence[Point], measure: Measure) -> Iterator[tuple[int, Point, float]]:
    """Number, point and value of those that have one."""
    for k, point in enumerate(points):
        value = point.measures.get(measure.name)
        if value is not None:
            yield k, point, value


def check_points(
    points: Sequence[Point],
    measures: Sequence[Measure],
    frames: Frames | None,
    default: Point | None,
    reference: Point | None,
) -> None:
    """Refuse what cannot be drawn or heard.

    Raises:
        ValueError: If there is any of it.
    """
    if not points or not measures:
        raise ValueError(
            f"{len(points)} points and {len(measures)} measures, wanted at least one of each"
        )
    names = [measure.name for measure in measures]
    if len(set(names)) < len(names):
        raise ValueError(f"measures {', '.join(names)}, wanted each name once")
    for point in points:
        if not 0 < point.price_s < math.inf:
            raise ValueError(
                f"{point.name} at {point.price_s!r} s, wanted a price above 0, measure it again"
            )
    for measure in measures:
        values = [value for _, _, value in measured(points, measure)]
        least = 0 if measure.logarithmic else -math.inf
        if not values or not all(least < value < math.inf for value in values):
            kind = "numbers above 0" if measure.logarithmic else "finite numbers"
            raise ValueError(
                f"{measure.name} is {values!r:.60}, wanted {kind}, at least one; "
                "use None where nothing was measured"
            )
    if default is not None and default not in points:
        raise ValueError(f"default {default.name} is no point, wanted one of those handed in")
    if reference is not None and reference.sound is None:
        raise ValueError(f"reference {reference.name} without a sound, wanted one with a sound")
    heard = sum(point.sound is not None for point in points)
    if reference is not None and not heard:
        raise ValueError("a reference and no point with a sound, wanted one to compare it with")
    if heard and frames is None:
        raise ValueError(f"{heard} sounds without a picture, wanted `frames` too")
