"""Samplers on the page: the front is right, every film is where it belongs, moments are kept."""

from __future__ import annotations

import html
import io
import itertools
import re
import shutil
import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("ipywidgets")
from PIL import Image

from foley_lab.media import read_audio
from foley_lab.signals import Audio, FoleyError, Frames, View
from foley_lab.widgets import panel as panel_module
from foley_lab.widgets.axes import Axis, Spot, fitted_axis, free_places, written
from foley_lab.widgets.forming import MOST_MOMENTS, Forming, Moment
from foley_lab.widgets.panel import MOST_RESULTS, NO_KERNEL, Panel, Settings
from foley_lab.widgets.pareto import COLOURS, Pareto
from foley_lab.widgets.points import Measure, Point, pareto_front

RATE, SECONDS = 48_000, 6.0
F1 = Measure("f1", "F1 at 40 ms")
DISTANCE = Measure("distance", "spectral distance", False, True, 3)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def frames(seconds: float = SECONDS) -> Frames:
    """A grey clip that grows lighter, 5 pictures a second."""
    times = np.arange(round(5 * seconds)) / 5
    images = np.empty((len(times), 36, 64, 3), np.uint8)
    images[:] = (40 + 30 * times)[:, None, None, None]
    return Frames(
        torch.from_numpy(images), torch.from_numpy(times), View("page", Fraction(0), 36, 64)
    )


def tone(hz: float, seconds: float = SECONDS) -> Audio:
    time_s = torch.arange(round(RATE * seconds)) / RATE
    return Audio(0.3 * torch.sin(2 * torch.pi * hz * time_s)[None])


def point(sampler="ab2", steps=8, ms=80.0, f1=0.9, distance: float | None = 0.1, hz=0.0) -> Point:
    sound = tone(hz) if hz else None
    return Point(sampler, steps, steps, ms / 1000, {"f1": f1, "distance": distance}, sound)


def family() -> list[Point]:
    """Nine points, four to be heard; of each sampler more steps are dearer and better."""
    points = []
    for sampler, loss in (("euler", 0.3), ("ab2", 0.2), ("rk4", 0.1)):
        for steps in (2, 4, 8):
            hz = 100.0 * steps if sampler == "ab2" else 1500.0 if steps == 2 else 0.0
            heard = hz if sampler != "rk4" else 0.0
            ms = 10 * steps * (4 if sampler == "rk4" else 1)
            points.append(point(sampler, steps, ms, 1 - loss / steps, loss / steps, heard))
    return points


def full_pareto() -> Pareto:
    points = family()
    reference = point("euler", 128, 1280, 0.99, 0.001, hz=2500.0)
    return Pareto(points, [F1, DISTANCE], frames(), points[5], reference)


def bare(page: str) -> str:
    """Without scripts, styles and media."""
    page = re.sub(
        r'(base64,)[^"]+|(?<=\s)on\w+="[^"]*"|<style>.*?</style>', r"\1", page, flags=re.S
    )
    return re.sub(r"\s+", " ", page)


def dominated(one: Point, points: list[Point], measure: Measure) -> bool:
    """By the words of the definition, each against each."""
    sign = 1 if measure.higher_is_better else -1
    mine = (-one.price_s, sign * one.measures[measure.name])
    others = [(-p.price_s, sign * p.measures[measure.name]) for p in points]
    return any(o[0] >= mine[0] and o[1] >= mine[1] and o != mine for o in others)


@pytest.mark.parametrize("measure", [F1, DISTANCE])
def test_the_front_is_what_nothing_dominates(measure):
    draw = np.random.default_rng(3)
    for _ in range(20):
        # Few different values, so that there are equals in price, in quality and in both.
        figures = draw.integers(1, 7, (15, 2))
        points = [point(ms=int(p), f1=int(q), distance=int(q)) for p, q in figures]
        front = pareto_front(points, measure)
        assert set(front) == {p for p in points if not dominated(p, points, measure)}
        assert [p.price_s for p in front] == sorted(p.price_s for p in front)


