"""Training of the codec: `python -m foley_lab.training.codec --minutes 60`.

    random event logs → rendered sounds → fixed analysis (fitted once) → latents → decoder → loss

Sounds are rendered once into `.runs/codec/data.npy` and the analysis is fitted once into
`.runs/codec/analysis.safetensors`; from then on the latents never change, so that a generator can
be trained beside the decoder. Only the decoder learns, on latents with a little noise, because a
generator's latents will not be exact either. At the end the averaged weights are exported in half
precision into the package.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from foley_lab.decoders.vocoder import Codec, load_codec
from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic.sounds import render_sound
from foley_lab.training.loop import Run, parse_run, train
from foley_lab.training.losses_audio import LENGTHS, SpectralLoss
from foley_lab.weights import SHIPPED, save_shards

NUM_TRAINING, NUM_HELD_OUT = 2500, 80
CLIP_S, CROP_FRAMES, BATCH = 4.0, 25, 12
LATENT_NOISE = 0.2  # largest deviation; drawn anew for every crop


# -------------------------------------------------------------------------------------------- data


def draw_log(seed: int, seconds: float = CLIP_S) -> EventLog:
    """Happenings without a picture: every kind on every material, crowded and sparse."""
    rng = np.random.default_rng((0xC0DEC, seed))
    log = EventLog(family="codec", seed=seed, seconds=seconds)
    objects = [str(name) for name in rng.choice(MATERIALS, rng.integers(1, 4))]
    surface = str(rng.choice(MATERIALS)) if rng.random() < 0.8 else None
    kinds = rng.choice(["impact", "step", "key", "drop"], len(objects), p=[0.55, 0.17, 0.16, 0.12])
    widest_s = float(np.exp(rng.uniform(np.log(0.15), np.log(1.5))))
    time_s = float(rng.uniform(0.0, 0.8))
    while time_s < seconds and rng.random() < 0.97:
        which = int(rng.integers(len(objects)))
        strength = float(rng.beta(1.6, 1.3))
        event = Event(time_s, str(kinds[which]), objects[which], strength, surface, which)
        log.events.append(event)
        time_s += float(np.exp(rng.uniform(np.log(0.06), np.log(widest_s))))
    if rng.random() < 0.35:
        start_s = float(rng.uniform(0.0, seconds - 0.5))
        end_s = min(seconds, start_s + float(rng.uniform(0.4, 3.0)))
        speed = tuple(float(v) for v in rng.uniform(0.2, 1.0, rng.integers(2, 6)))
        kind = "scrape" if rng.random() < 0.5 else "roll"
        log.continuous.append(Interval(kind, start_s, end_s, objects[0], surface, 0, speed))
        if rng.random() < 0.4:
            log.events.clear()
    return log


def load_sounds(path: Path) -> NDArray[np.int16]:
    """Training clips, then held-out clips [clips, N], rendered at the first call."""
    seeds = [*range(NUM_TRAINING), *range(1_000_000, 1_000_000 + NUM_HELD_OUT)]
    if not path.exists():
        sounds = np.stack([_to_int16(render_sound(draw_log(seed))) for seed in seeds])
        np.save(path.with_suffix(".part.npy"), sounds)
        path.with_suffix(".part.npy").rename(path)
    return np.load(path)


def _to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(samples.clip(-1, 1) * 32767).astype(np.int16)


def to_samples(sounds: NDArray[np.int16]) -> Tensor:
    """int16 [B, N] to float32 samples [B, 1, N]."""
    return torch.from_numpy(sounds.astype(np.float32) / 32767)[:, None]


def prepare_analysis(codec: Codec, sounds: NDArray[np.int16], path: Path) -> None:
    """Load the analysis into the codec, or fit it to every fifth clip and save it for good."""
    if not path.exists():
        explained = codec.analysis.fit(to_samples(s) for s in np.array_split(sounds[::5], 50))
        shown = {n: round(float(explained[n - 1]), 4) for n in (8, 16, 32, 64, 96, 128)}
        print(f"variance explained by the first components: {shown}", file=sys.stderr)
        config = json.dumps(asdict(codec.config))
        save_file(codec.analysis.state_dict(), path, metadata={"config": config})
    codec.analysis.load_state_dict(load_file(path))


# ------------------------------------------------------------------------------------------ scores


def onset_lags_ms(decoded: Tensor, true: Tensor, times_s: list[float]) -> list[int]:
    """By how much each event of one sound [N] moved, by the correlation of 1 ms envelopes."""
    envelopes = [sound[: sound.numel() // 48 * 48].view(-1, 48) for sound in (decoded, true)]
    got, wanted = (e.square().mean(1).sqrt().numpy() for e in envelopes)
    lags = []
    for time_s in times_s:
        at = round(time_s * 1000)
        if at < 40 or at > len(wanted) - 60:
            continue
        shape = wanted[at - 20 : at + 40]
        shape = shape - shape.mean()
        moved = np.stack([got[at - 20 + lag : at + 40 + lag] for lag in range(-15, 16)])
        moved = moved - moved.mean(1, keepdims=True)
        match = moved @ shape / (np.linalg.norm(moved, axis=1) + 1e-9)
        lags.append(int(match.argmax()) - 15)
    return lags


def clear_onsets(log: EventLog) -> list[float]:
    """Times of the events that stand alone for 80 ms and are not faint."""
    times = [-1.0, *(event.time_s for event in log.events), log.seconds + 1]
    return [
        event.time_s
        for before, event, after in zip(times, log.events, times[2:], strict=False)
        if event.strength > 0.3 and min(event.time_s - before, after - event.time_s) > 0.08
    ]


def score(codec: Codec, loss: SpectralLoss, sounds: NDArray[np.int16]) -> dict[str, float]:
    """Held-out quality of encode → decode; "score" is higher when the sound is nearer."""
    metrics: dict[str, list[float]] = {}
    lags: list[int] = []
    device = codec.analysis.mean.device
    for index, sound in enumerate(sounds):
        true = to_samples(sound[None]).to(device)
        decoded = codec.decode(codec.encode(true))[:, 0, : true.shape[-1]]
        for n in (512, 1024, 2048):
            terms = loss.terms(decoded, true[:, 0], n, exact=True)
            for name, value in zip(("convergence", "log", "log_mel"), terms, strict=True):
                metrics.setdefault(f"{name}_{n}", []).append(float(value))
        log = draw_log(1_000_000 + index)
        if not log.continuous:
            lags += onset_lags_ms(decoded[0].cpu(), true[0, 0].cpu(), clear_onsets(log))
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    means["lag_median_ms"] = float(np.median(lags))
    means["lag_mae_ms"] = float(np.mean(np.abs(lags)))
    near = [means[f"{name}_{n}"] for name in ("log_mel", "convergence") for n in (512, 1024, 2048)]
    return {"score": -float(np.mean(near)), **means}


# ---------------------------------------------------------------------------------------- training


class Crops:
    """Training clips as latents and samples, from which batches of one second are drawn."""

    def __init__(self, codec: Codec, sounds: NDArray[np.int16], device: torch.device) -> None:
        self.sounds, self.device = sounds, device
        self.sample_rate, self.hop_length = codec.config.sample_rate, codec.config.hop_length
        chunks = np.array_split(sounds, math.ceil(len(sounds) / 20))
        encoded = [codec.encode(to_samples(chunk).to(device)).half() for chunk in chunks]
        self.latents = torch.cat(encoded)  # [clips, 128, T]
        self.onsets = [[event.time_s for event in draw_log(k).events] for k in range(len(sounds))]

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
        """Noisy latents [B, 128, 25] and true samples [B, N]; most crops hold an onset.

        The noise on the latents stands for what a generator will get wrong.
        """
        crops, targets = [], []
        last = self.latents.shape[-1] - CROP_FRAMES
        for clip in rng.integers(len(self.sounds), size=batch):
            first = int(rng.integers(last + 1))
            if self.onsets[clip] and rng.random() < 0.75:
                frame = int(rng.choice(self.onsets[clip]) * self.sample_rate) // self.hop_length
                first = int(np.clip(frame - rng.integers(CROP_FRAMES), 0, last))
            crops.append(self.latents[clip, :, first : first + CROP_FRAMES])
            begin, end = first * self.hop_length, (first + CROP_FRAMES) * self.hop_length
            targets.append(self.sounds[clip, begin:end])
        latents = torch.stack(crops).float()
        spread = LATENT_NOISE * torch.rand(batch, 1, 1, device=self.device)
        true = to_samples(np.stack(targets))[:, 0].to(self.device)
        return latents + spread * torch.randn_like(latents), true


def prepare(folder: Path, codec: Codec) -> tuple[Crops, NDArray[np.int16]]:
    """Sounds and analysis of `folder`, made when absent: training crops and held-out clips.

    The codec is moved to the accelerator if there is one, and given the analysis.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sounds = load_sounds(folder / "data.npy")
    training, held_out = sounds[:NUM_TRAINING], sounds[NUM_TRAINING:]
    prepare_analysis(codec, training, folder / "analysis.safetensors")
    return Crops(codec.to(device), training, device), held_out


