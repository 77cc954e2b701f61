"""Finds where a sampler's few steps should stand: `foley-lab train schedule`.

A teacher (Heun, `points` steps) takes some clips from noise to sound under the model's own
guidance; the times of `samplers.schedules.search_schedules` follow from its states. The table
belongs to the model: it lies beside the weights and answers to `schedule="optimal"`.

    foley-lab train schedule                           for the small model, on clips of the world
    foley-lab train schedule --base xl --data films    for another, on films of your own

Clips of the world are played from their logs, as the eyes would see them at best, every second one
with its words. The search takes about two thirds of N · n calls of the network for N points and n
steps, for samplers of first and of second order each.

Of the small model, whose table ships with the package, it writes `.runs/schedule/schedules.json`;
its times can be handed over as they are, `lab(..., schedule=table["2"]["8"])`. With few points it
may end worse than even times: look at the figures it prints.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from foley_lab.generators.diffusion import make_noise
from foley_lab.media.writing import FILM_FILES
from foley_lab.pipeline.lab import MAX_GUIDANCE, Lab, Options, joined
from foley_lab.pipeline.presets import load
from foley_lab.samplers import sample
from foley_lab.samplers.guidance import check_guidance
from foley_lab.samplers.schedules import search_schedules, times
from foley_lab.signals import Features, Video
from foley_lab.synthetic.scenes import make_scene
from foley_lab.training.clips import FIRST_SEED
from foley_lab.weights import schedules_path

ORDERS = {1: "euler", 2: "ab2"}


@dataclass(frozen=True)
class ScheduleSearch:
    """What is searched.

    Attributes:
        base: Model, "small", "xl" or "xxl".
        data: Folder of films; None for clips of the world.
        clips: How many.
        seconds: Of each; films are cut or left out.
        points: Fine steps N of the teacher.
        shift: Of their times: the field bends near the noise, where the teacher must be fine.
        most_steps: Tables up to this number of steps.
        guidance_scale: None for the model's own.
        seed: Of the noise.
        out: File of the table; None puts it where the model finds it, for the small model, whose
            files ship with the package, into `.runs`.
    """

    base: str = "small"
    data: Path | None = None
    clips: int = 16
    seconds: float = 4.0
    points: int = 64
    shift: float = 3.0
    most_steps: int = 16
    guidance_scale: float | None = None
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.clips <= 256 or not 0 < self.seconds <= 600:
            raise ValueError(
                f"{self.clips} clips of {self.seconds} s, wanted 1 to 256 of up to 600 s"
            )
        if self.guidance_scale is not None:
            check_guidance("plain", self.guidance_scale, MAX_GUIDANCE)
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}, wanted 0 or more, e.g. 0")
        times(1, self.shift)
        if not 1 <= self.most_steps <= self.points <= 1000:
            raise ValueError(
                f"most_steps {self.most_steps} of {self.points} points, wanted at least 1 and no "
                "more steps than points, ask for fewer"
            )


def search(
    run: ScheduleSearch, lab: Lab | None = None, callback: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The table: by order and number of steps the times, and how it was found.

    Args:
        run: What is searched.
        lab: The model, default that of `run.base`.
        callback: Told (network calls done, in all) of each search.

    Raises:
        ValueError: If there is nothing to search on.
    """
    lab = lab or load(run.base)
    scale = lab.defaults.guidance_scale if run.guidance_scale is None else run.guidance_scale
    features = joined(_clips(run, lab))
    seeds = range(run.seed, run.seed + len(features.visual))
    length = lab.rates.num_latents(run.seconds)
    channels = lab.generator.transformer.config.audio_vae_latent_dim
    with torch.no_grad(), lab.at_work("generate"):
        velocity, _ = lab.generator.velocity(features, scale, latents_length=length)
        noise = make_noise(list(seeds), 1, (channels, length)).to(features.visual.device)
        clock = times(run.points, run.shift)
        states = [noise]
        sample(velocity, noise, "heun", run.points, clock, lambda p: states.append(p.latents))
        tables: dict[str, Any] = {}
        for order, sampler in ORDERS.items():
            found = search_schedules(velocity, states, clock, order, run.most_steps, callback)
            tables[str(order)] = {
                str(n): [round(t, 6) for t in best] for n, (best, _) in found.items()
            }
            tables[f"miss_{order}"] = {
                str(n): {
                    "optimal": round(miss, 4),
                    "uniform": round(_miss(velocity, noise, sampler, n, states[-1]), 4),
                }
                for n, (_, miss) in found.items()
            }
    about = {
        "base": lab.name,
        "clips": len(seeds),
        "seconds": run.seconds,
        "points": run.points,
        "shift": run.shift,
        "guidance_scale": scale,
        "command": f"foley-lab train schedule --base {lab.name}",
    }
    return about | tables


