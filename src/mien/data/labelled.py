"""Pictures with the name of their expression, augmented as recognisers of expressions want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.augment import color_jitter, horizontal_flip, random_similarity
from mien.data.cache import take_rows
from mien.data.folds import person_folds
from mien.files.errors import TableError


class ExpressionSampler:
    """Draws ``{"image": (B, 3, S, S) in [-1, 1], "label": (B,) int64}``.

    Args:
        caches: Tables of faces; pictures with one of ``names`` in their training split count.
        names: The classes, in the order of their labels; ``|`` joins words for one class.
        batch_size: Pictures in a batch.
        seed: Seed of the run.
        rank: Number of the process.
        augment: Turn, shift, enlarge, mirror and change the light of pictures.
        folds: Folds of whole persons (``expression_folds``), whatever the splits are; 0: none.
        fold: Number of the fold that is left out.

    Raises:
        TableError: A class has no picture.
    """

    def __init__(
        self,
        caches: list[Any],
        names: Sequence[str],
        batch_size: int,
        seed: int,
        rank: int,
        augment: bool = True,
        folds: int = 0,
        fold: int = 0,
    ) -> None:
        self.caches, self.batch_size, self.augment = caches, batch_size, augment
        self.seed, self.rank = seed, rank
        number = class_numbers(names)
        table, row, label = [], [], []
        parts = expression_folds(caches, names, folds) if folds else []
        for t, cache in enumerate(caches):
            if folds:
                rows = np.flatnonzero((parts[t] >= 0) & (parts[t] != fold))
            else:
                rows = cache.select(split="train")
                rows = rows[np.isin(cache.expression[rows], list(number))]
            table.append(np.full(len(rows), t))
            row.append(rows)
            label.append([number[str(word)] for word in cache.expression[rows]])
        self.table, self.row = np.concatenate(table), np.concatenate(row)
        self.label = np.concatenate(label).astype(np.int64)
        counts = np.bincount(self.label, minlength=len(names))
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing:
            raise TableError(
                f"No training picture shows {', '.join(missing)}; give a table that names them, or "
                "set config.expressions to the words of the table."
            )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``; an epoch shows every picture once."""
        first, count = step * self.batch_size, len(self.row)
        places = np.arange(first, first + self.batch_size)
        chosen = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(places // count):
            inside = places // count == epoch
            order = np.random.default_rng([self.seed, self.rank, int(epoch)]).permutation(count)
            chosen[inside] = order[places[inside] % count]
        x = take_rows(self.caches, self.table[chosen], self.row[chosen])
        if self.augment:
            rng = np.random.default_rng([self.seed, self.rank, step, 1])
            generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            x, _, _ = random_similarity(x, generator, 12.0, (0.9, 1.15), 0.06)
            x, _ = horizontal_flip(x, generator)
            x = color_jitter(x, generator, 0.3, 0.3, p=0.8)
        return {"image": x, "label": torch.from_numpy(self.label[chosen])}


def expression_folds(
    caches: Sequence[Any], names: Sequence[str], folds: int
) -> list[NDArray[np.int64]]:
    """Part the labelled pictures of tables into folds of whole persons, taken by their names.

    Args:
        caches: Tables of faces.
        names: The classes.
        folds: Number of folds.

    Returns:
        For each table the fold of every row ``(N,)``; -1: none of the classes, or a person who is
        kept for measuring.

    Raises:
        ConfigError: Fewer than two folds.
        TableError: A labelled picture without a person, or fewer persons than folds.
    """
    words = list(class_numbers(names))
    rows = [np.flatnonzero(np.isin(c.expression, words) & ~c.kept) for c in caches]
    persons, most = [], 0
    for cache, own in zip(caches, rows, strict=True):
        person = cache.person[own]
        persons.append(np.where(person >= 0, person + most, -1))
        most = int(persons[-1].max(initial=most - 1)) + 1
    found = person_folds(np.concatenate(persons), folds, order="sorted")
    out = []
    for cache, own, part in zip(
        caches, rows, np.split(found, np.cumsum([len(r) for r in rows])[:-1]), strict=True
    ):
        whole = np.full(len(cache), -1, np.int64)
        whole[own] = part
        out.append(whole)
    return out


def class_numbers(names: Sequence[str]) -> dict[str, int]:
    """Return word of a table → number of its class; ``|`` joins words for one class."""
    return {word: k for k, name in enumerate(names) for word in name.split("|")}
