"""Hear several sounds with the same picture, or see twins: buttons above one film.

Each sound lies in a film of its own, so picture and sound share a clock; a button shows another
film at the moment where the last one was, and playing goes on. Everything is in the page: no
kernel, no network and no stored widget state are needed, and the page exported to HTML plays too.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

from foley_lab.signals import Audio, Frames
from foley_lab.widgets.film import small_film

SWITCH = """
const box = this.closest('.foley-compare');
const films = [...box.querySelectorAll('video')], buttons = [...box.querySelectorAll('button')];
const last = films.find(film => film.style.display !== 'none');
const next = films[buttons.indexOf(this)], playing = !last.paused;
if (next === last) return;
last.pause();
last.style.display = 'none';
next.style.display = 'block';
next.currentTime = last.currentTime;
buttons.forEach(button => button.setAttribute('aria-pressed', button === this));
buttons.forEach(button => button.style.fontWeight = button === this ? 'bold' : 'normal');
if (playing) next.play();
"""


class Compare:
    """A film with a choice of sounds; the first is shown.

    Args:
        frames: The picture, as small as it shall be shown; or one for each sound, by its name.
        sounds: By name, at least one.

    Raises:
        ValueError: If there is no sound, a sound has no picture, or they cannot be put into a film.
    """

    def __init__(self, frames: Frames | Mapping[str, Frames], sounds: Mapping[str, Audio]) -> None:
        if not sounds:
            raise ValueError("no sounds, wanted at least one, e.g. {'take 0': result.audio}")
        pictures = frames if isinstance(frames, Mapping) else dict.fromkeys(sounds, frames)
        if set(pictures) != set(sounds):
            raise ValueError(
                f"pictures of {', '.join(pictures)} for sounds of {', '.join(sounds)}, "
                "wanted the same names"
            )
        self.films = {name: small_film(pictures[name], audio) for name, audio in sounds.items()}

    def __repr__(self) -> str:
        return f"Compare({', '.join(self.films)})"

    def _repr_html_(self) -> str:
        buttons, films = [], []
        switch = html.escape(" ".join(SWITCH.split()))
        for number, (name, film) in enumerate(self.films.items()):
            data = base64.b64encode(film).decode("ascii")
            weight, display = ("normal", "none") if number else ("bold", "block")
            buttons.append(
                f'<button type="button" aria-pressed="{str(not number).lower()}" '
                f'style="font-weight:{weight}" onclick="{switch}">{html.escape(name)}</button>'
            )
            films.append(
                f'<video controls playsinline preload="auto" style="display:{display}" '
                f'aria-label="{html.escape(name)}" src="data:video/mp4;base64,{data}"></video>'
            )
        return f'<div class="foley-compare"><p>{" ".join(buttons)}</p>{"".join(films)}</div>'
