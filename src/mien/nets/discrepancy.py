"""The squared maximum mean discrepancy of two sets of features: the number behind KID.

The kernel is (x·y / D + 1)³ (Binkowski et al., ICLR 2018), on features divided by one number so
that those of the second set have a mean square of 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.files.errors import ConfigError

Counts = NDArray[np.float64]


def kernels(x: NDArray[Any], y: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Return the kernel of x with x, of y with y and of x with y.

    Args:
        x: ``(N, D)`` features.
        y: ``(M, D)`` features.

    Raises:
        ConfigError: A set of fewer than two pictures.
    """
    if min(len(x), len(y)) < 2:
        raise ConfigError("A kernel distance needs two sets of at least two pictures each.")
    a, b = x.astype(np.float64), y.astype(np.float64)
    scale = np.sqrt(np.square(b).mean())
    a, b = a / max(scale, 1e-12), b / max(scale, 1e-12)
    return [(p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b))]


def weighted(found: list[NDArray[np.float64]], a: Counts, b: Counts) -> NDArray[np.float64]:
    """Return ``(R,)`` for counts ``(R, N)`` and ``(R, M)``; a picture never meets itself."""
    kxx, kyy, kxy = found

    def within(kernel: NDArray[np.float64], w: Counts) -> NDArray[np.float64]:
        total = ((w @ kernel) * w).sum(1) - np.square(w) @ kernel.diagonal()
        met = np.square(w.sum(1)) - np.square(w).sum(1)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / met)

    across = ((a @ kxy) * b).sum(1) / (a.sum(1) * b.sum(1))
    return np.asarray(within(kxx, a) + within(kyy, b) - 2 * across)


def discrepancy(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the discrepancy without bias: equal distributions give 0 on average, sometimes less.

    Args:
        x: ``(N, D)`` features, N at least 2.
        y: ``(M, D)`` features, M at least 2.

    Raises:
        ConfigError: A set of fewer than two pictures.
    """
    return float(weighted(kernels(x, y), np.ones((1, len(x))), np.ones((1, len(y))))[0])
