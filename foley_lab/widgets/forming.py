"""Hear it form: what a sampler believes the sound to be, after each of its steps.

A slider runs over the steps of one way from noise to sound. Each position has a film with the
estimate and its spectrogram; moving the slider goes on at the same moment of the film. Everything
is in the page: no kernel, no network and no stored widget state are needed.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from foley_lab.signals import Audio, Frames
from foley_lab.widgets.film import small_film
from foley_lab.widgets.pictures import N_FFT, RANGE_DB, TOP_HZ, mono_samples
from foley_lab.widgets.turns import KEEP, LOOK, TURN, UNTRUSTED, film_tag, script

MOST_MOMENTS = 16
COLUMNS, ROWS = 320, 64
"""Pixels of a spectrogram, stretched to the width of the film."""
NUM_COLOURS = 24
FLOOR = 1e-10
"""Power of silence, so that it has a level."""

MOVE = (
    TURN
    + """
const box = this.closest('.foley-forming'), films = [...box.querySelectorAll('video')];
const place = Number(this.value), playing = films.some(film => !film.paused);
turn(films, films[place], playing);
box.querySelectorAll('img').forEach((image, k) => image.hidden = k !== place);
box.querySelectorAll('output span').forEach((words, k) => words.hidden = k !== place);
this.setAttribute('aria-valuetext', box.querySelectorAll('output span')[place].textContent);
"""
)
"""The slider was moved: film, spectrogram and words of its new place."""

FOLLOW = """
const hand = this.closest('.foley-forming').querySelector('.hand');
const follow = () => {
  if (this.hidden || !this.duration) return;
  hand.style.left = 100 * this.currentTime / this.duration + '%';
  if (event.type === 'play' && !this.paused) requestAnimationFrame(follow);
};
follow();
"""
"""The hand over the spectrogram stands where the film is, and glides while it plays."""

SEEK = """
const film = this.closest('.foley-forming').querySelector('video:not([hidden])');
const box = this.getBoundingClientRect();
if (film.duration) film.currentTime = film.duration * (event.clientX - box.left) / box.width;
"""
"""A click on the spectrogram goes to that moment; the keyboard does so in the film itself."""

STYLE = """
.foley-forming{max-width:640px}
.foley-forming .sight{position:relative;overflow:hidden;border-radius:4px;margin:4px 0 10px;
cursor:pointer}
.foley-forming img{display:block;width:100%;height:96px;margin:0}
.foley-forming .hand{position:absolute;top:0;bottom:0;left:0;width:2px;margin-left:-1px;
background:#fff;box-shadow:0 0 0 1px #000a;pointer-events:none}
.foley-forming .steps{position:relative;height:42px}
.foley-forming input{appearance:none;display:block;width:100%;height:18px;margin:0;
border-radius:9px;cursor:pointer;
background:linear-gradient(var(--line),var(--line)) center/100% 4px no-repeat}
.foley-forming input::-webkit-slider-thumb{appearance:none;width:16px;height:16px;border:0;
border-radius:50%;background:var(--ink)}
.foley-forming input::-moz-range-thumb{width:16px;height:16px;border:0;border-radius:50%;
background:var(--ink)}
.foley-forming .steps span{position:absolute;top:20px;transform:translateX(-50%);
color:var(--faint);font-variant-numeric:tabular-nums}
.foley-forming output{display:block;font-variant-numeric:tabular-nums}
"""


@dataclass(frozen=True, eq=False)
class Moment:
    """What the sampler believes on its way.

    Attributes:
        num_steps: Steps done.
        time: t, from 1 (noise) to 0 (sound).
        sound: The estimate of the finished sound.
    """

    num_steps: int
    time: float
    sound: Audio = field(repr=False)

    @property
    def words(self) -> str:
        """Steps done and time, for the page."""
        return f"{self.num_steps} step{'s' * (self.num_steps != 1)} done, t = {self.time:.2f}"


class Forming:
    """A film, a spectrogram and a slider over the moments of one sampling; the last is shown.

    Args:
        frames: The picture, as small as it shall be shown, with even sides.
        moments: 1 to `MOST_MOMENTS`, in the order of their steps.

    Raises:
        ValueError: If there are none or too many, their steps do not rise, or they cannot be put
            into films.
    """

    def __init__(self, frames: Frames, moments: Sequence[Moment]) -> None:
        if not 1 <= len(moments) <= MOST_MOMENTS:
            raise ValueError(
                f"{len(moments)} moments, wanted 1 to {MOST_MOMENTS}, leave some steps out"
            )
        steps = [moment.num_steps for moment in moments]
        if steps != sorted(set(steps)):
            raise ValueError(f"moments after steps {steps}, wanted them rising, sort them")
        self.moments = tuple(moments)
        self.films = [small_film(frames, moment.sound) for moment in moments]
        self.pictures = _pictures([moment.sound for moment in moments])
        self.size = (frames.images.shape[1], frames.images.shape[2])

    def __repr__(self) -> str:
        return f"Forming(after {', '.join(str(moment.num_steps) for moment in self.moments)} steps)"

    def _repr_html_(self) -> str:
        last = len(self.moments) - 1
        follow = f'onplay="{script(FOLLOW)}" ontimeupdate="{script(FOLLOW)}"'
        films, images, words, numbers = [], [], [], []
        for k, moment in enumerate(self.moments):
            hidden = "" if k == last else " hidden"
            film = self.films[k]
            films.append(film_tag(film, moment.words, k, self.size, k == last, follow))
            data = base64.b64encode(self.pictures[k]).decode("ascii")
            about = html.escape(f"spectrogram: {moment.words}")
            images.append(f'<img{hidden} alt="{about}" src="data:image/png;base64,{data}">')
            words.append(f"<span{hidden}>{moment.words}</span>")
            # The thumb is 16 pixels wide and stays inside the slider.
            left = f"calc(8px + {k / max(1, last):.4f} * (100% - 16px))"
            numbers.append(f'<span style="left:{left}">{moment.num_steps}</span>')
        return (
            f'<div class="foley foley-forming" onkeydown="{script(KEEP)}">'
            f"<style>{LOOK}{STYLE}</style>{UNTRUSTED}{''.join(films)}"
            f'<div class="sight" onclick="{script(SEEK)}">{"".join(images)}'
            f'<div class="hand"></div></div>'
            f'<div class="steps"><input type="range" min="0" max="{last}" step="1" value="{last}" '
            f'aria-label="steps done" aria-valuetext="{self.moments[-1].words}" '
            f'oninput="{script(MOVE)}">{"".join(numbers)}</div>'
            f"<output>{''.join(words)}</output></div>"
        )


def _pictures(sounds: Sequence[Audio]) -> list[bytes]:
    """Spectrograms as small PNGs on one scale of levels: 0 to 16 kHz, time from edge to edge."""
    levels = [_levels(mono_samples(sound), sound.sample_rate) for sound in sounds]
    top_db = max(float(level.max()) for level in levels)
    files = []
    for level in levels:
        shade = np.clip(1 + (level - top_db) / RANGE_DB, 0, 1)[::-1]  # high frequencies on top
        colours = colormaps["magma"](shade, bytes=True)[..., :3]
        small = Image.fromarray(np.ascontiguousarray(colours)).quantize(NUM_COLOURS)
        file = io.BytesIO()
        small.save(file, format="PNG", optimize=True)
        files.append(file.getvalue())
    return files


def _levels(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Levels in dB [ROWS, COLUMNS]: power at COLUMNS instants, the mean of neighbouring bins."""
    padded = np.pad(samples, (N_FFT // 2, N_FFT // 2))
    starts = np.linspace(0, samples.size - 1, COLUMNS).round().astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[starts]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT), axis=1)) ** 2  # [COLUMNS, bins]
    edges = np.linspace(0, TOP_HZ * N_FFT / sample_rate, ROWS + 1).astype(int)[:-1]
    heard = power[:, : round(TOP_HZ * N_FFT / sample_rate)]
    bands = np.add.reduceat(heard, edges, axis=1) / np.diff(np.append(edges, heard.shape[1]))
    return (10 * np.log10(bands + FLOOR)).astype(np.float32).T
