"""How the eyes are trained: procedural clips in, the event log as the target.

    python -m foley_lab.training.clips .runs/clips --count 4500 --workers 2
    python -m foley_lab.training.clips .runs/heldout --count 150 --first-seed 5000
    python -m foley_lab.training.encoder --minutes 60

The plain world comes first, the rough one is blended in. Windows of 32 frames, mirrored, shifted,
re-lit; in a share of them the colour channels are exchanged, inverted or greyed, and there the
material is not asked for. Score: mean of F1 at 20 and 40 ms on held-out seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foley_lab.encoders.tiny import BINS, TinyConfig, TinyEyes, find_peaks
from foley_lab.evaluation.sync import match_events
from foley_lab.signals import KINDS, MATERIALS, EventLog
from foley_lab.synthetic.scenes import FAMILIES, Body, Scene
from foley_lab.training.clips import FRAMES, SIZE, load_shards, scene_of
from foley_lab.training.loop import Run, parse_run, train
from foley_lab.weights import SHIPPED, save_shards

BATCH, WINDOW = 16, 32
SIGMA = 0.3  # width of a target in frames: 12 ms at 25 fps
IGNORE = -100
SIDE = 8  # places of the material map per row


class Targets:
    """The logs as arrays over frames, once per clip."""

    def __init__(self, logs: Sequence[EventLog], frames: int = FRAMES) -> None:
        n = len(logs)
        self.heat = np.zeros((n, frames, BINS), np.float32)
        self.strength = np.full((n, frames), -1, np.float32)
        self.kind = np.full((n, frames), IGNORE, np.int64)
        self.material = np.full((n, frames), IGNORE, np.int64)
        self.motion = np.zeros((n, frames, 2), np.float32)
        self.whole = np.full(n, IGNORE, np.int64)
        self.family = np.array([list(FAMILIES).index(log.family) for log in logs], np.int64)
        bins = np.arange(frames * BINS) / BINS
        for i, log in enumerate(logs):
            for event in log.events:
                at = event.time_s * log.fps
                bump = np.exp(-0.5 * ((bins - at) / SIGMA) ** 2).reshape(frames, BINS)
                self.heat[i] = np.maximum(self.heat[i], bump)
                near = slice(max(0, int(at)), min(frames, int(at) + 2))
                self.strength[i, near] = event.strength
                self.kind[i, near] = KINDS.index(event.kind)
                self.material[i, near] = MATERIALS.index(event.material)
            for part in log.continuous:
                t = np.arange(frames) / log.fps
                inside = (t >= part.start_s) & (t <= part.end_s)
                speed = part.speed or (1.0, 1.0)
                at = np.linspace(part.start_s, part.end_s, len(speed))
                value = np.interp(t, at, speed) * inside
                self.motion[i, :, 0 if part.kind == "scrape" else 1] = value
                moving = inside & (value > 0.05) & (self.material[i] == IGNORE)
                self.material[i][moving] = MATERIALS.index(part.material)
            sounding = [e.material for e in log.events] + [c.material for c in log.continuous]
            if sounding:
                self.whole[i] = MATERIALS.index(max(sorted(set(sounding)), key=sounding.count))


class Places:
    """Where the sounding bodies are in each frame of the clean clips, drawn anew from the clips'
    seeds.

    Attributes:
        boxes: Centre and half size in pixels [clips, K, F, 4]; half size 0 is no body.
        material: Index into `MATERIALS` [clips, K].
        known: Clips that have boxes [clips]; rough ones move their camera and have none.
    """

    MOST = 3

    def __init__(self, logs: Sequence[EventLog], size: int = SIZE) -> None:
        n = len(logs)
        self.boxes = np.zeros((n, self.MOST, FRAMES, 4), np.float32)
        self.material = np.full((n, self.MOST), len(MATERIALS), np.int64)
        self.known = np.zeros(n, bool)
        for i, log in enumerate(logs):
            if log.split == "clean":
                self.known[i] = True
                self._place(i, scene_of(log.seed, 0.0), size)

    def _place(self, i: int, scene: Scene, size: int) -> None:
        log = scene.log
        scale = np.array([size / scene.aspect, size], np.float32)
        materials = [*[e.material for e in log.events], *[c.material for c in log.continuous]]
        wanted = sorted(set(materials), key=materials.count, reverse=True)[: self.MOST]
        for k, material in enumerate(wanted):
            self.material[i, k] = MATERIALS.index(material)
            if log.family in ("footsteps", "drops"):  # the ground sounds
                top = scene.floor_y or 1.0
                self.boxes[i, k] = (size / 2, size * (1 + top) / 2, size / 2, size * (1 - top) / 2)
                continue
            bodies = [b for b in scene.bodies if b.heard and b.material == material]
            points = [(e.x, e.y) for e in log.events if e.material == material]
            if not bodies:
                continue
            body = min(bodies, key=lambda b: self._distance(b, log, material, scene.aspect, points))
            for f in range(FRAMES):
                at = body.at(f / log.fps)
                self.boxes[i, k, f, :2] = at[:2] * scale
            self.boxes[i, k, :, 2:] = np.array([body.width, body.height], np.float32) * scale / 2

    @staticmethod
    def _distance(body: Body, log: EventLog, material: str, aspect: float, points: list) -> float:
        times = [e.time_s for e in log.events if e.material == material]
        at = [body.at(t)[:2] for t in times]
        return sum(
            float(np.hypot(a[0] - (x or 0) * aspect, a[1] - (y or 0)))
            for a, (x, y) in zip(at, points, strict=True)
        )

    def labels(
        self, i: int, cut: slice, mirrored: bool, shift: tuple[int, int], side: int
    ) -> np.ndarray:
        """Material index at each place, row by row [frames, side * side]; IGNORE where nothing is
        known."""
        frames = cut.stop - cut.start
        if not self.known[i]:
            return np.full((frames, side * side), IGNORE, np.int64)
        centre = (np.arange(side, dtype=np.float32) + 0.5) * SIZE / side
        x, y = np.meshgrid(centre, centre)
        out = np.full((frames, side, side), len(MATERIALS), np.int64)
        for k in reversed(range(self.MOST)):
            cx, cy, hw, hh = np.moveaxis(self.boxes[i, k, cut], -1, 0)[..., None, None]
            cx = (SIZE - cx if mirrored else cx) + shift[1]
            inside = (np.abs(x - cx) < np.maximum(hw * 0.9, (hw > 0) * 5)) & (
                np.abs(y - cy - shift[0]) < np.maximum(hh * 0.9, (hh > 0) * 5)
            )
            out[inside] = self.material[i, k]
        return out.reshape(frames, -1)


class Batches:
    """Random augmented windows of the rendered clips."""

    def __init__(self, folder: Path, places: bool = True) -> None:
        self.arrays, self.logs = load_shards(folder)
        if not self.logs:
            raise ValueError(
                f"no clips in {folder}, wanted shards, "
                f"run `python -m foley_lab.training.clips {folder}`"
            )
        self.place = [(a, k) for a in range(len(self.arrays)) for k in range(len(self.arrays[a]))]
        self.targets = Targets(self.logs)
        self.places = Places(self.logs if places else [])
        self.clean = np.array([i for i, log in enumerate(self.logs) if log.split == "clean"])

    def draw(
        self, rng: np.random.Generator, rough: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames uint8 [B, F, H, W, 3] and targets; a share `1 - rough` comes from clean clips
        only."""
        t = self.targets
        frames, rows = [], []
        for i in rng.integers(len(self.place), size=BATCH):
            if rng.random() >= rough:
                i = rng.choice(self.clean)
            shard, k = self.place[i]
            s = int(rng.integers(FRAMES - WINDOW + 1))
            clip = np.asarray(self.arrays[shard][k, s : s + WINDOW])
            clip, colour_kept, mirrored, shift = augment(clip, rng)
            frames.append(clip)
            cut = slice(s, s + WINDOW)
            lost = np.int64(IGNORE)
            rows.append(
                {
                    "heat": t.heat[i, cut],
                    "strength": t.strength[i, cut],
                    "kind": t.kind[i, cut],
                    "material": t.material[i, cut] if colour_kept else np.full(WINDOW, lost),
                    "motion": t.motion[i, cut],
                    "whole": t.whole[i] if colour_kept else lost,
                    "family": t.family[i],
                    "where": self.places.labels(i, cut, mirrored, shift, SIDE)
                    if colour_kept
                    else np.full((WINDOW, SIDE * SIDE), lost),
                }
            )
        target = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
        return torch.from_numpy(np.stack(frames)), target


