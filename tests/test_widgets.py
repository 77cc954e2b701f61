"""What a notebook shows is what was handed in: films in step, pictures on one scale, no network."""

from __future__ import annotations

import base64
import html
import io
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from PIL import Image

from foley_lab.evaluation.faults import Fault
from foley_lab.evaluation.sync import detect_onsets
from foley_lab.media import probe, read_audio, read_video
from foley_lab.signals import Audio, Event, Frames, View
from foley_lab.widgets.compare import Compare
from foley_lab.widgets.film import small_film
from foley_lab.widgets.pictures import sound_picture, spectrograms, waterfall
from foley_lab.widgets.scores import MOST_LABELS, Page, bars, curves, fault_picture, table
from foley_lab.widgets.sheets import STRIP, contacts, gallery, strips

RATE = 48_000
VIEW = View("page", Fraction(0), 36, 64)
KNOCKS_S = (0.2, 0.55, 0.8)


def frames(times_s: np.ndarray | None = None) -> Frames:
    """A grey clip that grows lighter with time; one second at 25 fps by default."""
    times = np.arange(25) / 25 if times_s is None else times_s
    images = np.empty((len(times), 36, 64, 3), np.uint8)
    images[:] = (40 + 150 * times)[:, None, None, None]
    return Frames(torch.from_numpy(images), torch.from_numpy(times), VIEW)


def knocks(level: float = 0.5, seconds: float = 1.0) -> Audio:
    time = np.arange(round(RATE * seconds)) / RATE
    sound = np.zeros_like(time)
    for start in KNOCKS_S:
        since = np.clip(time - start, 0, None)
        ring = np.sin(2 * np.pi * 1800 * since) + np.sin(2 * np.pi * 5200 * since)
        sound += 0.5 * ring * np.exp(-since * 60)
    return Audio(torch.from_numpy(level * sound[None]).float())


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int32)


def test_a_film_keeps_picture_and_sound_in_step(tmp_path):
    path = tmp_path / "page.mp4"
    path.write_bytes(small_film(frames(), knocks()))
    heard = read_audio(path)
    assert heard.samples.shape == (1, RATE)
    assert detect_onsets(heard.samples[0].numpy()) == pytest.approx(KNOCKS_S, abs=0.002)
    shown = read_video(path, [VIEW]).views["page"]
    assert shown.times_s.numpy() == pytest.approx(np.arange(25) / 25, abs=1e-4)
    levels = shown.images.float().mean((1, 2, 3))
    assert (levels.diff() > 0).all()


def test_a_film_keeps_uneven_times(tmp_path):
    times = np.array([0, 0.04, 0.3, 0.31, 0.9])
    path = tmp_path / "page.mp4"
    path.write_bytes(small_film(frames(times), knocks()))
    shown = read_video(path, [VIEW]).views["page"]
    assert shown.times_s.numpy() == pytest.approx(times, abs=1e-4)


def test_a_film_takes_stereo_and_is_the_same_again(tmp_path):
    stereo = Audio(knocks().samples.repeat(2, 1))
    film = small_film(frames(), stereo)
    assert film == small_film(frames(), stereo)
    path = tmp_path / "page.mp4"
    path.write_bytes(film)
    assert read_audio(path).samples.shape[0] == 2 and probe(path).has_audio


def test_a_film_refuses_what_it_cannot_hold():
    odd = frames()
    odd.images = odd.images[:, :35]
    with pytest.raises(ValueError, match="even H and W"):
        small_film(odd, knocks())
    with pytest.raises(ValueError, match="even H and W"):
        small_film(frames(np.empty(0)), knocks())
    with pytest.raises(ValueError, match=r"wanted \[1 or 2, N\]"):
        small_film(frames(), Audio(torch.zeros(RATE)))


def test_compare_shows_the_first_film_and_a_button_for_each():
    shown = Compare(frames(), {"a": knocks(), "b < c": knocks(0.1)})
    page = shown._repr_html_()
    assert repr(shown) == "Compare(a, b < c)"
    assert re.findall(r">([^<>]+)</button>", page) == ["a", "b &lt; c"]
    assert re.findall(r"display:(\w+)", re.sub(r'onclick="[^"]*"', "", page)) == ["block", "none"]
    films = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert films == list(shown.films.values())


def test_compare_needs_no_network_and_its_script_is_one_attribute():
    page = Compare(frames(), {"a": knocks(), "b": knocks()})._repr_html_()
    assert "http" not in page and "<script" not in page
    scripts = re.findall(r'onclick="([^"]*)"', page)
    assert len(scripts) == 2 and "this.closest('.foley-compare')" in html.unescape(scripts[0])


def test_compare_shows_twins_with_their_own_pictures(tmp_path):
    light = frames()
    light.images = 255 - light.images
    shown = Compare({"a": frames(), "b": light}, {"a": knocks(), "b": knocks()})
    means = []
    for name, film in shown.films.items():
        (tmp_path / f"{name}.mp4").write_bytes(film)
        images = read_video(tmp_path / f"{name}.mp4", [VIEW]).views["page"].images
        means.append(float(images[0].float().mean()))
    assert means == pytest.approx([40, 215], abs=4)
    with pytest.raises(ValueError, match="pictures of a for sounds of a, b, wanted the same"):
        Compare({"a": frames()}, {"a": knocks(), "b": knocks()})


