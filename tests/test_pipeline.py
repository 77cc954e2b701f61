"""The stages in a row: laws of the pipeline, with untrained networks and small films."""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from clips import clicks, make_film
from tiny import tiny_lab

from foley_lab.media import read_audio
from foley_lab.pipeline import presets
from foley_lab.pipeline.lab import Lab
from foley_lab.pipeline.pieces import CEILING, REACH, decode_pieces, limited
from foley_lab.samplers import CALLS, SAMPLERS
from foley_lab.signals import Event, EventLog, FoleyError, MediaError, MissingWeights


@pytest.fixture(scope="module")
def lab() -> Lab:
    return tiny_lab()


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "clip.mp4", frames=25)


def joined(chunks) -> torch.Tensor:
    return torch.cat([chunk.samples for chunk in chunks], -1)


# Laws


def test_a_sound_is_as_long_as_its_picture(lab, film):
    result = lab(film, prompt="a glass ball")
    assert result.audio.samples.shape == (1, 48_000)
    assert result.audio.samples.dtype == torch.float32 and result.audio.sample_rate == 48_000
    assert result.audio.samples.std() > 0
    assert result.network_calls == 2 and result.options.num_steps == 2
    assert result.info.path == film and not result.info.views
    assert result.events == result.features.events


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        (1, Fraction(10)),
        (3, Fraction(30000, 1001)),
        (7, Fraction(24)),
        (31, Fraction(60)),
        (50, Fraction(24000, 1001)),
        (200, Fraction(10)),
    ],
)
def test_lengths_are_exact(lab, tmp_path, frames, fps):
    path = make_film(tmp_path / "a.mp4", size=(32, 32), frames=frames, fps=fps)
    result = lab(path, num_steps=1)
    wanted = round(frames / fps * 48_000)
    assert result.audio.samples.shape[1] == wanted
    stream = lab.stream(path, num_steps=1, piece=7)
    assert sum(chunk.samples.shape[1] for chunk in stream) == wanted
    result.save(tmp_path / "out.mkv")
    assert read_audio(tmp_path / "out.mkv").samples.shape[1] == wanted


