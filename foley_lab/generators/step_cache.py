"""Steps that look like the one before them: blocks of the transformer that need not run again.

    first_block   the first block always runs; where what it adds has hardly changed since the last
                  whole step, the rest is added as it was then             (FBCache, ParaAttention)
    taylorseer    every n-th step runs whole; between them the last block's output goes on along its
                  Taylor series                                (Liu et al. 2025, arXiv:2503.06923)
    magcache      what all blocks add is added again, as long as the change of its size, measured
                  once per model, adds up to little              (Ma et al. 2025, arXiv:2506.09045)

All three are hooks of diffusers, and hooks look for blocks of a known form. So each run makes a
`CachedTransformer`: it shares every parameter with the transformer, stands a `_Block` of that form
before each of the transformer's own, and lets the hooks have those. The transformer itself is never
touched, threads do not meet, and what was kept goes with the twin.

    cached = StepCache.named("first_block", threshold=0.1).apply(transformer, num_calls=8)
    with cached.context("window 0"):
        v = cached.velocity(x_t, t, conditions)
    cached.blocks_run / cached.blocks_asked

`first_block` decides for a whole batch: takes computed together may skip other steps than alone.
The other two decide by the number of the step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from foley_lab.generators.foley import SMALL, Conditions, FoleyTransformer
from foley_lab.samplers.quiet import quietly

RATIOS = Path(__file__).with_name("step_cache_ratios.json")
"""Of the small model, by number of calls; `calibrate` says how they were measured."""


def _check_number(cache: str, name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(
            f"{name} {value!r} of step cache {cache!r}, wanted {low:g} to {high:g}, correct it"
        )


def _check_count(cache: str, name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"{name} {value!r} of step cache {cache!r}, wanted a whole number from {low} to "
            f"{high}, correct it"
        )


@dataclass(frozen=True)
class StepCache:
    """Which steps are spared; a subclass says how it is decided."""

    name: ClassVar[str]

    @staticmethod
    def named(name: str, **options: Any) -> StepCache:
        """The step cache of a name, its defaults changed by `options`.

        Raises:
            ValueError: If the name or an option is unknown, or a value out of its range.
        """
        if name not in STEP_CACHES:
            raise ValueError(
                f"step cache {name!r}, wanted one of {', '.join(STEP_CACHES)}, choose another"
            )
        kind = type(STEP_CACHES[name])
        known = [each.name for each in fields(kind)]
        if unknown := sorted(options.keys() - set(known)):
            raise ValueError(
                f"option {unknown[0]!r} of step cache {name!r}, wanted {', '.join(known)}, "
                "leave it out"
            )
        return kind(**options)

    def apply(self, transformer: FoleyTransformer, num_calls: int) -> CachedTransformer:
        """A twin of the transformer that spares steps, for one run.

        Args:
            transformer: Stays as it is; the twin computes with its parameters.
            num_calls: Network calls of the run in each context.

        Raises:
            ValueError: If diffusers is not installed, or there is nothing to spare.
        """
        if isinstance(num_calls, bool) or not isinstance(num_calls, int) or num_calls < 1:
            raise ValueError(f"num_calls {num_calls!r}, wanted at least 1, e.g. num_steps")
        hooks = _diffusers_hooks(self.name)
        return CachedTransformer(transformer, self.hook_config(hooks, transformer, num_calls))

    def prepare(self) -> None:
        """Load what it needs, a matter of seconds the first time; `apply` would do so too.

        Raises:
            ValueError: If diffusers is not installed.
        """
        _diffusers_hooks(self.name)

    def hook_config(self, hooks: Any, transformer: FoleyTransformer, num_calls: int) -> Any:
        """The configuration that `diffusers.hooks` knows it by."""
        raise NotImplementedError


@dataclass(frozen=True)
class FirstBlock(StepCache):
    """Skip the rest where the first block adds what it added at the last whole step.

    Attributes:
        threshold: Mean change of what it adds over its mean size, up to which the rest is skipped;
            0 never skips.
    """

    name: ClassVar[str] = "first_block"
    threshold: float = 0.15

    def __post_init__(self) -> None:
        _check_number(self.name, "threshold", self.threshold, 0.0, 10.0)

    def hook_config(self, hooks: Any, transformer: FoleyTransformer, num_calls: int) -> Any:
        """See `StepCache.hook_config`."""
        return hooks.FirstBlockCacheConfig(threshold=float(self.threshold))


@dataclass(frozen=True)
class TaylorSeer(StepCache):
    """Run every `interval`-th step, foretell the others.

    Attributes:
        interval: Calls from one whole step to the next; 1 never skips.
        warmup: Calls at the start that run whole; a slope takes two.
        order: Of the series: 0 repeats, 1 goes on along the slope.
    """

    name: ClassVar[str] = "taylorseer"
    interval: int = 2
    warmup: int = 2
    order: int = 1

    def __post_init__(self) -> None:
        _check_count(self.name, "interval", self.interval, 1, 1000)
        _check_count(self.name, "warmup", self.warmup, 1, 1000)
        _check_count(self.name, "order", self.order, 0, 4)

    def hook_config(self, hooks: Any, transformer: FoleyTransformer, num_calls: int) -> Any:
        """See `StepCache.hook_config`."""
        last = len(transformer.triple_blocks) + len(transformer.single_blocks) - 1
        return hooks.TaylorSeerCacheConfig(
            cache_interval=self.interval,
            disable_cache_before_step=self.warmup,
            max_order=self.order,
            taylor_factors_dtype=torch.float32,
            # All blocks skip the same steps, so that only the last one's answer is ever read.
            cache_identifiers=[rf"blocks\.{last}"],
            skip_predict_identifiers=[rf"blocks\.{i}" for i in range(last)],
        )


@dataclass(frozen=True)
class MagCache(StepCache):
    """Add again what all blocks added, while its size is known to stay.

    Attributes:
        threshold: Change of size, summed over the steps skipped in a row, up to which steps are
            skipped; 0 never skips.
        max_skips: Steps in a row at most.
        retention: Share of the calls at the start that run whole.
        ratios: Size of what the blocks add over that at the call before, from `calibrate`; None is
            the small model's own.
    """

    name: ClassVar[str] = "magcache"
    threshold: float = 0.1
    max_skips: int = 2
    retention: float = 0.2
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_number(self.name, "threshold", self.threshold, 0.0, 10.0)
        _check_count(self.name, "max_skips", self.max_skips, 1, 1000)
        _check_number(self.name, "retention", self.retention, 0.0, 1.0)
        for ratio in self.ratios or ():
            _check_number(self.name, "a ratio", ratio, 0.0, 1000.0)
        if self.ratios is not None and not self.ratios:
            raise ValueError(
                "no ratios of step cache 'magcache', wanted one per call, measure them with "
                "calibrate, or leave them out for the small model"
            )

    def hook_config(self, hooks: Any, transformer: FoleyTransformer, num_calls: int) -> Any:
        """See `StepCache.hook_config`."""
        ratios = self.ratios
        if ratios is None:
            if transformer.config != SMALL:
                raise ValueError(
                    "step cache 'magcache' without ratios for a transformer of width "
                    f"{transformer.config.hidden_size}, wanted its own, measure them with calibrate"
                )
            ratios = _known_ratios(num_calls)
        return hooks.MagCacheConfig(
            # Its sums reach 0, and are compared by "at most".
            threshold=float(self.threshold) if self.threshold > 0 else -1.0,
            max_skip_steps=self.max_skips,
            retention_ratio=float(self.retention),
            num_inference_steps=num_calls,
            mag_ratios=torch.tensor(ratios),
        )


STEP_CACHES: dict[str, StepCache] = {
    each.name: each for each in (FirstBlock(), TaylorSeer(), MagCache())
}
"""Step caches by name, as they are when told nothing else."""


class CachedTransformer(FoleyTransformer):
    """A transformer for one run, whose blocks answer from memory where a step cache lets them.

    Made by `StepCache.apply`. It has the face of a `FoleyTransformer`, shares all parameters with
    the one it is made of, and is not meant to be moved, saved or trained.
    """

    def __init__(self, transformer: FoleyTransformer, hook_config: Any) -> None:
        nn.Module.__init__(self)  # nothing of its own: everything is the other's
        self.config = transformer.config
        for name, parameter in transformer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in transformer.named_children():
            self.add_module(name, child)
        count = len(transformer.triple_blocks) + len(transformer.single_blocks)
        if count < 2:
            raise ValueError(
                f"a step cache on a transformer of {count} blocks, wanted at least 2, leave it out"
            )
        self._hooked = _hooked_blocks(count, hook_config)
        doors = iter(cast(list[_Block], list(self._hooked.blocks)))
        self.triple_blocks = nn.ModuleList(
            _CachedTriple(block, next(doors)) for block in transformer.triple_blocks
        )
        self.single_blocks = nn.ModuleList(
            _CachedSingle(block, next(doors)) for block in transformer.single_blocks
        )
        self.train(transformer.training)
        self._context = "all"
        self._steps, self._time = 0, math.nan
        self._last_step: dict[str, int] = {}
        self._spells: dict[str, int] = {}

    @contextmanager
    def context(self, name: str) -> Iterator[None]:
        """What is kept within belongs to this name: one per batch that the network is called with
        at each step."""
        before, self._context = self._context, name
        try:
            yield
        finally:
            self._context = before

    @property
    def blocks_run(self) -> int:
        """How many blocks have really computed."""
        return sum(block.runs for block in cast(Iterator[_Block], self._hooked.blocks))

    @property
    def blocks_asked(self) -> int:
        """How many would have without a cache."""
        return sum(block.asked for block in cast(Iterator[_Block], self._hooked.blocks))

    def _velocity(
        self,
        x_t: Tensor,
        time: Tensor,
        conditions: Conditions,
        modulation: tuple[tuple[Tensor, Tensor], ...] | None = None,
    ) -> Tensor:
        with self._hooked.cache_context(self._memory(x_t, float(time[0]))):
            return super()._velocity(x_t, time, conditions, modulation)

    def _memory(self, x_t: Tensor, time: float) -> str:
        """Name of what is kept for this call.

        A context that sat out a step, as under guidance that holds for an interval only, starts
        anew: what it kept is too old. Batches of another shape never share.
        """
        if time != self._time:
            self._steps, self._time = self._steps + 1, time
        name = f"{self._context} {list(x_t.shape)}"
        if self._last_step.get(name, self._steps) < self._steps - 1:
            self._spells[name] = self._spells.get(name, 0) + 1
        self._last_step[name] = self._steps
        return f"{name} {self._spells.get(name, 0)}"


class _Block(nn.Module):
    """A block in the form that the hooks know: hidden states in, hidden states out.

    Its computation is handed in with each call, as closure over everything else the real block
    wants. `runs` counts those that the hooks let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.runs = 0

    def forward(self, hidden_states: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        self.runs += 1
        return compute(hidden_states)

    def answer(self, audio: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Audio tokens [B, T, D] behind the block, computed or from memory."""
        self.asked += 1
        return self(audio, compute)


class _CachedTriple(nn.Module):
    """A two-stream block whose audio may come from memory; its visual tokens then stay as they are,
    for no block that computes reads them in the same step."""

    def __init__(self, block: Any, door: _Block) -> None:
        super().__init__()
        self.block, self.door = block, door
        self.prepare_text, self.modulate_at = block.prepare_text, block.modulate_at

    def forward(self, audio: Tensor, visual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen = visual

        def compute(audio: Tensor) -> Tensor:
            nonlocal seen
            audio, seen = self.block(audio, visual, *rest)
            return audio

        return self.door.answer(audio, compute), seen


class _CachedSingle(nn.Module):
    """An audio-only block that may answer from memory."""

    def __init__(self, block: Any, door: _Block) -> None:
        super().__init__()
        self.block, self.door = block, door

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return self.door.answer(x, lambda x: self.block(x, *rest))


def calibrate(
    transformer: FoleyTransformer, run: Callable[[CachedTransformer], object]
) -> tuple[float, ...]:
    """Ratios for `MagCache`: mean size of what all blocks add to a token, over that at the call
    before. Nothing is skipped.

    Those of the small model are means over four of the sample clips, for 8, 16, 32 and 64 steps:

        lab = fl.load("small", dtype="float32")
        features = lab(clip).features
        run = lambda t: FlowGenerator(t, lab.rates).generate(features, 16, guidance_scale=2.5)
        calibrate(lab.generator.transformer, run)

    Args:
        run: Given a twin of the transformer, generates once with it.

    Returns:
        One ratio per network call, the first 1; means over the contexts.

    Raises:
        ValueError: If diffusers is not installed, or the contexts were called unequally often.
    """
    hooks = _diffusers_hooks(MagCache.name)
    # At the last of the steps it is told of, the hook prints what it measured and forgets it.
    config = hooks.MagCacheConfig(num_inference_steps=2**62, calibrate=True)
    twin = CachedTransformer(transformer, config)
    run(twin)
    registry = cast(Any, twin._hooked.blocks[0])._diffusers_hook
    manager = registry.get_hook("mag_cache_leader_block_hook").state_manager
    measured = [state.calibration_ratios for state in manager._state_cache.values()]
    counts = sorted({len(ratios) for ratios in measured})
    if len(counts) != 1:
        raise ValueError(
            f"a run of {counts} network calls in its contexts, wanted the same number, at least 1, "
            "in each, generate with plain guidance"
        )
    return tuple(sum(each) / len(each) for each in zip(*measured, strict=True))


def _diffusers_hooks(name: str) -> Any:
    """The module `diffusers.hooks`, told of our blocks."""
    try:
        with quietly():
            from diffusers import hooks
            from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
            from diffusers.hooks.mag_cache import MagCacheConfig  # noqa: F401  (the youngest)

            # Where a block's answer holds the hidden states; it has no public name yet. The first
            # time, diffusers imports all blocks that it knows itself.
            TransformerBlockRegistry.register(
                _Block, TransformerBlockMetadata(return_hidden_states_index=0)
            )
    except ImportError as error:
        raise ValueError(
            f"step cache {name!r} needs diffusers, which is not installed or too old, "
            "run: pip install 'foley-lab[diffusers]'"
        ) from error
    return hooks


def _hooked_blocks(count: int, hook_config: Any) -> Any:
    """A module of `count` blocks under hooks, with the `cache_context` that memory goes by."""
    from diffusers.models.cache_utils import CacheMixin

    class Hooked(nn.Module, CacheMixin):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(_Block() for _ in range(count))

    hooked = Hooked()
    hooked.enable_cache(hook_config)
    return hooked


@lru_cache(maxsize=1)
def _tables() -> dict[int, tuple[float, ...]]:
    stored = json.loads(RATIOS.read_text(encoding="utf-8"))
    return {int(calls): tuple(ratios) for calls, ratios in stored.items()}


def _known_ratios(num_calls: int) -> Sequence[float]:
    """The small model's ratios, of the nearest number of calls that was measured; diffusers
    stretches them."""
    tables = _tables()
    return tables[min(tables, key=lambda calls: abs(math.log(calls / num_calls)))]
