"""Laws of the exact benchmark: the dose that was put in comes out, and chance earns nothing."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from clips import clicks, make_film
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from tiny import tiny_lab

from foley_lab.diagnosis import bench_injections
from foley_lab.diagnosis.bench import BENCHMARKS
from foley_lab.diagnosis.bench_continuity import (
    bench_continuity,
    chunk_borders,
    difference,
    window_borders,
)
from foley_lab.diagnosis.bench_response import bench_response
from foley_lab.diagnosis.bench_sync import (
    bench_sync,
    best_tempo,
    evaluation_set,
    jittered,
    metronome,
    metronome_times,
    shifted,
    white_noise,
)
from foley_lab.diagnosis.catalogue import CATALOGUE
from foley_lab.diagnosis.truth import gate, true_clips
from foley_lab.evaluation import field_desync, field_suite
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
from foley_lab.evaluation.field_clap import clap_score
from foley_lab.evaluation.gate import check_detector, count_log
from foley_lab.evaluation.keys import KEYS, explained
from foley_lab.evaluation.onsets import detect_onsets
from foley_lab.evaluation.report import write_report
from foley_lab.evaluation.response import onset_energies, response, response_scores
from foley_lab.evaluation.score import (
    find_partners,
    read_clip,
    reference_fits,
    score_clip,
    score_files,
    summary,
)
from foley_lab.evaluation.silence import silence_level
from foley_lab.evaluation.spectral import (
    log_spectral_distance,
    mel_cepstral_distortion,
    mr_stft,
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
from foley_lab.synthetic.pairs import FACTORS, counterfactual
from foley_lab.synthetic.scenes import FAMILIES, make_scene
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


def at(log, times):
    moved = [replace(e, time_s=float(t)) for e, t in zip(log.events, times, strict=True)]
    return replace(log, events=moved)


# -- the gate


def test_the_detector_passes_its_gate():
    passed = gate(104)
    assert passed.open and passed.events > 400 and passed.clips == 104
    assert passed.f1 >= 0.99 and abs(passed.bias_ms) <= 0.5
    assert set(passed.families) == set(FAMILIES)
    assert all(family.clips == 8 for family in passed.families.values())
    assert sum(family.events for family in passed.families.values()) == passed.events
    # The knocks of a rolling ball drown in its rolling at times; all others are as good alone.
    assert min(f.f1 for name, f in passed.families.items() if name != "roll") >= 0.98


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


@pytest.fixture(scope="module")
def injected() -> list[EventLog]:
    logs = list(itertools.islice(bench_injections.sparse_logs(51_000), 5))
    assert all(np.diff([e.time_s for e in log.events]).min() >= 0.35 for log in logs)
    return logs


def test_shift_is_read_to_the_millisecond(injected):
    pairs = bench_injections.both_ways(injected)
    doses, medians_ms = np.array(pairs).T
    assert doses.min() == -0.12 and doses.max() == 0.12 and np.abs(doses).min() == 0.005
    assert np.abs(medians_ms / 1000 - doses).mean() < 0.001
    assert spearmanr(doses, medians_ms)[0] > 0.99
    doses, lags_s = np.array(bench_injections.lags_of(injected)).T
    assert doses.min() == -0.16 and doses.max() == 0.16
    assert np.abs(lags_s - doses).mean() < 0.001


@pytest.mark.parametrize(
    ("change", "doses", "metric"),
    [
        ("jittered", bench_injections.JITTERS_S, lambda s: s["error_160"]["jitter_ms"]),
        ("dropped", bench_injections.SHARES, lambda s: 1 - s["recall"]),
        ("spurious", bench_injections.SHARES, lambda s: s["false_sounds_per_minute"]),
        ("renamed", bench_injections.SHARES, lambda s: 1 - s["material_accuracy"]),
    ],
)
def test_doses_come_back(injected, change, doses, metric):
    made = getattr(bench_injections, change)
    pairs = bench_injections.responses(injected, made, doses, metric)
    assert spearmanr(*zip(*pairs, strict=True))[0] > 0.99
    if doses is bench_injections.SHARES:
        none, all_ = pairs[0][1], pairs[-1][1]
        assert none < (1 if change == "spurious" else 0.06)
        assert all_ > 30 if change == "spurious" else all_ > 0.9


def test_larger_doses_keep_what_smaller_ones_did(injected):
    log = injected[0]
    few, many = (
        {
            e.time_s
            for e in bench_injections.dropped(
                log, dose, np.random.default_rng([log.seed, 9])
            ).events
        }
        for dose in (0.4, 0.8)
    )
    assert many < few < {e.time_s for e in log.events}


# -- chance


def test_chance_earns_nothing():
    families = ("bounce", "pendulum", "strike", "footsteps", "meet", "drops", "roll")
    logs = [make_scene(50_000 + k, 6.0, families[k % 7]).log for k in range(56)]
    scores = bench_injections.chance(logs, range(30, 481, 30))
    assert scores["exact sound"] > 0.97
    assert scores["silence"] <= 0.05 >= scores["metronome, best tempo"]
    # Without the roll in between, the neighbour would be of the same family.
    assert scores["another clip"] <= 0.05
    alike = [*logs[7:], *logs[:7]]
    found = [[e.time_s for e in log.events] for log in alike]
    counts = [count_log(np.array(f), log) for f, log in zip(found, logs, strict=True)]
    pooled = sum(counts, EventCounts()).scores()
    assert pooled["f1_chance_corrected"]["40"] <= 0.05  # another clip of the same family


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


def test_strength_answers_as_the_world_makes_it():
    """The measure against what is known of the pair, not against itself."""
    log = sparse(3).with_material("metal")
    log.events = [replace(e, strength=0.8, size=0.1) for e in log.events]
    soft = counterfactual(log, "strength", 0.5)
    answer = response(render_sound(log), log, render_sound(soft), soft)
    level = [0.07 + 0.93 * h**1.4 for h in (0.4, 0.8)]
    assert answer["level"] == pytest.approx(np.log(level[0] / level[1]), abs=0.2)
    assert answer["centroid"] < -0.05  # softer is darker
    large = counterfactual(log, "size", 2.5)
    assert response(render_sound(log), log, render_sound(large), large)["lowest"] < -0.1
    assert set(response(render_sound(log), log, render_sound(log), log).values()) == {0.0}


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
    assert mr_stft(low + hiss, hiss + 2 * low)[1] < 0.02 < 1 < mr_stft(low, low + hiss)[1]
    assert mr_stft(low + hiss, hiss + 2 * low)[0] > 0.3


def test_silence_is_no_infinite_distance():
    silence, loud = np.zeros(RATE), white_noise(RATE, 1)
    for faint in (silence, 1e-4 * white_noise(RATE, 2)):
        whole, high = mr_stft(loud, faint)
        assert whole < 110 and high < 330
        assert mr_stft(0.01 * loud, faint)[0] < 5
        assert mr_stft(faint, faint) == (0, 0)
    blow = render_sound(
        EventLog("test", 6, 4.0, events=[Event(1.0, material="cloth", strength=0.5)])
    )
    unbounded = mr_stft(2 * blow, blow, quiet_db=(-200.0, -200.0))
    assert mr_stft(2 * blow, blow)[0] == unbounded[0]


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


def test_loudness_is_judged_by_material():
    """A stone is 11 dB below a rubber ball of the same blow, and not soft."""
    log = EventLog("test", 8, 8.0, events=[
        Event(0.4 + 0.6 * k, "impact", m, 0.6, None, k, size=0.15)
        for k, m in enumerate([*MATERIALS, "rubber", "rubber", "wood", "wood"])
    ])  # fmt: skip
    times = [e.time_s for e in log.events]
    assert errors(times, log, render_sound(log)) == []
    soft = [replace(e, strength=0.2) if e.material == "stone" else e for e in log.events]
    faults = errors(times, log, render_sound(replace(log, events=soft)))
    assert [(f.what, f.louder_db < -6) for f in faults] == [("stone", True)]


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


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty folder for the user's networks."""
    folder = tmp_path / "weights"
    (folder / "field").mkdir(parents=True)
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(folder))
    return folder / "field"


