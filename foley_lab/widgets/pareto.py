"""What a better sound costs: samplers as points, price × quality, to be heard where they stand.

The Pareto front is drawn as a staircase: what can be had for a price is what the best point up to
it gives. A click on a filled point plays its film at the moment where the last one was, and two
buttons beside it turn to the reference and back.

Price is on a logarithmic axis. There is a plot for each measure, and buttons choose among them.
Everything is in the page: no kernel, no network and no stored widget state are needed.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from foley_lab.signals import Frames
from foley_lab.widgets.axes import Spot, fitted_axis, free_places, written
from foley_lab.widgets.film import small_film
from foley_lab.widgets.points import Measure, Point, check_points, measured, pareto_front
from foley_lab.widgets.turns import KEEP, LOOK, TURN, UNTRUSTED, film_tag, script

WIDTH, HEIGHT = 640, 410
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 50
"""Of the plot and around its axes, in units of the drawing: pixels at a width of 640."""
REACH, RING = 6.5, 11.5
"""Radii of a marker and of the ring around the default."""

COLOURS = ("#d1495b", "#2b7bba", "#3d8f4b", "#9a67a5", "#c07a12", "#128f8f", "#b8569b", "#7f8084")
"""Of the samplers: at least 3 : 1 against white and against a dark page."""


def _corners(count: int, radius: float, turn: float, inner: float | None = None) -> str:
    """Path of a polygon around 0, first corner at `turn` degrees; `inner` makes it a star."""
    radii = [radius] if inner is None else [radius, inner]
    total = count * len(radii)
    angles = [math.radians(turn + 360 * k / total) for k in range(total)]
    spots = [
        f"{radii[k % len(radii)] * math.cos(a):.1f} {radii[k % len(radii)] * math.sin(a):.1f}"
        for k, a in enumerate(angles)
    ]
    return f"M{'L'.join(spots)}Z"


MARKERS = (
    "M-5.2 0A5.2 5.2 0 1 1 5.2 0A5.2 5.2 0 1 1 -5.2 0Z",
    _corners(4, 6.6, 45),
    _corners(3, 7.2, -90),
    _corners(4, 6.8, 0),
    _corners(3, 7.2, 90),
    _corners(5, 7.6, -90, 3.4),
    _corners(4, 7.4, 45, 2.6),
    _corners(6, 6.0, 0),
)

NEAREST = """
const nearest = event => {
  const under = event.target.closest('.point');
  if (!under || !event.isTrusted) return under;
  const far = point => {
    const box = point.querySelector('.touch').getBoundingClientRect();
    const right = box.x + box.width / 2 - event.clientX;
    return Math.hypot(right, box.y + box.height / 2 - event.clientY);
  };
  const points = [...under.parentNode.querySelectorAll('.point')];
  return points.reduce((best, point) => far(point) < far(best) ? point : best);
};
"""
"""JavaScript: the point whose centre is nearest to the pointer, which another may lie over."""

TELL = (
    NEAREST
    + """
const point = nearest(event);
if (point) {
  for (const one of this.querySelectorAll('.point'))
    one.classList.toggle('told', one.dataset.row === point.dataset.row);
  for (const row of this.querySelectorAll('tbody tr'))
    row.hidden = row.dataset.row !== point.dataset.row;
}
"""
)
"""Under the pointer or the focus: show the row of the point."""

FOCUS = """
if (this.matches(':focus-visible'))
  this.dispatchEvent(new MouseEvent('mousemove', {bubbles: true}));
"""
"""A point that is reached by keyboard tells what it would tell the pointer."""

CHOOSE = (
    TURN
    + NEAREST
    + """
const part = event.target.closest('button') || nearest(event);
const all = selector => [...this.querySelectorAll(selector)];
const press = (parts, on) =>
  parts.forEach(one => one.setAttribute('aria-pressed', String(on(one))));
if (part && part.dataset.measure) {
  press(all('[data-measure]'), one => one === part);
  all('svg.plot').forEach(plot =>
    plot.toggleAttribute('hidden', plot.dataset.plot !== part.dataset.measure));
} else if (part && part.dataset.film) {
  const films = all('video'), playing = films.some(film => !film.paused), sides = all('.side');
  const heard = part.matches('.heard');
  if (heard) {
    sides[0].dataset.film = part.dataset.film;
    sides[0].textContent = part.dataset.name;
    press(all('.heard'), one => one.dataset.row === part.dataset.row);
  }
  press(sides, one => one === (heard ? sides[0] : part));
  turn(films, films.find(film => film.dataset.film === part.dataset.film), playing || heard);
}
"""
)
"""On a click: another measure, another point, or the other side of the comparison."""

PRESS = (
    KEEP
    + """
