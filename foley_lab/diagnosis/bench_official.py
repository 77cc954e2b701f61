"""What a clip of 8 s costs with the official model on this machine: `foley-lab bench official`.

Every part is built at its published size with random weights, which cost what trained ones cost,
and timed on a piece of its work; the clip is the sum of its pieces:

    SigLIP 2      64 frames of 512 x 512, timed on 4
    Synchformer   24 segments of 16 frames, timed on 2
    transformer   12 guided calls, timed block by block (`bench_transformer`)
    DAC-VAE       400 latent frames, timed on 100

Reading the film and CLAP, well below a second together, are left out. The official code asks for
50 steps; twelve are what distilled or better samplers need.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from foley_lab.decoders.dac_vae import DacVae
from foley_lab.diagnosis.bench_transformer import DTYPES, bench_transformer
from foley_lab.encoders.synchformer import Synchformer
from foley_lab.signals import FoleyError

FRAMES, SEGMENTS, LATENTS = 64, 24, 400
SIGLIP2: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
}  # fmt: skip
"""google/siglip2-base-patch16-512."""


@torch.inference_mode()
def bench_official(repeats: int = 3, calls: int = 12) -> dict[str, Any]:
    """Seconds of a clip of 8 s by part and precision.

    Args:
        repeats: Timed runs of each piece, after one to warm up.
        calls: Guided calls of the XL transformer.

    Returns:
        threads, calls, and by dtype: siglip2_s, synchformer_s, transformer_s, dac_s and total_s;
        the codec counts in float32 in both, as it is published.

    Raises:
        FoleyError: If transformers is not installed.
    """
    table: dict[str, Any] = {"threads": torch.get_num_threads(), "calls": calls}
    transformer = bench_transformer(repeats)
    codec = _empty(DacVae, with_encoder=False)
    latents = torch.randn(1, codec.config.latent_dim, LATENTS // 4)
    dac_s = 4 * _median(lambda: codec.decode(latents), repeats)
    for name, dtype in DTYPES.items():
        seconds = {
            "siglip2_s": FRAMES / 4 * _siglip2(dtype, repeats),
            "synchformer_s": SEGMENTS / 2 * _synchformer(dtype, repeats),
            "transformer_s": calls / 12 * transformer[name]["xl_8s_12_calls_s"],
            "dac_s": dac_s,
        }
        table[name] = seconds | {"total_s": sum(seconds.values())}
    return table


def _siglip2(dtype: torch.dtype, repeats: int) -> float:
    """Seconds for 4 frames."""
    try:
        from transformers import SiglipVisionConfig, SiglipVisionModel
    except ImportError as error:
        raise FoleyError(
            "transformers is not installed, wanted it for SigLIP 2, "
            "run pip install 'foley-lab[official]'"
        ) from error
    network: Any = SiglipVisionModel(SiglipVisionConfig(**SIGLIP2))  # typed only in part
    vision, size = network.to(dtype).eval(), SIGLIP2["image_size"]
    frames = torch.randn(4, 3, size, size, dtype=dtype)
    return _median(lambda: vision(pixel_values=frames), repeats)


def _synchformer(dtype: torch.dtype, repeats: int) -> float:
    """Seconds for 2 segments."""
    sync = _empty(Synchformer).to(dtype)
    frames = torch.randn(1, 3, 24, 224, 224, dtype=dtype)
    return _median(lambda: sync.encode(frames), repeats)


def _empty(kind: Any, **options: Any) -> Any:
    """A network of random weights, without the time that drawing good ones takes."""
    with torch.device("meta"):
        network = kind(**options)
    network = network.to_empty(device="cpu").eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02)
    return network


def _median(work: Callable[[], Any], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
