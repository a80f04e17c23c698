"""How far the pictures of one set are from those of another: KID on any features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.bootstrap import REPEATS
from mien.nets.discrepancy import kernels, weighted


def kernel_distance(
    x: NDArray[Any],
    y: NDArray[Any],
    x_groups: NDArray[Any] | None = None,
    y_groups: NDArray[Any] | None = None,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
) -> tuple[float, tuple[float, float]]:
    """Return the squared maximum mean discrepancy, without bias, and its 95 % bootstrap interval.

    The kernel is that of ``mien.nets.discrepancy``. Equal distributions give 0 on average, and
    sometimes less.

    Args:
        x: ``(N, D)`` features.
        y: ``(M, D)`` features.
        x_groups: ``(N,)`` equal for pictures that are drawn together; each alone if not given.
        y_groups: ``(M,)`` alike.
        seed: Seed of the draws.
        repeats: Draws.

    Raises:
        ConfigError: A set of fewer than two pictures.
    """
    found = kernels(x, y)
    rng = np.random.default_rng(seed)
    value = weighted(found, np.ones((1, len(x))), np.ones((1, len(y))))[0]
    drawn = weighted(
        found, _counts(len(x), x_groups, rng, repeats), _counts(len(y), y_groups, rng, repeats)
    )
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(value), (float(low), float(high))


def _counts(
    size: int, groups: NDArray[Any] | None, rng: np.random.Generator, repeats: int
) -> NDArray[np.float64]:
    """Return ``(repeats, size)``: how often each picture is drawn."""
    names, place = np.unique(np.arange(size) if groups is None else groups, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names), share, repeats)[:, place].astype(np.float64)
