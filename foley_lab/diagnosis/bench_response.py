"""Does the sound answer to its causes: `foley-lab bench response`.

Counterfactual pairs of the world (`synthetic.pairs`) differ in one factor and in no time. Each row
plays both clips of a pair, and what differs between its two sounds is compared with what differs
between the two exact ones (`evaluation.response`):

    exact sound            has to reach sign_accuracy 1 and effect_ratio 1: a test of the measure
    codec                  the exact sound through the codec
    true events            the small model, which is told the events of either clip and no words
    true events and words  and their prompts

What the model is told of an event is its time, kind, material and strength. Size and surface are
not among it, and the picture differs for material and surface alone, so the table shows as well
what the model cannot know.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from foley_lab.diagnosis.sounds import mono, through_codec
from foley_lab.evaluation.response import response, response_scores, strength_response
from foley_lab.pipeline.lab import Lab
from foley_lab.pipeline.presets import load
from foley_lab.signals import EventLog
from foley_lab.synthetic.dataset import make_pairs
from foley_lab.synthetic.pairs import FACTORS
from foley_lab.synthetic.sounds import render_sound

Sound = NDArray[np.float32]
Play = Callable[[Path, EventLog], Sound]

FIRST_SEED = 45_000
FAMILIES = ("bounce", "footsteps", "machine", "pendulum", "bell", "tumble")
"""Of the pairs, in turn: blows are heard one by one, on surfaces that sound nowhere else."""


def bench_response(
    count: int = 12,
    first_seed: int = FIRST_SEED,
    split: str = "clean",
    lab: Lab | None = None,
    seconds: float = 4.0,
    size: tuple[int, int] = (320, 180),
) -> dict[str, Any]:
    """The rows above.

    Args:
        count: Pairs per factor.
        first_seed: Of the pairs; a seed whose clip lacks the factor is passed over.
        split: "clean" or "ugly".
        lab: The model, default the shipped one.
        seconds, size: Of the clips.

    Returns:
        pairs (per factor), split, first_seed; rows, by row and factor: strength_response, the mean
        rank correlation of strength and energy within the clips, and by property of
        `evaluation.response` pairs with an effect, sign_accuracy and effect_ratio.
    """
    model = lab or load("small")

    def told(film: Path, log: EventLog, words: str) -> Sound:
        # Both of a pair start from one noise: what differs comes from what the model was told.
        return mono(model(film, prompt=words, events=replace(log, prompt=""), seed=log.seed))

    plays: dict[str, Play] = {
        "exact sound": lambda film, log: render_sound(log),
        "codec": lambda film, log: through_codec(model, render_sound(log)),
        "true events": lambda film, log: told(film, log, ""),
        "true events and words": lambda film, log: told(film, log, log.prompt),
    }
    rows: dict[str, dict[str, Any]] = {name: {} for name in plays}
    with tqdm(total=len(FACTORS) * count, file=sys.stderr, disable=None) as bar:
        for factor in FACTORS:
            bar.set_description_str(factor)
            answers: dict[str, list[dict[str, float | None]]] = {name: [] for name in plays}
            ranks: dict[str, list[float | None]] = {name: [] for name in plays}
            with tempfile.TemporaryDirectory() as folder:
                pairs = make_pairs(
                    Path(folder), count, first_seed, factor, seconds=seconds, families=FAMILIES,
                    size=size, fps=25.0, split=split,
                )  # fmt: skip
                for films in pairs:
                    logs = [EventLog.read(film.with_suffix(".json")) for film in films]
                    for name, play in plays.items():
                        a, b = (play(film, log) for film, log in zip(films, logs, strict=True))
                        answers[name].append(response(a, logs[0], b, logs[1]))
                        ranks[name].append(_rank(a, logs[0]))
                    bar.update()
            for name in plays:
                scores = response_scores(answers[name], answers["exact sound"])
                known = [rank for rank in ranks[name] if rank is not None]
                strength = float(np.mean(known)) if known else None
                rows[name][factor] = {"strength_response": strength} | scores
    return {"pairs": count, "split": split, "first_seed": first_seed, "rows": rows}


def _rank(sound: Sound, log: EventLog) -> float | None:
    """`strength_response` of the blows that can be seen."""
    seen = [e for e in log.events if not e.off_screen]
    return strength_response(sound, [e.time_s for e in seen], [e.strength for e in seen])
