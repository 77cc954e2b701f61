"""The official model end to end, at a tiny width, from files laid out like the published ones."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from clips import make_film
from official_files import OPTIONS, write_official

from foley_lab.encoders.sampling import frame_views, num_latents, num_segments
from foley_lab.generators.foley import FoleyConfig
from foley_lab.media import probe, read_audio, read_video
from foley_lab.pipeline import presets
from foley_lab.pipeline.official import convert_official
from foley_lab.serving.cli import main
from foley_lab.signals import EventLog, FoleyError, MissingWeights
from foley_lab.weights import verify

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("FOLEY_LAB_GOLDEN", ROOT.parent / "shared" / "golden"))
FEW = {"num_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def weights(published, monkeypatch):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(published))
    return published


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("film") / "clip.mp4", frames=50)


@pytest.fixture(scope="module")
def lab(published):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLEY_LAB_WEIGHTS", str(published))
        return presets.load("xl", "cpu", "float32")


def test_a_film_gets_its_sound(lab, film):
    result = lab(film, prompt="a bell", **FEW)
    assert result.model == "xl" and result.options.guidance_scale == 4.5
    assert result.audio.samples.shape == (1, 96_000)
    assert result.audio.samples.std() > 0.01
    assert result.network_calls == 2
    assert lab.defaults.num_steps == 50
    told, untold = lab(film, prompt="a drum", **FEW), lab(film, **FEW)
    sounds = [result.audio.samples, told.audio.samples, untold.audio.samples]
    assert not torch.allclose(sounds[0], sounds[1]) and not torch.allclose(sounds[1], sounds[2])


def test_the_second_loading_opens_the_copy_and_sounds_alike(lab, weights, film):
    copy = weights / "xl" / "hunyuanvideo_foley_xl.safetensors"
    assert copy.is_file()
    again = presets.load("xl", "cpu", "float32")
    assert torch.equal(again(film, **FEW).audio.samples, lab(film, **FEW).audio.samples)


def test_streamed_is_whole_and_takes_are_alone(lab, film):
    both = lab(film, takes=2, **FEW)
    for take, audio in enumerate(both.takes):
        alone = lab(film, num_steps=2, seed=3 + take).audio.samples
        assert torch.allclose(audio.samples, alone, atol=1e-4)
    streamed = torch.cat([c.samples for c in lab.stream(film, piece=17, **FEW)], -1)
    assert torch.allclose(streamed, both.audio.samples, atol=1e-4)


def test_words_alone_and_short_and_long_clips(lab, tmp_path):
    alone = lab(None, prompt="rain on a tin roof", seconds=1.5, **FEW)
    assert alone.audio.samples.shape == (1, 72_000) and alone.audio.samples.std() > 0.001
    short = make_film(tmp_path / "short.mp4", frames=8)  # 0.32 s, below one segment
    assert lab(short, **FEW).audio.samples.shape == (1, 15_360)
    long = make_film(tmp_path / "long.mp4", frames=260)  # 10.4 s, two windows
    result = lab(long, num_steps=1)
    assert result.audio.samples.shape == (1, 499_200)
    assert result.network_calls == 2 and result.audio.samples.isfinite().all()


def test_offloaded_is_resident(lab, weights, film):
    offloaded = presets.load("xl", "cpu", "float32", offload=True)
    assert set(offloaded.residences) == {"encode", "generate", "decode"}
    wanted = lab(film, prompt="a bell", **FEW).audio.samples
    assert torch.equal(offloaded(film, prompt="a bell", **FEW).audio.samples, wanted)


def test_the_published_way_of_counting_is_a_choice(lab, weights, film, tmp_path):
    reference = presets.load("xl", "cpu", "float32", compat="reference")
    eight = make_film(tmp_path / "eight.mp4", frames=200)
    assert reference(eight, num_steps=1).audio.samples.shape == (1, 398 * 960)  # 199 of 200 frames
    assert lab(eight, num_steps=1).audio.samples.shape == (1, 384_000)
    with pytest.raises(ValueError, match="compat 'other', wanted None or 'reference'"):
        presets.load("xl", compat="other")
    with pytest.raises(ValueError, match="for 'small', wanted False and None"):
        presets.load("small", compat="reference")


def test_the_published_way_ends_at_fifteen_seconds_in_one_pass(lab, weights, tmp_path):
    reference = presets.load("xl", "cpu", "float32", compat="reference")
    for frames in (376, 500):  # 15.04 s are read to their end
        film = make_film(tmp_path / f"{frames}.mp4", frames=frames)
        result = reference(film, num_steps=1)
        assert result.features.visual.shape[1] == 121 and result.features.sync.shape[1] == 368
        assert result.audio.samples.shape == (1, 752 * 960) and result.network_calls == 1
        told = [w for w in result.warnings if "the film lasts 20.00 s and the sound 15.04" in w]
        assert len(told) == len(result.warnings) == (frames == 500)
    ours = lab(film, num_steps=1)
    assert ours.audio.samples.shape == (1, 960_000) and not ours.warnings
    target = tmp_path / "out.mp4"
    result.save(target)
    assert probe(target).duration_s == pytest.approx(20)  # the picture goes on
    alone = reference(None, prompt="rain", seconds=15, num_steps=1)
    assert alone.audio.samples.shape == (1, 720_000)
    with pytest.raises(ValueError, match=r"15\.5 s of words alone with compat .*wanted at most 15"):
        reference(None, prompt="rain", seconds=15.5, num_steps=1)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference data absent")
def test_frames_and_lengths_are_those_of_the_published_code():
    told = json.loads((GOLDEN / "frame_sampling.json").read_text())["videos"]
    for each in told:
        video = read_video(GOLDEN / each["file"], frame_views(32, "reference"))
        frames = len(video.views["sync"].images)
        assert (len(video.views["visual"].images), frames) == (each["n_8fps"], each["n_25fps"])
        assert num_latents(frames, "reference") == each["latent_frames"]
        assert 8 * num_segments(frames, "reference") == each["sync_tokens"]
    assert any(each["latent_frames"] == 752 for each in told)


def test_half_precision_sounds_alike(lab, weights, film):
    half = presets.load("xl", "cpu", "bfloat16")
    assert half.dtype == torch.bfloat16
    wanted, got = lab(film, **FEW).audio.samples, half(film, **FEW).audio.samples
    assert (got - wanted).norm() / wanted.norm() < 0.3  # random weights amplify rounding
    assert not torch.equal(got, wanted)


def test_weights_of_eight_bits_sound_alike(lab, weights, film):
    pytest.importorskip("torchao")
    small = presets.load("xl", "cpu", "int8")
    wanted, got = lab(film, **FEW).audio.samples, small(film, **FEW).audio.samples
    assert (got - wanted).norm() / wanted.norm() < 0.5 and not torch.equal(got, wanted)
    for name, options in (("small", {}), ("xl", {"offload": True})):
        with pytest.raises(ValueError, match="wanted an official size on the cpu"):
            presets.load(name, "cpu", "int8", **options)


def test_events_are_for_the_small_model(lab, film):
    with pytest.raises(ValueError, match="leave the events out or choose the small model"):
        lab("no_such_film.mp4", events=EventLog("", 0, 2.0), **FEW)  # before it is looked for


# --- the commands ------------------------------------------------------------------------------


def run(capsys, *words):
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_verify_and_generate(weights, film, tmp_path, capsys):
    assert run(capsys, "weights", "verify", "xl")[0] == 0
    target = tmp_path / "out.mp4"
    code, out, _ = run(
        capsys, "generate", film, "-o", target, "--model", "xl", "--steps", 2, "--prompt", "a bell",
        "--dtype", "float32", "--json",
    )  # fmt: skip
    told = json.loads(out.splitlines()[-1])
    assert code == 0 and told["model"] == "xl" and told["decoder"] == "dac-vae"
    assert told["num_steps"] == 2 and told["guidance_scale"] == 4.5
    assert probe(target).has_audio
    code, _, _ = run(
        capsys, "generate", "-o", tmp_path / "rain.wav", "--model", "xl", "--steps", 1,
        "--prompt", "rain", "--seconds", 1,
    )  # fmt: skip
    assert code == 0 and read_audio(tmp_path / "rain.wav").samples.shape[-1] == 48_000


def test_a_list_with_a_broken_row_in_any_order(weights, film, tmp_path, capsys):
    rows = [(film, "a bell", 5), (tmp_path / "absent.mp4", "", 1), (film, "a drum", 6)]
    sounds = []
    for turn, order in enumerate((rows, rows[::-1])):
        table = tmp_path / f"list{turn}.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "prompt", "seed", "out"])
            for video, prompt, seed in order:
                writer.writerow([video, prompt, seed, f"{seed}.wav"])
        folder = tmp_path / f"out{turn}"
        code, _, said = run(capsys, "batch", table, "-o", folder, "--model", "xl")
        assert code == 4 and "absent.mp4" in said
        sounds.append([read_audio(folder / f"{seed}.wav").samples for seed in (5, 6)])
    assert all(torch.equal(a, b) for a, b in zip(*sounds, strict=True))
    assert not torch.equal(*sounds[0])


# --- bad files ---------------------------------------------------------------------------------


class Trap:
    """Runs when unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.fixture
