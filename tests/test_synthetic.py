"""Laws of the procedural world: what the log says is what the picture shows and the sound plays."""

import json
import re
import string
from dataclasses import asdict, replace

import av
import numpy as np
import pytest

from foley_lab.evaluation.sync import detect_onsets, event_scores
from foley_lab.media import read_audio
from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic import words
from foley_lab.synthetic.dataset import make_clip, make_clips, make_pairs, ugly_format
from foley_lab.synthetic.pairs import FACTORS, can_change, counterfactual, pair
from foley_lab.synthetic.picture import Painter, Style, texture
from foley_lab.synthetic.preview import frames_of, sound_of, stems_of
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
    assert render_sound(first.log).tobytes() == render_sound(second.log).tobytes()
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


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "glide"])
def test_every_family_sounds_and_knows_its_sizes(family):
    logs = [make_scene(seed, 4.0, family).log for seed in range(12)]
    assert sum(bool(log.events or log.continuous) for log in logs) > 6
    things = [t for log in logs for t in (*log.events, *log.continuous)]
    assert all(0.04 < t.size < 0.6 for t in things)
    assert len({t.size for t in things}) > 5


def test_families_keep_their_places():
    """Checkpoints name families by number."""
    assert list(FAMILIES) == [
        "bounce", "tumble", "pendulum", "strike", "footsteps", "typing", "meet", "drops", "scrape",
        "roll", "glide", "machine", "bell",
    ]  # fmt: skip


def test_machines_keep_their_rhythm():
    count = 0
    for seed in range(20):
        gaps = np.diff(times(make_scene(seed, 4.0, "machine").log))
        assert np.ptp(gaps) < 1e-5 if gaps.size else True
        assert all(0.19 < gap < 1.26 for gap in gaps)
        count += gaps.size
    assert count > 60


def test_gliding_is_silent():
    logs = [make_scene(seed, 4.0, "glide").log for seed in range(10)]
    assert not any(log.events or log.continuous for log in logs)


@pytest.mark.parametrize("aspect", [WIDE, TALL])
@pytest.mark.parametrize("family", ["bounce", "pendulum", "strike", "meet", "machine", "bell"])
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


@pytest.mark.parametrize("family", ["machine", "bell"])
def test_machines_and_bells_are_apart_before_the_event(family):
    """The log's material may be that of several bodies: the two that touch are heard and near."""
    count = 0
    for seed in range(20):
        scene = make_scene(seed, 4.0, family)
        heard = [b for b in scene.bodies if b.heard]
        assert len(heard) in (1, 2)  # one where nothing is struck
        for event in scene.log.events:
            x, y = event.x * WIDE, event.y
            moved = max(
                distance(b, event.time_s - 0.03, x, y) - distance(b, event.time_s, x, y)
                for b in heard
            )
            assert moved > 2e-3
            count += 1
    assert count > 60


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
    scenes = (make_scene(seed, 2.0, "footsteps") for seed in range(60))
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


def test_what_is_off_screen_is_heard_alone():
    count = clips = 0
    families = [f for f in FAMILIES if f != "tumble"]  # simulated, slow to make twice
    for seed in range(120):
        family = families[seed % len(families)]
        whole = make_scene(seed, 2.0, family, split="ugly")
        seen = make_scene(seed, 2.0, family, split="ugly", off_screen=False)
        hidden = [e for e in whole.log.events if e.off_screen]
        assert [e for e in whole.log.events if not e.off_screen] == seen.log.events
        assert whole.log.continuous == seen.log.continuous
        assert whole.log.prompt == seen.log.prompt
        assert not any(e.off_screen for e in make_scene(seed, 2.0, family).log.events)
        clips += bool(seen.log.events or seen.log.continuous)
        if not hidden:
            continue
        count += 1
        assert len({e.material for e in hidden}) == 1 and len(hidden) <= 4
        sounding = {e.material for e in seen.log.events} | {e.surface for e in seen.log.events}
        assert hidden[0].material not in sounding | set(named(whole.log.prompt))
        assert all(np.diff(times(whole.log)) >= MIN_GAP_S)
        assert not {e.object for e in hidden} & {e.object for e in seen.log.events}
        assert words.main_material(whole.log) == words.main_material(seen.log)
        frames = [Painter(s, 48, 32).frame(hidden[0].time_s, 0.04) for s in (whole, seen)]
        assert np.array_equal(*frames)
        gone = render_sound(whole.log) - render_sound(seen.log)
        assert np.abs(gone).max() > 1e-3
        dyed = whole.log.with_material("glass").events
        assert [e for e in dyed if e.off_screen] == hidden
    assert 0.07 < count / clips < 0.26


