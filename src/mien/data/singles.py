"""Single pictures from tables of faces, alone or with other pictures of the same face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.data.clips import ClipPartners
from mien.files.errors import ConfigError, TableError


@dataclass(frozen=True)
class Part:
    """A part of a batch.

    Attributes:
        count: Pictures.
        weights: Share of each table; by their numbers of pictures if empty.
        partners: Other pictures that come with each of them: frames of its clip, or its mirror
            image where it has no clip.
    """

    count: int
    weights: tuple[float, ...] = ()
    partners: int = 0


class SingleSampler:
    """Draws batches of independent pictures, a pure function of (seed, rank, step).

    Args:
        caches: Tables of faces; pictures come from their training split.
        parts: Name of a part of the batch → what it holds. Parts are drawn independently, each
            ``(count, 3, S, S)`` in [-1, 1]; ``NAME_partners`` is ``(partners · count, 3, S, S)``,
            the first partner of all pictures before the second one.
        seed: Seed of the run.
        rank: Number of the process.
        size: Side in pixels that the networks are built for; 0: any.

    Raises:
        ConfigError: The recipe draws pictures of another size.
        TableError: Another number of weights than of tables.
    """

    def __init__(
        self,
        caches: list[Any],
        parts: Mapping[str, Part],
        seed: int,
        rank: int,
        size: int = 0,
    ) -> None:
        others = [cache.size for cache in caches if cache.size != size] if size else []
        if others:
            raise ConfigError(
                f"The recipe's size is {others[0]}, config.size is {size}; both are the side of a "
                f"picture: add config.size={others[0]}."
            )
        self.caches, self.parts, self.seed, self.rank = caches, dict(parts), seed, rank
        self.rows = [cache.select(split="train") for cache in caches]
        self.share = {name: self._share(part.weights) for name, part in self.parts.items()}
        self.partners: list[ClipPartners] = []
        if any(part.partners for part in self.parts.values()):
            self.partners = [
                ClipPartners(cache, rows) for cache, rows in zip(caches, self.rows, strict=True)
            ]

    def _share(self, weights: tuple[float, ...]) -> Any:
        share = np.array(weights or [len(rows) for rows in self.rows], np.float64)
        if len(share) != len(self.caches):
            raise TableError(f"{len(share)} weights are given for {len(self.caches)} tables.")
        return share / share.sum()

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        rng = np.random.default_rng([self.seed, self.rank, step])
        batch: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            first, *others = self._draw(part, self.share[name], rng)
            batch[name] = first
            if others:
                batch[f"{name}_partners"] = torch.cat(others)
        return batch

    def _draw(self, part: Part, share: Any, rng: np.random.Generator) -> list[Tensor]:
        """Draw the pictures of a part, then each of their partners."""
        table = rng.choice(len(self.caches), part.count, p=share)
        drawn: list[list[Tensor]] = [[] for _ in range(1 + part.partners)]
        for t, (cache, rows) in enumerate(zip(self.caches, self.rows, strict=True)):
            chosen = rng.choice(rows, int((table == t).sum()))
            first = cache.take(chosen)
            drawn[0].append(first)
            for others in drawn[1:]:
                other = self.partners[t].draw(chosen, rng)
                alone = torch.from_numpy(~self.partners[t].known[chosen])[:, None, None, None]
                others.append(torch.where(alone, first.flip(-1), cache.take(other)))
        return [torch.cat(pictures).float().div_(127.5).sub_(1.0) for pictures in drawn]
