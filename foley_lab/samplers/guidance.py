"""Which velocity is followed: guidance by the difference of two velocities, with and without
conditions.

    plain       v = v_u + g·(v_c − v_u)                     (Ho & Salimans 2022, arXiv:2207.12598)
    interval    plain for t in [stop, start], v_c elsewhere, at half the price
                                                     (Kynkäänniemi et al. 2024, arXiv:2404.07724)
    zero-star   v = s·v_u + g·(v_c − s·v_u), s = ⟨v_c, v_u⟩ / |v_u|²
                                                     (CFG-Zero*, Fan et al. 2025, arXiv:2503.18886)
    rescaled    plain, its spread drawn towards that of v_c    (Lin et al. 2023, arXiv:2305.08891)

Both velocities are one batch, hence one network call. The formulas are those of the guiders of
diffusers, and agree with them (tests); any other guider that mixes a conditional and an
unconditional prediction can be handed over in their place.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from foley_lab.samplers.steps import Velocity

Velocities = Callable[[Tensor, float, bool], tuple[Tensor | None, Tensor]]
"""(x, t, both) to the velocities without (None unless `both`) and with the conditions, each
[B, C, T]."""


@dataclass(frozen=True)
class Guidance:
    """How the two velocities are mixed; beside it stands the scale g.

    Attributes:
        start, stop: Times between which there is guidance, 1 ≥ start > stop ≥ 0.
        zero_star: Whether v_u is first scaled onto v_c.
        zero_init_steps: Network calls at the start that answer zero instead (CFG-Zero*: the first
            4 % of many; costly where there are few).
        rescale: Share φ of the spread of v_c in the result, 0 to 1.
    """

    start: float = 1.0
    stop: float = 0.0
    zero_star: bool = False
    zero_init_steps: int = 0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        ends = all(math.isfinite(e) for e in (self.start, self.stop))
        if not ends or not 0 <= self.stop <= self.start <= 1:
            raise ValueError(
                f"guidance from t = {self.start} to {self.stop}, wanted 1 ≥ start ≥ stop ≥ 0, "
                "e.g. start=0.9, stop=0.3"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale {self.rescale} of the guidance, wanted 0 to 1, e.g. 0.7")
        if self.zero_init_steps < 0:
            raise ValueError(f"zero_init_steps {self.zero_init_steps}, wanted 0 or more, e.g. 1")

    def holds_at(self, t: float) -> bool:
        """Whether there is guidance at this time."""
        return self.stop <= t <= self.start and self.stop < self.start


GUIDANCES = {
    "plain": Guidance(),
    "interval": Guidance(start=0.9, stop=0.3),
    "zero-star": Guidance(zero_star=True),
    "rescaled": Guidance(rescale=0.7),
}
"""Kinds of guidance by name."""


def find_guidance(guidance: str | Guidance | Any) -> Guidance | Any:
    """The guidance of a name; a `Guidance` or a guider of diffusers is handed back.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(guidance, str):
        if guidance not in GUIDANCES:
            raise ValueError(
                f"guidance {guidance!r}, wanted one of {', '.join(GUIDANCES)}, choose another"
            )
        return GUIDANCES[guidance]
    if isinstance(guidance, Guidance):
        return guidance
    if isinstance(guidance, type):
        raise ValueError(
            f"guidance {guidance.__name__}, a class, wanted one of its objects, call it"
        )
    scale = getattr(guidance, "guidance_scale", 1.0)
    if not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"a guider of scale {scale!r}, wanted a finite number, e.g. 2.0")
    wanted = ["pred_cond", "pred_uncond"]
    if sorted(getattr(guidance, "_input_predictions", ())) != wanted:
        told = " ".join(repr(guidance).split())
        raise ValueError(
            f"guidance {told:.80}, wanted one of {', '.join(GUIDANCES)}, a Guidance or a "
            "guider of diffusers that mixes two predictions, choose another"
        )
    return guidance


class Guided:
    """A velocity under guidance, made for one run.

    Args:
        velocities: Gives both velocities, or the conditional one alone.
        scale: g; 1 is the conditional velocity, more exaggerates what the conditions change.
        guidance: A `Guidance`, or a guider of diffusers, whose own scale then holds.
        calls: Network calls of the run; guiders count in shares of them.

    Attributes:
        evaluations: Velocities computed so far for each of the latents.
        needs_both: Whether any call may ask for both.
    """

    def __init__(
        self,
        velocities: Velocities,
        scale: float,
        guidance: Guidance | Any = GUIDANCES["plain"],
        calls: int = 1,
    ) -> None:
        self.velocities, self.scale, self.calls = velocities, scale, calls
        self.guidance = guidance if isinstance(guidance, Guidance) else copy.deepcopy(guidance)
        self.evaluations = self.called = 0

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.called += 1
        if not isinstance(self.guidance, Guidance):
            return self._by_guider(x, t)
        if self.called <= self.guidance.zero_init_steps:
            return torch.zeros_like(x)
        if self.scale == 1.0 or not self.guidance.holds_at(t):
            return self._only_conditional(x, t)
        without, with_ = self._both(x, t)
        return mixed(without, with_, self.scale, self.guidance)

    def _by_guider(self, x: Tensor, t: float) -> Tensor:
        guider = cast(Any, self.guidance)
        guider.set_state(self.called - 1, self.calls, torch.tensor(1000.0 * t))
        if guider.num_conditions == 1:
            return guider.forward(self._only_conditional(x, t), None).pred
        without, with_ = self._both(x, t)
        return guider.forward(with_, without).pred

    def _only_conditional(self, x: Tensor, t: float) -> Tensor:
        self.evaluations += 1
        return self.velocities(x, t, False)[1].float()

    def _both(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        self.evaluations += 2
        without, with_ = self.velocities(x, t, True)
        return cast(Tensor, without).float(), with_.float()


def guided(velocities: Velocities, scale: float, guidance: Guidance | str = "plain") -> Velocity:
    """A velocity under guidance; see `Guided`."""
    return Guided(velocities, scale, find_guidance(guidance))


def mixed(without: Tensor, with_: Tensor, scale: float, guidance: Guidance) -> Tensor:
    """The velocity of two, [B, C, T] float32 each, at a time when there is guidance."""
    if guidance.zero_star:
        flat_with, flat_without = with_.flatten(1), without.flatten(1)
        onto = (flat_with * flat_without).sum(1) / (flat_without.square().sum(1) + 1e-8)
        without = without * onto[:, None, None]
    v = without.lerp(with_, scale)
    if guidance.rescale:
        every = tuple(range(1, v.ndim))
        spread = with_.std(every, keepdim=True) / v.std(every, keepdim=True)
        v = v.lerp(v * spread, guidance.rescale)
    return v


def check_guidance(guidance: str | Guidance | Any, scale: float, most: float) -> None:
    """Refuse a guidance that makes no sense.

    Raises:
        ValueError: If it is unknown, or the scale is outside 0 to `most`.
    """
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not number or not 0 <= scale <= most:
        raise ValueError(f"guidance_scale {scale!r}, wanted a number from 0 to {most:g}, e.g. 2")
    find_guidance(guidance)
