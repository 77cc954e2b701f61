"""How a model learns the sounds of somebody's own films: low-rank adapters, or all of it.

    foley-lab train foley --base small --data DIR
    foley-lab train foley --base xl --data DIR --rank 32 --minutes 240 --out .runs/creaks
    foley-lab generate clip.mp4 --adapter .runs/creaks/adapter.safetensors

`DIR` holds films with sound, and what their owner says about them (`training.films`). The loss is
that of the base (`training.losses`), and conditions are withheld now and then as in its own
training, so that guidance goes on working. One film in ten is held out where there are ten: the
adapter that is kept is the one that does best on them, not the last.

How much it takes: ten films of one kind of sound are a beginning, some dozens are sensible, and the
same sound in different films is worth more than long films. Of `small` a step of 8 windows of 8 s
took 0.6 s and 0.9 GB of memory on one core with bfloat16 units, so that the 30 minutes are some
3000 steps. Adapters learn in float32, and so do all weights with --full. Under them the weights of
`small` are float32 too, those of `xl` and `xxl` bfloat16 where the machine multiplies that in
hardware; there the products are bfloat16 as well.

With --full every weight learns, and the run ends in `weights.safetensors`: no adapter but whole
tensors, as large as the model, which `--adapter` takes all the same.

A run is its folder: the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foley_lab.encoders.track import KIND_PART, MATERIAL_PART, SOUND_PART
from foley_lab.generators.adapters import AdapterConfig, fingerprint, save_adapter
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyTransformer
from foley_lab.media import check_target
from foley_lab.media.opening import shown
from foley_lab.pipeline import presets
from foley_lab.samplers.quiet import quietly
from foley_lab.signals import FoleyError, MediaError
from foley_lab.training.films import Window, encode_films, find_films, plays_score, read_captions
from foley_lab.training.loop import Run, train
from foley_lab.training.losses import SOUND_WEIGHT, flow_matching_loss
from foley_lab.weights import SOURCES

JUDGED = 6
"""Batches on which an evaluation listens, always the same."""


@dataclass(frozen=True)
class Tuning:
    """What is learned and how; a run goes on only under the same.

    Attributes:
        base: Name of the model.
        rank: Of the adapters; 0 trains every weight.
        alpha: Adapters count alpha / rank.
        dropout: Share of an adapter's inputs that is left out.
        learning_rate: Highest; it falls to nothing.
        batch: Windows in one pass.
        accumulate: Passes in one step.
        checkpointing: Activations are computed twice instead of kept, for less memory.
        drop: Share of windows without anything seen and said; as many again without words, and
            without picture.
    """

    base: str = "small"
    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    learning_rate: float = 1e-3
    batch: int = 8
    accumulate: int = 1
    checkpointing: bool = False
    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= 1024 or min(self.batch, self.accumulate) < 1:
            raise ValueError(
                f"rank {self.rank}, batch {self.batch}, accumulate {self.accumulate}, wanted a "
                "rank up to 1024 and at least 1 of the others, change them"
            )
        if not 0 < self.learning_rate < 1 or not 0 <= self.dropout < 1 or not 0 <= self.drop < 0.3:
            raise ValueError(
                f"learning rate {self.learning_rate:g}, dropout {self.dropout:g}, drop "
                f"{self.drop:g}, wanted them in (0, 1), [0, 1) and [0, 0.3), change them"
            )


LARGE = Tuning("xl", learning_rate=1e-4, batch=2, accumulate=4, checkpointing=True)
BASES = {"small": Tuning(), "xl": LARGE, "xxl": Tuning(**{**asdict(LARGE), "base": "xxl"})}
"""How each base is fine-tuned when nothing else is asked for."""

FULL_SHARE = 0.1
"""All weights learn at this share of the adapters' rate."""


@dataclass(frozen=True)
class Tuned:
    """What came of it.

    Attributes:
        path: The adapter, after --full all weights; None when the run was ended before its plan.
        before, after: Loss of the base, and of what is kept so far.
        held_out: Whether that is on films that nothing was learned from.
    """

    path: Path | None
    before: float
    after: float
    held_out: bool


