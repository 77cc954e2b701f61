"""The official encoders: the right frames, the right lengths, and words that stand alone."""

from __future__ import annotations

import bisect
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import LEVELS, make_film, shown_times
from golden_pre import (
    MeanEyes,
    MeanSync,
    StubTokenizer,
    clap_model,
    encoder_of,
)
from safetensors.torch import load_file, save_file

from foley_lab.encoders import pretrained
from foley_lab.encoders.pretrained import NEGATIVE_PROMPT, ClapText, PretrainedEncoder
from foley_lab.encoders.sampling import (
    SEGMENT,
    SEGMENT_TOKENS,
    STRIDE,
    SYNC,
    SYNC_RATE,
    VISUAL,
    VISUAL_RATE,
    frame_views,
    num_latents,
    num_segments,
    num_sync,
    num_visual,
    segment_frames,
)
from foley_lab.generators.diffusion import FlowGenerator
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer
from foley_lab.media import fit, num_slots, read_video
from foley_lab.signals import HUNYUAN_RATES, EventLog, FoleyError, MissingWeights, View

CLAP = {
    "vocab_size": 97, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 202, "projection_dim": 4,
}  # fmt: skip
EYES = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def words():
    """A text model in which nothing is zero, so that nothing is tested vacuously."""
    pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = clap_model(CLAP)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """1.4 s at 25 Hz: 35 frames, three segments and a bit."""
    return make_film(tmp_path_factory.mktemp("films") / "film.mp4", frames=35)


# --- which frames ------------------------------------------------------------------------------

FILMS = {
    "23.976 Hz": ("a.mp4", {"fps": Fraction(24000, 1001), "frames": 41}),
    "24 Hz": ("b.mp4", {"fps": 24, "frames": 41}),
    "25 Hz": ("c.mp4", {"fps": 25, "frames": 41}),
    "29.97 Hz": ("d.mp4", {"fps": Fraction(30000, 1001), "frames": 50}),
    "29.97 Hz in milliseconds": ("e.mkv", {"fps": Fraction(30000, 1001), "frames": 50}),
    "30 Hz": ("f.mp4", {"fps": 30, "frames": 50}),
    "30 Hz in milliseconds": ("g.mkv", {"fps": 30, "frames": 50}),
    "50 Hz": ("h.mp4", {"fps": 50, "frames": 80}),
    "60 Hz": ("i.mp4", {"fps": 60, "frames": 90}),
    "variable": ("j.mp4", {"frames": 8, "ticks": [0, 10, 39, 100, 500, 510, 900, 1400]}),
    "one frame": ("k.mp4", {"frames": 1}),
}


