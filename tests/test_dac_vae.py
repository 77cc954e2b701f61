"""The official codec: the published numbers, and laws that need none."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foley_lab.decoders.dac_vae import (
    PUBLISHED,
    DacConfig,
    DacVae,
    Posterior,
    _Conv,
    _Snake,
    _TransposedConv,
    load_dac,
)
from foley_lab.pipeline.pieces import decode_pieces
from foley_lab.signals import HUNYUAN_RATES

TINY = DacConfig(
    encoder_dim=4, encoder_rates=(2, 3, 4), latent_dim=6, decoder_dim=32, decoder_rates=(4, 3, 2)
)
KWARGS = {
    "encoder_dim": 4,
    "encoder_rates": [2, 3, 4],
    "latent_dim": 6,
    "decoder_dim": 32,
    "decoder_rates": [4, 3, 2],
    "n_codebooks": 9,
    "continuous": True,
    "not_of_this_codec": "?",
}
HOP = 24


def official_state(config=TINY, seed=0):
    """Random tensors under the official names, weight norm unfolded, of even loudness."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in DacVae(config).state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        stem = name.removesuffix(".weight")
        if name.endswith("alpha"):
            state[name] = 0.5 + values.abs()
        elif stem == name:
            state[name] = 0.1 * values
        elif "quant_conv" in name:
            state[name] = values * values[0].numel() ** -0.5
        else:
            quiet = name.endswith("block.3.weight") or len(values) == 1  # residuals, the sound
            state[f"{stem}.weight_v"] = values
            state[f"{stem}.weight_g"] = torch.full((len(values), 1, 1), 0.3 if quiet else 1.0)
    return state


@pytest.fixture(scope="module")
def dac():
    return load_dac(official_state(), KWARGS)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_size():
    with torch.device("meta"):
        dac = DacVae()
    assert dac.config == PUBLISHED == DacConfig.from_metadata({"latent_dim": 128})
    assert PUBLISHED.hop_length == HUNYUAN_RATES.hop_length
    normed = (_Conv, _TransposedConv)
    parts = [m for half in (dac.encoder, dac.decoder) for m in half.modules()]
    lengths = sum(len(part.weight) for part in parts if isinstance(part, normed))
    assert sum(p.numel() for p in dac.parameters()) + lengths == 371_589_058


# --- parts -------------------------------------------------------------------------------------


def test_snake_is_its_formula_and_overwrites_only_when_told():
    snake, x = _Snake(5), noise(2, 70_000, 5)
    snake.alpha.data = noise(1, 5, 1, seed=2)  # of either sign
    alpha = snake.alpha.data.transpose(1, 2)
    plain = x + (alpha * x).sin() ** 2 / (alpha + 1e-9)
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(snake(x), plain, atol=1e-5, rtol=1e-4)
        assert torch.equal(x, kept)
        assert snake(x, overwrite=True).data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, plain, atol=1e-5, rtol=1e-4)


def filled(part):
    for seed, parameter in enumerate(part.parameters()):
        parameter.data.copy_(noise(*parameter.shape, seed=seed))
    return part


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [(7, 1, 1, 3), (7, 1, 9, 27), (3, 1, 1, 1), (1, 1, 1, 0), (4, 2, 1, 1), (10, 5, 1, 3)],
)
def test_convolutions_are_torchs(kernel, stride, dilation, padding):
    part = filled(_Conv(3, 4, kernel, stride, dilation))
    x = noise(2, 3, 60)
    plain = F.conv1d(x, part.weight, part.bias, stride, padding, dilation)
    torch.testing.assert_close(part(x.transpose(1, 2)).transpose(1, 2), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("length", [1, 9])
def test_transposed_convolutions_are_torchs(stride, length):
    part = filled(_TransposedConv(6, 3, stride))
    x = noise(2, 6, length)
    padding = {"padding": (stride + 1) // 2, "output_padding": stride % 2}
    plain = F.conv_transpose1d(x, part.weight, part.bias, stride, **padding)
    torch.testing.assert_close(part(x.transpose(1, 2)).transpose(1, 2), plain, atol=1e-4, rtol=1e-4)


def test_weight_norm_is_torchs(dac):
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 4, 7))
    transposed = torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(32, 16, 8))
    state = official_state()
    for part, name in (
        (conv, "encoder.block.1.block.0.block.1"),
        (transposed, "decoder.model.1.block.1"),
    ):
        weight = part.parametrizations.weight
        weight.original0.data, weight.original1.data = (
            state[f"{name}.weight_{which}"] for which in "gv"
        )
        torch.testing.assert_close(dac.state_dict()[f"{name}.weight"], part.weight.detach())