def test_what_was_not_measured_is_on_no_front():
    known, unknown = point(distance=0.5), point(ms=1, distance=None)
    assert pareto_front([unknown, known], DISTANCE) == [known]
    assert pareto_front([unknown, replace(known, measures={})], DISTANCE) == []


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0.62, 1.0, 0, 100), ["0.7", "0.8", "0.9", "1.0"]),
        (Axis(-0.5, 12, 0, 100), ["0", "2", "4", "6", "8", "10", "12"]),
        (Axis(8, 2500, 0, 1, True), ["10", "20", "50", "100", "200", "500", "1_000", "2_000"]),
        (Axis(0.008, 20_000, 0, 1, True), ["0.01", "0.1", "1", "10", "100", "1_000", "10_000"]),
    ],
)
def test_ticks_are_round_and_not_too_many(axis, ticks):
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert [t.replace(thin, "_") for t in axis.ticks().values()] == ticks
    assert all(axis.low <= value <= axis.high for value in axis.ticks())


def test_axes_hold_their_values_inside_even_a_single_one():
    for values, logarithmic in (([3.0], False), ([0.0], False), ([40.0], True), ([1, 9e4], True)):
        axis = fitted_axis(values, 0, 100, logarithmic)
        assert all(1 < axis.place(value) < 99 for value in values)
        assert len(axis.ticks()) >= 2
    even = fitted_axis([10, 100, 1000], 500, 0, True)
    assert even.place(100) == pytest.approx(250)
    assert even.place(10) - even.place(100) == pytest.approx(even.place(100) - even.place(1000))


def test_figures_show_three_digits_that_count():
    assert [written(v) for v in (0.01234, 1.5, 99.94, 100.4, 1234.5)] == [
        "0.0123", "1.5", "99.9", "100", "1\N{NARROW NO-BREAK SPACE}234",
    ]  # fmt: skip


def test_a_label_that_finds_no_room_gives_way_to_one_of_better_rank():
    crowd = [Spot(50, 50, 5, "8", rank=k) for k in range(30)]
    places = free_places(crowd, (0, 0, 100, 100))
    assert places[0] == (50, 39) and None in places
    assert free_places(crowd[::-1], (0, 0, 100, 100))[-1] == (50, 39)
    assert free_places([Spot(50, 50, 5, "8", below=True)], (0, 0, 100, 100)) == [(50, 61)]
    assert free_places([Spot(5, 5, 5, "128")], (0, 0, 12, 12)) == [None]


def test_a_plot_for_each_measure_and_the_first_is_shown():
    page = bare(full_pareto()._repr_html_())
    assert re.findall(r'<svg class="plot"[^>]*data-plot="(\w+)"[^>]*?( hidden)?>', page) == [
        ("f1", ""), ("distance", " hidden"),
    ]  # fmt: skip
    assert re.findall(r'data-measure="\w+" aria-pressed="(\w+)">([^<]+)<', page) == [
        ("true", "F1 at 40 ms"), ("false", "spectral distance"),
    ]  # fmt: skip
    assert page.count('class="ring" r="11.5"') == 2  # the default, once in each plot
    assert "lower is better" in page and page.count('class="front" d="M') == 3  # and the legend


def test_what_can_be_heard_is_filled_and_pressed_all_else_is_hollow():
    page = bare(full_pareto()._repr_html_())
    first = page[: page.index("</svg>")]
    marks = re.findall(r'<g class="point([^"]*)"[^>]*tabindex="0" role="(\w+)".*?</g>', first)
    assert len(marks) == 9
    assert sorted(role for kind, role in marks if "heard" in kind) == ["button"] * 4
    assert {role for kind, role in marks if "heard" not in kind} == {"img"}
    assert first.count("fill:#") == 4


