"""Bootstrap intervals of anything that follows from sums, whole persons at a time.

Pictures of one person are alike, so resampling pictures would give intervals that are too narrow:
the groups (persons, clips, or pictures where neither is known) are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATS = 2000
_AT_ONCE = 200  # draws whose counts are in memory together

Sums = NDArray[np.float64]
Statistic = Callable[[Sums], NDArray[Any]]


def bootstrap(
    sums: NDArray[Any],
    groups: NDArray[Any],
    statistic: Statistic,
    seed: int = 0,
    repeats: int = REPEATS,
) -> NDArray[np.float64]:
    """Return the 95 % interval of ``statistic(sums over all rows)``.

    Args:
        sums: ``(N, K)`` what each row adds.
        groups: ``(N,)`` equal for rows that are drawn together.
        statistic: ``(..., K)`` sums → ``(..., M)`` values.
        seed: Seed of the draws.
        repeats: Draws.

    Returns:
        ``(2, M)`` lower and upper ends; draws that give NaN (no row of a class) do not count.
    """
    names, place = np.unique(groups, return_inverse=True)
    totals = np.zeros((len(names), sums.shape[1]))
    np.add.at(totals, place, sums)
    rng = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    values = []
    for start in range(0, repeats, _AT_ONCE):
        counts = rng.multinomial(len(names), share, min(_AT_ONCE, repeats - start))
        values.append(statistic(counts @ totals))
    with np.errstate(all="ignore"):
        drawn = np.concatenate(values)
        everywhere_nan = np.isnan(drawn).all(0)
        drawn[:, everywhere_nan] = 0
        out = np.nanquantile(drawn, (0.025, 0.975), axis=0)
    out[:, everywhere_nan] = np.nan
    return np.asarray(out, np.float64)


def interval(
    sums: NDArray[Any],
    groups: NDArray[Any],
    statistic: Statistic,
    seed: int = 0,
) -> tuple[float, float]:
    """Return ``bootstrap`` of a statistic ``(..., K)`` → ``(...)``."""
    ends = bootstrap(sums, groups, lambda s: statistic(s)[..., None], seed)
    return float(ends[0, 0]), float(ends[1, 0])


def mean_of(sums: Sums) -> NDArray[Any]:
    """Return the first sum over the last, e.g. of correct answers and ones."""
    return np.asarray(sums[..., 0] / sums[..., -1])
