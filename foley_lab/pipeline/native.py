"""The stages as a `diffusers.DiffusionPipeline`, for those who know diffusers.

    pipe = FoleyPipeline.from_lab(fl.load("small"))
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    sound = pipe("clip.mp4", "a glass ball", generator=torch.Generator().manual_seed(0)).audios

It is the same model: `pipe.lab` computes with the very parameters of the pipeline, and gives the
same sound for the same options, bit for bit. Each component wraps a part of the house in what
diffusers asks of a model (a config, safetensors in a folder, hooks), so that `save_pretrained` and
`from_pretrained` work offline; what it wraps is its `inner`.

Step caches are asked for as in diffusers, `pipe.transformer.enable_cache(FirstBlockCacheConfig())`,
and live for one call each (`generators.step_cache`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor

from foley_lab.decoders.vocoder import Codec, VocoderConfig
from foley_lab.encoders.small import SmallEncoder
from foley_lab.encoders.text import MiniLMConfig, MiniLMText
from foley_lab.encoders.tiny import TinyConfig, TinyEyes
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.generators.step_cache import FirstBlock, MagCache, StepCache, TaylorSeer
from foley_lab.pipeline.lab import PIECE, Defaults, Lab, Stage
from foley_lab.pipeline.residence import Residence
from foley_lab.samplers import Sampled
from foley_lab.samplers.quiet import quietly
from foley_lab.signals import SMALL_RATES, EventLog, Features, FoleyError
from foley_lab.weights import load_shards, save_shards

try:
    with quietly():
        from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
        from diffusers.configuration_utils import ConfigMixin, register_to_config
        from diffusers.models.cache_utils import CacheMixin
        from diffusers.models.modeling_utils import ModelMixin
        from diffusers.pipelines.pipeline_utils import AudioPipelineOutput, DiffusionPipeline
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
            FlowMatchEulerDiscreteScheduler,
        )
        from diffusers.schedulers.scheduling_utils import SchedulerMixin
        from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError(
        "diffusers is not installed, wanted it for its pipelines, "
        "run: pip install 'foley-lab[diffusers]'"
    ) from error

OUTPUTS = ("np", "pt", "latent")
"""What `output_type` may be."""
CASTS = ("dtype", "torch_dtype")
"""What diffusers calls the precision that weights are loaded in, now and before."""


# -------------------------------------------------------------------------------------- components


class _Component(ModelMixin, ConfigMixin):
    """A part of the house as a model of diffusers."""

    _supports_group_offloading = False  # some layers are read without being called
    stays_float32 = True
    """Whatever is asked for: only the transformer gains by less."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Any:
        """The component in a folder; strict, where diffusers would only warn.

        Raises:
            FoleyError: If weights are missing, unknown or of another shape.
        """
        told = kwargs.pop("output_loading_info", False)
        if cls.stays_float32:
            kwargs = {name: value for name, value in kwargs.items() if name not in CASTS}
        path = cast(Any, pretrained_model_name_or_path)
        kwargs["use_safetensors"] = True  # diffusers would fall back on pickles
        loaded: Any = super().from_pretrained(path, **kwargs, output_loading_info=True)
        model, info = loaded
        if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
            raise FoleyError(
                f"{path} with {len(wrong)} tensors that are missing, unknown or of another shape, "
                f"first {wrong[0]!r}, wanted those of a {cls.__name__}, save it anew"
            )
        return (model, info) if told else model

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moved to a device, and to a precision where the part has a choice."""
        if self.stays_float32:
            kwargs.pop("dtype", None)
            args = tuple(each for each in args if not isinstance(each, torch.dtype))
        return super().to(*args, **kwargs) if args or kwargs else self


class FoleyEncoderModel(_Component):
    """Eyes and words of the small model; see `encoders.small.SmallEncoder`, its `inner`.

    The eyes are moved and saved as any model. The words stay on the processor in float32 and lie
    beside as `text.safetensors` and `tokenizer.json`.

    Args:
        shape: Fields of `TinyConfig`.
        threshold: Probability above which a peak is an event.
    """

    @register_to_config
    def __init__(self, shape: dict[str, Any], threshold: float) -> None:
        super().__init__()
        self.eyes = TinyEyes(TinyConfig(**shape))
        self.register_buffer("empty", torch.zeros(1, self.eyes.config.content))
        self.inner: SmallEncoder | None = None

    @classmethod
    def of(cls, encoder: SmallEncoder, empty: Tensor) -> FoleyEncoderModel:
        """This very encoder.

        Args:
            empty: What its transformer reads as "no picture" [1, Dv], where it does not know.
        """
        model = cls(encoder.eyes.config.as_dict(), encoder.threshold)
        known = empty if encoder.empty is None else encoder.empty
        model.eyes, model.empty, model.inner = encoder.eyes, known.detach().float(), encoder
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Any:
        """See `_Component.from_pretrained`."""
        folder = Path(cast(str, pretrained_model_name_or_path)) / (kwargs.get("subfolder") or "")
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        weights, config = load_shards(folder / "text")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        text = MiniLMText(weights, tokenizer, MiniLMConfig(**config))
        threshold = model.config.threshold
        model.inner = SmallEncoder(model.eyes, text, threshold=threshold, empty=model.empty)
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Everything it needs, in a folder."""
        super().save_pretrained(save_directory, **kwargs)
        text, folder = cast(SmallEncoder, self.inner).text, Path(save_directory)
        config = asdict(text.config)
        save_shards(folder / "text", text.weights, config, max_bytes=2**40, dtype=torch.float32)
        text.tokenizer.save(str(folder / "tokenizer.json"))

    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """`SmallEncoder.encode`."""
        return cast(SmallEncoder, self.inner).encode(*args, **kwargs)


