"""Laws of the measures: what is put there is found there, and nothing is praised for nothing."""

import json

import numpy as np
import pytest
import soundfile

from foley_lab.evaluation.material import load_judge, material_features
from foley_lab.evaluation.score import score_clip, score_files
from foley_lab.evaluation.spectral import envelope_correlation, log_mel_l1, mr_stft
from foley_lab.evaluation.sync import (
    EventCounts,
    count_events,
    detect_onsets,
    event_scores,
    match_events,
    onset_strength,
)
from foley_lab.signals import MATERIALS, Event, EventLog, FoleyError, Interval, MediaError
from foley_lab.synthetic.sounds import render_sound
from foley_lab.training.judge import JudgeTraining, blur, random_log, train_judge

RATE = 48_000


def clip(seed: int) -> EventLog:
    log = EventLog("test", seed, 3.0)
    rng = np.random.default_rng(seed)
    while not log.events:  # random clips of the kinds that are instants
        log = random_log(seed, rng)
    return log


@pytest.fixture(scope="module")
def pooled() -> EventCounts:
    counts = EventCounts()
    for seed in range(500, 540):
        log = clip(seed)
        found = detect_onsets(render_sound(log))
        counts += count_events(found, [e.time_s for e in log.events], log.seconds)
    return counts


# -- onsets


def test_exact_sound_is_found_where_it_is(pooled):
    scores = pooled.scores()
    assert scores["f1"]["20"] > 0.96 and scores["f1"]["10"] > 0.95
    assert scores["f1_chance_corrected"]["20"] > 0.94
    assert abs(scores["bias_ms"]) < 0.7 and scores["mae_ms"] < 1.5


def test_blur_costs_little():
    counts = EventCounts()
    for seed in range(600, 620):
        log, rng = clip(seed), np.random.default_rng(seed)
        found = detect_onsets(blur(render_sound(log), rng))
        counts += count_events(found, [e.time_s for e in log.events], log.seconds)
    assert counts.scores()["f1"]["20"] > 0.93


@pytest.mark.parametrize("shift", [48, 481, 4803])
def test_shifted_sound_shifts_its_onsets(shift):
    sound = render_sound(clip(7))
    before = detect_onsets(sound)
    after = detect_onsets(np.concatenate([sound[:100].repeat(50)[:shift] * 0, sound]))
    pairs = match_events(after - shift / RATE, before, 0.002)
    assert len(pairs) >= len(before) - 1 > 2
    errors = [after[i] - shift / RATE - before[j] for i, j in pairs]
    assert abs(np.mean(errors)) < 0.0005


def test_level_and_channels_do_not_matter():
    sound = render_sound(clip(8))
    assert np.allclose(detect_onsets(sound), detect_onsets(0.25 * sound), atol=0.002)
    assert np.array_equal(detect_onsets(sound), detect_onsets(np.stack([sound, sound])))


def test_silence_and_noise_have_no_onsets():
    for seed in range(5):
        assert detect_onsets(render_sound(EventLog("test", seed, 2.0))).size == 0
    assert detect_onsets(np.zeros(RATE)).size == 0
    assert detect_onsets(np.zeros(1)).size == 0


def test_sound_at_the_very_start_is_an_onset():
    log = EventLog("test", 1, 1.0, events=[Event(0.0, material="metal")])
    assert detect_onsets(render_sound(log))[0] < 0.003


