"""The samplers' benchmark: rows, pooling and the verdict, on a tiny model and clips."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from tiny import tiny_lab

from foley_lab.diagnosis import bench_samplers as bench
from foley_lab.diagnosis.bench_samplers import BASELINE, STEPS, Choice, choices
from foley_lab.samplers import CALLS, SAMPLERS

ROWS = [
    BASELINE,
    Choice("samplers", "euler", 2),
    Choice("samplers", "heun", 2),
    Choice("guidance", "ab2", 4, guidance_scale=1.0),
    Choice("caches", "ab2", 4, step_cache="taylorseer", cache_option=2.0),
]


def test_every_sampler_stands_in_the_table_at_every_number_of_steps():
    rows = choices()
    assert len(set(rows)) == len(rows) and BASELINE in rows
    swept = {(r.sampler, r.num_steps) for r in rows if r.part == "samplers"}
    assert swept == {(s, n) for s in SAMPLERS for n in STEPS}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return bench.bench_samplers(
        2, lab=tiny_lab(), rows=ROWS, seconds=1.5, size=(96, 64), rounds=1,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


def test_rows_say_what_was_spent_and_what_it_gave(table):
    json.dumps(table)
    for row, choice in zip(table["rows"], ROWS, strict=True):
        assert {k: row[k] for k in ("sampler", "num_steps", "part")} == {
            k: asdict(choice)[k] for k in ("sampler", "num_steps", "part")
        }
        assert row["network_calls"] == choice.num_steps * CALLS.get(choice.sampler, 1)
        both = 1 if choice.guidance_scale == 1.0 else 2
        assert row["evaluations"] == both * row["network_calls"]
        assert row["milliseconds"] > 0 and row["mr_stft_to_truth"] > 0
        assert 0 <= row["f1_20"] <= row["f1_40"] <= 1
        assert row["real_time_factor"] == pytest.approx(row["milliseconds"] / 1500, abs=1e-4)
    assert table["rows"][-1]["blocks_run"] < 1 == table["rows"][0]["blocks_run"]


def test_more_steps_lie_nearer_to_the_reference(table):
    baseline, euler = table["rows"][:2]
    assert baseline["mr_stft_to_reference"] < euler["mr_stft_to_reference"]


def clip(hits: int, false: int, true: int = 10) -> dict[str, float]:
    return {"true": true} | {
        f"{n}_{ms}": v for ms in (20, 40) for n, v in (("hits", hits), ("false", false))
    }


def line(f1: float, stft: float, ms: float, **more: object) -> dict[str, object]:
    return (
        asdict(BASELINE)
        | {"f1_40": f1, "mr_stft_to_truth": stft, "milliseconds": ms, "network_calls": 1}
        | more
    )


def test_the_verdict_keeps_rows_that_equal_the_baseline_the_cheapest_first():
    clips = [[clip(8, 1), clip(9, 0)]] * 5
    lines = [
        line(0.90, 2.0, 100),
        line(0.895, 2.05, 20, sampler="near"),
        line(0.88, 1.0, 10, sampler="misses sounds"),
        line(0.95, 2.1, 10, sampler="sounds otherwise"),
        line(0.91, 1.9, 10, sampler="best"),
    ]
    verdict = bench._verdict(lines, clips, 0)
    assert [row["sampler"] for row in verdict["equal"]] == ["best", "near"]
    assert verdict["equal"][0]["times_faster"] == 10
    assert verdict["equal"][1]["mr_stft_ratio"] == pytest.approx(1.025)


def test_bounds_of_a_difference_hold_it_and_shrink_to_nothing_for_equals():
    good, bad = [clip(9, 0)] * 30, [clip(5, 2), clip(9, 0)] * 15
    low, high = bench._difference(good, bad)
    assert 0 < low < bench._f1(good, "40") - bench._f1(bad, "40") < high
    assert bench._difference(good, good) == (0.0, 0.0)


def test_what_was_measured_before_is_read_again(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "0005.json").write_text('[["told"]]')
    assert bench._measured(([], [5, 6], 0, [], kept)) == [["told"]]
    first = bench._digest(ROWS, "clean", 1, 8.0, None)
    assert first == bench._digest(list(ROWS), "clean", 1, 8.0, None)
    assert (
        first
        != bench._digest(ROWS, "clean", 2, 8.0, None)
        != bench._digest(ROWS[:2], "clean", 1, 8.0, None)
    )
