"""Films with sound, made into what fine-tuning reads; done once, kept on disk.

    DIR/*.mp4 ─read→ stretches ─cut→ windows of 8 s ─encode→ features ─┐
            └ its own sound, 48 kHz mono ───────── codec ──→ latents ──┴→ <key>.safetensors

The key is a digest of all that a window depends on: the film, its log, its words, its place and the
model that encodes it. So a changed film is encoded anew, nothing is encoded twice, and what is read
is always what was kept, in half precision. A film that cannot be used is passed over with a
warning.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foley_lab.encoders.track import HELD_S, TRACK_DIM
from foley_lab.generators.foley import FoleyTransformer
from foley_lab.media import num_slots, probe, read_audio, read_video
from foley_lab.media.opening import printable
from foley_lab.media.writing import FILM_FILES
from foley_lab.pipeline.lab import Lab
from foley_lab.signals import EventLog, FoleyError, Frames, Interval, MediaError, Video
from foley_lab.weights import SHIPPED

SHORTEST_S = 1.0
"""A film, or what remains of it after whole windows, is not used if it is shorter."""

STRETCH = 15
"""Windows read at once: two minutes, small in memory, and films are opened seldom."""

SILENT = 1e-3
"""Peak of a sound that is none, −60 dB."""

CAPTIONS = "captions.csv"


@dataclass(frozen=True)
class Film:
    """A film and what its owner says about it.

    Attributes:
        path: Where it is.
        digest: SHA-256 of the file.
        prompt: Words for its sound; "" is what the model asks for by itself.
        log: What happens in it, if that is known.
    """

    path: Path
    digest: str
    prompt: str = ""
    log: EventLog | None = None


@dataclass(frozen=True)
class Window:
    """A stretch of a film, encoded.

    Attributes:
        path: visual [V, ·], latents [C, T], empty_text [L, ·]; and as the film's words have it, and
            as the model has it by itself, text_0 and text_1 [L, ·], sync_0 and sync_1 [S, ·].
        film: Digest of the film.
    """

    path: Path
    film: str

    def load(self) -> dict[str, Tensor]:
        """Its tensors in float32."""
        return {name: tensor.float() for name, tensor in load_file(self.path).items()}


def encode_films(lab: Lab, folder: Path, cache: Path) -> list[Window]:
    """Windows of all films in a folder, encoded unless they already are.

    Args:
        lab: Its encoder and its codec do the work; its generator knows the windows' length.
        folder: Films, and optionally `captions.csv` with the columns name,caption, or NAME.txt, or
            NAME.json, an event log as `foley-lab world make` writes it.
        cache: Where windows are kept; it is made with the first of them.

    Raises:
        FoleyError: If the folder, its captions or every film in it will not do.
    """
    paths, captions = find_films(folder), read_captions(folder)
    known = {name for path in paths for name in (path.name, path.stem)}
    for name in sorted(captions.keys() - known):
        _warn(f"{CAPTIONS} speaks of {name!r}, which is no film here")
    windows: list[Window] = []
    for number, path in enumerate(paths, 1):
        try:
            film = describe(path, captions)
            windows += _encode(lab, film, cache)
        except (FoleyError, ValueError, OSError) as error:
            _warn(f"{printable(path.name)} is left out: {error}")
        print(f"films: {number} of {len(paths)}", file=sys.stderr, flush=True)
    if not windows:
        raise FoleyError(
            f"{folder} holds {len(paths)} films and none that can be used, wanted at least one "
            "with sound, see the warnings above"
        )
    return windows


def find_films(folder: Path) -> list[Path]:
    """Films in a folder, by name.

    Raises:
        FoleyError: If it is no folder or holds none.
    """
    if not folder.is_dir():
        raise FoleyError(f"{folder} is no folder, wanted one with films, check the path")
    films = sorted(p for p in folder.iterdir() if p.suffix.lower() in FILM_FILES)
    if not films:
        raise FoleyError(
            f"{folder} holds no film, wanted {' '.join(FILM_FILES)} with sound, put some there"
        )
    return films


def read_captions(folder: Path) -> dict[str, str]:
    """Captions by the name of the film, with or without its suffix; none without the file.

    Raises:
        FoleyError: If the file is there and has other columns or is no text.
    """
    path = folder / CAPTIONS
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["name"].strip(): (row["caption"] or "").strip() for row in rows}
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise FoleyError(
            f"{path} cannot be read ({error}), wanted UTF-8 with the columns name,caption, "
            "write them into its first line"
        ) from error


def describe(path: Path, captions: dict[str, str]) -> Film:
    """A film with its words: those of the captions, else of NAME.txt, else of its log.

    Raises:
        FoleyError: If its log or its text cannot be read.
    """
    log = path.with_suffix(".json")
    happens = EventLog.read(log) if log.exists() else None
    prompt = captions.get(path.name) or captions.get(path.stem)
    words = path.with_suffix(".txt")
    if prompt is None and words.exists():
        try:
            prompt = " ".join(words.read_text(encoding="utf-8").split())
        except UnicodeDecodeError as error:
            raise FoleyError(f"{words} is no UTF-8, wanted a caption, write it anew") from error
    if prompt is None:
        prompt = happens.prompt if happens else ""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Film(path, digest, prompt, happens)


def _encode(lab: Lab, film: Film, cache: Path) -> list[Window]:
    """The windows of a film.

    Raises:
        FoleyError, ValueError, OSError: If it cannot be used.
    """
    info = probe(film.path)
    if not info.has_audio:
        raise MediaError("it has no sound, wanted a film with its own, add it")
    length_s = lab.generator.window / lab.rates.latent_rate
    spans = list(_spans(info.duration_s, length_s))
    if not spans:
        raise MediaError(f"it lasts {info.duration_s:.2f} s, wanted at least {SHORTEST_S:g} s")
    model = _model_digest(lab.name)
    files = [cache / f"{_key(film, model, span)}.safetensors" for span in spans]
    sound: Tensor | None = None
    for first in range(0, len(spans), STRETCH):
        stretch = range(first, min(first + STRETCH, len(spans)))
        if all(files[i].exists() for i in stretch):
            continue
        if sound is None:
            sound = _sound(film.path, lab.rates.num_samples(info.duration_s))
        start_s, end_s = spans[stretch[0]][0], spans[stretch[-1]][1]
        video = read_video(film.path, lab.encoder.views_for(info), start_s, end_s)
        for fault in video.warnings:
            _warn(f"{printable(film.path.name)}: {fault}")
        for i in stretch:
            low, high = spans[i]
            cut = cut_video(video, low - start_s, min(high - start_s, video.duration_s))
            log = film.log and cut_log(film.log, low, high)
            samples = sound[:, lab.rates.num_samples(low) :]
            _save(_tensors(lab, cut, film.prompt, log, samples), files[i])
    return [Window(path, film.digest) for path in files]


def _spans(duration_s: float, length_s: float) -> Iterator[tuple[float, float]]:
    """Starts and ends of windows that follow each other; the last may be shorter."""
    for k in range(math.ceil(duration_s / length_s)):
        span = k * length_s, min((k + 1) * length_s, duration_s)
        if span[1] - span[0] >= SHORTEST_S:
            yield span


def _sound(path: Path, count: int) -> Tensor:
    """The film's own sound, mono at 48 kHz, cut or padded to its picture: [1, N]."""
    samples = read_audio(path, mono=True).samples[:, :count]
    if not len(samples) or not samples.numel() or samples.abs().max() < SILENT:
        raise MediaError("its sound is silent, wanted one that can be heard")
    return torch.nn.functional.pad(samples, (0, count - samples.shape[1]))


