"""The stopwatch: nested spans, threads, several listeners, broken stages."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from foley_lab.timing import Timings, carry, collect, mark, span


def work(seconds=0.01):
    time.sleep(seconds)


def test_stages_sum_calls_and_bytes():
    with collect() as timings:
        for size in (3, 4):
            with span("read") as reading:
                reading.bytes += size
                work()
        with span("encode"):
            work(0.02)
    stages = timings.stages()
    assert list(stages) == ["read", "encode"]
    assert (stages["read"].calls, stages["read"].bytes) == (2, 7)
    assert stages["read"].seconds >= 0.02 and stages["encode"].seconds >= 0.02
    total = timings.total_s
    assert stages["read"].seconds + stages["encode"].seconds <= total < 2
    assert timings.device == "cpu"


def test_parts_are_inside_their_whole_and_not_counted_twice():
    with collect() as timings, span("generate"):
        for _ in range(3):
            with span("velocity"):
                work()
    stages = timings.stages()
    assert list(stages) == ["generate", "generate/velocity"]
    assert stages["generate/velocity"].calls == 3
    assert stages["generate"].seconds >= stages["generate/velocity"].seconds >= 0.03
    assert list(timings.as_dict()) == ["generate", "total"]


def test_as_dict_is_json_and_keeps_marks():
    with collect() as timings:
        with span("decode"):
            work()
        mark("time_to_first_audio")
        work()
        mark("time_to_first_audio")
    facts = json.loads(json.dumps(timings.as_dict()))
    assert list(facts) == ["decode", "total", "time_to_first_audio"]
    assert facts["decode"] <= facts["time_to_first_audio"] <= facts["total"] - 0.01


def test_table_has_a_line_per_stage_in_order_and_percents():
    timings = Timings()
    with collect(timings):
        with span("read"):
            work()
        with span("generate"), span("velocity"):
            work(0.03)
        with span("read"), span("seek"):  # a part that comes late stands under its whole
            work()
    rows = [line.split() for line in timings.table().splitlines()]
    assert [row[0] for row in rows] == ["stage", "read", "seek", "generate", "velocity", "total"]
    percents = {row[0]: float(row[2]) for row in rows[1:]}
    assert percents["total"] == 100
    assert 95 < percents["read"] + percents["generate"] <= 100.2
    assert float(rows[-1][1]) == pytest.approx(timings.total_s, abs=1e-3)


def test_a_stage_that_fails_is_still_told_and_closed():
    with collect() as timings:
        with pytest.raises(ZeroDivisionError), span("encode"), span("text"):
            _ = 1 / 0
        with span("decode"):
            pass
    assert list(timings.stages()) == ["encode", "encode/text", "decode"]


def test_every_listener_names_from_its_own_depth():
    with collect() as outer, span("generate"), collect() as inner, span("velocity"):
        work()
    assert list(inner.stages()) == ["velocity"]
    assert list(outer.stages()) == ["generate", "generate/velocity"]


def test_without_a_listener_nothing_is_kept_and_time_is_told():
    with span("read") as reading:
        work()
    assert reading.seconds >= 0.01
    with collect() as timings:
        pass
    assert timings.spans == []


def test_collect_again_adds_up():
    timings = Timings()
    for _ in range(3):
        with collect(timings), span("decode"):
            work()
        work(0.05)  # outside: the listener's own time
    assert timings.stages()["decode"].calls == 3
    assert 0.03 <= timings.total_s < 0.03 + 0.1


def test_threads_report_where_carry_was_called():
    def job(number):
        with span("step") as step:
            step.bytes += number

    with collect() as timings, span("generate"), ThreadPoolExecutor(4) as pool:
        list(pool.map(carry(job), range(100)))
    stage = timings.stages()["generate/step"]
    assert (stage.calls, stage.bytes) == (100, sum(range(100)))
    assert {s.thread for s in timings.spans} - {threading.current_thread().name}


def test_threads_without_carry_stay_apart():
    with collect() as timings:
        stranger = threading.Thread(target=lambda: span("step").__enter__())
        stranger.start()
        stranger.join()
        with span("read"):
            pass
    assert list(timings.stages()) == ["read"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_spans_measure_the_device_not_the_launch():
    x = torch.randn(4096, 4096, device="cuda")
    with collect() as timings:
        with span("generate", x.device) as launched:
            for _ in range(50):
                x @ x
        launch_s = launched.seconds
    assert timings.stages()["generate"].seconds > launch_s
    assert timings.total_s >= timings.stages()["generate"].seconds
    assert timings.device.startswith("cuda")
