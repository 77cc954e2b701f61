"""Optimised schedules: searched on a tiny model, kept beside the weights, found by name."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_lab

import foley_lab.weights.schedules as kept
from foley_lab.samplers import sample
from foley_lab.signals import FoleyError
from foley_lab.training.schedule import ScheduleSearch, main, search

RUN = ScheduleSearch(clips=2, seconds=1.0, points=12, most_steps=5)


@pytest.fixture(scope="module")
def found():
    return search(RUN, tiny_lab())


def test_a_search_gives_times_for_every_number_of_steps(found):
    json.dumps(found)
    for order in ("1", "2"):
        assert list(found[order]) == ["1", "2", "3", "4", "5"]
        for n, clock in found[order].items():
            assert len(clock) == int(n) + 1 and clock == sorted(clock, reverse=True)
            assert (clock[0], clock[-1]) == (1.0, 0.0)
    misses = [miss for order in (1, 2) for miss in found[f"miss_{order}"].values()]
    assert all(0 <= miss[kind] < 10 for miss in misses for kind in ("optimal", "uniform"))


def test_the_model_finds_its_table_by_name(found, monkeypatch, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "schedules.json").write_text(json.dumps(found))
    monkeypatch.setattr(kept, "SHIPPED", tmp_path)
    lab = tiny_lab()
    lab.generator.schedules = kept.load_schedules("tiny")
    features = lab.encode(lab.read(_film(tmp_path)), _options())
    asked = lab.generator.choose("euler", 3, "optimal")[1]
    assert asked == found["1"]["3"]
    by_name, by_hand = (
        lab.generator.generate(features, num_steps=3, schedule=s) for s in ("optimal", asked)
    )
    assert torch.equal(by_name, by_hand)
    assert not torch.equal(by_name, lab.generator.generate(features, num_steps=3))


def _film(folder):
    from clips import make_film

    return make_film(folder / "clip.mp4")


def _options():
    from foley_lab.pipeline.lab import Options

    return Options("", None, 1, 1.0, "euler", "vocoder", "flow", 0, 1)


def test_the_shipped_table_serves_every_number_of_steps():
    from foley_lab.samplers.schedules import optimal_times, times

    tables = kept.load_schedules("small")
    assert set(tables) == {"1", "2"}
    for sampler in ("euler", "ab2", "heun", "unipc"):
        for n in (1, 2, 3, 5, 8, 16, 33, 64):
            assert times(n, optimal_times(tables, sampler, n))
    x = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    clock = optimal_times(tables, "ab2", 8)
    assert torch.allclose(sample(lambda y, t: x, x, "ab2", 8, clock).latents, 0 * x, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"1": 3}', '{"1": {"2": [1, 0]}}', '{"1": {"2": [1, 2, 0]}}', '{"2": {"a": []}}'],
)
def test_a_file_that_is_no_table_is_refused(content, monkeypatch, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "schedules.json").write_text(content)
    monkeypatch.setattr(kept, "SHIPPED", tmp_path)
    with pytest.raises(FoleyError, match="foley-lab train schedule --base small"):
        kept.load_schedules("small")
    assert kept.load_schedules("unheard") == {}


def test_a_search_on_films_takes_those_of_its_length(tmp_path):
    from clips import make_film

    make_film(tmp_path / "a.mp4", frames=25)
    make_film(tmp_path / "b.mp4", frames=40)
    run = ScheduleSearch(data=tmp_path, clips=2, seconds=1.0, points=4, most_steps=2)
    assert search(run, tiny_lab())["clips"] == 1
    longer = ScheduleSearch(data=tmp_path, seconds=3.0, points=4, most_steps=2)
    with pytest.raises(ValueError, match=r"2 films in .*, none of 3 s"):
        search(longer, tiny_lab())
    nowhere = ScheduleSearch(data=tmp_path / "none", points=4, most_steps=2)
    with pytest.raises(ValueError, match="wanted a folder of films"):
        search(nowhere, tiny_lab())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 0}, "0 clips of 4.0 s"),
        ({"seconds": 0.0}, "16 clips of 0.0 s"),
        ({"most_steps": 80}, "most_steps 80 of 64 points"),
    ],
)
def test_searches_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScheduleSearch(**options)


def test_the_command_writes_the_table_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foley_lab.training.schedule.load", lambda name: tiny_lab())
    out = tmp_path / "deep" / "table.json"
    line = [
        "schedule",
        "--clips",
        "1",
        "--seconds",
        "0.5",
        "--points",
        "4",
        "--most-steps",
        "2",
        "--out",
    ]
    monkeypatch.setattr("sys.argv", [*line, str(out)])
    main()
    assert set(json.loads(out.read_text())["1"]) == {"1", "2"}
    assert [p.name for p in out.parent.iterdir()] == ["table.json"]
    assert "uniform" in capsys.readouterr().out
