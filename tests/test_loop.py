"""The training loop: resumed = unbroken, averages, schedules, and a clean stop at any moment."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from foley_lab.training.loop import Run, parse_run, train


def toy(tmp_path, steps, name="toy", **options):
    """A small network with dropout, trained on noise of both kinds of randomness."""
    run = Run(name, steps=steps, root=str(tmp_path), schedule="constant", warmup_steps=4, **options)
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    def step_fn(step):
        drawn = torch.from_numpy(run.rng(step).normal(size=(16, 4))).float()
        inputs = drawn + torch.randn(16, 4)
        return {"loss": (model(inputs) - inputs[:, :1]).square().mean(), "twice": 2.0}

    return run, model, optimizer, step_fn


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_resumed_is_unbroken(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 6, "unbroken")
    train(run, model, optimizer, step_fn)
    for steps in (3, 6):
        run, resumed, optimizer, step_fn = toy(tmp_path, steps, "resumed")
        state = train(run, resumed, optimizer, step_fn, lambda: {"score": torch.rand(()).item()})
    assert state.step == 6
    assert same(model.state_dict(), resumed.state_dict())
    paths = [tmp_path / name / "last.pt" for name in ("unbroken", "resumed")]
    last = [torch.load(path, weights_only=True) for path in paths]
    assert same(last[0]["ema"], last[1]["ema"])
    assert not same(last[0]["ema"], last[0]["model"])


def test_another_seed_is_another_run(tmp_path):
    weights = []
    for seed in (0, 1):
        run, model, optimizer, step_fn = toy(tmp_path, 3, f"seed{seed}", seed=seed)
        train(run, model, optimizer, step_fn)
        weights.append(model.state_dict())
    assert not same(*weights)


def test_best_keeps_the_averages_of_the_best_score(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 5, evaluate_every_s=0.0)
    seen = []

    def evaluate_fn():
        assert not model.training and not torch.is_grad_enabled()
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": -abs(len(seen) - 2)}  # the second is the best

    train(run, model, optimizer, step_fn, evaluate_fn, config={"width": 8})
    best = torch.load(run.folder / "best.pt", weights_only=True)
    assert same(best["model"], seen[1]) and best["step"] == 2 and best["config"] == {"width": 8}
    assert model.training


def test_sigterm_saves_and_returns(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 1000)
    handler = signal.getsignal(signal.SIGTERM)

    def stopping(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_fn(step)

    state = train(run, model, optimizer, stopping)
    assert state.step == 3 and state.progress(run) < 1.0
    assert torch.load(run.folder / "last.pt", weights_only=True)["state"]["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is handler


def test_interrupt_saves_and_raises(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 1000)

    def interrupted(step):
        os.kill(os.getpid(), signal.SIGINT)
        return step_fn(step)

    with pytest.raises(KeyboardInterrupt):
        train(run, model, optimizer, interrupted)
    assert torch.load(run.folder / "last.pt", weights_only=True)["state"]["step"] == 1


def test_the_clock_ends_a_run_and_is_remembered(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 0, minutes=0.2 / 60)
    state = train(run, model, optimizer, step_fn)
    assert 0.2 <= state.elapsed_s < 2.0 and state.step > 1
    again = train(run, model, optimizer, step_fn)
    assert again.step == state.step  # nothing is left to do


def test_bad_batches_are_left_out_until_they_are_all_there_is(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 4)

    def sometimes(step):
        loss = step_fn(step)["loss"]
        return {"loss": loss * math.nan if step == 1 else loss}

    train(run, model, optimizer, sometimes)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    run = replace(run, name="hopeless", steps=100)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(run, model, optimizer, lambda step: {"loss": step_fn(step)["loss"] * math.nan})


def test_the_log_has_one_json_line_per_interval(tmp_path):
    run, model, optimizer, step_fn = toy(tmp_path, 3, log_every_s=0.0)
    train(run, model, optimizer, step_fn)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert lines[0]["twice"] == 2.0 and lines[0]["loss"] > 0 and "evaluation" in lines[-1]


def test_schedules(tmp_path):
    cosine, anneal = Run("a", warmup_steps=10), Run("a", warmup_steps=10, schedule="anneal")
    assert cosine.rate(4, 0.0) == 0.5
    assert cosine.rate(99, 0.5) == pytest.approx(0.5)
    assert cosine.rate(99, 1.0) == pytest.approx(0.01)
    assert anneal.rate(99, 0.6) == 1.0
    assert anneal.rate(99, 0.8) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="wanted cosine"):
        Run("a", schedule="linear")


def test_flags_are_the_fields(tmp_path):
    run = parse_run(Run("codec"), "", ["--minutes", "5", "--seed", "3", "--ema-decay", ".9"])
    assert run == Run("codec", minutes=5.0, seed=3, ema_decay=0.9)


@pytest.mark.parametrize("options", [{"minutes": -1.0}, {"minutes": 0.0}, {"steps": -5}])
def test_plans_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="wanted minutes above 0"):
        Run("x", **options)


def test_finished_weights_stay_beside_the_run_unless_they_are_to_be_shipped(tmp_path):
    shipped = tmp_path / "package" / "codec"
    assert Run("codec", root=str(tmp_path)).stem(shipped) == tmp_path / "codec" / "codec"
    assert Run("codec", root=str(tmp_path), ship=True).stem(shipped) == shipped
    assert parse_run(Run("codec"), "", ["--ship"]).ship and not parse_run(Run("codec"), "", []).ship
