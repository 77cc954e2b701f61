"""The measures of the field, for those who have its networks.

Their networks are large and come under terms of their own, so the house brings none of them. Two
ways lead there:

`export` writes clips as hkchengrex/av-benchmark reads them (folders of sounds that are named alike,
and a list of captions), whose own programs do the rest:

    python evaluate.py --gt_audio DIR/gt --gt_cache DIR/gt-cache
        --pred_audio DIR/generated --pred_cache DIR/generated-cache --audio_length 8

`field_scores` computes FD, KL and IS here, with networks that the user has put into the weights
folder as exported programs (`torch.export.save`), which map ten seconds of sound [1, N] to an
embedding [1, D] and class logits [1, K]:

    $FOLEY_LAB_WEIGHTS/field/passt.pt2    32 kHz        $FOLEY_LAB_WEIGHTS/field/panns.pt2    16 kHz
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly

from foley_lab.evaluation.distance import frechet_distance, inception_score, kl_divergence
from foley_lab.evaluation.score import read_clip
from foley_lab.media import read_audio, write_audio
from foley_lab.signals import SMALL_RATES, MissingWeights
from foley_lab.weights import weights_dir

SECONDS = 10
NETWORKS = {"passt": 32_000, "panns": 16_000}
"""Name of each network and the rate in Hz at which it hears."""

Sound = NDArray[np.float32]
Network = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: two folders of .flac of equal names, and the captions."""

    generated: Path
    truth: Path
    captions: Path
    clips: int


def export(folder: str | os.PathLike[str], partners: Iterable[tuple[Path, Path]]) -> Exported:
    """Write clips to `generated/`, their exact sounds to `gt/`, their prompts to `captions.csv`.

    Args:
        folder: Is made if it is missing.
        partners: Sounds and their logs, as of `score.find_partners`. An exact sound is found as
            .wav beside its log; clips without one are in `generated/` alone.

    Returns:
        Where everything is. The captions have the columns name, id (the same) and caption.

    Raises:
        MediaError, FoleyError: As `score.read_clip`; what was written before stays.
    """
    folder = Path(folder)
    done = Exported(folder / "generated", folder / "gt", folder / "captions.csv", 0)
    for each in (done.generated, done.truth):
        each.mkdir(parents=True, exist_ok=True)
    rows = []
    for sound_path, log_path in partners:
        _, log = read_clip(sound_path, log_path)
        name, truth = log_path.stem, log_path.with_suffix(".wav")
        write_audio(done.generated / f"{name}.flac", read_audio(sound_path))
        if truth.is_file():
            write_audio(done.truth / f"{name}.flac", read_audio(truth))
        rows.append((name, name, log.prompt))
    handle, aside = tempfile.mkstemp(dir=folder, suffix=".csv")
    with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "id", "caption"), *rows])
    os.replace(aside, done.captions)
    done.captions.chmod(0o644)
    return Exported(done.generated, done.truth, done.captions, len(rows))


def load_network(name: str) -> Network:
    """A network of the field from the weights folder.

    Raises:
        ValueError: If the name is none of `NETWORKS`.
        MissingWeights: If its file is absent.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r}, wanted one of {', '.join(NETWORKS)}")
    path = weights_dir() / "field" / f"{name}.pt2"
    if not path.is_file():
        raise MissingWeights(
            f"the network {name} is absent, wanted {path} (torch.export, {NETWORKS[name]} Hz), "
            "export it there or leave its scores out"
        )
    return torch.export.load(path).module()


def field_scores(
    generated: Sequence[Sound], truth: Sequence[Sound], name: str
) -> dict[str, float | None]:
    """FD, KL and IS of one network.

    Args:
        generated, truth: Paired sounds [N] at 48 kHz.
        name: One of `NETWORKS`.

    Returns:
        fd_<name>, kl_<name> (truth ‖ generated, nats) and is_<name> (ten splits; None below ten
        clips).

    Raises:
        MissingWeights: If the network is absent.
        ValueError: If there are fewer than two pairs.
    """
    if len(generated) != len(truth) or len(truth) < 2:
        raise ValueError(
            f"{len(generated)} sounds and {len(truth)} references, wanted two pairs or more"
        )
    network = load_network(name)
    embeddings, classes = zip(
        *(_heard(network, sounds, NETWORKS[name]) for sounds in (generated, truth)), strict=True
    )
    return {
        f"fd_{name}": frechet_distance(*embeddings),
        f"kl_{name}": kl_divergence(*classes),
        f"is_{name}": inception_score(classes[0]) if len(generated) >= 10 else None,
    }


@torch.no_grad()
def _heard(
    network: Network, sounds: Sequence[Sound], rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Embeddings [B, D] and probabilities [B, K] of sounds cut or padded to ten seconds."""
    embeddings, classes = [], []
    for sound in sounds:
        resampled = resample_poly(sound - sound.mean(), 1, SMALL_RATES.sample_rate // rate)
        piece = np.zeros(SECONDS * rate, np.float32)
        piece[: resampled.size] = resampled[: piece.size]
        embedding, logits = network(torch.from_numpy(piece)[None])
        embeddings.append(embedding[0].double().numpy())
        classes.append(logits[0].double().softmax(-1).numpy())
    return np.stack(embeddings), np.stack(classes)