def test_compare_wants_a_sound():
    with pytest.raises(ValueError, match="no sounds"):
        Compare(frames(), {})


def test_marks_stand_where_their_events_are():
    events = [Event(t, strength=1.0) for t in KNOCKS_S]
    bare = sound_picture(knocks(), {"true": []})
    marked = sound_picture(knocks(), {"true": events})
    assert marked.words == "wave and spectrogram, events: 3 true"
    changed = np.abs(pixels(bare.png) - pixels(marked.png)).sum(2) > 150
    lane = changed[: len(changed) // 2]
    columns = np.flatnonzero(lane.sum(0) > 0.5 * lane.sum(0).max())
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
    centres = np.array([group.mean() for group in groups])
    assert len(centres) == 3
    gaps = np.diff(centres) / (centres[-1] - centres[0])
    assert gaps == pytest.approx(np.diff(KNOCKS_S) / (KNOCKS_S[-1] - KNOCKS_S[0]), abs=0.02)


def test_sounds_in_one_picture_share_a_scale():
    loud, soft = knocks(), knocks(0.01)
    both = pixels(spectrograms({"loud": loud, "soft": soft}).png)
    half = len(both) // 2
    assert both[:half].max(2).mean() > 0 and (both[:half] > 200).sum() > (both[half:] > 200).sum()


def test_silence_can_be_drawn():
    silence = Audio(torch.zeros(1, RATE))
    for picture in (sound_picture(silence), spectrograms({"silence": silence})):
        assert pixels(picture.png).shape[1] == 640
        assert picture._repr_mimebundle_() == {
            "image/png": picture.png,
            "text/plain": picture.words,
        }


def test_pictures_of_long_noise_stay_small():
    noise = Audio(torch.rand(1, 60 * RATE, generator=torch.Generator().manual_seed(0)) - 0.5)
    picture = sound_picture(noise, {"true": [Event(0.1 * k) for k in range(600)]})
    assert len(picture.png) <= 120_000


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="N > 0"):
        sound_picture(Audio(torch.zeros(1, 0)))
    with pytest.raises(ValueError, match="no sounds"):
        spectrograms({})
    with pytest.raises(ValueError, match="wanted some of read, encode"):
        waterfall({"total": 1.0})


def test_the_waterfall_leaves_out_what_is_no_stage():
    stages = {"read": 0.2, "generate": 0.6}
    picture = waterfall({**stages, "total": 0.8, "time_to_first_audio": 0.7})
    assert picture.words == "bars: read, generate"
    assert picture.png == waterfall(stages).png


def test_contacts_show_the_frame_of_their_instant_and_ring_its_place():
    instants = (0.0, 0.419, 0.42, 0.96)  # frames 0, 10, 10 and 24
    plain = contacts(frames(), [Event(t) for t in instants], columns=2)
    assert plain.words == "pictures: 0.000 s: wood, 0.419 s: wood, 0.420 s: wood, 0.960 s: wood"
    sheet = pixels(plain.png)
    half, tile = len(sheet) // 2, 80  # well inside a tile
    corners = [sheet[y + tile, x + tile, 0] for y in (0, half) for x in (0, 320)]
    assert corners == pytest.approx([40, 100, 100, 184], abs=2)
    ringed = pixels(contacts(frames(), [Event(0.0, x=0.25, y=0.5)], columns=1).png)
    bare = pixels(contacts(frames(), [Event(0.0)], columns=1).png)
    rows, columns = np.nonzero(np.abs(ringed - bare).sum(2) > 60)
    assert columns.mean() == pytest.approx(0.25 * 640, abs=4)
    assert rows.mean() == pytest.approx(0.5 * 360, abs=4)


def test_a_gallery_keeps_order_and_aspect():
    tall = np.full((64, 32, 3), 200, np.uint8)
    wide = np.full((32, 64, 3), 90, np.uint8)
    shown = gallery({"tall": tall, "wide": wide}, columns=2)
    assert shown.words == "pictures: tall, wide" and len(shown.png) < 20_000
    sheet = pixels(shown.png)[:317, :, 0]  # without the line of names
    grey = [(abs(sheet - level) < 3) for level in (200, 90)]
    heights, widths = ([np.ptp(np.nonzero(g)[axis]) + 1 for g in grey] for axis in (0, 1))
    assert heights == [317, 158] and widths[1] == 317
    assert np.nonzero(grey[0])[1].max() < np.nonzero(grey[1])[1].min()