def train_codec(run: Run) -> None:
    """Train, resuming where the run stands, and leave the best averages in its folder."""
    torch.manual_seed(run.seed)
    codec = Codec()
    crops, held_out = prepare(run.folder, codec)
    loss = SpectralLoss(codec.config.sample_rate).to(crops.device)
    optimizer = torch.optim.AdamW(
        codec.vocoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )

    def step_fn(step: int) -> dict[str, Tensor]:
        rng = run.rng(step)
        latents, true = crops.draw(rng, BATCH)
        with torch.autocast(crops.device.type, torch.bfloat16):
            decoded = codec.vocoder.decode(latents, first_frame=int(rng.integers(256)))
        return {"loss": loss(decoded[:, 0], true, LENGTHS[step % 2 :: 2])}

    config = asdict(codec.config)
    train(run, codec, optimizer, step_fn, lambda: score(codec, loss, held_out), config)


def export(run_dir: Path, stem: Path) -> Path:
    """Write the best averages of a run as the package keeps them, in half precision."""
    best = torch.load(run_dir / "best.pt", map_location="cpu", weights_only=True)
    load_codec(best["model"], best["config"])  # strict: nothing missing, nothing left over
    (path,) = save_shards(stem, best["model"], best["config"])
    return path


if __name__ == "__main__":
    planned = parse_run(Run("codec", minutes=60.0), (__doc__ or "").partition("\n")[0])
    train_codec(planned)
    print(export(planned.folder, planned.stem(SHIPPED / "small" / "codec")))
