"""Live controls: choose steps, sampler and guidance, make the sound, hear it against a reference.

The controls need a kernel, the result does not: it is an output of its own, plain HTML, which the
controls replace when a sound is made. A notebook stored without widget state therefore still shows
the last result, and before any is made the one that was handed in.

A sound is made in the thread of the kernel that the button calls: cells wait for it, the button to
stop the kernel stops it, and a press in the meantime is passed over.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, cast

import ipywidgets
from IPython.display import HTML, display

from foley_lab.signals import Audio, FoleyError, Frames
from foley_lab.widgets.compare import Compare
from foley_lab.widgets.turns import LOOK

MOST_STEPS = 64
MOST_RESULTS = 5
"""Rows of the history."""
CELL = 'style="padding:2px 12px 2px 0;text-align:left;border:0;background:none"'
ALIGNED: dict[str, Any] = {"style": {"description_width": "110px"}, "layout": {"width": "440px"}}
"""The names of the controls stand in one column, their values in another."""

NO_KERNEL = "Controls: run this cell to use them."
"""In place of the controls where nothing runs."""

STYLE = """
.foley-panel{max-width:640px}
.foley-panel .foley-compare p{margin:0 0 8px}
.foley-panel .figures{margin-top:6px;font-variant-numeric:tabular-nums}
"""

Figure = float | str
Render = Callable[[dict[str, Any]], tuple[Audio, Mapping[str, Figure]]]
"""Makes a sound: the fields of `Settings` by name to a sound and what is to be said of it."""


@dataclass(frozen=True)
class Settings:
    """What the controls are set to.

    Attributes:
        num_steps: 1 to `MOST_STEPS`.
        sampler, guidance: One of those offered.
        guidance_scale: From 0 to the largest offered.
    """

    num_steps: int
    sampler: str
    guidance: str
    guidance_scale: float


class Panel:
    """Controls below a result.

    Args:
        frames: The picture, as small as it shall be shown, with even sides.
        reference: The sound that every result is heard against.
        render: Called with the settings when the button is pressed. What it raises is shown in
            one line, and the result before stays.
        settings: What the controls are set to at first.
        sound, figures: What `render` gives for these settings, made beforehand.
        samplers, guidances: What the menus offer.
        most_guidance: Largest guidance scale.

    Raises:
        ValueError: If the settings are not among what is offered, or a sound fits no film.
    """

    def __init__(
        self,
        frames: Frames,
        reference: Audio,
        render: Render,
        settings: Settings,
        sound: Audio,
        figures: Mapping[str, Figure],
        samplers: Sequence[str],
        guidances: Sequence[str],
        most_guidance: float = 10.0,
    ) -> None:
        _check(settings, samplers, guidances, most_guidance)
        self.frames, self.reference, self.render = frames, reference, render
        self.steps = ipywidgets.IntSlider(
            settings.num_steps, 1, MOST_STEPS, description="steps", **ALIGNED
        )
        self.sampler = ipywidgets.Dropdown(
            options=list(samplers), value=settings.sampler, description="sampler", **ALIGNED
        )
        self.guidance = ipywidgets.Dropdown(
            options=list(guidances), value=settings.guidance, description="guidance", **ALIGNED
        )
        self.scale = ipywidgets.FloatSlider(
            settings.guidance_scale, min=0.0, max=most_guidance, step=0.1,
            description="guidance scale", **ALIGNED,
        )  # fmt: skip
        self.button = ipywidgets.Button(description="make the sound", button_style="primary")
        self.button.on_click(lambda _: self.make())
        self.said, self.history = ipywidgets.HTML(), ipywidgets.HTML()
        press = ipywidgets.HBox([self.button, self.said])
        menus = [self.steps, self.sampler, self.guidance, self.scale]
        self.controls = ipywidgets.VBox([*menus, press, self.history])
        self._busy, self._views = Lock(), []
        self._rows: list[dict[str, Figure]] = []
        self._show(settings, sound, figures)

    def __repr__(self) -> str:
        return f"Panel({', '.join(map(str, asdict(self.settings).values()))})"

    def _repr_html_(self) -> str:
        return self._page

    def _ipython_display_(self) -> None:
        # Two outputs: where there are no live controls, the result stands alone.
        view = display(HTML(self._page), display_id=True)
        self._views.append(view)
        live = cast(dict[str, Any], self.controls._repr_mimebundle_())
        display({**live, "text/plain": NO_KERNEL}, raw=True)

    @property
    def settings(self) -> Settings:
        """What the controls are set to now."""
        return Settings(
            self.steps.value,
            str(self.sampler.value),
            str(self.guidance.value),
            self.scale.value,
        )

    def make(self) -> None:
        """Make the sound of these settings and show it; what the button does."""
        if not self._busy.acquire(blocking=False):
            return
        settings, self.button.disabled = self.settings, True
        self.said.value, told = "making the sound…", ""
        try:
            sound, figures = self.render(asdict(settings))
            self._show(settings, sound, figures)
        except Exception as error:  # told instead of raised: a button has no cell to raise in
            told = _told(error)
        finally:
            self.said.value, self.button.disabled = told, False
            self._busy.release()

    def _show(self, settings: Settings, sound: Audio, figures: Mapping[str, Figure]) -> None:
        """A result in place of the one before, and on top of the history."""
        name = f"{settings.sampler}, {settings.num_steps} step{'s' * (settings.num_steps != 1)}"
        films = Compare(self.frames, {name: sound, "reference": self.reference})
        told = " · ".join(f"{html.escape(k)} {_written(v)}" for k, v in figures.items())
        self._page = (
            f'<div class="foley foley-panel"><style>{LOOK}{STYLE}</style>'
            f'{films._repr_html_()}<p class="figures">{told}</p></div>'
        )
        self._rows = [{**asdict(settings), **figures}, *self._rows][:MOST_RESULTS]
        self.history.value = _table(self._rows)
        for view in self._views:
            view.update(HTML(self._page))


def _check(
    settings: Settings, samplers: Sequence[str], guidances: Sequence[str], most: float
) -> None:
    """Refuse settings that the controls cannot have."""
    if not 1 <= settings.num_steps <= MOST_STEPS:
        raise ValueError(f"num_steps {settings.num_steps}, wanted 1 to {MOST_STEPS}")
    if not 0 <= settings.guidance_scale <= most:
        raise ValueError(
            f"guidance_scale {settings.guidance_scale}, wanted 0 to {most}, or a larger "
            "`most_guidance`"
        )
    for name, chosen, offered in (
        ("sampler", settings.sampler, samplers),
        ("guidance", settings.guidance, guidances),
    ):
        if chosen not in offered:
            raise ValueError(f"{name} {chosen!r}, wanted one of {', '.join(offered) or 'none'}")


def _told(error: Exception) -> str:
    """An error in one line; what is not the user's is named, so that it can be reported."""
    words = " ".join(str(error).split())
    if not isinstance(error, (FoleyError, ValueError)):
        words = f"{type(error).__name__}: {words}"
    return f'<span style="color:var(--jp-error-color1,#d32f2f)">error: {html.escape(words)}</span>'


def _table(rows: Sequence[Mapping[str, Figure]]) -> str:
    """The last results, newest first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th {CELL}>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td {CELL}>{_written(row.get(name))}</td>' for name in names)}</tr>"
        for row in rows
    )
    return f'<table style="line-height:1.4"><tr>{head}</tr>{body}</table>'


def _written(value: Figure | None) -> str:
    """A figure for the page: whole ones whole, others by three digits that count."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return html.escape(str(value))
