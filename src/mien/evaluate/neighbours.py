"""Nearest neighbours in a space of features: precision, recall, and what lies next to a picture.

Precision and recall are those of Kynkäänniemi et al., *Improved Precision and Recall Metric for
Assessing Generative Models*, NeurIPS 2019: the part of the space where a set lies is the union of
balls around its pictures, each as large as the distance to its k-th nearest neighbour in the set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.files.errors import ConfigError

NEIGHBOURS = 3  # k, as published
_BLOCK = 2048  # rows of the larger set at a time


def precision_recall(
    drawn: NDArray[Any], real: NDArray[Any], k: int = NEIGHBOURS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which drawn pictures lie where real ones do, and which real where drawn ones do.

    Their means are precision and recall; both depend on the numbers of pictures, which should be
    equal.

    Args:
        drawn: ``(N, D)`` features, N above k.
        real: ``(M, D)`` features, M above k.
        k: Which neighbour gives the size of a ball.

    Returns:
        ``(N,)`` and ``(M,)``.

    Raises:
        ConfigError: Too few pictures.
    """
    if min(len(drawn), len(real)) <= k:
        raise ConfigError(f"Precision and recall need more than {k} pictures of each kind.")
    a, b = _tensor(drawn), _tensor(real)
    apart = torch.cdist(a, b)
    precision = (apart <= _radii(b, k)).any(1)
    recall = (apart <= _radii(a, k)[:, None]).any(0)
    return precision.numpy(), recall.numpy()


def nearest(
    queries: NDArray[Any], others: NDArray[Any], count: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return distances and rows ``(N, count)`` of the nearest of ``others``, nearest first.

    Args:
        queries: ``(N, D)`` features.
        others: ``(M, D)`` features, M at least ``count``.
        count: How many of them.
    """
    a = _tensor(queries)
    least = torch.full((len(a), count), torch.inf)
    rows = torch.zeros(len(a), count, dtype=torch.int64)
    for at in range(0, len(others), _BLOCK):
        apart = torch.cdist(a, _tensor(others[at : at + _BLOCK]))
        places = torch.arange(at, at + apart.shape[1]).expand_as(apart)
        least, order = torch.cat([least, apart], 1).topk(count, largest=False)
        rows = torch.cat([rows, places], 1).gather(1, order)
    return least.numpy(), rows.numpy()


def _radii(x: Tensor, k: int) -> Tensor:
    """Return the distance ``(N,)`` of each row to its k-th neighbour, itself not counted."""
    return torch.cdist(x, x).fill_diagonal_(0).kthvalue(k + 1, dim=1).values


def _tensor(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))
