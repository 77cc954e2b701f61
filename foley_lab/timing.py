"""The one stopwatch: `span("encode")` times a stage, `collect()` gathers the spans inside it.

    with collect() as timings:
        with span("read") as reading:
            reading.bytes += path.stat().st_size
        with span("generate", device), span("velocity", device):
            ...
    print(timings.table())

Spans nest: the inner one above is the stage `generate/velocity`, a part of `generate`, and not
added to it a second time. Host spans take wall time. A span on a CUDA device takes the time between
two events on the current stream, because the host runs ahead of the device; the events are read
when `collect` closes, which waits for the device once, so that measuring slows nothing down.

What is open is remembered per context (PEP 567). A new thread starts with an empty context: hand it
`carry(function)` and its spans land where the caller's do. A generator shares the context of
whoever advances it: let no `yield` stand inside a span; enter `collect(timings)` again instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Span:
    """One measured stretch.

    Attributes:
        path: Names from the outermost span in the listener to this one, joined by "/".
        start_s: Host clock (`time.perf_counter`) at the opening.
        seconds: How long it took; on CUDA the host's share until `collect` closes.
        bytes: What the stage says it moved; the stage adds to it.
        device: Where the work ran.
        thread: Name of the thread that opened it.
        events: CUDA events at its two ends until they are read.
    """

    path: str
    start_s: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    device: str = "cpu"
    thread: str = ""
    events: Any = field(default=None, repr=False)


@dataclass
class Stage:
    """All spans of one path together."""

    seconds: float = 0.0
    calls: int = 0
    bytes: int = 0


class Timings:
    """What one run cost.

    Attributes:
        spans: In the order in which they closed.
        marks: Instants by name, in seconds since `collect` first opened.
        total_s: Wall seconds spent inside `collect`.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.marks: dict[str, float] = {}
        self.total_s = 0.0
        self.start_s: float | None = None

    @property
    def device(self) -> str:
        """The accelerator that worked, or "cpu"."""
        return next((s.device for s in self.spans if s.device != "cpu"), "cpu")

    def stages(self) -> dict[str, Stage]:
        """Sums by path, in the order in which the stages were first opened."""
        stages: dict[str, Stage] = {}
        for one in sorted(self.spans, key=lambda s: s.start_s):
            stage = stages.setdefault(one.path, Stage())
            stage.seconds += one.seconds
            stage.calls += 1
            stage.bytes += one.bytes
        return stages

    def as_dict(self) -> dict[str, float]:
        """Seconds of the outermost stages, then `total` and the marks; ready for JSON."""
        outer = {path: s.seconds for path, s in self.stages().items() if "/" not in path}
        return {**outer, "total": self.total_s, **self.marks}

    def table(self) -> str:
        """Stage, seconds, percent of the total and calls, a line each, parts under their whole.

        Stages that ran side by side in threads can add up to more than 100 %.
        """
        stages = self.stages()
        place = {path: i for i, path in enumerate(stages)}

        def position(path: str) -> list[int]:
            parts = path.split("/")
            return [place.get("/".join(parts[: i + 1]), -1) for i in range(len(parts))]

        rows = [("stage", "seconds", "percent", "calls")]
        for path in sorted(stages, key=position):
            stage, name = stages[path], "  " * path.count("/") + path.rsplit("/", 1)[-1]
            percent = 100 * stage.seconds / self.total_s if self.total_s else 0.0
            rows.append((name, f"{stage.seconds:.3f}", f"{percent:.1f}", str(stage.calls)))
        rows.append(("total", f"{self.total_s:.3f}", "100.0", ""))
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{n:<{width}} {s:>9} {p:>8} {c:>6}".rstrip() for n, s, p, c in rows)

    def _settle(self) -> None:
        """Read the device's clocks, which waits for the work in front of them."""
        for one in self.spans:
            if one.events:
                start, end = one.events
                end.synchronize()
                one.seconds, one.events = start.elapsed_time(end) / 1000, None  # ms to s


class _Open(NamedTuple):
    """Who listens, each with the depth at which it began, and the names open so far."""

    listeners: tuple[tuple[Timings, int], ...] = ()
    names: tuple[str, ...] = ()


_NOTHING = _Open()
_open: ContextVar[_Open] = ContextVar("foley_lab_open_spans", default=_NOTHING)


@contextmanager
def collect(timings: Timings | None = None) -> Iterator[Timings]:
    """Gather every span opened inside into `timings` (a new one by default) and hand it out.

    May be nested: each listener hears all spans inside it, named from its own depth.
    """
    timings = Timings() if timings is None else timings
    before, start_s = _open.get(), time.perf_counter()
    if timings.start_s is None:
        timings.start_s = start_s
    # Set back by value, not by token: a generator may be closed in another context.
    _open.set(before._replace(listeners=(*before.listeners, (timings, len(before.names)))))
    try:
        yield timings
    finally:
        _open.set(before)
        timings._settle()
        timings.total_s += time.perf_counter() - start_s


@contextmanager
def span(name: str, device: object = "cpu") -> Iterator[Span]:
    """Time what happens inside and tell every open `collect`, also when it raises.

    Args:
        name: A stage (read, encode, generate, decode, write) or a part of one; no "/".
        device: `torch.device` or its name, where the work runs.
    """
    before = _open.get()
    names = (*before.names, name)
    one = Span(name, device=str(device), thread=threading.current_thread().name)
    on_cuda = bool(before.listeners) and one.device.startswith("cuda")
    _open.set(before._replace(names=names))
    one.start_s = time.perf_counter()
    start = _cuda_event(device) if on_cuda else None
    try:
        yield one
    finally:
        one.events = (start, _cuda_event(device)) if on_cuda else None
        one.seconds = time.perf_counter() - one.start_s
        _open.set(before)
        for timings, depth in before.listeners:
            timings.spans.append(replace(one, path="/".join(names[depth:])))


def mark(name: str) -> None:
    """Note the instant in every open `collect`; the first note of a name stays."""
    for timings, _ in _open.get().listeners:
        timings.marks.setdefault(name, time.perf_counter() - (timings.start_s or 0.0))


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """The function, its spans counted where `carry` was called, in whichever thread it runs."""
    here = _open.get()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _open.get()
        _open.set(here)
        try:
            return function(*args, **kwargs)
        finally:
            _open.set(before)

    return carried


def _cuda_event(device: Any) -> Any:
    import torch  # here, so that the stopwatch costs nothing where there is no device

    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
