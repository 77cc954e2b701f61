"""How the small transformer learns: what the eyes saw and the words said in, latents of the true
sound as the target.

    python -m foley_lab.training.foley make .runs/features --count 3000 --workers 2
    foley-lab train foley --minutes 60

Clips are new to the eyes: an encoder is more certain on its own training clips than it will ever be
again, and a generator that hears only certain features does not learn to doubt. Every clip is
stored with two sounds: its own, and the same happenings in another material with words that say so.
So the picture decides when, the words decide what, and without words the visible material sounds.
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
from foley_lab.encoders.small import SmallEncoder
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import TinyConfig, TinyEyes
from foley_lab.generators.foley import SMALL, FoleyTransformer
from foley_lab.signals import MATERIALS
from foley_lab.synthetic.picture import Painter
from foley_lab.synthetic.scenes import make_scene
from foley_lab.synthetic.sounds import render_sound
from foley_lab.synthetic.words import prompt_for
from foley_lab.training.clips import FIRST_SEED, SHARD, make_all
from foley_lab.training.loop import Run, parse_run, train
from foley_lab.training.losses import flow_matching_loss
from foley_lab.weights import SHIPPED, save_shards

SECONDS, FPS, WORDINGS = 8.0, 25.0, 4
BATCH = 16
OWN_SHARE = 0.62
"""Share of samples whose sound is the visible one; the others follow contradicting words."""

FIRST_CLIP = FIRST_SEED + 10_000_000
FIRST_HELD_OUT = 7_000
_ASPECTS = (16 / 9, 4 / 3, 1.0, 9 / 16)
_ASPECT_SHARES = (0.6, 0.15, 0.1, 0.15)


@lru_cache(maxsize=1)
def _tools(eyes_path: str, analysis_path: str) -> tuple[SmallEncoder, LatentAnalysis]:
    """The trained eyes and the fixed analysis, once per process."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    best = torch.load(eyes_path, map_location="cpu", weights_only=True)
    eyes = TinyEyes(TinyConfig(**best["config"]))
    eyes.load_state_dict(best["model"])
    threshold = best["metrics"].get("threshold", 0.3)
    analysis = LatentAnalysis(VocoderConfig())
    analysis.load_state_dict(load_file(analysis_path))
    text = MiniLMText.load()
    return SmallEncoder(eyes, text, threshold=threshold, dtype=torch.bfloat16), analysis


def make_features(
    seed: int, eyes_path: str, analysis_path: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Tokens, two latents and the wordings of one new clip."""
    encoder, analysis = _tools(eyes_path, analysis_path)
    rng = np.random.default_rng([seed, 11])
    aspect = float(rng.choice(_ASPECTS, p=_ASPECT_SHARES))
    scene = make_scene(
        seed, SECONDS, aspect=aspect, split="ugly" if rng.random() < 0.45 else "clean"
    )
    size = encoder.eyes.config.size
    frames = np.stack(list(Painter(scene, size, size).frames(FPS)))
    times_s = torch.arange(len(frames), dtype=torch.float64) / FPS
    visual, sync, _ = encoder.look(torch.from_numpy(frames), times_s, SECONDS)
    other = scene.log.with_material(str(rng.choice(MATERIALS)))
    sounds = torch.from_numpy(np.stack([render_sound(scene.log), render_sound(other)]))
    latents = analysis.encode(sounds[:, None])  # [2, C, T]
    words = [prompt_for(log, rng) for log in (scene.log, other) for _ in range(WORDINGS)]
    return {"visual": visual[0].half(), "sync": sync[0].half(), "latents": latents.half()}, words


def make_shard(folder: Path, first_seed: int, eyes: str, analysis: str, index: int) -> None:
    """Make one shard unless it is already there."""
    target = folder / f"{index:04d}.safetensors"
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
        self.visual, self.sync, self.latents = (
            torch.cat([p[key] for p in parts]) for key in ("visual", "sync", "latents")
        )
        known = sorted(set(words))
        self.text = torch.cat(
            [text.encode(known[i : i + 64]).half() for i in range(0, len(known), 64)]
        )
        place = {word: i for i, word in enumerate(known)}
        self.words = torch.tensor([place[w] for w in words]).view(len(self.visual), 2, WORDINGS)

    def draw(
        self, rng: np.random.Generator, model: FoleyTransformer, batch: int = BATCH
    ) -> dict[str, Tensor]:
        """A batch with conditions withheld here and there: the words only where the sound is the
        visible one."""
        i = torch.from_numpy(rng.integers(len(self.visual), size=batch))
        other = torch.from_numpy(rng.random(batch) >= OWN_SHARE).long()
        wording = torch.from_numpy(rng.integers(WORDINGS, size=batch))
        text = self.text[self.words[i, other, wording]].float()
        u = torch.from_numpy(rng.random(batch))
        own = other == 0
        silent = own & (u < 0.45)  # no words, most often with the picture alone
        blind = (own & (u < 0.1)) | (u > 0.94)
        latents, visual, sync = (
            self.latents[i, other].float(), self.visual[i].float(), self.sync[i].float()
        )  # fmt: skip
        if rng.random() < 0.25:  # short clips: half a window
            start = 4 * int(rng.integers(0, 26))
            latents, sync = latents[..., start : start + 100], sync[:, start : start + 100]
            visual = visual[:, start // 4 : start // 4 + 25]
        visual, sync = model.without_video(visual, sync, blind)
        return {
            "latents": latents,
            "visual": visual,
            "sync": sync,
            "text": text * ~silent[:, None, None],
        }


def train_foley(run: Run) -> None:
    """Train the SMALL transformer from `.runs/features`, judged by the loss on held-out clips."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    text = MiniLMText.load()
    data = FeatureSet(Path(run.root) / "features", text)
    held = FeatureSet(Path(run.root) / "features_heldout", text)
    config = replace(SMALL, clip_dim=data.visual.shape[-1], sync_dim=data.sync.shape[-1])
    model = FoleyTransformer(config)
    model.init_weights(torch.Generator().manual_seed(run.seed))
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

    state = train(run, model, optimizer, step_fn, evaluate_fn, asdict(config))
    if state.progress(run) >= 1:
        print(*export(run.folder))


def export(run_dir: Path, stem: Path = SHIPPED / "small" / "foley") -> list[Path]:
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
    make.add_argument("--first-seed", type=int, default=FIRST_CLIP)
    make.add_argument("--workers", type=int, default=1)
    make.add_argument("--eyes", default=".runs/encoder/best.pt")
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
    make = partial(make_shard, args.folder, args.first_seed, args.eyes, args.analysis)
    make_all(make, args.count, args.workers)


if __name__ == "__main__":
    main()
