"""One page about one run: `foley-lab score ... --report page.html`.

The scores, then the clips, worst first: waveform and spectrogram over a scale of seconds, with the
true events (lines), the found onsets (triangles), what lasts (bars), and a list of what is wrong,
whose numbers stand above the wave. The page stands alone: pictures are inside it, nothing is
fetched.
"""

from __future__ import annotations

import base64
import html
import itertools
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foley_lab.evaluation.faults import Fault, errors
from foley_lab.evaluation.material import load_judge
from foley_lab.evaluation.onsets import VERSION, detect_onsets
from foley_lab.evaluation.score import read_clip
from foley_lab.evaluation.spectral import FLOOR, magnitudes, mel_bands
from foley_lab.signals import EventLog, FoleyError

MOST_CLIPS = 20
MOST_FAULTS = 40
WIDTH, WAVE_HEIGHT, SPECTRUM_HEIGHT = 960, 56, 96
NUMBER_HEIGHT, AXIS_HEIGHT = 24, 16
"""Of the two rows of numbers above the wave and of the seconds below the spectrogram."""
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{margin:2em 0 0;font-size:1.05em}small{color:#666}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.5em}
.tiles div{border:1px solid #ddd;border-radius:4px;padding:.3em .6em}
.tiles b{display:block;font-size:1.25em;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;margin:1em 0}th{text-align:left}thead th{color:#666}
td,th{padding:.15em 1.2em .15em 0;font-weight:normal}td{font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;background:#fff}
svg text{font:10px system-ui,sans-serif;fill:currentColor}
ol{margin:.3em 0;columns:2;font-size:.92em}
.missing{color:#b00020}.false{color:#9a5b00}.off{color:#444}.tick{color:#666}
"""


def write_report(
    path: str | os.PathLike[str],
    partners: Iterable[tuple[Path, Path]],
    card: Mapping[str, Any],
    title: str = "foley-lab score",
) -> Path:
    """Write the page, aside and then into place.

    Args:
        path: Ends in .html; its folder is there.
        partners: Sounds and their logs, as of `score.find_partners`.
        card: What `score_files` returned for them.
        title: Of the page.

    Returns:
        The path.

    Raises:
        FoleyError: If the folder takes no file.
        MediaError, FoleyError: As `score.read_clip`.
    """
    path = Path(path)
    by_name = {log.stem: (sound, log) for sound, log in partners}
    worst = sorted(card["per_clip"], key=_rank)[:MOST_CLIPS]
    clips = [
        f'<section id="clip-{k}"><small>{html.escape(by_name[each["clip"]][0].name)}</small>'
        f"{_clip(each, *read_clip(*by_name[each['clip']]))}</section>"
        for k, each in enumerate(worst)
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>{_verdict(worst[0])}{_tiles(card)}{_tables(card)}"
        f"<p><small>{len(clips)} of {card['clips']} clips, worst first; onset detector version "
        f"{VERSION}. Blue lines: true events, grey: off-screen; orange triangles: onsets found; "
        f"green bars: what lasts; numbers: the faults listed below.</small></p>"
        f"{''.join(clips)}</html>\n"
    )
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".html")
    except OSError as error:
        raise FoleyError(
            f"cannot write {path} ({error.strerror}), wanted a folder that takes files"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.replace(aside, path)
    except OSError as error:
        os.unlink(aside)
        raise FoleyError(
            f"cannot write {path} ({error.strerror}), wanted a file, choose another name"
        ) from error
    path.chmod(0o644)
    return path


def _rank(clip: Mapping[str, Any]) -> float:
    """When counts most, what half as much."""
    return clip["f1_area"] + 0.5 * (1.0 if (m := clip["material_accuracy"]) is None else m)


def _verdict(worst: Mapping[str, Any]) -> str:
    """Where to look first."""
    named = worst["material_accuracy"]
    material = "" if named is None else f", {named:.0%} of its materials named right"
    return (
        f'<p><b>Look first at <a href="#clip-0">{html.escape(worst["clip"])}</a></b>: '
        f"{worst['recall'] or 0:.0%} of its events are heard within 40 ms, "
        f"{worst['precision'] or 0:.0%} of what is heard is one{material}.</p>"
    )


def _tiles(card: Mapping[str, Any]) -> str:
    """Every single figure."""
    tiles = "".join(
        f"<div><b>{_figure(value)}</b><small>{html.escape(name)}</small></div>"
        for name, value in card.items()
        if name != "per_clip" and not isinstance(value, Mapping)
    )
    return f'<div class="tiles">{tiles}</div>'


def _tables(card: Mapping[str, Any]) -> str:
    """The figures that have parts; those with the same parts share a table."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, value in card.items():
        if isinstance(value, Mapping):
            figures = "".join(f"<td>{_figure(each)}</td>" for each in value.values())
            row = f"<tr><th>{html.escape(name)}</th>{figures}</tr>"
            groups.setdefault(tuple(value), []).append(row)
    return "".join(
        "<table><thead><tr><th></th>"
        + "".join(f"<th>{html.escape(f'{k} ms' if k.isdigit() else k)}</th>" for k in keys)
        + f"</tr></thead>{''.join(rows)}</table>"
        for keys, rows in groups.items()
    )


def _clip(scores: Mapping[str, Any], sound: NDArray[np.float32], log: EventLog) -> str:
    found = detect_onsets(sound)
    heard = load_judge().name(sound, found.tolist())
    faults = errors(found, log, sound, heard)
    worst = sorted(sorted(faults, key=lambda f: -f.weight)[:MOST_FAULTS], key=lambda f: f.time_s)
    listed = "".join(f'<li class="{f.kind}">{html.escape(str(f))}</li>' for f in worst)
    name = html.escape(f"{scores['clip']}: {log.family}, {log.prompt or 'no prompt'}")
    figures = (
        f"f1 at 40 ms {_figure(scores['f1']['40'])}, bias {_figure(scores['bias_ms'])} ms, "
        f"materials {_figure(scores['material_accuracy'])}, {len(faults)} faults"
    )
    strip = _strip(sound, log, found.tolist(), worst)
    return f"<h2>{name}</h2><small>{figures}</small>{strip}<ol>{listed}</ol>"


def _strip(
    sound: NDArray[np.float32], log: EventLog, found: Sequence[float], faults: Sequence[Fault]
) -> str:
    """Waveform above spectrogram as one SVG, with everything that is known about time."""
    scale, top = WIDTH / max(log.seconds, 1e-3), NUMBER_HEIGHT
    low = top + WAVE_HEIGHT + SPECTRUM_HEIGHT
    marks = [
        f'<rect x="{c.start_s * scale:.1f}" y="{low - 4}" height="4" fill="#2a8f4f" '
        f'width="{(c.end_s - c.start_s) * scale:.1f}"/>'
        for c in log.continuous
    ]
    for event in log.events:
        x, colour = event.time_s * scale, "#999" if event.off_screen else "#1769d2"
        marks.append(f'<path d="M{x:.1f} {top}V{low}" stroke="{colour}" stroke-width=".8"/>')
    for time in found:
        marks.append(f'<path d="M{time * scale:.1f} {top + 9}l-3.5-9h7z" fill="#e06c00"/>')
    for number, fault in enumerate(faults, 1):
        # Neighbours stand in different rows, so that their numbers do not run together.
        y = top - 3 - 11 * (number % 2)
        marks.append(_text(fault.time_s * scale, y, str(number), fault.kind))
    for time in _ticks(log.seconds):
        marks.append(_text(time * scale, low + 12, f"{time:g} s", "tick"))
        marks.append(f'<path d="M{time * scale:.1f} {low}v3" stroke="#666"/>')
    picture = base64.b64encode(_png(_spectrogram(sound))).decode()
    return (
        f'<svg viewBox="0 0 {WIDTH} {low + AXIS_HEIGHT}" role="img"><path d="{_wave(sound)}" '
        f'transform="translate(0 {top})" stroke="#556" stroke-width="1"/><image '
        f'y="{top + WAVE_HEIGHT}" width="{WIDTH}" height="{SPECTRUM_HEIGHT}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{picture}"/><path '
        f'd="M0 {top}H{WIDTH}M0 {low}H{WIDTH}" stroke="#bbb"/>{"".join(marks)}</svg>'
    )


def _wave(sound: NDArray[np.float32]) -> str:
    """A stroke in each column from its highest to its lowest sample, as an SVG path."""
    edges = np.linspace(0, sound.size, WIDTH + 1).astype(int)
    middle, loudest = WAVE_HEIGHT / 2, max(float(np.abs(sound).max()), 1e-3)
    pieces = (sound[a : max(b, a + 1)] for a, b in itertools.pairwise(edges.tolist()))
    swing = [(float(p.min()), float(p.max())) if p.size else (0.0, 0.0) for p in pieces]
    return "".join(
        f"M{x} {middle - high / loudest * middle:.1f}V{middle - low / loudest * middle:.1f}"
        for x, (low, high) in enumerate(swing)
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    """Words in the middle over x; at the borders they stay inside."""
    anchor = "start" if x < 12 else "end" if x > WIDTH - 12 else "middle"
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def _ticks(seconds: float) -> list[float]:
    """Round times from 0 on, at most about a dozen."""
    step = next((each for each in TICKS_S if seconds / each <= 12), seconds / 12)
    return [round(k * step, 6) for k in range(int(seconds / step + 1e-6) + 1)]


def _spectrogram(sound: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Mel levels as grey, loud is dark, low frequencies below [bands, frames]."""
    hop = max(240, sound.size // (WIDTH // 2))
    energy = magnitudes(sound, 1024, hop) ** 2 @ mel_bands(1024, SPECTRUM_HEIGHT // 2).T
    level = 10 * np.log10(np.maximum(energy, FLOOR**2))
    shade = np.clip((level - max(level.max() - 70, -80)) / 70, 0, 1)
    return (255 - 225 * shade.T[::-1]).astype(np.uint8)


def _png(grey: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG (ISO 15948) of [H, W]."""
    height, width = grey.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)),
         chunk(b"IEND", b""))
    )  # fmt: skip


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return html.escape(str(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