def damaged(published, tmp_path, monkeypatch):
    shutil.copytree(published, tmp_path / "weights")
    for copy in (tmp_path / "weights").glob("*/*.safetensors"):
        if copy.with_suffix(".pth").exists():
            copy.unlink()
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def says(capsys, film, *, model="xl"):
    """Exit code and the one line that `generate` prints."""
    target = film.parent / "never.wav"
    code, _, said = run(capsys, "generate", film, "-o", target, "--model", model)
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in said and not target.exists()
    return code, lines[0]


def test_an_absent_part_names_its_command(damaged, film, capsys):
    (damaged / "dac-vae" / "vae_128d_48k.pth").unlink()
    code, line = says(capsys, film)
    assert code == 3 and "foley-lab weights fetch dac-vae" in line
    with pytest.raises(MissingWeights):
        presets.load("xxl")


def test_a_pickle_that_carries_code_is_refused(damaged, film, capsys):
    path = damaged / "xl" / "hunyuanvideo_foley_xl.pth"
    torch.save({"empty_clip_feat": Trap()}, path)
    code, line = says(capsys, film)
    assert code == 2 and "carries code" in line
    for protocol in (2, 4):  # the bare form
        path.write_bytes(pickle.dumps({"a": Trap()}, protocol))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code, line = says(capsys, film)
        assert code == 2 and "exec), which has not been run" in line


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_truncated_file_is_refused(damaged, film, capsys, keep):
    path = damaged / "xl" / "hunyuanvideo_foley_xl.pth"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    code, line = says(capsys, film)
    assert code == 2 and str(path) in line
    why = line.partition("(")[2].partition("), wanted")[0]
    assert why.endswith((" …", ".", "empty"))  # a whole sentence, or words left out openly


