"""The command `foley-lab`: what a user types, turned into calls of the other rooms.

Results go to stdout, progress and warnings to stderr. With `--json` the last line of stdout is one
JSON object. Bad input is one line `error: what came, what was wanted, what to do`. Exit codes:

    0 done    2 bad input or usage    4 part of a batch failed
    1 a bug   3 weights absent        130 interrupted

Whatever is heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from foley_lab.diagnosis import catalogue
from foley_lab.evaluation import keys
from foley_lab.signals import EventLog, FoleyError, MissingWeights

if TYPE_CHECKING:
    from foley_lab.pipeline.lab import Callback, Result

DONE, BAD_INPUT, NO_WEIGHTS, PARTLY, INTERRUPTED = 0, 2, 3, 4, 130

PARTS = ("codec", "encoder", "foley", "judge", "clips", "schedule")
"""What `train` can train or make: modules of `foley_lab.training`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; bugs leave as exceptions, which Python makes 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every character
            stream.reconfigure(errors="backslashreplace")
    heard: list[int] = []
    try:
        with _interruptible(heard):
            args = build_parser().parse_args(argv)
            return args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except ImportError:
        if not heard:
            raise
        # A package that is interrupted while it loads says that it cannot be loaded.
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - nor may the last flush complain
        return DONE
    except (FoleyError, ValueError, OSError) as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return NO_WEIGHTS if isinstance(error, MissingWeights) else BAD_INPUT


# --------------------------------------------------------------------------------------- grammar


class _Epilog(argparse.HelpFormatter):
    """Fills paragraphs, but leaves lists as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}, see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = _Parser(prog="foley-lab", description="Give silent videos a synchronised sound.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_batch(commands)
    _add_world(commands)
    _add_score(commands)
    _add_weights(commands)
    _add_bench(commands)
    train = commands.add_parser(
        "train",
        help="train a part of the small model, or fine-tune a model to films",
        description="`train PART` trains a part of the small model from nothing. `train foley "
        "--base small|xl|xxl --data DIR` fine-tunes a model to films with sound.",
    )
    train.add_argument("part", choices=PARTS)
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own flags")
    train.set_defaults(run=_train)
    return parser


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="one video in, one video with sound out")
    add = generate.add_argument
    add(
        "video",
        metavar="VIDEO",
        nargs="?",
        help="left out: --events alone, for xl and xxl words alone too; -o names a sound then",
    )
    add("-o", "--out", help="default: <stem>_foley.mp4 beside the video; .wav .flac .ogg: sound")
    add("--seconds", type=float, help="length without a video (default: 8, or that of the events)")
    add("--prompt", default="", help="what should sound")
    add("--negative-prompt", help="what should not")
    _add_model(generate)
    add("--seed", type=int, default=0)
    add("--stream", action="store_true", help="decode in short chunks, the first one early")
    add("--keep-audio", action="store_true", help="mix the video's own sound under")
    add("--events", metavar="LOG", help="event log to play instead of what is seen")
    add("--write-events", metavar="LOG", help="write what was played as an event log (.json)")
    add("--json", action="store_true", help="end with one line of JSON")
    generate.set_defaults(run=_generate)


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What `generate` and `batch` ask of a model in the same words."""
    add = parser.add_argument
    add("--model", default="small", help="small, xl or xxl")
    add("--steps", type=int, help="of the sampler, 1 to 1000 (small: 8, xl: 50)")
    add(
        "--guidance-scale",
        type=float,
        help="weight of picture and words, 0 to 50 (small: 2.5, xl: 4.5); to 1 there is none",
    )
    add("--sampler", help="euler, ab2, midpoint, heun, rk4; by diffusers dpmpp_2m, unipc, ddim")
    add(
        "--schedule",
        type=_schedule,
        help="uniform (default), cosine, optimal, or a shift such as 3",
    )
    add("--guidance", help="plain (default), interval, zero-star or rescaled")
    add("--step-cache", help="first_block, taylorseer or magcache; by diffusers")
    add("--decoder", help="vocoder; xl, xxl: dac-vae")
    add("--generator", default="flow", help="flow")
    add("--takes", type=int, default=1, help="versions, 1 to 16; the second is written to *_2")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16; xl, xxl: int8")
    add("--offload", action="store_true", help="xl, xxl: weights wait in host memory")
    add("--adapter", metavar="FILE", help="of a fine-tuning, `train foley --base small --help`")
    add(
        "--compat",
        choices=("reference",),
        help="xl, xxl: as published, mistakes included; ends at 15 s",
    )