if ((event.key === 'Enter' || event.key === ' ') && event.target.matches('.heard')) {
  event.preventDefault();
  event.target.dispatchEvent(new MouseEvent('click', {bubbles: true}));
}
"""
)
"""Points are pressed by keyboard as buttons are."""

STYLE = """
.foley-pareto{display:flex;flex-wrap:wrap;gap:14px 24px;align-items:flex-start;max-width:1240px}
.foley-pareto .chart{flex:1 1 520px;min-width:0;max-width:720px}
.foley-pareto .ear{flex:1 1 280px;min-width:0;max-width:480px}
.foley-pareto .ear>*{margin:0 0 8px}
.foley-pareto svg.plot{display:block;width:100%;height:auto;margin:6px 0 2px;overflow:visible}
.foley-pareto text{font-size:12.5px;fill:var(--ink);font-variant-numeric:tabular-nums}
.foley-pareto .tick{fill:var(--faint)}
.foley-pareto .grid{stroke:var(--ink);opacity:.13}
.foley-pareto .axis{stroke:var(--faint)}
.foley-pareto .front{fill:none;stroke:var(--ink);stroke-width:1.6;opacity:.75}
.foley-pareto .way{fill:none;stroke-width:1.2;opacity:.35}
.foley-pareto .ring{fill:none;stroke:var(--ink);stroke-width:1.8}
.foley-pareto .count{paint-order:stroke;stroke:var(--paper);stroke-width:3.5px;
stroke-linejoin:round;font-size:12px;pointer-events:none}
.foley-pareto .mark{stroke-width:1.8;fill:var(--paper)}
.foley-pareto .touch{fill:transparent}
.foley-pareto .heard{cursor:pointer}
.foley-pareto .point .mark{transition:transform .1s}
.foley-pareto .told .mark,.foley-pareto .heard[aria-pressed=true] .mark{transform:scale(1.35)}
.foley-pareto .heard[aria-pressed=true] .mark{stroke:var(--ink)}
.foley-pareto .point:focus-visible{outline:none}
.foley-pareto .point:focus-visible .touch{stroke:var(--jp-brand-color1,#1976d2);stroke-width:2}
.foley-pareto .legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:2px 0 10px}
.foley-pareto .legend span,.foley-pareto .name{display:inline-flex;gap:5px;align-items:center;
white-space:nowrap;vertical-align:middle}
.foley-pareto svg.key{width:18px;height:18px;flex:none;overflow:visible}
.foley-pareto table{width:100%;margin:0;border-collapse:collapse;table-layout:fixed;
font-size:inherit;font-variant-numeric:tabular-nums;border:0;color:inherit}
.foley-pareto tbody tr:nth-child(n),.foley-pareto tbody tr:nth-child(n):hover{background:none}
.foley-pareto th,.foley-pareto td{padding:3px 6px;text-align:right;vertical-align:middle;border:0;
border-bottom:1px solid var(--line);overflow-wrap:anywhere}
.foley-pareto th{font-weight:normal;vertical-align:bottom;color:var(--faint)}
.foley-pareto th:first-child,.foley-pareto td:first-child{text-align:left;padding-left:0}
.foley-pareto th:first-child{width:23%}
.foley-pareto th:nth-child(n+2):nth-child(-n+4){width:10%}
"""


class Pareto:
    """Points over price and quality, and the films of those that have a sound.

    Args:
        points: At least one. The order of their samplers is that of colours and markers.
        measures: At least one; the first is shown.
        frames: The picture of all films, with even sides; needed where there is a sound.
        default: Of the points, the one that is ringed, and heard first if it has a sound.
        reference: What the button beside a film turns to; has a sound, need not be a point.
        price: Label of the price in words; the unit is milliseconds.

    Raises:
        ValueError: If nothing can be drawn of these points, or a sound cannot be shown.
    """

    def __init__(
        self,
        points: Sequence[Point],
        measures: Sequence[Measure],
        frames: Frames | None = None,
        default: Point | None = None,
        reference: Point | None = None,
        price: str = "time for the clip",
    ) -> None:
        check_points(points, measures, frames, default, reference)
        self.points, self.measures = tuple(points), tuple(measures)
        self.default, self.reference, self.price = default, reference, price
        samplers = dict.fromkeys(point.sampler for point in points)
        self.looks = {name: _look(k) for k, name in enumerate(samplers)}
        heard = [point for point in (*points, reference) if point and point.sound]
        self.heard = list(dict.fromkeys(heard))
        self.films, self.size = [], (0, 0)
        if frames is not None:
            self.size = (frames.images.shape[1], frames.images.shape[2])
            self.films = [small_film(frames, p.sound) for p in self.heard if p.sound]

    def __repr__(self) -> str:
        measures = ", ".join(measure.name for measure in self.measures)
        return f"Pareto({len(self.points)} points, {len(self.films)} films, {measures})"

    def _repr_html_(self) -> str:
        buttons = "".join(
            f'<button type="button" data-measure="{html.escape(measure.name)}" '
            f'aria-pressed="{_truth(not k)}">{html.escape(measure.label)}</button>'
            for k, measure in enumerate(self.measures)
        )
        choice = f'<div class="row">{buttons}</div>' if len(self.measures) > 1 else ""
        plots = "".join(self._plot(measure, not k) for k, measure in enumerate(self.measures))
        return (
            f'<div class="foley foley-pareto" '
            f'onmousemove="{script(TELL)}" onclick="{script(CHOOSE)}" '
            f'onkeydown="{script(PRESS)}"><style>{LOOK}{STYLE}</style>{UNTRUSTED}'
            f'<div class="chart">{choice}{plots}{self._legend()}{self._table()}</div>'
            f"{self._ear()}</div>"
        )

    def _first(self) -> Point:
        """Whose row and film are shown before anything is touched."""
        if self.default is not None and (self.default.sound or not self.heard):
            return self.default
        return next((p for p in self.points if p.sound), self.points[0])

    def _plot(self, measure: Measure, shown: bool) -> str:
        """The drawing of one measure."""
        known = list(measured(self.points, measure))
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        prices = fitted_axis([1000 * p.price_s for _, p, _ in known], LEFT, right, True)
        values = fitted_axis([v for *_, v in known], bottom, TOP, measure.logarithmic)
        spots = {k: (prices.place(1000 * p.price_s), values.place(v)) for k, p, v in known}
        front = pareto_front(self.points, measure)
        rows = {id(point): k for k, point in enumerate(self.points)}
        stairs = "".join(
            f"{'H' if n else 'M'}{spots[k][0]:.1f}{'V' if n else ' '}{spots[k][1]:.1f}"
            for n, k in enumerate(rows[id(point)] for point in front)
        )
        parts = [
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
            f'data-plot="{html.escape(measure.name)}" '
            f'aria-label="{html.escape(f"{measure.label} over {self.price}")}"'
            f"{'' if shown else ' hidden'}>",
            *(_line(prices.place(v), TOP, prices.place(v), bottom) for v in prices.lines()),
            *(_line(LEFT, values.place(v), right, values.place(v)) for v in values.lines()),
            _line(LEFT, bottom, right, bottom, "axis"),
            *(_text(prices.place(v), bottom + 18, t) for v, t in prices.ticks().items()),
            *(_text(LEFT - 8, values.place(v) + 4, t, "end") for v, t in values.ticks().items()),
            _text(LEFT, 16, _better(measure), "start", "title"),
            _text(right, HEIGHT - 10, f"{self.price}, ms", "end", "title"),
            *self._ways(spots),
            f'<path class="front" d="{stairs}H{right}"/>',
            *(self._point(k, *spots[k]) for k in sorted(spots, key=self._height)),
            *self._counts(spots, {rows[id(p)] for p in front}, not measure.higher_is_better),
            "</svg>",
        ]
        return "".join(parts)

    def _ways(self, spots: Mapping[int, tuple[float, float]]) -> list[str]:
        """Faint lines through the points of each sampler, by price."""
        ways = []
        for sampler, (colour, _) in self.looks.items():
            way = sorted(spot for k, spot in spots.items() if self.points[k].sampler == sampler)
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in way)
            ways.append(f'<path class="way" stroke="{colour}" d="M{path}"/>' if path else "")
        return ways

    def _point(self, row: int, x: float, y: float) -> str:
        """A marker; filled, and a button, where there is something to hear."""
        point = self.points[row]
        colour, marker = self.looks[point.sampler]
        ring = f'<circle class="ring" r="{RING}"/>' if point is self.default else ""
        known = [f"{m.label} {_figure(point, m)}" for m in self.measures]
        words = ", ".join([point.name, f"{written(1000 * point.price_s)} ms", *known])
        if point.sound:
            pressed = _truth(point is self._first())
            role = f'role="button" aria-pressed="{pressed}" data-film="{self.heard.index(point)}"'
            kind, paint = "point heard", f'style="fill:{colour};stroke:var(--paper)"'
        else:
            kind, role, paint = "point", 'role="img"', f'style="stroke:{colour}"'
        told = " told" if point is self._first() else ""
        return (
            f'<g class="{kind}{told}" transform="translate({x:.1f} {y:.1f})" tabindex="0" {role} '
            f'data-row="{row}" data-name="{html.escape(point.name)}" onfocus="{script(FOCUS)}" '
            f'aria-label="{html.escape(words)}">{ring}<circle class="touch" r="{RING}"/>'
            f'<path class="mark" d="{marker}" {paint}/></g>'
        )

    def _height(self, row: int) -> int:
        """What lies over what: points that can be heard over others, the default over all."""
        point = self.points[row]
        return 2 if point is self.default else 1 if point.sound else 0

    def _counts(
        self, spots: Mapping[int, tuple[float, float]], front: set[int], below: bool
    ) -> list[str]:
        """Numbers of steps beside their points, as far as there is room: the front comes first.

        Args:
            below: The good side is below the points: there the front leaves room.
        """
        wanted = []
        for k, (x, y) in spots.items():
            ringed = self.points[k] is self.default
            rank = 0 if ringed else 1 if k in front else 2
            wanted.append(
                Spot(x, y, RING if ringed else REACH, str(self.points[k].num_steps), rank, below)
            )
        frame = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
        places = free_places(wanted, frame)
        return [
            _text(place[0], place[1] + 4.2, spot.text, "middle", "count")
            for spot, place in zip(wanted, places, strict=True)
            if place is not None
        ]

    def _legend(self) -> str:
        """Whose marker is whose, and what the signs mean."""
        signs = [(name, self._key(name, filled=True)) for name in self.looks]
        signs.append(("front", _key('<path class="front" d="M-9 4H0V-4H9"/>')))
        if self.default is not None:
            signs.append(("default", _key('<circle class="ring" r="8"/>')))
        if any(point.sound is None for point in self.points) and self.heard:
            hollow = f'<path class="mark" stroke="currentColor" d="{MARKERS[0]}"/>'
            signs.append(("hollow: no sound", _key(hollow)))
        signs.append(("number: steps", _key('<text text-anchor="middle" y="4.5">8</text>')))
        items = "".join(f"<span>{key}{html.escape(name)}</span>" for name, key in signs)
        return f'<div class="legend">{items}</div>'

    def _key(self, sampler: str, filled: bool) -> str:
        colour, marker = self.looks[sampler]
        fill = f"fill:{colour};" if filled else ""
        return _key(f'<path class="mark" style="{fill}stroke:{colour}" d="{marker}"/>')

    def _table(self) -> str:
        """The figures of the points, one row at a time."""
        names = ["sampler", "steps", "calls", "ms", *(m.label for m in self.measures)]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        rows, first = [], self._first()
        for k, point in enumerate(self.points):
            key = self._key(point.sampler, filled=point.sound is not None)
            figures = [
                str(point.num_steps),
                str(point.network_calls),
                written(1000 * point.price_s),
            ]
            figures += [_figure(point, measure) for measure in self.measures]
            cells = "".join(f"<td>{figure}</td>" for figure in figures)
            hidden = "" if point is first else " hidden"
            rows.append(
                f'<tr data-row="{k}"{hidden}><td><span class="name">{key}'
                f"{html.escape(point.sampler)}</span></td>{cells}</tr>"
            )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _ear(self) -> str:
        """The films, and what is heard against what."""
        if not self.heard:
            return ""
        first = self._first()
        sides = [(first, first.name)]
        if self.reference is not None:
            sides.append((self.reference, f"reference: {self.reference.name}"))
        buttons = "".join(
            f'<button type="button" class="side" data-film="{self.heard.index(point)}" '
            f'aria-pressed="{_truth(not k)}">{html.escape(words)}</button>'
            for k, (point, words) in enumerate(sides)
        )
        films = "".join(
            film_tag(film, point.name, key, self.size, point is first)
            for key, (film, point) in enumerate(zip(self.films, self.heard, strict=True))
        )
        told = '<p class="faint">Press a filled point to hear it at this moment of the film.</p>'
        return f'<div class="ear"><div class="row">{buttons}</div>{films}{told}</div>'


def _better(measure: Measure) -> str:
    return f"{measure.label}, {'higher' if measure.higher_is_better else 'lower'} is better"


def _figure(point: Point, measure: Measure) -> str:
    value = point.measures.get(measure.name)
    return "–" if value is None else f"{value:.{measure.digits}f}"


def _look(k: int) -> tuple[str, str]:
    """Colour and marker of the k-th sampler; after a round of colours the markers move on."""
    rounds = k // len(COLOURS)
    return COLOURS[k % len(COLOURS)], MARKERS[(k + rounds) % len(MARKERS)]


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _key(drawn: str) -> str:
    return f'<svg class="key" viewBox="-9 -9 18 18" aria-hidden="true">{drawn}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(words)}</text>"
    )