def test_another_size_and_a_missing_tensor_are_named(damaged, film, capsys):
    (damaged / "xl" / "config.json").write_text(json.dumps(OPTIONS | {"hidden_size": 64}))
    code, line = says(capsys, film)
    assert code in (2, 3) and "width 32" in line
    (damaged / "xl" / "config.json").write_text("[1]")
    assert "no JSON object" in says(capsys, film)[1]
    (damaged / "xl" / "config.json").write_text(json.dumps(OPTIONS))
    path = damaged / "xl" / "hunyuanvideo_foley_xl.pth"
    state = torch.load(path, weights_only=True)
    del state["single_blocks.1.linear1.weight"]
    torch.save(state, path)
    with pytest.raises(FoleyError, match=r"without single_blocks\.1\.linear1\.weight"):
        presets.load("xl")
    line = says(capsys, film)[1]
    assert str(path) in line and line.endswith("which is the right size: fetch it again")


WIDTHS = {k: OPTIONS[k] for k in ("depth_triple_blocks", "depth_single_blocks", "hidden_size")}


@pytest.mark.parametrize(
    ("part", "options", "why"),
    [
        ("xl", {"hidden_size": 33}, "without depth_triple_blocks"),
        ("xl", {"foo": 1}, "without depth_triple_blocks"),
        ("xl", {}, "without depth_triple_blocks"),
        ("xl", WIDTHS, "without num_heads"),
        ("xl", OPTIONS | {"hidden_size": 33}, "even width per head"),
        ("xl", OPTIONS | {"num_heads": 0}, "num_heads = 0"),
        ("xl", OPTIONS | {"depth_single_blocks": "2"}, "depth_single_blocks = '2'"),
        ("xl", OPTIONS | {"hidden_size": 32.0}, "hidden_size = 32.0"),
        ("xl", OPTIONS | {"mlp_ratio": None}, "mlp_ratio = None"),
        ("xl", OPTIONS | {"interleaved_audio_visual_rope": 1}, "wanted true or false"),
        ("synchformer", {"dim": "x"}, "dim = 'x'"),
        ("synchformer", {"foo": 1}, "foo = 1"),
        ("synchformer", {"num_heads": 0}, "num_heads = 0"),
        ("synchformer", {"dim": 25, "num_heads": 3}, "wanted multiples"),
    ],
    ids=str,
)
def test_malformed_options_are_one_line(damaged, film, capsys, part, options, why):
    path = damaged / part / "config.json"
    path.write_text(json.dumps(options))
    code, line = says(capsys, film)
    assert code == 2 and f"error: {path}: " in line and why in line and "remove" in line


