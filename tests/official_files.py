"""A tiny HunyuanVideo-Foley with random weights, on disk as the published one is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from foley_lab.decoders.dac_vae import DacConfig, DacVae
from foley_lab.encoders.synchformer import PREFIX, Synchformer, SynchformerConfig
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.weights.digests import record_digest, sha256

OPTIONS = {
    "depth_triple_blocks": 1, "depth_single_blocks": 2, "hidden_size": 32, "num_heads": 2,
    "clip_dim": 8, "condition_dim": 8, "sync_feat_dim": 24, "audio_vae_latent_dim": 6,
    "mlp_ratio": 4, "text_length": 77,
}  # fmt: skip
CODEC = {
    "encoder_dim": 2, "encoder_rates": [2, 3, 4, 5, 8], "latent_dim": 6, "decoder_dim": 64,
    "decoder_rates": [8, 5, 4, 3, 2], "sample_rate": 48_000, "continuous": True,
}  # fmt: skip
SYNC = SynchformerConfig(dim=24, depth=1, num_heads=3)
CLAP = {
    "vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 202, "projection_dim": 4,
}  # fmt: skip
EYES = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def write_official(folder: Path, name: str = "xl", options: dict | None = None) -> Path:
    """All parts below `folder`, as `weights fetch` would have left them; returns the folder."""
    options = options or OPTIONS
    with torch.random.fork_rng():
        torch.manual_seed(7)
        _transformer(folder / name, name, options)
        _codec(folder / "dac-vae")
        _sync(folder / "synchformer")
        _pretrained(folder)
    for path in sorted(folder.glob("*/*")):
        if path.name != "config.json" or path.parent.name in ("siglip2", "clap"):
            record_digest(path, sha256(path))
    return folder


def _save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _transformer(folder: Path, name: str, options: dict) -> None:
    network = FoleyTransformer(FoleyConfig.from_official(options))
    network.init_weights()
    state = {
        key: (value + 0.1 * torch.randn(value.shape)).bfloat16().contiguous()
        for key, value in network.state_dict().items()
    }
    state["ssl_head.weight"] = torch.zeros(3)  # of a training the published file may remember
    file = "hunyuanvideo_foley.pth" if name == "xxl" else f"hunyuanvideo_foley_{name}.pth"
    _save(folder / file, state)
    (folder / "config.json").write_text(json.dumps(options))


def _codec(folder: Path) -> None:
    state = {}
    for key, value in DacVae(DacConfig.from_metadata(CODEC)).state_dict().items():
        values = torch.randn(value.shape)
        stem = key.removesuffix(".weight")
        if key.endswith("alpha"):
            state[key] = 0.5 + values.abs()
        elif stem == key or "quant_conv" in key:
            state[key] = 0.1 * values
        else:
            state[f"{stem}.weight_v"] = values
            state[f"{stem}.weight_g"] = torch.full((len(values), 1, 1), 0.3)
    _save(folder / "vae_128d_48k.pth", {"state_dict": state, "metadata": {"kwargs": CODEC}})


def _sync(folder: Path) -> None:
    eyes = Synchformer(SYNC)
    state = {PREFIX + key: torch.randn(v.shape) * 0.2 for key, v in eyes.state_dict().items()}
    state["afeat_extractor.weight"] = torch.zeros(2)  # the half that hears
    _save(folder / "synchformer_state_dict.pth", state)
    (folder / "config.json").write_text(json.dumps(asdict(SYNC)))


def _pretrained(folder: Path) -> None:
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    text = {k: v for k, v in EYES.items() if k not in ("image_size", "patch_size")}
    words = {**text, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    siglip = transformers.SiglipConfig(text_config=words, vision_config=EYES)
    transformers.SiglipModel(siglip).save_pretrained(folder / "siglip2")
    ears = {
        "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 16,
    }  # fmt: skip
    clap = transformers.ClapConfig(text_config=CLAP, audio_config=ears)
    transformers.ClapModel(clap).save_pretrained(folder / "clap")
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocabulary = {token: k for k, token in enumerate(letters)}
    tokenizer = transformers.RobertaTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder / "clap")
