"""Weights of eight bits: half the memory of bfloat16, for machines that cannot hold the rest.

Every matrix of the blocks is kept as int8 with one scale per row, w ≈ s · q, and widened when it is
used (torchao's weight-only quantisation). Activations stay as they are. It is no speed-up on a CPU:
widening costs a third of the product. What it does to a velocity is measured by
`foley-lab bench transformer`.
"""

from __future__ import annotations

import os
from typing import cast

import torch
from torch import nn

from foley_lab.generators.foley import FoleyTransformer, SingleBlock
from foley_lab.nn.layers import TimeConv
from foley_lab.signals import FoleyError


def to_eight_bit(transformer: FoleyTransformer) -> FoleyTransformer:
    """The transformer with its blocks in eight bits, in place; for inference alone.

    Its tensors are no official ones any more: load weights and merge adapters before.

    Raises:
        FoleyError: If torchao is not installed.
    """
    # Its kernels for other machines are not wanted, nor the lines it prints when they do not load.
    os.environ.setdefault("TORCHAO_SKIP_LOADING_SO_FILES", "1")
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise FoleyError(
            "torchao is not installed, wanted it for int8 weights, "
            "run pip install 'foley-lab[int8]' or choose another dtype"
        ) from error
    for block in (*transformer.triple_blocks, *transformer.single_blocks):
        if isinstance(block, SingleBlock):
            block.sort_heads()
        for module in list(block.modules()):
            if isinstance(module, TimeConv):
                module.as_product()
        quantize_(block, Int8WeightOnlyConfig(), filter_fn=_is_matrix)
    return transformer.requires_grad_(False)


def is_eight_bit(transformer: FoleyTransformer) -> bool:
    """Whether its blocks are kept in eight bits."""
    blocks = (*transformer.triple_blocks, *transformer.single_blocks)
    return any(hasattr(p, "__tensor_flatten__") for block in blocks for p in block.parameters())


def block_bytes(transformer: FoleyTransformer) -> int:
    """Memory of the blocks' weights, whatever they are kept in."""
    total = 0
    for blocks in (transformer.triple_blocks, transformer.single_blocks):
        for parameter in blocks.parameters():
            inner = getattr(parameter, "__tensor_flatten__", None)
            names = inner()[0] if inner else []
            parts = [getattr(parameter, name) for name in names] or [parameter]
            total += sum(cast(torch.Tensor, part).nbytes for part in parts)
    return total


def _is_matrix(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear)
