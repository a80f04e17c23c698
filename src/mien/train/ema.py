"""Exponential moving average of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Moving average of the trainable parameters; buffers and frozen tensors are not averaged.

    Args:
        module: The network; its weights are the average's start.
        decay: Weight of the old average, in (0, 1). Early on it is ``(1 + t) / (10 + t)`` if that
            is smaller, so that the average forgets the random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, average: dict[str, Tensor]) -> None:
        """Take over a saved average (same names and shapes)."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module hold the averaged weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.average[name] = self.average[name], parameter.data
