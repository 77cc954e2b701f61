"""How the small transformer learns: a score and words in, latents of their true sound out.

    python -m foley_lab.training.foley make .runs/features --count 6000 --workers 2
    foley-lab train foley --minutes 60
    python -m foley_lab.training.foley make .runs/features --count 3000 --workers 2 \\
        --eyes .runs/encoder/best.pt
    foley-lab train foley --minutes 100

First it learns to play: logs of the procedural world, written as event tracks, no picture. Then it
learns to look as well: the eyes watch new clips, and what they believe to have seen, right or
wrong, is the score *and* the log whose sound is the target. So the generator never learns to doubt
the score, and timing and material are decided in one place, the eyes.

Every clip is stored with two sounds: its own, and the same happenings in another material with
words that say so. So the score decides when and the words decide what; where a user says nothing,
the encoder captions what it saw, and learns to be heard by that caption.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foley_lab.decoders.vocoder import LatentAnalysis, VocoderConfig
from foley_lab.encoders.small import SmallEncoder, caption
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import TinyConfig, TinyEyes
from foley_lab.encoders.track import KIND_PART, MATERIAL_PART, SOUND_PART, event_track
from foley_lab.evaluation.sync import match_events
from foley_lab.generators.foley import SMALL, FoleyTransformer
from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import Scene, make_scene
from foley_lab.synthetic.sounds import render_sound
from foley_lab.synthetic.words import prompt_for
from foley_lab.training.clips import FIRST_SEED, SHARD, make_all
from foley_lab.training.loop import Run, parse_run, train
from foley_lab.training.losses import SOUND_WEIGHT, flow_matching_loss
from foley_lab.weights import SHIPPED, save_shards

SECONDS, FPS, WORDINGS = 8.0, 25.0, 4
BATCH = 16
OWN_SHARE = 0.65
"""Share of samples whose sound is that of the score; the others follow contradicting words."""

STRENGTH_ERROR = 0.08
"""Spread of the strengths written into the score beside those that sound: eyes guess them."""

FIRST_CLIP = FIRST_SEED + 10_000_000
FIRST_WATCHED = FIRST_CLIP + 1_000_000
_ASPECTS = (16 / 9, 4 / 3, 1.0, 9 / 16)
_ASPECT_SHARES = (0.6, 0.15, 0.1, 0.15)


@lru_cache(maxsize=1)
def _analysis(path: str) -> LatentAnalysis:
    """The fixed analysis, once per process."""
    torch.set_num_threads(1)
    analysis = LatentAnalysis(VocoderConfig())
    analysis.load_state_dict(load_file(path))
    return analysis


@lru_cache(maxsize=1)
def _encoder(path: str) -> SmallEncoder:
    """The trained eyes, once per process."""
    import cv2

    cv2.setNumThreads(1)
    best = torch.load(path, map_location="cpu", weights_only=True)
    eyes = TinyEyes(TinyConfig(**best["config"]))
    eyes.load_state_dict(best["model"])
    threshold = best["metrics"].get("threshold", 0.3)
    return SmallEncoder(eyes, MiniLMText.load(), threshold=threshold, dtype=torch.bfloat16)


def make_features(
    seed: int, eyes_path: str | None, analysis_path: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Score, two latents and the wordings of one new clip; content tokens only with eyes."""
    rng = np.random.default_rng([seed, 11])
    aspect = float(rng.choice(_ASPECTS, p=_ASPECT_SHARES))
    split = "ugly" if rng.random() < 0.45 else "clean"
    scene = make_scene(seed, SECONDS, aspect=aspect, split=split, off_screen=False)
    tensors, log = {}, scene.log
    if eyes_path:
        visual, log = _watch(scene, _encoder(eyes_path))
        tensors["visual"] = visual[0].half()
    error = rng.normal(0, STRENGTH_ERROR, len(log.events))
    written = [
        replace(e, strength=float(np.clip(e.strength + d, 0.04, 1)))
        for e, d in zip(log.events, error, strict=True)
    ]
    tensors["sync"] = event_track(written, log.continuous, SECONDS).half()
    other = log.with_material(str(rng.choice(MATERIALS)))
    sounds = torch.from_numpy(np.stack([render_sound(log), render_sound(other)]))
    tensors["latents"] = _analysis(analysis_path).encode(sounds[:, None]).half()  # [2, C, T]
    words: list[str] = []
    for each in (log, other):  # the first wording is what the encoder itself would ask for
        own = caption(each.events, each.continuous)
        words += [own or prompt_for(each, rng)]
        words += [prompt_for(each, rng) for _ in range(WORDINGS - 1)]
    return tensors, words