def draw(
    windows: Sequence[Window], model: FoleyTransformer, tuning: Tuning, rng: np.random.Generator
) -> list[dict[str, Tensor]]:
    """A batch as groups of windows of one shape, with conditions withheld here and there.

    Half of the windows come with the film's words, half with what the model says by itself.
    """
    groups: dict[tuple[torch.Size, ...], list[dict[str, Tensor]]] = {}
    for i in rng.integers(len(windows), size=tuning.batch):
        row = _withheld(windows[i].load(), model, tuning.drop, rng)
        groups.setdefault(tuple(tensor.shape for tensor in row.values()), []).append(row)
    device = model.empty_clip_feat.device
    batch = []
    for rows in groups.values():
        group = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
        unseen, unheard = group.pop("unseen"), group.pop("unheard")
        visual = model.without_video(group["visual"], group["sync"], unseen)[0]
        sync = model.without_video(group["visual"], group["sync"], unheard)[1]
        batch.append(group | {"visual": visual, "sync": sync})
    return batch


def _withheld(
    window: Mapping[str, Tensor], model: FoleyTransformer, drop: float, rng: np.random.Generator
) -> dict[str, Tensor]:
    """A window with one of its wordings, and which tokens will be the learnt empty ones."""
    said = int(rng.random() < 0.5)
    u, v, w = rng.random(3)
    silent, blind = u < 2 * drop, u < drop or u >= 1 - drop
    sync = window[f"sync_{said}"].clone()
    weight, unseen = torch.ones(window["latents"].shape[-1]), blind
    if plays_score(model):
        weight = 1 + SOUND_WEIGHT * (sync[:, SOUND_PART].amax(-1) > 0.05).float()
        # Words, score and picture each have to do without the others now and then.
        sync[:, MATERIAL_PART] *= float(w >= (drop if silent else 3 * drop))
        sync[:, KIND_PART] *= float(v < 1 - drop)
        unseen = blind or v < 1.5 * drop
    return {
        "latents": window["latents"],
        "visual": window["visual"],
        "sync": sync,
        "text": window["empty_text"] if silent else window[f"text_{said}"],
        "weight": weight,
        "unseen": torch.tensor(unseen),
        "unheard": torch.tensor(blind),
    }


def tune(generator: FlowGenerator, windows: Sequence[Window], tuning: Tuning, run: Run) -> Tuned:
    """Fine-tune a transformer, in place, and write what it learned into the run's folder:
    `adapter.safetensors`, or `weights.safetensors` where every weight was trained.

    Args:
        generator: Its transformer has the weights of the base; it is left as a thing of training.
        windows: From `films.encode_films`.
        tuning: What to learn and how.
        run: Where, how long, with which seed.

    Raises:
        FoleyError: If the folder holds a run of another kind.
    """
    transformer = generator.transformer
    base_digest = fingerprint(transformer)
    films = hashlib.sha256("".join(sorted(w.film for w in windows)).encode()).hexdigest()[:16]
    config = asdict(tuning) | {"seed": run.seed, "base_digest": base_digest, "films": films}
    check_run(run.folder, config)
    learners = _learners(transformer, tuning, run.seed)
    if tuning.checkpointing:
        checkpoint_blocks(transformer)
    learned, held = split_films(windows)
    losses = partial(_loss, generator, tuning)

    def step_fn(step: int) -> dict[str, Tensor]:
        rng, noise = run.rng(step), torch.Generator().manual_seed(run.seed * 7919 + step)
        passed = torch.zeros(())
        for left in reversed(range(tuning.accumulate)):
            loss = losses(draw(learned, transformer, tuning, rng), noise) / tuning.accumulate
            if left:  # the loop goes back through the last one
                loss.backward()
                passed = passed + loss.detach().cpu()
        return {"loss": loss + passed.to(loss.device)}

    def evaluate_fn() -> dict[str, float]:
        return {"score": -_judge(transformer, tuning, held or learned, losses)}

    before = -evaluate_fn()["score"]
    optimizer = torch.optim.AdamW(
        learners.parameters(),
        lr=tuning.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0 if tuning.rank else 0.01,
    )
    transformer.train()
    state = train(run, learners, optimizer, step_fn, evaluate_fn, config)
    if state.progress(run) < 1:
        return Tuned(None, before, -state.best, bool(held))
    best = torch.load(run.folder / "best.pt", map_location="cpu", weights_only=True)
    facts = AdapterConfig(
        tuning.base, base_digest, films, tuning.rank, tuning.alpha, best["step"], run.seed
    )
    path = run.folder / ("adapter.safetensors" if tuning.rank else "weights.safetensors")
    save_adapter(path, {_dotted(name): t for name, t in best["model"].items()}, facts)
    return Tuned(path, before, -best["metrics"]["score"], bool(held))