def test_some_ugly_clips_are_dark():
    rng = np.random.default_rng(0)
    styles = [Style.draw(rng, "ugly") for _ in range(400)]
    dark = [s for s in styles if s.light < 0.5]
    assert 0.09 < len(dark) / 400 < 0.21 and min(s.noise for s in dark) > 5
    assert {s.background for s in styles} == set(range(6))
    assert min(Style.draw(rng, "clean").light for _ in range(100)) > 0.8


def test_cloth_looks_like_nothing_else():
    """Alone it is violet or pink and checked: bright and dark bands even after a strong blur."""
    for seed in range(10):
        small = texture("cloth", 24, seed, flat=True)
        red, green, blue = small.mean((0, 1))
        assert green < 0.85 * min(red, blue)
        others = [texture(m, 24, seed, flat=True) for m in ("plastic", "rubber", "glass")]
        assert small.std((0, 1)).mean() > 3 * max(o.std((0, 1)).mean() for o in others)


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


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("events", 0, "time_s"), float("nan"), "event 0 at nan s"),
        (("events", 0, "time_s"), -0.1, "a time from 0 on"),
        (("events", 0, "time_s"), "soon", "event 0 at 'soon'"),
        (("events", 0, "strength"), 9, "a strength from 0 to 1"),
        (("continuous", 0, "end_s"), 0.1, "a later end"),
        (("continuous", 0, "speed"), [float("inf")], "finite speeds"),
        (("seconds",), 0, "wanted more than 0"),
    ],
)
def test_numbers_that_no_clip_can_have_are_refused(where, value, says):
    lasting = [Interval("roll", 0.1, 0.5)]
    raw = json.loads(EventLog("x", 0, 1.0, events=[Event(0.2)], continuous=lasting).to_json())
    *path, last = where
    place = raw
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises(ValueError, match=says):
        EventLog.from_json(json.dumps(raw))


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


# ------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_differ_in_one_factor(family, factor):
    free = {"material", "surface"} if factor in ("material", "surface") else {factor}

    def rest(log):
        """Times, places, objects and all else that the factor leaves alone."""
        things = (*log.events, *log.continuous)
        return [{k: v for k, v in asdict(t).items() if k not in free} for t in things]

    for seed in range(3):
        log = make_scene(seed, 3.0, family).log
        if not can_change(log, factor):
            with pytest.raises(ValueError, match=f"no {factor} to change"):
                counterfactual(log, factor)
            continue
        first, second = pair(seed, factor, 3.0, family)
        assert first.log == log
        assert rest(second.log) == rest(log)
        before, after = (asdict(s.log) for s in (first, second))
        things = zip(
            before["events"] + before["continuous"],
            after["events"] + after["continuous"],
            strict=True,
        )
        assert any(a.get(factor) != b.get(factor) for a, b in things)
        assert second.log == pair(seed, factor, 3.0, family)[1].log
        sounds = [render_sound(s.log) for s in (first, second)]
        assert np.abs(sounds[0] - sounds[1]).max() > 1e-4


def test_a_new_material_is_seen_heard_and_named():
    for family in ("bounce", "footsteps", "drops", "bell", "tumble"):
        seed = next(s for s in range(20) if make_scene(s, 2.0, family).log.events)
        first, second = pair(seed, "material", 2.0, family)
        old, new = (words.main_material(s.log) for s in (first, second))
        assert old != new and new in named(second.log.prompt)
        frames = [Painter(s, 96, 54).frame(1.0, 0.04).astype(int) for s in (first, second)]
        assert np.abs(frames[0] - frames[1]).max() > 30
        same = [b.track is c.track for b, c in zip(first.bodies, second.bodies, strict=True)]
        assert all(same)


def test_strength_and_size_leave_the_picture():
    for factor in ("strength", "size"):
        first, second = pair(3, factor, 2.0, "bounce")
        assert first.bodies is second.bodies and first.log.prompt == second.log.prompt


def test_pairs_take_the_value_they_are_given():
    log = make_scene(3, 2.0, "bounce").log
    assert {e.material for e in counterfactual(log, "material", "cloth").events} == {"cloth"}
    halved = counterfactual(log, "size", 0.5).events
    assert [e.size for e in halved] == pytest.approx([e.size / 2 for e in log.events], abs=1e-4)
    for factor, wrong in (("material", "cheese"), ("strength", 1.0), ("size", -2), ("colour", 2)):
        with pytest.raises(ValueError, match="wanted"):
            counterfactual(log, factor, wrong)


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