class FoleyTransformerModel(_Component, CacheMixin):
    """Velocities; see `generators.foley.FoleyTransformer`, its `inner`, for the arguments."""

    stays_float32 = False
    _no_split_modules: ClassVar = ["TripleBlock", "SingleBlock"]
    _repeated_blocks: ClassVar = ["TripleBlock", "SingleBlock"]

    @register_to_config
    def __init__(
        self,
        depth_triple_blocks: int,
        depth_single_blocks: int,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        clip_dim: int,
        sync_dim: int,
        condition_dim: int,
        audio_vae_latent_dim: int,
        text_length: int,
        sync_positions: int,
        sync_kernel: int,
        interleaved_rope: bool,
        inert_parameters: bool,
        pooled_text: bool,
    ) -> None:
        super().__init__()
        shape = {each.name: self.config[each.name] for each in fields(FoleyConfig)}
        self.inner = FoleyTransformer(FoleyConfig(**shape))

    @classmethod
    def of(cls, transformer: FoleyTransformer) -> FoleyTransformerModel:
        """This very transformer."""
        with torch.device("meta"):  # parameters that are not kept
            model = cls(**asdict(transformer.config))
        model.inner = transformer
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Any:
        """See `_Component.from_pretrained`."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # diffusers puts tensors into their places one by one; convolutions over time lay theirs out
        # when their module is given its state (`nn.layers.TimeConv`).
        model.load_state_dict(model.state_dict(), assign=True)
        return loaded

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """`FoleyTransformer.forward`: a velocity, t in 0 .. 1000."""
        return self.inner(*args, **kwargs)

    @property
    def step_cache(self) -> StepCache | None:
        """What `enable_cache` asked for."""
        return self._cache_config

    def enable_cache(self, config: Any) -> None:
        """Spare work between steps from the next call on.

        Args:
            config: A `StepCache`, the name of one, or diffusers' FirstBlockCacheConfig,
                TaylorSeerCacheConfig or MagCacheConfig, whose number of steps is not heeded.

        Raises:
            ValueError: If there is a cache already, or it is none of these.
        """
        if self.is_cache_enabled:
            raise ValueError(
                f"a step cache beside {self._cache_config}, wanted one, call disable_cache first"
            )
        self._cache_config = cast(Any, _step_cache(config))

    def disable_cache(self) -> None:
        """Every step runs whole again."""
        self._cache_config = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Weights and config, in a folder.

        Raises:
            FoleyError: If the weights were reordered or rounded for generating.
        """
        if any(getattr(block, "heads_sorted", False) for block in self.inner.single_blocks):
            raise FoleyError(
                "a transformer whose weights were reordered for speed, wanted them as published, "
                "keep the official files and make the pipeline with from_lab"
            )
        super().save_pretrained(save_directory, **kwargs)


