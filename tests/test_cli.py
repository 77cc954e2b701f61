"""The command line: what it prints, what it leaves, and its answer to odd input."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import SAMPLE_RATE, clicks, make_film, make_sound, payloads
from tiny import tiny_lab

from foley_lab.diagnosis.catalogue import CATALOGUE
from foley_lab.media import probe, read_audio, write_audio
from foley_lab.pipeline import presets
from foley_lab.serving import cli
from foley_lab.signals import Audio, Event, EventLog
from foley_lab.weights import SHIPPED

ROOT = Path(__file__).resolve().parents[1]

KEYS = {
    "out", "seconds", "sample_rate", "channels", "model", "generator", "sampler", "decoder",
    "num_steps", "network_calls", "guidance_scale", "seed", "device", "dtype", "events",
    "intervals", "timings", "real_time_factor", "cache", "peak_memory_bytes",
}  # fmt: skip
STAGES = ["read", "encode", "generate", "decode", "write", "total", "time_to_first_audio"]


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """`--model small` is a tiny model, the other names are what they are."""
    monkeypatch.setitem(presets.PRESETS, "small", lambda device, dtype: tiny_lab())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Path:
    return make_film(tmp_path_factory.mktemp("master") / "clip.mp4", size=(32, 32), frames=10)


@pytest.fixture
def film(tmp_path, master) -> Path:
    return copied(master, tmp_path / "clip.mp4")


def copied(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def run(capsys, *words) -> tuple[int, str, str]:
    code = cli.main([os.fsdecode(word) for word in words])
    return (code, *capsys.readouterr())


def refused(capsys, *words, code=2) -> str:
    """The one line that a refusal prints."""
    got, out, err = run(capsys, *words)
    assert (got, out) == (code, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err
    return err


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# generate


def test_generate_writes_beside_its_input(capsys, film):
    code, out, err = run(capsys, "generate", film, "--prompt", "a glass ball")
    target = film.with_name("clip_foley.mp4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["stage", "seconds", "percent", "calls"]
    assert [line.split()[0] for line in lines[1:-1]] == [*STAGES[:5], "total"]
    assert lines[-1] == str(target)
    assert payloads(target) == payloads(film)
    assert read_audio(target).samples.shape == (1, round(0.4 * SAMPLE_RATE))
    assert names(film.parent) == ["clip.mp4", "clip_foley.mp4"]


def test_generate_json_has_its_keys(capsys, film, tmp_path):
    flags = "--steps 3 --guidance-scale 1.5 --sampler ab2 --seed 7 --device cpu --json"
    code, out, err = run(capsys, "generate", film, "-o", tmp_path / "a.wav", *flags.split())
    assert (code, err) == (0, "")
    report = json.loads(out.splitlines()[-1])
    assert set(report) >= KEYS
    assert list(report["timings"]) == STAGES
    assert report["out"] == str(tmp_path / "a.wav") and report["seconds"] == pytest.approx(0.4)
    assert (report["num_steps"], report["network_calls"], report["seed"]) == (3, 3, 7)
    assert (report["sampler"], report["guidance_scale"]) == ("ab2", 1.5)
    assert (report["device"], report["dtype"], report["model"]) == ("cpu", "float32", "tiny")
    assert report["real_time_factor"] == pytest.approx(report["timings"]["total"] / 0.4)
    assert report["peak_memory_bytes"] > 1e6
    assert report["cache"] == {"hits": 0, "misses": 0}


def test_events_are_written_and_played_again(capsys, film, tmp_path):
    log = tmp_path / "seen.json"
    assert run(capsys, "generate", film, "-o", tmp_path / "a.wav", "--write-events", log)[0] == 0
    assert EventLog.read(log).seconds == pytest.approx(0.4)
    code, _, err = run(capsys, "generate", film, "-o", tmp_path / "b.wav", "--events", log)
    assert (code, err) == (0, "")
    a, b = (read_audio(tmp_path / name).samples for name in ("a.wav", "b.wav"))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("flag", "name", "says"),
    [
        ("--events", "absent.json", "No such file"),
        ("--events", "clip.mp4", "clip.mp4: "),
        ("--write-events", "log.txt", "wanted a .json file"),
        ("--write-events", "nowhere/log.json", "in a folder that is there"),
    ],
)
def test_bad_event_logs(capsys, film, flag, name, says):
    before = names(film.parent)
    assert says in refused(capsys, "generate", film, flag, film.parent / name)
    assert names(film.parent) == before


def test_streamed_file_equals_the_other(capsys, film, tmp_path):
    for name, flags in (("a.wav", []), ("b.wav", ["--stream"])):
        assert run(capsys, "generate", film, "-o", tmp_path / name, *flags)[0] == 0
    a, b = (read_audio(tmp_path / name).samples for name in ("a.wav", "b.wav"))
    assert abs(a - b).max() < 1e-4


def test_takes_are_files_of_their_own(capsys, film, tmp_path):
    out = tmp_path / "a.wav"
    code, text, _ = run(capsys, "generate", film, "-o", out, "--takes", "3", "--json")
    files = [str(tmp_path / name) for name in ("a.wav", "a_2.wav", "a_3.wav")]
    assert code == 0 and json.loads(text)["takes"] == files
    assert run(capsys, "generate", film, "-o", tmp_path / "b.wav", "--seed", "2")[0] == 0
    third, alone = (read_audio(path).samples for path in (files[2], tmp_path / "b.wav"))
    assert abs(third - alone).max() < 1e-4


def test_the_own_sound_is_kept_on_demand(capsys, tmp_path):
    own = clicks(0.4, [0.2], channels=1)
    film = make_film(tmp_path / "a.mkv", frames=10, sound=own, sound_codec="flac")
    assert run(capsys, "generate", film, "--keep-audio", "-o", tmp_path / "b.mkv")[0] == 0
    sound = read_audio(tmp_path / "b.mkv").samples[0].abs()
    assert sound[9600] > 3 * sound.median() and sound.max() <= 1


def test_a_picture_that_mp4_cannot_hold_goes_elsewhere(capsys, tmp_path):
    film = make_film(tmp_path / "a.webm", codec="libvpx", frames=5)
    code, out, _ = run(capsys, "generate", film)
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "a_foley.mkv")


def test_an_existing_result_is_replaced(capsys, film):
    target = film.with_name("clip_foley.mp4")
    target.write_text("old")
    assert run(capsys, "generate", film)[0] == 0
    assert probe(target).has_audio


# Odd input that is taken


def test_a_single_frame_is_enough(capsys, tmp_path):
    film = make_film(tmp_path / "a.mp4", frames=1)
    code, out, _ = run(capsys, "generate", film, "--json")
    assert code == 0 and json.loads(out)["seconds"] == pytest.approx(0.04)


def test_a_single_pixel_is_enough(capsys, tmp_path):
    film = make_film(tmp_path / "a.mkv", codec="ffv1", size=(1, 1), pix_fmt="bgr0", frames=3)
    assert run(capsys, "generate", film)[0] == 0


def test_a_truncated_film_is_used_with_a_warning(capsys, tmp_path):
    whole = make_film(tmp_path / "a.mkv", frames=100)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    code, _, err = run(capsys, "generate", whole)
    assert code == 0 and err.startswith("warning: ") and "truncated" in err


@pytest.mark.parametrize("prompt", ["", "   ", "a\nb\tc", "ガラスの球 🎱", "\0", "x" * 100_000])
def test_any_text_is_a_prompt(capsys, film, prompt):
    code, _, err = run(capsys, "generate", film, "--prompt", prompt)
    assert code == 0, err
    assert err == ""


def test_a_very_long_prompt_is_cut_with_a_warning(capsys, film):
    code, _, err = run(capsys, "generate", film, "--prompt", "glass falls on wood " * 5_000)
    assert code == 0 and err.startswith("warning: the end of the prompt was not read")
    assert len(err) < 200


@pytest.mark.parametrize("name", [b"\xff\xfe.mp4", "größer 漢字 🎬.mp4".encode(), b"a\nb.mp4"])
def test_any_file_name_will_do(capsys, tmp_path, master, name):
    film = copied(master, tmp_path / os.fsdecode(name))
    code, out, _ = run(capsys, "generate", film, "--json")
    assert code == 0 and os.fsencode(json.loads(out)["out"]).endswith(b"_foley.mp4")
    code, out, _ = run(capsys, "generate", film)
    out.encode("utf-8")
    assert code == 0 and len(names(tmp_path)) == 2


# Bad input, a line each


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("This is no film.\n" * 100)
    return folder / "text.mp4"


def sound(folder: Path) -> Path:
    return make_sound(folder / "song.m4a", clicks(0.5, [0.1]), "aac")


def cut(folder: Path) -> Path:
    """An .mp4 without its index, which stands at the end."""
    film = make_film(folder / "cut.mp4", frames=50)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    return film


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "none.mp4", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: Path("https://example.org/a.mp4"), "wanted a video file"),
        (lambda folder: Path("\0"), "wanted a video file"),
        (lambda folder: Path("x" * 5000), "wanted a video file"),
        (lambda folder: Path(os.devnull), "is no regular file"),
        (empty, "is empty"),
        (text, "wanted a readable video"),
        (sound, "has no moving picture"),
        (cut, "wanted a readable video"),
    ],
)
def test_bad_videos(capsys, tmp_path, make, says):
    film = make(tmp_path)
    before = names(tmp_path)
    assert says in refused(capsys, "generate", film)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--steps 0", "num_steps 0"),
        ("--steps 1001", "num_steps 1001"),
        ("--steps 2.5", "invalid int value: '2.5'"),
        ("--guidance-scale nan", "guidance_scale nan"),
        ("--guidance-scale inf", "guidance_scale inf"),
        ("--guidance-scale=-1", "guidance_scale -1"),
        ("--guidance-scale much", "invalid float value"),
        ("--sampler ode45", "sampler 'ode45', wanted one of"),
        ("--schedule steep", "schedule 'steep', wanted 'uniform'"),
        ("--schedule 0", "schedule 0.0, wanted 'uniform'"),
        ("--guidance strong", "guidance 'strong', wanted one of plain"),
        ("--step-cache all", "step cache 'all', wanted one of first_block"),
        ("--decoder mp3", "decoder 'mp3', wanted one of"),
        ("--generator gan", "generator 'gan', wanted one of"),
        ("--model large", "model 'large', wanted one of"),
        ("--seed -1", "seed -1"),
        ("--seed 99999999999999999999", "seed 99999999999999999999"),
        ("--takes 0", "takes 0"),
        ("--takes 1000", "takes 1000"),
        ("--device toaster", "device 'toaster'"),
        ("--dtype int8", "dtype 'int8'"),
        ("--prompt \udcff", "wanted UTF-8"),
        ("--loud", "unrecognized arguments: --loud"),
        ("more.mp4", "unrecognized arguments: more.mp4"),
        ("--prompt", "expected one argument"),
        ("-o out.gif", "wanted one of .mp4"),
        ("-o out", "ends in 'nothing'"),
        ("-o none/out.mp4", "does not exist"),
        ("-o clip.mp4", "is the source itself"),
        ("-o ./../{here}/clip.mp4", "is the source itself"),
        ("-o folder.mp4", "is a folder"),
        ("-o out.webm", "cannot hold"),
        ("-o /proc/out.mp4", "takes no new files"),
        ("-o out.wav --keep-audio", "keep_audio with a sound alone"),
        ("--model xl --write-events seen.json", "--write-events with xl, which names no events"),
    ],
)
def test_bad_flags(capsys, film, monkeypatch, flags, says):
    monkeypatch.chdir(film.parent)
    Path("folder.mp4").mkdir()
    flags = flags.format(here=film.parent.name).split(" ")
    assert says in refused(capsys, "generate", "clip.mp4", *flags)
    assert names(film.parent) == ["clip.mp4", "folder.mp4"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("generate", "no video and no --out"),
        ("world", "required: make"),
        ("world draw", "invalid choice: 'draw'"),
        ("world make w", "required: --count, --seed"),
        ("world make w --count 0 --seed 1", "count 0"),
        ("world pairs w --count 1 --seed 1", "required: --factor"),
        ("world pairs w --count 1 --seed 1 --factor colour", "factor 'colour', wanted one of"),
        ("world pairs w --count 1 --seed 1 --factor size --family glide", "without a size"),
        ("world make w --count 1 --seed -1", "seed -1"),
        ("world make w --count 1 --seed 1 --size big", "wanted WIDTHxHEIGHT"),
        ("world make w --count 1 --seed 1 --size 31x32", "size 31x32"),
        ("world make w --count 1 --seed 1 --seconds nan", "nan seconds"),
        ("world make w --count 1 --seed 1 --fps 0", "0 frames per second"),
        ("world make w --count 1 --seed 1 --family war", "unknown family 'war'"),
        ("world make w --count 1 --seed 1 --split dirty", "unknown split 'dirty'"),
        ("score none.wav --events none.json", "none.wav does not exist"),
        ("score clip.mp4 --events none.json", "none.json does not exist"),
        ("score clip.mp4 --events .", "has no log"),
        ("score . --events .", "holds no event log"),
        ("score clip.mp4", "required: --events"),
        ("weights verify none", "no weights 'none', wanted one of"),
        ("weights fetch xl", "add --accept-licence"),
        ("train world", "invalid choice: 'world'"),
        ("batch none.csv -o out", "none.csv does not exist"),
        ("batch . -o out", "is a folder"),
        ("batch clip.mp4 -o out", "wanted CSV in UTF-8"),
        ("batch list.csv", "required: -o"),
    ],
)
def test_bad_commands(capsys, film, monkeypatch, words, says):
    monkeypatch.chdir(film.parent)
    assert says in refused(capsys, *words.split())
    assert names(film.parent) == ["clip.mp4"]


def test_absent_weights_are_another_code(capsys, film, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "none"))
    for model in ("xl", "xxl"):
        line = refused(capsys, "generate", film, "--model", model, code=3)
        assert f"run `foley-lab weights fetch {model}`" in line
    assert names(tmp_path) == ["clip.mp4"]


def test_a_bug_is_no_bad_input(film, monkeypatch):
    def broken(device, dtype):
        raise RuntimeError("a bug")

    monkeypatch.setitem(presets.PRESETS, "small", broken)
    with pytest.raises(RuntimeError):  # which Python turns into a traceback and exit code 1
        cli.main(["generate", str(film)])


# batch


def write_list(path: Path, *rows: dict) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_batch_goes_through_its_list(capsys, film, tmp_path):
    rows = write_list(
        tmp_path / "list.csv",
        {"video": "clip.mp4", "prompt": "one, two", "seed": "1", "out": ""},
        {"video": str(film), "prompt": "three", "seed": "", "out": ""},
        {"video": "clip.mp4", "prompt": "", "seed": "2", "out": "deep/x.wav"},
    )
    out = tmp_path / "out"
    code, text, err = run(capsys, "batch", rows, "-o", out, "--workers", "2", "--json")
    report = json.loads(text.splitlines()[-1])
    assert (code, err) == (0, "")
    assert (report["rows"], report["done"], report["failed"], report["skipped"]) == (3, 3, 0, 0)
    files = ["clip_foley.mp4", "clip_foley_2.mp4", "deep/x.wav"]
    assert [r["out"] for r in report["results"]] == [str(out / name) for name in files]
    assert run(capsys, "generate", film, "--seed", "2", "-o", tmp_path / "y.wav")[0] == 0
    assert (out / "deep/x.wav").read_bytes() == (tmp_path / "y.wav").read_bytes()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    code, text, _ = run(capsys, "batch", rows, "-o", out, "--skip-existing")
    assert code == 0 and text.splitlines()[-1] == "3 rows, 0 done, 3 skipped, 0 failed"
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}


def test_batch_goes_on_after_a_bad_row(capsys, film, tmp_path):
    rows = write_list(
        tmp_path / "list.csv",
        {"video": "none.mp4", "prompt": "", "seed": "", "out": ""},
        {"video": "clip.mp4", "prompt": "", "seed": "no", "out": ""},
        {"video": "clip.mp4", "prompt": "", "seed": "-1", "out": ""},
        {"video": "clip.mp4", "prompt": "", "seed": "", "out": "../x.mp4"},
        {"video": "clip.mp4", "prompt": "", "seed": "", "out": "a.mp4"},
        {"video": "clip.mp4", "prompt": "", "seed": "", "out": "a.mp4"},
        {"video": "", "prompt": "", "seed": "", "out": ""},
        {"video": "clip.mp4", "prompt": "", "seed": "", "out": "a.txt"},
    )
    with open(rows, "a", encoding="utf-8") as file:
        file.write("clip.mp4,a,b,c,d\n")
    code, text, err = run(capsys, "batch", rows, "-o", tmp_path / "out")
    assert code == 4
    assert text.splitlines()[-1] == "9 rows, 1 done, 0 skipped, 8 failed"
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"row {k}" for k in (1, 2, 3, 4, 6, 7, 8, 9)
    ]
    assert "Traceback" not in err and names(tmp_path / "out") == [".foley_batch", "a.mp4"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"video,prompt\n", "has no rows"),
        (b"film,prompt\na.mp4,x\n", "wanted video,prompt"),
        (b"video,video\na.mp4,b.mp4\n", "wanted video,prompt"),
        (b"video,prompt\n\xff\xfe,x\n", "wanted CSV in UTF-8"),
        (b'video,prompt\n"a.mp4,x\n', "wanted CSV in UTF-8"),
    ],
)
def test_bad_lists(capsys, tmp_path, content, says):
    (tmp_path / "list.csv").write_bytes(content)
    assert says in refused(capsys, "batch", tmp_path / "list.csv", "-o", tmp_path / "out")
    assert names(tmp_path) == ["list.csv"]


def test_batch_refuses_workers_and_folders_that_are_none(capsys, film, tmp_path):
    rows = write_list(tmp_path / "list.csv", {"video": "clip.mp4", "prompt": ""})
    assert "workers 0" in refused(capsys, "batch", rows, "-o", tmp_path, "--workers", "0")
    assert "is a file" in refused(capsys, "batch", rows, "-o", film)


# world, score, weights, train


@pytest.mark.parametrize("silent", [False, True])
def test_world_makes_clips_with_their_truth(capsys, tmp_path, silent):
    pytest.importorskip("pymunk")
    flags = "--count 2 --seed 5 --seconds 1 --family bounce strike --size 64x48 --fps 12"
    flags += " --silent" if silent else ""
    code, out, _ = run(capsys, "world", "make", tmp_path / "w", *flags.split())
    assert (code, out) == (0, f"2 clips in {tmp_path / 'w'}\n")
    suffixes = ("json", "mp4", "wav")
    assert names(tmp_path / "w") == [f"000{k}.{s}" for k in range(2) for s in suffixes]
    logs = [EventLog.from_json((tmp_path / f"w/000{k}.json").read_text()) for k in range(2)]
    assert [(log.seed, log.family) for log in logs] == [(5, "bounce"), (6, "strike")]
    info = probe(tmp_path / "w/0000.mp4")
    assert (info.width, info.height, info.frame_rate) == (64, 48, 12)
    assert info.has_audio is not silent


def test_world_lists_the_stems_of_a_clip(capsys, tmp_path):
    pytest.importorskip("pymunk")
    flags = "--count 1 --seed 5 --seconds 2 --family footsteps --size 64x48 --fps 12 --stems"
    assert run(capsys, "world", "make", tmp_path / "w", *flags.split())[0] == 0
    stems = [name for name in names(tmp_path / "w") if ".stem-" in name]
    assert stems == [f"0000.stem-{part}.wav" for part in (0, 1, "room")]
    parts = sum(read_audio(tmp_path / "w" / name).samples for name in stems)
    assert abs(parts - read_audio(tmp_path / "w/0000.wav").samples).max() < 2e-4


def test_world_makes_pairs_that_differ_in_one_factor(capsys, tmp_path):
    pytest.importorskip("pymunk")
    flags = "--count 2 --seed 5 --factor material --seconds 1 --family bounce strike"
    flags += " --size 64x48 --fps 12 --json"
    code, out, _ = run(capsys, "world", "pairs", tmp_path / "w", *flags.split())
    report = json.loads(out.splitlines()[-1])
    assert code == 0 and (report["folder"], report["factor"]) == (str(tmp_path / "w"), "material")
    stems = [f"{k:04d}-{side}" for k in range(2) for side in "ab"]
    assert names(tmp_path / "w") == [f"{s}.{e}" for s in stems for e in ("json", "mp4", "wav")]
    for pair in report["pairs"]:
        a, b = (EventLog.read(Path(pair[side]).with_suffix(".json")) for side in "ab")
        assert a.seed == b.seed == pair["seed"] and a.prompt != b.prompt
        assert [e.time_s for e in a.events] == [e.time_s for e in b.events] and a.events
        assert {e.material for e in a.events} != {e.material for e in b.events}
    flags = flags.replace(" --json", "").replace("--count 2", "--count 1")
    code, out, _ = run(capsys, "world", "pairs", tmp_path / "v", *flags.split())
    assert (code, out) == (0, f"1 pairs in {tmp_path / 'v'}\n")


def test_score_measures_against_a_log(capsys, tmp_path):
    if not list(SHIPPED.glob("judge/*.safetensors")):
        pytest.skip("no judge")
    events = [{"time_s": t, "kind": "impact", "material": "wood"} for t in (0.5, 1.2)]
    log = {"family": "bounce", "seed": 0, "seconds": 2.0, "events": events}
    (tmp_path / "a.json").write_text(json.dumps(log))
    rng = np.random.default_rng(0)
    ring = rng.normal(size=4800) * np.exp(-np.arange(4800) / 600) * 0.2
    wave = np.zeros((2, 2 * SAMPLE_RATE), np.float32)
    for event in events:
        start = round(event["time_s"] * SAMPLE_RATE)
        wave[:, start : start + 4800] += ring.astype(np.float32)
    make_sound(tmp_path / "a_foley.flac", wave, "flac")
    words = ("score", tmp_path / "a_foley.flac", "--events", tmp_path / "a.json")
    code, out, _ = run(capsys, *words, "--json")
    scores = json.loads(out.splitlines()[-1])
    assert code == 0 and scores["clips"] == 1 and scores["f1"]["40"] == 1.0
    code, out, _ = run(capsys, *words)
    assert code == 0 and out.startswith("clips") and "per_clip" not in out


def world_of_two(folder) -> list[Path]:
    """Two clips of one length whose references have changed places."""
    logs = []
    for name, times in (("a", (0.3, 0.8, 1.3, 1.6)), ("b", (0.5, 0.72, 1.1, 1.9))):
        events = [{"time_s": t, "kind": "impact", "material": "wood"} for t in times]
        log = {"family": "bounce", "seed": 0, "seconds": 2.0, "prompt": "knocks", "events": events}
        logs.append(folder / f"{name}.json")
        logs[-1].write_text(json.dumps(log))
        make_sound(folder / f"{name}.wav", clicks(2.0, times), "pcm_s16le")
    return logs


def test_score_warns_of_references_that_do_not_fit(capsys, tmp_path):
    if not list(SHIPPED.glob("judge/*.safetensors")):
        pytest.skip("no judge")
    world_of_two(tmp_path)
    code, _, err = run(capsys, "score", tmp_path, "--events", tmp_path)
    assert (code, err) == (0, "")
    for name, other in (("a", "b"), ("b", "a")):
        copied(tmp_path / f"{name}.wav", tmp_path / f"{other}_foley.wav")
    for name in ("a", "b"):
        (tmp_path / f"{name}_foley.wav").replace(tmp_path / f"{name}.wav")
    code, _, err = run(capsys, "score", tmp_path, "--events", tmp_path)
    assert code == 0 and err.startswith("warning: ") and err.count("\n") == 1
    assert "a.wav beside a.json" in err and "b.wav beside b.json" in err


@pytest.mark.parametrize("name", ["passt", "panns", "clap", "desync"])
def test_score_names_the_network_that_is_absent(capsys, tmp_path, monkeypatch, name):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "weights"))
    world_of_two(tmp_path)
    words = ("score", tmp_path, "--events", tmp_path, "--field", name)
    assert f"the network {name} is absent, wanted {tmp_path}" in refused(capsys, *words, code=3)


def test_score_asks_networks(capsys, tmp_path, monkeypatch):
    if not list(SHIPPED.glob("judge/*.safetensors")):
        pytest.skip("no judge")
    from foley_lab.evaluation import field_suite

    def heard(sound):
        level = sound.square().mean(1, keepdim=True)
        return level, level.repeat(1, 3)

    monkeypatch.setattr(field_suite, "check_field", lambda names: None)
    monkeypatch.setattr(field_suite, "load_network", lambda name: heard)
    world_of_two(tmp_path)
    words = ("score", tmp_path, "--events", tmp_path, "--field", "panns")
    code, out, _ = run(capsys, *words, "--json")
    field = json.loads(out.splitlines()[-1])["field"]
    assert code == 0 and set(field) == {"fd_panns", "kl_panns", "is_panns"}
    code, out, _ = run(capsys, *words)
    assert code == 0 and re.search(r"^field +fd_panns 0\b.* is_panns -$", out, re.M)
    assert "invalid choice: 'vggish'" in refused(capsys, *words, "vggish")


def test_help_explains_figures_and_benchmarks(capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", "--help"])
    out = capsys.readouterr().out
    assert "\n  f1_chance_corrected: (f1 - chance)" in out and "silence_db: median level" in out
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    out = capsys.readouterr().out
    for name in CATALOGUE:
        assert f"\n  {name}: " in out
    assert out.count(" min\n") == len(CATALOGUE)


def test_bench_prints_every_leaf_and_names_its_benchmarks(capsys, monkeypatch):
    from foley_lab.diagnosis import bench

    def table(**options):
        return {"asked": options["count"], "rows": {"exact": {"f1": 0.5, "none": None}}}

    monkeypatch.setitem(bench.BENCHMARKS, "injections", table)
    code, out, _ = run(capsys, "bench", "injections", "--count", "3", "--json")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["injections", "asked", "3"]
    assert lines[1].split() == ["injections", "rows", "/", "exact", "/", "f1", "0.5"]
    assert lines[2].endswith(" -") and json.loads(lines[3])["injections"]["asked"] == 3
    refusal = refused(capsys, "bench", "speed")
    assert "wanted one of small, sync, response, continuity, injections" in refusal
    assert "--count 0" in refused(capsys, "bench", "injections", "--count", "0")


def test_weights_are_listed_and_verified(capsys):
    code, out, _ = run(capsys, "weights", "list")
    lines = out.splitlines()
    assert code == 0 and lines[0].split()[:2] == ["name", "present"]
    assert any(line.startswith("xl ") and "Tencent" in line for line in lines)
    assert any(line.startswith("text/") and " yes " in line for line in lines)
    code, out, _ = run(capsys, "weights", "verify", "text")
    assert code == 0 and out.startswith("sound: ")


def test_weights_are_fetched_and_converted(capsys, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from hub import Hub
    from official_files import write_official

    published = write_official(tmp_path / "published") / "synchformer"
    capsys.readouterr()  # what making them printed
    file = "synchformer_state_dict.pth"
    tmp_path = tmp_path / "fetched"
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub({"tencent/HunyuanVideo-Foley": {file: (published / file).read_bytes()}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetch = ("weights", "fetch", "synchformer")
        assert "--accept-licence" in refused(capsys, *fetch) and not tmp_path.exists()
        code, out, err = run(capsys, *fetch, "--accept-licence")
    path = tmp_path / "synchformer" / file
    assert (code, out) == (0, f"here: {path}\n")
    assert "not for the EU" in err and f"synchformer/{file}: " in err
    (path.parent / "config.json").write_bytes((published / "config.json").read_bytes())
    copy = path.with_suffix(".safetensors")
    code, out, _ = run(capsys, "weights", "convert", "synchformer")
    assert (code, out) == (0, f"here: {copy}\n")
    code, out, _ = run(capsys, "weights", "verify", "synchformer")
    assert (code, out) == (0, f"sound: {path}\nsound: {copy}\n")
    code, out, _ = run(capsys, "weights", "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["synchformer"].split()[1] == "yes"
    assert lines["xl"].endswith("missing hunyuanvideo_foley_xl.pth") and "~5826" in lines["xl"]


def test_absent_weights_say_how_to_get_them(capsys, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for words in (("verify", "xl"), ("convert", "xl")):
        assert "weights fetch xl" in refused(capsys, "weights", *words, code=3)
    assert "127.0.0.1:9" in refused(capsys, "weights", "fetch", "clap", code=3)
    assert "wanted one of xl" in refused(capsys, "weights", "fetch", "small")
    assert names(tmp_path) == []


def test_train_hands_its_flags_on(capsys):
    words = list(sys.argv)
    code, out, err = run(capsys, "train", "judge", "--help")
    assert code == 0 and "usage: foley-lab train judge" in out and err == ""
    assert cli.main(["train", "judge", "--no-such-flag"]) == 2
    assert sys.argv == words


# The process


def command(*words: str, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "foley_lab", *map(os.fspath, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, **options)


def test_help_is_light():
    code = (
        "import sys; from foley_lab.serving import cli; cli.build_parser().format_help(); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "av", "cv2", "tqdm", "scipy"} & set(done.stdout.split())
    assert "generate" in command("--help").stdout


def test_the_module_is_the_command(tmp_path):
    done = command("generate", tmp_path / "none.mp4", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


SLOWLY = """
import sys, time
sys.path[:0] = {paths!r}
from tiny import tiny_lab
from foley_lab.pipeline import presets
from foley_lab.serving.cli import main
def load(device, dtype):
    lab = tiny_lab()
    generate = lab.generate
    def slowly(*args):
        print("generating", flush=True)
        time.sleep(60)
        return generate(*args)
    if {where!r} == "generate":
        lab.generate = slowly
    return lab
