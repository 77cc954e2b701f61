"""What travels through the house: rates, pictures, features, latents, sounds and the events that
tie them together.

    clip.mp4 ─read→ Video ─encode→ Features ─generate→ latents [B, 128, T] ─decode→ Audio [channels,
    N] ─write→ clip with sound

Every length in the project is derived here from a duration and a `Rates`, so that no two places
round differently. Time is in seconds (`_s`), rates in Hz, levels in dB (`_db`). Shape letters: `B`
batch, `C` latent channels, `T` latent frames, `N` samples, `V` visual, `S` sync and `L` text
tokens, `F` picture frames, `D` width.

The module is light on purpose (no torch at import): `import foley_lab` hands out these names in a
few milliseconds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("impact", "step", "key", "drop", "scrape", "roll")
"""What can happen. `impact`, `step`, `key` and `drop` are instants; `scrape` and `roll` are
intervals."""

MATERIALS = ("wood", "metal", "glass", "rubber", "stone", "plastic", "gravel", "cloth")
"""What can sound. Checkpoints count on the order: new ones are added at the end."""


class FoleyError(Exception):
    """Base of the errors a user can cause; the message is one line: what came, what was wanted,
    what to do."""


class MediaError(FoleyError):
    """A file that cannot be read or written as asked."""


class MissingWeights(FoleyError):
    """A checkpoint that is not on this machine; the message names the command that brings it."""


@dataclass(frozen=True)
class Rates:
    """The clocks of one model, in Hz; lengths follow from them.

    Attributes:
        sample_rate: Samples per second of the sound.
        latent_rate: Latent frames per second.
        sync_rate: Sync tokens per second.
        visual_rate: Visual (content) tokens per second.
    """

    sample_rate: int = 48_000
    latent_rate: int = 25
    sync_rate: Fraction = Fraction(25)
    visual_rate: Fraction = Fraction(25, 4)

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.sample_rate // self.latent_rate

    def num_samples(self, seconds: float | Fraction) -> int:
        """Samples that last `seconds`, rounded to the nearest."""
        return round(Fraction(seconds).limit_denominator(10_000_000) * self.sample_rate)

    def num_latents(self, seconds: float | Fraction) -> int:
        """Latent frames that cover `seconds` (at least one)."""
        return max(1, math.ceil(Fraction(self.num_samples(seconds), self.hop_length)))


SMALL_RATES = Rates()
HUNYUAN_RATES = Rates(latent_rate=50, sync_rate=Fraction(24), visual_rate=Fraction(8))


@dataclass(frozen=True)
class View:
    """How a model wants to see a video: how often, how large, and how the frame is fitted.

    Attributes:
        name: Key under which the frames are found in `Video.views`.
        frame_rate: Slots per second; slot k shows the first frame with time >= k / frame_rate. 0
            keeps the frames of the file as they are.
        height, width: Size in pixels after the fit.
        fit: "squeeze" ignores the aspect, "crop" keeps it: shorter side to the size, centre cut
            out.
        resample: "bilinear" or "bicubic", antialiased, on uint8.
        every: With frame_rate 0, keep every n-th frame.
        pick: Which frame fills a slot. "first": see `frame_rate`; "shown": the one on screen at
            k / frame_rate; "accumulated": as the published code counts, where slots after the last
            frame's start do not exist.
        until_s: With "accumulated", where frames end to be looked at.
        pillow: Resize in the arithmetic of Pillow, to the last bit; slower.
    """

    name: str
    frame_rate: Fraction
    height: int
    width: int
    fit: Literal["squeeze", "crop"] = "squeeze"
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    every: int = 1
    pick: Literal["first", "shown", "accumulated"] = "first"
    until_s: float = math.inf
    pillow: bool = False


@dataclass
class Frames:
    """Pictures of one view.

    Attributes:
        images: uint8 [F, H, W, 3], RGB.
        times_s: float64 [F]; when the frame shown in each slot really starts in the file. Slots
            that repeat a frame repeat its time, which is how repeated frames are known without
            looking at pixels.
        view: How they were made.
    """

    images: Tensor
    times_s: Tensor
    view: View


@dataclass
class Video:
    """A clip as its models see it. Full-size frames are never kept.

    Attributes:
        path: Where it came from, or None.
        duration_s: Length of the picture: last frame's end minus first frame's start.
        width, height: Displayed size in pixels (rotation and sample aspect applied).
        frame_rate: Average frames per second of the file.
        views: Frames by view name.
        has_audio: Whether the file carries sound of its own.
        warnings: What was odd about the file, one line each (truncated, damaged packets, ...).
    """

    path: Path | None
    duration_s: float
    width: int
    height: int
    frame_rate: float
    views: dict[str, Frames]
    has_audio: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    """One instant at which something sounds.

    Attributes:
        time_s: Start of its sound and instant of its contact.
        kind: One of `KINDS`.
        material: What sounds, one of `MATERIALS`.
        strength: 0 to 1; 1 is the hardest blow.
        surface: What it struck, or None when unknown.
        object: Which body of the scene, or None.
        x, y: Place in the picture, 0 to 1 from the left and the top, or None.
        visible: Whether the contact can be seen.
        size: Extent of what sounds, in picture heights, or None when unknown.
    """

    time_s: float
    kind: str = "impact"
    material: str = "wood"
    strength: float = 1.0
    surface: str | None = None
    object: int | None = None
    x: float | None = None
    y: float | None = None
    visible: bool = True
    size: float | None = None

    @property
    def off_screen(self) -> bool:
        """Whether it happens outside the scene that was drawn: no picture can tell of it."""
        return not self.visible and self.x is None


@dataclass(frozen=True)
class Interval:
    """A sound that lasts: `scrape` or `roll` from `start_s` to `end_s`.

    Attributes:
        speed: Relative speed over the interval, 0 to 1, evenly spaced from start to end; empty
            means steady.
        size: Extent of what sounds, in picture heights, or None when unknown.
    """

    kind: str
    start_s: float
    end_s: float
    material: str = "wood"
    surface: str | None = None
    object: int | None = None
    speed: tuple[float, ...] = ()
    size: float | None = None


@dataclass
class EventLog:
    """Everything that sounds in a clip: the exact truth of the procedural world (`<stem>.json`)."""

    family: str
    seed: int
    seconds: float
    prompt: str = ""
    split: str = "clean"
    fps: float = 25.0
    size: tuple[int, int] = (96, 96)
    sample_rate: int = 48_000
    events: list[Event] = field(default_factory=list)
    continuous: list[Interval] = field(default_factory=list)
    version: int = 1

    def with_material(self, material: str) -> EventLog:
        """The same happenings in another material; what is outside the picture stays."""
        return replace(
            self,
            events=[e if e.off_screen else replace(e, material=material) for e in self.events],
            continuous=[replace(c, material=material) for c in self.continuous],
        )

    def to_json(self) -> str:
        """The log as a JSON document."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> EventLog:
        """Read a log written by `to_json` or by hand; unknown keys are ignored.

        Raises:
            ValueError: If the text is no event log.
        """
        try:
            raw: Mapping[str, Any] = json.loads(text)
            events = [_pick(Event, e) for e in raw["events"]]
            continuous = [
                replace(_pick(Interval, c), speed=tuple(c.get("speed", ())))
                for c in raw.get("continuous", [])
            ]
            log = _pick(cls, {"family": "", "seed": 0, **raw})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            what = "a field is missing or none" if isinstance(error, TypeError) else str(error)
            raise ValueError(
                f"not an event log ({what}), wanted `seconds`, `events` with a `time_s` each and "
                "`continuous` with `kind`, `start_s` and `end_s`, see `world make`"
            ) from error
        log.events, log.continuous, log.size = events, continuous, tuple(log.size)
        _check_log(log)
        return log

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EventLog:
        """The log in a file.

        Raises:
            FoleyError: If there is none.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            why = error.strerror or str(error)
            raise FoleyError(
                f"{os.fsdecode(path)}: {why}, wanted an event log, check the path"
            ) from error
        except ValueError as error:
            raise FoleyError(f"{os.fsdecode(path)}: {error}") from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the log aside and move it into place."""
        target = Path(path)
        aside = target.with_name(f".{target.name}.part")
        try:
            aside.write_text(self.to_json() + "\n", encoding="utf-8")
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def _check_log(log: EventLog) -> None:
    """Refuse numbers that no clip can have.

    Raises:
        ValueError: If there are any.
    """

    def wrong(value: object, low: float, high: float) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return not (number and low <= value <= high)  # pyright: ignore[reportOperatorIssue]

    if wrong(log.seconds, 1e-3, 86_400):
        raise ValueError(f"a log of {log.seconds!r} s, wanted more than 0, correct `seconds`")
    for i, event in enumerate(log.events):
        if wrong(event.time_s, 0, 86_400) or wrong(event.strength, 0, 1):
            raise ValueError(
                f"event {i} at {event.time_s!r} s with strength {event.strength!r}, wanted a time "
                "from 0 on and a strength from 0 to 1, correct it"
            )
    for i, each in enumerate(log.continuous):
        badly = wrong(each.start_s, 0, 86_400) or wrong(each.end_s, 0, 86_400)
        if badly or each.end_s <= each.start_s or any(wrong(v, 0, 1e3) for v in each.speed):
            raise ValueError(
                f"interval {i} from {each.start_s!r} to {each.end_s!r} s, wanted a start from 0 "
                "on, a later end and finite speeds, correct it"
            )


