"""Training pictures: procedural clips rendered once at the encoder's size, kept as raw arrays, read
sequentially.

    python -m foley_lab.training.clips .runs/clips --count 4000 --workers 2

One shard is `NNNN.npy` (uint8 [clips, F, H, W, 3]) beside `NNNN.json` (the event logs, times in
seconds, and the frame rate of each clip). Seeds start at `FIRST_SEED`, far above any seed a user
types, so every clip of `world make` with a smaller seed is one the models never saw.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from foley_lab.signals import EventLog
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import Scene, make_scene

FIRST_SEED = 1 << 40
FRAMES, SIZE, SHARD = 100, 96, 50
UGLY_SHARE = 0.5
_RATES = (25.0, 50.0, 30.0, 20.0, 15.0, 12.5)
_RATE_SHARES = (0.6, 0.12, 0.1, 0.08, 0.06, 0.04)
_ASPECTS = (16 / 9, 4 / 3, 1.0, 9 / 16)
_ASPECT_SHARES = (0.5, 0.2, 0.15, 0.15)


def scene_of(seed: int, ugly: float = UGLY_SHARE) -> Scene:
    """The scene of a training seed, its log with the clip's frame rate.

    A clip that is clean at some share of ugly ones is clean at every smaller share too.
    """
    rng = np.random.default_rng([seed, 9])
    fps = float(rng.choice(_RATES, p=_RATE_SHARES))
    aspect = float(rng.choice(_ASPECTS, p=_ASPECT_SHARES))
    split = "ugly" if rng.random() < ugly else "clean"
    scene = make_scene(seed, FRAMES / fps, aspect=aspect, split=split, off_screen=False)
    scene.log.fps = fps
    return scene


def training_clip(seed: int, ugly: float = UGLY_SHARE) -> tuple[np.ndarray, EventLog]:
    """One clip: frames uint8 [F, H, W, 3] and its log."""
    scene = scene_of(seed, ugly)
    painter = Painter(scene, SIZE, SIZE)
    return np.stack(list(painter.frames(scene.log.fps, FRAMES))), scene.log


def make_shard(folder: Path, first_seed: int, ugly: float, index: int) -> None:
    """Render one shard unless it is already there."""
    target = folder / f"{index:04d}"
    if target.with_suffix(".json").exists():
        return
    import cv2

    cv2.setNumThreads(1)
    clips = [training_clip(first_seed + index * SHARD + k, ugly) for k in range(SHARD)]
    np.save(target.with_suffix(".part.npy"), np.stack([c[0] for c in clips]))
    os.replace(target.with_suffix(".part.npy"), target.with_suffix(".npy"))
    text = json.dumps([asdict(c[1]) for c in clips])
    target.with_suffix(".part.json").write_text(text)
    os.replace(target.with_suffix(".part.json"), target.with_suffix(".json"))


def make_all(make: Callable[[int], None], count: int, workers: int) -> None:
    """Call `make` with the index of each shard that `count` clips need, in `workers` processes."""
    shards = -(-count // SHARD)
    with ProcessPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(make, range(shards)), 1):
            print(f"{done}/{shards} shards", flush=True)


def load_shards(folder: Path, most: int = 3600) -> tuple[list[np.ndarray], list[EventLog]]:
    """Finished shards of at most `most` clips and their logs, in memory: a page cache forgets, 2.8
    MB a clip."""
    arrays, logs = [], []
    for path in sorted(folder.glob("[0-9]*.json"))[: most // SHARD]:
        if ".part" in path.name:
            continue
        arrays.append(np.load(path.with_suffix(".npy")))
        logs += [EventLog.from_json(json.dumps(raw)) for raw in json.loads(path.read_text())]
    return arrays, logs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ugly", type=float, default=UGLY_SHARE, help="share of ugly clips")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make = partial(make_shard, args.folder, args.first_seed, args.ugly)
    make_all(make, args.count, args.workers)


if __name__ == "__main__":
    main()
