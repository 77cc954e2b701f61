"""Weights of eight bits: nearly the same velocities, half the memory."""

from dataclasses import replace

import pytest
import torch

from foley_lab.generators.eight_bit import block_bytes, is_eight_bit, to_eight_bit
from foley_lab.generators.foley import FoleyConfig, FoleyTransformer

CONFIG = FoleyConfig(2, 2, 128, 2, clip_dim=6, sync_dim=5, condition_dim=7, audio_vae_latent_dim=4)


def filled(config=CONFIG):
    network, draw = FoleyTransformer(config), torch.Generator().manual_seed(1)
    network.init_weights(draw)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=draw))
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def velocity(network):
    draw = torch.Generator().manual_seed(2)
    tokens = [torch.randn(1, n, w, generator=draw) for n, w in ((8, 6), (16, 5), (5, 7))]
    conditions = network.prepare(*tokens, 48)
    conditions = replace(conditions, modulation=network.tabulate([0.5]))
    return network.velocity(torch.randn(1, 4, 48, generator=draw), 0.5, conditions).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_velocities_stay_and_memory_halves(dtype):
    pytest.importorskip("torchao")
    wanted, network = velocity(filled()), filled().to(dtype)
    before = block_bytes(network)
    assert not is_eight_bit(network)
    got = velocity(to_eight_bit(network))
    assert is_eight_bit(network)
    error = (got - wanted).norm() / wanted.norm()
    assert 1e-4 < error < 0.03
    assert block_bytes(network) < (0.55 if dtype == torch.bfloat16 else 0.3) * before


def test_sorting_heads_changes_nothing():
    network = filled()
    wanted = velocity(network)
    for block in network.single_blocks:
        block.sort_heads()
        block.sort_heads()
        block.linear1.as_product()
    assert torch.allclose(velocity(network), wanted, atol=1e-6)
