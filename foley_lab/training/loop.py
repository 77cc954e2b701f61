"""The loop that all trainings share: resumable, averaged, logged, and stoppable at any moment.

    train(Run("codec", minutes=60), model, optimizer, step_fn, evaluate_fn)

`step_fn(step)` returns `{"loss": tensor, ...}`; the loop does the rest, and keeps in `.runs/<name>`

    last.pt      everything needed to go on, replaced atomically
    best.pt      {"model": averaged weights, "config", "metrics", "step"} of the best held-out score
    log.jsonl    one JSON line per interval and per evaluation

A resumed run is the unbroken run, bit for bit: every step seeds torch from (seed, step) alone, so
neither an evaluation nor an interruption shifts what is drawn. Draw with torch's global generator
or with `run.rng(step)`. With `minutes` the rate follows the clock, and repeats only as it does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_BAD_STEPS = 20  # steps in a row with an infinite gradient before the run gives up


@dataclass(frozen=True)
class Run:
    """One training: where it lives, how long it lasts, how its rate moves.

    Attributes:
        name: Folder under `root`.
        minutes: Planned wall time over all resumptions; ignored when `steps` is given.
        steps: Planned number of steps, or 0 to follow the clock.
        seed: Seed of everything drawn.
        schedule: "cosine" falls all the way, "anneal" holds for 60 % and then falls, "constant".
        warmup_steps: Steps over which the rate rises from nothing.
        ema_decay: Decay of the averaged weights, reached by the ramp (1 + step) / (10 + step).
        clip_norm: Largest gradient norm.
        log_every_s, save_every_s, evaluate_every_s: Intervals in seconds.
        ship: Whether the best weights replace those of the package at the end.
    """

    name: str
    minutes: float = 60.0
    steps: int = 0
    seed: int = 0
    root: str = ".runs"
    schedule: str = "cosine"
    warmup_steps: int = 100
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    log_every_s: float = 20.0
    save_every_s: float = 180.0
    evaluate_every_s: float = 300.0
    ship: bool = False

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.steps < 0:
            raise ValueError(
                f"{self.minutes:g} minutes and {self.steps} steps, wanted minutes above 0 and no "
                "less than 0 steps, correct the flag"
            )
        if self.schedule not in ("cosine", "anneal", "constant"):
            raise ValueError(f"schedule {self.schedule!r}, wanted cosine, anneal or constant")

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return Path(self.root) / self.name

    def stem(self, shipped: Path) -> Path:
        """Where the finished weights go: beside the run's files, unless they are to be shipped."""
        return shipped if self.ship else self.folder / shipped.name

    def rng(self, step: int) -> np.random.Generator:
        """NumPy randomness of one step, the same however often the run was interrupted."""
        return np.random.default_rng((self.seed, step))

    def rate(self, step: int, progress: float) -> float:
        """Factor on the optimiser's learning rate, `progress` in [0, 1]; never below 1 %."""
        held = {"cosine": 0.0, "anneal": 0.6, "constant": 1.0}[self.schedule]
        fallen = max(0.0, progress - held) / max(1.0 - held, 1e-9)
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * max(0.01, 0.5 + 0.5 * math.cos(math.pi * min(1.0, fallen)))


@dataclass
class TrainState:
    """How far a run has come: with model, optimiser and averages, all that a checkpoint holds."""

    step: int = 0
    elapsed_s: float = 0.0
    best: float = -math.inf

    def progress(self, run: Run) -> float:
        """Share of the plan that is done, in [0, 1]."""
        clock = self.elapsed_s / max(60.0 * run.minutes, 1e-9)
        return min(1.0, self.step / run.steps if run.steps else clock)