def _add_batch(commands: Any) -> None:
    batch = commands.add_parser(
        "batch",
        help="a sound for every row of a list",
        description="Gives every row of a list a sound. A row without `out` writes "
        "<stem>_foley.mp4; rows that share that name are numbered _2, _3, ... in the order of "
        "their videos, prompts and seeds, so that results do not depend on the order of the rows. "
        "The flags hold for all rows and are checked before the first one runs.",
    )
    add = batch.add_argument
    add(
        "list",
        type=Path,
        metavar="LIST.csv",
        help="columns video,prompt and optionally negative_prompt,seed,out; relative videos are "
        "looked for beside the list, then here",
    )
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--workers", type=int, default=1, help="videos at the same time")
    add(
        "--skip-existing",
        action="store_true",
        help="leave rows whose result is there and was made of the same video, words, seed, model "
        "and flags, as DIR/.foley_batch tells; what it knows nothing of was not made here and is "
        "left with a warning, but made anew where rows share its name",
    )
    _add_model(batch)
    add("--json", action="store_true", help="end with one line of JSON")
    batch.set_defaults(run=_batch)


def _add_world(commands: Any) -> None:
    world = commands.add_parser("world", help="clips whose sound is known exactly")
    kinds = world.add_subparsers(dest="what", required=True, metavar="make|pairs")
    make = kinds.add_parser(
        "make",
        help="write 0000.mp4, 0000.wav, 0000.json, ...",
        description="Writes clips: 0000.mp4 (picture and sound), 0000.wav (48 kHz) and 0000.json "
        "(the log of what happens), then 0001.mp4 and so on.",
    )
    _add_clips(make)
    make.add_argument(
        "--stems",
        action="store_true",
        help="each body's own sound, 0000.stem-0.wav, ..., and the noise of the room, "
        "0000.stem-room.wav; they add up to 0000.wav",
    )
    make.set_defaults(run=_world_make)
    pairs = kinds.add_parser(
        "pairs",
        help="write 0000-a.mp4, 0000-b.mp4, ..., twins that differ in one factor",
        description="Writes pairs of clips, 0000-a.* and 0000-b.*, that differ in one factor. "
        "Times, places, room and camera are alike, so what is heard to differ comes from the "
        "factor. material and surface change in picture and sound, strength and size in the sound "
        "alone. Seeds whose clip has nothing to change are left out.",
    )
    _add_clips(pairs)
    pairs.add_argument("--factor", required=True, help="material, surface, strength or size")
    pairs.add_argument("--json", action="store_true", help="end with one line of JSON")
    pairs.set_defaults(run=_world_pairs)