def test_a_strip_runs_from_its_smallest_number_to_its_largest():
    shown = strips({"two of three": [5, 5, 5, 12], "back": [9, 8, 7]})
    assert shown.words == "pictures: two of three, back" and len(shown.png) < 10_000
    sheet = pixels(shown.png)
    first, second = (sheet[row + STRIP // 2] for row in (0, len(sheet) // 2 + 3))
    violet, green, yellow = (68, 1, 84), (32, 144, 140), (253, 231, 37)
    for row, start, stop, colour in (
        (first, 0, 480, violet), (first, 480, 640, yellow),
        (second, 0, 213, yellow), (second, 214, 426, green), (second, 427, 640, violet),
    ):  # fmt: skip
        assert (np.abs(row[start:stop] - colour).sum(1) < 12).all()
    lone = pixels(strips({"all alike": [3, 3]}).png)[STRIP // 2]
    assert (np.abs(lone - violet).sum(1) < 12).all()


def test_sheets_want_something_to_show():
    for nothing in ({}, {"a": []}):
        with pytest.raises(ValueError, match="wanted one or more with numbers"):
            strips(nothing)
    with pytest.raises(ValueError, match="0 pictures in 4 columns"):
        gallery({})
    with pytest.raises(ValueError, match="0 events in 25 frames"):
        contacts(frames(), [])


def test_a_table_is_as_wide_as_its_words_and_knows_units():
    rows = {"exact": {"f1": 1.0, "bias_ms": -0.04}, "much too late": {"f1": None, "bias_ms": 60.33}}
    assert table(rows).splitlines() == [
        "                 f1  bias_ms",
        "exact          1.00      0.0",
        "much too late     –     60.3",
    ]


def test_tables_and_bars_want_equal_rows():
    for draw in (table, bars):
        with pytest.raises(ValueError, match="wanted the same measures in each"):
            draw({"a": {"f1": 1.0}, "b": {"recall": 1.0}})
        with pytest.raises(ValueError, match="or none"):
            draw({})


def test_bars_are_as_long_as_their_figures():
    shown = bars({"whole": {"f1": 1.0}, "half": {"f1": 0.5}, "none": {"f1": None}})
    assert shown.words == "bars of f1: whole, half, none"
    red = np.abs(pixels(shown.png) - (0xD1, 0x49, 0x5B)).sum(2) < 12
    lengths = [int(row.sum()) for row in red if row.sum() > 30]  # the legend has a small square
    long, short = max(lengths), min(lengths)
    assert short / long == pytest.approx(0.5, abs=0.03)
    assert lengths == sorted(lengths, reverse=True)


def test_a_curve_goes_where_its_values_go():
    def centres(values):
        drawn = curves([0, 1, 2], {"f1": {"10 ms": values}}, "delay, ms")
        assert drawn.words == "curves over delay, ms: f1" and len(drawn.png) < 20_000
        violet = np.abs(pixels(drawn.png) - (0x44, 0x01, 0x54)).sum(2) < 60  # first of viridis
        return [np.nonzero(half)[0].mean() for half in np.array_split(violet[:, 60:], 2, axis=1)]

    left, right = centres([1.0, 0.5, 0.0])
    assert left < right - 30  # falling: on the left it is nearer to the top
    left, right = centres([0.0, 0.5, 1.0])
    assert left > right + 30


def test_curves_may_have_gaps_and_want_a_value_for_each_dose():
    assert curves([0, 1], {"a": {"x": [None, 1.0]}, "b": {"x": [None, None]}}, "dose").png
    with pytest.raises(ValueError, match="1 values of x for 2 doses"):
        curves([0, 1], {"a": {"x": [1.0]}}, "dose")
    with pytest.raises(ValueError, match="no panels"):
        curves([0, 1], {}, "dose")


def test_faults_hang_from_their_instants_and_the_late_are_shaded():
    missing, late = Fault("missing", 0.2, 0, "glass"), Fault("off", 0.5, 1, "glass", late_s=0.1)
    shown = fault_picture(knocks(), [missing, late])
    assert shown.words == "wave and faults: 1 missing, 1 off"
    plain, both = pixels(fault_picture(knocks(), []).png), pixels(shown.png)
    wave = both[20 : len(plain) // 2 - 20]
    red = (np.abs(wave - (0xD1, 0x49, 0x5B)).sum(2) < 60).any(0)
    shade = (np.abs(wave - (0xC6, 0xDA, 0xEA)).sum(2) < 20).any(0)
    at_red, shaded = np.flatnonzero(red).mean(), np.flatnonzero(shade)
    width = np.ptp(shaded) / 0.1  # pixels of a second
    assert (shaded.min() - at_red) / width == pytest.approx(0.3, abs=0.03)


def test_a_sound_without_faults_says_so_and_many_faults_stay_small():
    assert fault_picture(knocks(), []).words == "wave and faults: none"
    many = [Fault("false", 0.01 * k) for k in range(90)]
    shown, most = (fault_picture(knocks(), some) for some in (many, many[:MOST_LABELS]))
    assert shown.words == "wave and faults: 90 false"
    assert pixels(shown.png).shape == pixels(most.png).shape
    with pytest.raises(ValueError, match="N > 0"):
        fault_picture(Audio(torch.zeros(1, 0)), many)


def test_a_page_is_framed_whole():
    text = '<!doctype html><p class="a">1 < 2 & "so on"</p>'
    framed = Page(text, 300)._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', framed)[1]) == text
    assert framed.startswith("<div>") and 'height="300"' in framed and len(repr(Page(text))) < 40
