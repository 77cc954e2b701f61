"""Scores of sounds against the logs of what happens: `foley-lab score`.

    sound ─detect→ onsets ─match→ events        when: f1, bias, error     (`sync`)
                     └───judge───→ materials    what: material_accuracy   (`material`)
    sound ─────compare───→ reference            how:  mr_stft, ...        (`spectral`)

Clips are pooled: events of all clips count alike, however many a clip has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foley_lab.evaluation.material import load_judge
from foley_lab.evaluation.spectral import envelope_correlation, log_mel_l1, mr_stft
from foley_lab.evaluation.sync import (
    ERROR_TOLERANCE_S,
    EventCounts,
    count_events,
    detect_onsets,
    match_events,
)
from foley_lab.media import read_audio
from foley_lab.signals import MATERIALS, EventLog, FoleyError, MediaError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp4", ".mkv", ".mov", ".webm")
LISTEN_EVERY_S = 0.25
"""How often the judge listens to what lasts."""

Sound = NDArray[np.float32]

_LIKENESS = {
    "envelope_correlation": envelope_correlation,
    "mr_stft": mr_stft,
    "log_mel_l1": log_mel_l1,
}


@dataclass
class ClipScore:
    """Scores of one clip.

    Attributes:
        counts: Onsets against events.
        judged, named: How many sounds the judge heard, and how many it named right.
        likeness: mr_stft, log_mel_l1 and envelope_correlation; None without a reference.
    """

    counts: EventCounts
    judged: int
    named: int
    likeness: dict[str, float | None]


def score_files(generated: Path, events: Path) -> dict[str, Any]:
    """Scores of files or folders.

    A sound belongs to the log with its name: `0007.json` is the log of `0007_foley.*` or `0007.*`.
    With a folder of logs and a single sound, the log is found by the name of the sound. If
    `0007.wav` lies beside the log it is the reference.

    What lasts (scrape, roll) sounds anew all the time: onsets inside it are never counted as false.

    Args:
        generated: A sound or film, or a folder of them.
        events: An event log, or a folder of them.

    Returns:
        clips, f1 and f1_chance_corrected {"10" ... "160"} by tolerance in ms, precision and recall
        at 40 ms, bias_ms, mae_ms, p95_ms, false_sounds_per_minute (see `EventCounts.scores`);
        material_accuracy of the events that were heard and of what lasts; envelope_correlation,
        mr_stft and log_mel_l1 against the references; None where there is nothing to measure;
        per_clip, the same for each clip with its name as `clip`.

    Raises:
        MediaError: If a file or a partner is missing or cannot be read.
        FoleyError: If a log is none.
        MissingWeights: If the judge of materials is absent.
    """
    names, scores = [], []
    for sound_path, log_path in _partners(Path(generated), Path(events)):
        reference = log_path.with_suffix(".wav")
        names.append(log_path.stem)
        scores.append(
            score_clip(
                _read(sound_path),
                _read_log(log_path),
                _read(reference) if reference.is_file() else None,
            )
        )
    per_clip = [{"clip": n} | summary([s]) for n, s in zip(names, scores, strict=True)]
    return {"clips": len(scores)} | summary(scores) | {"per_clip": per_clip}


def score_clip(sound: Sound, log: EventLog, reference: Sound | None = None) -> ClipScore:
    """Scores of one sound [N] at 48 kHz against its log and, if there is one, a reference [M]."""
    found = detect_onsets(sound)
    true = sorted((e for e in log.events if 0 <= e.time_s < log.seconds), key=lambda e: e.time_s)
    true_s = [event.time_s for event in true]
    lasting = [(each.start_s, each.end_s) for each in log.continuous]
    counts = count_events(found, true_s, log.seconds, lasting=lasting)
    heard = match_events(found, true_s, ERROR_TOLERANCE_S)
    times = [float(found[i]) for i, _ in heard]
    materials = [true[j].material for _, j in heard]
    for each in log.continuous:
        # The first and last tenth of a second fade.
        listening = np.arange(each.start_s + 0.1, each.end_s - 0.1, LISTEN_EVERY_S).tolist()
        times += listening
        materials += [each.material] * len(listening)
    pairs = [(t, m) for t, m in zip(times, materials, strict=True) if m in MATERIALS]
    named = load_judge().name(sound, [time for time, _ in pairs])
    right = sum(name == material for name, (_, material) in zip(named, pairs, strict=True))
    likeness: dict[str, float | None] = dict.fromkeys(_LIKENESS)
    if reference is not None:
        likeness = {name: measure(sound, reference) for name, measure in _LIKENESS.items()}
    return ClipScore(counts, len(pairs), right, likeness)


def summary(scores: Sequence[ClipScore]) -> dict[str, Any]:
    """Scores of pooled clips under the keys of `score --json`."""
    judged = sum(s.judged for s in scores)
    pooled = sum((s.counts for s in scores), EventCounts()).scores()
    pooled["material_accuracy"] = sum(s.named for s in scores) / judged if judged else None
    for name in _LIKENESS:
        values = [value for s in scores if (value := s.likeness[name]) is not None]
        pooled[name] = float(np.mean(values)) if values else None
    return pooled


# ---------------------------------------------------------------------------------------- files


def _partners(generated: Path, events: Path) -> list[tuple[Path, Path]]:
    """Sounds and their logs, in the order of names."""
    for path in (generated, events):
        if not path.exists():
            raise MediaError(f"{path} does not exist, wanted a file or a folder, check the path")
    if events.is_file():
        return [(_sound_of(events, generated) if generated.is_dir() else generated, events)]
    if generated.is_file():
        log = events / f"{generated.stem.removesuffix('_foley')}.json"
        if not log.is_file():
            raise MediaError(f"{generated} has no log, wanted {log}, give the log itself")
        return [(generated, log)]
    logs = sorted(events.glob("*.json"))
    if not logs:
        raise MediaError(f"{events} holds no event log, wanted *.json, see `foley-lab world make`")
    return [(_sound_of(log, generated), log) for log in logs]


def _sound_of(log: Path, folder: Path) -> Path:
    """The sound of a log in a folder: what was generated comes before what was there."""
    for stem in (f"{log.stem}_foley", log.stem):
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise MediaError(
        f"{folder} holds no sound for {log.name}, wanted {log.stem}.wav, {log.stem}_foley.mp4 or "
        "the like, generate it first"
    )


def _read(path: Path) -> Sound:
    return read_audio(path, mono=True).samples[0].numpy()


def _read_log(path: Path) -> EventLog:
    try:
        return EventLog.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FoleyError(f"{path}: {error}") from error