@pytest.mark.parametrize(("name", "file"), [
    ("passt", "passt.pt2"), ("panns", "panns.pt2"), ("clap", "config.json"),
    ("desync", "desync.pt2"),
])  # fmt: skip
def test_every_absent_network_names_its_file(weights, name, file):
    with pytest.raises(MissingWeights) as caught:
        field_suite.check_field([name])
    assert str(weights) in str(caught.value) and file in str(caught.value)
    assert "\n" not in str(caught.value)


class Lateness(torch.nn.Module):
    """Stands in for a network of synchrony: brightest frame against loudest sample, as logits."""

    def forward(self, frames, sound):
        light = frames[0, :, :8].mean((2, 3, 4)).flatten()  # half of each segment: no overlap
        seen = light.argmax() / 25.0
        heard = sound[0, :, :5120].flatten().abs().argmax() / 16_000.0
        grid = torch.linspace(-2, 2, 21)
        return -(grid - (heard - seen)).abs()[None]


def flash(folder, seconds, flash_s, click_s):
    """A film that is white in one frame, and a sound with one click in either half."""
    lit = {round(25 * t) for t in flash_s}

    def draw(index, width, height):
        return np.full((height, width, 3), 255 if index in lit else 20, np.uint8)

    film = make_film(folder / "a.mp4", size=(64, 48), frames=round(25 * seconds), draw=draw)
    return film, clicks(seconds, click_s, 1)[0]


