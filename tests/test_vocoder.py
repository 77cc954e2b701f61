"""The codec: latents lie where the sound lies, pieces equal the whole, batched equals alone."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from foley_lab.decoders.vocoder import Codec, VocoderConfig, load_codec, mel_filters
from foley_lab.signals import MATERIALS
from foley_lab.training.codec import clear_onsets, draw_log, onset_lags_ms
from foley_lab.training.losses_audio import LENGTHS, SpectralLoss
from foley_lab.training.polish import Discriminator, decoder_losses, discriminator_loss

HOP = 1920


@pytest.fixture(scope="module")
def codec():
    """An untrained codec whose heads are loud and vary, with an analysis fitted to bursts."""
    torch.manual_seed(0)
    codec = Codec(VocoderConfig(width=64, slow_blocks=1, fast_blocks=2))
    with torch.no_grad():
        codec.vocoder.head.weight.mul_(2)
        codec.vocoder.head.bias.add_(1)
    noise = torch.randn(16, 1, 24 * HOP) * torch.rand(16, 1, 24, 1).pow(4).expand(
        16, 1, 24, HOP
    ).flatten(2)
    codec.analysis.fit([noise])
    return codec.eval()


def test_lengths(codec):
    for num_samples, num_frames in ((1, 1), (HOP, 1), (HOP + 1, 2), (48_000, 25)):
        latents = codec.encode(torch.randn(2, 1, num_samples))
        assert latents.shape == (2, 128, num_frames)
        assert codec.decode(latents).shape == (2, 1, num_frames * HOP)


def test_a_latent_frame_describes_its_own_samples(codec):
    """A click in the middle of frame k is heard in frame k and in no other."""
    silence = codec.analysis.describe(torch.zeros(1, 1, 20 * HOP))
    for frame in (0, 7, 19):
        samples = torch.zeros(1, 1, 20 * HOP)
        samples[..., frame * HOP + HOP // 2] = 0.5
        change = (codec.analysis.describe(samples) - silence).abs().sum(-1)[0]
        assert change.nonzero().flatten().tolist() == [frame]


def test_the_fine_bands_follow_a_click_through_the_frame(codec):
    """Fine band j of a frame is centred at its samples 120 j to 120 (j + 1)."""
    config = codec.config
    for fine in (0, 5, 15):
        samples = torch.zeros(1, 1, 3 * HOP)
        samples[..., HOP + fine * 120 + 60] = 0.5
        described = codec.analysis.describe(samples)[0, 1, 4 * config.n_mels :]
        assert described.view(16, config.n_bands).sum(1).argmax() == fine


def test_latents_are_uncorrelated_and_of_unit_scale():
    torch.manual_seed(1)
    codec = Codec(VocoderConfig(latent_dim=16))
    sounds = torch.randn(8, 1, 30 * HOP) * torch.rand(8, 1, 30, 1).expand(8, 1, 30, HOP).flatten(2)
    explained = codec.analysis.fit(sounds.split(2))
    latents = codec.encode(sounds).transpose(0, 1).flatten(1)
    covariance = torch.cov(latents)
    spread = covariance.diag().sqrt()
    correlation = covariance / spread[:, None] / spread[None] - torch.eye(16)
    assert correlation.abs().max() < 0.05
    assert (latents.square().mean()).sqrt().item() == pytest.approx(1.0, abs=0.02)
    assert (explained.diff() >= -1e-6).all() and explained[-1].item() == pytest.approx(1.0)


def test_a_moved_sound_has_moved_latents(codec):
    """A sound moved by whole latent frames has its latents moved by as many."""
    torch.manual_seed(2)
    burst = torch.zeros(1, 1, 20 * HOP)
    burst[..., 4 * HOP : 6 * HOP] = torch.randn(2 * HOP)
    moved = torch.roll(burst, 5 * HOP, -1)
    torch.testing.assert_close(codec.encode(burst)[..., :15], codec.encode(moved)[..., 5:])


def test_decoding_is_deterministic_and_batched_is_alone(codec):
    latents = torch.randn(3, 128, 9)
    together = codec.decode(latents)
    alone = torch.cat([codec.decode(one[None]) for one in latents])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(together, codec.decode(latents))
    assert together.std() > 0.01


def test_pieces_with_context_equal_the_whole(codec):
    latents = torch.randn(1, 128, 60)
    whole, context = codec.decode(latents), codec.receptive_field
    pieces = []
    for first in range(0, 60, 20):
        begin, end = max(0, first - context), min(60, first + 20 + context)
        piece = codec.decode(latents[..., begin:end], first_frame=begin)
        pieces.append(piece[..., (first - begin) * HOP : (first - begin + 20) * HOP])
    torch.testing.assert_close(torch.cat(pieces, -1), whole, atol=1e-5, rtol=1e-4)


def test_the_receptive_field_is_true(codec):
    """A changed latent changes nothing outside the field, and something inside it."""
    latents, field = torch.randn(1, 128, 60), codec.receptive_field
    changed = latents.clone()
    changed[..., 30] += 1
    change = (codec.decode(latents) - codec.decode(changed)).abs()[0, 0].view(60, HOP).amax(1)
    touched = change.gt(1e-7).nonzero().flatten()
    assert touched.min() >= 30 - field and touched.max() <= 30 + field
    assert change[30] > 1e-3


def test_ring_output_that_stays_is_a_partial_that_lasts(codec):
    """Constant level and phase at one bin give a steady sine of that frequency and amplitude."""
    vocoder, bins = codec.vocoder, 961
    level = torch.full((1, 48, bins), -30.0)
    level[:, :, 41] = math.log(0.5)
    ring = vocoder._ring(level, torch.zeros_like(level), torch.full((1, 48, 4), 30.0))[0]
    spectrum = torch.fft.rfft(ring[4800:-4800] * torch.hann_window(13_440)).abs() * 4 / 13_440
    assert spectrum.argmax() == round(41 * 25 * 13_440 / 48_000)
    middle = ring[4800:-4800].view(-1, HOP).square().mean(1).sqrt()
    assert middle.max() - middle.min() < 0.01 * middle.mean()  # no beating from frame to frame


@pytest.mark.parametrize("shape", [(128, 9), (1, 64, 9), (1, 128, 0)])
def test_wrong_latents_are_named(codec, shape):
    with pytest.raises(ValueError, match="wanted \\[B, 128, T\\]"):
        codec.decode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(48_000,), (1, 2, 48_000), (1, 1, 0)])
def test_wrong_samples_are_named(codec, shape):
    with pytest.raises(ValueError, match="mix to mono"):
        codec.encode(torch.zeros(shape))


def test_a_checkpoint_gives_the_same_codec_back(codec):
    half = {name: tensor.half() for name, tensor in codec.state_dict().items()}
    again = load_codec(half, asdict(codec.config))
    sound = torch.randn(1, 1, 9600)
    assert torch.equal(codec.encode(sound), again.encode(sound))  # the analysis is exact in half
    assert not again.training
    with pytest.raises(ValueError, match="wanted fields of VocoderConfig"):
        load_codec(half, {**asdict(codec.config), "hidden": 3})
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_codec(half, asdict(replace(codec.config, width=32)))


def test_mel_filters_hear_every_frequency_once():
    filters = mel_filters(48_000, 1024, 64)
    assert filters.shape == (513, 64) and (filters.amax(0) > 0.3).all()
    assert (filters.sum(1)[60:480] - 1).abs().max() < 0.05  # triangles add up where none is widened


def test_loss_is_zero_for_the_same_sound_and_falls_towards_it():
    torch.manual_seed(0)
    loss, true = SpectralLoss(48_000), torch.randn(2, 24_000) * 0.1
    far = true + 0.1 * torch.randn_like(true)
    near = true + 0.01 * torch.randn_like(true)
    assert loss(true, true, LENGTHS).item() == pytest.approx(0, abs=1e-6)
    assert loss(near, true, LENGTHS) < loss(far, true, LENGTHS)
    for n in LENGTHS:  # the product in bfloat16 stands for the exact transform
        pairs = zip(loss.terms(far, true, n), loss.terms(far, true, n, exact=True), strict=True)
        assert all(abs(quick - exact) < 0.02 for quick, exact in pairs)


def test_lags_find_a_moved_click():
    true = torch.zeros(48_000)
    true[24_000:24_480] = torch.randn(480) * torch.linspace(1, 0, 480)
    assert onset_lags_ms(torch.roll(true, 48 * 6), true, [0.5]) == [6]
    assert onset_lags_ms(true, true, [0.5, 0.001]) == [0]  # too near the border to tell


def test_drawn_logs_hold_their_promises():
    logs = [draw_log(seed) for seed in range(60)]
    assert draw_log(3) == logs[3]
    assert {event.kind for log in logs for event in log.events} == {"impact", "step", "key", "drop"}
    assert len({event.material for log in logs for event in log.events}) == len(MATERIALS)
    assert {span.kind for log in logs for span in log.continuous} == {"scrape", "roll"}
    gaps = np.concatenate([np.diff([e.time_s for e in log.events]) for log in logs if log.events])
    assert gaps.min() >= 0.06 and gaps.max() <= 1.5
    assert all(set(clear_onsets(log)) <= {e.time_s for e in log.events} for log in logs)


def test_a_discriminator_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    judge = Discriminator(512, channels=4)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    tones = 0.1 * torch.sin(torch.arange(6000) * torch.rand(4, 1))
    noise = 0.1 * torch.randn(4, 6000)
    hinges = []
    for _ in range(25):
        hinges.append(discriminator_loss([judge(tones)], [judge(noise)]))
        optimizer.zero_grad()
        hinges[-1].backward()
        optimizer.step()
    assert hinges[0] > 1.8 and hinges[-1] < 0.5
    fooled, same = decoder_losses([judge(tones)], [judge(tones)])
    caught, other = decoder_losses([judge(tones)], [judge(noise)])
    assert fooled < caught and same == 0 < other
