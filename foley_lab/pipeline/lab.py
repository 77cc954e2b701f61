"""The stages in a row: a video and words in, a sound that fits out.

    clip ─read→ Video ─encode→ Features ─generate→ latents [takes, C, T] ─decode→ Audio ─write→ film

`Lab` is handed its encoder, generator and decoder and knows neither weights nor names of models
(those are made in `presets`). Everything a stranger may get wrong is checked before the first frame
is read; every stage is timed under its own word.

What several takes share is computed once: the video is read and encoded one time, the takes differ
in their noise. The sound is decoded in pieces, so the memory of a long clip is that of its small
frames.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from foley_lab.encoders.named import recast
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.eight_bit import is_eight_bit
from foley_lab.generators.step_cache import StepCache
from foley_lab.media import check_target, mux, probe, read_video, write_audio
from foley_lab.media.writing import FILM_FILES
from foley_lab.pipeline.pieces import PieceDecoder, decode_pieces
from foley_lab.pipeline.residence import Residence
from foley_lab.samplers import Progress, Sampled
from foley_lab.samplers.guidance import Guidance, check_guidance
from foley_lab.signals import (
    KINDS,
    MATERIALS,
    Audio,
    Event,
    EventLog,
    Features,
    Rates,
    Video,
    View,
)
from foley_lab.timing import Timings, collect, mark, span

GENERATORS = ("flow",)
"""What `generator=` may be called; `decoder=` is the model's own."""

MAX_STEPS, MAX_GUIDANCE, MAX_TAKES = 1000, 50.0, 16
LOG_SLACK_S = 0.15
"""A log that differs more from the length of the sound is probably another clip's."""

LONGEST_BLIND_S = 600.0
"""Longest sound without a film."""
KEEP_AUDIO_DB = 0.0
"""Level at which a film's own sound is kept under the new one: as it was."""

PIECE = 250
STREAM_PIECE = 50
"""Latent frames decoded at once, offline (10 s at 25 Hz) and while streaming (2 s)."""

Callback = Callable[[str, int, int], None]
"""Told of progress as (stage, done, total); may raise to stop."""


class TextReader(Protocol):
    """What reads a prompt."""

    def truncated(self, prompt: str) -> str:
        """The end that is not read, "" where all of it is."""
        ...


class ClipEncoder(Protocol):
    """What a `Lab` asks of its encoder; `plays_events`: whether it takes a log instead of sight."""

    plays_events: bool

    @property
    def text(self) -> TextReader: ...

    def views_for(self, info: Video) -> Sequence[View]: ...

    def encode(
        self,
        video: Video | None,
        prompts: Sequence[str],
        negative_prompt: str | None = None,
        events: EventLog | None = None,
        duration_s: float = 8.0,
    ) -> Features: ...


@dataclass(frozen=True)
class Defaults:
    """What a model does when it is told nothing else."""

    num_steps: int = 8
    guidance_scale: float = 2.5
    sampler: str = "euler"
    decoder: str = "vocoder"
    schedule: str | float = "uniform"
    guidance: str = "plain"


@dataclass(frozen=True)
class Options:
    """A request, its defaults filled in and its values checked; see `Lab.__call__`."""

    prompt: str
    negative_prompt: str | None
    num_steps: int
    guidance_scale: float
    sampler: str | Any
    decoder: str
    generator: str
    seed: int
    takes: int
    events: EventLog | None = None
    schedule: str | float | Sequence[float] = "uniform"
    guidance: str | Guidance | Any = "plain"
    step_cache: StepCache | None = None