presets.PRESETS["small"] = load
if {where!r} == "write":
    from foley_lab.media import muxing
    finish = muxing.SoundTrack.finish
    def slowly(track, count):
        finish(track, count)
        print("writing", flush=True)
        time.sleep(60)
    muxing.SoundTrack.finish = slowly
sys.exit(main(sys.argv[1:]))
"""


def _heed_interrupts() -> None:
    """Whoever runs the tests in the background may have left Ctrl-C ignored for all of them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["generate", "write"])
def test_interrupted_work_leaves_nothing(film, where, signum):
    code = SLOWLY.format(paths=[str(ROOT), str(ROOT / "tests")], where=where)
    line = [sys.executable, "-c", code, "generate", str(film)]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    try:
        assert process.stdout.readline().strip() in ("generating", "writing")
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "interrupted\n")
    assert names(film.parent) == ["clip.mp4"]


def test_a_package_interrupted_while_it_loads_is_no_bug(capsys, film, monkeypatch):
    def loading(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise ImportError("the C-extensions failed") from interrupt

    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(cli, "_generate", loading)
    try:
        assert run(capsys, "generate", film) == (130, "", "interrupted\n")
        monkeypatch.setattr(cli, "_generate", lambda args: __import__("no_such_package"))
        with pytest.raises(ImportError):
            cli.main(["generate", str(film)])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heeded)


