"""The encoders of the official model: three pretrained networks behind one `encode`.

    frames, 8 Hz, 512 x 512 ──SigLIP 2──→ content tokens [V, 768], one a frame
    frames, 25 Hz, 224 x 224 ─Synchformer→ sync tokens [S, 768], 8 for each segment of 16 frames
    prompt, negative prompt ──CLAP──────→ text tokens [L, 768], one a word piece

SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786) says what is seen, Synchformer (Iashin et al.
2024, arXiv:2401.16423) when, CLAP (Wu et al. 2022, arXiv:2211.06687) what the words mean as sound.
Which frames they see is told in `sampling`. Frames go through the networks in small batches, so the
memory of a long clip is that of its small uint8 frames.

Departures from the published code, all off with `compat="reference"`: what follows a prompt is
zero and masked, so that a prompt does not depend on the length of the negative prompt; there, the
padding's own hidden states are kept and read. Frames and lengths: see `sampling`; films end at 15 s
there, of which the video is given a warning. With and without `compat`, only the picture half of
SigLIP 2 and the words half of CLAP are ever loaded, pictures are turned as they are displayed,
clips below 0.64 s are filled up to one segment, and prompts beyond CLAP's longest are cut.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from foley_lab.encoders.sampling import (
    REFERENCE_LONGEST_S,
    REFERENCE_SECONDS,
    STRIDE,
    SYNC,
    VISUAL,
    Compat,
    frame_views,
    num_latents,
    num_segments,
    num_sync,
    num_visual,
    segment_frames,
)
from foley_lab.signals import (
    HUNYUAN_RATES,
    EventLog,
    Features,
    FoleyError,
    MissingWeights,
    Video,
    View,
)

NEGATIVE_PROMPT = "noisy, harsh"
"""What the sound should not be, where nothing is said; "" is nothing."""

TEXT_LENGTH = 77
"""Most text tokens that the transformer reads."""

FRAMES_AT_ONCE, SEGMENTS_AT_ONCE = 16, 16
"""Pictures and segments in one call of a network; bounds the memory of long clips."""


class SyncNetwork(Protocol):
    """What is asked of Synchformer."""

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, F, H, W] from -1 to 1 to sync tokens [B, 8 · segments, D]."""
        ...