@dataclass
class Result:
    """A sound for a clip, and how it came about.

    Attributes:
        takes: The versions, each with samples [1, N].
        features: What was seen and read, shared by the takes.
        info: The clip, without its frames.
        options: The request with its defaults filled in.
        timings: Seconds of read, encode, generate, decode and, once saved, write.
        network_calls: How often the generator's network ran.
        evaluations: Velocities computed for each take; a call under guidance takes two.
        blocks_run: Share of the network's blocks that ran; below 1 only under a step cache.
        model, device, dtype: What generated it, and in which precision its weights were.
        unread: End of the prompt that was too long to be read.
    """

    takes: list[Audio]
    features: Features
    info: Video
    options: Options
    timings: Timings
    network_calls: int
    model: str
    device: str
    dtype: str
    evaluations: int = 0
    blocks_run: float = 1.0
    unread: str = ""

    @property
    def audio(self) -> Audio:
        """The first take."""
        return self.takes[0]

    @property
    def events(self) -> list[Event]:
        """What the model saw, or was told to play."""
        return self.features.events

    @property
    def log(self) -> EventLog:
        """All that sounds, as a log to edit and hand back as `events`: prompt included, in the
        material that the prompt named where it overruled the eyes."""
        seconds = self.features.duration_s
        events, intervals = self.features.events, self.features.intervals
        if self.options.events is None:
            events, intervals = recast(self.options.prompt, events, intervals)
        return EventLog(
            family="",
            seed=self.options.seed,
            seconds=seconds,
            prompt=self.options.prompt,
            fps=self.info.frame_rate,
            size=(self.info.width, self.info.height) if self.info.path else (1280, 720),
            events=list(events),
            continuous=list(intervals),
        )

    @property
    def warnings(self) -> list[str]:
        """What was odd about the file, the words or the events, one line each."""
        played, lasts_s = self.options.events, self.features.duration_s
        odd = list(self.info.warnings)
        if self.unread:
            odd.append(f"the end of the prompt was not read: {self.unread[:60]!r}")
        if played is None:
            return odd
        if abs(played.seconds - lasts_s) > LOG_SLACK_S:
            odd.append(f"the log lasts {played.seconds:.2f} s and the sound {lasts_s:.2f} s")
        if beyond := sum(not 0 <= e.time_s < lasts_s for e in played.events):
            odd.append(f"{beyond} of {len(played.events)} events lie outside and are not heard")
        return odd

    def save(
        self, path: str | os.PathLike[str], take: int = 0, keep_audio: bool = False
    ) -> list[str]:
        """Write a take, replacing a file that stands there when the new one is whole.

        Args:
            path: .mp4 .mov .mkv .webm: the untouched picture with the sound; .wav .flac .ogg: the
                sound alone.
            take: Which take.
            keep_audio: Whether the film's own sound stays under the new one.

        Returns:
            What could not be carried over from the film, one line each.

        Raises:
            MediaError: If the target will not do or the film has gone.
            ValueError: If there is no such take, or a sound alone should keep the film's.
        """
        if not 0 <= take < len(self.takes):
            raise ValueError(
                f"take {take}, wanted 0 to {len(self.takes) - 1}, ask for more takes first"
            )
        source, target = self.info.path, Path(os.fsdecode(path))
        film = target.suffix.lower() in FILM_FILES
        if source is None and keep_audio:
            raise ValueError(
                "keep_audio for a sound without a film, wanted a film whose sound can be kept, "
                "leave it out"
            )
        if source is None and film:
            raise ValueError(
                f"{target} for a sound without a film, wanted .wav, .flac or .ogg, "
                "save the sound alone"
            )
        if keep_audio and not film:
            raise ValueError(
                f"keep_audio with a sound alone, wanted one of {' '.join(FILM_FILES)}, save a film"
            )
        with collect(self.timings), span("write") as writing:
            if film and source is not None:
                under_db = KEEP_AUDIO_DB if keep_audio else None
                lost = mux(source, target, self.takes[take], under_db, force=True)
            else:
                check_target(source, target, force=True)
                write_audio(target, self.takes[take])
                lost = []
            writing.bytes += target.stat().st_size
        return lost