def _add_clips(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="where to; it is made if it is missing")
    add("--count", type=int, required=True, help="how many")
    add("--seed", type=int, required=True, help="of the first; the next has the next")
    add("--seconds", type=float, default=8.0, help="length of each (default: 8)")
    add("--family", nargs="+", default=[], metavar="F", help="taken in turn (default: by chance)")
    add("--size", type=_size, metavar="WxH", help="1280x720; ugly clips draw theirs")
    add("--fps", type=float, help="25; ugly clips draw theirs")
    add("--split", default="clean", help="clean or ugly")
    add("--silent", action="store_true", help="no sound in the .mp4")


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score",
        help="sounds against the logs of what happens",
        description="Scores sounds against the logs of what happens. A sound belongs to the log "
        "with its name (0007.json: 0007_foley.* or 0007.*); 0007.wav beside the log is the "
        "reference. Sounds of any rate are resampled to 48 kHz, stereo is mixed to mono, silence "
        "has scores like any sound. A missing or damaged log, a log of another length, and a sound "
        "that is empty or has NaN in it are errors. Nothing is scored when the onset detector "
        "fails on exact sound.",
        epilog=keys.explained(),
        formatter_class=_Epilog,
    )
    score.add_argument("generated", type=Path, metavar="GENERATED", help="file or folder")
    score.add_argument("--events", type=Path, required=True, metavar="LOGS", help="file or folder")
    score.add_argument("--report", type=Path, metavar="HTML", help="write a page with the errors")
    score.add_argument(
        "--export", type=Path, metavar="DIR", help="write the clips as other suites read them"
    )
    score.add_argument(
        "--field",
        nargs="+",
        default=[],
        choices=keys.FIELD,
        metavar="NAME",
        help=f"ask networks of the field as well ({', '.join(keys.FIELD)}), which you have put "
        "into $FOLEY_LAB_WEIGHTS/field",
    )
    score.add_argument("--json", action="store_true", help="end with one line of JSON")
    score.set_defaults(run=_score)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="the benchmarks behind every figure",
        description="Runs benchmarks on clips of the world that no training has seen.",
        epilog=catalogue.explained(),
        formatter_class=_Epilog,
    )
    add = bench.add_argument
    add("names", nargs="*", metavar="NAME", help="default: all")
    add("--count", type=int, help="clips, of response pairs per factor (default: its own)")
    add("--first-seed", type=int, help="of the clips (default: its own)")
    add("--split", choices=("clean", "ugly"), default="clean", help="default: clean")
    add("--json", action="store_true", help="end with one line of JSON")
    bench.set_defaults(run=_bench)


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="what is present, from where, on which terms")
    what = weights.add_subparsers(dest="what", required=True, metavar="list|fetch|verify|convert")
    listed = what.add_parser("list", help="all of them, and the folder of the official ones")
    listed.add_argument("--json", action="store_true", help="end with one line of JSON")
    listed.set_defaults(run=_weights_list)
    official = "dac-vae, synchformer, siglip2 or clap"
    fetch = what.add_parser(
        "fetch",
        help="bring official weights; nothing else uses the network",
        description="Brings official weights to $FOLEY_LAB_WEIGHTS, for xl and xxl all that the "
        "model needs. An interrupted fetch goes on where it stopped. HF_ENDPOINT names a mirror, "
        "HF_HUB_OFFLINE=1 forbids the network.",
    )
    fetch.add_argument("name", metavar="NAME", help=f"xl, xxl, {official}")
    fetch.add_argument("--accept-licence", action="store_true", help="agree to the terms shown")
    fetch.set_defaults(run=_weights_fetch)
    verify = what.add_parser("verify", help="compare files with their digests")
    verify.add_argument("name", metavar="NAME", help=f"small, text, judge, xl, xxl, {official}")
    verify.set_defaults(run=_weights_verify)
    convert = what.add_parser(
        "convert",
        help="keep a copy that loads at once; the first use does so by itself",
    )
    convert.add_argument("name", metavar="NAME", help="xl, xxl, dac-vae or synchformer")
    convert.set_defaults(run=_weights_convert)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, wanted WIDTHxHEIGHT, e.g. 1280x720") from None


# -------------------------------------------------------------------------------------- generate


def _generate(args: argparse.Namespace) -> int:
    _use_free_cores()
    from foley_lab.media import check_target, probe
    from foley_lab.media.opening import shown
    from foley_lab.pipeline import presets
    from foley_lab.pipeline.lab import PIECE, STREAM_PIECE
    from foley_lab.serving.targets import check_log_target, default_target, numbered

    if args.video is not None:
        probe(args.video)  # a bad video is refused before the model is loaded
    if args.out is not None:
        target = check_target(args.video, args.out, force=True)
    elif args.video is not None:
        target = default_target(Path(args.video), Path(args.video).parent)
    else:
        raise ValueError("no video and no --out, wanted one of them, name the .wav to write")
    if args.keep_audio and args.video is None:
        raise ValueError("--keep-audio without a video, wanted one with sound, leave it out")
    events = EventLog.read(args.events) if args.events else None
    if args.write_events and args.model in presets.WITHOUT_EVENTS:
        raise ValueError(
            f"--write-events with {args.model}, which names no events, wanted the small model, "
            "leave it out"
        )
    log_target = check_log_target(args.write_events) if args.write_events else None
    lab = presets.load(
        args.model,
        args.device,
        args.dtype,
        offload=args.offload,
        compat=args.compat,
        adapter=args.adapter,
    )
    with _progress() as callback:
        stream = lab.stream(
            args.video,
            prompt=args.prompt,
            negative_prompt=args.negative_prompt,
            num_steps=args.steps,
            guidance_scale=args.guidance_scale,
            sampler=args.sampler,
            decoder=args.decoder,
            generator=args.generator,
            seed=args.seed,
            takes=args.takes,
            callback=callback,
            piece=STREAM_PIECE if args.stream else PIECE,
            events=events,
            seconds=args.seconds,
            schedule=args.schedule,
            guidance=args.guidance,
            step_cache=args.step_cache,
        )
        for _ in stream:
            pass
        result = stream.result
        callback("write", 0, args.takes)
        targets = [numbered(target, take + 1) for take in range(args.takes)]
        lost: list[str] = []
        for take, path in enumerate(targets):
            lost = result.save(path, take, args.keep_audio)
            callback("write", take + 1, args.takes)
        if log_target:
            result.log.write(log_target)
    for warning in (*result.warnings, *lost):
        _warn(warning)
    if args.json:
        print(json.dumps(_report(result, targets)))
    else:
        print(result.timings.table())
        for path in targets:
            print(shown(path))
    return DONE


