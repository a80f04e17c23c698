"""How far the pictures of one set are from those of another: KID on any features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.bootstrap import REPEATS
from mien.files.errors import ConfigError


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

    The kernel is (x·y / D + 1)³ (Binkowski et al., ICLR 2018), on features divided by one number
    so that those of ``y`` have a mean square of 1. Equal distributions give 0 on average, and
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
    if min(len(x), len(y)) < 2:
        raise ConfigError("A kernel distance needs two sets of at least two pictures each.")
    a, b = x.astype(np.float64), y.astype(np.float64)
    scale = np.sqrt(np.square(b).mean())
    a, b = a / max(scale, 1e-12), b / max(scale, 1e-12)
    kernels = [(p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b))]
    rng = np.random.default_rng(seed)
    value = _discrepancy(kernels, np.ones((1, len(a))), np.ones((1, len(b))))[0]
    drawn = _discrepancy(
        kernels, _counts(len(a), x_groups, rng, repeats), _counts(len(b), y_groups, rng, repeats)
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


def _discrepancy(
    kernels: list[NDArray[np.float64]], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ``(R,)`` for counts ``(R, N)`` and ``(R, M)``; a picture never meets itself."""
    kxx, kyy, kxy = kernels

    def within(kernel: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
        total = ((w @ kernel) * w).sum(1) - np.square(w) @ kernel.diagonal()
        met = np.square(w.sum(1)) - np.square(w).sum(1)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / met)

    across = ((a @ kxy) * b).sum(1) / (a.sum(1) * b.sum(1))
    return np.asarray(within(kxx, a) + within(kyy, b) - 2 * across)