class Lab:
    """A model that gives videos a sound; one may serve many threads.

    Args:
        encoder: Video and words to features.
        generator: Features to latents.
        decoder: Latents to sound.
        name: Of the model.
        rates: Its clocks.
        defaults: What it does when told nothing else.
        residences: Stages ("encode", "generate", "decode") whose weights are on the device only
            while they run.
    """

    def __init__(
        self,
        encoder: ClipEncoder,
        generator: FlowGenerator,
        decoder: PieceDecoder,
        name: str,
        rates: Rates,
        defaults: Defaults | None = None,
        residences: Mapping[str, Residence] | None = None,
    ) -> None:
        self.encoder, self.generator, self.decoder = encoder, generator, decoder
        self.name, self.rates, self.defaults = name, rates, defaults or Defaults()
        self.residences = dict(residences or {})

    @property
    def device(self) -> torch.device:
        """Where the generator runs."""
        if "generate" in self.residences:
            return self.residences["generate"].device
        return next(self.generator.transformer.parameters()).device

    def at_work(self, stage: str) -> AbstractContextManager[None]:
        """The weights of a stage on its device, for as long as they are needed."""
        return self.residences[stage].here() if stage in self.residences else nullcontext()

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the generator computes."""
        return self.generator.transformer.dtype

    @property
    def precision(self) -> str:
        """What the generator's weights are kept in: "int8", or the name of `dtype`."""
        if is_eight_bit(self.generator.transformer):
            return "int8"
        return str(self.dtype).removeprefix("torch.")

    def __call__(
        self,
        video: str | os.PathLike[str] | None,
        prompt: str = "",
        negative_prompt: str | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        decoder: str | None = None,
        generator: str = "flow",
        seed: int = 0,
        takes: int = 1,
        callback: Callback | None = None,
        events: EventLog | None = None,
        seconds: float | None = None,
        schedule: str | float | Sequence[float] | None = None,
        guidance: str | Guidance | Any | None = None,
        step_cache: str | StepCache | None = None,
        on_step: OnStep | None = None,
    ) -> Result:
        """A sound for a video; None is the model's default.

        Args:
            video: Path of a film; None for a sound from words (official sizes) or from a log of
                events (small) alone.
            prompt, negative_prompt: What should sound, and what should not.
            num_steps: Steps of the sampler, 1 to 1000.
            guidance_scale: Weight of what was seen and read, 0 to 50; at 1 or below half the work.
            sampler: One of `samplers.SAMPLERS`, or a scheduler of diffusers.
            decoder, generator: The model's decoder by name, one of `GENERATORS`.
            seed: Take k draws its noise from seed + k and from nothing else.
            takes: Versions, 1 to 16.
            callback: Told (stage, done, total) as the work goes on.
            events: What shall sound instead of what is seen, e.g. an edited `Result.log`; its
                prompt speaks where none is given, its materials hold whatever the prompt names,
                and what lies beyond the picture's end is not heard.
            seconds: Length of the sound where there is no film; default that of the events, or 8.
            schedule: Where the steps stand, see `samplers.schedules.times`; None is the model's
                default, or with a scheduler of diffusers the scheduler's own.
            guidance: How the guidance is applied, one of `samplers.guidance.GUIDANCES`, or a guider
                of diffusers, whose own scale then holds.
            step_cache: One of `generators.step_cache.STEP_CACHES`, to spare work between steps.
            on_step: Told after every step where the sound stands (`Stage`); `Stage.audio()` lets it
                be heard as it forms. May answer the latents to go on from.

        Returns:
            Takes that last exactly as long as the picture, within ±0.99.

        Raises:
            MediaError: If the video cannot be read.
            ValueError: If an option is out of its range.
        """
        stream = self.stream(
            video, prompt, negative_prompt, num_steps, guidance_scale, sampler, decoder, generator,
            seed, takes, callback, events, piece=PIECE, seconds=seconds, schedule=schedule,
            guidance=guidance, step_cache=step_cache, on_step=on_step,
        )  # fmt: skip
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        video: str | os.PathLike[str] | None,
        prompt: str = "",
        negative_prompt: str | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        decoder: str | None = None,
        generator: str = "flow",
        seed: int = 0,
        takes: int = 1,
        callback: Callback | None = None,
        events: EventLog | None = None,
        piece: int = STREAM_PIECE,
        seconds: float | None = None,
        schedule: str | float | Sequence[float] | None = None,
        guidance: str | Guidance | Any | None = None,
        step_cache: str | StepCache | None = None,
        on_step: OnStep | None = None,
    ) -> Stream:
        """The sound of a video in chunks, each as soon as it is decoded.

        All latents are generated before the first chunk, because every step of the sampler looks at
        the whole clip: streaming hides the decoding and the writing, not the generating. The first
        chunk comes after read + encode + generate + one piece of decode, and that instant is the
        mark `time_to_first_audio` of the timings. The work starts when the first chunk is asked
        for; bad options are refused at once.

        Args:
            piece: Latent frames per chunk, at least 1.

        Returns:
            Chunks of the first take as `Audio`; put together they are the sound of `__call__`.
        """
        if events is not None and not isinstance(events, EventLog):
            raise ValueError(
                f"events {events!r:.80}, wanted an EventLog, change `Result.log` or read one with "
                "EventLog.read"
            )
        if events is not None and not self.encoder.plays_events:
            raise ValueError(
                f"a log of {len(events.events)} events for {self.name!r}, which plays what it "
                "sees, wanted none, leave the events out or choose the small model"
            )
        options = Options(
            prompt=events.prompt if events is not None and prompt == "" else prompt,
            negative_prompt=negative_prompt,
            num_steps=self.defaults.num_steps if num_steps is None else num_steps,
            guidance_scale=(
                self.defaults.guidance_scale if guidance_scale is None else guidance_scale
            ),
            sampler=self.defaults.sampler if sampler is None else sampler,
            decoder=self.defaults.decoder if decoder is None else decoder,
            generator=generator,
            seed=seed,
            takes=takes,
            events=events,
            schedule=self._schedule(sampler) if schedule is None else schedule,
            guidance=self.defaults.guidance if guidance is None else guidance,
            step_cache=_find_step_cache(step_cache),
        )
        check_options(options, (self.defaults.decoder,))
        self.generator.choose(
            options.sampler, options.num_steps, options.schedule, options.guidance
        )
        if options.step_cache is not None:
            options.step_cache.prepare()
        if on_step is not None and not callable(on_step):
            raise ValueError(f"on_step {on_step!r:.80}, wanted a function, leave it out")
        if not _is_int(piece) or piece < 1:
            raise ValueError(f"piece {piece!r}, wanted latent frames, at least 1, e.g. 50")
        if video is None and events is None and not prompt:
            raise ValueError(
                "video None, wanted the path of a film, or words or events to sound without one, "
                "give one of them"
            )
        if video is None:
            lasts_s = seconds
            if lasts_s is None:
                lasts_s = events.seconds if events is not None else 8.0
            if isinstance(lasts_s, bool) or not 0 < lasts_s <= LONGEST_BLIND_S:
                raise ValueError(
                    f"seconds {seconds!r}, wanted above 0 to {LONGEST_BLIND_S:g}, e.g. 8"
                )
            source: Path | float = float(lasts_s)
        elif seconds is not None:
            raise ValueError(
                f"seconds {seconds!r} for a film, which has its own length, leave them out"
            )
        elif isinstance(video, (str, bytes, os.PathLike)):
            source = Path(os.fsdecode(video))
        else:
            raise ValueError(f"video {video!r:.80}, wanted the path of a film, give its path")
        return Stream(self, source, options, callback or _ignore, piece, on_step)

    def _schedule(self, sampler: str | Any | None) -> str | float:
        """The default; a scheduler of the caller's own brings its own."""
        own = sampler is not None and not isinstance(sampler, str)
        return "uniform" if own else self.defaults.schedule

    def read(self, path: Path) -> Video:
        """The clip as the encoder wants to see it."""
        with span("read") as reading:
            info = probe(path)
            video = read_video(path, self.encoder.views_for(info))
            reading.bytes += path.stat().st_size
        return video

    def encode(self, video: Video, options: Options) -> Features:
        """What is seen and read; of a `Video` without a path only what is read."""
        with span("encode", self.device), self.at_work("encode"):
            return self.encoder.encode(
                video if video.path else None,
                [options.prompt],
                options.negative_prompt,
                options.events,
                video.duration_s,
            )

    def generate(
        self,
        features: Features,
        options: Options,
        callback: Callback,
        on_step: OnStep | None = None,
    ) -> Sampled:
        """Latents [takes, C, T] and what they cost."""
        features = _on(features, self.device)

        def told(progress: Progress) -> Tensor | None:
            callback("generate", progress.done, progress.total)
            return None if on_step is None else on_step(Stage(progress, self, features.duration_s))

        with span("generate", self.device), self.at_work("generate"):
            return self.generator.sample(
                features,
                num_steps=options.num_steps,
                guidance_scale=options.guidance_scale,
                sampler=options.sampler,
                seeds=options.seed,
                takes=options.takes,
                latents_length=self.rates.num_latents(features.duration_s),
                schedule=options.schedule,
                guidance=options.guidance,
                step_cache=options.step_cache,
                callback=told,
            )

    def decode(self, latents: Tensor, duration_s: float) -> Audio:
        """The sound of one clip's latents [1, C, T], decoded in pieces."""
        count = self.rates.num_samples(duration_s)
        with torch.no_grad(), self.at_work("decode"):
            pieces = list(decode_pieces(self.decoder, latents, self.rates.hop_length, count, PIECE))
        return Audio(torch.cat(pieces, -1)[0].cpu(), self.rates.sample_rate)


