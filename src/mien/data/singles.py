"""Single pictures from tables of faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.files.errors import TableError


class SingleSampler:
    """Draws batches of independent pictures, a pure function of (seed, rank, step).

    Args:
        caches: Tables of faces; pictures come from their training split.
        counts: Name of a part of the batch → pictures in it. Parts are drawn independently, each
            ``(count, 3, S, S)`` in [-1, 1].
        seed: Seed of the run.
        rank: Number of the process.
        weights: Share of each table in a batch; by their numbers of pictures if empty.

    Raises:
        TableError: Another number of weights than of tables.
    """

    def __init__(
        self,
        caches: list[Any],
        counts: Mapping[str, int],
        seed: int,
        rank: int,
        weights: tuple[float, ...] = (),
    ) -> None:
        self.caches, self.counts, self.seed, self.rank = caches, dict(counts), seed, rank
        self.rows = [cache.select(split="train") for cache in caches]
        share = np.array(weights or [len(rows) for rows in self.rows], np.float64)
        if len(share) != len(caches):
            raise TableError(f"{len(share)} weights are given for {len(caches)} tables.")
        self.share = share / share.sum()

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        return {name: self._draw(count, rng) for name, count in self.counts.items()}

    def _draw(self, count: int, rng: np.random.Generator) -> Tensor:
        table = rng.choice(len(self.caches), count, p=self.share)
        parts = [
            cache.take(rng.choice(rows, int((table == t).sum())))
            for t, (cache, rows) in enumerate(zip(self.caches, self.rows, strict=True))
        ]
        return torch.cat(parts).float().div_(127.5).sub_(1.0)
