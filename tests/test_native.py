"""The pipeline as diffusers knows pipelines: the same model, the same sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import make_film
from tiny import tiny_lab

pytest.importorskip("diffusers")

import diffusers
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.mag_cache import MagCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

from foley_lab.generators.foley import SMALL
from foley_lab.generators.step_cache import FirstBlock, MagCache, TaylorSeer
from foley_lab.nn.layers import TimeConv
from foley_lab.pipeline import presets
from foley_lab.pipeline.lab import Lab
from foley_lab.pipeline.native import (
    FoleyCodecModel,
    FoleyEncoderModel,
    FoleyPipeline,
    FoleyTransformerModel,
)
from foley_lab.pipeline.pieces import limited
from foley_lab.signals import Event, EventLog, FoleyError, MediaError

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS = {
    "euler": diffusers.FlowMatchEulerDiscreteScheduler(),
    "shifted": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": diffusers.FlowMatchHeunDiscreteScheduler(),
    "unipc": diffusers.UniPCMultistepScheduler(**FLOW),
    "dpmpp": diffusers.DPMSolverMultistepScheduler(**FLOW),
    "ddim": diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
}
LOG = EventLog("", 0, 1.0, "a glass ball", events=[Event(0.3, material="glass")])


@pytest.fixture(scope="module")
def lab() -> Lab:
    return tiny_lab()


@pytest.fixture()
def pipe(lab) -> FoleyPipeline:
    pipe = FoleyPipeline.from_lab(lab)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "clip.mp4", frames=25)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sounds(result) -> torch.Tensor:
    return torch.stack([take.samples for take in result.takes])


# The same model


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_pipe_and_lab_sound_alike_bit_for_bit(lab, pipe, film, scheduler):
    pipe.scheduler = scheduler
    audios = pipe(film, "a glass ball", generator=seeded(7), num_inference_steps=4).audios
    assert isinstance(audios, np.ndarray) and audios.shape == (1, 1, 48_000)
    assert audios.dtype == np.float32 and audios.std() > 0
    result = lab(film, "a glass ball", seed=7, num_steps=4, sampler=scheduler)
    assert np.array_equal(audios, sounds(result).numpy())
    again = pipe.lab(film, "a glass ball", seed=7, num_steps=4, sampler=scheduler)
    assert torch.equal(sounds(again), sounds(result))


def test_the_default_scheduler_is_the_labs_own_euler(lab, pipe, film):
    audios = pipe(film, generator=seeded(0), output_type="pt").audios
    assert torch.allclose(audios, sounds(lab(film, sampler="euler")), atol=1e-4)


def test_the_parameters_are_the_labs(lab, pipe):
    for part, inner in (
        (pipe.encoder, lab.encoder.eyes),
        (pipe.transformer, lab.generator.transformer),
        (pipe.codec, lab.decoder),
    ):
        assert {id(p) for p in part.parameters()} == {id(p) for p in inner.parameters()}
    assert pipe.lab.generator.transformer is lab.generator.transformer
    assert pipe.lab.encoder is lab.encoder and pipe.lab.decoder is lab.decoder
    assert pipe.transformer.config.hidden_size == lab.generator.transformer.config.hidden_size
    assert lab.generator.transformer.config != SMALL and lab.residences == {}


def test_every_option_is_handed_on(lab, pipe, film):
    options = {"prompt": "rain", "negative_prompt": "wood", "guidance_scale": 3.5}
    audios = pipe(film, **options, generator=seeded(1), guidance="zero-star", output_type="pt")[0]
    result = lab(film, **options, seed=1, guidance="zero-star", sampler=pipe.scheduler)
    assert torch.equal(audios, sounds(result))
    blind = pipe(events=LOG, audio_end_in_s=0.5, generator=seeded(1), output_type="pt").audios
    assert blind.shape == (1, 1, 24_000)
    result = lab(None, events=LOG, seconds=0.5, seed=1, sampler=pipe.scheduler)
    assert torch.equal(blind, sounds(result))


def test_sigmas_are_the_times_of_the_steps(lab, pipe, film):
    wanted = sounds(
        lab(film, num_steps=3, schedule=[1.0, 0.6, 0.3, 0.0], sampler=pipe.scheduler, seed=2)
    )
    for sigmas in ([1.0, 0.6, 0.3], np.array([1.0, 0.6, 0.3, 0.0])):
        audios = pipe(film, sigmas=sigmas, generator=seeded(2), output_type="pt").audios
        assert torch.equal(audios, wanted)
    assert pipe.num_timesteps == 3


def test_a_forward_pass_is_the_transformers(lab, pipe):
    c = pipe.transformer.config
    draw = seeded(0)
    x = torch.randn(1, 128, 8, generator=draw)
    clip, text, sync = (
        torch.randn(1, n, width, generator=draw)
        for n, width in ((2, c.clip_dim), (4, c.condition_dim), (8, c.sync_dim))
    )
    given = (x, torch.tensor([500.0]), clip, text, sync)
    with torch.no_grad():
        assert torch.equal(pipe.transformer(*given), lab.generator.transformer(*given))
        latents = torch.randn(1, 128, 5, generator=draw)
        assert torch.equal(pipe.codec(latents), lab.decoder.decode(latents))


# Noise


def test_a_list_of_generators_gives_the_takes_of_the_lab(lab, pipe, film):
    generators = [seeded(5), seeded(6)]
    audios = pipe(film, num_waveforms_per_prompt=2, generator=generators, output_type="pt").audios
    assert audios.shape == (2, 1, 48_000)
    assert torch.equal(audios, sounds(lab(film, seed=5, takes=2, sampler=pipe.scheduler)))


def test_one_generator_gives_versions_that_differ(pipe, film):
    first, again = (
        pipe(film, num_waveforms_per_prompt=2, generator=seeded(5), output_type="pt").audios
        for _ in range(2)
    )
    assert torch.equal(first, again) and not torch.allclose(first[0], first[1], atol=1e-3)


def test_without_a_generator_torchs_own_is_drawn_from(pipe, film):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        drawn, other = (pipe(film, output_type="pt").audios for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(pipe(film, output_type="pt").audios, drawn)
    assert not torch.equal(drawn, other)


def test_latents_in_and_out(lab, pipe, film):
    noise = torch.randn(1, 128, 25, generator=seeded(4))
    found = pipe(film, latents=noise, output_type="latent").audios
    audios = pipe(film, generator=seeded(4), output_type="pt").audios
    assert found.shape == (1, 128, 25)
    with torch.no_grad():
        assert torch.allclose(limited(lab.decoder.decode(found)), audios, atol=1e-5)


# Callbacks


def test_callbacks_are_told_and_may_change_the_latents(pipe, film):
    told = []

    def note(who, step, timestep, known):
        told.append((who is pipe, step, float(timestep), tuple(known["latents"].shape)))
        return {"latents": 0 * known["latents"]} if step == 3 else {}

    options = {"num_inference_steps": 4, "generator": seeded(0), "output_type": "latent"}
    found = pipe(film, callback_on_step_end=note, **options).audios
    assert told == [(True, i, 1000 - 250.0 * i, (1, 128, 25)) for i in range(4)]
    assert not found.any()


def test_a_callback_without_an_answer_changes_nothing(pipe, film):
    seen = []

    def watch(who, step, timestep, known):
        seen.append(known)

    with_, without = (
        pipe(film, generator=seeded(0), callback_on_step_end=callback, **told).audios
        for callback, told in (
            (watch, {"callback_on_step_end_tensor_inputs": []}),
            (None, {}),
        )
    )
    assert np.array_equal(with_, without) and seen == [{}, {}]


def test_an_interrupted_run_hands_out_what_there_is(pipe, film):
    states = []

    def stop(who, step, timestep, known):
        states.append(known["latents"])
        who._interrupt = step == 1

    options = {"num_inference_steps": 4, "generator": seeded(0), "callback_on_step_end": stop}
    found = pipe(film, output_type="latent", **options).audios
    assert len(states) == 2 and torch.equal(found, states[1]) and pipe.interrupt
    assert pipe(film, generator=seeded(0)).audios.shape == (1, 1, 48_000)
    assert not pipe.interrupt


def test_the_callbacks_of_diffusers_are_asked_what_they_want(pipe, film):
    from diffusers.callbacks import PipelineCallback

    class Halve(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            callback_kwargs["latents"] = callback_kwargs["latents"] / 2
            return callback_kwargs

    plain, halved = (
        pipe(film, generator=seeded(0), output_type="latent", callback_on_step_end=callback).audios
        for callback in (None, Halve(cutoff_step_ratio=None, cutoff_step_index=0))
    )
    assert not torch.allclose(plain, halved, atol=1e-3)


def test_the_progress_bar_counts_steps(pipe, film, capsys):
    pipe.set_progress_bar_config(desc="foley")
    pipe(film, num_inference_steps=3)
    assert "foley: 100%" in (err := capsys.readouterr().err) and "3/3" in err


# Step caches


@pytest.mark.parametrize(
    ("config", "cache"),
    [
        (FirstBlockCacheConfig(threshold=0.3), FirstBlock(0.3)),
        (TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2), TaylorSeer(2, 2)),
        (MagCacheConfig(0.2, 2, 0.1, 4, [1.0] * 4), MagCache(0.2, 2, 0.1, (1.0,) * 4)),
        (TaylorSeer(3), TaylorSeer(3)),
        ("first_block", FirstBlock()),
    ],
)
def test_a_cache_is_switched_on_as_in_diffusers(lab, pipe, film, config, cache):
    pipe.transformer.enable_cache(config)
    assert pipe.transformer.step_cache == cache and pipe.transformer.is_cache_enabled
    options = {"num_inference_steps": 8, "generator": seeded(0), "output_type": "pt"}
    spared = pipe(film, **options).audios
    result = lab(film, num_steps=8, sampler=pipe.scheduler, step_cache=cache)
    assert torch.equal(spared, sounds(result))
    with pytest.raises(ValueError, match="call disable_cache first"):
        pipe.transformer.enable_cache(config)
    pipe.transformer.disable_cache()
    options["generator"] = seeded(0)
    whole = pipe(film, **options).audios
    assert torch.equal(whole, sounds(lab(film, num_steps=8, sampler=pipe.scheduler)))
    assert (result.blocks_run < 1) == (not torch.equal(whole, spared))


def test_an_unknown_cache_is_refused(pipe):
    with pytest.raises(ValueError, match="a step cache of int, wanted"):
        pipe.transformer.enable_cache(3)
    with pytest.raises(ValueError, match="MagCacheConfig with ratios"):
        pipe.transformer.enable_cache(MagCacheConfig(calibrate=True))


# Folders


def test_a_saved_pipeline_sounds_as_it_did(pipe, film, tmp_path):
    pipe.scheduler = SCHEDULERS["unipc"]
    pipe.save_pretrained(tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(
            f"{part}/{name}"
            for part in ("encoder", "transformer", "codec")
            for name in ("config.json", "diffusion_pytorch_model.safetensors")
        ),
        "encoder/text.safetensors",
        "encoder/tokenizer.json",
    }
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["foley_lab.pipeline.native", "FoleyTransformerModel"]
    again = FoleyPipeline.from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is diffusers.UniPCMultistepScheduler
    for options in ({"video": film, "prompt": "a glass ball"}, {"events": LOG}):
        first, second = (
            each(**options, generator=seeded(1), output_type="pt").audios for each in (pipe, again)
        )
        assert torch.equal(first, second)
    assert again.lab.defaults == pipe.lab.defaults and again.lab.name == "small"


def test_weights_come_back_in_the_order_they_are_computed_in(pipe, tmp_path):
    pipe.transformer.save_pretrained(tmp_path)
    again = FoleyTransformerModel.from_pretrained(tmp_path)
    before, after = pipe.transformer.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    convolutions = [m for m in again.modules() if isinstance(m, TimeConv)]
    assert convolutions and all(m.weight.mT.is_contiguous() for m in convolutions)


def test_only_the_transformer_takes_another_precision(pipe, film, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = FoleyPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    dtypes = [next(p.parameters()).dtype for p in (half.encoder, half.transformer, half.codec)]
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]
    a, b = (each(film, generator=seeded(1)).audios for each in (pipe, half))
    assert 0 < np.square(a - b).mean() < 0.1 * np.square(a).mean()
    half.to(torch.float32).to("cpu")
    assert half.transformer.dtype == half.encoder.dtype == torch.float32


def test_a_damaged_folder_is_refused(pipe, tmp_path):
    from safetensors.torch import load_file, save_file

    pipe.codec.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("inner.vocoder.head.bias")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(FoleyError, match=r"first 'inner\.vocoder\.head\.bias', wanted those of a"):
        FoleyCodecModel.from_pretrained(tmp_path)


def test_optimised_schedules_travel_along(lab, film, tmp_path):
    other = tiny_lab()
    other.generator.schedules = {"1": {2: [1.0, 0.7, 0.0]}, "2": {2: [1.0, 0.7, 0.0]}}
    pipe = FoleyPipeline.from_lab(other)
    pipe.save_pretrained(tmp_path)
    again = FoleyPipeline.from_pretrained(tmp_path)
    assert again.lab.generator.schedules == other.generator.schedules
    again.lab(film, schedule="optimal", sampler="euler")


def test_what_has_no_form_to_be_saved_in_is_refused(pipe, tmp_path):
    class Official:
        plays_events = False

    other = tiny_lab()
    other.encoder, other.name = Official(), "xl"
    official = FoleyPipeline.from_lab(other)
    with pytest.raises(FoleyError, match="a pipeline of 'xl', whose encoder is a Official"):
        official.save_pretrained(tmp_path)
    other = tiny_lab()
    other.generator.transformer.single_blocks[0].sort_heads()
    with pytest.raises(FoleyError, match="reordered for speed"):
        FoleyPipeline.from_lab(other).transformer.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_components_make_another_pipeline(pipe, film):
    other = FoleyPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    assert other.transformer is pipe.transformer
    options = {"num_inference_steps": 2, "generator": seeded(0), "output_type": "pt"}
    first = pipe(film, **options).audios
    options["generator"] = seeded(0)
    assert torch.equal(other(film, **options).audios, first)


def test_regions_of_the_transformer_have_their_names(pipe):
    kinds = {type(module).__name__ for module in pipe.transformer.modules()}
    assert set(FoleyTransformerModel._repeated_blocks) <= kinds


def test_offloaded_weights_visit_the_device_stage_by_stage(pipe, film, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    visits = []
    arrive = accelerate.hooks.CpuOffload.pre_forward

    def note(self, module, *args, **kwargs):
        visits.append(type(module))
        return arrive(self, module, *args, **kwargs)

    monkeypatch.setattr(accelerate.hooks.CpuOffload, "pre_forward", note)
    plain = pipe(film, generator=seeded(0)).audios
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(pipe(film, generator=seeded(0)).audios, plain)
    assert visits == [FoleyEncoderModel, FoleyTransformerModel, FoleyCodecModel]

    def stop(*args):
        raise KeyboardInterrupt

    before = pipe._all_hooks
    with pytest.raises(KeyboardInterrupt):
        pipe(film, callback_on_step_end=stop)
    assert pipe._all_hooks is not before  # sent home and made ready for the next call


# The official sizes, in memory


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"dtype": "bfloat16", "offload": True}, {"dtype": "int8"}],
    ids=["plain", "offloaded", "eight bits"],
)
def test_an_official_lab_is_a_pipeline_too(tmp_path, monkeypatch, options):
    pytest.importorskip("transformers")
    if options["dtype"] == "int8":
        pytest.importorskip("torchao")
    from official_files import write_official

    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(write_official(tmp_path / "weights")))
    lab = presets.load("xl", "cpu", **options)
    pipe = FoleyPipeline.from_lab(lab)
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "a bell", "guidance_scale": 2.0}
    for cache in (None, "first_block", "taylorseer"):
        if cache:
            pipe.transformer.enable_cache(cache)
        audios = pipe(
            **asked, audio_end_in_s=1.5, num_inference_steps=5, generator=seeded(3)
        ).audios
        pipe.transformer.disable_cache()
        result = lab(
            None, **asked, seconds=1.5, num_steps=5, seed=3, sampler=pipe.scheduler,
            step_cache=cache,
        )  # fmt: skip
        assert audios.shape == (1, 1, 72_000)
        assert np.array_equal(audios, sounds(result).numpy())
    with pytest.raises(FoleyError, match="a pipeline of 'xl', whose encoder is a Pretrained"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# The door


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": ["rain"]}, "prompt ['rain'], wanted text"),
        ({"num_inference_steps": 0}, "num_steps 0"),
        ({"guidance_scale": -1}, "guidance_scale -1"),
        ({"num_waveforms_per_prompt": 17}, "takes 17"),
        ({"sigmas": [0.9, 0.5]}, "a schedule from 0.9"),
        ({"sigmas": []}, "num_steps 0"),
        ({"output_type": "pil"}, "output_type 'pil', wanted one of np, pt, latent"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "'prompt_embeds', wanted"),
        ({"generator": 3}, "generator 3, wanted a torch.Generator"),
        ({"generator": [seeded(0)] * 2}, "2 generators for 1 waveforms"),
        ({"latents": [1.0]}, "latents [1.0], wanted a tensor"),
        ({"audio_end_in_s": 1.0}, "seconds 1.0 for a film"),
        ({"video": None}, "video None, wanted the path"),
    ],
)
def test_wrong_options_are_refused_before_the_file_is_touched(pipe, wrong, says):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        pipe(**{"video": "nowhere.mp4"} | wrong)
    assert says in str(caught.value) and not isinstance(caught.value, MediaError)


def test_what_the_film_decides_is_refused_after_it_is_read(pipe, film):
    with pytest.raises(ValueError, match=r"noise \[1, 128, 3\], wanted \[1, 128, 25\]"):
        pipe(film, latents=torch.zeros(1, 128, 3))
    with pytest.raises(MediaError, match="does not exist"):
        pipe("nowhere.mp4")


def test_a_scheduler_that_cannot_be_driven_is_named(pipe, film):
    pipe.scheduler = diffusers.DDPMScheduler()
    with pytest.raises(ValueError, match="sampler DDPMScheduler, wanted"):
        pipe(film)


def test_without_diffusers_the_command_is_named():
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "try:\n    import foley_lab.pipeline.native\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install 'foley-lab[diffusers]'" in done.stdout


def test_pickles_are_neither_written_nor_read(tmp_path):
    pipe = FoleyPipeline.from_lab(tiny_lab())
    with pytest.raises(ValueError, match="safe_serialization False, wanted safetensors"):
        pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.iterdir()) == []
    pipe.save_pretrained(tmp_path)
    weights = next((tmp_path / "codec").glob("*.safetensors"))
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError):
        FoleyPipeline.from_pretrained(tmp_path)
    pipe.scheduler = None
    with pytest.raises(ValueError, match="without a scheduler, wanted one to save"):
        pipe.save_pretrained(tmp_path / "other")