def augment(
    clip: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, bool, bool, tuple[int, int]]:
    """Mirror, shift, re-light, sometimes break the colours.

    Returns:
        The clip, whether colours still mean materials, whether it is mirrored, its shift (down,
        right) in pixels.
    """
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        clip = clip[:, :, ::-1]
    dy, dx = rng.integers(-8, 9, 2)
    if dy or dx:  # what moves in is grey
        h, w = clip.shape[1:3]
        moved = np.full_like(clip, 128)
        to, at = np.maximum((dy, dx), 0), np.maximum((-dy, -dx), 0)
        moved[:, to[0] : h - at[0], to[1] : w - at[1]] = clip[
            :, at[0] : h - to[0], at[1] : w - to[1]
        ]
        clip = moved
    kept = True
    if rng.random() < 0.2:
        kept = False
        what = rng.integers(3)
        if what == 0:
            clip = clip[..., rng.permutation(3)]
        elif what == 1:
            clip = 255 - clip
        else:
            clip = np.repeat(clip[..., rng.integers(3)][..., None], 3, -1)
    if rng.random() < 0.5:
        gain, lift = rng.uniform(0.7, 1.3), rng.uniform(-20, 20)
        table = np.clip(np.arange(256) * gain + lift, 0, 255).astype(np.uint8)
        clip = table[clip]
    return np.ascontiguousarray(clip), kept, mirrored, (int(dy), int(dx))