def test_every_point_plays_its_own_film(tmp_path):
    shown = full_pareto()
    page = bare(shown._repr_html_())
    first = page[: page.index("</svg>")]
    linked = dict(re.findall(r'data-film="(\d+)" data-row="\d+" data-name="([^"]+)"', first))
    reference = re.search(r'data-film="(\d+)" aria-pressed="false">reference: ([^<]+)', page)
    films = [(int(key), name) for key, name in [*linked.items(), (reference[1], reference[2])]]
    wanted = {
        "ab2, 2 steps": 200, "ab2, 4 steps": 400, "ab2, 8 steps": 800, "euler, 2 steps": 1500,
        "euler, 128 steps": 2500,
    }  # fmt: skip
    assert sorted(name for _, name in films) == sorted(wanted) and len(shown.films) == 5
    for key, name in films:
        (tmp_path / "film.mp4").write_bytes(shown.films[key])
        heard = np.abs(np.fft.rfft(read_audio(tmp_path / "film.mp4").samples[0].numpy()))
        assert heard.argmax() / SECONDS == pytest.approx(wanted[name], abs=2)


def test_names_are_escaped_and_nothing_is_loaded():
    sly = '<img src=x onerror="1">'
    measure = Measure('f1"><b>', "<i>F1</i>")
    one = Point(sly, 1, 1, 0.1, {measure.name: 0.5})
    page = Pareto([one], [measure], price="<u>")._repr_html_()
    assert not re.search(r"<(img|b|i|u)\b", page) and html.escape(sly) in page
    full = (
        full_pareto()._repr_html_() + Forming(frames(), [Moment(1, 0.0, tone(200))])._repr_html_()
    )
    assert (
        "http" not in full and "<script" not in full and not re.search(r'\s(id|name|for)="', full)
    )


def test_samplers_look_different_as_long_as_they_can():
    many = [point(f"sampler {k}", 1, 10 + k) for k in range(3 * len(COLOURS))]
    looks = Pareto(many, [F1]).looks
    assert len(set(looks.values())) == len(many)