def test_desync_reads_both_ends(tmp_path):
    film, sound = flash(tmp_path, 9.6, (1.0, 6.0), (1.0, 6.0))
    assert field_desync.desync(Lateness(), film, sound) == pytest.approx(0, abs=1e-6)
    film, sound = flash(tmp_path, 9.6, (1.0, 6.0), (1.4, 5.2))
    assert field_desync.desync(Lateness(), film, sound) == pytest.approx(0.6)  # .4 and −.8
    with pytest.raises(FoleyError, match=r"lasts 4\.00 s, wanted 4\.8"):
        field_desync.desync(Lateness(), film, sound[: 4 * RATE])


def test_desync_finds_its_film(tmp_path):
    log = tmp_path / "a.json"
    assert field_desync.film_of(tmp_path / "a_foley.mp4", log) == tmp_path / "a_foley.mp4"
    with pytest.raises(MediaError, match="has no film beside it"):
        field_desync.film_of(tmp_path / "a.wav", log)
    (tmp_path / "a.webm").touch()
    assert field_desync.film_of(tmp_path / "a.wav", log) == tmp_path / "a.webm"


def save_tiny_clap(folder):
    """A random ClapModel that spells, with a tokenizer of letters."""
    transformers = pytest.importorskip("transformers")
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *map(chr, range(97, 123)), "\u0120"]
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ClapConfig(
        text_config={
            **layers, "vocab_size": len(words), "intermediate_size": 16, "pad_token_id": 1,
            "max_position_embeddings": 80,
        },
        audio_config={
            "patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1] * 4,
            "num_attention_heads": [1] * 4, "window_size": 2, "spec_size": 64, "num_mel_bins": 32,
            "patch_size": 4, "patch_stride": [4, 4],
        },
        projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ClapModel(config).save_pretrained(folder)
    ears = transformers.ClapFeatureExtractor(feature_size=32, hop_length=4800)
    reader = transformers.RobertaTokenizer(
        vocab=dict(zip(words, range(32), strict=True)), merges=[]
    )
    transformers.ClapProcessor(ears, reader).save_pretrained(folder)


def test_clap_compares_sound_and_prompt(weights):
    save_tiny_clap(weights / "clap")
    noise, blow = white_noise(12 * RATE, 3), render_sound(LOGS[0])
    alone = [clap_score([s], [p]) for s, p in ((noise, "rain"), (blow, "a knock"))]
    assert all(-1 <= one <= 1 for one in alone) and alone[0] != alone[1]
    both = clap_score([noise, blow], ["rain", "a knock"])
    assert both == pytest.approx(np.mean(alone), abs=1e-6)
    assert clap_score([noise[: 10 * RATE]], ["rain"]) == pytest.approx(alone[0], abs=1e-6)
    assert clap_score([noise, blow], ["rain", " "]) == pytest.approx(alone[0], abs=1e-6)
    with pytest.raises(ValueError, match="without a prompt"):
        clap_score([noise], [""])


def test_half_a_clap_is_refused(weights):
    save_tiny_clap(weights / "clap")
    file = weights / "clap" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("text_projection.linear1.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(FoleyError, match=r"lacks 1 tensors \(text_projection"):
        clap_score([render_sound(LOGS[0])], ["a knock"])


def test_a_network_of_the_user_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "field").mkdir()
    program = torch.export.export(Loudness(), (torch.zeros(1, 160_000),))
    torch.export.save(program, tmp_path / "field" / "panns.pt2")
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    embedding, logits = field_suite.load_network("panns")(torch.ones(1, 160_000))
    assert embedding.tolist() == [[1, 2]] and logits.tolist() == [[1, -1]]
    looks = torch.zeros(1, 14, 16, 3, 224, 224), torch.zeros(1, 14, 10_240)
    torch.export.save(torch.export.export(Lateness(), looks), tmp_path / "field" / "desync.pt2")
    assert field_desync.load_desync()(*looks).argmax() == 10


def test_files_are_scored_by_networks(world, weights):
    program = torch.export.export(Loudness(), (torch.zeros(1, 320_000),))
    torch.export.save(program, weights / "passt.pt2")
    save_tiny_clap(weights / "clap")
    partners = find_partners(world, world)
    scores = field_suite.score_field(["clap", "passt"], partners)
    assert list(scores) == ["fd_passt", "kl_passt", "is_passt", "clap"]
    assert scores["fd_passt"] == pytest.approx(0, abs=1e-9) and scores["is_passt"] is None
    sounds = [read_clip(*paths)[0] for paths in partners]
    assert scores["clap"] == pytest.approx(clap_score(sounds, ["knocks"] * 3), abs=1e-6)
    (world / "0001.wav").rename(world / "0001_foley.wav")
    with pytest.raises(MediaError, match="has no reference"):
        field_suite.score_field(["passt"], find_partners(world, world))


def test_a_reference_of_another_clip_is_noticed(world):
    assert {c["reference_fits"] for c in score_files(world, world)["per_clip"]} == {True}
    for k in range(3):
        soundfile.write(world / f"{k:04}_foley.wav", render_sound(LOGS[k]), RATE)
    soundfile.write(world / "0001.wav", render_sound(LOGS[2]), RATE)
    fits = [c["reference_fits"] for c in score_files(world, world)["per_clip"]]
    assert fits == [True, False, True]
    few = EventLog("test", 1, 2.0, events=[Event(0.5), Event(1.0)])
    assert reference_fits(np.zeros(2 * RATE, np.float32), few) is None


def test_every_figure_is_explained(world):
    card = score_files(world, world)
    named = {key for keys in KEYS for key in keys.split(", ")}
    assert named - {"field"} == set(card)
    assert set(card["error_160"]) <= set(KEYS["error_160"].replace(",", "").split())
    assert all(len(line) <= 78 for line in explained().splitlines())


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
    assert rows["shifted 60 ms"] < 0.2 and table["rows"]["shifted 60 ms"]["f1"]["80"] > 0.95
    assert rows["white noise"] <= 0.05 >= rows["silence"]
    error = table["rows"]["shifted 60 ms"]["error_160"]
    assert error["median_ms"] == pytest.approx(60, abs=1)
    families = table["gate"]["families"]
    assert set(families) == set(FAMILIES) and set(families["bounce"]) == {"clips", "events", "f1"}
    assert json.loads(json.dumps(table)) == table
    films = evaluation_set(4, 20_000, "clean", 3.0, (160, 90), tmp_path)
    assert all(f.is_file() for f in films)
    soundfile.write(films[2].with_suffix(".wav"), np.zeros(3 * RATE), RATE)
    with pytest.raises(FoleyError, match=r"0002\.wav was made by another version"):
        evaluation_set(4, 20_000, "clean", 3.0, (160, 90), tmp_path)


def test_comparison_sounds_are_what_they_say():
    assert np.allclose(detect_onsets(metronome(4.0, 120)), metronome_times(4.0, 120), atol=0.002)
    for tempo in (30, 120, 480, 6000):
        assert 0.4 < np.abs(metronome(2.0, tempo)).max() <= 1
    assert detect_onsets(white_noise(4 * RATE, 0)).size == 0
    log = EventLog("test", 1, 8.0, events=[Event(0.25 + 0.5 * k) for k in range(15)])
    assert best_tempo([log]) == 120
    moved = [e.time_s for e in jittered(log, 0.03).events]
    assert 0.01 < np.std(np.array(moved) - [e.time_s for e in log.events]) < 0.06
    sound = render_sound(log)
    assert np.array_equal(shifted(shifted(sound, 0.1), -0.1)[:-4800], sound[:-4800])


# -- the other benchmarks


def test_benchmarks_are_listed():
    assert list(CATALOGUE) == list(BENCHMARKS)


def test_injections_are_a_table():
    table = bench_injections.bench_injections(count=2, tempi=(60, 120))
    assert json.loads(json.dumps(table)) == table
    assert set(table["spearman"]) == {"shift", "jitter", "dropped", "spurious", "material"}
    assert table["shift"]["mae_ms"] < 1 and table["shift"]["lag_mae_ms"] < 1
    assert table["chance"]["silence"] == 0 and table["chance"]["exact sound"] > 0.9


def test_exact_sounds_answer_fully():
    table = bench_response(count=1, lab=tiny_lab(), seconds=2.0, size=(96, 54))
    assert json.loads(json.dumps(table)) == table
    rows = table["rows"]
    assert {tuple(row) for row in rows.values()} == {FACTORS}
    exact = [p for factor in rows["exact sound"].values() for p in factor.values()]
    some = [p for p in exact if isinstance(p, dict) and p["pairs"]]
    assert len(some) >= 8
    assert all(p["sign_accuracy"] == 1 and p["effect_ratio"] == pytest.approx(1) for p in some)
    # The tiny model is told nothing of size, and its picture is the same.
    told = rows["true events"]["size"]
    assert {told[p]["effect_ratio"] for p in ("level", "centroid")} <= {0.0, None}


def test_continuity_is_a_table():
    lab = tiny_lab()
    table = bench_continuity(count=1, lab=lab, seconds=10.0, short_s=9.0, size=(96, 54))
    assert json.loads(json.dumps(table)) == table
    # Two windows of 8 s; the second starts on the grid of the tokens.
    assert window_borders(lab, 10.0) == [2.08, 8.0] and window_borders(lab, 8.0) == []
    assert chunk_borders(lab, 10.0) == [2.0, 4.0, 6.0, 8.0]
    assert table["seams"]["window"]["borders"] == 2 and table["seams"]["chunk"]["borders"] == 4
    runs = table["determinism"]
    assert runs["run again"] == {"equal": True, "first_difference": None, "largest": 0.0}
    assert all(run["largest"] < 1e-3 for run in runs.values())


def test_differences_are_told():
    a = np.zeros((1, 10), np.float32)
    b = a.copy()
    b[0, 4] = 0.25
    assert difference(a, b) == {"equal": False, "first_difference": 4, "largest": 0.25}
    assert difference(a, a.copy())["equal"]
