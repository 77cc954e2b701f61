"""The official eyes for timing: laws that need no published numbers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foley_lab.encoders.synchformer import (
    PREFIX,
    UNUSED,
    Synchformer,
    SynchformerConfig,
    _DividedAttention,
    _SpatialSummary,
    load_synchformer,
)

TINY = SynchformerConfig(dim=24, depth=2, num_heads=3, image_size=32)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(part, seed=0):
    """The module with every parameter random, matrices of even loudness."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in part.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.5
        parameter.data.normal_(std=scale, generator=generator)
    return part.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def eyes():
    return filled(Synchformer(TINY))


def film(clips, frames, seed=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 3, frames, TINY.image_size, TINY.image_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def assert_alike(got, wanted):
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


def test_the_published_size():
    with torch.device("meta"):
        eyes = Synchformer()
    unused = 768 * 3 * 16 * 16 + 768
    assert sum(p.numel() for p in eyes.parameters()) + unused == 122_440_704
    assert len(eyes.state_dict()) + len(UNUSED) == 238


@pytest.mark.parametrize(
    ("frames", "segments"), [(1, 1), (16, 1), (23, 1), (24, 2), (199, 23), (200, 24), (376, 46)]
)
def test_segments_are_counted_as_officially(frames, segments):
    assert SynchformerConfig().num_segments(frames) == segments


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_time", [True, False])
def test_divided_attention_is_full_attention_behind_a_mask(over_time):
    part, times, places = filled(_DividedAttention(TINY, over_time)), TINY.times, TINY.places
    x = noise(2, 1 + times * places, TINY.dim)
    time = torch.arange(times).repeat_interleave(places)
    place = torch.arange(places).repeat(times)
    mine = place if over_time else time
    allowed = torch.ones(len(mine) + 1, len(mine) + 1, dtype=torch.bool)
    allowed[1:, 1:] = mine[:, None] == mine
    queries, keys, values = (
        part.qkv(x).unflatten(-1, (3, TINY.num_heads, -1)).permute(2, 0, 3, 1, 4)
    )
    scores = queries @ keys.transpose(-1, -2) * (TINY.dim // TINY.num_heads) ** -0.5
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    assert_alike(part(x), part.proj((weights @ values).transpose(1, 2).flatten(2)))


def test_the_summary_is_the_first_token_of_torchs_layer():
    part = filled(_SpatialSummary(TINY))
    whole = torch.nn.TransformerEncoderLayer(
        TINY.dim,
        TINY.num_heads,
        TINY.dim * TINY.mlp_ratio,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    ).eval()
    state = part.state_dict()
    token = state.pop("cls_token")
    whole.load_state_dict(state)
    x = noise(5, 7, TINY.dim)
    with torch.no_grad():
        plain = whole(torch.cat([token.expand(5, -1, -1), x], dim=1))[:, 0]
    assert_alike(part(x), plain)


def test_the_patch_embedding_is_the_official_convolution(eyes):
    frames = noise(2, 3, 6, 32, 32)
    proj = eyes.patch_embed_3d.proj
    plain = F.conv3d(frames, proj.weight, proj.bias, proj.stride)  # [B, D, t, h, w]
    assert_alike(eyes.patch_embed_3d(frames), plain.flatten(3).permute(0, 2, 3, 1))


# --- laws --------------------------------------------------------------------------------------


def test_batched_is_alone(eyes):
    films = film(3, 33)
    together = eyes.encode(films)
    assert together.shape == (3, 3 * 8, TINY.dim) and together.std() > 0.1
    for row in range(3):
        assert_alike(eyes.encode(films[row : row + 1])[0], together[row])


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_small_batches_are_one_large(eyes, at_once):
    films = film(2, 40)
    assert_alike(eyes.encode(films, segments_at_once=at_once), eyes.encode(films))


@pytest.mark.parametrize("step", [4, 8, 16])
def test_shared_patches_are_those_of_each_segment(step):
    eyes = filled(Synchformer(replace(TINY, step=step)))
    frames = film(1, 45)
    starts = range(0, 45 - 16 + 1, step)
    alone = [eyes.encode(frames[:, :, start : start + 16]) for start in starts]
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)
    assert_alike(eyes.encode(frames), torch.cat(alone, dim=1))


def test_patches_are_embedded_once(eyes, monkeypatch):
    embedded = []
    plain = eyes.patch_embed_3d.forward
    monkeypatch.setattr(
        eyes.patch_embed_3d, "forward", lambda x: (embedded.append(x.shape[2]), plain(x))[1]
    )
    eyes.encode(film(1, 87))
    assert sum(embedded) == 80 and max(embedded) == 16


def test_trailing_frames_are_not_looked_at(eyes):
    frames = film(1, 31)
    assert torch.equal(eyes.encode(frames), eyes.encode(frames[:, :, :24]))


@pytest.mark.parametrize("count", [1, 9, 15])
def test_the_last_frame_of_a_short_clip_stands_still(eyes, count):
    frames = film(2, count)
    padded = torch.cat([frames, *[frames[:, :, -1:]] * (16 - count)], dim=2)
    assert torch.equal(eyes.encode(frames), eyes.encode(padded))
    assert eyes.encode(frames).shape == (2, 8, TINY.dim)


def test_bytes_are_floats_within_one(eyes):
    frames = film(1, 16)
    assert torch.equal(eyes.encode(frames), eyes.encode((frames / 255 - 0.5) / 0.5))


def test_frames_as_they_are_read_need_no_copy(eyes):
    frames = film(1, 24)
    read = frames[0].permute(1, 2, 3, 0).contiguous()  # [F, H, W, 3]
    assert torch.equal(eyes.encode(read.permute(3, 0, 1, 2)[None]), eyes.encode(frames))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sees_alike(eyes, dtype):
    frames = film(1, 24)
    half = filled(Synchformer(TINY)).to(dtype)
    whole, rough = eyes.encode(frames), half.encode(frames)
    assert rough.dtype == torch.float32
    assert (rough - whole).square().mean() < 1e-3 * whole.square().mean()


# --- at the door -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 16, 32, 32), (1, 16, 3, 32, 32), (1, 3, 16, 32, 31), (1, 3, 16, 31, 32)]
)
def test_wrong_frames_are_named(eyes, shape):
    with pytest.raises(ValueError, match="wanted \\[B, 3, F, 32, 32\\]"):
        eyes.encode(torch.zeros(shape))