def _pick(kind: Any, raw: Mapping[str, Any]) -> Any:
    return kind(**{k: v for k, v in raw.items() if k in kind.__dataclass_fields__})


@dataclass
class Features:
    """What the encoders saw and read; the input of every generator.

    Attributes:
        visual: Content tokens [B, V, Dv].
        sync: Sync tokens [B, S, Ds].
        text: Prompt tokens [B, L, Dt].
        negative_text: Tokens of the negative prompt [B, L, Dt].
        duration_s: Length of the clip.
        events, intervals: What the visual encoder believes it saw.
        text_mask, negative_text_mask: Which of those tokens are words, bool [B, L]; None where the
            model reads the padding too.
    """

    visual: Tensor
    sync: Tensor
    text: Tensor
    negative_text: Tensor
    duration_s: float
    events: list[Event] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    text_mask: Tensor | None = None
    negative_text_mask: Tensor | None = None


@dataclass
class Audio:
    """Sound: `samples` [channels, N] float32 in [-1, 1] (a CPU tensor) at `sample_rate` Hz. Plays
    in a notebook."""

    samples: Tensor
    sample_rate: int = 48_000

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate

    def _repr_html_(self) -> str:
        from IPython.display import Audio as Player

        return str(
            Player(self.samples.numpy(), rate=self.sample_rate, normalize=False)._repr_html_()
        )


class Encoder(Protocol):
    """Video and words to features."""

    @property
    def views(self) -> Sequence[View]: ...

    def encode(self, video: Video, prompts: Sequence[str], negative_prompt: str) -> Features: ...


class Generator(Protocol):
    """Features to latents [B, C, T]."""

    def generate(self, features: Features, **options: Any) -> Tensor: ...


class Decoder(Protocol):
    """Latents [B, C, T] to waveforms [B, 1, N], N = T * hop_length."""

    def decode(self, latents: Tensor) -> Tensor: ...


def sort_events(events: Iterable[Event]) -> list[Event]:
    """Events in the order in which they sound."""
    return sorted(events, key=lambda e: e.time_s)
