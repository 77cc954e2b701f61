"""How the benchmarks come by a sound: mono, of a model's result or through its codec alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from foley_lab.decoders.vocoder import Codec
from foley_lab.pipeline.lab import Lab, Result

Sound = NDArray[np.float32]


def mono(result: Result) -> Sound:
    """The first take [N] at 48 kHz."""
    return result.audio.samples.mean(0).numpy()


def through_codec(lab: Lab, sound: Sound) -> Sound:
    """A sound [N] at 48 kHz as the model's codec gives it back [N]."""
    codec = lab.decoder
    assert isinstance(codec, Codec), "the small model decodes with a codec, which can encode too"
    with torch.inference_mode():
        samples = torch.from_numpy(sound)[None, None].to(lab.device)
        return codec.decode(codec.encode(samples))[0, 0, : len(sound)].cpu().numpy()