def losses(out: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weighted sum and its parts."""
    heat = F.binary_cross_entropy_with_logits(out["heat"], target["heat"])
    has = target["strength"] >= 0
    strength = (
        F.mse_loss(out["strength"].sigmoid()[has], target["strength"][has])
        if has.any()
        else heat * 0
    )
    kind = _ce(out["kind"], target["kind"])
    material = _ce(out["material"], target["material"])
    # most frames are still: unweighted, the head learns to say so of every frame
    moving = 1 + 9 * (target["motion"] > 0.02).float()
    motion = (moving * (out["motion"].sigmoid() - target["motion"]) ** 2).mean()
    n = len(MATERIALS)
    frames = out["whole"].shape[1]
    whole = _ce(out["whole"][..., :n], target["whole"][:, None].expand(-1, frames))
    family = _ce(out["whole"][..., n:], target["family"][:, None].expand(-1, frames))
    weight = torch.ones(n + 1)
    weight[n] = 0.1  # most places are silent
    at_place = target["where"]
    where = heat * 0
    if (at_place != IGNORE).any():
        where = F.cross_entropy(
            out["where"].flatten(0, 2), at_place.flatten(), weight=weight, ignore_index=IGNORE
        )
    total = (
        where
        + 6 * heat
        + strength
        + 0.2 * kind
        + 1.0 * material
        + 5 * motion
        + 0.6 * whole
        + 0.1 * family
    )
    return {
        "loss": total, "heat": heat, "material": material, "whole": whole, "kind": kind,
        "motion": motion, "family": family, "where": where,
    }  # fmt: skip


def _ce(logits: Tensor, target: Tensor) -> Tensor:
    if not (target != IGNORE).any():
        return logits.sum() * 0
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)


@torch.no_grad()
def evaluate(model: TinyEyes, held: Batches, limit: int = 150) -> dict[str, float]:
    """F1 on whole held-out clips at the best of a few thresholds, and material accuracy of the
    content stream."""
    heats, right, named, right_at, named_at = [], 0, 0, 0, 0
    for i in range(min(limit, len(held.logs))):
        shard, k = held.place[i]
        with torch.autocast("cpu", torch.bfloat16):
            out = model(torch.from_numpy(np.array(held.arrays[shard][k]))[None])
        heats.append(out["heat"][0].sigmoid())
        n, truth = len(MATERIALS), held.targets.whole[i]
        if truth != IGNORE:
            named += 1
            right += int(out["whole"][0, :, :n].softmax(-1).mean(0).argmax()) == truth
        at = torch.from_numpy(held.targets.material[i])
        sure = at != IGNORE
        named_at += int(sure.sum())
        right_at += int((out["material"][0].argmax(-1)[sure] == at[sure]).sum())
    best: dict[str, float] = {"score": -1.0}
    for threshold in (0.2, 0.3, 0.4, 0.5):
        hits = {0.02: 0, 0.04: 0}
        found_n = true_n = 0
        errors: list[float] = []
        for heat, log in zip(heats, held.logs, strict=False):
            found = (find_peaks(heat, threshold, 0.045 * log.fps * BINS)[0] / log.fps).numpy()
            true = np.array([e.time_s for e in log.events])
            found_n, true_n = found_n + len(found), true_n + len(true)
            for tolerance in hits:
                pairs = match_events(found, true, tolerance)
                hits[tolerance] += len(pairs)
                if tolerance == 0.04:
                    errors += [abs(found[a] - true[b]) for a, b in pairs]
        f1 = {t: 2 * h / max(1, found_n + true_n) for t, h in hits.items()}
        score = (f1[0.02] + f1[0.04]) / 2
        if score > best["score"]:
            best = {
                "score": score, "f1_20": f1[0.02], "f1_40": f1[0.04], "threshold": threshold,
                "precision_40": hits[0.04] / max(1, found_n),
                "recall_40": hits[0.04] / max(1, true_n),
                "mae_ms": 1000 * float(np.mean(errors)) if errors else float("nan"),
            }  # fmt: skip
    return best | {
        "whole_material": right / max(1, named),
        "event_material": right_at / max(1, named_at),
    }


def main(argv: Sequence[str] | None = None) -> None:
    run = parse_run(
        Run("encoder", minutes=60, ema_decay=0.998, warmup_steps=200, evaluate_every_s=420),
        __doc__ or "",
        argv,
    )
    torch.set_num_threads(1)
    data, held = (
        Batches(Path(run.root) / "clips"),
        Batches(Path(run.root) / "heldout", places=False),
    )
    torch.manual_seed(run.seed)
    model = TinyEyes(TinyConfig(families=len(FAMILIES)))
    start = run.folder / "init.pt"  # weights of an earlier run to begin with, where they fit
    if start.exists():
        known = torch.load(start, map_location="cpu", weights_only=True)["ema"]
        print("new:", sorted(model.load_state_dict(known, strict=False).missing_keys), flush=True)
    rate = 7e-4 if start.exists() else 1.5e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.02)

    def step(number: int) -> dict[str, Tensor]:
        # a beginner learns nothing from rough clips; who has learnt before takes all at once
        rough = 1.0 if start.exists() else min(1.0, max(0.0, number / 1000 - 0.5))
        frames, target = data.draw(run.rng(number), rough)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(frames)
        return losses(out, target)

    state = train(
        run, model, optimizer, step, lambda: evaluate(model, held), model.config.as_dict()
    )
    if state.progress(run) >= 1:
        print(export(run.folder, run.stem(SHIPPED / "small" / "eyes")))


def export(run_dir: Path, stem: Path) -> Path:
    """Ship the best weights of a run, with the threshold that served the held-out clips best."""
    best = torch.load(run_dir / "best.pt", map_location="cpu", weights_only=True)
    config = best["config"] | {"threshold": best["metrics"]["threshold"]}
    return save_shards(stem, best["model"], config)[0]


if __name__ == "__main__":
    main()