def _loss(
    generator: FlowGenerator,
    tuning: Tuning,
    batch: Sequence[Mapping[str, Tensor]],
    noise: torch.Generator,
) -> Tensor:
    """Mean over the windows of a batch."""
    transformer, total = generator.transformer, torch.zeros(())
    # Sync tokens of short windows lie as they will when the generator plays.
    prepare = partial(transformer.prepare, sync_per_latent=generator.sync_per_latent)
    student = SimpleNamespace(prepare=prepare, velocity=transformer.velocity)
    device = transformer.empty_clip_feat.device
    with torch.autocast(device.type, torch.bfloat16, enabled=_multiplies_bfloat16(device)):
        for group in batch:
            given = {name: group[name] for name in ("latents", "visual", "sync", "text", "weight")}
            loss = flow_matching_loss(cast(FoleyTransformer, student), **given, generator=noise)
            total = total.to(loss.device) + loss * (len(group["latents"]) / tuning.batch)
    return total


def _judge(
    transformer: FoleyTransformer,
    tuning: Tuning,
    windows: Sequence[Window],
    losses: Callable[..., Tensor],
) -> float:
    """Loss over the same windows, noises and times at every call."""
    transformer.eval()
    total = 0.0
    with torch.no_grad():
        for k in range(JUDGED):
            batch = draw(windows, transformer, tuning, np.random.default_rng([k, 3]))
            total += float(losses(batch, torch.Generator().manual_seed(k))) / JUDGED
    transformer.train()
    return total


def split_films(windows: Sequence[Window]) -> tuple[list[Window], list[Window]]:
    """Windows to learn from, and those of every tenth film, which are held out.

    A film's digest decides, so that adding films moves none of the others; below ten films nothing
    is held out.
    """
    held = [w for w in windows if int(w.film[:8], 16) % 10 == 0]
    if len({w.film for w in windows}) < 10 or not held or len(held) == len(windows):
        return list(windows), []
    return [w for w in windows if int(w.film[:8], 16) % 10], held


def checkpoint_blocks(transformer: FoleyTransformer) -> None:
    """Keep only what goes from block to block, and compute the rest again on the way back (Chen et
    al. 2016, arXiv:1604.06174)."""
    for block in (*transformer.triple_blocks, *transformer.single_blocks):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _learners(transformer: FoleyTransformer, tuning: Tuning, seed: int) -> nn.Module:
    """The module that holds what is trained, and nothing that is not."""
    if not tuning.rank:
        return transformer.requires_grad_()
    adapt = _find_adapt()
    trained = adapt(transformer, tuning.rank, tuning.alpha, tuning.dropout, seed)
    return nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})


def _find_adapt() -> Callable[..., dict[str, nn.Parameter]]:
    """`low_rank.adapt`, where peft is installed.

    Raises:
        FoleyError: If it is not.
    """
    try:
        with quietly():  # peft loads torchao where it is
            from foley_lab.training.low_rank import adapt
    except ModuleNotFoundError as error:
        raise FoleyError(
            f"{error.name} is not installed, wanted it to train adapters, "
            "run `pip install foley-lab[finetune]`"
        ) from error
    return adapt


def _dotted(name: str) -> str:
    """Name of a tensor in the file: torch takes no dots in a `ParameterDict`."""
    return name.replace("/", ".")


@lru_cache(maxsize=8)
def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether this machine does so in hardware."""
    return presets.choose_dtype("auto", device) == torch.bfloat16


def check_folder(folder: Path) -> None:
    """Find out before anything is loaded whether a run can live in a folder.

    Raises:
        MediaError: If it is a file or below one, or takes no new files.
        FoleyError: If it holds other things than a run.
    """
    above = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not above.is_dir():
        raise MediaError(
            f"{shown(above)} is a file, wanted a folder for the run, name another with --out"
        )
    check_target(None, above / ".run.wav", force=True)
    if above != folder or (folder / "last.pt").exists():
        return
    # A run that was interrupted among its films has its cache alone.
    if others := sorted(p.name for p in folder.iterdir() if p.name != "cache" and p.name[0] != "."):
        raise FoleyError(
            f"{shown(folder)} holds {others[0]!r} and no run, wanted an empty folder or a run of "
            "this command, name another with --out"
        )


def check_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another kind.

    Args:
        config: What is known of the run to be.

    Raises:
        FoleyError: If the folder holds a run that differs in it, or a checkpoint that is damaged.
    """
    last = folder / "last.pt"
    if not last.exists():
        return
    try:
        found = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["config"]
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise FoleyError(
            f"{shown(last)} is no checkpoint that can be read, wanted one to go on, "
            "name another folder with --out"
        ) from error
    changed = sorted(key for key in config if config[key] != found.get(key))
    if changed:
        was = ", ".join(f"{key} {found.get(key)!r}" for key in changed)
        raise FoleyError(
            f"{shown(folder)} holds a run with {was}, wanted the same films and settings to go on, "
            "name another folder with --out"
        )