def _watch(scene: Scene, encoder: SmallEncoder) -> tuple[Tensor, EventLog]:
    """Content tokens [1, V, D] and the log as the eyes would write it.

    What was seen rightly keeps what only the world knows: surface, object and size.
    """
    size, true = encoder.eyes.config.size, scene.log
    frames = np.stack(list(Painter(scene, size, size).frames(FPS)))
    times_s = torch.arange(len(frames), dtype=torch.float64) / FPS
    visual, events, intervals = encoder.look(torch.from_numpy(frames), times_s, SECONDS)
    found = [e.time_s for e in events]
    partner = dict(match_events(found, [e.time_s for e in true.events], 0.08))
    seen: list[Event] = []
    for i, event in enumerate(events):
        known = true.events[partner[i]] if i in partner else None
        if known:
            event = replace(event, surface=known.surface, object=known.object, size=known.size)
        seen.append(event)
    return visual, replace(true, events=seen, continuous=[_known(i, true) for i in intervals])


def _known(interval: Interval, true: EventLog) -> Interval:
    """The interval with surface, object and size of the true one it overlaps, if any."""
    for each in true.continuous:
        if each.kind == interval.kind and (
            min(each.end_s, interval.end_s) > max(each.start_s, interval.start_s)
        ):
            return replace(interval, surface=each.surface, object=each.object, size=each.size)
    return interval


def make_shard(folder: Path, first_seed: int, eyes: str | None, analysis: str, index: int) -> None:
    """Make one shard unless it is already there."""
    target = folder / f"{first_seed}-{index:04d}.safetensors"
    if target.exists():
        return
    clips = [make_features(first_seed + index * SHARD + k, eyes, analysis) for k in range(SHARD)]
    tensors = {key: torch.stack([c[0][key] for c in clips]) for key in clips[0][0]}
    aside = target.with_suffix(".part")
    save_file(tensors, aside, metadata={"words": "\n".join(w for c in clips for w in c[1])})
    os.replace(aside, target)


