"""How far apart picture and sound are, as a network of the field hears it: DeSync.

A synchronisation network sees 14 segments of .64 s, one every .32 s, and names the offset between
picture and sound on a grid of 21 steps from −2 to 2 s (Iashin et al. 2024, arXiv:2401.16423). It is
asked about the first and the last 14 segments of a clip; the score is the mean of the absolute
offsets. The grid is .2 s wide: for milliseconds there is `sync`.

The network is the user's own, an exported program (`torch.export.save`) from

    frames  [1, 14, 16, 3, 224, 224]   −1 to 1, 25 per second, centre of the shorter side
    sound   [1, 14, 10240]             16 kHz

to logits [1, 21], in `$FOLEY_LAB_WEIGHTS/field/desync.pt2`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from foley_lab.media import read_video
from foley_lab.signals import FoleyError, MediaError, MissingWeights, View
from foley_lab.weights import weights_dir

FRAME_RATE, SAMPLE_RATE = 25, 16_000
SEGMENTS, FRAMES, SAMPLES = 14, 16, 10_240
"""Segments asked about at once, frames and samples of each; half of each is the next one's too."""
GRID_S = np.linspace(-2, 2, 21)
STEP_S = Fraction(FRAMES // 2, FRAME_RATE)
SPAN_S = (SEGMENTS + 1) * STEP_S
"""From the first segment's start to the last one's end: 4.8 s."""
VIEW = View("desync", Fraction(FRAME_RATE), 224, 224, fit="crop", resample="bicubic")
FILMS = (".mp4", ".mkv", ".mov", ".webm")

Sound = NDArray[np.float32]
Network = Callable[[Tensor, Tensor], Tensor]


def desync_path() -> Path:
    """Where the network is.

    Raises:
        MissingWeights: If it is absent.
    """
    path = weights_dir() / "field" / "desync.pt2"
    if not path.is_file():
        raise MissingWeights(
            f"the network desync is absent, wanted {path} (torch.export, frames and sound to 21 "
            "logits), export it there or leave its score out"
        )
    return path


def load_desync() -> Network:
    """The network.

    Raises:
        MissingWeights: If it is absent.
    """
    return torch.export.load(desync_path()).module()


def film_of(sound: Path, log: Path) -> Path:
    """The film of a clip: what was scored if that is one, else what lies beside the log.

    Raises:
        MediaError: If there is none.
    """
    if sound.suffix.lower() in FILMS:
        return sound
    for suffix in FILMS:
        if (film := log.with_suffix(suffix)).is_file():
            return film
    raise MediaError(
        f"{log} has no film beside it, wanted {log.with_suffix('.mp4')} to see for desync, "
        "put it there"
    )


def desync(network: Network, film: Path, sound: Sound) -> float:
    """Mean absolute offset in seconds, 0 to 2, heard at the start and at the end of a clip.

    Args:
        network: From `load_desync`.
        film: The picture.
        sound: Mono [N] at 48 kHz.

    Raises:
        FoleyError: If the clip is shorter than 4.8 s.
        MediaError: If the film cannot be read.
    """
    wave = resample_poly(sound, 1, 3).astype(np.float32)
    segments = (wave.size - SAMPLES) // (SAMPLES // 2) + 1
    if segments < SEGMENTS:
        raise FoleyError(
            f"{film} lasts {sound.size / 48_000:.2f} s, wanted {float(SPAN_S):g} s or more for "
            "desync, leave that out"
        )
    offsets = []
    for first in (0, segments - SEGMENTS):
        start = first * SAMPLES // 2
        piece = wave[start : start + (SEGMENTS + 1) * SAMPLES // 2]
        heard = torch.from_numpy(piece).unfold(0, SAMPLES, SAMPLES // 2)  # [14, 10240]
        with torch.no_grad():
            logits = network(_seen(film, first * STEP_S)[None], heard[None].contiguous())
        offsets.append(abs(float(GRID_S[int(logits[0].argmax())])))
    return float(np.mean(offsets))


def _seen(film: Path, start: Fraction) -> Tensor:
    """Segments of the picture from `start` on [14, 16, 3, 224, 224]; a film that ends a little
    before its sound shows its last frame longer."""
    frames = read_video(film, (VIEW,), float(start), float(start + SPAN_S)).views[VIEW.name]
    wanted = torch.arange((SEGMENTS + 1) * FRAMES // 2).clamp(max=len(frames.images) - 1)
    images = frames.images[wanted].permute(0, 3, 1, 2).float() / 127.5 - 1  # [120, 3, 224, 224]
    return images.unfold(0, FRAMES, FRAMES // 2).permute(0, 4, 1, 2, 3).contiguous()