def test_the_posterior_is_a_gaussian():
    posterior = Posterior.from_parameters(noise(3, 8, 50))
    gaussian = torch.distributions.Normal(posterior.mean, posterior.std)
    unit = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(gaussian, unit).mean((1, 2))
    torch.testing.assert_close(posterior.kl(), divergence)
    draws = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    scores = torch.cat([(draw - posterior.mean) / posterior.std for draw in draws[1:]])
    assert abs(scores.mean()) < 0.1 and abs(scores.std() - 1) < 0.1
    assert torch.equal(posterior.mode(), posterior.mean)


# --- laws of the codec -------------------------------------------------------------------------


def test_lengths(dac):
    for num_samples, num_frames in ((1, 1), (HOP, 1), (HOP + 1, 2), (10 * HOP, 10)):
        posterior = dac.encode(noise(2, 1, num_samples))
        assert posterior.mean.shape == posterior.logvar.shape == (2, 6, num_frames)
        assert dac.decode(posterior.mode()).shape == (2, 1, num_frames * HOP)


def test_sound_is_padded_on_the_right_with_silence(dac):
    sound = noise(1, 1, 5 * HOP - 7)
    torch.testing.assert_close(dac.encode(sound).mean, dac.encode(F.pad(sound, (0, 7))).mean)


def test_batched_is_alone_and_nothing_given_is_overwritten(dac):
    latents, sounds = noise(3, 6, 9), noise(3, 1, 9 * HOP)
    kept = latents.clone(), sounds.clone()
    together, posteriors = dac.decode(latents), dac.encode(sounds)
    assert together.std() > 0.05
    for row in range(3):
        alone = dac.decode(latents[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
        mean = dac.encode(sounds[row : row + 1]).mean
        torch.testing.assert_close(mean[0], posteriors.mean[row], atol=1e-5, rtol=1e-4)
    assert torch.equal(latents, kept[0]) and torch.equal(sounds, kept[1])


@pytest.mark.parametrize(
    "rates", [(4, 3, 2), (2,), (3,), (8, 5, 4, 3, 2), (2, 2, 2, 2), (5, 7)], ids=str
)
def test_the_receptive_field_is_exact(rates):
    """What is no number reaches every sample that depends on it, and no other."""
    config = replace(TINY, encoder_rates=rates, decoder_rates=rates)
    dac = load_dac(official_state(config), vars(config))
    field = dac.receptive_field
    latents = noise(1, 6, 2 * field + 5)
    latents[..., field + 2] = torch.nan
    lost = dac.decode(latents).isnan().view(-1, config.hop_length).any(1).nonzero().flatten()
    assert max(field + 2 - lost.min().item(), lost.max().item() - field - 2) == field


def test_the_published_receptive_field():
    with torch.device("meta"):
        assert DacVae(with_encoder=False).receptive_field == 10


@pytest.mark.parametrize("piece", [1, 7, 20])
def test_pieces_with_context_equal_the_whole(dac, piece):
    latents = noise(2, 6, 60)
    whole, context = dac.decode(latents), dac.receptive_field
    pieces = []
    for first in range(0, 60, piece):
        begin, end = max(0, first - context), min(60, first + piece + context)
        sound = dac.decode(latents[..., begin:end], first_frame=begin)
        pieces.append(sound[..., (first - begin) * HOP : (first - begin + piece) * HOP])
    torch.testing.assert_close(torch.cat(pieces, -1), whole, atol=1e-5, rtol=1e-4)


def test_it_is_decoded_in_pieces_like_every_decoder(dac):
    latents = noise(1, 6, 200)
    whole = dac.decode(latents)
    assert whole.abs().max() < 0.99  # nothing to limit
    pieces = decode_pieces(dac, latents, HOP, 200 * HOP - 5, piece=50)
    joined = torch.cat(list(pieces), -1)
    torch.testing.assert_close(joined, whole[..., :-5], atol=1e-5, rtol=1e-4)


def test_half_precision_sounds_alike(dac):
    latents = noise(1, 6, 40)
    whole = dac.decode(latents)
    half = load_dac(official_state(), KWARGS).bfloat16()
    rough = half.decode(latents)
    assert rough.dtype == torch.float32
    assert (rough - whole).square().mean() < 1e-3 * whole.square().mean()
    assert rough.unique().numel() > 0.9 * whole.unique().numel()  # not in steps of bfloat16
    assert half.encode(noise(1, 1, 90)).mean.dtype == torch.float32


# --- at the door -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 9), (1, 5, 9), (1, 6, 0)])
def test_wrong_latents_are_named(dac, shape):
    with pytest.raises(ValueError, match="wanted \\[B, 6, T\\]"):
        dac.decode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(480,), (1, 2, 480), (1, 1, 0)])
