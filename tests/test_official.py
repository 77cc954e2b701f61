"""The official model end to end, at a tiny width, from files laid out like the published ones."""

from __future__ import annotations

import csv
import json
import pickle
import shutil

import pytest
import torch
from clips import make_film
from official_files import OPTIONS, write_official

from foley_lab.media import probe, read_audio
from foley_lab.pipeline import presets
from foley_lab.serving.cli import main
from foley_lab.signals import EventLog, FoleyError, MissingWeights

pytest.importorskip("transformers")
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
    assert code in (2, 3) and "carries code" in line
    path.write_bytes(pickle.dumps(Trap()))  # the bare form
    assert says(capsys, film)[0] in (2, 3)


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_truncated_file_is_refused(damaged, film, capsys, keep):
    path = damaged / "xl" / "hunyuanvideo_foley_xl.pth"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    code, _ = says(capsys, film)
    assert code in (2, 3)


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