def parse_run(default: Run, description: str, argv: Sequence[str] | None = None) -> Run:
    """A `Run` from the command line: one flag per field, `default` where a flag is absent."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for item in fields(Run):
        value, flag = getattr(default, item.name), "--" + item.name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true", help="replace the package's weights")
            continue
        parser.add_argument(flag, type=type(value), default=value, help=f"default {value}")
    return Run(**vars(parser.parse_args(argv)))


def train(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step_fn: Callable[[int], Mapping[str, Any]],
    evaluate_fn: Callable[[], Mapping[str, float]] | None = None,
    config: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> TrainState:
    """Train from the last checkpoint of `run`, or from nothing, until the plan is done.

    Args:
        model: What is trained, on its device; every floating-point entry is averaged.
        step_fn: Called with the step; returns "loss" (a scalar tensor) and numbers for the log.
        evaluate_fn: Called with the averages in `model`, in eval mode, without gradients; returns
            numbers for the log, "score" (higher is better) among them. Without it the last
            averages become best.pt.
        config: Kept in the checkpoints (plain numbers, strings, lists), to rebuild the model.
        extra: More things with `state_dict` that `step_fn` trains itself (a discriminator).

    Returns:
        The state; its progress is below 1 when SIGTERM ended the run early, after saving.

    Raises:
        KeyboardInterrupt: After saving, when the user pressed Ctrl-C.
        FloatingPointError: If the gradient stays infinite.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    parts = {"model": model, "optimizer": optimizer, **(extra or {})}
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = _resume(run, parts, ema)
    since: dict[str, float] = dict.fromkeys(("log", "save", "evaluate"), time.monotonic())
    sums: dict[str, float | Tensor] = {}
    count = bad = 0

    def due(what: str, every_s: float) -> float:
        """Seconds since the last `what` if they exceed the interval, else 0."""
        passed = time.monotonic() - since[what]
        if passed <= every_s:
            return 0.0
        since[what] += passed
        return passed

    model.train()
    with _stop_signals() as caught:
        while state.progress(run) < 1.0 and not caught:
            started = time.monotonic()
            torch.manual_seed(run.seed * 1_000_003 + state.step)
            rate = run.rate(state.step, state.progress(run))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["initial_lr"]
            optimizer.zero_grad(set_to_none=True)
            losses = step_fn(state.step)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), run.clip_norm)
            bad = 0 if torch.isfinite(norm) else bad + 1
            if bad > MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"{bad} gradients in a row were infinite, up to step {state.step}, wanted "
                    "finite ones: lower the learning rate and start again from last.pt"
                )
            if not bad:  # a single bad batch is left out
                optimizer.step()
                _average(ema, model, min(run.ema_decay, (1 + state.step) / (10 + state.step)))
            state.step, count = state.step + 1, count + 1
            for name, value in {**losses, "grad_norm": norm}.items():
                sums[name] = sums.get(name, 0.0) + torch.as_tensor(value).detach()
            if passed := due("log", run.log_every_s):
                line = {"step": state.step, "minutes": state.elapsed_s / 60, "rate": rate}
                line["steps_per_s"] = count / passed
                _log(run, line | {name: float(value) / count for name, value in sums.items()})
                sums, count = {}, 0
            if evaluate_fn and due("evaluate", run.evaluate_every_s):
                _evaluate(run, state, model, ema, evaluate_fn, config)
            state.elapsed_s += time.monotonic() - started
            if due("save", run.save_every_s):
                _save(run, state, parts, ema, config)
    if state.progress(run) >= 1.0:
        _evaluate(run, state, model, ema, evaluate_fn, config)
    _save(run, state, parts, ema, config)
    if signal.SIGINT in caught:
        raise KeyboardInterrupt
    return state


def _resume(run: Run, parts: Mapping[str, Any], ema: dict[str, Tensor]) -> TrainState:
    path = run.folder / "last.pt"
    if not path.exists():
        return TrainState()
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    for name, value in content["ema"].items():
        ema[name].copy_(value)
    return TrainState(**content["state"])


def _save(run: Run, state: TrainState, parts: Any, ema: Any, config: Any) -> None:
    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"ema": ema, "state": dict(vars(state)), "config": dict(config or {})}
    _write(run.folder / "last.pt", content)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write aside and move into place, so that nobody ever reads half a checkpoint."""
    aside = path.with_suffix(".part")
    with open(aside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


@torch.no_grad()
def _average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    weights = model.state_dict()
    moving = [name for name, value in weights.items() if value.is_floating_point()]
    averages, now = [ema[name] for name in moving], [weights[name] for name in moving]
    # All weights in one call, for which torch has no public name.
    torch._foreach_lerp_(averages, now, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for name in weights.keys() - set(moving):
        ema[name].copy_(weights[name])


@torch.no_grad()
def _evaluate(
    run: Run, state: TrainState, model: nn.Module, ema: Any, evaluate_fn: Any, config: Any
) -> None:
    """Score the averages, keep them if best so far, give the model its weights back."""
    metrics = {}
    if evaluate_fn:
        trained = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(ema)
        model.eval()
        metrics = {name: float(f"{value:.5g}") for name, value in evaluate_fn().items()}
        model.load_state_dict(trained)
        model.train()
    _log(run, {"step": state.step, "minutes": state.elapsed_s / 60, "evaluation": metrics})
    score = metrics.get("score", state.best)
    if score > state.best or "score" not in metrics:
        state.best = score
        content = {"model": ema, "config": dict(config or {}), "step": state.step}
        _write(run.folder / "best.pt", content | {"metrics": metrics})


def _log(run: Run, line: dict[str, Any]) -> None:
    text = json.dumps(line | {n: float(f"{v:.5g}") for n, v in line.items() if type(v) is float})
    with open(run.folder / "log.jsonl", "a") as file:
        file.write(text + "\n")
    print(f"{run.name}: {text}", file=sys.stderr, flush=True)


@contextmanager
def _stop_signals() -> Iterator[set[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying in the middle of a step."""
    caught: set[int] = set()
    watched = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda n, _: caught.add(n)) for number in watched]
    try:
        yield caught
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
