"""Laws of the exact benchmark: the dose that was put in comes out, and chance earns nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import spearmanr

from foley_lab.diagnosis.bench_sync import (
    TEMPI,
    bench_sync,
    best_tempo,
    evaluation_set,
    jittered,
    metronome,
    metronome_times,
    shifted,
    white_noise,
)
from foley_lab.diagnosis.truth import gate, true_clips
from foley_lab.evaluation import field_suite
from foley_lab.evaluation.continuity import first_difference, seam_score
from foley_lab.evaluation.descriptor import SIZE, describe
from foley_lab.evaluation.distance import (
    frechet_distance,
    inception_score,
    kernel_distance,
    kl_divergence,
    mean_cosine,
)
from foley_lab.evaluation.envelope import envelope_agreement
from foley_lab.evaluation.faults import errors
from foley_lab.evaluation.gate import check_detector
from foley_lab.evaluation.onsets import detect_onsets
from foley_lab.evaluation.report import write_report
from foley_lab.evaluation.response import onset_energies, response, response_scores
from foley_lab.evaluation.score import find_partners, score_clip, score_files, summary
from foley_lab.evaluation.silence import silence_level
from foley_lab.evaluation.spectral import (
    log_spectral_distance,
    mel_cepstral_distortion,
    mr_stft_high,
)
from foley_lab.evaluation.sync import EventCounts, count_events, error_scores, event_scores
from foley_lab.signals import (
    MATERIALS,
    Event,
    EventLog,
    FoleyError,
    Interval,
    MediaError,
    MissingWeights,
)
from foley_lab.synthetic.scenes import make_scene
from foley_lab.synthetic.sounds import render_sound

RATE = 48_000


def sparse(seed: int, seconds: float = 5.0) -> EventLog:
    """Blows at least 350 ms apart, so that no dose below confuses one with the next."""
    rng = np.random.default_rng([seed, 3])
    log, time = EventLog("sparse", seed, seconds, prompt="knocks"), rng.uniform(0.25, 0.4)
    while time < seconds - 0.35:
        material = str(rng.choice(MATERIALS[:6]))
        strength = float(rng.uniform(0.25, 1))
        log.events.append(Event(round(float(time), 6), "impact", material, strength, None, 0))
        time += rng.uniform(0.35, 0.6)
    return log


LOGS = [sparse(seed) for seed in range(5)]


def dosed(change, doses, metric) -> list[float]:
    """The pooled metric of the same clips at each dose of a change to their logs."""
    values = []
    for dose in doses:
        clips = [
            score_clip(render_sound(change(log, dose, np.random.default_rng([k, 9]))), log)
            for k, log in enumerate(LOGS)
        ]
        values.append(metric(summary(clips)))
    return values


def chances(log, rng):
    """Every event with a uniform draw; a larger dose keeps the draws of a smaller one."""
    return zip(log.events, rng.random(len(log.events)), strict=True)


def at(log, times):
    moved = [replace(e, time_s=float(t)) for e, t in zip(log.events, times, strict=True)]
    return replace(log, events=moved)


# -- the gate


def test_the_detector_passes_its_gate():
    passed = gate(104)
    assert passed.open and passed.events > 400 and passed.clips == 104
    assert passed.f1 >= 0.99 and abs(passed.bias_ms) <= 0.5
    # The knocks of a rolling ball drown in its rolling at times; all others are as good alone.
    assert min(f1 for name, f1 in passed.families.items() if name != "roll") >= 0.98


def test_the_gate_closes_before_a_late_or_deaf_ear():
    clips = list(true_clips(6))
    late = check_detector((shifted(sound, 0.0008), log) for sound, log in clips)
    assert not late.open and late.f1 > 0.95 and late.bias_ms > 0.5
    deaf = check_detector((0 * sound, log) for sound, log in clips)
    with pytest.raises(FoleyError, match=r"wanted 0\.99"):
        deaf.require()
    with pytest.raises(ValueError, match="without any event"):
        check_detector([])


def test_a_cut_ring_and_late_grains_are_no_onsets():
    log = EventLog("test", 5, 1.0, events=[Event(0.2, material="metal", strength=1.0)])
    for end in (0.5, 0.731, 0.9):
        assert len(detect_onsets(render_sound(log)[: round(end * RATE)])) == 1
    gravel = EventLog("test", 5, 4.0, events=[Event(0.3 + k, material="gravel") for k in range(4)])
    assert len(detect_onsets(render_sound(gravel))) == 4


# -- doses


def test_shift_is_read_to_the_millisecond():
    doses = [-0.16, -0.08, -0.02, -0.005, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
    medians = dosed(
        lambda log, d, _: at(log, [e.time_s + d for e in log.events]),
        doses[1:-1],
        lambda s: s["error_160"]["median_ms"],
    )
    assert np.abs(np.array(medians) / 1000 - doses[1:-1]).mean() < 0.001
    assert spearmanr(doses[1:-1], medians)[0] > 0.99
    truth = [render_sound(log) for log in LOGS]
    lags = [np.mean([envelope_agreement(shifted(t, d), t)[1] for t in truth]) for d in doses]
    assert np.abs(np.array(lags) - doses).mean() < 0.001


def test_jitter_drops_and_spurious_sounds_are_counted():
    def jitter(log, dose, rng):
        return at(
            log, [e.time_s + dose * n for e, n in zip(log.events, noise(log, rng), strict=True)]
        )

    def noise(log, rng):
        return rng.normal(0, 1, len(log.events)).clip(-2.5, 2.5)

    doses = [0.001, 0.005, 0.01, 0.02, 0.03, 0.045]
    found = dosed(jitter, doses, lambda s: s["error_160"]["jitter_ms"])
    assert spearmanr(doses, found)[0] > 0.99

    def drop(log, dose, rng):
        return replace(log, events=[e for e, u in chances(log, rng) if u >= dose])

    doses = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    recall = dosed(drop, doses, lambda s: s["recall"])
    assert spearmanr(doses, recall)[0] < -0.99 and recall[0] > 0.98 and recall[-1] == 0

    def spurious(log, dose, rng):
        gaps = [e.time_s + 0.17 for e, u in chances(log, rng) if u < dose]
        events = [*log.events, *(Event(t, material="plastic", object=1) for t in gaps)]
        return replace(log, events=sorted(events, key=lambda e: e.time_s))

    false = dosed(spurious, doses, lambda s: s["false_sounds_per_minute"])
    assert spearmanr(doses, false)[0] > 0.99 and false[0] < 1


def test_wrong_materials_are_counted():
    def swap(log, dose, rng):
        other = {"wood": "glass", "glass": "rubber", "rubber": "metal"}
        draws = chances(log, rng)
        return replace(
            log,
            events=[
                replace(e, material=other.get(e.material, "wood")) if u < dose else e
                for e, u in draws
            ],
        )

    doses = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    accuracy = dosed(swap, doses, lambda s: s["material_accuracy"])
    assert spearmanr(doses, accuracy)[0] < -0.99 and accuracy[-1] < 0.1


# -- chance


@pytest.fixture(scope="module")
def crowd() -> list[EventLog]:
    logs, seed = [], 50_000
    while len(logs) < 60:
        family = ("bounce", "pendulum", "strike", "footsteps", "meet", "drops", "roll")[seed % 7]
        logs.append(make_scene(seed, 6.0, family).log)
        seed += 1
    return logs


def pooled(logs, found) -> float:
    counts = EventCounts()
    for log, times in zip(logs, found, strict=True):
        counts += count_events(times, [e.time_s for e in log.events], log.seconds)
    return counts.scores()["f1_chance_corrected"]["40"]


def test_chance_earns_nothing(crowd):
    times = [[e.time_s for e in log.events] for log in crowd]
    assert pooled(crowd, times) == 1
    assert pooled(crowd, [[]] * len(crowd)) <= 0.05
    assert pooled(crowd, [*times[7:], *times[:7]]) <= 0.05  # another clip, of the same family
    for tempo in TEMPI:
        beats = [metronome_times(log.seconds, tempo) for log in crowd]
        assert pooled(crowd, beats) <= 0.05


def test_turns_agree_with_random_offsets():
    rng = np.random.default_rng(2)
    true, found = np.sort(rng.uniform(0, 8, 15)), np.sort(rng.uniform(0, 8, 25))
    counts = count_events(found, true, 8.0)
    hits = []
    for turn in rng.uniform(0, 8, 400):
        hits.append(count_events((found + turn) % 8, true, 8.0, (0.04,)).hits[0.04])
    deviation = np.std(hits) * (1 / 64 + 1 / 400) ** 0.5
    assert abs(counts.chance_hits[0.04] - np.mean(hits)) < 3 * deviation


# -- timing


def test_errors_are_described():
    pairs = [(t, e) for t, e in zip(range(5), (-0.06, 0.0, 0.01, 0.02, 0.13), strict=True)]
    scores = error_scores(pairs)
    assert scores["median_ms"] == pytest.approx(10) and scores["mae_ms"] == pytest.approx(44)
    assert scores["jitter_ms"] == pytest.approx(10) and scores["outside"] == pytest.approx(0.4)
    drifting = [(t, 0.001 * t / 60) for t in (0.0, 20.0, 60.0)]
    assert error_scores(drifting)["drift_ms_per_minute"] == pytest.approx(1)
    assert set(error_scores([]).values()) == {None}


def test_area_rewards_exactness():
    true = [0.5, 1.5, 2.5]
    areas = [event_scores(np.array(true) + d, true, seconds=4)["f1_area"] for d in (0, 0.03, 0.1)]
    assert areas[0] == 1 > areas[1] > areas[2] > 0


def test_off_screen_events_are_neither_wanted_nor_false():
    seen = [Event(0.5, material="wood", x=0.5, y=0.5), Event(2.0, material="wood", x=0.5, y=0.5)]
    hidden = Event(1.2, material="glass", visible=False)
    log = EventLog("test", 3, 3.0, events=[seen[0], hidden, seen[1]])
    for events in (seen, log.events):
        scores = summary([score_clip(render_sound(replace(log, events=list(events))), log)])
        assert scores["f1"]["20"] == scores["precision"] == scores["recall"] == 1
    far = event_scores([0.5, 1.31, 2.0], [0.5, 2.0], seconds=3, ignored=[1.2])
    assert far["precision"] == pytest.approx(2 / 3)


# -- strength, physics, silence, seams


def test_energy_follows_strength():
    times = [0.3 + 0.4 * k for k in range(8)]
    strengths = [0.2, 0.9, 0.4, 1.0, 0.3, 0.7, 0.5, 0.6]
    events = [Event(t, "impact", "wood", s, None, 0) for t, s in zip(times, strengths, strict=True)]
    log = EventLog("test", 2, 3.8, events=events)
    assert score_clip(render_sound(log), log).strength > 0.95
    even = render_sound(replace(log, events=[replace(e, strength=0.5) for e in events]))
    assert abs(score_clip(even, log).strength) < 0.9
    assert onset_energies(np.zeros(RATE), [0.5])[0] == pytest.approx(-120)


def test_counterfactual_responses_have_sign_and_size():
    exact, weak, backwards = [], [], []
    for seed in range(4):
        log = sparse(seed).with_material("wood")
        first = render_sound(log)
        for material in ("glass", "rubber", "metal"):
            other = log.with_material(material)
            answer = response(first, log, render_sound(other), other)
            exact.append(answer)
            weak.append({k: None if v is None else 0.5 * v for k, v in answer.items()})
            backwards.append({k: None if v is None else -v for k, v in answer.items()})
    scores = response_scores(exact, exact)
    assert all(s["sign_accuracy"] == 1 and s["effect_ratio"] == pytest.approx(1)
               for s in scores.values() if s["pairs"])  # fmt: skip
    assert scores["centroid"]["pairs"] >= 10 and scores["decay"]["pairs"] >= 8
    assert response_scores(weak, exact)["centroid"]["effect_ratio"] == pytest.approx(0.5)
    assert response_scores(backwards, exact)["decay"]["sign_accuracy"] == 0
    # What is known of the materials: glass is higher than wood, rubber lower, metal rings longest.
    for k in range(0, len(exact), 3):
        glass, rubber, metal = exact[k : k + 3]
        assert glass["lowest"] > 1 and glass["centroid"] > 0.3
        assert rubber["lowest"] < -0.3 and metal["decay"] > 0.7


def test_responses_want_a_pair():
    log = sparse(1)
    with pytest.raises(ValueError, match="counterfactual"):
        response(render_sound(log), log, render_sound(sparse(2)), sparse(2))


def test_silence_has_a_level():
    log = EventLog("test", 1, 3.0, events=[Event(0.2, material="wood")])
    sound = render_sound(log)
    hum = sound + 0.05 * np.sin(np.arange(sound.size) * 0.05).astype(np.float32)
    assert silence_level(sound, log) < -58 and silence_level(hum, log) > -32
    assert silence_level(0 * sound, log) == -120
    always = replace(log, continuous=[Interval("roll", 0.0, 3.0)])
    assert silence_level(sound, always) is None


def test_seams_stand_out_when_they_are_there():
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(4 * RATE)).astype(np.float32)
    borders = [1.0, 2.0, 3.0]
    assert abs(seam_score(sound, borders)) < 3
    broken = sound.copy()
    for border in borders:
        broken[round(border * RATE) :][:480] = 0
    assert seam_score(broken, borders) > 5
    assert seam_score(sound, []) is None and seam_score(0 * sound, borders) is None


def test_equal_runs_have_equal_bits():
    a = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    assert first_difference(a, a.copy()) is None
    b = a.copy()
    b[1, 0] = np.nextafter(b[1, 0], 9)
    assert first_difference(a, b) == 2
    assert first_difference(a, a.astype(np.float64)) == 0
    assert first_difference(np.float32([0.0]), np.float32([-0.0])) == 0


# -- likeness


def test_the_high_band_is_heard_alone():
    t = np.arange(RATE) / RATE
    low = (0.3 * np.sin(2 * np.pi * 500 * t)).astype(np.float32)
    hiss = (0.1 * np.sin(2 * np.pi * 12_000 * t)).astype(np.float32)
    assert mr_stft_high(low + hiss, hiss + 2 * low) < 0.02 < 1 < mr_stft_high(low, low + hiss)


def test_lsd_and_mcd_know_gain_from_colour():
    sound = render_sound(sparse(3)) + 0.5 * white_noise(5 * RATE, 1)
    assert log_spectral_distance(sound, sound) == mel_cepstral_distortion(sound, sound) == 0
    assert log_spectral_distance(2 * sound, sound) == pytest.approx(6.02, abs=0.3)
    duller = np.convolve(sound, [0.5, 0.5])[: sound.size].astype(np.float32)
    assert mel_cepstral_distortion(duller, sound) > 3 * mel_cepstral_distortion(2 * sound, sound)


def test_envelopes_of_silence_say_nothing():
    assert envelope_agreement(np.zeros(RATE), render_sound(sparse(1))) == (None, None)


# -- distances


def test_distances_have_their_closed_forms():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x + np.array([3, 0, 4]), x) == pytest.approx(25)
    # Gaussians of deviations a and b: D (a − b)².
    assert frechet_distance(3 * x, x) == pytest.approx(12, rel=0.06)
    p, q = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    assert kl_divergence(q, p) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5))
    assert kl_divergence(p, p) == pytest.approx(0)
    assert inception_score(np.eye(5).repeat(20, 0), splits=1) == pytest.approx(5)
    assert inception_score(np.full((20, 5), 0.2)) == pytest.approx(1)
    assert mean_cosine([[1, 0], [0, 2]], [[3, 0], [2, 0]]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="rows sum to 1"):
        kl_divergence([[0.5, 0.2]], p)
    with pytest.raises(ValueError, match="wanted"):
        frechet_distance(x, x[:, :2])


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 60, 20))
    mean, spread = kernel_distance(a, b)
    assert abs(mean) < 0.1 and spread > 0
    assert kernel_distance(a + 0.5, b)[0] > 0.3 > kernel_distance(a, b)[0]
    assert kernel_distance(a, b) == (mean, spread)


def test_the_descriptor_tells_families_apart_not_gain():
    wood = [render_sound(sparse(k).with_material("wood")) for k in range(12)]
    metal = [render_sound(sparse(k).with_material("metal")) for k in range(12)]
    a, b = (np.stack([describe(s) for s in sounds]) for sounds in (wood, metal))
    assert a.shape == (12, SIZE) == (12, 400) and np.isfinite(a).all()
    assert np.allclose(describe(0.3 * wood[0]), a[0], atol=0.02)
    same = kernel_distance(a[:6], a[6:])[0]
    assert kernel_distance(b[:6], a[6:])[0] > 3 * max(same, 0.1)
    assert np.isfinite(describe(np.zeros(100))).all()


# -- faults, report, other suites


def test_faults_are_named():
    log = EventLog("test", 1, 3.0, events=[
        Event(0.5, material="glass", surface="wood"), Event(1.0, material="wood"),
        Event(2.0, visible=False),
    ])  # fmt: skip
    faults = errors([0.534, 1.6, 2.01], log, heard=["glass", "wood", "wood"])
    assert [f.kind for f in faults] == ["off", "missing", "false"]
    assert str(faults[0]) == "event 0 at 0.500 s, glass on wood, 34 ms late"
    assert "not heard" in str(faults[1]) and "1.600 s without an event" in str(faults[2])
    wrong = errors([0.5, 1.0], log, heard=["wood", "wood"])
    assert [str(f) for f in wrong] == ["event 0 at 0.500 s, glass on wood, sounds like wood"]


def test_soft_blows_are_noticed():
    log = sparse(2).with_material("wood")
    soft = [replace(e, strength=0.1) if k == 3 else e for k, e in enumerate(log.events)]
    sound = render_sound(replace(log, events=soft))
    faults = errors([e.time_s for e in log.events], log, sound)
    assert len(faults) == 1 and faults[0].event == 3 and "dB soft" in str(faults[0])


@pytest.fixture
def world(tmp_path):
    for k, log in enumerate(LOGS[:3]):
        (tmp_path / f"{k:04}.json").write_text(log.to_json())
        soundfile.write(tmp_path / f"{k:04}.wav", render_sound(log), RATE)
    return tmp_path


def test_the_page_stands_alone(world, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for k, log in enumerate(LOGS[:3]):
        late = at(log, [e.time_s + 0.03 * k for e in log.events])
        soundfile.write(out / f"{k:04}.wav", render_sound(late), RATE)
    card = score_files(out, world)
    page = write_report(out / "page.html", find_partners(out, world), card).read_text("utf-8")
    assert page.count("<svg") == 3 and "http" not in page and "<script" not in page
    assert page.index("0002:") < page.index("0001:") < page.index("0000:")  # the worst comes first
    assert "60 ms late" in page and "data:image/png;base64," in page
    with pytest.raises(FoleyError, match="cannot write"):
        write_report(out / "none" / "page.html", find_partners(out, world), card)


def test_clips_are_exported_as_others_read_them(world, tmp_path):
    done = field_suite.export(tmp_path / "suite", find_partners(world, world))
    assert done.clips == 3 and done.captions.read_text().splitlines()[1] == "0000,0000,knocks"
    names = [sorted(f.name for f in folder.iterdir()) for folder in (done.generated, done.truth)]
    assert names[0] == names[1] == ["0000.flac", "0001.flac", "0002.flac"]


def test_absent_networks_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"passt\.pt2"):
        field_suite.load_network("passt")
    with pytest.raises(ValueError, match="panns"):
        field_suite.load_network("vggish")


class Loudness(torch.nn.Module):
    """Stands in for a network: sound [1, N] to an embedding and logits [1, 2]."""

    def forward(self, sound):
        level = sound.square().mean(1, keepdim=True)
        return torch.cat([level, 2 * level], 1), torch.cat([level, -level], 1)


def test_scores_of_a_network(monkeypatch):
    monkeypatch.setattr(field_suite, "load_network", lambda name: Loudness())
    sounds = [white_noise(RATE, k) * (1 + k) for k in range(3)]
    scores = field_suite.field_scores(sounds, sounds, "panns")
    assert scores["fd_panns"] == pytest.approx(0, abs=1e-9) and scores["is_panns"] is None
    assert field_suite.field_scores([2 * s for s in sounds], sounds, "panns")["kl_panns"] > 0
    with pytest.raises(ValueError, match="two pairs"):
        field_suite.field_scores(sounds, sounds[:1], "panns")


@pytest.mark.slow
def test_a_network_of_the_user_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "field").mkdir()
    program = torch.export.export(Loudness(), (torch.zeros(1, 160_000),))
    torch.export.save(program, tmp_path / "field" / "panns.pt2")
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    embedding, logits = field_suite.load_network("panns")(torch.ones(1, 160_000))
    assert embedding.tolist() == [[1, 2]] and logits.tolist() == [[1, -1]]


# -- files


def test_bad_files_are_one_line(world, tmp_path):
    out = tmp_path / "bad"
    out.mkdir()
    name = out / "0000.wav"
    for sound, error, words in (
        (np.zeros(RATE), FoleyError, "log of this clip"),
        (np.full(5 * RATE, np.nan), MediaError, "NaN"),
    ):
        soundfile.write(name, sound.astype(np.float32), RATE, subtype="FLOAT")
        with pytest.raises(error, match=words) as caught:
            score_files(name, world)
        assert "\n" not in str(caught.value)


def test_rate_and_channels_are_brought_home(world, tmp_path):
    from scipy.signal import resample_poly

    out = tmp_path / "odd"
    out.mkdir()
    sound = resample_poly(render_sound(LOGS[0]), 147, 160)  # 44.1 kHz
    soundfile.write(out / "0000.wav", np.stack([sound, sound], 1), 44_100)
    card = score_files(out / "0000.wav", world)
    assert card["f1"]["10"] > 0.95 and card["log_mel_l1"] < 0.3
    soundfile.write(out / "0000.wav", np.zeros(5 * RATE), RATE)
    silent = score_files(out / "0000.wav", world)
    assert silent["f1"]["40"] == silent["recall"] == 0 and silent["silence_db"] == -120
    assert json.loads(json.dumps(silent)) == silent


def test_silence_has_no_material():
    log = EventLog("test", 4, 2.0, continuous=[Interval("roll", 0.1, 1.9, m) for m in MATERIALS])
    score = score_clip(np.zeros(2 * RATE, np.float32), log)
    assert score.judged > 20 and score.named == 0


def test_workers_change_nothing(world):
    assert score_files(world, world, workers=2) == score_files(world, world, workers=1)


# -- the scale


def test_the_scale_is_in_order(tmp_path):
    table = bench_sync(count=4, model=False, seconds=3.0, size=(160, 90), cache_dir=tmp_path)
    rows = {name: row["f1_chance_corrected"]["20"] for name, row in table["rows"].items()}
    assert rows["exact sound"] > 0.95 > rows["jittered 30 ms"]
    assert rows["shifted 40 ms"] < 0.2 and rows["white noise"] <= 0.05 >= rows["silence"]
    error = table["rows"]["shifted 40 ms"]["error_160"]
    assert error["median_ms"] == pytest.approx(40, abs=1)
    assert json.loads(json.dumps(table)) == table
    films = evaluation_set(4, 20_000, "clean", 3.0, (160, 90), tmp_path)
    assert all(f.is_file() for f in films)
    soundfile.write(films[0].with_suffix(".wav"), np.zeros(3 * RATE), RATE)
    with pytest.raises(FoleyError, match="another version"):
        evaluation_set(4, 20_000, "clean", 3.0, (160, 90), tmp_path)


def test_comparison_sounds_are_what_they_say():
    assert np.allclose(detect_onsets(metronome(4.0, 120)), metronome_times(4.0, 120), atol=0.002)
    assert detect_onsets(white_noise(4 * RATE, 0)).size == 0
    log = EventLog("test", 1, 8.0, events=[Event(0.25 + 0.5 * k) for k in range(15)])
    assert best_tempo([log]) == 120
    moved = [e.time_s for e in jittered(log, 0.03).events]
    assert 0.01 < np.std(np.array(moved) - [e.time_s for e in log.events]) < 0.06
    sound = render_sound(log)
    assert np.array_equal(shifted(shifted(sound, 0.1), -0.1)[:-4800], sound[:-4800])
