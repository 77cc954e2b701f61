"""Weights that are on the accelerator only while their stage runs.

    host memory, pinned ──copy──→ device: encode ──let go──→ device: generate ──let go──→ ...

A weight is never written, so nothing is copied back and nothing is read from disk again: going home
is taking up the old tensor. The device holds one stage at a time, the largest part at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Residence:
    """The weights of one stage, at home in host memory.

    Args:
        modules: Moved to the host, and from then on belong there.
        device: Where they work.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self.device = device
        self._lock, self._guests = threading.Lock(), 0
        self._homes: list[tuple[Tensor, Tensor]] = []
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                home = tensor.data.to("cpu")
                tensor.data = home.pin_memory() if device.type == "cuda" else home
                self._homes.append((tensor, tensor.data))

    @property
    def bytes(self) -> int:
        """What the stage needs on the device."""
        return sum(home.nbytes for _, home in self._homes)

    @contextmanager
    def here(self) -> Iterator[None]:
        """The weights on the device; several threads share one stay."""
        with self._lock:
            self._guests += 1
            if self._guests == 1:
                for tensor, home in self._homes:
                    tensor.data = home.to(self.device, non_blocking=True)
        try:
            yield
        finally:
            with self._lock:
                self._guests -= 1
                if not self._guests:
                    for tensor, home in self._homes:
                        tensor.data = home
