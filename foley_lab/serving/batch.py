"""A list of videos, one after the other or a few side by side: `foley-lab batch`.

    LIST.csv ─plan→ jobs ─run→ outcomes, in the order of the rows

The whole list is read before anything is generated, so that names are settled first. A row without
`out` writes `<stem>_foley.mp4`; rows that share that name are numbered `_2`, `_3`, ... in the order
of their videos, prompts and seeds. So a result depends on the rows of a list, not on their order.

Beside the results `.foley_batch` keeps of what each was made, and a result is skipped only for the
same. Workers are threads around one model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from foley_lab import __version__
from foley_lab.generators.step_cache import StepCache
from foley_lab.media import check_target
from foley_lab.media.opening import existing_file, shown
from foley_lab.pipeline.lab import MAX_TAKES, Lab
from foley_lab.serving.targets import SUFFIXES, default_target, numbered
from foley_lab.signals import FoleyError, MediaError

COLUMNS = ("video", "prompt", "negative_prompt", "seed", "out")
MOST_ROWS = 100_000
PROBED = 64
"""Values of each parameter that tell one model from another."""

RECORDS = ".foley_batch"
"""Folder beside the results that tells of what they were made."""


@dataclass(frozen=True)
class Job:
    """One row.

    Attributes:
        row: Its number; the first row under the heading is 1.
        out: Where the result goes; None is `<stem>_foley` in `folder`, as number `number`.
        shared: Whether other rows would have the same name but for their numbers.
        fault: Why it cannot be done, or None.
    """

    row: int
    video: Path
    folder: Path
    out: Path | None
    number: int = 1
    shared: bool = False
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0
    fault: str | None = None


@dataclass
class Outcome:
    """What became of a row.

    Attributes:
        out: Where its result is, the first take; None when it failed.
        takes: Where all takes are.
        error: Why it failed, or None.
        skipped: Whether its result was there.
        seconds: Length of the sound, or None.
        total_s: Wall seconds it took, or None.
    """

    row: int
    video: Path
    out: Path | None = None
    error: str | None = None
    skipped: bool = False
    seconds: float | None = None
    total_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    takes: list[Path] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return vars(self) | {
            "video": str(self.video),
            "out": None if self.out is None else str(self.out),
            "takes": [str(path) for path in self.takes],
        }


class Records:
    """Of what the results in a folder were made: a small file for each, below `RECORDS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, result: Path) -> dict[str, Any] | None:
        """What is known of a result; None if nothing was ever written down."""
        path = self._path(result)
        if not path.exists():
            return None
        try:
            made_of = json.loads(path.read_text(encoding="utf-8"))["made_of"]
        except (ValueError, KeyError, TypeError):  # a damaged record agrees with nothing
            made_of = {}
        return made_of

    def write(self, result: Path, made_of: Mapping[str, Any]) -> None:
        """Write down of what a result is made; nothing (`{}`) while it is being replaced."""
        path = self._path(result)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            content = {"result": shown(self._name(result)), "made_of": made_of}
            aside.write_text(json.dumps(content), encoding="utf-8")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def _path(self, result: Path) -> Path:
        digest = hashlib.sha256(os.fsencode(self._name(result))).hexdigest()
        return self.folder / RECORDS / f"{digest[:24]}.json"

    def _name(self, result: Path) -> str:
        """Inside the folder, so that the folder can be moved."""
        return os.path.relpath(result, self.folder)


def check_folder(folder: Path) -> None:
    """Find out before anything is loaded whether results can be written.

    Args:
        folder: It need not be there yet.

    Raises:
        MediaError: If it is a file or below one, or takes no new files.
    """
    above = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not above.is_dir():
        raise MediaError(f"{shown(above)} is a file, wanted a folder, choose another name")
    check_target(None, above / f"{RECORDS}.wav", force=True)


def plan(path: Path, folder: Path, takes: int = 1) -> list[Job]:
    """The rows of a list.

    Args:
        path: CSV in UTF-8 with a heading: video, prompt, and optionally negative_prompt, seed, out.
        folder: Of the results.
        takes: Files of each row.

    Raises:
        MediaError: If there is no such file, or the folder takes no files.
        ValueError: If it is no such list, or there are too many takes.
    """
    if not 1 <= takes <= MAX_TAKES:
        raise ValueError(f"takes {takes}, wanted 1 to {MAX_TAKES}, ask for fewer at once")
    path = existing_file(path, "a list as .csv")
    check_folder(folder)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            heading = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = heading
            rows = [row for _, row in zip(range(MOST_ROWS + 1), reader, strict=False)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{shown(path)} is no table ({error}), wanted CSV in UTF-8, export it again"
        ) from error
    unknown = [name for name in heading if name not in COLUMNS]
    if "video" not in heading or unknown or len(set(heading)) < len(heading):
        raise ValueError(
            f"{shown(path)} has the columns {', '.join(heading)[:200]!r}, wanted video,prompt and "
            "optionally negative_prompt,seed,out, rename them"
        )
    if not 1 <= len(rows) <= MOST_ROWS:
        raise ValueError(
            f"{shown(path)} has {'no' if not rows else 'too many'} rows, wanted 1 to {MOST_ROWS}, "
            "add a row per video or split the list"
        )
    jobs = [_job(number, row, path.parent, folder) for number, row in enumerate(rows, 1)]
    return _settled(jobs, takes)


def _job(number: int, row: dict[str, Any], beside: Path, folder: Path) -> Job:
    fault = None
    if None in row or None in row.values():
        fault = "a row of another length than the heading, wanted a value per column, quote commas"
    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    video = Path(cells["video"])
    if (beside / video).exists():
        video = beside / video
    if not cells["video"]:
        fault = fault or "no video, wanted the path of one, fill the column"
    seed = cells["seed"] or "0"
    try:
        given = int(seed)
    except ValueError:
        given = 0
        fault = fault or f"seed {seed!r}, wanted a whole number, e.g. 0"
    out = folder / cells["out"] if cells["out"] else None
    if out and not out.resolve().is_relative_to(folder.resolve()):
        fault = fault or f"out {cells['out']!r} leaves the folder, wanted a name inside it"
    words = {"prompt": cells["prompt"], "negative_prompt": cells["negative_prompt"] or None}
    return Job(number, video, folder, out, seed=given, fault=fault, **words)


def _settled(jobs: Sequence[Job], takes: int) -> list[Job]:
    """Each with a name of its own, whatever their order."""
    taken: set[str] = set()
    settled: dict[int, Job] = {}

    def claim(*paths: Path) -> bool:
        names = {os.path.normpath(numbered(p, k + 1)) for p in paths for k in range(takes)}
        free = taken.isdisjoint(names)
        taken.update(names)
        return free

    for job in jobs:
        if job.out is not None:
            fault = job.fault
            if not claim(job.out):
                name = os.path.relpath(job.out, job.folder)
                fault = fault or f"out {name!r} is another row's, wanted a name of its own"
            settled[job.row] = replace(job, fault=fault)
    unnamed = [job for job in jobs if job.out is None]
    sharing = Counter(job.video.stem for job in unnamed)
    numbers: Counter[str] = Counter()
    for job in sorted(unnamed, key=_content):
        stem = job.video.stem
        first = job.folder / f"{stem}_foley"
        numbers[stem] += 1
        # The container is the video's affair and not known yet: all of them are spoken for.
        while not claim(
            *(numbered(first.with_name(first.name + s), numbers[stem]) for s in SUFFIXES)
        ):
            numbers[stem] += 1
        settled[job.row] = replace(job, number=numbers[stem], shared=sharing[stem] > 1)
    return [settled[job.row] for job in jobs]


def _content(job: Job) -> tuple[str, str, str, int, str]:
    """What rows of one name are sorted by."""
    words = (job.prompt, job.negative_prompt or "")
    return str(job.video), *words, job.seed, job.fault or ""


def choose(lab: Lab, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows have in common, defaults filled in, checked before the first of them runs.

    Args:
        asked: Arguments of `Lab.__call__`, JSON values; None is the model's default.

    Raises:
        ValueError: If one is unknown or out of its range.
    """
    options: dict[str, Any] = {
        name: getattr(lab.defaults, name, None) if value is None else value
        for name, value in asked.items()
    }
    lab.stream("a film", **options)  # checks them all, and starts when the first chunk is taken
    if options.get("step_cache") is not None:
        cache = StepCache.named(options["step_cache"])
        cache.apply(lab.generator.transformer, options["num_steps"])
    return options


def origin(lab: Lab, adapter: str | None = None, **options: Any) -> dict[str, Any]:
    """What a result owes to the model.

    Args:
        adapter: File of a fine-tuning.
        options: More that changes what the model says, JSON values.
    """
    return {
        "foley_lab": __version__,
        "model": lab.name,
        "weights": _weights(lab),
        "precision": str(lab.dtype).removeprefix("torch."),
        "adapter": _digest(Path(adapter)) if adapter else None,
        **options,
    }


def _weights(lab: Lab) -> str:
    """Digest of the first values of the transformer's parameters."""
    digest = hashlib.sha256()
    for name, parameter in lab.generator.transformer.named_parameters():
        if type(parameter.data) is Tensor:  # those of eight bits cannot be taken apart
            values = parameter.detach().flatten()[:PROBED].float().cpu()
            digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(
    lab: Lab,
    jobs: Sequence[Job],
    workers: int = 1,
    skip_existing: bool = False,
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Iterator[Outcome]:
    """Do the jobs; outcomes come in the order of the rows.

    What is wrong with a row is its outcome's error. When the iteration is left early, running jobs
    stop at their next step and leave no file.

    Args:
        workers: Threads.
        skip_existing: Leave results that were made of the same. A result of which nothing was
            written down was not made here: it is left, with a warning, unless rows share its name.
        options: From `choose`.
        model: From `origin`.
    """
    stopped = threading.Event()
    options = choose(lab, {"takes": 1}) if options is None else options
    model = origin(lab) if model is None else model

    def check(stage: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(job: Job) -> Outcome:
        outcome = Outcome(job.row, job.video)
        try:
            if job.fault is not None:
                raise ValueError(job.fault)
            check("read", 0, 1)
            target = _target(job)
            targets = [numbered(target, take + 1) for take in range(options["takes"])]
            asked = {n: getattr(job, n) for n in ("prompt", "negative_prompt", "seed")}
            made_of = {"video": _digest(job.video), **asked, **options, **model}
            records = Records(job.folder)
            if skip_existing and (faults := _found(job, targets, records, made_of)) is not None:
                outcome.skipped, outcome.warnings = True, faults
            else:
                result = lab(job.video, **asked, **options, callback=check)
                outcome.warnings = list(result.warnings)
                for take, path in enumerate(targets):
                    records.write(path, {})  # whoever interrupts now leaves no wrong record
                    lost = result.save(path, take)
                    records.write(path, made_of | {"take": take})
                    outcome.warnings += [each for each in lost if take == 0]
                outcome.seconds = result.audio.duration_s
                outcome.total_s = result.timings.total_s
            outcome.out, outcome.takes = target, targets
        except (FoleyError, ValueError, OSError) as error:
            outcome.error = str(error)
        return outcome

    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(work, job) for job in jobs]:
                yield future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _target(job: Job) -> Path:
    """Where a row goes; its folder is made.

    Raises:
        MediaError: If the video is none, or its sound cannot be written there.
    """
    video = existing_file(job.video)
    if job.out is None:
        return default_target(video, job.folder, job.number)
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            f"the folder {shown(job.out.parent)} cannot be made ({error.strerror}), wanted one "
            "that can be written, choose another"
        ) from error
    return check_target(video, job.out, force=True)


def _found(
    job: Job, targets: Sequence[Path], records: Records, made_of: Mapping[str, Any]
) -> list[str] | None:
    """Warnings about results that are left as they are, or None if they are to be made."""
    if not all(path.is_file() for path in targets):
        return None
    known = [records.read(path) for path in targets]
    if known == [{**made_of, "take": take} for take in range(len(targets))]:
        return []
    if any(each is not None for each in known) or job.shared:
        return None
    return [f"nothing tells of what {shown(targets[0])} was made, and it is left as it is"]