@dataclass(frozen=True)
class Stage:
    """A sound on its way from noise.

    Attributes:
        progress: Steps done, the time reached, the latents.
        lab: Whose sound it is.
        duration_s: Of the sound.
    """

    progress: Progress
    lab: Lab
    duration_s: float

    def audio(self, take: int = 0) -> Audio:
        """What would be heard if the last velocity led straight to the sound, decoded; it costs the
        decoder's time."""
        return self.lab.decode(self.progress.estimate[take : take + 1], self.duration_s)


OnStep = Callable[[Stage], Tensor | None]
"""Told after each step of the sampler."""


class Stream(Iterator[Audio]):
    """Chunks of a sound on its way; made by `Lab.stream`."""

    def __init__(
        self,
        lab: Lab,
        source: Path | float,
        options: Options,
        callback: Callback,
        piece: int,
        on_step: OnStep | None = None,
    ) -> None:
        self.timings = Timings()
        self._result: Result | None = None
        self._chunks = self._run(lab, source, options, callback, piece, on_step)

    def __next__(self) -> Audio:
        return next(self._chunks)

    @property
    def result(self) -> Result:
        """Everything together, once the last chunk has been taken.

        Raises:
            ValueError: If there are chunks left.
        """
        if self._result is None:
            raise ValueError("the result of a stream with chunks left, wanted none, take them all")
        return self._result

    def _run(
        self,
        lab: Lab,
        source: Path | float,
        options: Options,
        callback: Callback,
        piece: int,
        on_step: OnStep | None,
    ) -> Iterator[Audio]:
        rates = lab.rates
        with collect(self.timings):
            callback("read", 0, 1)
            if isinstance(source, Path):
                video = lab.read(source)
            else:
                video = Video(None, source, 0, 0, float(rates.latent_rate), {})
            callback("encode", 0, 1)
            features = lab.encode(video, options)
            video.views.clear()  # nothing looks at the frames again
            sampled = lab.generate(features, options, callback, on_step)
        latents = sampled.latents
        count = rates.num_samples(min(video.duration_s, features.duration_s))
        total = math.ceil(latents.shape[-1] / piece)
        pieces = decode_pieces(lab.decoder, latents, rates.hop_length, count, piece)
        takes = torch.empty(options.takes, 1, count)
        done = 0
        for number in range(1, total + 1):
            # Opened anew for each piece: no time passes between a `yield` and the next request.
            with collect(self.timings), span("decode", lab.device), lab.at_work("decode"):
                sound = next(pieces)
            with collect(self.timings):
                mark("time_to_first_audio")
            takes[..., done : done + sound.shape[-1]] = sound
            done += sound.shape[-1]
            callback("decode", number, total)
            if number == total:
                self._result = Result(
                    takes=[Audio(take, rates.sample_rate) for take in takes],
                    features=features,
                    info=video,
                    options=options,
                    timings=self.timings,
                    network_calls=sampled.network_calls,
                    evaluations=sampled.evaluations,
                    blocks_run=sampled.blocks_run,
                    model=lab.name,
                    device=str(lab.device),
                    dtype=lab.precision,
                    unread=lab.encoder.text.truncated(options.prompt),
                )
            yield Audio(sound[0], rates.sample_rate)