def test_a_pareto_without_sounds_has_no_films():
    silent = Pareto([point(), point("rk4", f1=0.5)], [F1])
    page = bare(silent._repr_html_())
    assert "<video" not in page and "hollow" not in page and 'role="button"' not in page
    assert repr(silent) == "Pareto(2 points, 0 films, f1)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": []}, "0 points and 1 measures"),
        ({"measures": []}, "1 points and 0 measures"),
        ({"measures": [F1, F1]}, "wanted each name once"),
        ({"points": [point(ms=0.0)]}, "ab2, 8 steps at 0.0 s, wanted a price above 0"),
        ({"points": [point(ms=float("nan"))]}, "wanted a price above 0"),
        ({"points": [point(f1=float("nan"))]}, r"f1 is \[nan\], wanted finite numbers"),
        ({"points": [point(distance=0.0)], "measures": [DISTANCE]}, "wanted numbers above 0"),
        ({"points": [point(distance=None)], "measures": [DISTANCE]}, "at least one"),
        ({"default": point()}, "default ab2, 8 steps is no point"),
        ({"reference": point()}, "without a sound"),
        ({"reference": point(hz=100)}, "no point with a sound"),
        ({"points": [point(hz=100)]}, "1 sounds without a picture, wanted `frames` too"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Pareto(**({"points": [point()], "measures": [F1]} | change))


def moments(count: int = 4) -> list[Moment]:
    return [Moment(k, 1 - k / (count - 1 or 1), tone(300 * (k + 1))) for k in range(count)]


def test_forming_shows_the_last_moment_first():
    page = bare(Forming(frames(), moments())._repr_html_())
    videos = re.findall(r"<video [^>]*>", page)
    images = re.findall(r"<img[^>]*>", page)
    assert len(videos) == len(images) == 4
    for shown in (videos, images):
        assert [" hidden" in one for one in shown] == [True, True, True, False]
    assert 'max="3" step="1" value="3"' in page and "<span>3 steps done, t = 0.00</span>" in page
    assert page.index("<span hidden>1 step done, t = 0.67</span>")


def test_forming_draws_sounds_on_one_scale_and_keeps_them_small():
    loud, soft = tone(4000), Audio(tone(4000).samples / 100)  # 40 of the 80 dB lower
    shown = Forming(frames(), [Moment(0, 1.0, soft), Moment(1, 0.0, loud)])
    soft_picture, loud_picture = (
        np.asarray(Image.open(io.BytesIO(png)).convert("L"), float) for png in shown.pictures
    )
    row = loud_picture.mean(1).argmax()
    assert row / len(loud_picture) == pytest.approx(1 - 4 / 16, abs=0.03)
    assert 0.2 < soft_picture[row].mean() / loud_picture[row].mean() < 0.7
    noise = Audio(torch.rand(1, 8 * RATE, generator=torch.Generator().manual_seed(0)) - 0.5)
    assert len(Forming(frames(), [Moment(1, 0.0, noise)]).pictures[0]) < 20_000


def test_forming_can_show_silence_and_a_single_moment():
    alone = Forming(frames(), [Moment(4, 0.0, Audio(torch.zeros(1, RATE)))])
    assert 'max="0"' in alone._repr_html_() and repr(alone) == "Forming(after 4 steps)"


def test_forming_refuses_what_it_cannot_show():
    for count in (0, MOST_MOMENTS + 1):
        with pytest.raises(ValueError, match=f"{count} moments, wanted 1 to 16"):
            Forming(frames(), moments()[:1] * count)
    with pytest.raises(ValueError, match=r"steps \[1, 0\], wanted them rising"):
        Forming(frames(), moments(2)[::-1])


SETTINGS = Settings(8, "ab2", "constant", 2.0)
FIGURES = {"calls": 8, "milliseconds": 87.25, "distance": 0.12345}


def make_panel(render=None, **change) -> Panel:
    def answer(settings):
        return tone(300, 1), {"calls": settings["num_steps"], "milliseconds": 1234.5}

    options = {"samplers": ["euler", "ab2"], "guidances": ["none", "constant"]} | change
    return Panel(
        frames(1), tone(200, 1), render or answer, options.pop("settings", SETTINGS), tone(250, 1),
        FIGURES, **options,
    )  # fmt: skip


def test_a_panel_begins_with_the_result_that_was_made():
    panel = make_panel()
    page = bare(panel._repr_html_())
    assert "calls 8 · milliseconds 87.2 · distance 0.123" in page
    assert re.findall(r">([^<>]+)</button>", page) == ["ab2, 8 steps", "reference"]
    assert panel.settings == SETTINGS and repr(panel) == "Panel(8, ab2, constant, 2.0)"
    assert panel.history.value.count("<tr>") == 2


def test_the_button_hands_over_the_settings_and_shows_the_result():
    asked = []

    def render(settings):
        asked.append((settings, panel.button.disabled, panel.said.value))
        return tone(300, 1), {"calls": 7}

    panel = make_panel(render)
    panel.steps.value, panel.sampler.value, panel.scale.value = 4, "euler", 3.5
    panel.button.click()
    settings = {"num_steps": 4, "sampler": "euler", "guidance": "constant", "guidance_scale": 3.5}
    assert asked == [(settings, True, "making the sound…")]
    assert not panel.button.disabled and panel.said.value == ""
    page = bare(panel._repr_html_())
    assert "calls 7</p>" in page and ">euler, 4 steps</button>" in page


def test_an_error_is_one_line_and_the_result_stays():
    def render(_):
        raise errors.pop()

    errors = [FoleyError("no <weights>\n  here, fetch them"), KeyError("sigma")]
    panel = make_panel(render)
    before = panel._repr_html_()
    panel.button.click()
    assert ">error: KeyError: &#x27;sigma&#x27;<" in panel.said.value
    panel.button.click()
    assert ">error: no &lt;weights&gt; here, fetch them<" in panel.said.value
    assert panel._repr_html_() == before and not panel.button.disabled
    assert panel.history.value.count("<tr>") == 2


def test_an_interrupt_leaves_the_button_ready():
    def render(_):
        raise KeyboardInterrupt

    panel = make_panel(render)
    with pytest.raises(KeyboardInterrupt):
        panel.make()
    assert not panel.button.disabled and panel.said.value == ""


def test_the_history_keeps_the_last_results_newest_first():
    panel = make_panel()
    for steps in range(10, 20):
        panel.steps.value = steps
        panel.make()
    rows = re.findall(r"<tr><td [^>]*>(\d+)</td>", panel.history.value)
    assert rows == [str(19 - k) for k in range(MOST_RESULTS)]
    assert "1234" in panel.history.value


def test_one_sound_is_made_at_a_time():
    inside, go, calls = threading.Event(), threading.Event(), []

    def render(settings):
        calls.append(settings)
        inside.set()
        assert go.wait(10)
        return tone(300, 1), {}

    panel = make_panel(render)
    first = threading.Thread(target=panel.make)
    first.start()
    assert inside.wait(10)
    panel.make()  # comes back at once, nothing is made twice
    go.set()
    first.join(10)
    assert len(calls) == 1 and not panel.button.disabled


def test_a_panel_shows_its_result_as_an_output_of_its_own(monkeypatch):
    class View:
        def __init__(self, shown):
            self.shown = [shown.data]

        def update(self, shown):
            self.shown.append(shown.data)

    shown = []

    def display(what, display_id=False, raw=False):
        shown.append(View(what) if display_id else what)
        return shown[-1]

    monkeypatch.setattr(panel_module, "display", display)
    panel = make_panel()
    panel._ipython_display_()
    view, controls = shown
    assert view.shown == [panel._repr_html_()] and controls["text/plain"] == NO_KERNEL
    live = controls["application/vnd.jupyter.widget-view+json"]
    assert live["model_id"] == panel.controls.model_id
    panel.make()
    assert view.shown[1:] == [panel._repr_html_()] and view.shown[0] != view.shown[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": replace(SETTINGS, num_steps=65)}, "num_steps 65, wanted 1 to 64"),
        ({"settings": replace(SETTINGS, guidance_scale=11.0)}, "guidance_scale 11.0, wanted 0 to"),
        ({"samplers": ["euler"]}, "sampler 'ab2', wanted one of euler"),
        ({"guidances": []}, "guidance 'constant', wanted one of none"),
    ],
)
def test_a_panel_refuses_settings_it_does_not_offer(change, message):
    with pytest.raises(ValueError, match=message):
        make_panel(**change)


def exported(*pages: str, theme: str = "light") -> str:
    """Outputs as they are stored in a notebook, exported to a page."""
    nbformat, nbconvert = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert")
    v4 = nbformat.v4
    outputs = [v4.new_output("display_data", {"text/html": page}) for page in pages]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("shown", outputs=outputs)])
    return nbconvert.HTMLExporter(theme=theme).from_notebook_node(notebook)[0]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = [
        "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio",
        "--autoplay-policy=no-user-gesture-required",
    ]  # fmt: skip
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page that reaches no network and must have no errors."""
    faults, pages = [], []

    def opened(text: str, width: int = 1200):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.route(re.compile("^https?:"), lambda route: route.abort())
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        return page

    yield opened
    for page in pages:
        page.close()
    assert [fault for fault in faults if "require" not in fault and "MathJax" not in fault] == []


FILMS = """box => [...box.querySelectorAll('video')].map(
  film => ({hidden: film.hidden, paused: film.paused, time: film.currentTime}))"""


def shown_film(box) -> tuple[int, dict]:
    """Number and state of the only film that is seen; all others are still."""
    films = box.evaluate(FILMS)
    assert [film["hidden"] for film in films].count(False) == 1
    assert all(film["paused"] for film in films if film["hidden"])
    return next((k, film) for k, film in enumerate(films) if not film["hidden"])


def play(page, box, until_s: float) -> float:
    """Play the film that is seen up to a moment."""
    box.evaluate("box => { box.querySelector('video:not([hidden])').play() }")
    return wait_for(page, box, until_s)


def wait_for(page, box, until_s: float) -> float:
    deadline = time.monotonic() + 30
    while (now_s := shown_film(box)[1]["time"]) < until_s:
        assert time.monotonic() < deadline, f"at {now_s} s, wanted {until_s} s"
        page.wait_for_timeout(50)
    return now_s


@pytest.mark.browser
def test_a_click_plays_the_point_at_the_same_moment(opened):
    shown = full_pareto()
    page = opened(exported(shown._repr_html_(), full_pareto()._repr_html_()))
    other, box = page.locator(".foley-pareto").nth(0), page.locator(".foley-pareto").nth(1)
    names = [p.name for p in shown.heard]
    assert shown_film(box)[0] == names.index("ab2, 8 steps")
    left_s = play(page, box, 1.5)
    box.locator('svg.plot:visible .heard[data-name="ab2, 2 steps"]').click()
    key, film = shown_film(box)
    assert key == names.index("ab2, 2 steps") and not film["paused"]
    assert left_s <= film["time"] < left_s + 2
    wait_for(page, box, film["time"] + 0.3)  # and it goes on
    assert box.locator(".side").first.inner_text() == "ab2, 2 steps"
    assert box.locator('.heard[aria-pressed="true"]:visible').count() == 1
    # The twin in the same page has not moved.
    key, film = shown_film(other)
    assert key == names.index("ab2, 8 steps") and film["paused"] and film["time"] == 0
    rows = [one.locator("tbody tr:visible").inner_text().split()[:2] for one in (box, other)]
    assert rows == [["ab2", "2"], ["ab2", "8"]]
    box.locator('[data-measure="distance"]').click()
    assert other.locator("svg.plot:visible").get_attribute("data-plot") == "f1"


@pytest.mark.browser
def test_a_button_turns_to_the_reference_and_back(opened):
    shown = full_pareto()
    page = opened(exported(shown._repr_html_()))
    box = page.locator(".foley-pareto")
    first, last = shown_film(box)[0], len(shown.heard) - 1
    left_s = play(page, box, 0.8)
    box.locator(".side").nth(1).click()
    key, film = shown_film(box)
    assert key == last and not film["paused"] and left_s <= film["time"] < left_s + 2
    box.evaluate("box => { box.querySelector('video:not([hidden])').pause() }")
    stopped_s = shown_film(box)[1]["time"]
    box.locator(".side").nth(0).click()
    key, film = shown_film(box)
    assert key == first and film["paused"]  # what was still stays still
    assert film["time"] == pytest.approx(stopped_s, abs=0.05)
    assert box.locator('.side[aria-pressed="true"]').inner_text() == "ab2, 8 steps"


@pytest.mark.browser
def test_points_are_read_and_pressed_by_pointer_and_keyboard(opened):
    shown = full_pareto()
    page = opened(exported(shown._repr_html_()))
    box, row = page.locator(".foley-pareto"), page.locator("tbody tr:visible")
    assert row.inner_text().split()[:2] == ["ab2", "8"]
    box.locator('svg.plot:visible [data-name="rk4, 4 steps"]').hover()
    assert row.inner_text().split() == ["rk4", "4", "4", "160", "0.97", "0.025"]
    box.locator('svg.plot:visible [data-name="euler, 2 steps"]').focus()
    assert row.inner_text().split() == ["euler", "2", "2", "20", "0.85", "0.150"]
    for key in ("Enter", " "):
        name = {"Enter": "euler, 2 steps", " ": "ab2, 4 steps"}[key]
        box.locator(f'svg.plot:visible [data-name="{name}"]').focus()
        page.keyboard.press(key)
        number, film = shown_film(box)
        assert shown.heard[number].name == name and not film["paused"]
    before = shown_film(box)[0]
    box.locator('svg.plot:visible [data-name="rk4, 8 steps"]').click()  # nothing to hear there
    assert shown_film(box)[0] == before


@pytest.mark.browser
def test_a_point_under_another_is_reached_where_it_is_nearer(opened):
    under, over = point("ab2", 8, 80, 0.900, hz=300), point("rk4", 2, 80, 0.902, hz=500)
    shown = Pareto([under, over, point("euler", 1, 10, 0.8)], [F1], frames())
    page = opened(exported(shown._repr_html_()))
    places = [
        page.locator(f'svg.plot [data-name="{p.name}"] .touch').bounding_box()
        for p in (under, over)
    ]
    (x, low), (_, high) = ((b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in places)
    assert 2 < low - high < 8  # the markers overlap
    for one, y in ((under, low), (over, high)):
        page.mouse.click(x, y)
        key, film = shown_film(page.locator(".foley-pareto"))
        assert shown.heard[key] is one and not film["paused"]
        assert page.locator("tbody tr:visible").inner_text().split()[0] == one.sampler


@pytest.mark.browser
def test_measures_are_chosen_and_keep_the_chosen_point(opened):
    page = opened(exported(full_pareto()._repr_html_()))
    plot = page.locator("svg.plot:visible")
    plot.locator('.heard[data-name="ab2, 2 steps"]').click()
    page.locator('[data-measure="distance"]').click()
    assert plot.count() == 1 and plot.get_attribute("data-plot") == "distance"
    pressed = plot.locator('.heard[aria-pressed="true"]')
    assert pressed.get_attribute("data-name") == "ab2, 2 steps"


def crowded() -> Pareto:
    """As many points as a notebook may show, most of them where the others are."""
    draw = np.random.default_rng(0)
    points = [
        point(f"sampler {k}", n, 12 + 9 * n * cost, 0.93 - 0.5 * cost / n, 0.5 * cost / n**1.2)
        for k, cost in enumerate(draw.uniform(0.8, 1.3, 9))
        for n in (1, 2, 4, 8, 16, 32, 64, 128)
    ]
    return Pareto(points, [F1, DISTANCE], default=points[3])


BOXES = """svg => [...svg.querySelectorAll('text')].map(text => {
  const b = text.getBoundingClientRect(), of = svg.getBoundingClientRect();
  return [b.left - of.left, b.top - of.top, b.right - of.left, b.bottom - of.top, of.width,
          of.height, parseFloat(getComputedStyle(text).fontSize) * of.width / 640]})"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [600, 900, 1200])
def test_words_are_legible_and_do_not_touch(opened, width):
    page = opened(exported(crowded()._repr_html_()), width)
    for name in ("f1", "distance"):
        page.locator(f'[data-measure="{name}"]').click()
        boxes = page.locator("svg.plot:visible").evaluate(BOXES)
        assert len(boxes) > 40
        for left, top, right, bottom, wide, high, size in boxes:
            assert left >= 0 and top >= 0 and right <= wide + 0.5 and bottom <= high + 0.5
            assert size >= 9.5
        # The box of a line of digits is higher than its digits: an eighth above and below.
        tight = [(b[0], b[1] + b[6] / 5, b[2], b[3] - b[6] / 5) for b in boxes]
        for a, b in itertools.combinations(tight, 2):
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (a, b)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_in_both_themes(opened, theme):
    page = opened(exported(full_pareto()._repr_html_(), theme=theme))
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    plot = page.locator("svg.plot:visible")
    inks = plot.evaluate(
        "svg => [...svg.querySelectorAll('.title, .count')].map(t => getComputedStyle(t).fill)"
    )
    assert all(contrast(ink, paper) >= 7 for ink in set(inks))
    marks = plot.evaluate(
        "svg => [...svg.querySelectorAll('.mark')].map(m => m.style.fill || m.style.stroke)"
    )
    assert len(set(marks)) == 3 and all(contrast(mark, paper) >= 3 for mark in set(marks))


def contrast(ink: str, paper: str) -> float:
    """Ratio of luminances of two CSS colours, as WCAG 2 counts it; `ink` may be translucent."""

    def parts(colour):
        numbers = [float(n) for n in re.findall(r"[\d.]+", colour)]
        return np.array(numbers[:3]) / 255, numbers[3] if len(numbers) > 3 else 1.0

    def luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    (front, alpha), (ground, _) = parts(ink), parts(paper)
    levels = sorted([luminance(alpha * front + (1 - alpha) * ground), luminance(ground)])
    return (levels[1] + 0.05) / (levels[0] + 0.05)


@pytest.mark.browser
def test_every_colour_stands_out(opened):
    for colour in COLOURS:
        rgb = str([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
        assert contrast(rgb, "255, 255, 255") >= 3 and contrast(rgb, "17, 17, 17") >= 3


@pytest.mark.browser
def test_the_slider_changes_the_film_at_the_same_moment(opened):
    page = opened(exported(Forming(frames(), moments())._repr_html_()))
    box, slider = page.locator(".foley-forming"), page.locator(".foley-forming input")
    assert shown_film(box)[0] == 3
    left_s = play(page, box, 1.2)
    slider.fill("1")
    key, film = shown_film(box)
    assert key == 1 and not film["paused"] and left_s <= film["time"] < left_s + 2
    assert box.locator("output span:visible").inner_text() == "1 step done, t = 0.67"
    assert box.locator("img:visible").get_attribute("alt") == "spectrogram: 1 step done, t = 0.67"
    now_s = wait_for(page, box, film["time"] + 0.3)
    slider.press("ArrowLeft")
    key, film = shown_film(box)
    assert key == 0 and not film["paused"] and now_s <= film["time"] < now_s + 2
    assert slider.get_attribute("aria-valuetext") == "0 steps done, t = 1.00"


@pytest.mark.browser
def test_the_hand_follows_the_film_and_a_click_on_the_picture_leads_it(opened):
    page = opened(exported(Forming(frames(), moments())._repr_html_()))
    box, sight = page.locator(".foley-forming"), page.locator(".foley-forming .sight")
    page.wait_for_function("document.querySelectorAll('video')[3].readyState >= 1")
    place = sight.bounding_box()
    sight.click(position={"x": 0.5 * place["width"], "y": 20})
    page.wait_for_function("document.querySelector('.hand').style.left.startsWith('5')")
    moment_s = shown_film(box)[1]["time"]
    assert moment_s == pytest.approx(SECONDS / 2, abs=0.1)
    hand = page.locator(".hand").bounding_box()
    assert hand["x"] + 1 - place["x"] == pytest.approx(place["width"] / 2, abs=8)


STORED = """
import torch
from fractions import Fraction
from foley_lab.signals import Audio, Frames, View
from foley_lab.widgets.panel import Panel, Settings
images = torch.full((5, 36, 64, 3), 90, dtype=torch.uint8)
frames = Frames(images, torch.arange(5) / 5, View("page", Fraction(0), 36, 64))
sound = Audio(torch.zeros(1, 48_000))
Panel(frames, sound, None, Settings(8, "ab2", "off", 2.0), sound, {"calls": 8}, ["ab2"], ["off"])
"""


def test_a_stored_notebook_shows_the_first_result_without_widget_state():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    nbconvert = pytest.importorskip("nbconvert")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(STORED)])
    nbclient.NotebookClient(notebook, store_widget_state=False, kernel_name="python3").execute()
    assert "widgets" not in notebook.metadata
    page = nbconvert.HTMLExporter().from_notebook_node(notebook)[0]
    assert '<p class="figures">calls 8</p>' in page and page.count("data:video/mp4") == 2
    assert NO_KERNEL in page and "VBox" not in page