class ClapText:
    """Prompts to text tokens.

    Args:
        model: transformers' `ClapTextModelWithProjection`; its projection is not used.
        tokenizer: Of that model.
        max_tokens: L at most.
        compat: "reference" keeps what the model makes of the padding.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[..., Any],
        max_tokens: int = TEXT_LENGTH,
        compat: Compat = None,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_tokens = max_tokens
        self.compat: Compat = compat

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text tokens, one row a prompt, as long as the longest.

        A prompt is read whole and its hidden states are cut to `max_tokens` afterwards, so that the
        first words know of the last ones.

        Returns:
            Tokens [B, L, D] float32, zero behind each prompt; with `compat` the padding's states.

        Raises:
            ValueError: If one string came instead of a sequence of them.
        """
        if isinstance(prompts, str):
            raise ValueError(f"prompts is one string {prompts!r}, wanted a list, write [prompt]")
        texts = list(prompts)
        if self.compat:
            return self._hidden(texts)
        # Each by itself: in a batch the last digits of a prompt would depend on its neighbours.
        alone = {text: self._hidden([text])[0] for text in dict.fromkeys(texts)}
        return nn.utils.rnn.pad_sequence([alone[text] for text in texts], batch_first=True)

    def truncated(self, prompt: str) -> str:
        """The end of the prompt that the transformer does not read; empty when it reads all.

        Word pieces may start in the middle of a word, and so may the end.
        """
        starts = [start for start, _ in self._tokens([prompt], offsets=True)["offset_mapping"][0]]
        lost = starts[self.max_tokens : -1]  # the last token only marks the end
        return prompt[lost[0] :] if lost else ""

    def _hidden(self, texts: list[str]) -> Tensor:
        """Last hidden states [B, L, D]."""
        tokens = self._tokens(texts)
        words = getattr(self.model, "text_model", self.model)
        device = next(self.model.parameters()).device
        ids, mask = (torch.as_tensor(tokens[k]) for k in ("input_ids", "attention_mask"))
        hidden = words(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return hidden[:, : self.max_tokens].float()

    def _tokens(self, texts: list[str], offsets: bool = False) -> Any:
        """Ids, padded to the longest."""
        config: Any = self.model.config
        longest = config.max_position_embeddings - config.pad_token_id - 1
        extra = {"return_offsets_mapping": True} if offsets else {}
        return self.tokenizer(texts, padding=True, truncation=True, max_length=longest, **extra)


class PretrainedEncoder:
    """Video and words to the features of the official model.

    Args:
        vision: transformers' `SiglipVisionModel`.
        text: transformers' `ClapTextModelWithProjection`.
        tokenizer: Of the text model.
        sync: Synchformer, on `device` already.
        empty: What the transformer has learnt to read as "no video", `empty_clip_feat` [1, Dv] and
            `empty_sync_feat` [1, Ds]; wanted only to encode words without a video.
        device, dtype: Where and in which precision the networks compute; dtype None is float16 on
            an accelerator and float32 on the processor. The published code computes SigLIP 2 and
            CLAP in float32 and Synchformer in float16.
        compat: "reference" samples, counts and pads as the published code does.
    """

    plays_events = False

    def __init__(
        self,
        vision: nn.Module,
        text: nn.Module,
        tokenizer: Callable[..., Any],
        sync: SyncNetwork,
        empty: tuple[Tensor, Tensor] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compat: Compat = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype or default_dtype(self.device)
        self.vision = vision.eval().to(self.device, self.dtype)
        self.text = ClapText(text.to(self.device, self.dtype), tokenizer, compat=compat)
        self.sync, self.empty = sync, empty
        self.compat: Compat = compat

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        sync: SyncNetwork,
        empty: tuple[Tensor, Tensor] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compat: Compat = None,
    ) -> PretrainedEncoder:
        """The encoder from local files: `<path>/siglip2` and `<path>/clap`, safetensors.

        Args:
            path: Folder of the weights; the rest is as for the class.

        Raises:
            MissingWeights: If a file is not there.
            FoleyError: If a file is damaged or lacks tensors, or transformers is not installed.
        """
        folder = Path(path)
        try:
            with quiet_imports():
                from transformers import (
                    AutoTokenizer,
                    ClapTextModelWithProjection,
                    SiglipVisionModel,
                )
        except ImportError as error:
            raise FoleyError(
                "transformers is not installed, wanted it for the official encoders, "
                "run pip install 'foley-lab[official]'"
            ) from error
        except ValueError as error:  # of the hub's library, which reads addresses at import
            raise FoleyError(
                f"transformers does not start ({error}), wanted a sound HF_ENDPOINT or none, "
                "correct it or leave it out"
            ) from error
        siglip2, clap = folder / "siglip2", folder / "clap"
        for kind in (siglip2, clap):
            _check_present(kind, "config.json", "model.safetensors")
        if not (clap / "tokenizer.json").is_file():  # the older form of the same
            _check_present(clap, "vocab.json", "merges.txt")
        told_in = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "config.json")
        with _reading(clap, *told_in):
            tokenizer = AutoTokenizer.from_pretrained(clap, local_files_only=True)
        return cls(
            _load(SiglipVisionModel, siglip2, "vision_model."),
            _load(ClapTextModelWithProjection, clap, "text_model.", "text_projection."),
            tokenizer,
            sync,
            empty,
            device,
            dtype,
            compat,
        )

    def views_for(self, info: Video) -> Sequence[View]:
        """The views to read of any film, for one decode."""
        config: Any = self.vision.config
        return frame_views(config.image_size, self.compat)

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
            video: With the views of `views_for`; None is words alone.
            prompts: One per wanted row; "" leaves the sound to the picture.
            negative_prompt: What the sound should not be; None is `NEGATIVE_PROMPT`.
            events: None: this model plays what it sees.
            duration_s: Of the sound, where there is no video.

        Returns:
            Features with B = len(prompts) rows that share what was seen, float32. Where the video
            is longer than the tokens (`compat`), `duration_s` is what they cover, and the video
            is told in its warnings if that is because it ends at 15 s.

        Raises:
            ValueError: If the video lacks a view, events are given, there is no video and the
                encoder knows no empty tokens, or words alone are to last longer than the published
                code can (`compat`).
        """
        if events is not None:
            raise ValueError(
                f"a log of {len(events.events)} events for a model that plays what it sees, wanted "
                "none, leave the events out or choose the small model"
            )
        texts = [NEGATIVE_PROMPT if negative_prompt is None else negative_prompt, *prompts]
        if video is None:
            if self.compat and duration_s > REFERENCE_SECONDS:
                raise ValueError(
                    f"{duration_s:g} s of words alone with compat {self.compat!r}, wanted at most "
                    f"{REFERENCE_SECONDS:g}, where the published code ends, ask for fewer seconds "
                    "or leave compat out"
                )
            visual, sync = self._unseen(duration_s)
        else:
            visual, sync, duration_s = self._seen(video)
        text, rows = self.text.encode(texts), len(prompts)
        mask = text.any(-1)  # behind a prompt are zeros
        return Features(
            visual=visual.expand(rows, -1, -1),
            sync=sync.expand(rows, -1, -1),
            text=text[1:],
            negative_text=text[:1].expand(rows, -1, -1),
            duration_s=duration_s,
            text_mask=None if self.compat else mask[1:],
            negative_text_mask=None if self.compat else mask[:1].expand(rows, -1),
        )

    def _seen(self, video: Video) -> tuple[Tensor, Tensor, float]:
        """Content [1, V, Dv], sync tokens [1, S, Ds] and the seconds they cover."""
        if missing := {VISUAL, SYNC} - set(video.views):
            raise ValueError(
                f"a video with views {sorted(video.views)}, wanted {', '.join(sorted(missing))} "
                "too, read it with views_for"
            )
        frames = video.views[SYNC].images
        visual, sync = self._content(video.views[VISUAL].images), self._timing(frames)
        if self.compat is None:
            return visual, sync, video.duration_s
        covered_s = num_latents(len(frames), self.compat) / HUNYUAN_RATES.latent_rate
        if video.duration_s > REFERENCE_LONGEST_S:
            warning = (
                f"the film lasts {video.duration_s:.2f} s and the sound {covered_s:.2f} s: the "
                f"published code, as compat {self.compat!r} asks for, reads "
                f"{REFERENCE_SECONDS:g} s"
            )
            if warning not in video.warnings:  # it may be encoded again
                video.warnings.append(warning)
        return visual, sync, covered_s

    def _content(self, images: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] to content tokens [1, F, Dv]."""
        batches = images.split(FRAMES_AT_ONCE)
        pooled = [self.vision(pixel_values=self._pixels(b)).pooler_output for b in batches]
        return torch.cat(pooled).float()[None]

    def _timing(self, images: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] to sync tokens [1, 8 · segments, Ds].

        Segments do not know of each other, so stretches of them give what all give together.
        """
        segments = num_segments(len(images), self.compat)
        last = len(images) - 1
        tokens = []
        for start in range(0, segments, SEGMENTS_AT_ONCE):
            count = min(SEGMENTS_AT_ONCE, segments - start)
            place = torch.arange(segment_frames(count)) + start * STRIDE
            pixels = self._pixels(images[place.clamp(max=last)])  # the last frame fills up
            tokens.append(self.sync.encode(pixels.transpose(0, 1)[None]))  # [1, 3, F, H, W]
        return torch.cat(tokens, dim=1).float()

    def _pixels(self, images: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] as the networks want them: [F, 3, H, W] from -1 to 1."""
        x = images.permute(0, 3, 1, 2).contiguous().to(self.device).float()
        return x.div_(255).sub_(0.5).div_(0.5).to(self.dtype)

    def _unseen(self, duration_s: float) -> tuple[Tensor, Tensor]:
        """Content [1, V, Dv] and sync tokens [1, S, Ds] of no video."""
        if self.empty is None:
            raise ValueError(
                "no video and an encoder without empty tokens, wanted one of them, hand the "
                "encoder the transformer's empty_clip_feat and empty_sync_feat"
            )
        visual, sync = (token.detach().float().to(self.device)[None] for token in self.empty)
        return (
            visual.expand(-1, num_visual(duration_s), -1),
            sync.expand(-1, num_sync(duration_s), -1),
        )


