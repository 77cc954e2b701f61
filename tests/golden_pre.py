"""What comes before the transformer, held against recorded results: one check for each kind.

Each check takes a sidecar and the folder it lies in, asserts, and returns the largest error it
found (0 where all is exact). Sizes, seeds and tolerances are read from the sidecar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from foley_lab.encoders.pretrained import ClapText, PretrainedEncoder
from foley_lab.encoders.sampling import (
    SEGMENT_TOKENS,
    STRIDE,
    SYNC,
    VISUAL,
    frame_views,
    num_latents,
    num_segments,
)
from foley_lab.generators.diffusion import make_noise
from foley_lab.media import fit, probe, read_video
from foley_lab.signals import HUNYUAN_RATES

CELL, COLUMNS, BITS = 16, 4, 12
"""The pattern in which recorded frames carry their number: cells of 16 pixels, bright for 1."""


class MeanEyes(nn.Module):
    """Stands for SigLIP 2: the mean of each colour, in `width` numbers."""

    def __init__(self, image_size: int = 32, width: int = 6) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=image_size)
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * width).reshape(3, width))

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(pooler_output=pixel_values.mean((2, 3)) @ self.weight)


class MeanSync:
    """Stands for Synchformer: of every second frame of a segment the mean colours, repeated."""

    width = 6

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, frames: Tensor) -> Tensor:
        assert frames.ndim == 5 and frames.shape[1] == 3
        self.calls.append(frames.shape[2])
        means = frames.mean((3, 4)).transpose(1, 2)  # [B, F, 3]
        segments = means.unfold(1, 2 * STRIDE, STRIDE)[..., ::2]  # [B, segments, 3, 8]
        return segments.transpose(2, 3).flatten(1, 2).repeat(1, 1, self.width // 3)


class StubTokenizer:
    """The tokenizer of the recorded texts: a token a letter, between 0 and 2, padded with 1."""

    def __call__(
        self,
        texts: Sequence[str],
        padding: bool = True,
        truncation: bool = True,
        max_length: int = 512,
        return_offsets_mapping: bool = False,
    ) -> dict[str, Any]:
        rows = [[0, *(3 + (7 * ord(letter)) % 90 for letter in text), 2] for text in texts]
        rows = [row if len(row) <= max_length else [*row[: max_length - 1], 2] for row in rows]
        longest = max(map(len, rows))
        told = {
            "input_ids": [row + [1] * (longest - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        }
        if return_offsets_mapping:
            spans = [[(k, k + 1) for k in range(len(row) - 2)] for row in rows]
            told["offset_mapping"] = [[(0, 0), *span, (0, 0)] for span in spans]
        return told


def clap_model(config: dict[str, Any]) -> nn.Module:
    """A text model of this configuration."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    wanted = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
    return ClapTextModelWithProjection(ClapTextConfig(**wanted)).eval()


def encoder_of(text: nn.Module, compat: Any) -> PretrainedEncoder:
    """An encoder with stand-ins for the eyes, one of whose empty tokens says nothing."""
    empty = torch.zeros(1, 6), torch.zeros(1, 6)
    return PretrainedEncoder(MeanEyes(), text, StubTokenizer(), MeanSync(), empty, compat=compat)


def silent_text() -> nn.Module:
    """A text model for checks that do not look at words."""
    return clap_model(
        {"vocab_size": 97, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
         "intermediate_size": 8, "max_position_embeddings": 64, "projection_dim": 4}
    )  # fmt: skip


def check_frame_sampling(sidecar: dict[str, Any], folder: Path) -> float:
    """Which frames are picked, seen in their pixels, and how many tokens and latents follow."""
    encoder = encoder_of(silent_text(), "reference")
    for film in sidecar["videos"]:
        path = folder / film["file"]
        info = probe(path)
        visual, sync = (
            replace(view, fit="squeeze", height=info.height, width=info.width, pillow=False)
            for view in frame_views(512, "reference")
        )
        picked = numbers(path, visual, sync)
        assert picked[VISUAL] == film["picked_8fps"], film["file"]
        assert picked[SYNC] == film["picked_25fps"], film["file"]
        for key in (k for k in film if k.startswith("with_max_length_")):
            until_s = float(key.removeprefix("with_max_length_").removesuffix("s"))
            view = sync if film[key]["fps"] == 25 else visual
            short = numbers(path, replace(view, until_s=until_s))[view.name]
            assert short == film[key]["picked"], film["file"]
            assert len(short) / film[key]["fps"] == film[key]["seconds"]
        seen = encoder.encode(read_video(path, encoder.views_for(info)), [""])
        count = film["n_25fps"]
        assert seen.visual.shape[1] == film["n_8fps"]
        assert count / 25 == film["audio_len_in_s"] == film["seconds_25fps"]
        assert HUNYUAN_RATES.num_latents(seen.duration_s) == film["latent_frames"]
        assert seen.sync.shape[1] == film["sync_tokens"], film["file"]
    return 0.0


