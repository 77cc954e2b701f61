"""The measures of the field, for those who have its networks.

Their networks are large and come under terms of their own, so the house brings none of them. Two
ways lead there:

`export` writes clips as hkchengrex/av-benchmark reads them (folders of sounds that are named alike,
and a list of captions), whose own programs do the rest:

    python evaluate.py --gt_audio DIR/gt --gt_cache DIR/gt-cache
        --pred_audio DIR/generated --pred_cache DIR/generated-cache --audio_length 8

`score_field` computes them here (`foley-lab score --field`), with networks that the user has put
into the weights folder: `clap` and `desync` as `field_clap` and `field_desync` tell, and for FD, KL
and IS exported programs (`torch.export.save`), which map ten seconds of sound [1, N] to an
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
from foley_lab.evaluation.field_clap import clap_folder, clap_score
from foley_lab.evaluation.field_desync import desync, desync_path, film_of, load_desync
from foley_lab.evaluation.score import read_clip, read_sound
from foley_lab.media import read_audio, write_audio
from foley_lab.signals import SMALL_RATES, MediaError, MissingWeights
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


def check_field(names: Iterable[str]) -> None:
    """Look for networks before anything is computed.

    Args:
        names: Of `keys.FIELD`.

    Raises:
        ValueError: If a name is unknown.
        MissingWeights: If a network is absent; the message names the file.
    """
    for name in names:
        if name == "clap":
            clap_folder()
        elif name == "desync":
            desync_path()
        else:
            _network_path(name)


def score_field(
    names: Sequence[str], partners: Sequence[tuple[Path, Path]]
) -> dict[str, float | None]:
    """Scores of the field for files.

    Args:
        names: Networks to ask, of `keys.FIELD`.
        partners: Sounds and their logs, as of `score.find_partners`. passt and panns compare with
            the .wav beside the log, clap with its prompt; desync sees the film (`film_of`).

    Returns:
        fd_<name>, kl_<name> and is_<name> of passt and panns (see `field_scores`), clap (mean
        cosine), desync_s (mean absolute offset over the clips, in seconds).

    Raises:
        MissingWeights, ValueError: As `check_field`, `field_scores` and `clap_score`.
        MediaError, FoleyError: If a reference, a film or a clip will not do.
    """
    check_field(names)
    clips = [read_clip(*paths) for paths in partners]
    sounds = [sound for sound, _ in clips]
    scores: dict[str, float | None] = {}
    if set(names) & set(NETWORKS):
        truth = [_reference(log) for _, log in partners]
        for name in NETWORKS:
            if name in names:
                scores |= field_scores(sounds, truth, name)
    if "clap" in names:
        scores["clap"] = clap_score(sounds, [log.prompt for _, log in clips])
    if "desync" in names:
        network, films = load_desync(), [film_of(*paths) for paths in partners]
        offsets = [desync(network, f, s) for f, s in zip(films, sounds, strict=True)]
        scores["desync_s"] = float(np.mean(offsets))
    return scores


def _reference(log: Path) -> Sound:
    if not (path := log.with_suffix(".wav")).is_file():
        raise MediaError(f"{log} has no reference, wanted {path} for passt and panns, put it there")
    return read_sound(path)


def load_network(name: str) -> Network:
    """A network of the field from the weights folder.

    Raises:
        ValueError: If the name is none of `NETWORKS`.
        MissingWeights: If its file is absent.
    """
    return torch.export.load(_network_path(name)).module()


def _network_path(name: str) -> Path:
    if name not in NETWORKS:
        raise ValueError(f"network {name!r}, wanted one of {', '.join(NETWORKS)}")
    path = weights_dir() / "field" / f"{name}.pt2"
    if not path.is_file():
        raise MissingWeights(
            f"the network {name} is absent, wanted {path} (torch.export, {NETWORKS[name]} Hz), "
            "export it there or leave its scores out"
        )
    return path


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