def check_options(options: Options, decoders: Sequence[str]) -> None:
    """Refuse what cannot be generated.

    Args:
        decoders: Names of the model's decoders.

    Raises:
        ValueError: One line: what came, what was wanted, what to do.
    """
    o = options
    for name, text in (("prompt", o.prompt), ("negative_prompt", o.negative_prompt or "")):
        if not isinstance(text, str):
            raise ValueError(f"{name} {text!r:.80}, wanted text, write it in quotes")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} holds bytes that are no text, wanted UTF-8, type it anew"
            ) from error
    if not _is_int(o.num_steps) or not 1 <= o.num_steps <= MAX_STEPS:
        raise ValueError(
            f"num_steps {o.num_steps!r}, wanted a whole number from 1 to {MAX_STEPS}, e.g. 8"
        )
    check_guidance(o.guidance, o.guidance_scale, MAX_GUIDANCE)
    for name, value, known in (
        ("decoder", o.decoder, tuple(decoders)),
        ("generator", o.generator, GENERATORS),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r}, wanted one of {', '.join(known)}, choose another")
    if not _is_int(o.takes) or not 1 <= o.takes <= MAX_TAKES:
        raise ValueError(
            f"takes {o.takes!r}, wanted a whole number from 1 to {MAX_TAKES}, ask for fewer at once"
        )
    if not _is_int(o.seed) or not 0 <= o.seed <= 2**63 - MAX_TAKES:
        raise ValueError(f"seed {o.seed!r}, wanted a whole number from 0 to 2**63 - 16, e.g. 0")
    sounding = [*o.events.events, *o.events.continuous] if o.events else []
    for each in sounding:
        if each.kind not in KINDS or each.material not in MATERIALS:
            raise ValueError(
                f"an event of kind {each.kind!r} and material {each.material!r}, wanted one of "
                f"{', '.join(KINDS)} and one of {', '.join(MATERIALS)}, correct the log"
            )


def _find_step_cache(cache: str | StepCache | None) -> StepCache | None:
    if cache is None or isinstance(cache, StepCache):
        return cache
    if not isinstance(cache, str):
        raise ValueError(f"step_cache {cache!r:.80}, wanted a name or a StepCache, leave it out")
    return StepCache.named(cache)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _on(features: Features, device: torch.device) -> Features:
    """The features with their tokens on a device."""
    tensors = {
        each.name: value.to(device)
        for each in fields(features)
        if isinstance(value := getattr(features, each.name), Tensor)
    }
    return replace(features, **tensors)


def joined(clips: Sequence[Features]) -> Features:
    """Clips of one length as one batch, to be generated together; of their events none are kept.

    Raises:
        ValueError: If they differ in length.
    """
    if len({c.duration_s for c in clips}) != 1:
        raise ValueError(
            f"clips of {sorted({c.duration_s for c in clips})} s, wanted one length, sort them"
        )
    names = [f.name for f in fields(Features) if isinstance(getattr(clips[0], f.name), Tensor)]
    tokens = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in names}
    return replace(clips[0], events=[], intervals=[], **tokens)


def _ignore(stage: str, done: int, total: int) -> None:
    """Progress that nobody follows."""
