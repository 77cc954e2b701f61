"""The eyes and their clock: what is seen does not depend on how a film is clocked or cut."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from foley_lab.encoders import small
from foley_lab.encoders.clock import (
    MAX_STEP,
    image_speed,
    instants,
    moving_frames,
    positions,
    read_stride,
    time_step,
)
from foley_lab.encoders.named import WORDS, named_material, recast
from foley_lab.encoders.small import SmallEncoder, caption, lit, pool
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import BINS, TinyConfig, TinyEyes, find_peaks
from foley_lab.encoders.track import MATERIAL_PART, ONSET_BINS, TRACK_DIM, event_track
from foley_lab.encoders.tracker import Break
from foley_lab.signals import MATERIALS, Event, EventLog, Frames, Interval, Video, View
from foley_lab.synthetic.words import MATERIAL_WORDS


@pytest.fixture(scope="module")
def encoder() -> SmallEncoder:
    torch.manual_seed(0)
    eyes = TinyEyes(TinyConfig(size=48, stem=16, trunk=16, deep=16, width=32, blocks=2))
    return SmallEncoder(eyes, MiniLMText.load())


def film(frames: int, speed: float = 3.0, size: int = 48) -> torch.Tensor:
    """A bright bar that runs to the right, uint8 [F, H, W, 3]."""
    x = torch.arange(size, dtype=torch.float32)
    at = 5 + speed * torch.arange(frames)
    bar = 200 * torch.exp(-(((x[None] - at[:, None]) % size - 6) ** 2) / 8) + 20
    return bar[:, None, :, None].expand(frames, size, size, 3).to(torch.uint8).contiguous()


def clock(frames: int, rate: float = 25.0) -> torch.Tensor:
    return torch.arange(frames, dtype=torch.float64) / rate


@pytest.mark.parametrize(
    ("rate", "stride"), [(10, 1), (24, 1), (30, 1), (50, 2), (60, 2), (187, 7)]
)
def test_fast_recordings_are_thinned_to_the_clock_of_the_eyes(rate: float, stride: int) -> None:
    assert read_stride(rate) == stride


def test_repeated_frames_are_dropped_by_content() -> None:
    frames = film(30).repeat_interleave(2, 0)
    keep = moving_frames(frames[..., 1], clock(60, 50))
    assert torch.equal(keep, torch.arange(0, 60, 2))


def test_repeated_frames_are_dropped_by_time() -> None:
    times = clock(30).repeat_interleave(2)
    keep = moving_frames(film(60)[..., 1], times)
    assert torch.equal(keep, torch.arange(0, 60, 2))


def test_a_still_film_keeps_its_frames() -> None:
    frames = torch.full((40, 48, 48), 90, dtype=torch.uint8)
    assert len(moving_frames(frames, clock(40))) == 40


def test_a_long_film_is_walked_in_chunks() -> None:
    frames = film(30).repeat_interleave(2, 0).repeat(10, 1, 1, 1)  # 600 frames
    keep = moving_frames(frames[..., 1], clock(600, 50))
    assert torch.equal(keep, torch.arange(0, 600, 2))


@pytest.mark.parametrize("speed", [0.3, 0.6, 1.0])
def test_slow_motion_is_measured_to_a_quarter(speed: float) -> None:
    assert image_speed(film(40, speed)[..., 1]) == pytest.approx(speed, rel=0.25)


def test_the_step_doubles_for_slow_motion_only() -> None:
    assert time_step(film(100, 4.0)[..., 1]) == 1
    assert time_step(film(100, 0.6)[..., 1]) in (4, MAX_STEP)


def test_positions_and_instants_undo_each_other() -> None:
    times = torch.tensor([0.0, 0.04, 0.1, 0.11, 0.3], dtype=torch.float64)
    place = torch.linspace(0, 4, 33, dtype=torch.float64)
    assert torch.allclose(positions(instants(place, times), times), place)


@pytest.mark.parametrize("at", [3.0, 7.3, 12.62, 19.9])
def test_a_bump_is_found_where_it_was_put(at: float) -> None:
    bins = torch.arange(30 * BINS) / BINS
    heat = 0.8 * torch.exp(-0.5 * ((bins - at) / 0.3) ** 2).view(30, BINS)
    found, sure = find_peaks(heat, 0.3, 2)
    assert found.tolist() == pytest.approx([at], abs=0.02)
    assert 0.6 < float(sure[0]) < 0.81


def test_the_higher_of_two_close_peaks_stays() -> None:
    heat = torch.zeros(10, BINS)
    heat[4, 0], heat[4, 2] = 0.5, 0.7
    assert find_peaks(heat, 0.3, 3)[0].tolist() == pytest.approx([4.5], abs=0.2)
    assert len(find_peaks(heat, 0.3, 1)[0]) == 2


def test_chunks_see_what_the_whole_sees(
    encoder: SmallEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, times = film(120), clock(120)
    whole = encoder.glimpse(frames, times)
    monkeypatch.setattr(small, "CHUNK", 40)
    parts = encoder.glimpse(frames, times)
    assert torch.allclose(whole.heat, parts.heat, atol=1e-5)
    assert torch.allclose(whole.outputs["content"], parts.outputs["content"], atol=1e-4)


def test_repeated_frames_change_nothing(encoder: SmallEncoder) -> None:
    """The same film shown at twice its rate: same tokens, same events."""
    frames = film(50)
    once = encoder.look(frames, clock(50), 2.0)
    twice = encoder.look(frames.repeat_interleave(2, 0), clock(100, 50), 2.0)
    assert torch.allclose(once[0], twice[0], atol=1e-4)
    assert [e.time_s for e in once[1]] == pytest.approx([e.time_s for e in twice[1]], abs=1e-4)
    assert [i.kind for i in once[2]] == [i.kind for i in twice[2]]


@pytest.mark.parametrize("frames", [1, 2, 5, 50])
@pytest.mark.parametrize("rate", [10.0, 25.0, 29.97])
def test_tokens_stand_on_the_clock_of_the_sound(
    encoder: SmallEncoder, frames: int, rate: float
) -> None:
    seconds = frames / rate
    visual, events, intervals = encoder.look(film(frames), clock(frames, rate), seconds)
    latents = encoder.rates.num_latents(seconds)
    sync = event_track(events, intervals, seconds)
    assert sync.shape == (latents, TRACK_DIM)
    assert visual.shape == (1, -(-latents // 4), encoder.eyes.config.content)
    assert torch.isfinite(sync).all() and torch.isfinite(visual).all()
    assert all(0 <= e.time_s < seconds for e in events)
    assert all(0 <= i.start_s < i.end_s <= seconds for i in intervals)


def test_pooling_keeps_the_mean_of_a_short_last_group() -> None:
    tokens = torch.arange(10.0)[:, None]
    assert pool(tokens, 4)[:, 0].tolist() == [1.5, 5.5, 8.5]


def test_a_video_without_the_view_is_refused(encoder: SmallEncoder) -> None:
    with pytest.raises(ValueError, match="views_for"):
        encoder.encode(Video(None, 1.0, 48, 48, 25.0, {}), [""])


def test_rows_share_what_was_seen(encoder: SmallEncoder) -> None:
    frames = film(25)
    view = View("eyes", Fraction(0), 48, 48)
    video = Video(None, 1.0, 48, 48, 25.0, {"eyes": Frames(frames, clock(25), view)})
    one = encoder.encode(video, ["glass"])
    two = encoder.encode(video, ["wood", "glass"])
    assert torch.equal(one.sync[0], two.sync[1]) and torch.allclose(
        one.text[0], two.text[1], atol=1e-5
    )
    assert not torch.allclose(two.text[0], two.text[1])
    assert not two.negative_text.any()


def test_without_words_the_encoder_captions_what_it_saw(encoder: SmallEncoder) -> None:
    view = View("eyes", Fraction(0), 48, 48)
    video = Video(None, 1.0, 48, 48, 25.0, {"eyes": Frames(film(25), clock(25), view)})
    glass = [Event(0.3, material="glass"), Event(0.5, material="wood"), Event(0.7, "step", "glass")]
    seen = encoder.encode(
        video, ["", "the sound of glass"], events=EventLog("", 0, 1.0, events=glass)
    )
    assert torch.equal(seen.text[0], seen.text[1])
    assert caption([], [Interval("roll", 0.1, 0.9, "stone")]) == "the sound of stone"
    assert caption([], []) == ""


def test_every_word_of_the_world_is_known_by_its_material() -> None:
    assert set(WORDS) == set(MATERIALS)
    for material, words in MATERIAL_WORDS.items():
        assert {named_material(f"a {word} ball") for word in words} == {material}
    assert named_material("A Glass ball bounces on wood") == "glass"
    assert named_material("something glassless is woodn't") is None


def test_words_overrule_the_eyes_only_where_they_contradict() -> None:
    seen, roll = [Event(0.3, material="wood"), Event(0.5, material="metal")], Interval("roll", 0, 1)
    assert recast("a ball bounces", seen, [roll]) == (seen, [roll])
    assert recast("a metal ball on stone", seen, [roll]) == (seen, [roll])
    events, intervals = recast("a crystal ball on wood", seen, [roll])
    assert {x.material for x in (*events, *intervals)} == {"glass"}
    assert [e.time_s for e in events] == [0.3, 0.5]


def test_a_break_of_velocity_becomes_an_event(
    encoder: SmallEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = Break(0.5, strength=1.0, x=0.4, y=0.6, confidence=0.99)
    monkeypatch.setattr(small, "velocity_breaks", lambda images, times_s: [sure])
    monkeypatch.setattr(encoder, "threshold", 1.1)  # the eyes alone see nothing
    events = encoder.look(film(25), clock(25), 1.0)[1]
    assert [(e.time_s, e.x, e.y) for e in events] == [(0.5, 0.4, 0.6)]


def test_long_films_are_tracked_in_stretches(
    encoder: SmallEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def breaks(images: torch.Tensor, times_s: torch.Tensor) -> list[Break]:
        calls.append(len(images))
        return [Break(float(t), 1.0, 0.5, 0.5, 0.99) for t in times_s[10::20]]

    monkeypatch.setattr(small, "velocity_breaks", breaks)
    monkeypatch.setattr(encoder, "threshold", 1.1)  # the eyes alone see nothing
    monkeypatch.setattr(small, "TRACKED", 40)
    monkeypatch.setattr(small, "TRACKED_OVERLAP", 20)
    times = [e.time_s for e in encoder.look(film(100), clock(100), 4.0)[1]]
    assert calls == [60, 80, 40]
    assert times == pytest.approx([0.4, 1.2, 2.0, 2.8, 3.6])


def test_the_turning_point_of_a_swing_is_no_repeat() -> None:
    t = torch.arange(75) / 25
    x = torch.arange(48, dtype=torch.float32)
    at = 24 + 14 * torch.sin(2 * t)
    bar = 200 * torch.exp(-((x[None] - at[:, None]) ** 2) / 8) + 20
    frames = bar[:, None, :].expand(75, 48, 48).to(torch.uint8)
    assert len(moving_frames(frames, clock(75))) >= 72


@pytest.mark.parametrize("time_s", [0.013, 0.1, 0.497, 1.96])
def test_the_track_holds_the_place_of_a_contact_to_the_millisecond(time_s: float) -> None:
    onset = event_track([Event(time_s)], [], 2.0)[:, :ONSET_BINS].flatten()
    at = torch.arange(len(onset)) * 0.04 / ONSET_BINS
    assert float((onset * at).sum() / onset.sum()) == pytest.approx(time_s, abs=0.001)


def test_the_track_names_the_last_thing_that_sounds() -> None:
    track = event_track([Event(0.2, material="wood"), Event(0.6, material="glass")], [], 1.0)
    named = track[:, MATERIAL_PART]
    assert named[:4].amax() < 1e-6
    assert MATERIALS[int(named[8].argmax())] == "wood"
    assert MATERIALS[int(named[17].argmax())] == "glass"
    assert named[17, MATERIALS.index("wood")] == 0


def test_the_track_follows_the_speed_of_a_scrape() -> None:
    scrape = Interval("scrape", 0.2, 0.6, "stone", speed=(0.0, 1.0, 0.0))
    track = event_track([], [scrape], 1.0)
    speed = track.amax(1)
    assert speed[:5].amax() == 0 and speed[16:].amax() == 0
    assert track[:, : ONSET_BINS + 1].amax() == 0  # it is no blow
    motion = event_track([], [scrape], 1.0)[9]
    assert float(motion.amax()) == 1.0 and float(motion.sum()) == pytest.approx(1.9, abs=0.02)


def test_a_track_of_minutes_is_finite() -> None:
    track = event_track([Event(0.5), Event(299.5)], [], 300.0)
    assert torch.isfinite(track).all()
    assert torch.equal(track[:100], event_track([Event(0.5)], [], 4.0))
    assert torch.equal(event_track([Event(0.5), Event(99.0)], [], 4.0), track[:100])


def test_what_an_event_is_not_known_to_be_is_left_out() -> None:
    known = event_track([Event(0.5, kind="impact", material="wood")], [], 1.0)
    unknown = event_track([Event(0.5, kind="?", material="?")], [], 1.0)
    assert torch.equal(known[:, :ONSET_BINS], unknown[:, :ONSET_BINS])
    assert unknown[:, MATERIAL_PART].amax() == 0


# --- dark pictures -----------------------------------------------------------------------------


def test_dark_stretches_are_brightened_and_bright_ones_left() -> None:
    times_s = torch.arange(500, dtype=torch.float64) / 25
    images = torch.full((500, 8, 8, 3), 120, dtype=torch.uint8)
    assert lit(images, times_s) is None
    images[250:] = 20  # the second half is dark
    bright = lit(images, times_s)
    assert torch.equal(bright[:150], images[:150])
    assert (bright[350:] == 60).all()  # threefold at most
    level = bright[..., 1].float().mean((1, 2))[260:]
    assert level.diff().abs().max() < 3  # the gain itself makes no flash
    images[250:] = 55
    assert (lit(images, times_s)[350:] == 110).all()


def test_in_the_dark_the_brightened_frames_say_when_and_the_others_what(encoder) -> None:
    images, times_s = film(40) // 4, clock(40)
    both = encoder._glimpse_both(images, 3 * images, times_s, torch.arange(40))
    dark, light = encoder.glimpse(images, times_s), encoder.glimpse(3 * images, times_s)
    assert torch.equal(both.heat, light.heat) and not torch.equal(both.heat, dark.heat)
    assert torch.equal(both.outputs["whole"], dark.outputs["whole"])
    assert torch.equal(both.outputs["motion"], light.outputs["motion"])
