"""The benchmarks behind the figures of the README: `foley-lab bench NAME`.

`small`: held-out clips of the procedural world, written as films and read back, so that everything
a user's film goes through is measured. Rows: the exact sound (what the detector can see at best),
the codec alone, the eyes alone, the generator alone (it plays the true events), and the generated
sound from the picture alone, with the right words, and with words that contradict the picture.

The other benchmarks have files of their own; what each does stands in `catalogue`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from foley_lab.diagnosis.bench_continuity import bench_continuity
from foley_lab.diagnosis.bench_injections import bench_injections
from foley_lab.diagnosis.bench_official import bench_official
from foley_lab.diagnosis.bench_response import bench_response
from foley_lab.diagnosis.bench_samplers import bench_samplers
from foley_lab.diagnosis.bench_sync import bench_sync
from foley_lab.diagnosis.bench_transformer import bench_transformer
from foley_lab.diagnosis.sounds import mono, through_codec
from foley_lab.diagnosis.truth import gate
from foley_lab.evaluation.material import load_judge
from foley_lab.evaluation.score import ClipScore, score_clip, summary
from foley_lab.evaluation.sync import EventCounts, count_events
from foley_lab.pipeline.lab import Lab
from foley_lab.pipeline.presets import load
from foley_lab.signals import MATERIALS, EventLog
from foley_lab.synthetic.dataset import make_clip
from foley_lab.synthetic.sounds import render_sound
from foley_lab.synthetic.words import contradiction, main_material


def bench_small(
    count: int = 100,
    first_seed: int = 0,
    seconds: float = 4.0,
    size: tuple[int, int] = (640, 360),
    split: str = "clean",
    lab: Lab | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores of the small model on clips it never saw.

    Args:
        count, first_seed: Clips with seeds `first_seed` ... ; trainings use seeds above 2**40 only.
        seconds, size, split: Of the clips.
        lab: The model, default the shipped one.
        options: Handed to the model (num_steps, guidance_scale, ...).

    Returns:
        Scores by row, each as of `foley-lab score` without the single clips; `words_decide` is the
        share of clips that sound in the material of the contradicting words, `seconds_per_clip` the
        median of a whole run.

    Raises:
        FoleyError: If the onset detector fails on exact sound.
    """
    gate()
    lab = lab or load("small")
    rows: dict[str, list[ClipScore]] = {}
    eyes = EventCounts()
    named, told, picture_named, durations = 0, 0, 0, []
    families: dict[str, list[ClipScore]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in tqdm(range(first_seed, first_seed + count), file=sys.stderr, disable=None):
            film = make_clip(Path(folder), "clip", seed, seconds=seconds, size=size, split=split)
            log = EventLog.from_json(film.with_suffix(".json").read_text())
            truth = render_sound(log)
            rng = np.random.default_rng([seed, 21])
            other, words = contradiction(log, rng)

            def keep(
                row: str, sound: np.ndarray, log: EventLog = log, truth: np.ndarray = truth
            ) -> None:
                rows.setdefault(row, []).append(score_clip(sound, log, truth))

            def run(
                prompt: str, events: EventLog | None = None, film: Path = film, seed: int = seed
            ) -> Any:
                return lab(film, prompt=prompt, seed=seed, events=events, **options)

            keep("exact sound", truth)
            keep("codec", through_codec(lab, truth))
            began = time.perf_counter()
            alone = run("")
            durations.append(time.perf_counter() - began)
            true = [e.time_s for e in log.events if not e.off_screen]
            lasting = [(c.start_s, c.end_s) for c in log.continuous]
            eyes += count_events(
                [e.time_s for e in alone.events], true, log.seconds, lasting=lasting
            )
            keep("true events", mono(run("", replace(log, prompt=""))))
            keep("picture alone", mono(alone))
            families.setdefault(log.family, []).append(rows["picture alone"][-1])
            keep("with words", mono(run(log.prompt)))
            if log.events or log.continuous:
                against = mono(run(words))
                score = score_clip(against, log.with_material(other), truth)
                rows.setdefault("against the picture", []).append(score)
                told += 1
                named += clip_material(against, log) == other
                picture_named += clip_material(mono(alone), log) == main_material(log)
    table: dict[str, Any] = {name: _short(summary(scores)) for name, scores in rows.items()}
    table["eyes alone"] = _short(eyes.scores())
    table["families"] = {
        name: {
            "clips": len(s),
            **{k: v for k, v in _short(summary(s)).items() if k in ("f1", "material_accuracy")},
        }
        for name, s in sorted(families.items())
    }
    return {
        "clips": count,
        "split": split,
        "first_seed": first_seed,
        "rows": table,
        "words_decide": named / max(1, told),
        "picture_decides": picture_named / max(1, told),
        "seconds_per_clip": float(np.median(durations)),
    }


def clip_material(sound: np.ndarray, log: EventLog) -> str | None:
    """The material a clip sounds in: the judge's most frequent answer over its true events and
    intervals."""
    times = [e.time_s for e in log.events if not e.off_screen]
    for each in log.continuous:
        times += np.arange(each.start_s + 0.1, each.end_s - 0.1, 0.25).tolist()
    answers = load_judge().name(sound, times) if times else []
    return max(MATERIALS, key=list(answers).count) if len(answers) else None


def _short(scores: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in scores.items() if k not in ("per_clip", "f1_chance_corrected")}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in kept.items()}


BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "small": bench_small,
    "sync": bench_sync,
    "response": bench_response,
    "continuity": bench_continuity,
    "injections": bench_injections,
    "samplers": bench_samplers,
    "transformer": lambda count=5, **_: bench_transformer(count),  # no clips, so no seeds, no split
    "official": lambda count=3, **_: bench_official(count),
}