def test_ugly_clips_come_in_many_formats():
    formats = [ugly_format(seed) for seed in range(200)]
    assert {round(fps, 2) for _, fps in formats} == {24, 25, 29.97, 30, 60}
    sizes = {size for size, _ in formats}
    assert (1280, 720) in sizes and (720, 1280) in sizes
    assert all(n % 2 == 0 for size in sizes for n in size)
    assert all(abs(w * h / (1280 * 720) - 1) < 0.01 for w, h in sizes)
    assert ugly_format(3, 96 * 54)[0][0] < 100


def test_format_is_drawn_only_if_nothing_is_asked(tmp_path):
    seed = next(s for s in range(50) if ugly_format(s)[0] == (720, 1280))
    made = {
        "drawn": {"split": "ugly"},
        "clean": {"split": "clean"},
        "asked": {"split": "ugly", "size": (64, 48)},
    }
    logs = {}
    for name, request in made.items():
        path = make_clip(tmp_path, name, seed, 0.1, "bounce", **request)
        logs[name] = EventLog.from_json(path.with_suffix(".json").read_text())
    assert (logs["drawn"].size, logs["drawn"].fps) == ugly_format(seed)
    assert (logs["clean"].size, logs["clean"].fps) == ((1280, 720), 25.0)
    assert (logs["asked"].size, logs["asked"].fps) == ((64, 48), 25.0)


def test_stems_are_written_and_add_up(tmp_path):
    path = make_clip(tmp_path, "x", 6, family="tumble", stems=True, **SMALL)
    log = EventLog.from_json(path.with_suffix(".json").read_text())
    parts = sorted(tmp_path.glob("x.stem-*.wav"))
    objects = {f"x.stem-{t.object}.wav" for t in (*log.events, *log.continuous)}
    assert {p.name for p in parts} == {*objects, "x.stem-room.wav"}
    total = sum(read_audio(p).samples for p in parts)
    assert (total - read_audio(path.with_suffix(".wav")).samples).abs().max() < 1e-5


def test_pairs_are_written(tmp_path):
    made = list(make_pairs(tmp_path, 2, 5, "material", families=["bounce"], **SMALL))
    assert [[p.name for p in two] for two in made] == [
        ["0000-a.mp4", "0000-b.mp4"], ["0001-a.mp4", "0001-b.mp4"]
    ]  # fmt: skip
    for a, b in made:
        logs = [EventLog.from_json(p.with_suffix(".json").read_text()) for p in (a, b)]
        assert times(logs[0]) == times(logs[1]) and logs[0].seed == logs[1].seed
        assert words.main_material(logs[0]) != words.main_material(logs[1])
    with pytest.raises(ValueError, match="without a material to change"):
        list(make_pairs(tmp_path / "none", 1, 0, "material", families=["glide"], **SMALL))
    with pytest.raises(ValueError, match="unknown factor"):
        make_pairs(tmp_path, 1, 0, "colour")


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


# Previews


def test_a_preview_is_the_scene_of_the_files(tmp_path):
    scene = make_scene(91, 1.0, "bounce")
    frames = frames_of(scene, 72, 20.0)
    assert frames.images.shape == (20, 72, 128, 3)
    assert frames.times_s.tolist() == pytest.approx([k / 20 for k in range(20)])
    painted = next(Painter(make_scene(91, 1.0, "bounce"), 128, 72).frames(20.0, 1))
    assert np.array_equal(frames.images[0].numpy(), painted)
    make_clip(tmp_path, "0", 91, 1.0, "bounce", (128, 72), 20.0)
    written = read_audio(tmp_path / "0.wav").samples
    assert abs(sound_of(scene.log).samples - written).max() < 1e-4


def test_stems_of_a_preview_are_named_after_what_sounds():
    log = make_scene(91, 3.0, "bounce").log
    stems = stems_of(log)
    assert list(stems) == ["0 plastic", "1 wood", "room"]
    total = sum(stem.samples for stem in stems.values())
    assert abs(total - sound_of(log).samples).max() < 1e-6


def test_a_preview_refuses_odd_heights():
    for height in (15, 0, 73):
        with pytest.raises(ValueError, match="wanted an even number"):
            frames_of(make_scene(1, 1.0), height)
