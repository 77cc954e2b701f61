"""Teaches the judge of materials: `python -m foley_lab.training.judge`.

Random event logs in balanced materials and kinds are rendered; half of the sounds are then blurred
as a decoder blurs: phases and magnitudes of short frames disturbed, treble cut, spectrum tilted,
noise added. Onsets are given a few milliseconds late or early. Ends with the accuracy on seeds that
were never heard.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import istft, stft
from torch import Tensor
from torch.nn.functional import cross_entropy

from foley_lab.evaluation.material import MaterialJudge, material_features
from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic.sounds import INSTANTS, INTERVALS, SAMPLE_RATE, render_sound
from foley_lab.weights import save_shards


@dataclass(frozen=True)
class JudgeTraining:
    """How the judge is taught.

    Attributes:
        clips: Rendered clips of three seconds, a new log each.
        held_out: Clips of new seeds for the accuracy.
        epochs: Passes over all blows.
        batch: Blows per step.
        learning_rate: Peak of a cosine.
        seed: Of everything drawn.
        out: Checkpoint, without suffix.
    """

    clips: int = 2400
    held_out: int = 300
    epochs: int = 30
    batch: int = 256
    learning_rate: float = 2e-3
    seed: int = 0
    out: Path = Path(".runs") / "judge" / "material"


HELD_OUT_SEED = 10_000_000


def train_judge(training: JudgeTraining) -> tuple[MaterialJudge, float]:
    """Renders, listens, learns.

    Returns:
        The judge in eval mode, and its accuracy on held-out seeds, half of them blurred.
    """
    torch.manual_seed(training.seed)
    features, labels = heard(range(training.seed, training.seed + training.clips))
    judge = MaterialJudge()
    judge.mean.copy_(features.mean(0))
    judge.scale.copy_(features.std(0) + 0.05)
    optimizer = torch.optim.AdamW(judge.parameters(), training.learning_rate, weight_decay=0.05)
    steps = training.epochs * -(-len(labels) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(training.epochs):
        for chosen in torch.randperm(len(labels)).split(training.batch):
            loss = cross_entropy(judge(features[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    judge.eval()
    features, labels = heard(range(HELD_OUT_SEED, HELD_OUT_SEED + training.held_out))
    with torch.no_grad():
        accuracy = (judge(features).argmax(-1) == labels).float().mean().item()
    return judge, accuracy


def heard(seeds: Sequence[int], blurred: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features [K, F] and materials [K] of the random clips with these seeds.

    Args:
        blurred: Share of the clips that sound as if decoded.
    """
    features, labels = [], []
    for seed in seeds:
        rng = np.random.default_rng([seed, 7])
        log = random_log(seed, rng)
        sound = render_sound(log)
        if rng.random() < blurred:
            sound = blur(sound, rng)
        times, materials = moments(log)
        jitter = rng.normal(0, 0.0025, len(times))
        features.append(material_features(sound, np.maximum(times + jitter, 0).tolist()))
        labels += [MATERIALS.index(m) for m in materials]
    return torch.from_numpy(np.concatenate(features)), torch.tensor(labels)


def random_log(seed: int, rng: Generator, seconds: float = 3.0) -> EventLog:
    """A clip of one kind, with up to three bodies of any material, blows 60 ms apart or more."""
    materials = [str(m) for m in rng.choice(MATERIALS, 3)]
    extents = np.exp(rng.uniform(np.log(0.04), np.log(0.5), 3)).tolist()
    sizes = extents if rng.random() < 0.8 else [None] * 3
    surface = str(rng.choice(MATERIALS)) if rng.random() < 0.6 else None
    kind = str(rng.choice(INSTANTS + INTERVALS))
    log = EventLog("random", seed, seconds)
    if kind in INTERVALS:
        start = rng.uniform(0.05, 0.5)
        while start < seconds - 0.6:
            end = min(start + rng.uniform(0.5, 1.2), seconds - 0.05)
            body = int(rng.integers(3))
            speed = tuple(float(v) for v in rng.uniform(0.3, 1, 6))
            log.continuous.append(
                Interval(kind, start, end, materials[body], surface, body, speed, sizes[body])
            )
            start = end + rng.uniform(0.2, 0.5)
        return log
    rate = rng.uniform(1, 6)
    time = rng.uniform(0.03, 0.5)
    while time < seconds - 0.1:
        body, strength = int(rng.integers(3)), float(rng.uniform(0.1, 1))
        log.events.append(
            Event(float(time), kind, materials[body], strength, surface, body, size=sizes[body])
        )
        time += 0.06 + rng.exponential(1 / rate)
    return log


def moments(log: EventLog) -> tuple[NDArray[np.float64], list[str]]:
    """When to listen, and for what: every event, and every quarter second of what lasts."""
    pairs = [(e.time_s, e.material) for e in log.events]
    for lasting in log.continuous:
        for time in np.arange(lasting.start_s + 0.1, lasting.end_s - 0.1, 0.25):
            pairs.append((float(time), lasting.material))
    return np.array([time for time, _ in pairs]), [material for _, material in pairs]


def blur(sound: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """The sound as a weak decoder would give it back [N]."""
    size = int(rng.choice((512, 960, 1440)))
    frequencies, _, frames = stft(sound, SAMPLE_RATE, nperseg=size)
    turn = np.exp(1j * rng.uniform(0.1, 1.2) * rng.standard_normal(frames.shape))
    waver = np.exp(rng.uniform(0, 0.5) * rng.standard_normal(frames.shape))
    octaves = np.log2(np.maximum(frequencies, 100) / 1000)
    gain = 10 ** (rng.uniform(-2, 1.5) * octaves / 20)
    gain = gain / (1 + (frequencies / rng.uniform(9_000, 20_000)) ** 12)
    _, blurred = istft(frames * turn * waver * gain[:, None], SAMPLE_RATE, nperseg=size)
    noise = rng.standard_normal(sound.size) * 10 ** (rng.uniform(-80, -50) / 20)
    return (np.resize(blurred, sound.size) + noise).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: one flag per field of `JudgeTraining`."""
    parser = argparse.ArgumentParser(description="teach the judge of materials")
    for item in fields(JudgeTraining):
        flag = "--" + item.name.replace("_", "-")
        parser.add_argument(flag, type=type(item.default), default=item.default)
    training = JudgeTraining(**vars(parser.parse_args(argv)))
    judge, accuracy = train_judge(training)
    [path] = save_shards(training.out, *judge.export())
    print(f"{path}: {accuracy:.3f} of the held-out blows named right")


if __name__ == "__main__":
    main()