def _schedule(text: str) -> str | float:
    """A name, or a shift."""
    try:
        return float(text)
    except ValueError:
        return text


def _report(result: Result, targets: Sequence[Path]) -> dict[str, Any]:
    """The object that `generate --json` ends with; `takes` lists all files, `out` is the first."""
    options, timings = result.options, result.timings.as_dict()
    return {
        "out": str(targets[0]),
        "takes": [str(path) for path in targets],
        "seconds": result.audio.duration_s,
        "sample_rate": result.audio.sample_rate,
        "channels": result.audio.samples.shape[0],
        "model": result.model,
        "generator": options.generator,
        "sampler": options.sampler,
        "decoder": options.decoder,
        "num_steps": options.num_steps,
        "schedule": options.schedule,
        "network_calls": result.network_calls,
        "evaluations": result.evaluations,
        "blocks_run": result.blocks_run,
        "guidance": options.guidance,
        "guidance_scale": options.guidance_scale,
        "step_cache": options.step_cache.name if options.step_cache else None,
        "seed": options.seed,
        "device": result.device,
        "dtype": result.dtype,
        "events": [
            {"time_s": e.time_s, "kind": e.kind, "material": e.material, "strength": e.strength}
            for e in result.events
        ],
        "intervals": [
            {"kind": i.kind, "start_s": i.start_s, "end_s": i.end_s, "material": i.material}
            for i in result.features.intervals
        ],
        "timings": timings,
        "real_time_factor": timings["total"] / result.audio.duration_s,
        "cache": {"hits": 0, "misses": 0},
        "peak_memory_bytes": _peak_memory_bytes(result.device),
    }