# ---------------------------------------------------------------------------------- command line


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}, see `{self.prog} --base small --help`")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given is the base's own (`BASES`)."""
    parser = _Parser(
        prog="foley-lab train foley",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base", choices=tuple(BASES), default="small", help="model to start from")
    add("--data", type=Path, required=True, metavar="DIR", help="films with sound")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the run, empty, absent or a run to go on "
        "with (default: .runs/tuned-BASE-DIR)",
    )
    add("--full", action="store_true", help="train every weight, float32, instead of adapters")
    add("--minutes", type=float, default=30.0, help="wall time in all, above 0 (default: 30)")
    add("--steps", type=int, help="number of steps, at least 1, instead of minutes")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--rank", type=int, help="of the adapters (default: 16)")
    add("--alpha", type=float, help="adapters count alpha / rank (default: the rank)")
    add("--dropout", type=float, help="share of an adapter's inputs left out (default: 0)")
    add("--learning-rate", type=float, help="default: 1e-3 for small, 1e-4 for xl and xxl")
    add("--batch", type=int, help="windows in a pass (default: 8 for small, 2 for xl and xxl)")
    add("--accumulate", type=int, help="passes in a step (default: 1 for small, 4 for xl, xxl)")
    add(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice, for less memory (default: for xl and xxl)",
    )
    add("--drop", type=float, help="share of windows without any condition (default: 0.1)")
    return parser.parse_args(argv)


def tuning_of(args: argparse.Namespace) -> Tuning:
    """The base's own values, and over them what was asked for.

    Raises:
        ValueError: If a value is out of its range.
    """
    default = asdict(BASES[args.base])
    asked = {k: v for k in default if (v := getattr(args, k)) is not None}
    if args.full:
        if args.rank:
            raise ValueError(f"--full with --rank {args.rank}, wanted one of them, leave one out")
        default |= {"rank": 0, "learning_rate": FULL_SHARE * default["learning_rate"]}
    elif args.rank is not None and args.rank < 1:
        raise ValueError(f"--rank {args.rank}, wanted at least 1, or --full for every weight")
    rank = asked.get("rank", default["rank"])
    return Tuning(**{**default, "alpha": float(rank), **asked})


def run_of(args: argparse.Namespace) -> Run:
    """Where the run lives and how long it lasts.

    Raises:
        ValueError: If it would not begin, or never end.
    """
    if not 0 < args.minutes < math.inf:
        raise ValueError(
            f"--minutes {args.minutes:g}, wanted a number above 0, e.g. 30, or --steps instead"
        )
    if args.steps is not None and args.steps < 1:
        raise ValueError(
            f"--steps {args.steps}, wanted at least 1, e.g. 500, or leave it out to go by --minutes"
        )
    name = f"tuned-{args.base}-{args.data.resolve().name}"
    out = args.out or Path(".runs") / name
    steps = args.steps or 0
    return Run(out.name, args.minutes, steps, args.seed, str(out.parent), warmup_steps=20)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    run, tuning = run_of(args), tuning_of(args)
    # All that can be refused is refused before the model is loaded and films are read.
    find_films(args.data)
    read_captions(args.data)
    check_folder(run.folder)
    check_run(run.folder, asdict(tuning) | {"seed": run.seed})
    if tuning.rank:
        _find_adapt()
    if SOURCES.get(args.base) is not None:
        print(f"note: {args.base} is under the {SOURCES[args.base].licence}: what you make of it "
              "is your own affair under its terms", file=sys.stderr)  # fmt: skip
    device = presets.choose_device(args.device)
    # Adapters leave the weights as they are: what is large may stay rounded.
    precise = args.full or args.base == "small"
    lab = presets.load(args.base, str(device), "float32" if precise else "auto", whole_codec=True)
    windows = encode_films(lab, args.data, run.folder / "cache")
    generator = lab.generator
    del lab  # encoders and codec are large, and their work is done
    result = tune(generator, windows, tuning, run)
    if result.path is None:
        print("ended before its plan, the same command goes on", file=sys.stderr)
        return
    where = "on held-out films" if result.held_out else "on these films themselves"
    print(f"{len(windows)} windows, loss {result.before:.4f} → {result.after:.4f} {where}")
    if result.held_out and result.after >= result.before:
        print("warning: no better than the base on films it has not heard, wanted more films or "
              "fewer steps", file=sys.stderr)  # fmt: skip
    print(result.path)


if __name__ == "__main__":
    main()
