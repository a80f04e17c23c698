"""Principal components, fitted on the training pictures of a task only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.faces.face import Array


@dataclass(frozen=True, eq=False)
class Pca:
    """A centred projection.

    Attributes:
        mean: ``(D,)``.
        axes: ``(D, K)`` orthonormal columns, largest variance first.
        deviation: ``(K,)`` standard deviation along each axis.
    """

    mean: Array
    axes: Array
    deviation: Array

    def __call__(self, values: NDArray[Any], *, whiten: bool = False) -> Array:
        """Project ``(N, D)`` to ``(N, K)``; ``whiten`` scales each axis to unit variance."""
        out = (values.astype(np.float32) - self.mean) @ self.axes
        return np.asarray(out / self.deviation if whiten else out, np.float32)


_ITERATIONS = 6
_SPARE = 16  # axes more than asked for, which speed up convergence


def fit_pca(values: NDArray[Any], dims: int, seed: int = 0) -> Pca:
    """Fit the first ``dims`` principal components of ``(N, D)`` by randomised subspace iteration.

    Fewer come back where N - 1 or D is smaller or where nothing varies any more.
    """
    data = torch.from_numpy(values.astype(np.float32))
    mean = data.mean(0)
    data -= mean
    rank = max(1, min(dims, data.shape[0] - 1, data.shape[1]))
    width = min(rank + _SPARE, *data.shape)
    start = torch.randn(data.shape[1], width, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(data.T @ (data @ basis)).Q
    _, sizes, right = torch.linalg.svd(data @ basis, full_matrices=False)
    keep = max(1, int((sizes[:rank] > 1e-5 * sizes[0]).sum()))
    axes = (basis @ right.T)[:, :keep]
    deviation = (sizes[:keep] / max(1, len(data) - 1) ** 0.5).clamp(min=1e-12)
    return Pca(mean.numpy(), axes.contiguous().numpy(), deviation.numpy())


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over vectors, float64. They subtract, so that ten folds cost little more than one.

    Attributes:
        count: Number of vectors.
        total: ``(D,)`` their sum.
        products: ``(D, D)`` sum of their outer products.
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Sum up ``(N, D)``."""
        data = torch.from_numpy(values.astype(np.float64))
        return cls(len(data), data.sum(0), data.T @ data)

    def __sub__(self, part: Moments) -> Moments:
        return Moments(
            self.count - part.count, self.total - part.total, self.products - part.products
        )

    def fit_pca(self, dims: int, seed: int = 0) -> Pca:
        """Fit what ``fit_pca`` fits on the vectors themselves."""
        mean = self.total / self.count
        covariance = (self.products - self.count * mean.outer(mean)) / max(1, self.count - 1)
        size = len(mean)
        rank = max(1, min(dims, self.count - 1, size))
        start = torch.randn(
            size, min(rank + _SPARE, size), generator=torch.Generator().manual_seed(seed)
        )
        basis, low = torch.linalg.qr(start).Q, covariance.float()
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(low @ basis).Q
        wide = torch.linalg.qr(basis.double()).Q
        variance, turn = torch.linalg.eigh(wide.T @ covariance @ wide)
        deviation = variance.flip(0)[:rank].clamp(min=0).sqrt()
        keep = max(1, int((deviation > 1e-5 * deviation[0]).sum()))
        axes = (wide @ turn.flip(1))[:, :keep].float()
        return Pca(
            mean.float().numpy(),
            axes.contiguous().numpy(),
            deviation[:keep].clamp(min=1e-12).float().numpy(),
        )
