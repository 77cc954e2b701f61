"""Do words and sound fit, as CLAP hears it (Wu et al. 2023, arXiv:2211.06687): mean cosine of the
embeddings of every sound and its log's prompt.

The network is the user's own, in the layout of transformers (config, weights as safetensors,
feature extractor, tokenizer), e.g. a copy of laion/larger_clap_general:

    $FOLEY_LAB_WEIGHTS/field/clap/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foley_lab.evaluation.distance import mean_cosine
from foley_lab.signals import SMALL_RATES, FoleyError, MissingWeights
from foley_lab.weights import weights_dir

SECONDS = 10
"""What CLAP hears at most; the beginning is taken, so that nothing is left to chance."""

Sound = NDArray[np.float32]


def clap_folder() -> Path:
    """Where the network is.

    Raises:
        MissingWeights: If it is absent.
    """
    folder = weights_dir() / "field" / "clap"
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise MissingWeights(
                f"the network clap is absent, wanted {folder / name} (transformers' layout, with "
                "processor and tokenizer), copy it there or leave its score out"
            )
    return folder


def clap_score(sounds: Sequence[Sound], prompts: Sequence[str]) -> float:
    """Mean cosine of sounds [N] at 48 kHz and their prompts, −1 to 1.

    Raises:
        MissingWeights: If the network is absent.
        FoleyError: If transformers is not installed or cannot read the folder.
        ValueError: If there is nothing to compare.
    """
    pairs = [(s, p) for s, p in zip(sounds, prompts, strict=True) if p.strip()]
    if not pairs:
        raise ValueError("logs without a prompt, wanted one to compare the sound with, write it")
    model, processor = _load(clap_folder())
    rate = SMALL_RATES.sample_rate
    heard, read = [], []
    for sound, prompt in pairs:
        inputs = processor(
            text=[prompt], audio=[sound[: SECONDS * rate]], sampling_rate=rate,
            return_tensors="pt", truncation=True,
        )  # fmt: skip
        with torch.no_grad():
            out = model(**inputs)
        heard.append(out.audio_embeds[0].double().numpy())
        read.append(out.text_embeds[0].double().numpy())
    return mean_cosine(heard, read)


def _load(folder: Path) -> tuple[Any, Any]:
    try:
        from transformers import ClapModel, ClapProcessor
    except ImportError as error:
        raise FoleyError(
            "transformers is not installed, wanted it for clap, "
            "run `pip install foley-lab[official]`"
        ) from error
    try:
        loaded: Any = ClapModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = ClapProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FoleyError(
            f"{folder} cannot be read ({error}), wanted a ClapModel with its processor, save it "
            "anew with save_pretrained"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # they would be drawn by chance
        raise FoleyError(
            f"{folder} lacks {len(missing)} tensors ({missing[0]}, ...), wanted all of ClapModel, "
            "save it anew with save_pretrained"
        )
    return model.float().eval(), processor
