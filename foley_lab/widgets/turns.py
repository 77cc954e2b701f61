"""Films that take turns in one place of the page, and the look of the widgets around them.

One film is seen and the others wait, unread by the browser until their turn. The next one begins at
the moment where the last one was, so the eye keeps its place and only the sound changes. Colours
come from the notebook's theme where there is one, else from the page, so that light and dark both
read well.
"""

from __future__ import annotations

import base64
import html

TURN = """
const turn = (films, next, playing) => {
  const last = films.find(film => !film.hidden);
  if (last !== next) {
    const moment = last.currentTime;
    last.pause();
    last.hidden = true;
    next.hidden = false;
    next.preload = 'auto';
    next.currentTime = moment;
  }
  /* A quick hand takes the turn away before the film has begun: nothing is lost. */
  if (playing) next.play().catch(() => {});
};
"""
"""JavaScript: show `next` of the films where the last one was, and play it if asked."""

KEEP = """
if (/^(Enter| |Home|End|Arrow.*)$/.test(event.key) && !event.ctrlKey && !event.metaKey)
  event.stopPropagation();
"""
"""JavaScript: keys that move something here do not move through the cells of the notebook too."""

LOOK = """
.foley{--ink:var(--jp-ui-font-color1,CanvasText);--faint:var(--jp-ui-font-color2,GrayText);
--paper:var(--jp-layout-color0,Canvas);--line:var(--jp-border-color1,#8886);
font:13px/1.4 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--ink)}
.foley [hidden]{display:none!important}
.foley p{margin:0}
.foley .faint{color:var(--faint)}
.foley button{font:inherit;color:var(--ink);background:none;border:1px solid var(--line);
border-radius:4px;padding:3px 10px;margin:0;cursor:pointer}
.foley button:hover{border-color:var(--ink)}
.foley button[aria-pressed=true]{color:var(--paper);background:var(--ink);border-color:var(--ink)}
.foley :focus-visible{outline:2px solid var(--jp-brand-color1,#1976d2);outline-offset:2px}
.foley video{display:block;width:100%;margin:0;background:#000;border-radius:4px}
.foley .untrusted{display:none}
.foley .row{display:flex;flex-wrap:wrap;gap:6px 8px;align-items:center}
"""
"""Style sheet of everything inside an element of class `foley`."""


UNTRUSTED = (
    '<p class="untrusted">This output is shown and heard once the notebook is trusted '
    "(File, Trust Notebook).</p>"
)
"""Seen only where the style sheet was taken out of the page."""


def script(code: str) -> str:
    """JavaScript as the value of an attribute, in one line."""
    return html.escape(" ".join(code.split()))


def film_tag(
    film: bytes, name: str, key: int, size: tuple[int, int], shown: bool, handlers: str = ""
) -> str:
    """A film in the page, over and over, known to the scripts by `key`.

    Args:
        size: Height and width of the picture: the page keeps its shape before the film is read.
        handlers: More attributes, ready for the page.
    """
    data = base64.b64encode(film).decode("ascii")
    waiting = 'preload="auto"' if shown else 'preload="none" hidden'
    return (
        f'<video controls loop playsinline {waiting} data-film="{key}" {handlers} '
        f'style="aspect-ratio:{size[1]}/{size[0]}" aria-label="{html.escape(name)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )
