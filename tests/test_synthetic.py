"""Laws of the procedural world: what the log says is what the picture shows and the sound plays."""

import re
import string
from dataclasses import replace

import av
import numpy as np
import pytest

from foley_lab.evaluation.sync import detect_onsets, event_scores
from foley_lab.media import read_audio
from foley_lab.signals import MATERIALS, EventLog
from foley_lab.synthetic import words
from foley_lab.synthetic.dataset import make_clip, make_clips
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import FAMILIES, MIN_GAP_S, Body, make_scene
from foley_lab.synthetic.sounds import render_sound

WIDE, TALL = 16 / 9, 9 / 16
SMALL = {"seconds": 1.0, "size": (64, 48), "fps": 25.0}


def times(log: EventLog) -> list[float]:
    return [e.time_s for e in log.events]


def distance(body: Body, time_s: float, x: float, y: float) -> float:
    """From a point to a body's outline, in picture heights."""
    bx, by, angle = (float(v) for v in body.at(time_s))
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * (x - bx) + s * (y - by), c * (y - by) - s * (x - bx)
    w, h = body.width / 2, body.height / 2
    if body.look == "ball":
        turn = np.linspace(0, 2 * np.pi, 5000)
        return float(np.hypot(w * np.cos(turn) - u, h * np.sin(turn) - v).min())
    out = np.hypot(max(abs(u) - w, 0), max(abs(v) - h, 0))
    return float(out) if out else min(w - abs(u), h - abs(v))


# ------------------------------------------------------------------------------------------ scenes


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_scene(family):
    first, second = (make_scene(7, 3.0, family, split="ugly") for _ in range(2))
    assert first.log == second.log
    frames = [Painter(s, 64, 36).frame(1.0, 0.04) for s in (first, second)]
    assert np.array_equal(*frames) and frames[0].std() > 1
    assert make_scene(8, 3.0, family).log != first.log


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("aspect", [WIDE, TALL])
def test_events_are_ordered_apart_and_inside(family, aspect):
    for seed in range(8):
        log = make_scene(seed, 4.0, family, aspect).log
        assert all(0 < t < log.seconds for t in times(log))
        assert all(np.diff(times(log)) >= MIN_GAP_S)
        assert all(0 < e.strength <= 1 and e.material in MATERIALS for e in log.events)
        assert all(0 <= c.start_s < c.end_s <= log.seconds + 1e-9 for c in log.continuous)


def test_gliding_is_silent():
    logs = [make_scene(seed, 4.0, "glide").log for seed in range(10)]
    assert not any(log.events or log.continuous for log in logs)


@pytest.mark.parametrize("aspect", [WIDE, TALL])
@pytest.mark.parametrize("family", ["bounce", "pendulum", "strike", "meet"])
def test_bodies_touch_at_the_event(family, aspect):
    """At its time the contact lies on the outlines of both bodies, or of one and the floor."""
    count = 0
    for seed in range(12):
        scene = make_scene(seed, 4.0, family, aspect)
        solid = [b for b in scene.bodies if b.look != "bar"]
        for event in scene.log.events:
            x, y = event.x * aspect, event.y
            near = sorted(distance(body, event.time_s, x, y) for body in solid)
            touching = near[0] if family == "bounce" else near[1]
            assert touching < 5e-3  # a stroke may move that far in a tick and a half
            if family == "bounce":
                assert y == pytest.approx(scene.floor_y, abs=1e-3)
            count += 1
    assert count > 20


def test_bodies_are_apart_before_the_event():
    count = 0
    for seed in range(12):
        scene = make_scene(seed, 4.0, "strike")
        thing, head = scene.bodies[0], scene.bodies[2]
        if thing.look != "box" or len(scene.bodies) > 3:
            continue
        for event in scene.log.events:
            x, y, _ = head.at(event.time_s - 0.02)
            assert distance(thing, 0, float(x), float(y)) > head.width / 2 + 1e-3
            count += 1
    assert count > 10


@pytest.mark.parametrize("aspect", [WIDE, TALL])
def test_standing_feet_stay_where_they_landed(aspect):
    for seed in range(8):
        scene = make_scene(seed, 4.0, "footsteps", aspect)
        feet = [b for b in scene.bodies if b.shadow]
        for event in scene.log.events:
            foot = feet[event.object]
            landed, later = foot.at(event.time_s), foot.at(min(event.time_s + 0.15, 3.9))
            assert landed[1] + foot.height / 2 == pytest.approx(scene.floor_y, abs=2e-3)
            passed = min(event.time_s + 0.15, 3.9) - event.time_s
            with_floor = landed[0] + scene.floor_speed * passed
            wrapped = abs(later[0] - with_floor) > 0.8 * aspect
            assert wrapped or later[0] == pytest.approx(with_floor, abs=2e-3)
            assert abs(landed[0] - event.x * aspect) < 2e-3


def test_most_events_can_be_seen():
    logs = [make_scene(seed, 8.0, family).log for family in FAMILIES for seed in range(12)]
    seen = [e.visible for log in logs for e in log.events]
    assert np.mean(seen) > 0.9


def test_the_floor_runs_under_a_walker():
    scenes = (make_scene(seed, 2.0, "footsteps") for seed in range(20))
    scene = next(s for s in scenes if s.floor_speed and s.floor_material in ("gravel", "wood"))
    scene = replace(scene, bodies=[])
    painter = Painter(scene, 160, 90)
    painter.path[:] = (1, 0, 0, 0)  # the camera itself holds still
    below = int(scene.floor_y * 90) + 3
    frames = [painter.draw(t) for t in (0.0, 0.1)]
    moved = round(scene.floor_speed * 0.1 * 90)
    middle = slice(30, 130)
    shifted = np.roll(frames[0], moved, 1)
    still = np.abs(frames[1] - frames[0])[below:, middle].mean()
    along = np.abs(frames[1] - shifted)[below:, middle].mean()
    assert along < 0.5 * still


def test_splits_differ_in_picture():
    clean, ugly = (make_scene(3, 2.0, "bounce", split=s) for s in ("clean", "ugly"))
    assert times(clean.log) == times(ugly.log)
    assert [e.material for e in clean.log.events] == [e.material for e in ugly.log.events]
    frames = [Painter(s, 96, 54).frame(0.5, 0.04).astype(float) for s in (clean, ugly)]
    assert np.abs(frames[0] - frames[1]).mean() > 3


@pytest.mark.parametrize(
    "wrong", [{"family": "dance"}, {"split": "dirty"}, {"seconds": 0.0}, {"seconds": float("nan")}]
)
def test_unknown_scenes_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        make_scene(0, **wrong)


# -------------------------------------------------------------------------------------------- logs


def test_log_survives_json():
    for family in FAMILIES:
        log = make_scene(5, 3.0, family).log
        assert EventLog.from_json(log.to_json()) == log


def test_another_material_keeps_the_times():
    log = make_scene(5, 3.0, "tumble").log
    other = log.with_material("glass")
    assert times(other) == times(log)
    assert {e.material for e in other.events} == {"glass"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"events": 3}'])
def test_other_json_is_no_log(text):
    with pytest.raises(ValueError, match="not an event log"):
        EventLog.from_json(text)


# ------------------------------------------------------------------------------------------- words


def named(prompt: str) -> list[str]:
    """Materials a prompt names, in the order of its words."""
    places = [
        (found.start(), material)
        for material, known in words.MATERIAL_WORDS.items()
        for word in known
        for found in re.finditer(rf"\b{word}\b", prompt)
    ]
    return [material for _, material in sorted(places)]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_name_their_material(family):
    rng = np.random.default_rng(0)
    said = set()
    for seed in range(6):
        log = make_scene(seed, 4.0, family).log
        material = words.main_material(log)
        surfaces = {t.surface for t in (*log.events, *log.continuous)}
        for _ in range(30):
            prompt = words.prompt_for(log, rng)
            said.add(prompt)
            assert "{" not in prompt and "  " not in prompt and prompt == prompt.strip()
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", prompt)
            if material is None:
                assert not named(prompt)
            else:
                assert material in named(prompt) and set(named(prompt)) <= {material, *surfaces}
    assert len(said) > 5


def test_words_are_not_shared():
    known = [w for ws in words.MATERIAL_WORDS.values() for w in ws]
    assert len(known) == len(set(known))
    fixed = {w for ts in words._TEMPLATES.values() for t in ts for w in re.findall(r"\w+", t)}
    assert not fixed & {part for w in known for part in w.split()} - {"a"}


def test_wordings_have_the_fields_they_are_given():
    for templates in (*words._TEMPLATES.values(), words._PLAIN):
        for template in templates:
            fields = {name for _, name, _, _ in string.Formatter().parse(template) if name}
            assert fields & {"a", "n"} and fields <= {"a", "n", "s"}


def test_contradictions_name_another_material():
    rng = np.random.default_rng(1)
    for seed in range(60):
        log = make_scene(seed, 4.0).log
        material, prompt = words.contradiction(log, rng)
        assert material != words.main_material(log) and material in named(prompt)


# ------------------------------------------------------------------------------------------- sound


def test_onsets_lie_at_the_events():
    """Rolls and scrapes are rough by themselves: only clips of instants are judged."""
    found, true, shift = [], [], 0.0
    for seed in range(12):
        family = ("bounce", "strike", "footsteps", "pendulum", "meet", "tumble")[seed % 6]
        log = replace(make_scene(seed, 4.0, family).log, continuous=[])
        found += [t + shift for t in detect_onsets(render_sound(log))]
        true += [t + shift for t in times(log)]
        shift += 10.0
    scores = event_scores(found, true)
    assert scores["f1"]["20"] >= 0.9
    assert abs(scores["bias_ms"]) < 2


# ------------------------------------------------------------------------------------------- files


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_equal_arguments_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        make_clip(tmp_path / name, "clip", 4, family="bounce", split="ugly", **SMALL)
    first = contents(tmp_path / "a")
    assert list(first) == ["clip.json", "clip.mp4", "clip.wav"]
    assert first == contents(tmp_path / "b")


def test_workers_change_nothing(tmp_path):
    made = list(make_clips(tmp_path / "one", 3, 20, families=["bounce", "roll"], **SMALL))
    assert [p.name for p in made] == ["0000.mp4", "0001.mp4", "0002.mp4"]
    list(make_clips(tmp_path / "two", 3, 20, families=["bounce", "roll"], workers=2, **SMALL))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    logs = [EventLog.from_json((tmp_path / f"one/000{k}.json").read_text()) for k in range(3)]
    assert [log.family for log in logs] == ["bounce", "roll", "bounce"]
    assert [log.seed for log in logs] == [20, 21, 22]


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 12.5])
def test_film_sound_and_log_agree(tmp_path, fps):
    path = make_clip(tmp_path, "x", 6, 2.0, "strike", (96, 64), fps)
    log = EventLog.from_json(path.with_suffix(".json").read_text())
    with av.open(str(path)) as film:
        frames = [f.pts * float(f.time_base) for f in film.decode(video=0)]
    assert frames == pytest.approx([k / fps for k in range(len(frames))], abs=1e-4)
    assert log.seconds == pytest.approx(len(frames) / fps) and log.size == (96, 64)
    assert log.fps == fps
    exact = read_audio(path.with_suffix(".wav")).samples.numpy()
    assert exact.shape == (1, round(log.seconds * 48_000))
    assert np.abs(exact[0] - render_sound(log)).max() < 1e-6
    coded = read_audio(path).samples.numpy().mean(0)[: exact.shape[1]]
    lags = np.arange(-60, 61)
    match = [np.dot(np.roll(coded, -k), exact[0][: coded.size]) for k in lags]
    assert lags[int(np.argmax(match))] == 0


def test_a_silent_film_has_no_sound(tmp_path):
    path = make_clip(tmp_path, "x", 6, silent=True, **SMALL)
    with av.open(str(path)) as film:
        assert not film.streams.audio and film.streams.video
    assert path.with_suffix(".wav").exists()


def test_a_broken_clip_leaves_nothing(tmp_path, monkeypatch):
    from foley_lab.synthetic import dataset

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(dataset, "write_audio", full_disk)
    with pytest.raises(OSError, match="no space"):
        make_clip(tmp_path, "x", 6, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"seed": -1},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"seconds": 601},
        {"size": (97, 64)},
        {"size": (8, 8)},
        {"size": (5000, 720)},
        {"size": (4096, 16)},
        {"fps": 0},
        {"fps": float("inf")},
        {"split": "dirty"},
        {"families": ["dance"]},
        {"workers": 0},
    ],
)
def test_requests_are_checked_at_the_door(tmp_path, wrong):
    with pytest.raises(ValueError, match="wanted") as caught:
        make_clips(tmp_path / "new", **{"count": 1, "seed": 0, **wrong})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
