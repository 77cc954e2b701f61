"""The encoder of the small model: eyes, clock and words together.

    frames of the file ─clock→ frames worth looking at ─eyes→ heat map, hidden values
                       ─times→ sync tokens at 25 Hz, content tokens at 6.25 Hz, events in seconds

Whatever the film's rate, its repeated frames and its slow motion, the tokens stand on the clock of
the sound.
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
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import BINS, TinyConfig, TinyEyes, find_peaks
from foley_lab.signals import KINDS, MATERIALS, SMALL_RATES, Event, Features, Rates, Video, View
from foley_lab.weights import load_shipped

CHUNK, OVERLAP = 512, 32
"""Frames looked at together, and how many neighbours share; the eyes see 19 frames to either
side."""

MIN_GAP_S = 0.045
EDGE_FRAMES, EDGE_FACTOR = 2.5, 2.0
"""So close to the start half of the evidence is missing, and the threshold rises by the factor."""

REFINE_SHARE = 0.35
"""A fine peak must reach this share of the threshold to move a coarse event."""


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
    """

    view_name = "eyes"

    def __init__(
        self,
        eyes: TinyEyes,
        text: MiniLMText,
        rates: Rates = SMALL_RATES,
        threshold: float = 0.3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.eyes, self.text, self.rates = eyes.eval(), text, rates
        self.threshold, self.dtype = threshold, dtype

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
        self, video: Video, prompts: Sequence[str], negative_prompt: str | None = None
    ) -> Features:
        """Look and read.

        Args:
            video: With the view of `views_for`.
            prompts: One per wanted row; "" is no prompt.
            negative_prompt: What the sound should not be; None or "" is nothing.

        Returns:
            Features with B = len(prompts) equal visual rows.

        Raises:
            ValueError: If the video lacks the view.
        """
        if self.view_name not in video.views:
            raise ValueError(
                f"a video with views {sorted(video.views)}, wanted {self.view_name!r}, "
                "read it with views_for"
            )
        frames = video.views[self.view_name]
        visual, sync, events = self.look(frames.images, frames.times_s, video.duration_s)
        rows = len(prompts)
        return Features(
            visual=visual.expand(rows, -1, -1),
            sync=sync.expand(rows, -1, -1),
            text=self.text.encode(list(prompts)),
            negative_text=self.text.encode([negative_prompt or ""] * rows),
            duration_s=video.duration_s,
            events=events,
        )

    @torch.inference_mode()
    def look(
        self, images: Tensor, times_s: Tensor, duration_s: float
    ) -> tuple[Tensor, Tensor, list[Event]]:
        """Frames uint8 [F, H, W, 3] and their times to content [1, V, Dv], sync [1, S, Ds] and
        events."""
        luma = grey(images)
        keep = moving_frames(luma, times_s)
        step = time_step(luma[keep])
        coarse = self.glimpse(images[keep[::step]], times_s[keep[::step]])
        found = self._events(coarse, duration_s)
        if step > 1:
            fine = self.glimpse(images[keep], times_s[keep])
            found = self._refined(found, coarse, fine)
        return (*self._tokens(coarse, found, duration_s, step), found)

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

    def _events(self, seen: Glimpse, duration_s: float) -> list[Event]:
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
            material = out["material"][near].softmax(-1).mean(0)
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

    def _tokens(
        self, seen: Glimpse, events: list[Event], duration_s: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """Content [1, V, Dv] and sync [1, S, Ds] on the clock of the sound."""
        count = self.rates.num_latents(duration_s)
        clock = torch.arange(count, dtype=torch.float64) / self.rates.latent_rate
        place = positions(clock, seen.times_s)
        sync = _lerp(seen.outputs["sync"], place)
        hidden = self.eyes.config.sync
        heat = self._heat(seen, events, clock, step)
        sync = torch.cat([sync[:, :hidden], heat, sync[:, hidden + BINS :]], -1)
        content = _lerp(seen.outputs["content"], place)
        group = Fraction(self.rates.latent_rate) / self.rates.visual_rate
        visual = pool(content, int(group))
        return visual[None], sync[None]

    def _heat(self, seen: Glimpse, events: list[Event], clock: Tensor, step: int) -> Tensor:
        """The heat map resampled to BINS bins per token [S, BINS]."""
        spacing = 1 / self.rates.latent_rate
        bins = (clock[:, None] + spacing * torch.arange(BINS) / BINS).flatten()
        if step == 1:
            heat = _lerp(seen.heat.flatten()[:, None], positions(bins, seen.times_s) * BINS)[:, 0]
        else:  # a coarse clock blurs the bumps: draw them where the refined events are
            heat = torch.zeros_like(bins)
            for event in events:
                bump = torch.exp(-0.5 * ((bins - event.time_s) / (0.3 * spacing)) ** 2)
                heat = torch.maximum(heat, 0.9 * bump)
        return heat.float().unflatten(0, (-1, BINS))


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
