"""The encoder of the small model: eyes, clock and words together.

    frames of the file ─clock→ frames worth looking at ─eyes→ heat map, motion, content
        ─decide→ events and intervals in seconds ─track→ sync tokens at 25 Hz
          ⤷ a second vote by a tracker of small bodies (`encoders.tracker`)
        ─times→ content tokens at 6.25 Hz

Whatever the film's rate, its repeated frames and its slow motion, the tokens stand on the clock of
the sound. What the eyes decide is all the generator hears of the timing, so what is listed is what
sounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from foley_lab.encoders.clock import (
    grey,
    instants,
    moving_frames,
    positions,
    read_stride,
    time_step,
)
from foley_lab.encoders.named import recast
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import BINS, TinyConfig, TinyEyes, find_peaks
from foley_lab.encoders.track import LASTING, event_track
from foley_lab.encoders.tracker import NEAR_S, Break, velocity_breaks, vote
from foley_lab.signals import (
    KINDS,
    MATERIALS,
    SMALL_RATES,
    Event,
    EventLog,
    Features,
    Interval,
    Rates,
    Video,
    View,
    sort_events,
)
from foley_lab.weights import load_shipped

CHUNK, OVERLAP = 512, 32
"""Frames looked at together, and how many neighbours share; the eyes see 19 frames to either
side."""

TRACKED, TRACKED_OVERLAP = 1024, 128
"""Frames tracked together, and how many neighbours share; tracks last a second or two."""

LIT_S, BRIGHT, MOST_GAIN = 2.0, 110.0, 3.0
"""Dark frames are brightened to this mean level of the seconds to both sides, at most threefold."""

MIN_GAP_S = 0.045
EDGE_FRAMES, EDGE_FACTOR = 2.5, 2.0
"""So close to the start half of the evidence is missing, and the threshold rises by the factor."""

REFINE_SHARE = 0.35
"""A fine peak must reach this share of the threshold to move a coarse event."""


MOVING, SURELY = (0.05, 0.15), (0.3, 0.55)
"""Relative speed above which something scrapes, and rolls, if it surely does so on the way."""

SHORTEST_S, BRIDGED_S = 0.12, 0.08
"""For how long at least, and the pauses that do not end it."""

CLIP_SHARE = 0.5
"""How much the material of the whole clip counts beside that of the single event, in logarithms."""


@dataclass
class Glimpse:
    """What the eyes made of a clip, on the clock of its own frames.

    Attributes:
        times_s: Start of each frame looked at [F].
        heat: Event probabilities [F, BINS].
        outputs: The network's other outputs, without the batch axis.
    """

    times_s: Tensor
    heat: Tensor
    outputs: dict[str, Tensor]


class SmallEncoder:
    """Video and words to the features of the small model.

    Args:
        eyes: The visual network.
        text: The text encoder.
        rates: Clocks of the tokens.
        threshold: Probability above which a peak of the heat map is an event; chosen on held-out
            clips.
        dtype: Precision of the eyes; bfloat16 pays on processors with matrix units (AMX) and on
            GPUs.
        empty: What the transformer has learnt to read as "no picture" [1, Dv]; wanted only to play
            a log without a film.
    """

    view_name = "eyes"
    plays_events = True

    def __init__(
        self,
        eyes: TinyEyes,
        text: MiniLMText,
        rates: Rates = SMALL_RATES,
        threshold: float = 0.3,
        dtype: torch.dtype = torch.float32,
        empty: Tensor | None = None,
    ) -> None:
        self.eyes, self.text, self.rates = eyes.eval(), text, rates
        self.threshold, self.dtype, self.empty = threshold, dtype, empty

    @classmethod
    def from_shipped(cls, dtype: torch.dtype = torch.float32) -> SmallEncoder:
        """The encoder that comes with the package.

        Raises:
            MissingWeights: If its files are not there.
        """
        tensors, config = load_shipped("eyes")
        threshold = config.pop("threshold")
        eyes = TinyEyes(TinyConfig(**config))
        eyes.load_state_dict(tensors)
        return cls(eyes, MiniLMText.load(), threshold=threshold, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the eyes are."""
        return next(self.eyes.parameters()).device

    def views_for(self, info: Video) -> Sequence[View]:
        """The view to read of a film that `media.probe` described."""
        size, every = self.eyes.config.size, read_stride(info.frame_rate)
        return (View(self.view_name, Fraction(0), size, size, every=every),)

    @torch.inference_mode()
    def encode(
        self,
        video: Video | None,
        prompts: Sequence[str],
        negative_prompt: str | None = None,
        events: EventLog | None = None,
        duration_s: float = 8.0,
    ) -> Features:
        """Look and read.

        Args:
            video: With the view of `views_for`; None to play events without a film.
            prompts: One per wanted row; "" takes the `caption` of what is seen, and a material it
                names is written into the track where the eyes saw none of it.
            negative_prompt: What the sound should not be; None or "" is nothing.
            events: What shall sound instead of what is seen, in the materials given there; None is
                what is seen.
            duration_s: Of the sound, where there is no film.

        Returns:
            Features with B = len(prompts) rows that share what was seen.

        Raises:
            ValueError: If the video lacks the view, or there is nothing to see and nothing to play.
        """
        if video is None:
            return self._blind(prompts, negative_prompt, events, duration_s)
        if self.view_name not in video.views:
            raise ValueError(
                f"a video with views {sorted(video.views)}, wanted {self.view_name!r}, "
                "read it with views_for"
            )
        frames = video.views[self.view_name]
        visual, seen, intervals = self.look(frames.images, frames.times_s, video.duration_s)
        if events is not None:
            seen, intervals = sort_events(events.events), list(events.continuous)
        scores = [
            recast(prompt, seen, intervals) if events is None else (seen, intervals)
            for prompt in prompts
        ]
        return self._features(
            visual, scores, prompts, negative_prompt, seen, intervals, video.duration_s
        )

    def _blind(
        self,
        prompts: Sequence[str],
        negative_prompt: str | None,
        events: EventLog | None,
        duration_s: float,
    ) -> Features:
        """Features of a log alone."""
        if events is None or self.empty is None:
            raise ValueError(
                "neither a film nor a log of events, wanted one: the small model plays what it "
                "sees or what a log says, give it a film, or events"
            )
        seen, intervals = sort_events(events.events), list(events.continuous)
        group = Fraction(self.rates.latent_rate) / self.rates.visual_rate
        count = -(-self.rates.num_latents(duration_s) // int(group))
        visual = self.empty.detach().float().expand(1, count, -1)
        scores = [(seen, intervals)] * len(prompts)
        return self._features(visual, scores, prompts, negative_prompt, seen, intervals, duration_s)

    def _features(
        self,
        visual: Tensor,
        scores: Sequence[tuple[list[Event], list[Interval]]],
        prompts: Sequence[str],
        negative_prompt: str | None,
        seen: list[Event],
        intervals: list[Interval],
        duration_s: float,
    ) -> Features:
        """Rows of one content [1, V, Dv], each with its score."""
        tracks = [event_track(*score, duration_s, self.rates) for score in scores]
        rows, own = len(prompts), caption(seen, intervals)
        return Features(
            visual=visual.expand(rows, -1, -1),
            sync=torch.stack(tracks),
            text=self.text.encode([prompt or own for prompt in prompts]),
            negative_text=self.text.encode([negative_prompt or ""] * rows),
            duration_s=duration_s,
            events=seen,
            intervals=intervals,
        )

    @torch.inference_mode()
    def look(
        self, images: Tensor, times_s: Tensor, duration_s: float
    ) -> tuple[Tensor, list[Event], list[Interval]]:
        """Frames uint8 [F, H, W, 3] and their times to content [1, V, Dv], events and intervals."""
        luma = grey(images)
        keep = moving_frames(luma, times_s)
        bright = lit(images, times_s)
        step = time_step(luma[keep])
        seen = self._glimpse_both(images, bright, times_s, keep[::step])
        whole = seen.outputs["whole"][:, : len(MATERIALS)].log_softmax(-1).mean(0)
        events, fine = self._events(seen, duration_s, whole), seen
        if step > 1:
            fine = self._glimpse_both(images, bright, times_s, keep)
            events = self._refined(events, seen, fine)
        breaks = _breaks(images, times_s, keep)
        events = self._voted(events, fine, breaks, duration_s, whole)
        return self._content(seen, duration_s), events, self._intervals(seen, duration_s, whole)

    def _glimpse_both(
        self, images: Tensor, bright: Tensor | None, times_s: Tensor, keep: Tensor
    ) -> Glimpse:
        """What is there, from the frames as they are; when it happens, from the brightened ones.

        A material is known by its colour, which light does not leave alone.
        """
        seen = self.glimpse(images[keep], times_s[keep])
        if bright is None:
            return seen
        when = self.glimpse(bright[keep], times_s[keep])
        what = ("material", "whole", "content")
        outputs = when.outputs | {name: seen.outputs[name] for name in what}
        return Glimpse(when.times_s, when.heat, outputs)

    def glimpse(self, images: Tensor, times_s: Tensor) -> Glimpse:
        """Run the eyes over frames, in overlapping chunks when there are many."""
        parts: dict[str, list[Tensor]] = {}
        n = len(images)
        precise = self.dtype == torch.float32
        for start in range(0, n, CHUNK):
            low, high = max(0, start - OVERLAP), min(n, start + CHUNK + OVERLAP)
            with nullcontext() if precise else torch.autocast(self.device.type, self.dtype):
                out = self.eyes(images[low:high][None].to(self.device))
            for name, value in out.items():
                parts.setdefault(name, []).append(
                    value[0, start - low : start - low + CHUNK].float().cpu()
                )
        outputs = {name: torch.cat(values) for name, values in parts.items()}
        return Glimpse(times_s, outputs["heat"].sigmoid(), outputs)

    def _events(self, seen: Glimpse, duration_s: float, whole: Tensor) -> list[Event]:
        spacing = _spacing(seen.times_s)
        at, p = find_peaks(seen.heat, self.threshold, MIN_GAP_S / spacing * BINS)
        times = instants(at, seen.times_s)
        out = seen.outputs
        events = []
        for position, time_s, sure in zip(at.tolist(), times.tolist(), p.tolist(), strict=True):
            early = position < EDGE_FRAMES and sure < min(0.9, EDGE_FACTOR * self.threshold)
            if early or not 0 <= time_s < duration_s:
                continue
            near = slice(int(position), int(position) + 2)
            kind = out["kind"][near].softmax(-1).mean(0)
            material = out["material"][near].log_softmax(-1).mean(0) + CLIP_SHARE * whole
            events.append(
                Event(
                    round(time_s, 6),
                    KINDS[int(kind.argmax())],
                    MATERIALS[int(material.argmax())],
                    round(float(out["strength"][near].sigmoid().mean()), 4),
                )
            )
        return events

    def _refined(self, events: list[Event], coarse: Glimpse, fine: Glimpse) -> list[Event]:
        """Coarse events, each moved to the strongest fine peak within one coarse step, if any."""
        reach = _spacing(coarse.times_s)
        at, p = find_peaks(
            fine.heat, REFINE_SHARE * self.threshold, MIN_GAP_S / _spacing(fine.times_s) * BINS
        )
        times = instants(at, fine.times_s)
        moved = []
        for event in events:
            near = ((times - event.time_s).abs() <= reach).nonzero()[:, 0]
            if len(near):
                best = near[p[near].argmax()]
                event = replace(event, time_s=round(float(times[best]), 6))
            moved.append(event)
        moved.sort(key=lambda e: e.time_s)
        return [
            e for k, e in enumerate(moved) if not k or e.time_s - moved[k - 1].time_s > MIN_GAP_S
        ]

    def _voted(
        self,
        events: list[Event],
        fine: Glimpse,
        breaks: Sequence[Break],
        duration_s: float,
        whole: Tensor,
    ) -> list[Event]:
        """Events, and the velocity breaks that the eyes half saw or that are sure by themselves."""
        bins = instants(torch.arange(fine.heat.numel(), dtype=torch.float64) / BINS, fine.times_s)

        def heat(time_s: float) -> float:
            near = (bins - time_s).abs() <= NEAR_S
            return float(fine.heat.flatten()[near].max()) if near.any() else 0.0

        added = []
        for each in vote(events, breaks, heat, REFINE_SHARE * self.threshold):
            if not 0 <= each.time_s < duration_s:
                continue
            at = int(positions(torch.tensor([each.time_s], dtype=torch.float64), fine.times_s))
            near, out = slice(at, at + 2), fine.outputs
            material = out["material"][near].log_softmax(-1).mean(0) + CLIP_SHARE * whole
            added.append(
                Event(
                    round(each.time_s, 6),
                    "impact",
                    MATERIALS[int(material.argmax())],
                    round(float(out["strength"][near].sigmoid().mean()), 4),
                    x=round(each.x, 4),
                    y=round(each.y, 4),
                    visible=0 <= each.x <= 1 and 0 <= each.y <= 1,
                )
            )
        return sort_events([*events, *added])

    def _intervals(self, seen: Glimpse, duration_s: float, whole: Tensor) -> list[Interval]:
        """Where something scrapes or rolls, with its speed at 25 Hz."""
        clock = torch.arange(self.rates.num_latents(duration_s), dtype=torch.float64)
        clock = clock / self.rates.latent_rate
        place = positions(clock, seen.times_s)
        motion = _lerp(seen.outputs["motion"].sigmoid(), place)
        material = _lerp(seen.outputs["material"].log_softmax(-1), place)
        found = []
        for j, kind in enumerate(LASTING):
            for first, last in _runs(motion[:, j] > MOVING[j], round(BRIDGED_S / _spacing(clock))):
                start, end = float(clock[first]), min(float(clock[last]), duration_s)
                if end - start < SHORTEST_S or motion[first : last + 1, j].amax() < SURELY[j]:
                    continue
                sounds = material[first : last + 1].mean(0) + CLIP_SHARE * whole
                speed = motion[first : last + 1, j].tolist()
                found.append(
                    Interval(
                        kind,
                        round(start, 4),
                        round(end, 4),
                        MATERIALS[int(sounds.argmax())],
                        speed=tuple(round(v, 3) for v in speed),
                    )
                )
        return sorted(found, key=lambda i: i.start_s)

    def _content(self, seen: Glimpse, duration_s: float) -> Tensor:
        """Content tokens [1, V, Dv] on the clock of the sound."""
        count = self.rates.num_latents(duration_s)
        clock = torch.arange(count, dtype=torch.float64) / self.rates.latent_rate
        content = _lerp(seen.outputs["content"], positions(clock, seen.times_s))
        group = Fraction(self.rates.latent_rate) / self.rates.visual_rate
        return pool(content, int(group))[None]


def lit(images: Tensor, times_s: Tensor) -> Tensor | None:
    """Pictures uint8 [F, H, W, 3], dark stretches brightened as a camera's exposure would.

    The gain follows the mean of the 4 s around each frame, so it hardly changes from one to the
    next; None where all is bright enough.
    """
    mean = grey(images).float().mean((1, 2))
    sums = F.pad(mean.double().cumsum(0), (1, 0))
    low = torch.searchsorted(times_s, times_s - LIT_S)
    high = torch.searchsorted(times_s, times_s + LIT_S, right=True)
    around = (sums[high] - sums[low]) / (high - low)
    gain = (BRIGHT / around.clamp(min=1)).clamp(1, MOST_GAIN).float()
    if gain.amax() == 1:
        return None
    return (images * gain[:, None, None, None].to(images.device)).clamp(max=255).to(torch.uint8)


def _breaks(images: Tensor, times_s: Tensor, keep: Tensor) -> list[Break]:
    """Velocity breaks among the kept frames, tracked in overlapping stretches of long films."""
    found: list[Break] = []
    for start in range(0, len(keep), TRACKED):
        rows = keep[max(0, start - TRACKED_OVERLAP) : start + TRACKED + TRACKED_OVERLAP]
        clock = times_s[rows].cpu()
        first = float(times_s[keep[start]]) if start else -math.inf
        stop = start + TRACKED
        last = float(times_s[keep[stop]]) if stop < len(keep) else math.inf
        stretch = velocity_breaks(images[rows].cpu(), clock)
        found += [each for each in stretch if first <= each.time_s < last]
    return found


def caption(events: Sequence[Event], intervals: Sequence[Interval]) -> str:
    """What the eyes would ask for: the material of most of what was seen, "" where nothing was.

    The generator heeds a word more than the material column of the track.
    """
    seen = [x.material for x in (*events, *intervals)]
    return f"the sound of {max(sorted(set(seen)), key=seen.count)}" if seen else ""


def _runs(flags: Tensor, bridge: int) -> list[tuple[int, int]]:
    """First and last index of each stretch of true flags; gaps of at most `bridge` are closed."""
    runs: list[tuple[int, int]] = []
    for i in flags.nonzero()[:, 0].tolist():
        if runs and i - runs[-1][1] <= bridge + 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def pool(content: Tensor, group: int) -> Tensor:
    """Means of `group` neighbouring tokens [S, D] → [ceil(S / group), D]; the last group may be
    shorter."""
    count = math.ceil(len(content) / group)
    padded = F.pad(content, (0, 0, 0, count * group - len(content)))
    sizes = torch.full((count, 1), float(group))
    sizes[-1] = len(content) - (count - 1) * group
    return padded.unflatten(0, (count, group)).sum(1) / sizes


def _lerp(values: Tensor, place: Tensor) -> Tensor:
    """Rows of values [F, D] at fractional places [n]."""
    place = place.clamp(0, len(values) - 1)
    left = place.long().clamp(0, max(0, len(values) - 2))
    right = (left + 1).clamp(max=len(values) - 1)
    part = (place - left).to(values.dtype)[:, None]
    return values[left] * (1 - part) + values[right] * part


def _spacing(times_s: Tensor) -> float:
    if len(times_s) < 2:
        return 1 / 25
    return max(1e-3, float(times_s.diff().median()))