def test_interrupted_batch_stops_its_workers(capsys, film, tmp_path, monkeypatch):
    """The second row is interrupted while the first is under way."""
    rows = write_list(tmp_path / "list.csv", *[{"video": "clip.mp4", "prompt": ""}] * 6)

    def interrupted(stage, done, total):
        raise KeyboardInterrupt

    from contextlib import nullcontext

    monkeypatch.setattr(cli, "_progress", lambda: nullcontext(interrupted))
    assert run(capsys, "batch", rows, "-o", tmp_path / "out")[0] == 130
    made = [name for name in names(tmp_path / "out") if name != ".foley_batch"]
    assert len(made) < 6 and all(name.startswith("clip_foley") for name in made)


def test_free_cores_are_those_of_the_process():
    assert 1 <= cli.free_cores() <= (os.cpu_count() or 1)


def test_score_says_when_names_differ_and_refuses_outputs_before_it_listens(
    capsys, tmp_path, monkeypatch
):
    from foley_lab.evaluation import score

    log = EventLog("", 0, 1.0, events=[Event(0.3)])
    log.write(tmp_path / "b.json")
    write_audio(tmp_path / "a.wav", Audio(torch.zeros(1, 48_000)))
    words = ["score", str(tmp_path / "a.wav"), "--events", str(tmp_path / "b.json")]
    listened = []

    def listen(*_):
        listened.append(1)
        return {"clips": 1, "per_clip": [{"clip": "b", "reference_fits": None}]}

    monkeypatch.setattr(score, "score_files", listen)
    assert cli.main(words) == 0
    assert "a.wav is scored against" in capsys.readouterr().err and listened
    listened.clear()
    for flag, value in (("--report", str(tmp_path)), ("--report", "no/such/r.html"),
                        ("--export", str(tmp_path / "a.wav"))):  # fmt: skip
        assert cli.main([*words, flag, value]) == 2
        assert capsys.readouterr().err.count("error:") == 1
    assert not listened and not list(tmp_path.glob("tmp*"))