def test_same_seed_same_sound(lab, film):
    first, again, other = (lab(film, seed=seed).audio.samples for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_what_is_seen_can_be_edited_and_played_again(lab, film):
    seen = lab(film)
    assert seen.log.events == seen.events and seen.log.seconds == seen.audio.duration_s
    again = lab(film, events=seen.log)
    assert torch.equal(seen.audio.samples, again.audio.samples)
    told = lab(film, prompt="a crystal ball")
    retold = lab(film, events=told.log)  # the log keeps the words and what they made of it
    assert torch.equal(told.audio.samples, retold.audio.samples)
    beyond = replace(seen.log, events=[*seen.log.events, Event(99.0)])
    assert torch.equal(seen.audio.samples, lab(film, events=beyond).audio.samples)
    for odd in (Event(0.1, kind="bang"), Event(0.1, material="unobtainium")):
        with pytest.raises(ValueError, match="correct the log"):
            lab(film, events=replace(seen.log, events=[odd]))
    with pytest.raises(ValueError, match="wanted an EventLog"):
        lab(film, events="seen.json")
    moved = replace(seen.log, events=[Event(0.61, material="glass"), Event(0.2)], continuous=[])
    played = lab(film, events=moved)
    assert [e.time_s for e in played.events] == [0.2, 0.61]
    assert not torch.allclose(seen.audio.samples, played.audio.samples, atol=1e-3)


def test_random_state_of_the_caller_is_left_alone(lab, film):
    before = torch.get_rng_state()
    lab(film)
    assert torch.equal(before, torch.get_rng_state())


def test_takes_share_what_is_seen_and_equal_single_ones(lab, film, monkeypatch):
    looks = []
    encode = lab.encoder.encode
    monkeypatch.setattr(lab.encoder, "encode", lambda *a: looks.append(1) or encode(*a))
    result = lab(film, prompt="steps", seed=5, takes=3)
    assert len(looks) == 1 and len(result.takes) == 3 and result.features.visual.shape[0] == 1
    for k, take in enumerate(result.takes):
        alone = lab(film, prompt="steps", seed=5 + k).audio
        assert torch.allclose(take.samples, alone.samples, atol=1e-4)


def test_words_and_steps_change_the_sound(lab, film):
    plain = lab(film).audio.samples
    for change in ({"prompt": "rain"}, {"negative_prompt": "rain"}, {"num_steps": 5}):
        assert not torch.allclose(plain, lab(film, **change).audio.samples, atol=1e-5), change


@pytest.mark.parametrize("loud", [0.0, 5.0])
@pytest.mark.parametrize("piece", [1, 13, 1000])
def test_streamed_is_offline(tmp_path, piece, loud):
    lab = tiny_lab(loud)
    path = make_film(tmp_path / "a.mp4", size=(32, 32), frames=77)
    offline = lab(path, takes=2)
    stream = lab.stream(path, takes=2, piece=piece)
    streamed = joined(stream)
    assert streamed.shape == offline.audio.samples.shape
    assert torch.allclose(streamed, offline.audio.samples, atol=1e-4)
    assert torch.allclose(stream.result.takes[1].samples, offline.takes[1].samples, atol=1e-4)
    assert len(stream.timings.stages()) == 4
    assert stream.timings.stages()["decode"].calls == math.ceil(77 / piece)


def test_the_first_chunk_comes_before_the_rest_is_decoded(lab, film):
    stream = lab.stream(film, piece=5)
    with pytest.raises(ValueError, match="chunks left"):
        _ = stream.result
    assert stream.timings.spans == []  # nothing is done before it is asked for
    next(stream)
    assert stream.timings.stages()["decode"].calls == 1
    first_s = stream.timings.marks["time_to_first_audio"]
    list(stream)
    assert stream.timings.stages()["decode"].calls == 5
    assert stream.result.timings.marks["time_to_first_audio"] == first_s


def test_waiting_for_the_listener_is_not_counted(lab, film):
    import time

    stream = lab.stream(film, piece=5)
    next(stream)
    before = stream.timings.total_s
    time.sleep(0.5)
    next(stream)
    assert stream.timings.total_s - before < 0.45


def test_a_long_sound_of_several_windows_streams_alike(lab, tmp_path):
    path = make_film(tmp_path / "a.mp4", size=(32, 32), frames=2 * 21, fps=2)  # 21 s, three windows
    offline = lab(path, num_steps=1)
    assert offline.audio.samples.shape[1] == 21 * 48_000
    assert torch.allclose(joined(lab.stream(path, num_steps=1)), offline.audio.samples, atol=1e-4)


# Loudness


def test_what_is_quiet_is_left_as_it_is():
    quiet = 0.98 * torch.sin(torch.arange(4000.0))[None, None]
    assert limited(quiet) is quiet


def test_what_is_loud_is_turned_down_and_keeps_its_shape():
    sound = 0.5 * torch.sin(torch.arange(48_000) * 0.05)[None, None]
    sound[..., 20_000:20_400] *= 6
    down = limited(sound)
    assert down.abs().max() <= CEILING
    far = torch.ones(48_000, dtype=torch.bool)
    far[20_000 - 2 * REACH : 20_400 + 2 * REACH] = False
    assert torch.equal(down[..., far], sound[..., far])
    gain = (down / sound)[..., sound[0, 0].abs() > 0.01]
    assert gain.diff().abs().max() < 0.02  # a gain that glides, where a clip would jump
    assert float(gain.min()) == pytest.approx(CEILING / float(sound.abs().max()), rel=0.01)


@pytest.mark.parametrize("length", [1, 2, 100, 2 * REACH])
def test_short_loud_sounds_stay_below_the_ceiling(length):
    assert limited(torch.full((2, 1, length), 7.0)).abs().max() <= CEILING


def test_loud_pieces_join_without_a_seam(lab):
    latents = 3 * torch.randn(1, 128, 60, generator=torch.Generator().manual_seed(1))
    count = 60 * 1920 - 77
    (whole,) = decode_pieces(lab.decoder, latents, 1920, count, 60)
    assert whole.abs().max() == pytest.approx(CEILING, abs=1e-3)  # the limiter had work to do
    pieces = torch.cat(list(decode_pieces(lab.decoder, latents, 1920, count, 11)), -1)
    assert pieces.shape == whole.shape == (1, 1, count)
    assert torch.allclose(pieces, whole, atol=1e-4)


# Timings and progress


def test_the_waterfall_names_every_stage(lab, film, tmp_path):
    result = lab(film)
    assert list(result.timings.stages()) == ["read", "encode", "generate", "decode"]
    result.save(tmp_path / "a.mp4")
    seconds = result.timings.as_dict()
    assert list(seconds) == [
        "read", "encode", "generate", "decode", "write", "total", "time_to_first_audio",
    ]  # fmt: skip
    stages = sum(seconds[name] for name in ("read", "encode", "generate", "decode", "write"))
    assert stages <= seconds["total"] < stages + 0.5
    assert 0 < seconds["time_to_first_audio"] < seconds["total"]
    assert result.timings.stages()["read"].bytes == film.stat().st_size
    assert result.timings.stages()["write"].bytes == (tmp_path / "a.mp4").stat().st_size


def test_progress_is_told_and_may_stop(lab, film):
    told = []
    lab(film, num_steps=3, callback=lambda *step: told.append(step))
    assert told == [
        ("read", 0, 1), ("encode", 0, 1),
        ("generate", 1, 3), ("generate", 2, 3), ("generate", 3, 3), ("decode", 1, 1),
    ]  # fmt: skip

    def stop(stage, done, total):
        if (stage, done) == ("generate", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab(film, num_steps=3, callback=stop)


# Files out


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".wav", ".flac", ".ogg"])
def test_a_result_is_saved_as_its_suffix_says(lab, film, tmp_path, suffix):
    result = lab(film, takes=2)
    target = tmp_path / f"a{suffix}"
    target.write_text("old")
    assert result.save(target, take=1) == []
    sound = read_audio(target).samples
    assert sound.shape == (1, 48_000)
    if suffix in (".wav", ".flac", ".mkv"):
        assert torch.allclose(sound, result.takes[1].samples, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_the_own_sound_of_a_film_may_stay(lab, tmp_path):
    own = 0.5 * clicks(1.0, [0.5], channels=1)
    path = make_film(tmp_path / "a.mkv", frames=25, sound=own, sound_codec="flac")
    result = lab(path)
    result.audio.samples *= 0.1
    result.save(tmp_path / "without.mkv")
    result.save(tmp_path / "with.mkv", keep_audio=True)
    without, with_ = (read_audio(tmp_path / f"{n}.mkv").samples for n in ("without", "with"))
    assert (with_ - without)[0, 24_000] == pytest.approx(0.45, abs=0.01)


def test_the_end_of_a_prompt_that_is_not_read_is_told(lab, film):
    assert lab(film, prompt="rain").warnings == []
    (told,) = lab(film, prompt="rain on tin " * 200 + "dog").warnings
    assert told.startswith("the end of the prompt was not read: ") and len(told) < 120


def test_saving_refuses_what_cannot_be(lab, film, tmp_path):
    result = lab(film)
    with pytest.raises(ValueError, match="take 1, wanted 0 to 0"):
        result.save(tmp_path / "a.mp4", take=1)
    with pytest.raises(ValueError, match="keep_audio with a sound alone"):
        result.save(tmp_path / "a.wav", keep_audio=True)
    with pytest.raises(MediaError, match="is the source itself"):
        result.save(film)
    with pytest.raises(MediaError, match="does not exist"):
        result.save(tmp_path / "no" / "a.mp4")
    with pytest.raises(MediaError, match="wanted one of"):
        result.save(tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


# The door


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": None}, "prompt None, wanted text"),
        ({"prompt": b"rain"}, "prompt b'rain', wanted text"),
        ({"prompt": "\udcff"}, "wanted UTF-8"),
        ({"negative_prompt": 3}, "negative_prompt 3"),
        ({"num_steps": 0}, "num_steps 0"),
        ({"num_steps": 1001}, "num_steps 1001"),
        ({"num_steps": 2.0}, "num_steps 2.0"),
        ({"num_steps": True}, "num_steps True"),
        ({"guidance_scale": math.nan}, "guidance_scale nan"),
        ({"guidance_scale": math.inf}, "guidance_scale inf"),
        ({"guidance_scale": -1}, "guidance_scale -1"),
        ({"guidance_scale": 51}, "guidance_scale 51"),
        ({"guidance_scale": "2"}, "guidance_scale '2'"),
        ({"sampler": "ode45"}, "sampler 'ode45', wanted one of euler"),
        ({"schedule": "steep"}, "schedule 'steep', wanted 'uniform', 'cosine', 'optimal'"),
        ({"schedule": -1.0}, "schedule -1.0"),
        ({"schedule": [1.0, 0.5, 0.2, 0.0]}, "a schedule of 4 times for 2 steps, wanted 3"),
        ({"schedule": "optimal"}, "schedule 'optimal' for a model without a table"),
        ({"guidance": "strong"}, "guidance 'strong', wanted one of plain, interval"),
        ({"guidance": 7}, "guidance 7"),
        ({"step_cache": "all"}, "step cache 'all', wanted one of first_block"),
        ({"decoder": "mp3"}, "decoder 'mp3', wanted one of vocoder"),
        ({"generator": "gan"}, "generator 'gan', wanted one of flow"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed 9223372036854775808"),
        ({"seed": 0.5}, "seed 0.5"),
        ({"takes": 0}, "takes 0"),
        ({"takes": 17}, "takes 17"),
        ({"video": None}, "video None, wanted the path"),
    ],
)
def test_wrong_options_are_refused_before_the_file_is_touched(lab, wrong, says):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        lab(**{"video": "nowhere.mp4"} | wrong)
    assert says in str(caught.value) and "wanted" in str(caught.value)
    with pytest.raises(ValueError):
        lab.stream(**{"video": "nowhere.mp4"} | wrong)


def test_a_piece_is_at_least_a_frame(lab, film):
    with pytest.raises(ValueError, match="piece 0"):
        lab.stream(film, piece=0)


def test_a_missing_film_is_named(lab):
    with pytest.raises(MediaError, match=r"nowhere\.mp4 does not exist"):
        lab("nowhere.mp4")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_a_sound(lab, film, sampler):
    result = lab(film, sampler=sampler, guidance_scale=1.0)
    assert result.audio.samples.std() > 0
    assert result.network_calls == result.evaluations == 2 * CALLS.get(sampler, 1)


def test_choices_of_the_sampler_reach_the_sound(lab, film):
    plain = lab(film, num_steps=4)
    assert plain.evaluations == 2 * plain.network_calls == 8
    for choice in (
        {"schedule": 3.0},
        {"schedule": [1.0, 0.9, 0.4, 0.1, 0.0]},
        {"schedule": "cosine"},
        {"guidance": "interval"},
        {"guidance": "zero-star"},
        {"guidance": "rescaled"},
        {"step_cache": "taylorseer"},
    ):
        other = lab(film, num_steps=4, **choice)
        assert not torch.equal(other.audio.samples, plain.audio.samples), choice
    assert other.blocks_run < 1 == plain.blocks_run


def test_a_scheduler_of_diffusers_is_a_sampler(lab, film):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.guiders import ClassifierFreeGuidance

    scheduler = FlowMatchEulerDiscreteScheduler()
    theirs = lab(film, sampler=scheduler, guidance=ClassifierFreeGuidance(guidance_scale=2.5))
    ours = lab(film, sampler="euler", guidance_scale=2.5)
    assert torch.allclose(theirs.audio.samples, ours.audio.samples, atol=1e-4)


def test_the_default_schedule_is_not_put_upon_a_scheduler(film):
    from diffusers import FlowMatchEulerDiscreteScheduler

    lab = tiny_lab()
    lab.generator.schedules = {"1": {2: [1.0, 0.9, 0.0]}, "2": {2: [1.0, 0.6, 0.0]}}
    lab.defaults = replace(lab.defaults, schedule="optimal")
    seen = []
    lab(film, sampler="euler", on_step=lambda s: seen.append(s.progress.t))
    lab(film, sampler="ab2", on_step=lambda s: seen.append(s.progress.t))
    lab(
        film, sampler=FlowMatchEulerDiscreteScheduler(), on_step=lambda s: seen.append(s.progress.t)
    )
    assert seen[::2] == [0.9, 0.6, 0.5]


def test_a_sound_can_be_heard_as_it_forms(lab, film):
    heard, sounds = [], []

    def listen(stage):
        heard.append((stage.progress.done, stage.progress.total, stage.progress.t))
        sounds.append(stage.audio(take=1).samples)

    result = lab(film, num_steps=3, takes=2, on_step=listen)
    assert [h[:2] for h in heard] == [(1, 3), (2, 3), (3, 3)] and heard[-1][2] == 0.0
    assert torch.allclose(sounds[-1], result.takes[1].samples, atol=1e-5)  # the last is the sound
    assert not torch.allclose(sounds[0], sounds[-1], atol=1e-3)
    assert torch.equal(result.audio.samples, lab(film, num_steps=3, takes=2).audio.samples)


def test_whoever_listens_may_set_the_latents(lab, film):
    changed = lab(film, num_steps=3, on_step=lambda s: torch.zeros_like(s.progress.latents))
    wanted = lab.decoder.decode(torch.zeros(1, 128, 25))[0, 0, 4800:9600]
    got = changed.audio.samples[0, 4800:9600]  # turned down where it was too loud
    assert torch.corrcoef(torch.stack([got, wanted]))[0, 1] > 0.999


@pytest.mark.parametrize("guidance_scale", [0, 1, 50.0])
def test_the_ends_of_guidance_are_taken(lab, film, guidance_scale):
    assert lab(film, guidance_scale=guidance_scale).audio.samples.isfinite().all()


def test_half_precision_is_near(film):
    exact, rough = tiny_lab(), tiny_lab()
    rough.generator.transformer.bfloat16()
    result = rough(film)
    assert result.dtype == "bfloat16" and result.audio.samples.dtype == torch.float32
    a, b = exact(film).audio.samples, result.audio.samples
    assert (a - b).square().mean() < 0.1 * a.square().mean()


# Presets


@pytest.mark.parametrize("name", ["xl", "xxl"])
def test_official_models_name_the_command_that_brings_them(name, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=f"foley-lab weights fetch {name}"):
        presets.load(name)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "large"}, "model 'large', wanted one of small, xl, xxl"),
        ({"device": "toaster"}, "device 'toaster'"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"dtype": "int4"}, "dtype 'int4', wanted auto, float32, bfloat16"),
        ({"offload": True}, "offload True"),
        ({"cache_dir": "x"}, "cache_dir 'x'"),
    ],
)
def test_presets_refuse_what_they_do_not_know(wrong, says):
    with pytest.raises(ValueError) as caught:
        presets.load(**wrong)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_auto_is_half_precision_only_where_that_is_quick(monkeypatch):
    cpu = torch.device("cpu")
    for quick, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(presets, "has_bfloat16_units", lambda quick=quick: quick)
        assert presets.choose_dtype("auto", cpu) == wanted
    assert presets.choose_dtype("float32", cpu) == torch.float32