def numbers(path: Path, *views: Any) -> dict[str, list[int]]:
    """Which frames a film's views show, read from the pattern in them."""
    found = {}
    for name, frames in read_video(path, views).views.items():
        middles = torch.arange(CELL // 2, CELL * COLUMNS, CELL)
        cells = frames.images.float().mean(-1)[:, middles[: BITS // COLUMNS]][..., middles]
        bits = (cells.flatten(1) > 127).long()  # [F, 12]
        found[name] = (bits << torch.arange(BITS)).sum(1).tolist()
    return found


def check_length_arithmetic(sidecar: dict[str, Any], folder: Path) -> float:
    """Seconds, latents, samples and sync tokens of so many frames."""
    for row in sidecar["rows"]:
        count = row["frames_25fps"]
        latents = num_latents(count, "reference")
        assert latents == row["latent_frames"]
        assert latents * HUNYUAN_RATES.hop_length == row["samples_decoded"]
        assert num_segments(count, "reference") == row["sync_segments"]
        assert SEGMENT_TOKENS * num_segments(count, "reference") == row["sync_tokens"]
        # Ours lose nothing, and hand out no fewer tokens.
        assert num_latents(count) == 2 * count >= latents
        assert num_segments(count) - row["sync_segments"] in (0, 1)
    return 0.0


def check_text_features(sidecar: dict[str, Any], folder: Path) -> float:
    """Hidden states of prompt and negative prompt as padded and cut, and our own ones beside."""
    model = clap_model(sidecar["clap_text_config"])
    load_weights(model, folder / f"{sidecar['weights']}.safetensors")
    recorded = load_file(folder / sidecar["file"])
    tolerance, worst = sidecar["tolerance"]["max_abs"], 0.0
    for compat in ("reference", None):
        encoder = encoder_of(model, compat)
        encoder.text = ClapText(model, StubTokenizer(), sidecar["text_length"], compat)
        for case in sidecar["cases"]:
            seen = encoder.encode(None, [case["prompt"]], case["neg_prompt"], duration_s=1)
            texts = {"text_feat": case["prompt"], "uncond_text_feat": case["neg_prompt_effective"]}
            assert (seen.text_mask is None) == (compat == "reference")
            for name, got in (("text_feat", seen.text), ("uncond_text_feat", seen.negative_text)):
                wanted = recorded[f"{case['name']}.{name}"]
                assert got.shape == wanted.shape, case["name"]
                said = len(StubTokenizer()([texts[name]])["input_ids"][0])
                if compat is None:  # the same words, and nothing behind them
                    assert not got[:, said:].any()
                    got, wanted = got[:, :said], wanted[:, :said]
                worst = max(worst, (got - wanted).abs().max().item())
    assert worst <= tolerance
    return worst


def check_text_weights(sidecar: dict[str, Any], folder: Path) -> float:
    """The recorded names and shapes are those of the model that we load."""
    stored = load_file(folder / sidecar["file"])
    assert {k: list(v.shape) for k, v in stored.items()} == {
        k: v["shape"] for k, v in sidecar["tensors"].items()
    }
    words = stored["text_model.embeddings.word_embeddings.weight"]
    layers = {k.split(".")[3] for k in stored if k.startswith("text_model.encoder.layer.")}
    config = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": len(layers),
        "num_attention_heads": 1,  # no shape tells them
        "intermediate_size": len(stored["text_model.encoder.layer.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(stored["text_model.embeddings.position_embeddings.weight"]),
        "projection_dim": len(stored["text_projection.linear2.bias"]),
    }
    load_weights(clap_model(config), folder / sidecar["file"])
    return 0.0


def load_weights(model: nn.Module, path: Path) -> None:
    """Load every tensor, and let none be missing."""
    stored = load_file(path)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in stored.items()})


def check_preprocess(sidecar: dict[str, Any], folder: Path) -> float:
    """Both pictures of a frame, made our own way and the published one."""
    recorded = load_file(folder / sidecar["file"])
    tolerance, worst = sidecar["tolerance"]["max_abs"], 0
    for case in sidecar["cases"]:
        name = "x".join(map(str, case["size"]))
        rgb = recorded[f"in.{name}"][None]
        for compat in (None, "reference"):
            visual, sync = (fit(rgb, view).permute(2, 0, 1) for view in frame_views(512, compat))
            for got, wanted in (
                (visual[:, ::4, ::4], recorded[f"siglip_u8_every4th.{name}"]),
                (sync, recorded[f"sync_u8.{name}"]),
            ):
                assert got.shape == wanted.shape and got.dtype == torch.uint8
                worst = max(worst, (got.int() - wanted.int()).abs().max().item())
            assert abs(visual.double().mean().item() - case["siglip_mean"]) < 0.01
    assert worst <= tolerance
    return worst


def check_latents(sidecar: dict[str, Any], folder: Path) -> float:
    """The noise of a seed, in both precisions, to the last bit."""
    (seed,) = map(int, re.findall(r"manual_seed\((\d+)\)", sidecar["description"]))
    for dtype, wanted in load_file(folder / sidecar["file"]).items():
        batch, channels, length = wanted.shape  # the published code draws a batch at once
        noise = make_noise([seed], 1, (batch * channels, length)).view(wanted.shape)
        assert torch.equal(noise.to(getattr(torch, dtype)), wanted)
    return 0.0


CHECKS: dict[str, Callable[[dict[str, Any], Path], float]] = {
    "frame sampling": check_frame_sampling,
    "length arithmetic": check_length_arithmetic,
    "text features, padding and truncation": check_text_features,
    "tiny CLAP text model weights": check_text_weights,
    "image pre-processing": check_preprocess,
    "initial latents": check_latents,
}
"""By the `kind` of the sidecar."""

KEYS: dict[str, Callable[[Path], None]] = {}
"""Lists of names that belong here: none."""