class FoleyCodecModel(_Component):
    """The small model's codec; see `decoders.vocoder.Codec`, its `inner`.

    Args:
        shape: Fields of `VocoderConfig`.
    """

    @register_to_config
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.inner = Codec(VocoderConfig(**shape))

    @classmethod
    def of(cls, codec: Codec) -> FoleyCodecModel:
        """This very codec."""
        model = cls(asdict(codec.config))
        model.inner = codec
        return model

    def encode(self, samples: Tensor) -> Tensor:
        """Samples [B, 1, N] to latents [B, 128, T]."""
        return self.inner.encode(samples)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 128, T] to samples [B, 1, T · 1920]."""
        return self.inner.decode(latents)

    forward = decode


# ---------------------------------------------------------------------------------------- pipeline


class FoleyPipeline(DiffusionPipeline):
    """A video and words in, a sound that fits out.

    Args:
        encoder, transformer, codec: Components, or the parts of a `Lab`, which are wrapped. Those
            of the official sizes have no form to be saved in and stay as they are.
        scheduler: For flow matching, see `samplers.schedulers.KNOWN`; may be exchanged any time.
        defaults: Fields of `pipeline.lab.Defaults` that differ.
        schedules: Optimised schedules, see `generators.diffusion.FlowGenerator`.
    """

    model_cpu_offload_seq = "encoder->transformer->codec"
    _callback_tensor_inputs: ClassVar = ["latents"]
    encoder: Any
    transformer: Any
    codec: Any
    scheduler: Any

    def __init__(
        self,
        encoder: object,
        transformer: object,
        codec: object,
        scheduler: SchedulerMixin,
        defaults: dict[str, Any] | None = None,
        schedules: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(transformer, FoleyTransformer):
            transformer = FoleyTransformerModel.of(transformer)
        if isinstance(encoder, SmallEncoder):
            empty = cast(FoleyTransformerModel, transformer).inner.empty_clip_feat
            encoder = FoleyEncoderModel.of(encoder, empty)
        if isinstance(codec, Codec):
            codec = FoleyCodecModel.of(codec)
        self.register_modules(
            encoder=encoder, transformer=transformer, codec=codec, scheduler=scheduler
        )
        self.register_to_config(defaults=defaults, schedules=schedules)
        self._interrupt, self._num_timesteps = False, 0
        generator = FlowGenerator(_inner(transformer), SMALL_RATES, schedules=_tables(schedules))
        chosen = Defaults(**(defaults or {}))
        self._like = Lab(_inner(encoder), generator, _inner(codec), "small", SMALL_RATES, chosen)

    @classmethod
    def from_lab(cls, lab: Lab, scheduler: SchedulerMixin | None = None) -> FoleyPipeline:
        """A pipeline over the parts of a lab, of any size; nothing is copied.

        Args:
            scheduler: Default Euler with even steps.
        """
        parts = lab.encoder, lab.generator.transformer, lab.decoder
        schedules = {
            order: {str(steps): list(clock) for steps, clock in table.items()}
            for order, table in lab.generator.schedules.items()
        }
        scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
        pipe = cls(*parts, scheduler, asdict(lab.defaults), schedules)
        pipe._like = lab
        return pipe

    @property
    def lab(self) -> Lab:
        """The same components as a `Lab`."""
        lab = copy.copy(self._like)
        lab.encoder, lab.decoder = _inner(self.encoder), _inner(self.codec)
        lab.generator = copy.copy(lab.generator)
        lab.generator.transformer = _inner(self.transformer)
        lab.residences = dict(lab.residences)
        if getattr(self, "_all_hooks", None):  # enable_model_cpu_offload
            device = self._execution_device
            stages = {"encode": self.encoder, "generate": self.transformer, "decode": self.codec}
            lab.residences.update({name: _Visit(part, device) for name, part in stages.items()})
        return lab

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked to stop, by setting `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that runs, or ran last."""
        return self._num_timesteps

    def __call__(
        self,
        video: str | os.PathLike[str] | None = None,
        prompt: str = "",
        negative_prompt: str | None = None,
        audio_end_in_s: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        sigmas: Sequence[float] | None = None,
        guidance: Any = None,
        events: EventLog | None = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        output_type: str = "np",
        return_dict: bool = True,
    ) -> AudioPipelineOutput | tuple[Any]:
        """A sound for a video; None is the model's default.

        Args:
            video: Path of a film; None for a sound from words (official sizes) or events (small).
            prompt, negative_prompt: What should sound, and what should not.
            audio_end_in_s: Length of the sound where there is no film.
            num_inference_steps: Steps; those of `sigmas` where they are given.
            guidance_scale: Weight of what was seen and read; at 1 or below half the work.
            num_waveforms_per_prompt: Versions n, 1 to 16.
            generator: Source of the noise, one for all or one per version; None is torch's own.
                One seeded with s gives the first version the noise of `Lab(..., seed=s)`.
            latents: Noise to start from [n, C, T] instead.
            sigmas: Times of the steps, falling from 1; the end at 0 may be left out. They are taken
                as they are, whatever the scheduler's shift.
            guidance: How guidance is applied, a name of `samplers.guidance.GUIDANCES` or a guider.
            events: What shall sound instead of what is seen (small).
            callback_on_step_end: Called as (pipe, step, timestep, {"latents": [n, C, T]}) after
                each step; may answer {"latents": ...} to go on from those, or set
                `pipe._interrupt` to hear the latents as they are.
            callback_on_step_end_tensor_inputs: "latents", or nothing.
            output_type: "np", "pt" or "latent".
            return_dict: Whether to answer an `AudioPipelineOutput` rather than a tuple.

        Returns:
            `audios` float32 [n, 1, N] at the model's sample rate; or latents [n, C, T].

        Raises:
            MediaError: If the video cannot be read.
            ValueError: If an option is out of its range.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check(output_type, callback_on_step_end_tensor_inputs, generator, latents)
        if latents is None and isinstance(generator, list):
            _check_count(generator, num_waveforms_per_prompt)
        clock = None if sigmas is None else _clock(sigmas)
        lab = self.lab
        steps = num_inference_steps if clock is None else len(clock) - 1
        steps = lab.defaults.num_steps if steps is None else steps

        def draw(shape: tuple[int, ...]) -> Tensor:
            if latents is not None:
                return latents.float()
            return randn_tensor(shape, generator, lab.device, torch.float32)

        lab.generator = run = _FromNoise(lab.generator, draw)
        self._interrupt, self._num_timesteps = False, steps
        timestep = 1000.0

        def told(stage: Stage) -> Tensor | None:
            nonlocal timestep
            now, timestep = timestep, 1000.0 * stage.progress.t
            changed = None
            if callback_on_step_end is not None:
                known = {"latents": stage.progress.latents}
                shown = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                step = stage.progress.done - 1
                answer = callback_on_step_end(self, step, torch.tensor(now), shown) or {}
                changed = answer.get("latents")
            bar.update()
            if self._interrupt:
                raise _Interrupted(stage.progress.latents if changed is None else changed)
            return changed

        stream = lab.stream(
            video, prompt, negative_prompt, steps, guidance_scale, self.scheduler,
            takes=num_waveforms_per_prompt, events=events, seconds=audio_end_in_s, schedule=clock,
            guidance=guidance, step_cache=getattr(self.transformer, "step_cache", None),
            on_step=told, piece=1 if output_type == "latent" else PIECE,
        )  # fmt: skip
        try:
            with cast(Any, self).progress_bar(total=steps) as bar:
                next(stream)  # everything up to the first piece of sound
            if output_type != "latent":
                for _ in stream:
                    pass
        finally:
            self.maybe_free_model_hooks()
        found: Any = cast(Sampled, run.sampled).latents
        if output_type != "latent":
            found = torch.stack([take.samples for take in stream.result.takes])
        found = found.numpy() if output_type == "np" else found
        return AudioPipelineOutput(audios=found) if return_dict else (found,)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Every component in a folder of its own: configs and safetensors.

        Raises:
            FoleyError: If the components have no form to be saved in; nothing is written then.
            ValueError: If they are to be saved as pickles, or there is no scheduler.
        """
        if not kwargs.get("safe_serialization", True):
            raise ValueError("safe_serialization False, wanted safetensors, leave it out")
        if self.scheduler is None:
            raise ValueError("a pipeline without a scheduler, wanted one to save, set it")
        for name in ("encoder", "transformer", "codec"):
            part = getattr(self, name)
            if not isinstance(part, _Component):
                raise FoleyError(
                    f"a pipeline of {self._like.name!r}, whose {name} is a {type(part).__name__}, "
                    "wanted the small model's parts, load the official files and use from_lab"
                )
        super().save_pretrained(save_directory, **kwargs)

    def _check(
        self, output_type: str, tensor_inputs: Sequence[str], generator: Any, latents: Any
    ) -> None:
        if output_type not in OUTPUTS:
            raise ValueError(
                f"output_type {output_type!r}, wanted one of {', '.join(OUTPUTS)}, choose another"
            )
        if unknown := [n for n in tensor_inputs if n not in self._callback_tensor_inputs]:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs with {unknown[0]!r}, wanted "
                f"{', '.join(self._callback_tensor_inputs)}, leave it out"
            )
        each = generator if isinstance(generator, list) else [generator]
        if generator is not None and not all(isinstance(g, torch.Generator) for g in each):
            raise ValueError(
                f"generator {generator!r:.80}, wanted a torch.Generator or a list of them, "
                "e.g. torch.Generator().manual_seed(0)"
            )
        if latents is not None and not isinstance(latents, Tensor):
            raise ValueError(f"latents {latents!r:.80}, wanted a tensor [n, C, T], or None")


