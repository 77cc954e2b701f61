"""Sheets of small pictures: frames at the contacts, pictures and their names beside each other,
strips of what stands where.

Drawn with Pillow at the size of the page, and with few colours, so that a sheet stays small.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from foley_lab.signals import Event, Frames
from foley_lab.widgets.pictures import Picture

WIDTH, GAP, CAPTION, NUM_COLOURS = 640, 6, 15, 96
"""Pixels of the sheet, between its pictures and of the line below each; colours in all."""
STRIP = 24
"""Height of a strip in pixels."""


def contacts(frames: Frames, events: Sequence[Event], columns: int = 4) -> Picture:
    """The frame that is shown at the instant of each event, with a ring around its place.

    Args:
        events: With x and y; those without a place have no ring.

    Raises:
        ValueError: If there are no events or no frames.
    """
    times = np.asarray(frames.times_s)
    if not events or not len(times):
        raise ValueError(f"{len(events)} events in {len(times)} frames, wanted some of both")
    pictures = {}
    for event in events:
        shown = max(int(np.searchsorted(times, event.time_s, "right")) - 1, 0)
        image = np.asarray(frames.images[shown])
        pictures[f"{event.time_s:.3f} s: {event.material}"] = _ringed(image, event)
    return gallery(pictures, columns)


def gallery(pictures: Mapping[str, NDArray[np.uint8]], columns: int = 4) -> Picture:
    """Pictures in rows, each above its name.

    Args:
        pictures: uint8 [H, W, 3] by name, of any size.

    Raises:
        ValueError: If there is no picture or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"{len(pictures)} pictures in {columns} columns, wanted 1 of each or more")
    wide = (WIDTH - GAP * (columns - 1)) // columns
    tiles = [_fitted(image, wide) for image in pictures.values()]
    high = max(tile.height for tile in tiles) + CAPTION
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (WIDTH, rows * (high + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (name, tile) in enumerate(zip(pictures, tiles, strict=True)):
        row, column = divmod(number, columns)
        x, y = column * (wide + GAP), row * (high + GAP)
        sheet.paste(tile, (x + (wide - tile.width) // 2, y))
        draw.text((x, y + high - CAPTION), name, "black", font)
    file = io.BytesIO()
    small = sheet.quantize(NUM_COLOURS, dither=Image.Dither.NONE)
    small.save(file, format="PNG", optimize=True)
    return Picture(file.getvalue(), f"pictures: {', '.join(pictures)}")


def strips(places: Mapping[str, Sequence[int]]) -> Picture:
    """Which of many things stands at each place, a strip for each name: from violet for the
    strip's smallest number to yellow for its largest.

    Args:
        places: Whole numbers by name, at least one each; strips of any length are as wide.

    Raises:
        ValueError: If there is no strip, or an empty one.
    """
    numbers = {name: np.asarray(each) for name, each in places.items()}
    if not numbers or not all(each.size for each in numbers.values()):
        raise ValueError(f"strips of {places!r:.80}, wanted one or more with numbers in each")
    pictures = {}
    for name, each in numbers.items():
        spread = each[np.arange(WIDTH) * each.size // WIDTH] - each.min()  # [WIDTH]
        colours = colormaps["viridis"](spread / max(1, spread.max()), bytes=True)[:, :3]
        pictures[name] = np.repeat(colours[None], STRIP, axis=0)
    return gallery(pictures, columns=1)


def _fitted(image: NDArray[np.uint8], wide: int) -> Image.Image:
    """As wide as its column; upright pictures as high as the column is wide."""
    picture = Image.fromarray(image)
    scale = wide / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _ringed(image: NDArray[np.uint8], event: Event) -> NDArray[np.uint8]:
    if event.x is None or event.y is None:
        return image
    picture = Image.fromarray(image)
    x, y, r = event.x * picture.width, event.y * picture.height, picture.height / 8
    draw, line = ImageDraw.Draw(picture), max(1, picture.height // 60)
    for edge, colour, width in ((line, "black", 3 * line), (0, "white", line)):  # on any ground
        ring = (x - r - edge, y - r - edge, x + r + edge, y + r + edge)
        draw.ellipse(ring, outline=colour, width=width)
    return np.asarray(picture)