def test_options_without_influence_are_passed_over():
    config = FoleyConfig.from_official(OPTIONS | {"attn_mode": "torch", "rope_theta": 3})
    assert config == FoleyConfig.from_official(OPTIONS) and config.num_heads == 2


def edited(path, **changes):
    """Change tensors of a file by name; None takes one out. They are found by how they end."""
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    for end, change in changes.items():
        key = next(key for key in state if key.endswith(end))
        state[key] = None if change is None else change(state[key])
        if change is None:
            del state[key]
    torch.save(content, path)
    return path


FILES = {
    "xl": "hunyuanvideo_foley_xl.pth",
    "synchformer": "synchformer_state_dict.pth",
    "dac-vae": "vae_128d_48k.pth",
}


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "weight"),
        (lambda t: t.long(), "torch.int64"),
        (lambda t: t.fill_(float("nan")), "NaN"),
        (lambda t: t[:1, :1], "weight"),
    ],
    ids=["missing", "integer", "NaN", "misshapen"],
)
def test_what_does_not_fit_is_named_and_not_kept(damaged, film, capsys, part, change, why):
    ends = {"xl": "linear1.weight", "synchformer": "qkv.weight"}
    end = ends.get(part, "decoder.model.0.weight_v")
    path = edited(damaged / part / FILES[part], **{end: change})
    code, line = says(capsys, film)
    assert code == 2 and str(path) in line and why in line and "fetch" in line
    with pytest.raises(FoleyError, match=why):
        convert_official(part)
    assert not list(path.parent.glob("*.safetensors"))


def test_conversion_keeps_what_fits(damaged, capsys):
    for part, file in FILES.items():
        path = damaged / part / file
        copy = convert_official(part)
        assert copy == path.with_suffix(".safetensors") and copy.is_file()
        path.unlink()
        assert convert_official(part) == copy
    with pytest.raises(ValueError, match="'clap' comes as safetensors"):
        convert_official("clap")
    torch.save({"w": torch.ones(3)}, damaged / "xl" / FILES["xl"])
    with pytest.raises(FoleyError, match="looks like no transformer of HunyuanVideo-Foley"):
        convert_official("xl")


