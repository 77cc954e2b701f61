"""Fine-tuning: films become windows once, adapters learn and merge, resumed is unbroken."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import clicks, make_film
from safetensors.torch import load_file, save_file
from tiny import tiny_lab
from torch import nn

from foley_lab.encoders.track import KIND_PART, MATERIAL_PART, TRACK_DIM
from foley_lab.generators.adapters import apply_adapter, read_adapter, save_adapter
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.media import read_video
from foley_lab.signals import (
    HUNYUAN_RATES,
    SMALL_RATES,
    Event,
    EventLog,
    Features,
    FoleyError,
    Interval,
)
from foley_lab.training import finetune
from foley_lab.training.films import Window, cut_log, cut_video, encode_films
from foley_lab.training.finetune import Tuning, parse, split_films, tune, tuning_of
from foley_lab.training.loop import Run

TINY = Tuning("tiny", rank=2, alpha=4.0, batch=3, learning_rate=0.01)
OFFICIAL = FoleyConfig(
    2, 2, 32, 2, 2.0, clip_dim=6, sync_dim=5, condition_dim=7, text_length=8, sync_positions=8,
    sync_kernel=3, audio_vae_latent_dim=4, inert_parameters=True,
)  # fmt: skip
SCORED = replace(
    OFFICIAL, sync_dim=TRACK_DIM, sync_positions=0, sync_kernel=1, pooled_text=True,
    inert_parameters=False,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [OFFICIAL, SCORED], ids=["official", "small"])


def generator_of(config: FoleyConfig) -> FlowGenerator:
    """Random weights, equal at every call, with open gates."""
    transformer = FoleyTransformer(config)
    draw = torch.Generator().manual_seed(0)
    transformer.init_weights(draw)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if any(part in name for part in (".modulation.", "_mod.", "final_layer.", "bias")):
                parameter.normal_(std=0.3, generator=draw)
    rates = HUNYUAN_RATES if config.sync_positions else SMALL_RATES
    return FlowGenerator(transformer, rates, sync_spread=not config.sync_positions)


def made_windows(folder, config: FoleyConfig, count: int = 5) -> list[Window]:
    """Windows of noise; the last one is shorter."""
    draw, made = torch.Generator().manual_seed(1), []
    folder.mkdir()
    for k in range(count):
        length, seen, words = (32, 4, 5) if k + 1 < count else (17, 3, 4)
        sync = length if not config.sync_positions else 16 if k + 1 < count else 8
        shapes = {
            "visual": (seen, config.clip_dim),
            "latents": (config.audio_vae_latent_dim, length),
            "empty_text": (2, config.condition_dim),
            "text_0": (words, config.condition_dim),
            "text_1": (2, config.condition_dim),
            "sync_0": (sync, config.sync_dim),
            "sync_1": (sync, config.sync_dim),
        }
        tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        save_file({n: t.half() for n, t in tensors.items()}, folder / f"{k}.safetensors")
        made.append(Window(folder / f"{k}.safetensors", f"{k + 1:064x}"))
    return made


def velocity(transformer: FoleyTransformer, config: FoleyConfig) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    visual, sync, text, x = (
        torch.randn(2, n, d, generator=draw)
        for n, d in (
            (4, config.clip_dim),
            (16, config.sync_dim),
            (5, config.condition_dim),
            (32, 4),
        )
    )
    if not config.sync_positions:
        sync = sync.repeat_interleave(2, dim=1)
    with torch.no_grad():
        conditions = transformer.eval().prepare(visual, sync, text, 32)
        return transformer.velocity(x.mT, torch.tensor([0.3, 0.8]), conditions)


def losses_of(run: Run) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


# --- films to windows --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab():
    return tiny_lab()


@pytest.fixture
def folder(tmp_path):
    """A film of a whole window and a tail, a short one, and some that will not do."""
    data = tmp_path / "films"
    data.mkdir()
    make_film(data / "long.mp4", frames=245, sound=clicks(9.8, [1.0, 8.5]))
    make_film(data / "short.mov", frames=50, sound=clicks(2.0, [0.5]))
    (data / "short.txt").write_text("a door\n creaks\n")
    return data


def test_cached_is_fresh_and_nothing_is_encoded_twice(lab, folder, tmp_path, monkeypatch):
    first = encode_films(lab, folder, tmp_path / "a")
    assert len(first) == 3
    fresh = encode_films(lab, folder, tmp_path / "b")
    assert [w.path.name for w in fresh] == [w.path.name for w in first]
    for one, other in zip(first, fresh, strict=True):
        assert all(torch.equal(other.load()[name], tensor) for name, tensor in one.load().items())

    encoded = []
    encode = lab.encoder.encode
    monkeypatch.setattr(
        lab.encoder, "encode", lambda *a, **k: encoded.append(a[1]) or encode(*a, **k)
    )
    assert encode_films(lab, folder, tmp_path / "a") == first and not encoded
    (folder / "short.txt").write_text("a gate creaks")  # another caption
    again = encode_films(lab, folder, tmp_path / "a")
    assert again[:2] == first[:2] and again[2] != first[2]
    assert encoded == [["a gate creaks", ""]]
    make_film(folder / "long.mp4", frames=245, sound=clicks(9.8, [2.0]))  # another sound
    changed = encode_films(lab, folder, tmp_path / "a")
    assert changed[2] == again[2] and not {w.path for w in changed[:2]} & {w.path for w in again}
    assert not list((tmp_path / "a").glob(".*"))


def test_a_window_holds_its_own_stretch_of_picture_and_sound(lab, folder, tmp_path):
    whole, tail, short = (w.load() for w in encode_films(lab, folder, tmp_path / "cache"))
    assert [w["latents"].shape for w in (whole, tail, short)] == [(128, 200), (128, 45), (128, 50)]
    assert [len(w["sync_0"]) for w in (whole, tail, short)] == [200, 45, 50]
    loudest = [int(w["latents"].mean(0).argmax()) for w in (whole, tail, short)]
    assert loudest == pytest.approx([25, 12, 12], abs=1)  # 1.0 s, 8.5 − 8 s, 0.5 s at 25 Hz
    words = lab.encoder.text.encode(["a door creaks", ""]).half().float()
    assert torch.equal(short["text_0"], words[0]) and torch.equal(short["empty_text"], words[1])


def test_bad_films_are_passed_over_and_an_error_is_left_for_none(lab, folder, tmp_path, capsys):
    (folder / "broken.mp4").write_bytes(b"no film")
    make_film(folder / "mute.mp4", frames=50)
    make_film(folder / "silent.mkv", frames=50, sound=clicks(2.0, []))
    make_film(folder / "blink.mp4", frames=10, sound=clicks(0.4, [0.1]))
    make_film(folder / "logged.mp4", frames=50, sound=clicks(2.0, [0.1]))
    (folder / "logged.json").write_text("{}")
    (folder / "captions.csv").write_text("name,caption\nshort,a bell\ngone.mp4,nothing\n")
    windows = encode_films(lab, folder, tmp_path / "cache")
    assert len(windows) == 3
    warnings = [w for w in capsys.readouterr().err.splitlines() if w.startswith("warning:")]
    for name, why in {
        "broken.mp4": "readable", "mute.mp4": "no sound", "silent.mkv": "silent",
        "blink.mp4": "lasts 0.40 s", "logged.mp4": "not an event log", "gone.mp4": "no film here",
    }.items():  # fmt: skip
        assert sum(name in w and why in w for w in warnings) == 1, name
    assert len(warnings) == 6
    bell = lab.encoder.text.encode(["a bell"])[0].half().float()
    assert torch.equal(windows[2].load()["text_0"], bell)  # the captions speak before the .txt

    for name in ("long.mp4", "short.mov"):
        (folder / name).unlink()
    with pytest.raises(FoleyError, match="5 films and none that can be used"):
        encode_films(lab, folder, tmp_path / "cache")
    shutil.rmtree(folder)
    with pytest.raises(FoleyError, match="is no folder"):
        encode_films(lab, folder, tmp_path / "cache")


def test_a_log_is_the_score_and_its_prompt_the_caption(lab, folder, tmp_path):
    log = EventLog("", 0, 9.8, "a glass rings", events=[Event(7.9, material="glass"), Event(9.0)])
    log.write(folder / "long.json")
    first, tail, _ = (w.load() for w in encode_films(lab, folder, tmp_path / "cache"))
    assert first["sync_0"][197, :8].max() > 0.9 and first["sync_0"][:190].abs().max() == 0
    assert tail["sync_0"][25, :8].max() > 0.9
    assert tail["sync_0"][0].abs().max() > 0.5  # what was struck before still rings
    glass = lab.encoder.text.encode(["a glass rings"])[0].half().float()
    assert torch.equal(tail["text_0"], glass)


def test_cut_is_read_in_sections(lab, folder):
    views = lab.encoder.views_for(read_video(folder / "long.mp4", ()))
    whole = read_video(folder / "long.mp4", views)
    for start, end in ((0.0, 8.0), (8.0, 9.8)):
        section = read_video(folder / "long.mp4", views, start, end)
        cut = cut_video(whole, start, end)
        assert cut.duration_s == pytest.approx(section.duration_s)
        for name, frames in section.views.items():
            assert torch.equal(cut.views[name].images, frames.images)
            assert torch.allclose(cut.views[name].times_s, frames.times_s)


def test_a_cut_interval_keeps_its_speed_at_every_instant():
    each = Interval("roll", 2.0, 6.0, speed=tuple(np.linspace(0, 1, 41)))
    log = EventLog("", 0, 8.0, continuous=[each, Interval("scrape", 0.0, 1.0)])
    (cut,) = cut_log(log, 3.0, 5.0).continuous
    assert (cut.start_s, cut.end_s) == (0.0, 2.0)
    assert cut.speed[0] == pytest.approx(0.25) and cut.speed[-1] == pytest.approx(0.75)


def test_every_tenth_film_is_held_out_and_stays_so(tmp_path):
    rng = np.random.default_rng(0)
    windows = [Window(tmp_path / str(k), rng.bytes(32).hex()) for k in range(400)]
    learned, held = split_films(windows)
    assert len(held) == pytest.approx(40, abs=15) and len(learned) + len(held) == 400
    assert not {w.film for w in held} & {w.film for w in learned}
    assert set(split_films(windows[:200])[1]) <= set(held)
    assert split_films(windows[:9]) == (windows[:9], [])


# --- adapters ----------------------------------------------------------------------------------


@BOTH
def test_an_adapter_changes_nothing_at_first_and_all_of_it_learns(config):
    transformer = generator_of(config).transformer
    base = velocity(transformer, config)
    learners = finetune._learners(transformer, TINY, seed=0)
    assert torch.equal(velocity(transformer, config), base)
    assert not any(p.requires_grad for n, p in transformer.named_parameters() if "lora" not in n)
    with torch.no_grad():
        for parameter in learners.parameters():
            parameter.normal_(std=0.1)
    draw = torch.Generator().manual_seed(3)
    sync = torch.randn(1, 16 if config.sync_positions else 32, config.sync_dim, generator=draw)
    visual, text = torch.randn(1, 4, config.clip_dim), torch.randn(1, 5, config.condition_dim)
    conditions = transformer.prepare(visual, sync, text, 32)
    transformer.velocity(torch.randn(1, 4, 32), 0.5, conditions).square().sum().backward()
    # A layer whose weight is read past its forward would be left without a gradient.
    still = [n for n, p in learners.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still and any("linear_qkv" in n for n, _ in learners.named_parameters())


@BOTH
def test_merged_is_the_adapter_itself(config, tmp_path):
    generator = generator_of(config)
    base = velocity(generator.transformer, config)
    run = Run("run", steps=4, root=str(tmp_path), warmup_steps=1, ema_decay=0.0)
    path = tune(generator, made_windows(tmp_path / "cache", config), TINY, run).path
    adapted = velocity(generator.transformer, config)
    assert not torch.allclose(adapted, base, atol=1e-3)

    merged = generator_of(config).transformer
    facts = apply_adapter(merged, path)
    assert (facts.base, facts.rank, facts.steps) == ("tiny", 2, 4)
    assert torch.allclose(velocity(merged, config), adapted, atol=1e-4)
    half, none = (generator_of(config).transformer for _ in range(2))
    apply_adapter(none, path, strength=0.0)
    assert torch.equal(velocity(none, config), base)
    apply_adapter(half, path, strength=0.5)
    middle = (merged.single_blocks[0].linear1.weight + none.single_blocks[0].linear1.weight) / 2
    assert torch.allclose(half.single_blocks[0].linear1.weight, middle, atol=1e-6)
    rounded = generator_of(config).transformer.to(torch.bfloat16)
    apply_adapter(rounded, path)  # one fingerprint in every precision
    with pytest.raises(FoleyError, match="trained on other weights"):
        apply_adapter(merged, path)  # it is in there already


def test_all_weights_can_be_trained(tmp_path):
    generator = generator_of(SCORED)
    run = Run("run", steps=3, root=str(tmp_path), warmup_steps=1, ema_decay=0.0)
    tuning = replace(TINY, rank=0, learning_rate=1e-3)
    result = tune(generator, made_windows(tmp_path / "cache", SCORED), tuning, run)
    loaded = generator_of(SCORED).transformer
    assert apply_adapter(loaded, result.path).rank == 0
    for name, tensor in generator.transformer.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, atol=1e-6), name
    assert not torch.equal(loaded.empty_sync_feat, generator_of(SCORED).transformer.empty_sync_feat)


def test_what_is_no_adapter_is_named(tmp_path):
    transformer = generator_of(SCORED).transformer
    with pytest.raises(FoleyError, match="is no file, wanted an adapter"):
        apply_adapter(transformer, tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    for name in ("text", "plain"):
        with pytest.raises(FoleyError, match="is no adapter of foley_lab"):
            apply_adapter(transformer, tmp_path / name)
    run = Run("run", steps=1, root=str(tmp_path))
    windows = made_windows(tmp_path / "cache", SCORED)
    path = tune(generator_of(SCORED), windows, TINY, run).path
    tensors, facts = read_adapter(path)
    save_adapter(path, {"attic.lora_A.weight": next(iter(tensors.values()))}, facts)
    with pytest.raises(FoleyError, match=r"moves 'attic\.weight'"):
        apply_adapter(transformer, path)


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 0], ids=["adapters", "full"])
def test_resumed_is_unbroken(rank, tmp_path):
    windows = made_windows(tmp_path / "cache", SCORED)
    tuning = replace(TINY, rank=rank, dropout=0.1 if rank else 0.0, learning_rate=1e-3)
    options = {"root": str(tmp_path), "schedule": "constant", "log_every_s": 0.0}
    unbroken = Run("unbroken", steps=5, **options)
    whole = tune(generator_of(SCORED), windows, tuning, unbroken)
    for steps in (2, 5):
        resumed = Run("resumed", steps=steps, **options)
        parts = tune(generator_of(SCORED), windows, tuning, resumed)
    assert losses_of(resumed) == losses_of(unbroken) and len(losses_of(resumed)) == 5
    assert parts.after == whole.after
    left, right = load_file(whole.path), load_file(parts.path)
    assert all(torch.equal(left[name], right[name]) for name in left | right)
    with pytest.raises(FoleyError, match=r"holds a run with learning_rate 0\.001"):
        tune(generator_of(SCORED), windows, replace(tuning, learning_rate=0.1), resumed)


@BOTH
def test_checkpointed_and_accumulated_are_plain(config, tmp_path, monkeypatch):
    windows, draw = made_windows(tmp_path / "cache", config), finetune.draw
    alone = [replace(TINY, batch=1), np.random.default_rng]

    def fixed(windows, model, tuning, rng):
        """Windows 0 and 4 of each step, in one batch or one after the other."""
        wanted = [0, 4] if tuning.batch == 2 else [next(turns)]
        return [draw([windows[k]], model, alone[0], alone[1](k))[0] for k in wanted]

    monkeypatch.setattr(finetune, "draw", fixed)
    monkeypatch.setattr(finetune, "_judge", lambda *_: 0.5)
    adapters = []
    for name, tuning in {
        "plain": replace(TINY, batch=2),
        "checkpointed": replace(TINY, batch=2, checkpointing=True),
        "accumulated": replace(TINY, batch=1, accumulate=2),
    }.items():
        turns = iter([0, 4] * 3)
        run = Run(name, steps=3, root=str(tmp_path), log_every_s=0.0)
        adapters.append(load_file(tune(generator_of(config), windows, tuning, run).path))
        if name != "plain":
            plain = Run("plain", root=str(tmp_path))
            assert losses_of(run) == pytest.approx(losses_of(plain), rel=0.02)
            for key, tensor in adapters[0].items():
                assert torch.allclose(adapters[-1][key], tensor, atol=3e-3), (name, key)


@BOTH
def test_conditions_are_withheld_as_often_as_told(config, tmp_path):
    (window, *_) = made_windows(tmp_path / "cache", config, count=2)
    tensors = window.load()
    for name in ("sync_0", "sync_1"):
        tensors[name] = tensors[name].abs() + 0.1
    generator, rng = generator_of(config), np.random.default_rng(0)
    rows = [finetune._withheld(tensors, generator.transformer, 0.1, rng) for _ in range(2000)]
    silent = np.array([torch.equal(r["text"], tensors["empty_text"]) for r in rows])
    blind, unseen = (np.array([bool(r[k]) for r in rows]) for k in ("unheard", "unseen"))
    shares = [silent.mean(), blind.mean(), (silent & blind).mean()]
    assert shares == pytest.approx([0.2, 0.2, 0.1], abs=0.03)
    own = np.array([torch.equal(r["text"], tensors["text_1"]) for r in rows])
    assert own.mean() == pytest.approx(0.4, abs=0.04)
    if config.sync_positions:
        assert (unseen == blind).all() and all((r["weight"] == 1).all() for r in rows)
        assert all((r["sync"] > 0).all() for r in rows)
        return
    assert unseen[~blind].mean() == pytest.approx(0.15, abs=0.03)
    named, kinds = ([bool((r["sync"][:, part] > 0).all()) for r in rows]
                    for part in (MATERIAL_PART, KIND_PART))  # fmt: skip
    assert np.mean(np.array(named)[~silent]) == pytest.approx(0.7, abs=0.04)
    assert np.mean(kinds) == pytest.approx(0.9, abs=0.03)
    assert all((r["weight"] == 1 + finetune.SOUND_WEIGHT).all() for r in rows)


def test_withheld_tokens_are_the_learnt_empty_ones(tmp_path):
    windows, model = made_windows(tmp_path / "cache", OFFICIAL), generator_of(OFFICIAL).transformer
    seen = 0
    for k in range(20):
        for group in finetune.draw(windows, model, TINY, np.random.default_rng(k)):
            for visual, sync in zip(group["visual"], group["sync"], strict=True):
                blind = torch.equal(visual, model.empty_clip_feat.expand_as(visual))
                assert blind == torch.equal(sync, model.empty_sync_feat.expand_as(sync))
                seen += blind
    assert 3 <= seen <= 25  # of 60


# --- command line ------------------------------------------------------------------------------


def test_flags_are_the_base_s_own_until_told_otherwise():
    def asked(*words):
        return tuning_of(parse(["--data", "films", *words]))

    assert asked() == Tuning() and asked("--rank", "4").alpha == 4.0
    assert asked("--rank", "4", "--alpha", "2").alpha == 2.0
    large = asked("--base", "xl", "--batch", "3", "--no-checkpointing")
    assert (large.batch, large.accumulate, large.learning_rate) == (3, 4, 1e-4)
    assert not large.checkpointing and asked("--base", "xxl").checkpointing
    assert asked("--base", "xxl").base == "xxl"
    full = asked("--full")
    assert full.rank == 0 and full.learning_rate == pytest.approx(1e-4)
    for words, message in (
        (["--full", "--rank", "4"], "wanted one of them"),
        (["--rank", "0"], "wanted at least 1"),
        (["--batch", "0"], "at least 1 of the others"),
        (["--learning-rate", "nan"], "learning rate nan"),
        (["--drop", "0.5"], "drop 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            asked(*words)


def test_the_command_finds_its_way(tmp_path, capsys):
    from foley_lab.serving import cli

    assert cli.main(["train", "foley", "--data", str(tmp_path / "gone")]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "is no folder" in err and not out
    assert cli.main(["train", "foley", "--base", "small", "--data", str(tmp_path)]) == 2
    assert "holds no film" in capsys.readouterr().err


def test_films_to_adapter_by_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(finetune.presets, "load", lambda name, device, dtype, **_: tiny_lab())
    words = ["--data", folder, "--out", tmp_path / "run", "--steps", "2", "--batch", "2"]
    finetune.main([str(word) for word in [*words, "--rank", "2"]])
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(tmp_path / "run" / "adapter.safetensors")
    assert "3 windows" in out and "on these films themselves" in out and "note:" not in err
    result = tiny_lab()
    assert apply_adapter(result.generator.transformer, out.splitlines()[-1]).base == "small"

    finetune.main([*(str(word) for word in words[:2]), "--full", "--out", str(tmp_path / "full"),
                   "--steps", "1", "--batch", "2"])  # fmt: skip
    path = capsys.readouterr().out.splitlines()[-1]
    assert path == str(tmp_path / "full" / "weights.safetensors")  # which is no adapter
    assert apply_adapter(tiny_lab().generator.transformer, path).rank == 0


def listening(monkeypatch) -> list[str]:
    """Loads a tiny model, and tells whether one was loaded."""
    loaded = []
    monkeypatch.setattr(
        finetune.presets, "load", lambda name, *a, **_: loaded.append(name) or tiny_lab()
    )
    return loaded


def refused(capsys, *words) -> str:
    """The one line of a refusal by the command."""
    from foley_lab.serving import cli

    assert cli.main(["train", "foley", "--base", "small", *(str(word) for word in words)]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("warning:", "films:"))]
    assert not out and len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


def test_a_run_is_named_after_its_base_and_its_films(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        str(finetune.run_of(parse(["--data", "films", "--base", base])).folder)
        for base in ("small", "xl")
    ]
    assert names == [".runs/tuned-small-films", ".runs/tuned-xl-films"]
    assert str(finetune.run_of(parse(["--data", "a", "--out", "b/c"])).folder) == "b/c"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--steps 0", "--steps 0, wanted at least 1"),
        ("--steps -5", "--steps -5, wanted at least 1"),
        ("--minutes 0", "--minutes 0, wanted a number above 0"),
        ("--minutes nan", "--minutes nan, wanted"),
        ("--minutes inf", "--minutes inf, wanted"),
    ],
)
def test_a_run_without_end_or_beginning_is_refused(capsys, folder, monkeypatch, flags, says):
    loaded = listening(monkeypatch)
    assert says in refused(capsys, "--data", folder, *flags.split())
    assert not loaded


def test_what_can_be_refused_is_refused_before_films_are_read(
    capsys, folder, tmp_path, monkeypatch
):
    loaded = listening(monkeypatch)
    words = ["--data", folder, "--out", tmp_path / "run", "--steps", "1", "--batch", "2"]
    finetune.main([str(word) for word in [*words, "--rank", "2"]])
    assert loaded == ["small"]
    capsys.readouterr()
    for changed in (["--rank", "3"], ["--rank", "2", "--seed", "1"], ["--full"]):
        said = refused(capsys, *words, *changed)
        assert "holds a run with" in said and "--out" in said
    (tmp_path / "run" / "last.pt").write_bytes(b"cut short")
    assert "is no checkpoint" in refused(capsys, *words, "--rank", "2")
    (folder / "captions.csv").write_text("a,b\n1,2\n")
    assert "captions.csv cannot be read" in refused(capsys, "--data", folder)
    (folder / "captions.csv").unlink()
    monkeypatch.delitem(sys.modules, "foley_lab.training.low_rank", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install foley-lab[finetune]" in refused(
        capsys, "--data", folder, "--out", tmp_path / "new"
    )
    assert loaded == ["small"] and not (tmp_path / "new").exists()


def test_films_that_will_not_do_leave_nothing(capsys, tmp_path, monkeypatch):
    listening(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.mp4").write_bytes(b"no film")
    assert "none that can be used" in refused(capsys, "--data", "junk")
    assert [path.name for path in tmp_path.iterdir()] == ["junk"]


def test_a_run_wants_a_folder_of_its_own(capsys, folder, tmp_path, monkeypatch):
    loaded = listening(monkeypatch)
    full = tmp_path / "papers"
    full.mkdir()
    (full / "thesis.txt").write_text("years")
    said = refused(capsys, "--data", folder, "--out", full)
    assert "holds 'thesis.txt' and no run" in said
    for afile in (full / "thesis.txt", full / "thesis.txt" / "below"):
        assert "is a file, wanted a folder" in refused(capsys, "--data", folder, "--out", afile)
    if Path("/proc").is_dir():  # which refuses even a superuser
        assert "takes no new files" in refused(capsys, "--data", folder, "--out", "/proc/none")
    assert not loaded and [path.name for path in full.iterdir()] == ["thesis.txt"]
    for fine in (tmp_path / "absent", tmp_path / "empty", tmp_path / "begun"):
        if fine.name != "absent":
            fine.mkdir()
        if fine.name == "begun":
            (fine / "cache").mkdir()
        finetune.check_folder(fine)


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "foley_lab.training.low_rank", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(FoleyError, match=r"pip install foley-lab\[finetune\]"):
        finetune._learners(nn.Identity(), TINY, 0)


@pytest.mark.slow
def test_eight_clips_are_learned_by_heart(tmp_path):
    """From the shipped base: the loss on them falls, and their sound comes nearer."""
    from foley_lab.evaluation.spectral import log_mel_l1
    from foley_lab.media import read_audio
    from foley_lab.pipeline import presets
    from foley_lab.synthetic.dataset import make_clips

    seconds, count = 1.2, 8
    data = tmp_path / "films"
    paths = list(make_clips(data, count, 500, seconds, ["bounce", "strike"], (96, 96), 25.0))
    lab = presets.load("small", "cpu", "float32")
    windows = encode_films(lab, data, tmp_path / "cache")
    loaded = [w.load() for w in windows]

    def distance(lab):
        features = {
            name: torch.stack([w[key] for w in loaded])
            for name, key in (("visual", "visual"), ("sync", "sync_0"), ("text", "text_0"),
                              ("negative_text", "empty_text"))
        }  # fmt: skip
        latents = lab.generator.generate(Features(**features, duration_s=seconds))
        sounds = lab.decoder.decode(latents)[:, 0]
        return np.mean(
            [
                log_mel_l1(sound.numpy(), read_audio(path, mono=True).samples[0].numpy())
                for sound, path in zip(sounds, paths, strict=True)
            ]
        )

    before = distance(lab)
    run = Run("run", steps=120, root=str(tmp_path), warmup_steps=10)
    result = tune(lab.generator, windows, Tuning(learning_rate=6e-3, drop=0.05), run)
    assert result.after < 0.5 * result.before
    tuned = presets.load("small", "cpu", "float32")
    apply_adapter(tuned.generator.transformer, result.path)
    assert distance(tuned) < 0.75 * before
