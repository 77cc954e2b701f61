"""Lists: results belong to their rows in whatever order, and only the same is skipped."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from clips import make_film
from official_files import write_official
from tiny import tiny_lab

from foley_lab.pipeline import presets
from foley_lab.serving import batch, cli
from foley_lab.signals import MediaError

ROWS = [("clip.mp4", "a bell", 3), ("clip.mp4", "a drum", 1), ("other/clip.mp4", "a bell", 1)]


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """`--model small` is a tiny model; what it makes is counted."""
    made = []

    def small(device, dtype, adapter=None):
        lab = tiny_lab()
        generate = lab.generate
        monkeypatch.setattr(lab, "generate", lambda *a: made.append(a[1].prompt) or generate(*a))
        return lab

    monkeypatch.setitem(presets.PRESETS, "small", small)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "other").mkdir()
    make_film(folder / "clip.mp4", size=(32, 32), frames=10)
    make_film(folder / "other" / "clip.mp4", size=(32, 32), frames=15)
    return folder


def listed(path: Path, films: Path, rows, heading=("video", "prompt", "seed")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows([films / row[0], *row[1:]] for row in rows)
    return path


def ran(capsys, *words) -> dict:
    code = cli.main(["batch", *(str(word) for word in words), "--json"])
    out, err = capsys.readouterr()
    assert code in (0, 4), err
    return json.loads(out.splitlines()[-1]) | {"said": err}


def refused(capsys, *words) -> str:
    assert cli.main(["batch", *(str(word) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# names and order


def test_results_do_not_depend_on_the_order_of_the_rows(capsys, films, tmp_path, untrained):
    folders = []
    for k, order in enumerate(itertools.permutations(ROWS)):
        rows = listed(tmp_path / f"{k}.csv", films, order)
        report = ran(capsys, rows, "-o", tmp_path / str(k))
        assert report["done"] == 3
        folders.append(contents(tmp_path / str(k)))
    assert sorted(folders[0]) == ["clip_foley.mp4", "clip_foley_2.mp4", "clip_foley_3.mp4"]
    assert all(folder == folders[0] for folder in folders)
    assert len(set(folders[0].values())) == 3


def test_a_list_in_another_order_meets_its_results(capsys, films, tmp_path, untrained):
    first = ran(capsys, listed(tmp_path / "a.csv", films, ROWS), "-o", tmp_path / "out")
    before = contents(tmp_path / "out")
    untrained.clear()
    rows = listed(tmp_path / "b.csv", films, ROWS[::-1])
    again = ran(capsys, rows, "-o", tmp_path / "out", "--skip-existing")
    assert again["skipped"] == 3 and not untrained and not again["said"]
    assert contents(tmp_path / "out") == before
    outs = [[r["out"] for r in report["results"]] for report in (first, again)]
    assert outs[0] == outs[1][::-1]


def test_a_row_more_makes_anew_what_moved(capsys, films, tmp_path, untrained):
    """The new row takes the first name, so the others' results lie under other names now."""
    ran(capsys, listed(tmp_path / "a.csv", films, ROWS[:2]), "-o", tmp_path / "out")
    rows = listed(tmp_path / "b.csv", films, [*ROWS[:2], ("clip.mp4", "a ant", 0)])
    report = ran(capsys, rows, "-o", tmp_path / "out", "--skip-existing")
    assert (report["done"], report["skipped"]) == (3, 0)
    ran(capsys, rows, "-o", tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_names_given_come_before_names_found(capsys, films, tmp_path):
    given = ("video", "prompt", "out")
    rows = [("clip.mp4", "a", ""), ("clip.mp4", "b", "clip_foley.mp4"), ("clip.mp4", "c", "x.wav")]
    jobs = batch.plan(listed(tmp_path / "l.csv", films, rows, given), tmp_path / "out")
    assert [job.number for job in jobs] == [2, 1, 1] and not any(job.fault for job in jobs)
    twice = [("clip.mp4", "a", "x.wav"), ("clip.mp4", "b", "deep/../x.wav")]
    jobs = batch.plan(listed(tmp_path / "l.csv", films, twice, given), tmp_path / "out")
    assert jobs[0].fault is None and "is another row's" in str(jobs[1].fault)


def test_takes_get_names_that_no_row_has(capsys, films, tmp_path):
    rows = listed(tmp_path / "l.csv", films, ROWS[:2])
    report = ran(capsys, rows, "-o", tmp_path / "out", "--takes", "2")
    names = [Path(path).name for r in report["results"] for path in r["takes"]]
    assert sorted(names) == sorted(contents(tmp_path / "out")) and len(set(names)) == 4
    assert len(set(contents(tmp_path / "out").values())) == 4
    assert ran(capsys, rows, "-o", tmp_path / "out", "--takes", "2", "--skip-existing")["skipped"]
    (tmp_path / "out" / names[1]).unlink()  # a take is missing
    assert ran(capsys, rows, "-o", tmp_path / "out", "--takes", "2", "--skip-existing")["done"] == 1


# skipping


@pytest.mark.parametrize(
    "change",
    [
        {"row": ("clip.mp4", "a drum", 3)},
        {"row": ("clip.mp4", "a bell", 4)},
        {"row": ("other/clip.mp4", "a bell", 3)},
        {"flags": ["--steps", "3"]},
        {"flags": ["--guidance-scale", "1.5"]},
        {"flags": ["--sampler", "ab2"]},
        {"flags": ["--schedule", "cosine"]},
        {"flags": ["--guidance", "zero-star"]},
        {"flags": ["--takes", "2"]},
        {"flags": ["--adapter", "{list}"]},
        {"weights": 0.1},
    ],
    ids=str,
)
def test_only_the_same_is_skipped(capsys, films, tmp_path, untrained, monkeypatch, change):
    rows = listed(tmp_path / "l.csv", films, ROWS[:1])
    words = (rows, "-o", tmp_path / "out", "--skip-existing")
    assert ran(capsys, *words)["done"] == 1
    assert ran(capsys, *words)["skipped"] == 1
    listed(rows, films, [change.get("row", ROWS[0])])
    if "weights" in change:
        small = presets.PRESETS["small"]

        def retrained(*given):
            lab = small(*given)
            with torch.no_grad():
                next(lab.generator.transformer.parameters()).add_(change["weights"])
            return lab

        monkeypatch.setitem(presets.PRESETS, "small", retrained)
    flags = [flag.format(list=rows) for flag in change.get("flags", [])]
    assert ran(capsys, *words, *flags)["done"] == 1
    assert ran(capsys, *words, *flags)["skipped"] == 1


def test_an_official_model_of_eight_bits_knows_its_results(capsys, films, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("torchao")
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(write_official(tmp_path / "weights")))
    words = (listed(tmp_path / "l.csv", films, ROWS[:1]), "-o", tmp_path / "out", "--model", "xl")
    words = (*words, "--steps", "2", "--device", "cpu", "--skip-existing")
    for flags in (["--dtype", "int8"], ["--dtype", "float32"], ["--compat", "reference"]):
        assert ran(capsys, *words, *flags)["done"] == 1, flags
        assert ran(capsys, *words, *flags)["skipped"] == 1, flags
    assert ran(capsys, *words, "--offload", *flags)["skipped"] == 1  # which changes no sound


def test_what_is_the_default_anyhow_is_skipped(capsys, films, tmp_path):
    words = (listed(tmp_path / "l.csv", films, ROWS[:1]), "-o", tmp_path / "out")
    assert ran(capsys, *words)["done"] == 1
    steps = str(tiny_lab().defaults.num_steps)
    assert ran(capsys, *words, "--skip-existing", "--steps", steps)["skipped"] == 1
    os.utime(films / "clip.mp4")  # the same film, copied
    (tmp_path / "out").rename(tmp_path / "moved")
    words = (words[0], "-o", tmp_path / "moved", "--skip-existing")
    assert ran(capsys, *words)["skipped"] == 1


def test_a_result_of_unknown_origin(capsys, films, tmp_path, untrained):
    """A name of its own is left with a warning; one that rows share may be another row's."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "clip_foley.mp4").write_bytes(b"by hand")
    alone = listed(tmp_path / "l.csv", films, ROWS[:1])
    report = ran(capsys, alone, "-o", out, "--skip-existing")
    assert report["skipped"] == 1 and not untrained
    assert report["said"].startswith("warning: row 1: nothing tells of what")
    assert (out / "clip_foley.mp4").read_bytes() == b"by hand"
    shared = listed(tmp_path / "l.csv", films, ROWS)
    assert ran(capsys, shared, "-o", out, "--skip-existing")["done"] == 3
    assert (out / "clip_foley.mp4").read_bytes() != b"by hand"


def test_a_result_that_was_not_recorded_in_time_is_made_anew(capsys, films, tmp_path, monkeypatch):
    words = (listed(tmp_path / "l.csv", films, ROWS[:1]), "-o", tmp_path / "out")
    ran(capsys, *words)
    write = batch.Records.write
    with monkeypatch.context() as patch:  # killed after the file was replaced
        patch.setattr(
            batch.Records, "write", lambda self, path, made: None if made else write(self, path, {})
        )
        ran(capsys, *words, "--steps", "3")
    assert ran(capsys, *words, "--skip-existing")["done"] == 1
    (record,) = (tmp_path / "out" / batch.RECORDS).iterdir()
    for damaged in ("", "[]", '{"made_of": 3}'):
        record.write_text(damaged)
        assert ran(capsys, *words, "--skip-existing")["done"] == 1


def test_a_row_that_fails_leaves_its_result_and_its_record(capsys, films, tmp_path):
    rows = listed(tmp_path / "l.csv", films, ROWS[:1])
    ran(capsys, rows, "-o", tmp_path / "out")
    before = contents(tmp_path / "out")
    listed(rows, films, [("clip.mp4", "a bell", -3)])
    assert ran(capsys, rows, "-o", tmp_path / "out")["failed"] == 1
    listed(rows, films, ROWS[:1])
    assert ran(capsys, rows, "-o", tmp_path / "out", "--skip-existing")["skipped"] == 1
    assert contents(tmp_path / "out") == before


# flags and places


def test_batch_and_generate_ask_in_the_same_words():
    parsers = cli.build_parser()._subparsers._group_actions[0].choices
    single, many = (
        {a.dest: (a.option_strings, a.default, a.help) for a in parsers[name]._actions}
        for name in ("generate", "batch")
    )
    shared = {
        "model", "steps", "guidance_scale", "sampler", "schedule", "guidance", "step_cache",
        "decoder", "generator", "takes", "device", "dtype", "offload", "adapter", "compat",
    }  # fmt: skip
    assert shared <= many.keys() and all(many[name] == single[name] for name in shared)


def test_batch_is_generate(capsys, films, tmp_path):
    flags = ["--steps", "3", "--sampler", "ab2", "--guidance-scale", "1.5", "--schedule", "cosine"]
    rows = listed(tmp_path / "l.csv", films, [("clip.mp4", "a bell", 5)])
    ran(capsys, rows, "-o", tmp_path / "out", *flags)
    words = [str(films / "clip.mp4"), "-o", str(tmp_path / "one.mp4"), "--prompt", "a bell"]
    assert cli.main(["generate", *words, "--seed", "5", *flags]) == 0
    assert contents(tmp_path / "out")["clip_foley.mp4"] == (tmp_path / "one.mp4").read_bytes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--steps 0", "num_steps 0"),
        ("--guidance-scale 99", "guidance_scale 99"),
        ("--sampler none", "sampler 'none'"),
        ("--schedule none", "schedule 'none'"),
        ("--guidance none", "guidance 'none'"),
        ("--step-cache none", "step cache 'none'"),
        ("--step-cache magcache", "step cache 'magcache' without ratios"),
        ("--decoder none", "decoder 'none'"),
        ("--generator none", "generator 'none'"),
        ("--takes 0", "takes 0"),
        ("--takes 17", "takes 17"),
        ("--offload", "offload True"),
        ("--compat reference", "compat 'reference'"),
        ("--workers 0", "workers 0"),
    ],
)
def test_flags_are_refused_before_the_first_row(capsys, films, tmp_path, untrained, flags, says):
    rows = listed(tmp_path / "l.csv", films, ROWS)
    assert says in refused(capsys, rows, "-o", tmp_path / "out", *flags.split())
    assert not untrained and not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that refuses even a superuser")
def test_places_that_take_nothing(capsys, films, tmp_path):
    rows = listed(tmp_path / "l.csv", films, ROWS[:1])
    assert "takes no new files" in refused(capsys, rows, "-o", "/proc/none")
    assert "is a file, wanted a folder" in refused(capsys, rows, "-o", rows)
    assert "is a file, wanted a folder" in refused(capsys, rows, "-o", rows / "below")
    listed(rows, films, [("clip.mp4", "", "x.wav/y.wav")], ("video", "prompt", "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.wav").write_bytes(b"")
    report = ran(capsys, rows, "-o", tmp_path / "out")
    assert "cannot be made" in report["results"][0]["error"]
    with pytest.raises(MediaError, match="is a file"):
        batch.check_folder(rows / "a" / "b")
