"""HunyuanVideo-Foley put together from its published parts (Shan et al. 2025, arXiv:2508.16930).

    SigLIP 2, Synchformer, CLAP ─→ transformer, 50 steps, guidance 4.5 ─→ DAC-VAE ─→ 48 kHz

Weights are those of `foley-lab weights fetch xl`. Beside a transformer or a Synchformer that is no
published one, a `config.json` tells its shape: for a transformer the official `model_kwargs`, for
Synchformer the fields of `SynchformerConfig`.
"""

from __future__ import annotations

import json
import os
from fractions import Fraction
from typing import Any, cast

import torch
from torch import nn

from foley_lab.decoders.dac_vae import load_dac
from foley_lab.encoders.pretrained import PretrainedEncoder
from foley_lab.encoders.sampling import SYNC_RATE, Compat
from foley_lab.encoders.synchformer import PUBLISHED, SynchformerConfig, load_synchformer
from foley_lab.generators.adapters import apply_adapter
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.eight_bit import to_eight_bit
from foley_lab.generators.foley import XL, XXL, FoleyConfig, FoleyTransformer, SingleBlock
from foley_lab.pipeline.lab import Defaults, Lab
from foley_lab.pipeline.residence import Residence
from foley_lab.signals import HUNYUAN_RATES, FoleyError
from foley_lab.weights import (
    load_official,
    load_schedules,
    load_strictly,
    official_files,
    official_metadata,
    weights_dir,
)

SIZES = {"xl": XL, "xxl": XXL}
PARTS = ("dac-vae", "synchformer", "siglip2", "clap")
DEFAULTS = Defaults(num_steps=50, guidance_scale=4.5, sampler="euler", decoder="dac-vae")


def load_official_lab(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    offload: bool = False,
    compat: Compat = None,
    adapter: str | os.PathLike[str] | None = None,
    whole_codec: bool = False,
) -> Lab:
    """A model of the official architecture.

    Args:
        name: "xl" or "xxl".
        device, dtype: Of the transformer; the encoders compute in the same precision, the codec in
            float32 as published. int8: weights of eight bits, all else in bfloat16.
        offload: Keep all weights in host memory; a stage's visit the device while it runs.
        compat: "reference" picks frames, counts lengths and reads padding as the published code.
        adapter: Of a fine-tuning, merged into the transformer.
        whole_codec: Whether the codec shall encode too.

    Raises:
        MissingWeights: If a part is absent.
        FoleyError: If a file is damaged, carries code or belongs to another size.
    """
    eight_bit, dtype = dtype == torch.int8, torch.bfloat16 if dtype == torch.int8 else dtype
    for part in (name, *PARTS):
        official_files(part)  # names the first that is absent before any is read
    config, chosen = SIZES[name], _config(name)
    if chosen:
        config = FoleyConfig.from_official(chosen)
    with torch.device("meta"):
        transformer = FoleyTransformer(config)
    load_strictly(transformer, load_official(name), tolerate_unknown=True)
    transformer = transformer.to(dtype).requires_grad_(False).eval()
    if adapter is not None:
        apply_adapter(transformer, adapter)
    if eight_bit:
        to_eight_bit(transformer)
    elif not whole_codec:  # a training keeps the official tensors
        for block in transformer.single_blocks:
            cast(SingleBlock, block).sort_heads()
    shape = SynchformerConfig(**chosen) if (chosen := _config("synchformer")) else PUBLISHED
    sync = load_synchformer(load_official("synchformer"), shape).to(dtype)
    kwargs = official_metadata("dac-vae").get("kwargs")
    if not isinstance(kwargs, dict):
        raise FoleyError(
            f"{official_files('dac-vae')[0]} does not say how its codec is built, wanted "
            "metadata with kwargs, fetch it again"
        )
    codec = load_dac(load_official("dac-vae"), kwargs, with_encoder=whole_codec)
    home = torch.device("cpu") if offload else device
    empty = (transformer.empty_clip_feat.clone(), transformer.empty_sync_feat.clone())
    encoder = PretrainedEncoder.from_folder(
        weights_dir(), sync.to(home), empty, home, dtype, compat
    )
    spacing = Fraction(1) / SYNC_RATE
    generator = FlowGenerator(
        transformer.to(home),
        HUNYUAN_RATES,
        spacing,
        sync_spread=compat is not None,
        schedules=load_schedules(name),
    )
    residences = {}
    if offload:
        encoder.device = device
        stages: dict[str, list[nn.Module]] = {
            "encode": [encoder.vision, encoder.text.model, sync],
            "generate": [transformer],
            "decode": [codec],
        }
        residences = {stage: Residence(parts, device) for stage, parts in stages.items()}
    return Lab(encoder, generator, codec.to(home), name, HUNYUAN_RATES, DEFAULTS, residences)


def _config(name: str) -> dict[str, Any] | None:
    """What the `config.json` beside the weights says, if there is one.

    Raises:
        FoleyError: If it is no JSON object.
    """
    path = weights_dir() / name / "config.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoleyError(
            f"{path} cannot be read ({error}), wanted a JSON object, correct or remove it"
        ) from error
    if not isinstance(content, dict):
        raise FoleyError(f"{path} is no JSON object, wanted one, correct or remove it")
    return content
