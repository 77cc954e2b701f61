"""One page about one run: `foley-lab score ... --report page.html`.

A table of the scores, then the clips, worst first: waveform and spectrogram with the true events
(lines), the found onsets (triangles), what lasts (bars), and a list of what is wrong. The page
stands alone: pictures are inside it, nothing is fetched.
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

from foley_lab.evaluation.faults import errors
from foley_lab.evaluation.material import load_judge
from foley_lab.evaluation.onsets import VERSION, detect_onsets
from foley_lab.evaluation.score import read_clip
from foley_lab.evaluation.spectral import FLOOR, magnitudes, mel_bands
from foley_lab.signals import EventLog, FoleyError

MOST_CLIPS = 20
MOST_FAULTS = 40
WIDTH, WAVE_HEIGHT, SPECTRUM_HEIGHT = 960, 56, 96

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.15em .9em .15em 0;text-align:left}
td{font-variant-numeric:tabular-nums}h2{margin:1.6em 0 .3em;font-size:1.05em}
svg{width:100%;height:auto;background:#fff}ol{margin:.3em 0;columns:2;font-size:.92em}
.missing{color:#b00020}.false{color:#9a5b00}.off{color:#444}small{color:#666}
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
    clips = [_clip(each, *read_clip(*by_name[each["clip"]])) for each in worst]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{_table(card)}"
        f"<p><small>{len(clips)} of {card['clips']} clips, worst first; onset detector version "
        f"{VERSION}. Blue: true events, grey: off-screen, orange: onsets found, green: what "
        f"lasts.</small></p>{''.join(clips)}</html>\n"
    )
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".html")
    except OSError as error:
        raise FoleyError(
            f"cannot write {path} ({error.strerror}), wanted a folder that takes files"
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(aside, path)
    path.chmod(0o644)
    return path


def _rank(clip: Mapping[str, Any]) -> tuple[float, float]:
    return clip["f1_area"], clip["material_accuracy"] or 0.0


def _table(card: Mapping[str, Any]) -> str:
    rows = []
    for name, value in card.items():
        if name == "per_clip":
            continue
        if isinstance(value, Mapping):
            value = " &nbsp; ".join(
                f"<small>{html.escape(key)}</small> {_figure(each)}" for key, each in value.items()
            )
        else:
            value = _figure(value)
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{value}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


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
    return f"<h2>{name}</h2><small>{figures}</small>{_strip(sound, log, found)}<ol>{listed}</ol>"


def _strip(sound: NDArray[np.float32], log: EventLog, found: Sequence[float]) -> str:
    """Waveform above spectrogram as one SVG, with everything that is known about time."""
    height, scale = WAVE_HEIGHT + SPECTRUM_HEIGHT, WIDTH / max(log.seconds, 1e-3)
    edges = np.linspace(0, sound.size, WIDTH + 1).astype(int)
    middle, loudest = WAVE_HEIGHT / 2, max(float(np.abs(sound).max()), 1e-3)
    pieces = (sound[a : max(b, a + 1)] for a, b in itertools.pairwise(edges.tolist()))
    swing = [(float(p.min()), float(p.max())) if p.size else (0.0, 0.0) for p in pieces]
    wave = "".join(
        f"M{x} {middle - high / loudest * middle:.1f}V{middle - low / loudest * middle:.1f}"
        for x, (low, high) in enumerate(swing)
    )
    marks = [
        f'<rect x="{c.start_s * scale:.1f}" y="{height - 4}" height="4" fill="#2a8f4f" '
        f'width="{(c.end_s - c.start_s) * scale:.1f}"/>'
        for c in log.continuous
    ]
    for event in log.events:
        x, colour = event.time_s * scale, "#999" if event.off_screen else "#1769d2"
        marks.append(f'<path d="M{x:.1f} 0V{height}" stroke="{colour}" stroke-width=".8"/>')
    for time in found:
        x = time * scale
        marks.append(f'<path d="M{x:.1f} 9l-3.5-9h7z" fill="#e06c00"/>')
    picture = base64.b64encode(_png(_spectrogram(sound))).decode()
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img"><path d="{wave}" stroke="#556" '
        f'stroke-width="1"/><image y="{WAVE_HEIGHT}" width="{WIDTH}" height="{SPECTRUM_HEIGHT}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{picture}"/>{"".join(marks)}</svg>'
    )


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
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