def test_wrong_samples_are_named(dac, shape):
    with pytest.raises(ValueError, match="mix to mono"):
        dac.encode(torch.zeros(shape))


def test_without_its_encoder_it_decodes_the_same(dac):
    lean = load_dac(official_state(), KWARGS, with_encoder=False)
    assert not any("encoder" in name for name, _ in lean.named_parameters())
    assert torch.equal(lean.decode(noise(1, 6, 9)), dac.decode(noise(1, 6, 9)))
    with pytest.raises(ValueError, match="a DAC-VAE without encoder"):
        lean.encode(torch.zeros(1, 1, 24))


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("decoder.model.5.bias", {}, "Missing key.*decoder.model.5.bias"),
        ("decoder.model.5.weight_g", {}, "decoder.model.5.weight"),
        ("decoder.model.5.weight_v", {}, "decoder.model.5.weight"),
        ("encoder.block.0.bias", {}, "Missing key.*encoder.block.0.bias"),
        (None, {"quantizer.in_proj.weight": torch.zeros(2)}, "Unexpected key.*quantizer"),
        (None, {"decoder.model.5.bias": torch.zeros(2)}, "size mismatch for decoder.model.5.bias"),
    ],
)
def test_loading_is_strict(drop, add, message):
    state = official_state() | add
    state.pop(drop, None)
    with pytest.raises(ValueError, match=message) as caught:
        load_dac(state, KWARGS)
    assert "\n" not in str(caught.value)


def test_loading_copies():
    state = official_state()
    dac = load_dac(state, KWARGS)
    sound = dac.decode(noise(1, 6, 3))
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(dac.decode(noise(1, 6, 3)), sound)
    assert not dac.training and not any(p.requires_grad for p in dac.parameters())


def test_configurations():
    assert DacConfig.from_metadata(KWARGS) == TINY
    assert DacConfig.from_metadata({**KWARGS, "latent_dim": None}).latent_dim == 4 * 2**3
    with pytest.raises(ValueError, match="a discrete DAC"):
        DacConfig.from_metadata({**KWARGS, "continuous": False})
    with pytest.raises(ValueError, match="wanted rates from 2 on with the same product"):
        DacConfig.from_metadata({**KWARGS, "encoder_rates": [2, 3, 5]})
    with pytest.raises(ValueError, match="decoder_dim 36 with 3"):
        DacConfig.from_metadata({**KWARGS, "decoder_dim": 36})
    for bad in ({"encoder_rates": 5}, {"decoder_dim": "wide"}, {"sample_rate": []}):
        with pytest.raises(ValueError, match="correct the metadata"):
            DacConfig.from_metadata({**KWARGS, **bad})