def test_the_small_model_gives_a_film_its_sound(film):
    try:
        lab = presets.load("small")
    except MissingWeights as absent:
        pytest.skip(str(absent))
    result = lab(film, prompt="a glass ball bounces on wood")
    assert result.model == "small" and result.audio.samples.shape == (1, 48_000)
    assert replace(result.options, prompt="") == lab(film).options


def test_errors_of_one_family():
    assert issubclass(MediaError, FoleyError) and issubclass(MissingWeights, FoleyError)


# --- without a film ----------------------------------------------------------------------------


def test_a_log_sounds_without_a_film(lab, tmp_path):
    log = EventLog("", 0, 1.2, events=[Event(0.3, material="glass"), Event(0.8)])
    result = lab(None, events=log, seed=4)
    assert result.audio.samples.shape == (1, round(1.2 * 48_000))
    assert result.events == log.events and result.info.path is None
    assert result.log.seconds == 1.2
    whole = torch.cat([c.samples for c in lab.stream(None, events=log, seed=4, piece=7)], -1)
    assert torch.allclose(whole, result.audio.samples, atol=1e-6)
    assert lab(None, events=log, seconds=0.5).audio.samples.shape == (1, 24_000)
    result.save(tmp_path / "sound.wav")
    assert read_audio(tmp_path / "sound.wav").samples.shape[-1] == 57_600
    with pytest.raises(ValueError, match="for a sound without a film"):
        result.save(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        (None, {"prompt": "rain"}, "neither a film nor a log of events"),
        (None, {"prompt": "rain", "seconds": 0}, r"seconds 0, wanted above 0"),
        (None, {"prompt": "rain", "seconds": -1.0}, r"seconds -1.0, wanted above 0"),
        (None, {"prompt": "rain", "seconds": 1e9}, r"wanted above 0 to 600"),
        ("film.mp4", {"seconds": 2.0}, "seconds 2.0 for a film"),
    ],
)
def test_bad_requests_without_a_film_are_named(lab, video, options, message):
    with pytest.raises(ValueError, match=message):
        lab(video, **options)


def test_a_log_that_does_not_fit_is_noticed(lab, film):
    fits = EventLog("", 0, 1.0, events=[Event(0.3)])
    assert not lab(film, events=fits).warnings
    longer = EventLog("", 0, 3.0, events=[Event(0.3), Event(2.5)])
    told = lab(film, events=longer).warnings
    assert told == [
        "the log lasts 3.00 s and the sound 1.00 s",
        "1 of 2 events lie outside and are not heard",
    ]
