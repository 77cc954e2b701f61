"""Checks of transformer, rotary tables, schedules and loops against reference data, by kind."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from foley_lab.decoders.dac_vae import DacVae, load_dac
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import (
    XL,
    XXL,
    FoleyConfig,
    FoleyTransformer,
    Rotary,
    SingleBlock,
    TripleBlock,
)
from foley_lab.nn.attention import interleaved_positions, rotary_table
from foley_lab.samplers import sample, times
from foley_lab.samplers.official import official_sigmas, sample_officially
from foley_lab.signals import HUNYUAN_RATES, Features

INPUTS = ("x", "t", "clip_feat", "cond", "sync_feat")
CPU = torch.device("cpu")
RIGHT_SAMPLERS = {"euler": "euler", "heun-2": "heun", "midpoint-2": "midpoint"}
"""Official solvers that our own sampler of that name repeats when both are driven rightly."""


def tensors(case: dict, folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / case["file"])


def transformer_of(name: str, config: dict, folder: Path) -> FoleyTransformer:
    weights = load_file(folder / f"{name}.safetensors")
    transformer = FoleyTransformer(FoleyConfig.from_official(config))
    transformer.load_state_dict({key: w.float() for key, w in weights.items()})
    return transformer.eval()


def codec_of(name: str, folder: Path) -> DacVae:
    listed = json.loads((folder / f"{name}.json").read_text())
    return load_dac(load_file(folder / f"{name}.safetensors"), listed["constructor"])


def close(got: torch.Tensor, wanted: torch.Tensor, most: float) -> None:
    assert got.shape == wanted.shape
    worst = (got.double() - wanted.double()).abs().max()
    assert worst <= most, f"{worst:.3g} apart, at most {most:.3g}"


def nearly(got: torch.Tensor, wanted: torch.Tensor, most: float) -> None:
    error = (got.double() - wanted.double()).norm() / wanted.double().norm()
    assert error <= most, f"relative error {error:.3g}, at most {most:.3g}"


def check_weights(case: dict, folder: Path) -> None:
    transformer_of(Path(case["file"]).stem, case["config"], folder)


def check_forward(case: dict, folder: Path) -> None:
    data = tensors(case, folder)
    options = {key: torch.tensor(value) for key, value in case["forward_kwargs"].items()}
    given = [data[f"in.{key}"] for key in INPUTS]
    before = [tensor.clone() for tensor in given]
    transformer = transformer_of(case["weights"], case["config"], folder)
    most = case["tolerance"]["max_abs"]
    out = transformer(*given, **options)  # as in training
    close(out.detach(), data["out.x"], most)
    with torch.inference_mode():  # where equal sync tokens are steered once
        close(transformer(*given, **options), data["out.x"], most)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def check_forward_bf16(case: dict, folder: Path) -> None:
    data = tensors(case, folder)
    transformer = transformer_of(case["weights"], case["config"], folder)
    for model in (transformer, transformer.bfloat16()):
        for train in (True, False):
            with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(train):
                out = model(*(data[f"in.{key}"] for key in INPUTS))
            nearly(out.detach(), data["out.x_fp32"], case["tolerance"]["max"])


def _block(case: dict, folder: Path, make: type) -> torch.nn.Module:
    whole = transformer_of(case["weights"], case["config"], folder).state_dict()
    prefix = case["weight_prefix"]
    block = make(FoleyConfig.from_official(case["config"]))
    block.load_state_dict(
        {key.removeprefix(prefix): w for key, w in whole.items() if key.startswith(prefix)}
    )
    return block


def check_triple_block(case: dict, folder: Path) -> None:
    data, block = tensors(case, folder), _block(case, folder, TripleBlock)
    config = FoleyConfig.from_official(case["config"])
    audio, visual, text = (data[f"in.{key}"] for key in ("audio", "v_cond", "cond"))
    lengths = audio.shape[1], visual.shape[1], text.shape[1]
    rotary = Rotary.build(config.head_dim, *lengths, config.interleaved_rope, CPU)
    with torch.no_grad():
        modulation = block.modulate_at(F.silu(data["in.vec"])[:, None])
        out = block(audio, visual, modulation, block.prepare_text(text, rotary), rotary)
    close(out[0], data["out.audio"], case["tolerance"]["max_abs"])
    close(out[1], data["out.v_cond"], case["tolerance"]["max_abs"])


def check_single_block(case: dict, folder: Path) -> None:
    data, block = tensors(case, folder), _block(case, folder, SingleBlock)
    config = FoleyConfig.from_official(case["config"])
    table = rotary_table(data["in.x"].shape[1], config.head_dim, CPU)
    with torch.no_grad():
        vec = data["in.vec"]
        vec = vec if vec.ndim == 3 else vec[:, None].expand(-1, data["in.x"].shape[1], -1)
        out = block(data["in.x"], F.silu(vec), None, table)
    close(out, data["out.x"], case["tolerance"]["max_abs"])


def check_rotary_tables(case: dict, folder: Path) -> None:
    scaling = re.search(r"freq_scaling (\d+)/(\d+)", case["description"])
    for key, wanted in tensors(case, folder).items():
        match = re.fullmatch(r"(cos|sin)_d(\d+)_l(\d+)(_scaled)?", key)
        assert match, f"unknown table {key}"
        part, dim, length = match[1], int(match[2]), int(match[3])
        stretch = float(Fraction(int(scaling[1]), int(scaling[2]))) if match[4] and scaling else 1.0
        table = rotary_table(length, dim, CPU, stretch)
        if length > len(wanted):
            table = table[:: int(re.search(r"row stride (\d+)", case["description"])[1])]
        got = (table.real if part == "cos" else table.imag).repeat_interleave(2, dim=-1)
        close(got, wanted, case["tolerance"]["max_abs"])


def check_interleaved_positions(case: dict, folder: Path) -> None:
    assert case["rows"]
    for row in case["rows"]:
        positions, source = interleaved_positions(row["audio_tokens"], row["visual_tokens"])
        own = list(range(row["visual_tokens"]))
        assert positions.tolist() == row["visual_rope_position"]
        assert (own if source is None else source.tolist()) == row["visual_source_token"]


def check_scheduler(case: dict, folder: Path) -> None:
    data, most = tensors(case, folder), case["tolerance"]["max_abs"]
    for each in case["schedules"]:
        options = dict(each["scheduler"], n_tokens=each.get("n_tokens"))
        sigmas = official_sigmas(each["steps"], **options)
        close(sigmas, data[f"{each['name']}.sigmas"], 1e-6)
        timesteps = data.get(f"{each['name']}.timesteps")
        if timesteps is not None:
            close(1000 * sigmas[:-1], timesteps, 1e-3)
        if set(each["scheduler"]) == {"shift"}:
            close(torch.tensor(times(each["steps"], each["scheduler"]["shift"])), sigmas, 1e-6)
    matrix, offset = data["model.A"], data["model.b"]

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.einsum("ij,bjn->bin", matrix, x) + t * offset[:, None]

    for each in case["trajectories"]:
        wanted, whole = data[each["name"]], each["driving"] == "proper"
        states = [data["x0"]]
        given = (each["solver"], len(wanted) - 1, each["shift"])
        sample_officially(velocity, states[0], *given, lambda p: states.append(p.latents), whole)  # noqa: B023
        close(torch.stack(states), wanted, most)
        if whole and each["solver"] in RIGHT_SAMPLERS:
            states = [data["x0"]]
            given = (RIGHT_SAMPLERS[each["solver"]], *given[1:])
            sample(velocity, states[0], *given, lambda p: states.append(p.latents))  # noqa: B023
            close(torch.stack(states), wanted, most)


def check_loop(case: dict, folder: Path) -> None:
    data = tensors(case, folder)
    transformer = transformer_of(case["weights"], case["config"], folder)
    half = case["model_dtype"] == "bfloat16"
    transformer = transformer.bfloat16() if half else transformer
    seen = Features(
        data["in.siglip2_feat"], data["in.syncformer_feat"], data["in.text_feat"],
        data["in.uncond_text_feat"], case["audio_len_in_s"],
    )  # fmt: skip
    diffusion = case["diffusion_config"]
    ways = [{"official_solver": diffusion["flow_solver"]}]
    if diffusion["flow_solver"] == "euler":
        ways.append({"sampler": "euler"})  # ours, which tabulates the steps
    for way in ways:
        states: list[torch.Tensor] = []
        latents = FlowGenerator(transformer, HUNYUAN_RATES).generate(
            seen,
            num_steps=case["num_inference_steps"],
            guidance_scale=case["guidance_scale"],
            takes=case["batch_size"],
            latents_length=case["latent_frames"],
            schedule=diffusion["sample_flow_shift"],
            noise=data["in.latents"].float(),
            callback=lambda p: states.append(p.latents),  # noqa: B023
            **way,
        )
        if half:
            nearly(latents, data["out.latents"][-1], case["tolerance"]["max"])
            continue
        close(torch.stack(states), data["out.latents"], case["tolerance"]["latents_max_abs"])
        with torch.inference_mode():
            sound = codec_of(case["dac_weights"], folder).decode(latents)
        close(sound, data["out.audio"], case["tolerance"]["audio_max_abs"])


def check_transformer_keys(listing: dict) -> None:
    sizes = {config.hidden_size: config for config in (XL, XXL)}
    width = listing["tensors"]["audio_embedder.proj.weight"][0]
    with torch.device("meta"):
        transformer = FoleyTransformer(sizes[width])
    got = {key: list(value.shape) for key, value in transformer.state_dict().items()}
    assert got == listing["tensors"]
    assert len(got) == listing["n_tensors"]
    assert sum(p.numel() for p in transformer.parameters()) == listing["n_parameters"]


CHECKS = {
    "transformer weights": check_weights,
    "transformer forward": check_forward,
    "transformer forward, bf16": check_forward_bf16,
    "one triple block": check_triple_block,
    "one single block": check_single_block,
    "rotary tables": check_rotary_tables,
    "interleaved audio-visual rotary positions": check_interleaved_positions,
    "scheduler": check_scheduler,
    "denoising loop": check_loop,
}
