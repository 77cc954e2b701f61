"""A list of videos, one after the other or a few side by side: `foley-lab batch`.

    LIST.csv ─plan→ jobs ─run→ outcomes, in the order of the rows

The whole list is read before anything is generated, so that names are settled first: a row without
`out` writes `<stem>_foley.mp4`, a second row of the same name `<stem>_foley_2.mp4`, and a list that
is run again meets its own files. Workers are threads around one model.
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foley_lab.media import check_target
from foley_lab.media.opening import existing_file, shown
from foley_lab.serving.targets import default_target, numbered
from foley_lab.signals import FoleyError, MediaError

if TYPE_CHECKING:
    from foley_lab.pipeline.lab import Lab

COLUMNS = ("video", "prompt", "negative_prompt", "seed", "out")
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Job:
    """One row.

    Attributes:
        row: Its number; the first row under the heading is 1.
        out: Where the result goes; None is `<stem>_foley` in `folder`, as number `number`.
        fault: Why it cannot be done, or None.
    """

    row: int
    video: Path
    folder: Path
    out: Path | None
    number: int = 1
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0
    fault: str | None = None


@dataclass
class Outcome:
    """What became of a row.

    Attributes:
        out: Where its result is; None when it failed.
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

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return vars(self) | {
            "video": str(self.video),
            "out": None if self.out is None else str(self.out),
        }


def plan(path: Path, folder: Path) -> list[Job]:
    """The rows of a list.

    Args:
        path: CSV in UTF-8 with a heading: video, prompt, and optionally negative_prompt, seed, out.
        folder: Of the results.

    Raises:
        MediaError: If there is no such file, or the folder is a file.
        ValueError: If it is no such list.
    """
    path = existing_file(path, "a list as .csv")
    if folder.exists() and not folder.is_dir():
        raise MediaError(f"{shown(folder)} is a file, wanted a folder, choose another name")
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
    taken: set[Path] = set()
    return [_job(number, row, path.parent, folder, taken) for number, row in enumerate(rows, 1)]


def _job(number: int, row: dict[str, Any], beside: Path, folder: Path, taken: set[Path]) -> Job:
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
    out, count = None, 1
    if cells["out"]:
        out = folder / cells["out"]
        if not out.resolve().is_relative_to(folder.resolve()):
            fault = fault or f"out {cells['out']!r} leaves the folder, wanted a name inside it"
        elif out in taken:
            fault = fault or f"out {cells['out']!r} is another row's, wanted a name of its own"
        taken.add(out)
    else:
        first = folder / f"{video.stem}_foley.mp4"
        while numbered(first, count) in taken:
            count += 1
        taken.add(numbered(first, count))
    words = {"prompt": cells["prompt"], "negative_prompt": cells["negative_prompt"] or None}
    return Job(number, video, folder, out, count, seed=given, fault=fault, **words)


def run(lab: Lab, jobs: Sequence[Job], workers: int, skip_existing: bool) -> Iterator[Outcome]:
    """Do the jobs; outcomes come in the order of the rows.

    What is wrong with a row is its outcome's error. When the iteration is left early, running jobs
    stop at their next step and leave no file.
    """
    stopped = threading.Event()

    def check(stage: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(job: Job) -> Outcome:
        outcome = Outcome(job.row, job.video)
        try:
            if job.fault is not None:
                raise ValueError(job.fault)
            check("read", 0, 1)
            if job.out is None:
                target = default_target(existing_file(job.video), job.folder, job.number)
            else:
                job.out.parent.mkdir(parents=True, exist_ok=True)
                target = check_target(job.video, job.out, force=True)
            if skip_existing and target.is_file():
                outcome.out, outcome.skipped = target, True
                return outcome
            result = lab(
                job.video,
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                seed=job.seed,
                callback=check,
            )
            outcome.warnings = result.warnings + result.save(target)
            outcome.out = target
            outcome.seconds = result.audio.duration_s
            outcome.total_s = result.timings.total_s
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