class _Interrupted(Exception):
    """Raised through the sampler when a callback asked to stop."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__("interrupted by a callback")
        self.latents = latents


class _FromNoise(FlowGenerator):
    """The generator of one call: starts from the caller's noise, and can be stopped half-way.

    Attributes:
        sampled: What was generated, once it is.
    """

    def __init__(self, like: FlowGenerator, draw: Callable[[tuple[int, ...]], Tensor]) -> None:
        vars(self).update(vars(like))
        self.draw = draw
        self.sampled: Sampled | None = None

    def sample(self, features: Features, **options: Any) -> Sampled:
        """As of `FlowGenerator`, with the noise that is drawn here."""
        channels = self.transformer.config.audio_vae_latent_dim
        rows = len(features.visual) * options["takes"]
        noise = self.draw((rows, channels, options["latents_length"]))
        try:
            self.sampled = super().sample(features, **options, noise=noise)
        except _Interrupted as stop:
            self.sampled = Sampled(stop.latents, 0)
        return self.sampled


class _Visit(Residence):
    """A component that hooks of accelerate bring to the device, and take away when the next one
    comes."""

    def __init__(self, part: Any, device: torch.device) -> None:
        self.part, self.device = part, device

    @contextmanager
    def here(self) -> Iterator[None]:
        """The component on the device."""
        hook = getattr(self.part, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.part)
        yield


def _inner(part: Any) -> Any:
    """What a component wraps; anything else as it is."""
    return part.inner if isinstance(part, _Component) else part


def _tables(schedules: Mapping[str, Any] | None) -> dict[str, dict[int, list[float]]]:
    """Schedules as they come from a model_index.json, whose keys are text."""
    return {
        order: {int(steps): list(clock) for steps, clock in table.items()}
        for order, table in (schedules or {}).items()
    }


def _clock(sigmas: Sequence[float]) -> list[float]:
    """Times of the steps, the end included."""
    clock = [float(sigma) for sigma in sigmas]
    return clock if clock and clock[-1] == 0 else [*clock, 0.0]


def _check_count(generators: Sequence[torch.Generator], wanted: int) -> None:
    if len(generators) != wanted:
        raise ValueError(
            f"{len(generators)} generators for {wanted} waveforms, wanted one for all or one each, "
            "correct num_waveforms_per_prompt"
        )


def _step_cache(config: Any) -> StepCache:
    """A step cache from any form it is known in."""
    if isinstance(config, StepCache):
        return config
    if isinstance(config, str):
        return StepCache.named(config)
    kind = type(config).__name__
    if kind == "FirstBlockCacheConfig":
        return FirstBlock(config.threshold)
    if kind == "TaylorSeerCacheConfig":
        warmup = max(1, config.disable_cache_before_step)
        return TaylorSeer(config.cache_interval, warmup, config.max_order)
    if kind == "MagCacheConfig" and config.mag_ratios is not None:
        ratios = tuple(float(ratio) for ratio in config.mag_ratios)
        return MagCache(config.threshold, config.max_skip_steps, config.retention_ratio, ratios)
    raise ValueError(
        f"a step cache of {kind}, wanted a StepCache, its name, or FirstBlockCacheConfig, "
        "TaylorSeerCacheConfig or MagCacheConfig with ratios, choose another"
    )