def _miss(velocity: Any, noise: Tensor, sampler: str, num_steps: int, wanted: Tensor) -> float:
    got = sample(velocity, noise, sampler, num_steps).latents
    return float((got - wanted).norm() / wanted.norm())


def _clips(run: ScheduleSearch, lab: Lab) -> list[Features]:
    options = Options("", None, 1, 1.0, "euler", "", "flow", 0, 1)
    if run.data is not None:
        return _films(run, lab, options)
    if not lab.encoder.plays_events:
        raise ValueError(
            f"no --data for {lab.name!r}, wanted a folder of films, only the small model plays logs"
        )
    seen = []
    for k in range(run.clips):
        log = make_scene(FIRST_SEED + 7_000_000 + k, run.seconds, off_screen=False).log
        words = replace(options, prompt=log.prompt if k % 2 else "", events=log)
        seen.append(lab.encode(Video(None, run.seconds, 0, 0, 25.0, {}), words))
    return seen


def _films(run: ScheduleSearch, lab: Lab, options: Options) -> list[Features]:
    assert run.data is not None
    if not run.data.is_dir():
        raise ValueError(f"data {run.data}, wanted a folder of films, correct the path")
    films = sorted(p for p in run.data.rglob("*") if p.suffix.lower() in FILM_FILES)
    seen: list[Features] = []
    for film in films:
        features = lab.encode(lab.read(film), options)
        if abs(features.duration_s - run.seconds) < 0.05:
            seen.append(features)
        if len(seen) == run.clips:
            break
    if not seen:
        raise ValueError(
            f"{len(films)} films in {run.data.name}, none of {run.seconds:g} s, wanted some of "
            "that length, cut them or give --seconds"
        )
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ScheduleSearch()
    parser.add_argument("--base", default=default.base, help="small, xl or xxl")
    parser.add_argument("--data", type=Path, help="folder of films (default: clips of the world)")
    parser.add_argument("--clips", type=int, default=default.clips, help="of the search, 16")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of each clip, 4")
    parser.add_argument("--points", type=int, default=default.points, help="of the teacher, 64")
    parser.add_argument("--shift", type=float, default=default.shift, help="of its times, 3")
    parser.add_argument(
        "--most-steps", type=int, default=default.most_steps, help="tables up to, 16"
    )
    parser.add_argument("--guidance-scale", type=float, help="default: its own")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the noise")
    parser.add_argument("--out", type=Path, default=default.out, metavar="FILE")
    run = ScheduleSearch(**vars(parser.parse_args()))
    with tqdm(unit="call", disable=None) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(1 if done > 1 else 1 - bar.n)

        found = search(run, callback=tell)
    out = run.out or (
        schedules_path(run.base)
        if run.base != "small"
        else Path(".runs") / "schedule" / "schedules.json"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    os.replace(part, out)
    for order, sampler in ORDERS.items():
        for n, miss in found[f"miss_{order}"].items():
            print(f"{sampler:6} {n:>3} steps   uniform {miss['uniform']:.3f}   "
                  f"optimal {miss['optimal']:.3f}")  # fmt: skip
    print(out)


if __name__ == "__main__":
    main()