def test_wrong_requests_are_named(eyes):
    with pytest.raises(ValueError, match="0 frames, 4 segments at once"):
        eyes.encode(torch.zeros(1, 3, 0, 32, 32))
    with pytest.raises(ValueError, match="16 frames, 0 segments at once"):
        eyes.encode(torch.zeros(1, 3, 16, 32, 32), segments_at_once=0)
    with pytest.raises(ValueError, match="dim 25 with 3 heads"):
        replace(TINY, dim=25)
    with pytest.raises(ValueError, match="segments of 16 frames every 7"):
        replace(TINY, step=7)


def official_state(eyes):
    """A file as published: other halves beside the visual one, which holds unused tensors."""
    visual = {PREFIX + name: tensor for name, tensor in eyes.state_dict().items()}
    unused = {PREFIX + name: torch.zeros(1) for name in UNUSED}
    others = {"afeat_extractor.norm.weight": torch.zeros(1), "vproj.bias": torch.zeros(1)}
    return visual | unused | others


def test_the_visual_half_is_taken_from_the_whole_file(eyes):
    state = official_state(eyes)
    loaded = load_synchformer(state, TINY)
    frames = film(1, 16)
    assert torch.equal(loaded.encode(frames), eyes.encode(frames))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    half = {name: tensor.half() for name, tensor in state.items()}
    assert {p.dtype for p in load_synchformer(half, TINY).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("blocks.1.timeattn.qkv.bias", {}, "Missing key.*blocks.1.timeattn.qkv.bias"),
        ("spatial_attn_agg.cls_token", {}, "Missing key.*spatial_attn_agg.cls_token"),
        (None, {"head.weight": torch.zeros(2)}, "Unexpected key.*head.weight"),
        (None, {"norm.bias": torch.zeros(2)}, "size mismatch for norm.bias"),
    ],
)
def test_loading_is_strict(eyes, drop, add, message):
    state = official_state(eyes) | {PREFIX + name: tensor for name, tensor in add.items()}
    state.pop(f"{PREFIX}{drop}", None)
    with pytest.raises(ValueError, match=message) as caught:
        load_synchformer(state, TINY)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="Missing key"):
        load_synchformer({}, TINY)