def default_dtype(device: torch.device) -> torch.dtype:
    """Precision of the encoders on a device: half on an accelerator, single on the processor."""
    return torch.float32 if device.type == "cpu" else torch.float16


def _check_present(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise MissingWeights(
                f"weights {folder.name!r} are absent, wanted {folder / name}, "
                "run `foley-lab weights fetch xl`"
            )


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import transformers or torchao without their notes on kernels and deprecations.

    They are about parts that are not used here, and nothing that a user could mend. Errors come
    through.
    """
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]

    def grave(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    for logger in loggers:
        logger.addFilter(grave)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(grave)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Load without transformers' progress bar: it is gone before it could be read."""
    from transformers.utils import logging as told

    shown = told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            told.enable_progress_bar()


@contextmanager
def _reading(folder: Path, *files: str) -> Iterator[None]:
    """Name the damaged file where transformers stumbles over one: the first that is no JSON object,
    or else the first.

    Raises:
        FoleyError: Of one line.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # there is no telling where damaged files lead
        there = [folder / name for name in files if (folder / name).is_file()]
        path = next((path for path in there if not _is_object(path)), there[0])
        why = " ".join(str(error).split()) or type(error).__name__
        raise FoleyError(
            f"{path} cannot be read ({why:.200}), wanted the published file, fetch it again: "
            f"delete it and run `foley-lab weights fetch {folder.name}`"
        ) from error


def _is_object(path: Path) -> bool:
    """Whether a file holds a JSON object."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


def _load(kind: Any, folder: Path, *prefixes: str) -> nn.Module:
    """A model of transformers from the tensors of its file whose names start so.

    Only these are read from the disk: the other half of the file is neither loaded nor built.

    Raises:
        FoleyError: If the file is damaged or lacks some of the model.
    """
    path = folder / "model.safetensors"
    with _reading(folder, "config.json"):
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
    try:
        with safe_open(path, framework="pt") as file:
            names = filter(lambda name: name.startswith(prefixes), file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise FoleyError(
            f"{path} is damaged ({error}), wanted safetensors, fetch it again: delete it and run "
            f"`foley-lab weights fetch {folder.name}`"
        ) from error
    # From the tensors at hand, not from the folder: built and filled without a random start.
    with _reading(folder, "config.json"), _without_bars():
        model, found = kind.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True
        )
    if lacking := sorted({*found["missing_keys"], *(k for k, *_ in found["mismatched_keys"])}):
        raise FoleyError(
            f"{path} lacks {len(lacking)} tensors such as {lacking[0]!r}, wanted those of its "
            f"config.json, fetch it again: delete it and run `foley-lab weights fetch "
            f"{folder.name}`"
        )
    return model
