"""Principal components, fitted on the training pictures of a task only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
        return out / self.deviation if whiten else out


def fit_pca(values: NDArray[Any], dims: int, seed: int = 0) -> Pca:
    """Fit the first ``dims`` principal components of ``(N, D)`` by randomised subspace iteration.

    Fewer come back where N - 1 or D is smaller or where nothing varies any more.
    """
    data = torch.from_numpy(values.astype(np.float32))
    mean = data.mean(0)
    data -= mean
    rank = max(1, min(dims, data.shape[0] - 1, data.shape[1]))
    width = min(rank + 16, *data.shape)
    start = torch.randn(data.shape[1], width, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(start).Q
    for _ in range(6):
        basis = torch.linalg.qr(data.T @ (data @ basis)).Q
    _, sizes, right = torch.linalg.svd(data @ basis, full_matrices=False)
    keep = max(1, int((sizes[:rank] > 1e-5 * sizes[0]).sum()))
    axes = (basis @ right.T)[:, :keep]
    deviation = (sizes[:keep] / max(1, len(data) - 1) ** 0.5).clamp(min=1e-12)
    return Pca(mean.numpy(), axes.contiguous().numpy(), deviation.numpy())
