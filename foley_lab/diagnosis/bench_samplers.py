"""What a step buys: `foley-lab bench samplers`.

Held-out clips of the clean split, four seconds each, get their sound from the picture alone with
every sampler at 1 to 64 steps; then schedules, kinds of guidance and step caches are compared where
they matter. Each row says

    price     network calls, velocities computed, blocks run, milliseconds on this machine
    quality   sync F1 at 20 and 40 ms, materials named right; log-mel and multi-resolution STFT
              distance to the true sound
    error     the same distances to the sound of 128 calls (ab2, shift 3) from the same noise

The baseline is Euler with 50 steps and guidance, as diffusion is run in the field; `verdict` holds
every row against it. Quality is measured in batches, in as many processes as there are free cores,
and kept clip by clip, so that an interrupted run goes on; milliseconds are measured apart, one clip
at a time, all rows in turn, the median of the rounds.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from foley_lab.diagnosis.bench_sync import FIRST_SEED, evaluation_set
from foley_lab.evaluation.score import score_clip
from foley_lab.evaluation.spectral import log_mel_l1, mr_stft
from foley_lab.generators.step_cache import StepCache
from foley_lab.media import read_audio
from foley_lab.pipeline.lab import Lab, Options, joined
from foley_lab.samplers import SAMPLERS
from foley_lab.samplers.guidance import GUIDANCES
from foley_lab.signals import EventLog, Features
from foley_lab.weights import SHIPPED

Sound = NDArray[np.float32]

STEPS = (1, 2, 4, 8, 16, 32, 64)
OPTIMAL_STEPS = (3, 4, 5, 6, 8, 10, 12, 16)
BASELINE_STEPS = 50
TOGETHER = 5
"""Clips in one batch."""
CLOSE_F1, CLOSE_STFT = 0.01, 1.03
"""Within so much of the baseline counts as its equal: points of F1 at 40 ms, ratio of distances."""
RESAMPLED = 1000


@dataclass(frozen=True)
class Choice:
    """A row: how the generator is run.

    Attributes:
        part: Of the table: "samplers", "schedules", "guidance", "caches" or "baseline".
        sampler, num_steps, schedule, guidance, guidance_scale: As of `Lab`; None is the model's.
        step_cache: Its name, or None.
        cache_option: The number that says how much it spares.
    """

    part: str
    sampler: str
    num_steps: int
    schedule: str | float = "uniform"
    guidance: str = "plain"
    guidance_scale: float | None = None
    step_cache: str | None = None
    cache_option: float | None = None

    def options(self, lab: Lab) -> dict[str, Any]:
        """For `FlowGenerator.sample`."""
        scale = lab.defaults.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return {
            "num_steps": self.num_steps,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "guidance": self.guidance,
            "guidance_scale": scale,
            "step_cache": self._cache(),
        }

    def _cache(self) -> StepCache | None:
        if self.step_cache is None:
            return None
        name = "interval" if self.step_cache == "taylorseer" else "threshold"
        value = int(self.cache_option or 1) if name == "interval" else self.cache_option
        return StepCache.named(self.step_cache, **{name: value})


REFERENCE = Choice("reference", "ab2", 128, 3.0)
"""With equal steps 128 calls end 1.7 % from a far finer solution, with these .3 % (latents)."""
BASELINE = Choice("baseline", "euler", BASELINE_STEPS)
SWEPT = {
    "first_block": (0.05, 0.1, 0.2, 0.4),
    "taylorseer": (2, 3, 4),
    "magcache": (0.06, 0.2, 0.5),
}
"""How much the step caches may spare."""


def choices(steps: Sequence[int] = STEPS, tuned: str = "ab2") -> list[Choice]:
    """All rows of the table.

    Args:
        steps: Of the samplers.
        tuned: The sampler that guidance and caches are shown with.
    """
    rows = [BASELINE]
    rows += [Choice("samplers", s, n) for s in SAMPLERS for n in steps]
    rows += [
        Choice("schedules", s, n, schedule)
        for s in ("euler", tuned)
        for schedule in ("cosine", 2.0, 4.0)
        for n in (4, 8, 16)
    ]
    rows += [Choice("schedules", s, n, "optimal") for s in ("euler", tuned) for n in OPTIMAL_STEPS]
    for n in (8, 16):
        at = Choice("guidance", tuned, n, "optimal")
        rows += [replace(at, guidance=g) for g in GUIDANCES if g != "plain"]
        rows += [replace(at, guidance_scale=g) for g in (1.0, 1.5, 2.0, 4.0)]
    for n in (16, 32):
        rows += [
            Choice("caches", tuned, n, step_cache=name, cache_option=float(value))
            for name, values in SWEPT.items()
            for value in values
        ]
    return rows


def bench_samplers(
    count: int = 50,
    first_seed: int | None = None,
    split: str = "clean",
    lab: Lab | None = None,
    rows: Sequence[Choice] | None = None,
    seconds: float = 4.0,
    size: tuple[int, int] = (640, 360),
    rounds: int = 5,
    cache_dir: Path | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The table.

    Args:
        count, first_seed, split, seconds, size: Of the clips; None takes the seeds of `bench sync`.
        lab: A model to be measured in this process; default the shipped one, in as many processes
            as there are free cores.
        rows: Rows to measure, the baseline among them; default `choices()`.
        rounds: Timed runs of every row.
        cache_dir: Where clips and finished measurements are kept, default `~/.cache/foley_lab`.

    Returns:
        clips, seconds, reference, rows (see above) and verdict: the rows that equal the baseline
        within a point of F1 at 40 ms and 3 % of MR-STFT to the true sound, the cheapest first.
    """
    above = cache_dir or Path("~/.cache/foley_lab").expanduser()
    first = FIRST_SEED["test"] if first_seed is None else first_seed
    films = evaluation_set(count, first, split, seconds, size, above / "sync")
    table = list(rows or choices())
    groups = [films[i : i + TOGETHER] for i in range(0, count, TOGETHER)]
    numbers = [list(range(i, min(i + TOGETHER, count))) for i in range(0, count, TOGETHER)]
    kept = above / "samplers" / _digest(table, split, first, seconds, lab)
    with tqdm(total=len(groups), unit="batch", file=sys.stderr, disable=None) as bar:
        if lab is not None:
            heard = [
                _measure(lab, *each, first, table) for each in zip(groups, numbers, strict=True)
            ]
        else:
            heard = []
            jobs = [(g, n, first, table, kept) for g, n in zip(groups, numbers, strict=True)]
            workers = max(1, min(len(jobs), torch.get_num_threads()))
            # A fork would inherit the locks of this process's threads.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                for measured in pool.map(_measured, jobs):
                    heard.append(measured)
                    bar.update()
    from foley_lab.pipeline.presets import load

    lab = lab or load("small")
    prices, decode_ms = _prices(lab, films[: min(3, count)], first, table, rounds)
    clips = [[clip for batch in heard for clip in batch[k]] for k in range(len(table))]
    lines = []
    for k, choice in enumerate(table):
        lines.append(
            {n: v for n, v in asdict(choice).items() if n != "guidance_scale"}
            | {"guidance_scale": choice.options(lab)["guidance_scale"]}
            | prices[k]
            | _pooled(clips[k])
            | {"real_time_factor": prices[k]["milliseconds"] / 1000 / seconds}
        )
    return {
        "clips": count,
        "seconds": seconds,
        "split": split,
        "first_seed": first,
        "device": str(lab.device),
        "dtype": str(lab.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "reference": asdict(REFERENCE),
        "decode_ms": round(decode_ms, 1),
        "rows": [
            {n: round(v, 4) if isinstance(v, float) else v for n, v in r.items()} for r in lines
        ],
        "verdict": _verdict(lines, clips, table.index(BASELINE)),
    }


# ------------------------------------------------------------------------------------------ quality


def _measured(job: tuple[list[Path], list[int], int, list[Choice], Path]) -> list[list[dict]]:
    """`_measure` in a process of its own; done before, it is read."""
    films, numbers, first, table, kept = job
    file = kept / f"{numbers[0]:04d}.json"
    if file.is_file():
        return json.loads(file.read_text("utf-8"))
    torch.set_num_threads(1)
    from foley_lab.pipeline.presets import load

    found = _measure(load("small"), films, numbers, first, table)
    kept.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    os.replace(part, file)
    return found


def _measure(
    lab: Lab, films: Sequence[Path], numbers: Sequence[int], first: int, table: Sequence[Choice]
) -> list[list[dict[str, Any]]]:
    """By row and clip: counts of events and the distances."""
    logs = [EventLog.from_json(film.with_suffix(".json").read_text("utf-8")) for film in films]
    truths = [read_audio(film.with_suffix(".wav"), mono=True).samples[0].numpy() for film in films]
    clips = [_seen(lab, film) for film in films]
    seeds = [first + number for number in numbers]
    reference = _sounds(lab, clips, seeds, REFERENCE)
    rows = []
    for choice in table:
        sounds = _sounds(lab, clips, seeds, choice)
        rows.append(
            [
                {
                    **_events(sound, log),
                    "mr_stft_to_truth": mr_stft(sound, truth)[0],
                    "log_mel_to_truth": log_mel_l1(sound, truth),
                    "mr_stft_to_reference": mr_stft(sound, goal)[0],
                    "log_mel_to_reference": log_mel_l1(sound, goal),
                }
                for sound, log, truth, goal in zip(sounds, logs, truths, reference, strict=True)
            ]
        )
    return rows


def _events(sound: Sound, log: EventLog) -> dict[str, float]:
    """What the clip adds to F1 at 20 and 40 ms and to the share of materials named right."""
    score = score_clip(sound, log)
    counts = score.counts
    found: dict[str, float] = {"true": counts.true, "judged": score.judged, "named": score.named}
    for tolerance in (0.02, 0.04):
        ms = f"{1000 * tolerance:.0f}"
        found |= {f"hits_{ms}": counts.hits[tolerance], f"false_{ms}": counts.false[tolerance]}
    return found


def _f1(clips: Sequence[dict[str, Any]], ms: str) -> float:
    hits, false = (sum(clip[f"{n}_{ms}"] for clip in clips) for n in ("hits", "false"))
    return 2 * hits / max(1e-9, hits + false + sum(clip["true"] for clip in clips))


def _seen(lab: Lab, film: Path) -> Features:
    """What the model sees, without words."""
    return lab.encode(lab.read(film), Options("", None, 1, 1.0, "euler", "", "flow", 0, 1))


def _sounds(
    lab: Lab, clips: Sequence[Features], seeds: Sequence[int], choice: Choice
) -> list[Sound]:
    """Of all clips together; under a step cache, which decides for a batch, each alone."""
    alone = choice.step_cache is not None
    batches = [[k] for k in range(len(clips))] if alone else [list(range(len(clips)))]
    sounds: list[Sound] = []
    for batch in batches:
        features = joined([clips[k] for k in batch])
        latents = lab.generator.generate(
            features, seeds=[seeds[k] for k in batch], **choice.options(lab)
        )
        sounds += [_decoded(lab, each[None], features.duration_s) for each in latents]
    return sounds


def _decoded(lab: Lab, latents: torch.Tensor, duration_s: float) -> Sound:
    return lab.decode(latents, duration_s).samples.mean(0).numpy()


def _pooled(clips: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    means = {n: float(np.mean([c[n] for c in clips])) for n in clips[0] if "_to_" in n}
    judged, named = (sum(clip[n] for clip in clips) for n in ("judged", "named"))
    material = named / judged if judged else None
    return {"f1_20": _f1(clips, "20"), "f1_40": _f1(clips, "40"), "material": material} | means


# -------------------------------------------------------------------------------------------- price


def _prices(
    lab: Lab, films: Sequence[Path], first: int, table: Sequence[Choice], rounds: int
) -> tuple[list[dict[str, Any]], float]:
    """Calls and milliseconds of generating one clip by row, and of decoding one."""
    clips = [_seen(lab, film) for film in films]
    spent: list[list[float]] = [[] for _ in table]
    decoding: list[float] = []
    facts: list[dict[str, Any]] = []
    for number in tqdm(range(rounds + 1), unit="round", file=sys.stderr, disable=None):
        features = clips[number % len(clips)]
        facts = []
        for k, choice in enumerate(table):
            began = _now(lab)
            made = lab.generator.sample(features, seeds=first, **choice.options(lab))
            spent[k].append(1000 * (_now(lab) - began))
            facts.append(
                {
                    "network_calls": made.network_calls,
                    "evaluations": made.evaluations,
                    "blocks_run": made.blocks_run,
                }
            )
            if choice == BASELINE:
                began = _now(lab)
                _decoded(lab, made.latents, features.duration_s)
                decoding.append(1000 * (_now(lab) - began))
    # The first round warms up.
    times = [{"milliseconds": statistics.median(each[1:] or each)} for each in spent]
    return [a | b for a, b in zip(facts, times, strict=True)], statistics.median(decoding)


def _now(lab: Lab) -> float:
    if lab.device.type == "cuda":
        torch.cuda.synchronize(lab.device)
    return time.perf_counter()


# ------------------------------------------------------------------------------------------ verdict


def _verdict(
    lines: Sequence[dict[str, Any]], clips: Sequence[Sequence[dict[str, Any]]], base: int
) -> dict[str, Any]:
    """The rows that equal the baseline, the cheapest first."""
    wanted, equal = lines[base], []
    for k, line in enumerate(lines):
        ratio = line["mr_stft_to_truth"] / wanted["mr_stft_to_truth"]
        more = line["f1_40"] - wanted["f1_40"]
        if k != base and more >= -CLOSE_F1 and ratio <= CLOSE_STFT:
            found = {
                "times_faster": round(wanted["milliseconds"] / line["milliseconds"], 2),
                "f1_40_difference": round(more, 4),
                "f1_40_difference_90": _difference(clips[k], clips[base]),
                "mr_stft_ratio": round(ratio, 4),
            }
            names = [n for n in line if n in Choice.__dataclass_fields__ or n == "network_calls"]
            equal.append({n: line[n] for n in names} | found)
    equal.sort(key=lambda row: -row["times_faster"])
    known = {n: wanted[n] for n in ("sampler", "num_steps", "guidance_scale", "milliseconds")}
    return {"baseline": known, "equal": equal}


def _difference(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """Bounds of the difference of F1 at 40 ms that 90 % of resampled sets of clips stay within."""
    found = []
    for chosen in np.random.default_rng(0).integers(len(ours), size=(RESAMPLED, len(ours))):
        first, second = ([each[k] for k in chosen] for each in (ours, theirs))
        found.append(_f1(first, "40") - _f1(second, "40"))
    low, high = np.quantile(found, (0.05, 0.95))
    return round(float(low), 4), round(float(high), 4)


def _digest(
    table: Sequence[Choice], split: str, first: int, seconds: float, lab: Lab | None
) -> str:
    """Of what the measurements rest on."""
    weights = (SHIPPED / "manifest.json").read_text("utf-8") if lab is None else ""
    text = json.dumps([[asdict(c) for c in table], split, first, seconds, weights])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