def shown_levels(frames) -> list[int]:
    """Which frames are seen, modulo `LEVELS`."""
    middle = frames.images[:, frames.view.height // 2, frames.view.width // 2].float().mean(-1)
    return [round((level - 20) / 10) for level in middle.tolist()]


@pytest.mark.parametrize("name", FILMS)
def test_slot_k_shows_the_frame_on_screen_at_its_time(name, tmp_path):
    file, settings = FILMS[name]
    path = make_film(tmp_path / file, **settings)
    video, starts = read_video(path, frame_views(32)), shown_times(path)
    for key, rate in ((VISUAL, VISUAL_RATE), (SYNC, SYNC_RATE)):
        frames = video.views[key]
        count = num_slots(video.duration_s, rate)
        late = Fraction(1, 1000)
        on_screen = [bisect.bisect_right(starts, k / rate + late) - 1 for k in range(count)]
        assert frames.times_s.tolist() == [float(starts[i]) for i in on_screen]
        # Times are one thing, pixels another: both must belong to the same frame.
        assert shown_levels(frames) == [i % LEVELS for i in on_screen]


def test_a_film_of_the_same_rate_is_seen_frame_by_frame(tmp_path):
    """Eight seconds at 25 Hz: nothing is lost, nothing is shifted; the published way does both."""
    path = make_film(tmp_path / "eight.mp4", frames=200)
    times = read_video(path, frame_views(32)).views[SYNC].times_s
    assert times.tolist() == [k / 25 for k in range(200)]
    video = read_video(path, frame_views(32, "reference"))
    times = video.views[SYNC].times_s
    assert len(times) == 199 and len(video.views[VISUAL].times_s) == 64
    late = (times - torch.arange(199, dtype=torch.float64) / 25) * 25
    assert late[:6].abs().max() < 1e-9 and late[6].item() == pytest.approx(1)
    assert (late.round() == 1).sum() > 150
    assert shown_levels(video.views[SYNC]) == [round(t * 25) % LEVELS for t in times.tolist()]


def test_the_published_way_ends_at_fifteen_seconds(tmp_path):
    path = make_film(tmp_path / "long.mp4", frames=160, fps=10)
    views = read_video(path, frame_views(32, "reference")).views
    assert views[VISUAL].times_s[-1] == views[SYNC].times_s[-1] == 15.0
    ours = read_video(path, frame_views(32)).views
    assert len(ours[SYNC].times_s) == 400 and ours[SYNC].times_s[-1].item() == 15.9


def test_a_section_starts_with_the_frame_on_screen(tmp_path):
    path = make_film(tmp_path / "slow.mp4", frames=10, fps=5)
    frames = read_video(path, [View("v", Fraction(25), 32, 32, pick="shown")], start_s=0.5).views[
        "v"
    ]
    times = frames.times_s.tolist()
    assert times[:3] == pytest.approx([-0.1] * 3)  # the frame of 0.4 s
    assert times[3] == pytest.approx(0.1)
    assert shown_levels(frames)[:4] == [2, 2, 2, 3]


# --- which pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(90, 64), (270, 480), (540, 961), (1080, 1920), (512, 700)])
def test_the_published_picture_is_that_of_pillow(size):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = np.asarray(image.fromarray(pixels).resize((512, 512), image.Resampling.BILINEAR))
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    exact, quick = (fit(rgb, frame_views(512, compat)[0]) for compat in ("reference", None))
    assert np.array_equal(exact.numpy(), wanted)
    off = np.abs(quick.numpy().astype(int) - wanted)
    assert off.max() <= 1 and (off > 0).mean() < 3e-3


# --- how many ----------------------------------------------------------------------------------


def test_no_length_loses_a_latent():
    for frames in range(1, 1501):
        assert num_latents(frames) == 2 * frames
        assert HUNYUAN_RATES.num_latents(frames / 25) == 2 * frames
    lost = [n for n in range(1, 1501) if num_latents(n, "reference") != 2 * n]
    assert len(lost) == 73 and lost[:4] == [29, 57, 58, 113]
    assert all(num_latents(n, "reference") == 2 * n - 1 for n in lost)


def test_every_frame_is_in_a_segment_and_no_segment_is_to_spare():
    for frames in range(1, 1501):
        covered = segment_frames(num_segments(frames))
        assert frames <= covered < max(frames, SEGMENT) + STRIDE
        dropped = frames - segment_frames(num_segments(frames, "reference"))
        assert frames < SEGMENT or 0 <= dropped < STRIDE


def test_sync_tokens_stay_near_their_time():
    """They are spread evenly over the clip; a segment's middle must not wander off its own."""

    def worst(compat):
        wanderings = []
        for frames in range(200, 1501):
            count = num_segments(frames, compat)
            spread = (np.arange(count) + 0.5) * frames / count
            wanderings.append(np.abs(spread - (np.arange(count) * STRIDE + SEGMENT / 2)).max())
        return max(wanderings) / 25

    assert worst(None) < 0.17 < 0.4 < worst("reference")


def test_lengths_are_those_of_the_views():
    for duration_s in (0.01, 0.64, 1.0, 7.96, 8.0, 8.01, 15.0, 59.999):
        assert num_visual(duration_s) == num_slots(duration_s, VISUAL_RATE)
        frames = num_slots(duration_s, SYNC_RATE)
        assert num_sync(duration_s) == SEGMENT_TOKENS * num_segments(frames)
    assert (num_visual(8), num_sync(8)) == (64, 192)


# --- words -------------------------------------------------------------------------------------


def test_a_prompt_does_not_know_the_others(words):
    text = ClapText(words, StubTokenizer())
    alone = text.encode(["rain"])
    both = text.encode(["music, speech, distorted", "rain", "wind"])
    assert alone.shape == (1, 6, 8) and both.shape == (3, 26, 8)
    assert torch.equal(both[1, :6], alone[0])
    assert not both[1, 6:].any() and not both[2, 6:].any() and both[0].any(-1).all()
    published = ClapText(words, StubTokenizer(), compat="reference")
    padded = published.encode(["music, speech, distorted", "rain"])
    assert padded[1, 6:].any(-1).all()
    assert torch.allclose(padded[1, :6], alone[0], atol=1e-5)


def test_a_long_prompt_is_read_whole_and_then_cut(words):
    text = ClapText(words, StubTokenizer(), max_tokens=20)
    start = "a slow, heavy door "
    cut = text.encode([start + "of wood"])
    assert cut.shape == (1, 20, 8)
    assert not torch.allclose(cut, text.encode([start + "of iron"]), atol=1e-4)
    assert text.truncated("short") == text.truncated("a" * 19) == ""
    assert text.truncated(start + "of wood") == "of wood"
    longest = CLAP["max_position_embeddings"] - 2
    assert text.encode(["a" * 1000]).shape[1] == 20
    assert len(StubTokenizer()(["a" * 1000], max_length=longest)["input_ids"][0]) == longest
    with pytest.raises(ValueError, match="wanted a list"):
        text.encode("rain")


def test_no_negative_prompt_is_the_usual_one(words):
    encoder = encoder_of(words, None)
    usual, said = (encoder.encode(None, ["rain"], negative) for negative in (None, NEGATIVE_PROMPT))
    assert torch.equal(usual.negative_text, said.negative_text)
    nothing = encoder.encode(None, ["rain"], "").negative_text
    assert nothing[0, :2].any(-1).all() and not nothing[0, 2:].any()


# --- the whole encoder -------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [None, "reference"])
def test_a_film_and_words_become_features(words, film, compat):
    encoder = encoder_of(words, compat)
    video = read_video(film, encoder.views_for(None))
    seen = encoder.encode(video, ["", "rain"])
    frames = len(video.views[SYNC].images)
    assert frames == (35 if compat is None else 34)
    assert seen.visual.shape == (2, 12 if compat is None else 11, 6)
    assert seen.sync.shape == (2, 8 * num_segments(frames, compat), 6)
    assert seen.text.shape == seen.negative_text.shape == (2, 14, 8)
    if compat is None:
        assert seen.text_mask.sum(1).tolist() == [2, 6]
        assert seen.negative_text_mask.sum(1).tolist() == [14, 14]
    else:
        assert seen.text_mask is None and seen.negative_text_mask is None
    assert seen.duration_s == (video.duration_s if compat is None else 68 / 50)
    for tokens in (seen.visual, seen.sync, seen.text, seen.negative_text):
        assert tokens.dtype == torch.float32 and tokens.isfinite().all()
    # The first content token is the mean of the first frame, in the networks' own range.
    first = video.views[VISUAL].images[0].double().mean((0, 1)) / 127.5 - 1
    wanted = first.float() @ encoder.vision.weight
    assert torch.allclose(seen.visual[0, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("compat", [None, "reference"])
@pytest.mark.parametrize("frames", [9, 16, 23, 24, 75])
def test_in_small_batches_is_at_once(words, tmp_path, monkeypatch, compat, frames):
    encoder = encoder_of(words, compat)
    path = make_film(tmp_path / "film.mp4", frames=frames)
    video = read_video(path, encoder.views_for(None))
    at_once = encoder.encode(video, [""])
    assert len(encoder.sync.calls) == 1
    monkeypatch.setattr(pretrained, "FRAMES_AT_ONCE", 3)
    monkeypatch.setattr(pretrained, "SEGMENTS_AT_ONCE", 2)
    batched = encoder.encode(video, [""])
    assert max(encoder.sync.calls[1:]) <= SEGMENT + STRIDE
    assert torch.allclose(batched.visual, at_once.visual, atol=1e-6)
    assert torch.equal(batched.sync, at_once.sync)


def test_the_tail_is_seen_and_filled_up_with_the_last_frame(words, film):
    encoder = encoder_of(words, None)
    video = read_video(film, encoder.views_for(None))
    frames = video.views[SYNC]
    longer = replace(
        frames, images=torch.cat([frames.images, frames.images[-1:].repeat(5, 1, 1, 1)])
    )
    filled = replace(video, views={**video.views, SYNC: longer})
    assert len(longer.images) == segment_frames(num_segments(35)) == 40
    assert torch.equal(encoder.encode(video, [""]).sync, encoder.encode(filled, [""]).sync)


def test_half_precision_is_close(words, film):
    single = encoder_of(words, None)
    half = PretrainedEncoder(
        MeanEyes(), clap_model(CLAP), StubTokenizer(), MeanSync(), dtype=torch.bfloat16
    )
    half.text.model.load_state_dict(words.state_dict())
    video = read_video(film, single.views_for(None))
    ours, other = half.encode(video, ["rain"]), single.encode(video, ["rain"])
    for name in ("visual", "sync", "text", "negative_text"):
        got, wanted = getattr(ours, name), getattr(other, name)
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 0.03 * wanted.norm()
    assert pretrained.default_dtype(torch.device("cpu")) == torch.float32
    assert pretrained.default_dtype(torch.device("cuda")) == torch.float16


def tiny_transformer() -> FoleyTransformer:
    """An untrained transformer in which nothing is zero, of the widths of these stand-ins."""
    config = FoleyConfig(
        2, 1, 16, 2, 2.0, clip_dim=6, sync_dim=6, condition_dim=8, audio_vae_latent_dim=4
    )
    transformer, draw = FoleyTransformer(config), torch.Generator().manual_seed(1)
    transformer.init_weights(draw)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return transformer.eval()


def test_a_sound_does_not_know_how_long_the_negative_prompt_is(words, film):
    encoder, generator = encoder_of(words, None), FlowGenerator(tiny_transformer(), HUNYUAN_RATES)
    video = read_video(film, encoder.views_for(None))

    def sound(prompt, negative, compat=None):
        encoder.compat = encoder.text.compat = compat
        seen = encoder.encode(video, [prompt], negative)
        return generator.generate(seen, num_steps=2, guidance_scale=1.0)

    alone = sound("rain", "")
    assert alone.shape == (1, 4, 70)
    assert torch.allclose(sound("rain", "music, speech, distorted"), alone, atol=1e-5)
    assert not torch.allclose(sound("a bell", ""), alone, atol=1e-3)
    published = sound("rain", "", "reference")
    longer = sound("rain", "music, speech, distorted", "reference")
    assert not torch.allclose(published, longer, atol=1e-3)


def test_words_alone_are_a_clip_of_which_nothing_is_seen(words):
    """As the generator drops a video that is there."""
    transformer = tiny_transformer()
    empty = transformer.empty_clip_feat, transformer.empty_sync_feat
    encoder = PretrainedEncoder(MeanEyes(), words, StubTokenizer(), MeanSync(), empty)
    seen = encoder.encode(None, ["rain", "a bell"], duration_s=1.4)
    assert seen.visual.shape == (2, 12, 6) and seen.sync.shape == (2, 32, 6)
    assert seen.duration_s == 1.4 and not seen.visual.requires_grad
    dropped = transformer.without_video(
        torch.ones(2, 12, 6), torch.ones(2, 32, 6), torch.tensor([True, True])
    )
    assert torch.equal(seen.visual, dropped[0]) and torch.equal(seen.sync, dropped[1])
    latents = FlowGenerator(transformer, HUNYUAN_RATES).generate(seen, num_steps=1)
    assert latents.shape == (2, 4, 70) and latents.isfinite().all()
    assert not torch.allclose(latents[0], latents[1], atol=1e-3)
    with pytest.raises(ValueError, match="no video and an encoder without empty tokens"):
        PretrainedEncoder(MeanEyes(), words, StubTokenizer(), MeanSync()).encode(None, ["rain"])


def test_misfit_requests_are_named(words, film):
    encoder = encoder_of(words, None)
    visual, _ = encoder.views_for(None)
    with pytest.raises(ValueError, match=r"views \['visual'\], wanted sync too"):
        encoder.encode(read_video(film, [visual]), [""])
    with pytest.raises(ValueError, match="a log of 0 events"):
        encoder.encode(None, ["rain"], events=EventLog("", 0, 1.0))


# --- from files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both models whole, with the halves that nobody needs, as they are published."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")
    text = {k: v for k, v in EYES.items() if k not in ("image_size", "patch_size")}
    eyes = transformers.SiglipConfig(
        text_config={**text, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=EYES,
    )
    ears = {
        "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 16,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(4)
        transformers.SiglipModel(eyes).save_pretrained(folder / "siglip2")
        clap = transformers.ClapConfig(text_config={**CLAP, "vocab_size": 300}, audio_config=ears)
        transformers.ClapModel(clap).save_pretrained(folder / "clap")
    letters = {token: k for k, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    for byte in tokenizer_alphabet():
        letters[byte] = len(letters)
    tokenizer = transformers.RobertaTokenizer(vocab=letters, merges=[])
    tokenizer.save_pretrained(folder / "clap")
    return folder


def tokenizer_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def test_files_give_what_the_whole_models_give(folder, film):
    import transformers

    encoder = PretrainedEncoder.from_folder(folder, MeanSync())
    video = read_video(film, encoder.views_for(None))
    assert video.views[VISUAL].images.shape[1:] == (32, 32, 3)
    seen = encoder.encode(video, ["a bell", "rain on a tin roof"])
    eyes = transformers.SiglipModel.from_pretrained(folder / "siglip2").eval()
    clap = transformers.ClapModel.from_pretrained(folder / "clap").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "clap")
    pixels = video.views[VISUAL].images.permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = eyes.get_image_features(pixel_values=pixels).pooler_output
        tokens = tokenizer(["a bell"], return_tensors="pt")
        hidden = clap.text_model(**tokens).last_hidden_state
    assert torch.allclose(seen.visual[0], wanted, atol=1e-5)
    said = hidden.shape[1]
    assert said == len("a bell") + 2
    assert torch.allclose(seen.text[0, :said], hidden[0], atol=1e-5)
    assert not seen.text[0, said:].any()
    assert encoder.text.truncated("x" * 80) == "x" * 4
    sizes = [sum(p.numel() for p in model.parameters()) for model in (encoder.vision, eyes)]
    assert sizes[0] == sum(p.numel() for p in eyes.vision_model.parameters()) < sizes[1]


def copied(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*.*"):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


def test_a_tokenizer_of_the_older_form_reads_the_same(folder, tmp_path):
    clap = copied(folder, tmp_path) / "clap"
    tokens = json.loads((clap / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (clap / "vocab.json").write_text(json.dumps(tokens["vocab"]), encoding="utf-8")
    (clap / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (clap / "tokenizer.json").unlink()
    texts = ["Rain, on a tin roof!", ""]
    older, newer = (
        PretrainedEncoder.from_folder(path, MeanSync()).text.encode(texts)
        for path in (tmp_path, folder)
    )
    assert torch.equal(older, newer)


@pytest.mark.parametrize(
    "file", ["siglip2/model.safetensors", "clap/config.json", "clap/vocab.json"]
)
def test_absent_files_are_named_with_their_command(folder, tmp_path, file):
    copied(folder, tmp_path)
    (tmp_path / "clap" / "tokenizer.json").unlink()
    (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(MissingWeights, match=rf"{file}, run `foley-lab weights fetch xl`"):
        PretrainedEncoder.from_folder(tmp_path, MeanSync())


def test_a_file_that_lacks_a_tensor_is_refused(folder, tmp_path):
    path = copied(folder, tmp_path) / "siglip2" / "model.safetensors"
    tensors = load_file(path)
    lacking = next(name for name in tensors if name.endswith("head.probe"))
    rest = {name: t for name, t in tensors.items() if name != lacking}
    save_file(rest, path, {"format": "pt"})
    with pytest.raises(FoleyError, match=r"lacks 1 tensors such as '.*head\.probe'"):
        PretrainedEncoder.from_folder(tmp_path, MeanSync())
    path.write_bytes(b"no weights")
    with pytest.raises(FoleyError, match="is damaged"):
        PretrainedEncoder.from_folder(tmp_path, MeanSync())