def test_a_copy_of_another_file_is_noticed(damaged):
    path = damaged / "xl" / FILES["xl"]
    copy = convert_official("xl")
    assert copy in verify("xl")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)  # back in its place, but not what the copy was made of
    with pytest.raises(FoleyError, match=rf"{copy.name} was made of another file.*delete it"):
        verify("xl")
    copy.unlink()
    assert verify("xl")


def test_every_faulty_part_is_told_at_once(damaged, capsys):
    (damaged / "dac-vae" / FILES["dac-vae"]).unlink()
    (damaged / "clap" / "digests.json").write_text("[]")
    path = damaged / "siglip2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, said = run(capsys, "weights", "verify", "xl")
    assert code == 2 and said.count("\n") == 1 and said.startswith("error: 3 faults: (1) ")
    for part in ("fetch dac-vae", "clap/digests.json", str(path)):
        assert part in said
    shutil.copytree(damaged / "xl", damaged / "xl2")
    shutil.rmtree(damaged / "xl")
    shutil.rmtree(damaged / "clap")
    shutil.rmtree(damaged / "siglip2")
    code, _, said = run(capsys, "weights", "verify", "xl")
    assert code == 3 and "4 faults" in said  # nothing but absences


def test_a_damaged_record_is_told_before_anything_is_written(damaged, film, capsys):
    (damaged / "xl" / "digests.json").write_text("{")
    code, line = says(capsys, film)
    assert code == 2 and "digests.json is damaged" in line
    assert not list((damaged / "xl").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("clap/tokenizer.json", None),
        ("clap/tokenizer.json", "{}"),
        ("clap/tokenizer_config.json", None),
        ("clap/config.json", None),
        ("siglip2/config.json", None),
        ("siglip2/config.json", "[1]"),
        ("siglip2/config.json", '{"vision_config": {"hidden_size": "x"}}'),
        ("siglip2/config.json", '{"vision_config": {"hidden_size": 9}}'),
        ("siglip2/model.safetensors", None),
    ],
)
def test_damaged_parts_of_the_encoders_are_named(damaged, film, capsys, file, content):
    path = damaged / file
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half if content is None else content.encode())
    code, line = says(capsys, film)
    assert code == 2 and str(path) in line
    assert f"delete it and run `foley-lab weights fetch {path.parent.name}`" in line


def test_a_file_instead_of_the_folder_is_named(film, monkeypatch, capsys):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(film))
    for words in (["list"], ["fetch", "xl", "--accept-licence"], ["verify", "xl"]):
        code, _, said = run(capsys, "weights", *words)
        assert code == 2 and "FOLEY_LAB_WEIGHTS names" in said and said.count("\n") == 1
    assert "which is a file, wanted a folder" in says(capsys, film)[1]


def test_nothing_is_said_on_the_way(weights, film, tmp_path):
    line = [sys.executable, "-m", "foley_lab", "generate", film, "-o", tmp_path / "out.wav"]
    line += ["--model", "xl", "--steps", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_malformed_endpoint_is_named(weights, film, tmp_path):
    line = [sys.executable, "-m", "foley_lab", "generate", film, "-o", tmp_path / "out.wav"]
    env = {**os.environ, "HF_ENDPOINT": "http://[", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, line), "--model", "xl"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "wanted a sound HF_ENDPOINT" in done.stderr


def test_the_end_of_a_long_prompt_is_told(lab):
    """Of 77 tokens one opens the prompt; the tiny tokenizer splits into letters."""
    assert lab.encoder.text.truncated("a" * 76) == ""
    assert lab.encoder.text.truncated("a" * 76 + "bell") == "bell"
    assert lab.encoder.text.truncated("") == ""