class FeatureSet:
    """All shards of a folder in memory, the words already encoded."""

    def __init__(self, folder: Path, text: MiniLMText) -> None:
        from safetensors import safe_open

        parts: list[dict[str, Tensor]] = []
        words: list[str] = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                words += file.metadata()["words"].split("\n")
            parts.append(load_file(path))
        if not parts:
            raise ValueError(
                f"no features in {folder}, wanted shards, "
                f"run `python -m foley_lab.training.foley make {folder}`"
            )
        self.sync, self.latents = (
            torch.cat([p[key] for p in parts]) for key in ("sync", "latents")
        )
        tokens = -(-int(SECONDS * FPS) // 4)
        unseen = torch.zeros(1, tokens, SMALL.clip_dim, dtype=torch.half)
        self.visual = torch.cat(
            [p.get("visual", unseen.expand(len(p["sync"]), -1, -1)) for p in parts]
        )
        self.watched = self.visual.abs().amax((1, 2)) > 0
        known = sorted(set(words))
        self.text = torch.cat(
            [text.encode(known[i : i + 64]).half() for i in range(0, len(known), 64)]
        )
        place = {word: i for i, word in enumerate(known)}
        self.words = torch.tensor([place[w] for w in words]).view(len(self.sync), 2, WORDINGS)

    def draw(
        self, rng: np.random.Generator, model: FoleyTransformer, batch: int = BATCH
    ) -> dict[str, Tensor]:
        """A batch with conditions withheld here and there: the words only where the sound is that
        of the score."""
        i = torch.from_numpy(self._rows(rng, batch))
        own = torch.from_numpy(rng.random(batch) < OWN_SHARE)
        u, v, w = torch.from_numpy(rng.random((3, batch)))
        wording = torch.from_numpy(rng.integers(WORDINGS, size=batch))
        wording[own & (u < 0.55)] = 0  # no words of the user's: the encoder captions what it saw
        text = self.text[self.words[i, (~own).long(), wording]].float()
        silent = own & (u < 0.2)  # no words
        blind = (own & (u < 0.1)) | (u > 0.94)  # of the silent ones the first are the empty branch
        unseen = blind | ~self.watched[i] | (v < 0.15)
        latents, visual, sync = (
            self.latents[i, (~own).long()].float(), self.visual[i].float(), self.sync[i].float()
        )  # fmt: skip
        unnamed = w < torch.where(silent, 0.1, 0.3)
        sync[..., MATERIAL_PART] *= ~unnamed[:, None, None]
        sync[..., KIND_PART] *= (v < 0.9)[:, None, None]
        if rng.random() < 0.5:  # short clips: half a window
            start = 4 * int(rng.integers(0, 26))
            latents, sync = latents[..., start : start + 100], sync[:, start : start + 100]
            visual = visual[:, start // 4 : start // 4 + 25]
        sounds = sync[..., SOUND_PART].amax(-1) > 0.05
        visual = model.without_video(visual, sync, unseen)[0]
        sync = model.without_video(visual, sync, blind)[1]
        return {
            "latents": latents,
            "visual": visual,
            "sync": sync,
            "text": text * ~silent[:, None, None],
            "weight": 1 + SOUND_WEIGHT * sounds.float(),
        }

    def _rows(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Clips of a batch; where there are watched ones, two in three are."""
        rows = rng.integers(len(self.sync), size=batch)
        watched = self.watched.nonzero()[:, 0].numpy()
        if len(watched):
            chosen = rng.random(batch) < 2 / 3
            rows[chosen] = watched[rng.integers(len(watched), size=int(chosen.sum()))]
        return rows


def train_foley(run: Run) -> None:
    """Train the SMALL transformer from `.runs/features`, judged by the loss on held-out clips."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    text = MiniLMText.load()
    data = FeatureSet(Path(run.root) / "features", text)
    held = FeatureSet(Path(run.root) / "features_heldout", text)
    model = FoleyTransformer(SMALL)
    model.init_weights(torch.Generator().manual_seed(run.seed))
    start = run.folder / "init.pt"  # weights of an earlier run to begin with
    if start.exists():
        model.load_state_dict(torch.load(start, map_location="cpu", weights_only=True)["model"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-4, betas=(0.9, 0.99), weight_decay=0.01)

    def loss_of(batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return flow_matching_loss(model, **batch, generator=generator)

    def step_fn(step: int) -> dict[str, Tensor]:
        batch = data.draw(run.rng(step), model)
        return {"loss": loss_of(batch, torch.Generator().manual_seed(run.seed * 7919 + step))}

    def evaluate_fn() -> dict[str, float]:
        losses = []
        for k in range(6):
            rng = np.random.default_rng([k, 3])
            losses.append(float(loss_of(held.draw(rng, model), torch.Generator().manual_seed(k))))
        return {"score": -float(np.mean(losses))}

    state = train(run, model, optimizer, step_fn, evaluate_fn, asdict(SMALL))
    if state.progress(run) >= 1:
        print(*export(run.folder, run.stem(SHIPPED / "small" / "foley")))


def export(run_dir: Path, stem: Path) -> list[Path]:
    """Ship the best weights of a run."""
    best = torch.load(run_dir / "best.pt", map_location="cpu", weights_only=True)
    return save_shards(stem, best["model"], best["config"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    make = jobs.add_parser("make", help="encode new clips")
    make.add_argument("folder", type=Path)
    make.add_argument("--count", type=int, default=3000)
    make.add_argument("--first-seed", type=int, help="default: far above all other clips")
    make.add_argument("--workers", type=int, default=1)
    make.add_argument("--eyes", help="checkpoint; without it nothing is drawn and watched")
    make.add_argument("--analysis", default=".runs/codec/analysis.safetensors")
    jobs.add_parser("train", help="train on them; flags of the run follow", add_help=False)
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] not in (["make"], ["train"]):
        argv.insert(0, "train")  # as the other trainings are called: `foley-lab train foley`
    args, rest = parser.parse_known_args(argv)
    if args.job == "train":
        default = Run("foley", minutes=60, schedule="anneal", evaluate_every_s=300)
        return train_foley(parse_run(default, __doc__ or "", rest))
    args.folder.mkdir(parents=True, exist_ok=True)
    first = args.first_seed
    if first is None:
        first = FIRST_WATCHED if args.eyes else FIRST_CLIP
    make = partial(make_shard, args.folder, first, args.eyes, args.analysis)
    make_all(make, args.count, args.workers)


if __name__ == "__main__":
    main()
