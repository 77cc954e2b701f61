"""Features to latents by flow matching: transformer, guidance and sampler put together.

    noise (one seed per take) ─→ sampler ⟲ guided velocity of the transformer ─→ latents [B, C, T]

Clips longer than a window are denoised in overlapping windows that are held together at every step:
the velocity of each window is computed from the common state, and the velocities are cross-faded
where windows overlap (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113). There is one state
for the whole clip, hence no seam, and the memory of the network is that of a few windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foley_lab.generators.foley import Conditions, FoleyTransformer
from foley_lab.samplers import Callback, Sampled, check_sampler, instants, sample
from foley_lab.samplers.guidance import GUIDANCES, Guidance, Guided, find_guidance
from foley_lab.samplers.official import sample_officially
from foley_lab.samplers.schedules import optimal_times
from foley_lab.signals import Features, Rates

if TYPE_CHECKING:
    from foley_lab.generators.step_cache import CachedTransformer, StepCache

WINDOWS_AT_ONCE = 4
"""Windows in one network call; bounds the memory of long clips."""
MOST_TABULATED = 100
"""Steps up to which the blocks' modulation is tabulated: XL keeps 0.6 MB a step."""


@dataclass(frozen=True)
class Window:
    """A stretch of the clip, latents start .. stop."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """In latents."""
        return self.stop - self.start


class FlowGenerator:
    """The flow-matching generator.

    Args:
        transformer: Gives velocities.
        rates: Clocks of its latents and tokens.
        sync_spacing_s: Seconds from one sync token to the next; default 1 / sync_rate. The official
            features stand 1/25 s apart although 8 s hold only 24 · 8 of them, as their last segment
            ends before the clip does.
        sync_spread: Whether a clip's sync tokens are spread evenly over its latents, as in the
            official code; otherwise they lie as densely as in the clips it learned from, 192 to
            400 latents, and a clip of another length hears nothing earlier or later for it.
        window_s: Longest stretch the network sees at once; the length it was trained on.
        overlap_s: Common part of neighbouring windows, at most half a window.
        schedules: The model's optimised schedules, see `samplers.schedules.optimal_times`.

    Raises:
        ValueError: If the overlap does not leave the windows room to advance.
    """

    def __init__(
        self,
        transformer: FoleyTransformer,
        rates: Rates,
        sync_spacing_s: Fraction | None = None,
        sync_spread: bool = True,
        window_s: float = 8.0,
        overlap_s: float = 2.0,
        schedules: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
    ):
        if not 0 < 2 * overlap_s <= window_s:
            raise ValueError(
                f"overlap of {overlap_s} s in windows of {window_s} s, wanted above 0 and at most "
                "half a window, shorten the overlap"
            )
        self.transformer = transformer
        self.rates = rates
        self.schedules = dict(schedules or {})
        self.sync_spacing_s = sync_spacing_s or 1 / Fraction(rates.sync_rate)
        per_latent = None if sync_spread else float(rates.sync_rate / rates.latent_rate)
        self.sync_per_latent = per_latent
        self.window = round(window_s * rates.latent_rate)
        self.overlap = round(overlap_s * rates.latent_rate)

    def generate(self, features: Features, **options: Any) -> Tensor:
        """Latents [B · takes, C, T] float32; options and errors as in `sample`."""
        return self.sample(features, **options).latents

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        num_steps: int = 8,
        guidance_scale: float = 2.0,
        sampler: str | Any = "euler",
        seeds: int | Sequence[int] = 0,
        takes: int = 1,
        latents_length: int | None = None,
        schedule: str | float | Sequence[float] = "uniform",
        callback: Callback | None = None,
        noise: Tensor | None = None,
        guidance: str | Guidance | Any = "plain",
        step_cache: StepCache | None = None,
        official_solver: str | None = None,
    ) -> Sampled:
        """Latents of every clip and take, and what they cost.

        Args:
            features: Of B clips of one length.
            num_steps, sampler, schedule, callback: See `samplers.sample`; "optimal" is this
                model's own table.
            guidance_scale: Weight of what was seen and read; at 1 or below the network runs without
                the empty branch.
            guidance: How it is applied, see `samplers.guidance`; a guider of diffusers brings its
                own scale.
            step_cache: Blocks answer anew only where they would differ from the step before.
            seeds: One per clip, or one for all; take k of a clip draws its noise from seed + k, so
                it does not depend on what it is computed together with.
            takes: Versions per clip.
            latents_length: T; default the latents that cover `features.duration_s`.
            noise: State at t = 1 [B · takes, C, T] instead of that of the seeds.
            official_solver: Step as the official loop does with this solver of its own, mistakes
                included (`samplers.official`), instead of `sampler`; to compare with its results.

        Returns:
            Latents [B · takes, C, T], the takes of a clip next to each other.

        Raises:
            ValueError: If seeds, takes, lengths or features do not fit, or the sampler, schedule or
                guidance is none.
        """
        guidance, schedule = self.choose(sampler, num_steps, schedule, guidance)
        clips = features.visual.shape[0]
        seeds = [seeds] * clips if isinstance(seeds, int) else list(seeds)
        self._check(features, seeds, takes, latents_length)
        length = latents_length or self.rates.num_latents(features.duration_s)
        channels = self.transformer.config.audio_vae_latent_dim
        if noise is None:
            noise = make_noise(seeds, takes, (channels, length))
        elif noise.shape != (wanted := (clips * takes, channels, length)):
            raise ValueError(
                f"noise {list(noise.shape)}, wanted {list(wanted)}, draw it for every take"
            )
        noise = noise.to(features.visual.device)

        asked = (
            instants(sampler, num_steps, schedule) if official_solver is None else [0.0] * num_steps
        )
        cached = None if step_cache is None else step_cache.apply(self.transformer, len(asked))
        # The official loop is left to compute what it computes.
        known = sorted(set(asked), reverse=True) if official_solver is None else ()
        velocity, batches = self.velocity(
            features, guidance_scale, guidance, takes, length, known, len(asked), cached
        )
        if official_solver is None:
            result = sample(velocity, noise, sampler, num_steps, schedule, callback)
        else:
            shift = schedule if isinstance(schedule, (int, float)) else 1.0
            result = sample_officially(velocity, noise, official_solver, num_steps, shift, callback)
        return Sampled(
            result.latents,
            result.network_calls * batches,
            velocity.evaluations * batches,
            1.0 if cached is None else cached.blocks_run / max(1, cached.blocks_asked),
        )

    def velocity(
        self,
        features: Features,
        guidance_scale: float = 2.0,
        guidance: Guidance | Any = GUIDANCES["plain"],
        takes: int = 1,
        latents_length: int | None = None,
        known: Sequence[float] = (),
        calls: int = 1,
        cached: CachedTransformer | None = None,
    ) -> tuple[Guided, int]:
        """The field that `sample` follows.

        Args:
            features, guidance_scale, guidance, takes, latents_length: As of `sample`.
            known: Times at which it will be asked for, so that work can be shared.
            calls: How often.
            cached: Stands in for the transformer.

        Returns:
            v(x, t) on [B · takes, C, T], and how many network calls each of its calls makes.
        """
        transformer = self.transformer if cached is None else cached
        length = latents_length or self.rates.num_latents(features.duration_s)
        table = transformer.tabulate(known) if len(known) <= MOST_TABULATED else {}
        # Without and with conditions, or only with.
        branches = 2 if guidance_scale > 1.0 or not isinstance(guidance, Guidance) else 1
        windows = split(length, self.window, self.overlap, self._grid())
        weights = crossfade(windows, length).to(features.visual.device)
        batches = [
            _Batch(
                group,
                replace(
                    self._prepare(features, [w for w, _ in group], length, takes, branches),
                    modulation=table,
                ),
            )
            for group in _groups(windows, weights)
        ]

        def velocities(x: Tensor, t: float, both: bool) -> tuple[Tensor | None, Tensor]:
            asked = 2 if both else 1
            total = x.new_zeros(asked, *x.shape)
            for number, batch in enumerate(batches):
                group = batch.group
                cut = torch.stack([x[..., w.start : w.stop] for w, _ in group])  # [W, B, C, T']
                cut = cut.expand(asked, *cut.shape).flatten(0, 2)  # [branches · W · B, C, T']
                conditions = batch.conditions(asked == branches)
                # What a step cache keeps belongs to these windows and branches.
                with cached.context(f"{number}.{asked}") if cached else nullcontext():
                    v = transformer.velocity(cut, t, conditions).float()
                v = v.unflatten(0, (asked, len(group), -1))
                for i, (w, row) in enumerate(group):
                    total[..., w.start : w.stop] += row * v[:, i]
            return (total[0] if both else None), total[-1]

        scale = guidance_scale if branches == 2 else 1.0
        return Guided(velocities, scale, guidance, calls), len(batches)

    def choose(
        self,
        sampler: str | Any,
        num_steps: int,
        schedule: str | float | Sequence[float] = "uniform",
        guidance: str | Guidance | Any = "plain",
    ) -> tuple[Guidance | Any, str | float | Sequence[float]]:
        """The guidance of a name, and a schedule in which "optimal" is looked up.

        Raises:
            ValueError: If a choice cannot be followed; nothing has been computed then.
        """
        if schedule == "optimal":
            name = sampler if isinstance(sampler, str) else type(sampler).__name__
            schedule = optimal_times(self.schedules, name, num_steps)
        check_sampler(sampler, num_steps, schedule)
        return find_guidance(guidance), schedule

    def _prepare(
        self, features: Features, group: Sequence[Window], length: int, takes: int, branches: int
    ) -> Conditions:
        """Conditions of equally long windows, rows ordered [empty, seen] × window × clip × take."""
        cuts = [self._cut(features, window, length) for window in group]
        visual, sync = (torch.cat(tokens) for tokens in zip(*cuts, strict=True))
        text, mask = features.text.repeat(len(group), 1, 1), None
        if branches == 2:
            drop = torch.ones(len(visual), dtype=torch.bool, device=visual.device)
            empty = self.transformer.without_video(visual, sync, drop)
            visual, sync = torch.cat([empty[0], visual]), torch.cat([empty[1], sync])
            text = torch.cat([features.negative_text.repeat(len(group), 1, 1), text])
        if features.text_mask is not None and features.negative_text_mask is not None:
            masks = [features.negative_text_mask, features.text_mask][-branches:]
            mask = torch.cat([mask.repeat(len(group), 1) for mask in masks])
        conditions = self.transformer.prepare(
            visual, sync, text, group[0].length, mask, self.sync_per_latent
        )
        rows = torch.arange(len(visual), device=visual.device).repeat_interleave(takes)
        return conditions if takes == 1 else conditions.select(rows)

    def _cut(self, features: Features, window: Window, length: int) -> tuple[Tensor, Tensor]:
        """Visual and sync tokens of the time a window lasts."""
        if window.length == length:
            return features.visual, features.sync
        start_s = Fraction(window.start, self.rates.latent_rate)
        lasts_s = Fraction(window.length, self.rates.latent_rate)
        to_end = window.stop == length

        def cut(tokens: Tensor, first: int, count: int) -> Tensor:
            first = min(first, tokens.shape[1] - 1)
            return tokens[:, first:] if to_end else tokens[:, first : first + count]

        visual = cut(
            features.visual,
            round(start_s * self.rates.visual_rate),
            max(1, round(lasts_s * self.rates.visual_rate)),
        )
        group = max(1, self.transformer.config.sync_positions)
        sync = cut(
            features.sync,
            group * round(start_s / self.sync_spacing_s / group),
            group * max(1, round(lasts_s * self.rates.sync_rate / group)),
        )
        return visual, sync

    def _grid(self) -> int:
        """Windows start at multiples of this many latents.

        Each then begins with a whole group of sync tokens, and with a whole visual token where that
        lasts a whole number of latents; elsewhere the picture's content may be half a visual token
        off.
        """
        group_s = self.sync_spacing_s * max(1, self.transformer.config.sync_positions)
        visual = Fraction(self.rates.latent_rate) / self.rates.visual_rate
        return math.lcm(
            (group_s * self.rates.latent_rate).numerator,
            visual.numerator if visual.denominator == 1 else 1,
        )

    def _check(
        self, features: Features, seeds: Sequence[int], takes: int, length: int | None
    ) -> None:
        clips = features.visual.shape[0]
        if len(seeds) != clips or takes < 1:
            raise ValueError(
                f"{len(seeds)} seeds and {takes} takes for {clips} clips, wanted a seed per clip "
                "and at least one take, give one seed for all or one each"
            )
        if length is not None and length < 1:
            raise ValueError(
                f"latents_length {length}, wanted at least 1, leave it out for the clip's own"
            )
        if features.text.shape != features.negative_text.shape:
            raise ValueError(
                f"prompt tokens {list(features.text.shape)} and negative prompt tokens "
                f"{list(features.negative_text.shape)}, wanted equal shapes, pad the shorter"
            )


def make_noise(seeds: Sequence[int], takes: int, shape: tuple[int, int]) -> Tensor:
    """Standard normal noise [len(seeds) · takes, C, T] float32 on the CPU, take k of a clip from
    seed + k."""
    return torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed + take))
            for seed in seeds
            for take in range(takes)
        ]
    )


def split(length: int, window: int, overlap: int, grid: int) -> list[Window]:
    """As few windows as cover `length` latents with at least `overlap` in common (less the grid),
    evenly spread.

    All but the last are `window` long; the last ends with the clip and may be up to grid − 1
    shorter.
    """
    if length <= window:
        return [Window(0, length)]
    last = math.ceil((length - window) / grid) * grid
    hops = math.ceil(last / (window - overlap))
    starts = [round(last * i / hops / grid) * grid for i in range(hops + 1)]
    return [Window(start, min(start + window, length)) for start in starts]


def crossfade(windows: Sequence[Window], length: int) -> Tensor:
    """Weights [windows, length] that rise and fall like a squared sine over the overlaps and add up
    to 1."""
    weights = torch.zeros(len(windows), length)
    for i, (row, window) in enumerate(zip(weights, windows, strict=True)):
        place = torch.arange(window.start, window.stop) + 0.5
        rise = fall = torch.ones(window.length)
        if i > 0:
            rise = (place - window.start) / (windows[i - 1].stop - window.start)
        if i + 1 < len(windows):
            fall = (window.stop - place) / (window.stop - windows[i + 1].start)
        ramp = torch.minimum(rise, fall).clamp(max=1.0)
        row[window.start : window.stop] = (math.pi / 2 * ramp).sin().square()
    return weights / weights.sum(0)


def _groups(windows: Sequence[Window], weights: Tensor) -> list[list[tuple[Window, Tensor]]]:
    """Windows of one length, at most `WINDOWS_AT_ONCE` together, each with its own weights [its
    length]."""
    groups: list[list[tuple[Window, Tensor]]] = []
    for window, row in zip(windows, weights, strict=True):
        entry = (window, row[window.start : window.stop])
        fits = groups and groups[-1][0][0].length == window.length
        if fits and len(groups[-1]) < WINDOWS_AT_ONCE:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


class _Batch:
    """Windows of one length and what the network is told of them.

    The conditions of the conditional branch alone are cut from those of both when first asked for.
    """

    def __init__(self, group: list[tuple[Window, Tensor]], conditions: Conditions) -> None:
        self.group, self.whole = group, conditions
        self.half: Conditions | None = None

    def conditions(self, whole: bool) -> Conditions:
        """Of all rows, or of the conditional half."""
        if whole:
            return self.whole
        if self.half is None:
            rows = len(self.whole.visual)
            self.half = self.whole.select(
                torch.arange(rows // 2, rows, device=self.whole.visual.device)
            )
        return self.half