def test_other_sample_rates():
    times = np.array([0.3, 0.7])
    for rate in (16_000, 44_100):
        sound = np.zeros(rate)
        noise = np.random.default_rng(0).standard_normal(rate // 20)
        for time in times:
            sound[round(time * rate) :][: noise.size] += noise * np.exp(-np.arange(noise.size) / 99)
        assert np.allclose(detect_onsets(sound, rate), times, atol=0.003)


def test_onset_strength_is_a_millisecond_grid():
    times, novelty = onset_strength(np.zeros(RATE))
    assert times.shape == novelty.shape and abs(times.size - 1000) <= 1
    assert np.allclose(np.diff(times), 0.001)


@pytest.mark.parametrize(
    "sound", [np.zeros(0), np.zeros((1, 2, 3)), np.full(10, np.nan)], ids=["empty", "cube", "nan"]
)
def test_what_is_no_sound_is_refused(sound):
    with pytest.raises(ValueError, match="wanted"):
        detect_onsets(sound)


# -- events


def test_matching_prefers_many_pairs_then_close_ones():
    assert match_events([1.0], [0.97, 1.01], 0.04) == [(0, 1)]
    # Taking the closest pair first (1.03 with 1.02) would leave the other two alone.
    assert match_events([1.0, 1.03], [1.02, 1.06], 0.04) == [(0, 0), (1, 1)]
    assert match_events([], [1.0], 1.0) == match_events([1.0], [], 1.0) == []
    assert match_events([0.0], [0.04], 0.04) == [(0, 0)]


def test_matching_agrees_with_trying_everything():
    def best(a, b, tolerance):
        if not a or not b:
            return 0, 0.0
        options = [best(a[1:], b, tolerance), best(a, b[1:], tolerance)]
        if abs(a[0] - b[0]) <= tolerance:
            pairs, cost = best(a[1:], b[1:], tolerance)
            options.append((pairs + 1, cost - abs(a[0] - b[0])))
        return max(options)

    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = (np.sort(rng.uniform(0, 1, rng.integers(1, 6))).tolist() for _ in range(2))
        pairs = match_events(a, b, 0.15)
        distance = sum(abs(a[i] - b[j]) for i, j in pairs)
        assert (len(pairs), pytest.approx(-distance)) == best(a, b, 0.15)
        assert pairs == sorted(pairs) and [j for _, j in pairs] == sorted(j for _, j in pairs)


def test_perfect_is_one_and_nothing_is_zero():
    true = [0.5, 1.1, 2.6]
    perfect, nothing = event_scores(true, true, seconds=4), event_scores([], true, seconds=4)
    assert set(perfect["f1"].values()) == {1.0} and perfect["mae_ms"] == 0
    assert set(perfect["f1_chance_corrected"].values()) == {1.0}
    assert perfect["precision"] == perfect["recall"] == 1
    assert set(nothing["f1"].values()) == {0.0} and nothing["recall"] == 0
    assert nothing["bias_ms"] is None
    assert event_scores([], [], seconds=4)["f1"]["20"] == 1


def test_late_sounds_have_positive_bias_and_fall_out_of_tolerance():
    true = np.array([0.5, 1.1, 2.6])
    scores = event_scores(true + 0.03, true, seconds=4)
    assert scores["f1"]["20"] == 0 and scores["f1"]["40"] == 1
    assert scores["bias_ms"] == pytest.approx(30) == pytest.approx(scores["mae_ms"])


def test_chance_takes_off_what_a_dense_sound_hits_blindly():
    rng = np.random.default_rng(1)
    total = EventCounts()
    for _ in range(30):
        total += count_events(rng.uniform(0, 4, 60), rng.uniform(0, 4, 20), 4.0)
    scores = total.scores()
    assert scores["f1"]["80"] > 0.35
    assert all(abs(value) < 0.05 for value in scores["f1_chance_corrected"].values())


def test_pooling_is_counting_together():
    first, second = ([0.5, 1.0], [0.5, 2.0]), ([1.0, 1.5, 3.0], [1.0])
    both = count_events(*first, 4.0) + count_events(*second, 4.0)
    apart = event_scores([0.5, 1.0, 11.0, 11.5, 13.0], [0.5, 2.0, 11.0], seconds=20)
    assert both.scores()["f1"] == apart["f1"]
    assert both.scores()["false_sounds_per_minute"] == pytest.approx(3 * 60 / 8)


def test_what_lasts_is_never_false():
    found, true, lasting = [0.5, 1.2, 1.4, 3.0], [0.5], [(1.0, 2.0)]
    assert event_scores(found, true, seconds=4)["precision"] == 0.25
    scores = event_scores(found, true, seconds=4, lasting=lasting)
    assert scores["precision"] == 0.5 and scores["false_sounds_per_minute"] == 15


# -- materials


def test_judge_names_materials_it_never_heard():
    right = total = 0
    for seed in range(20_000_000, 20_000_060):
        log = clip(seed)
        names = load_judge().name(render_sound(log), [e.time_s for e in log.events])
        right += sum(n == e.material for n, e in zip(names, log.events, strict=True))
        total += len(names)
    assert right / total > 0.94


def test_judge_is_deaf_to_level_and_small():
    log = clip(11)
    sound, times = render_sound(log), [e.time_s for e in log.events]
    assert np.allclose(
        material_features(sound, times), material_features(0.1 * sound, times), atol=0.05
    )
    assert sum(p.numel() for p in load_judge().parameters()) * 2 < 200_000
    assert material_features(sound, []).shape[0] == 0 and load_judge().name(sound, []) == []


def test_judge_learns_from_nothing():
    _, accuracy = train_judge(JudgeTraining(clips=60, held_out=15, epochs=10))
    assert accuracy > 3 / len(MATERIALS)


# -- likeness


def test_equal_sounds_are_at_distance_zero():
    sound = render_sound(clip(12))
    assert mr_stft(sound, sound) == (0, 0) and log_mel_l1(sound, sound) == 0
    assert envelope_correlation(sound, sound) == pytest.approx(1)


def test_distances_grow_with_damage():
    sound = render_sound(clip(12))
    noise = np.random.default_rng(0).standard_normal(sound.size)
    little, much = (sound + level * noise for level in (0.001, 0.01))
    for a, b in zip(mr_stft(little, sound), mr_stft(much, sound), strict=True):
        assert 0 < a < b
    assert 0 < log_mel_l1(little, sound) < log_mel_l1(much, sound)
    shifted = envelope_correlation(np.roll(sound, RATE // 3), sound)
    assert shifted is not None and shifted < 0.6
    assert envelope_correlation(0 * sound, sound) is None


def test_a_short_sound_is_missing_its_end():
    sound = render_sound(clip(12))
    cut = sound[: sound.size // 2]
    assert mr_stft(cut, sound) == mr_stft(np.pad(cut, (0, sound.size - cut.size)), sound) > (0, 0)
    with pytest.raises(ValueError, match="wanted"):
        mr_stft(sound, np.zeros((2, 10)))


# -- files


@pytest.fixture
def world(tmp_path):
    """Three clips as `world make` writes them, without pictures."""
    for number, seed in enumerate((21, 22, 23)):
        log = clip(seed)
        (tmp_path / f"{number:04}.json").write_text(log.to_json())
        soundfile.write(tmp_path / f"{number:04}.wav", render_sound(log), RATE)
    return tmp_path


def test_the_true_sound_scores_best(world):
    card = score_files(world, world)
    assert card["clips"] == len(card["per_clip"]) == 3
    assert [each["clip"] for each in card["per_clip"]] == ["0000", "0001", "0002"]
    assert set(card["f1"]) == {"10", "20", "40", "80", "160"} == set(card["f1_chance_corrected"])
    assert card["f1"]["20"] > 0.9 and card["material_accuracy"] > 0.8
    assert card["mr_stft"] == card["log_mel_l1"] == 0
    assert card["envelope_correlation"] == pytest.approx(1)
    assert json.loads(json.dumps(card)) == card
    single = score_files(world / "0001.wav", world)
    assert single["f1"] == card["per_clip"][1]["f1"]
    assert single == score_files(world / "0001.wav", world / "0001.json")


def test_generated_sounds_are_found_by_name(world, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for number in range(3):
        sound, rate = soundfile.read(world / f"{number:04}.wav")
        soundfile.write(out / f"{number:04}_foley.flac", np.roll(sound, rate // 2), rate)
    card = score_files(out, world)
    assert card["f1"]["20"] < 0.6 and card["mr_stft"] > 0
    (out / "0002_foley.flac").unlink()
    with pytest.raises(MediaError, match=r"0002\.json"):
        score_files(out, world)


def test_without_reference_likeness_is_unknown():
    log = EventLog("test", 4, 2.0, events=[Event(0.5, material="glass")])
    assert set(score_clip(render_sound(log), log).likeness.values()) == {None}


def test_what_lasts_is_judged_without_events():
    log = EventLog("test", 4, 2.0, continuous=[Interval("scrape", 0.3, 1.7, "gravel")])
    score = score_clip(render_sound(log), log)
    assert score.judged >= 4 and score.named >= score.judged - 1
    assert score.counts.scores()["false_sounds_per_minute"] == 0


def test_wrong_material_is_noticed():
    events = [Event(0.4 + 0.4 * i, material="glass", object=0) for i in range(6)]
    log = EventLog("test", 4, 3.0, events=events)
    score = score_clip(render_sound(log.with_material("rubber")), log)
    assert score.judged == 6 and score.named == 0


def test_missing_files_are_named_in_one_line(world, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0000.json").write_text("[1, 2]")
    for generated, events, error in (
        (world / "none.wav", world, MediaError),
        (world, world / "none", MediaError),
        (world, world / "0000.wav", FoleyError),
        (world, broken, FoleyError),
    ):
        with pytest.raises(error) as caught:
            score_files(generated, events)
        assert "\n" not in str(caught.value)
