"""A `Lab` of untrained networks: every stage is the real one, what it says is noise."""

from __future__ import annotations

from dataclasses import replace

import torch

from foley_lab.decoders.vocoder import Codec, VocoderConfig
from foley_lab.encoders.small import SmallEncoder
from foley_lab.encoders.text import MiniLMText
from foley_lab.encoders.tiny import TinyConfig, TinyEyes
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import SMALL, FoleyTransformer
from foley_lab.pipeline.lab import Defaults, Lab
from foley_lab.signals import SMALL_RATES


def tiny_lab(loud: float = 0.0) -> Lab:
    """A small random model, equal at every call.

    Args:
        loud: Added to the logarithm of the decoder's levels; 5 drives it far beyond full scale.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        eyes = TinyEyes(TinyConfig(size=48, stem=16, trunk=16, deep=16, width=32, blocks=1))
        codec = Codec(VocoderConfig(width=32, slow_blocks=1, fast_blocks=2)).eval()
        with torch.no_grad():
            rings = codec.vocoder.sizes[0]
            codec.vocoder.head.bias[:rings] += loud
        config = replace(
            SMALL,
            depth_triple_blocks=1,
            depth_single_blocks=1,
            hidden_size=32,
            num_heads=2,
            clip_dim=eyes.config.content,
        )
        transformer = FoleyTransformer(config).eval()
        transformer.init_weights()
        with torch.no_grad():
            # Training starts from closed gates and a velocity of zero: nothing would be heard.
            for name, parameter in transformer.named_parameters():
                if any(part in name for part in (".modulation.", "_mod.", "final_layer.")):
                    parameter.normal_(std=0.3)
    generator = FlowGenerator(transformer, SMALL_RATES)
    encoder = SmallEncoder(eyes, MiniLMText.load(), empty=transformer.empty_clip_feat)
    return Lab(encoder, generator, codec, "tiny", SMALL_RATES, Defaults(num_steps=2))