def _peak_memory_bytes(device: str) -> int | None:
    """Most memory held so far: the accelerator's where there is one, else the process's."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows does not tell
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ----------------------------------------------------------------------------------------- batch


def _batch(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise ValueError(f"workers {args.workers}, wanted at least 1, e.g. 2")
    from foley_lab.serving.batch import choose, origin, plan, run

    jobs = plan(args.list, args.out, args.takes)
    _use_free_cores(args.workers)
    from foley_lab.pipeline import presets

    lab = presets.load(
        args.model,
        args.device,
        args.dtype,
        offload=args.offload,
        compat=args.compat,
        adapter=args.adapter,
    )
    options = choose(
        lab,
        {
            "num_steps": args.steps,
            "guidance_scale": args.guidance_scale,
            "sampler": args.sampler,
            "decoder": args.decoder,
            "generator": args.generator,
            "takes": args.takes,
            "schedule": args.schedule,
            "guidance": args.guidance,
            "step_cache": args.step_cache,
        },
    )
    model = origin(lab, args.adapter, eight_bit=args.dtype == "int8", compat=args.compat)
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with _progress() as callback:
        for outcome in run(lab, jobs, args.workers, args.skip_existing, options, model):
            outcomes.append(outcome)
            callback("batch", len(outcomes), len(jobs))
            for warning in outcome.warnings:
                _warn(f"row {outcome.row}: {warning}")
            if outcome.error is not None:
                _say(f"row {outcome.row}: {_one_line(outcome.error)}")
            elif not args.json:
                note = " (was there)" if outcome.skipped else ""
                for path in outcome.takes:
                    print(f"{_one_line(str(path))}{note}", flush=True)
    failed = sum(o.error is not None for o in outcomes)
    skipped = sum(o.skipped for o in outcomes)
    counts = {
        "rows": len(jobs),
        "done": len(jobs) - failed - skipped,
        "skipped": skipped,
        "failed": failed,
    }
    if args.json:
        print(json.dumps(counts | {"results": [o.as_dict() for o in outcomes]}))
    else:
        print(", ".join(f"{value} {name}" for name, value in counts.items()))
    return PARTLY if failed else DONE


# ------------------------------------------------------------------------ world, score, weights


def _world_make(args: argparse.Namespace) -> int:
    clips = _dataset().make_clips(
        args.folder,
        args.count,
        args.seed,
        **_clip_options(args),
        workers=min(2, free_cores()),
        stems=args.stems,
    )
    with _progress() as callback:
        for number, _ in enumerate(clips, 1):
            callback("world", number, args.count)
    print(f"{args.count} clips in {_one_line(str(args.folder))}")
    return DONE


def _world_pairs(args: argparse.Namespace) -> int:
    pairs = _dataset().make_pairs(
        args.folder, args.count, args.seed, args.factor, **_clip_options(args)
    )
    made = []
    with _progress() as callback:
        for number, (a, b) in enumerate(pairs, 1):
            seed = EventLog.read(a.with_suffix(".json")).seed
            made.append({"a": str(a), "b": str(b), "seed": seed})
            callback("world", number, args.count)
    if args.json:
        print(json.dumps({"folder": str(args.folder), "factor": args.factor, "pairs": made}))
    else:
        print(f"{args.count} pairs in {_one_line(str(args.folder))}")
    return DONE


def _clip_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "seconds": args.seconds,
        "families": args.family,
        "size": args.size,
        "fps": args.fps,
        "split": args.split,
        "silent": args.silent,
    }


def _dataset() -> Any:
    try:
        from foley_lab.synthetic import dataset
    except ModuleNotFoundError as error:
        raise FoleyError(
            f"{error.name} is not installed, wanted it to draw clips, "
            "run `pip install foley-lab[world]`"
        ) from error
    return dataset


def _score(args: argparse.Namespace) -> int:
    _use_free_cores()
    from foley_lab.diagnosis.truth import gate
    from foley_lab.evaluation.score import find_partners, score_files

    partners = find_partners(args.generated, args.events)
    _check_outputs(args)
    for sound, log in partners:
        if sound.stem.removesuffix("_foley") != log.stem:
            _warn(f"{sound} is scored against {log}, which bears another name")
    if args.field:
        from foley_lab.evaluation.field_suite import check_field, score_field

        check_field(args.field)
    gate()
    scores = score_files(args.generated, args.events)
    if args.field:
        scores["field"] = score_field(args.field, partners)
    _warn_of_misfits(scores["per_clip"], [log for _, log in partners])
    if args.report:
        from foley_lab.evaluation.report import write_report

        write_report(args.report, partners, scores)
    if args.export:
        from foley_lab.evaluation.field_suite import export

        export(args.export, partners)
    if args.json:
        print(json.dumps(scores))
        return DONE
    for name, value in scores.items():
        if name == "per_clip":
            continue
        if isinstance(value, dict):
            value = "  ".join(
                f"{key} ms {_figure(each)}" if key.isdecimal() else f"{key} {_figure(each)}"
                for key, each in value.items()
            )
        print(f"{name:<26} {_figure(value)}")
    return DONE


def _warn_of_misfits(clips: Sequence[dict[str, Any]], logs: Sequence[Path]) -> None:
    """One warning for all references that do not sound when their logs say."""
    odd = [log for each, log in zip(clips, logs, strict=True) if each["reference_fits"] is False]
    if odd:
        named = ", ".join(f"{log.with_suffix('.wav')} beside {log.name}" for log in odd[:3])
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        _warn(
            f"a reference does not sound when its log says: {named}{more}, wanted the sound of "
            "the same clip, check their names"
        )


def _check_outputs(args: argparse.Namespace) -> None:
    """Find out before minutes of scoring whether the results can be written."""
    if args.report and (args.report.is_dir() or not args.report.absolute().parent.is_dir()):
        raise ValueError(
            f"report {args.report}, wanted a file in a folder that is there, e.g. report.html"
        )
    if args.export and args.export.exists() and not args.export.is_dir():
        raise ValueError(f"export {args.export} is a file, wanted a folder, choose another name")


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _weights_list(args: argparse.Namespace) -> int:
    from foley_lab.weights import catalogue, catalogue_report

    if args.json:
        print(json.dumps(catalogue_report()))
        return DONE
    rows = [("name", "present", "MB", "licence", "from")]
    for entry in catalogue():
        about = f"~{entry.about_bytes / 1e6:.0f}" if entry.about_bytes else "-"
        size = f"{entry.bytes / 1e6:.1f}" if entry.present else about
        absent = f", missing {' '.join(entry.missing)}" if entry.missing else ""
        present = "yes" if entry.present else "no"
        rows.append((entry.name, present, size, entry.licence, entry.origin + absent))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        print("  ".join((*cells, row[4])))
    print(f"official weights are looked for in {_one_line(catalogue_report()['folder'])}")
    return DONE


def _weights_fetch(args: argparse.Namespace) -> int:
    from foley_lab.weights import fetch

    for path in fetch(args.name, args.accept_licence, _say):
        print(f"here: {_one_line(str(path))}")
    return DONE


def _weights_verify(args: argparse.Namespace) -> int:
    from foley_lab.weights import verify

    for path in verify(args.name):
        print(f"sound: {path}")
    return DONE


def _weights_convert(args: argparse.Namespace) -> int:
    from foley_lab.pipeline.official import convert_official

    print(f"here: {_one_line(str(convert_official(args.name)))}")
    return DONE


def _bench(args: argparse.Namespace) -> int:
    _use_free_cores()
    from foley_lab.diagnosis.bench import BENCHMARKS

    asked = {"count": args.count, "first_seed": args.first_seed}
    given = {key: value for key, value in asked.items() if value is not None}
    count, first_seed = given.get("count", 1), given.get("first_seed", 0)
    told = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in given.items())
    if unknown := sorted(set(args.names) - set(BENCHMARKS)):
        raise ValueError(f"benchmark {unknown[0]!r}, wanted one of {', '.join(BENCHMARKS)}")
    if not 1 <= count <= 10_000 or not 0 <= first_seed < 1 << 40:
        raise ValueError(f"{told}, wanted 1 to 10000 clips and seeds below 2**40, change them")
    tables = {}
    for name in args.names or BENCHMARKS:
        tables[name] = BENCHMARKS[name](split=args.split, **given)
        for key, value in _flat(tables[name]):
            if isinstance(value, list) and value and isinstance(value[0], dict):
                print(f"{name} {key}")
                print("\n".join(_aligned(value)))
            else:
                print(f"{name} {key:<52} {_figure(value)}")
    if args.json:
        print(json.dumps(tables))
    return DONE


def _aligned(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rows of one kind, a line each, under a heading."""
    lines = [list(rows[0]), *([_figure(row[key]) for key in rows[0]] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(map(str.rjust, line, widths))


def _flat(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables, each with its path."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key} / ")
        else:
            yield above + key, value


def _train(args: argparse.Namespace) -> int:
    before, module = sys.argv, f"foley_lab.training.{args.part}"
    films = args.part == "foley" and any(a.startswith(("--base", "--data")) for a in args.rest)
    sys.argv = [f"foley-lab train {args.part}", *args.rest]
    try:
        if args.part == "foley" and {"-h", "--help"} & set(args.rest) and not films:
            print("to fine-tune to films: `foley-lab train foley --base small --help`\n")
        if films:  # the sounds of somebody's own films, on a base that is there
            _use_free_cores()
            from foley_lab.training import finetune

            finetune.main(args.rest)
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as error:  # of its own argument parser
        return error.code if isinstance(error.code, int) else DONE
    finally:
        sys.argv = before
    return DONE


# ---------------------------------------------------------------------------------- surroundings


def free_cores() -> int:
    """Cores this process may use: its affinity, or the quota of its control group if that is less.

    Counting all cores of a host in a container starts threads that wait for each other.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # known on Linux only
        cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):  # version 2
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, -(-int(quota) // int(period)))
    with suppress(OSError, ValueError):  # version 1, −1 without a quota
        folder = Path("/sys/fs/cgroup/cpu")
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            cores = min(cores, -(-quota // int((folder / "cpu.cfs_period_us").read_text())))
    return max(1, cores)


def _use_free_cores(workers: int = 1) -> None:
    """Set torch's threads, unless the user has set them."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(max(1, free_cores() // workers))


@contextmanager
def _progress() -> Iterator[Callback]:
    """A bar per stage on stderr, when somebody is there to see it."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from tqdm import tqdm

    with tqdm(bar_format="{desc:<9}{bar:30} {n_fmt}/{total_fmt} {elapsed}", leave=False) as bar:

        def show(stage: str, done: int, total: int) -> None:
            bar.set_description_str(stage, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def _warn(text: str) -> None:
    _say(f"warning: {_one_line(text)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """One printable line, whatever names and bytes the text holds."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())


@contextmanager
def _interruptible(heard: list[int]) -> Iterator[None]:
    """A polite end (SIGTERM) cleans up as Ctrl-C does; `heard` tells afterwards that one came."""

    def stop(number: int, *_: object) -> NoReturn:
        heard.append(number)
        raise KeyboardInterrupt

    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # whoever started us wants it unheard
                signal.signal(number, stop)
    except ValueError:  # only the main thread hears signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