def _tensors(
    lab: Lab, video: Video, prompt: str, log: EventLog | None, samples: Tensor
) -> dict[str, Tensor]:
    """What is kept of a window; `samples` [1, N] begin with it."""
    log = log if plays_score(lab.generator.transformer) else None
    seen = lab.encoder.encode(video, [prompt, ""], negative_prompt="", events=log)
    samples = samples[:, : lab.rates.num_samples(video.duration_s)].to(lab.device)
    codec: Any = lab.decoder  # every decoder that ships has an `encode`
    with torch.no_grad():
        latents = codec.encode(samples[None])
    if not isinstance(latents, Tensor):  # a distribution: its mean is what is heard best
        latents = latents.mode()
    length = lab.rates.num_latents(video.duration_s)
    assert latents.shape[-1] == length, (latents.shape, length)
    tensors = {"visual": seen.visual[0], "latents": latents[0]}
    tensors["empty_text"] = _said(seen.negative_text[0], seen.negative_text_mask)
    for row in range(2):
        tensors[f"text_{row}"] = _said(seen.text[row], seen.text_mask, row)
        tensors[f"sync_{row}"] = seen.sync[row]
    return {name: tensor.half().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _said(text: Tensor, mask: Tensor | None, row: int = 0) -> Tensor:
    """The tokens [L, D] of a prompt that are read."""
    return text if mask is None else text[mask[row]]


def plays_score(model: FoleyTransformer) -> bool:
    """Whether the sync tokens of a model are an event track (`encoders.track`)."""
    return model.config.sync_dim == TRACK_DIM and model.config.sync_positions == 0


def cut_video(video: Video, start_s: float, end_s: float) -> Video:
    """A section of a video as a clip of its own, its times counted from `start_s`.

    Args:
        start_s: A whole number of slots of every view.

    Raises:
        MediaError: If a view has no frame there.
    """
    views = {}
    for name, frames in video.views.items():
        rate = frames.view.frame_rate
        if rate:
            first = round(start_s * rate)
            rows = torch.arange(first, first + num_slots(end_s - start_s, rate))
            rows = rows[rows < len(frames.times_s)]
        else:
            inside = (frames.times_s >= start_s) & (frames.times_s < end_s)
            rows = inside.nonzero()[:, 0]
        if not len(rows):
            raise MediaError(f"it shows no frame from {start_s:g} to {end_s:g} s, wanted one")
        views[name] = Frames(frames.images[rows], frames.times_s[rows] - start_s, frames.view)
    return replace(video, duration_s=end_s - start_s, views=views)


def cut_log(log: EventLog, start_s: float, end_s: float) -> EventLog:
    """A section of a log, its times counted from `start_s`: what begins in it, and before it what
    still rings (at negative times)."""
    events = [
        replace(e, time_s=e.time_s - start_s)
        for e in log.events
        if start_s - HELD_S < e.time_s < end_s
    ]
    lasting = [
        _cut_interval(each, start_s, end_s)
        for each in log.continuous
        if each.start_s < end_s and each.end_s > start_s
    ]
    return replace(log, seconds=end_s - start_s, events=events, continuous=lasting)


def _cut_interval(each: Interval, start_s: float, end_s: float) -> Interval:
    low, high = max(each.start_s, start_s), min(each.end_s, end_s)
    speed = each.speed
    if len(speed) > 1 and (low, high) != (each.start_s, each.end_s):
        at = np.linspace(each.start_s, each.end_s, len(speed))
        count = max(2, round(len(speed) * (high - low) / (each.end_s - each.start_s)))
        speed = tuple(np.interp(np.linspace(low, high, count), at, speed).tolist())
    return replace(each, start_s=low - start_s, end_s=high - start_s, speed=speed)


def _model_digest(name: str) -> str:
    """Of a model by its name and, where it ships, by the digests of its files."""
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    files = {file: facts["sha256"] for file, facts in manifest.items() if name in file}
    return hashlib.sha256(json.dumps([name, files]).encode()).hexdigest()


def _key(film: Film, model: str, span: tuple[float, float]) -> str:
    log = film.log.to_json() if film.log else None
    content = json.dumps([film.digest, film.prompt, log, model, span])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write aside and move into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
