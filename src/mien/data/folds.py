"""Subject-independent folds: every person lies in exactly one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.files.errors import ConfigError, MissingExtraError, TableError, nearest

ORDERS = ("balanced", "sorted")


def person_folds(
    persons: NDArray[np.int64],
    folds: int = 10,
    seed: int = 0,
    *,
    labels: NDArray[Any] | None = None,
    order: str = "balanced",
) -> NDArray[np.int64]:
    """Part pictures into folds of whole persons.

    Args:
        persons: ``(N,)`` numbers of the persons, 0 or more (``FaceCache.person``, whose numbers
            follow the sorted names).
        folds: Number of folds, 2 or more.
        seed: Decides among equally good choices; ``sorted`` needs none.
        labels: ``(N,)`` classes, of which every fold shall hold its share.
        order: ``balanced``: folds of about as many pictures; ``sorted``: persons by number, every
            ``folds``-th one in the same fold (the habit for CK+).

    Returns:
        int64 ``(N,)``, the fold of each picture, 0 to ``folds - 1``; none is empty.

    Raises:
        ConfigError: Fewer than two folds, an unknown order, or labels with ``sorted``.
        TableError: A picture without a person, fewer persons than folds, or classes too rare.
        MissingExtraError: scikit-learn is not installed.
    """
    if folds < 2:
        raise ConfigError(f"folds must be 2 or more, not {folds}.")
    if order not in ORDERS:
        raise ConfigError(f"No order {order!r} of folds{nearest(order, ORDERS)}")
    if labels is not None and order == "sorted":
        raise ConfigError("Folds in sorted order have no regard to labels; leave one of them out.")
    unknown = int((persons < 0).sum())
    if unknown:
        raise TableError(
            f"{unknown} pictures have no person; folds of persons need a data set whose reader "
            "knows them, e.g. `mien prepare ckplus_peaks:DIR`."
        )
    names, number = np.unique(persons, return_inverse=True)
    if len(names) < folds:
        raise TableError(f"There are {len(names)} persons, too few for {folds} folds.")
    if order == "sorted":
        return np.asarray(number % folds, np.int64)
    # Ties go by the order of the groups; new numbers make that order the seed's.
    group = np.random.default_rng(seed).permutation(len(names))[number]
    out = np.full(len(persons), -1, np.int64)
    for fold, (_, rows) in enumerate(_split(group, labels, folds)):
        out[rows] = fold
    return out


def _split(
    group: NDArray[np.int64], labels: NDArray[Any] | None, folds: int
) -> Iterable[tuple[Any, Any]]:
    """Return scikit-learn's folds as pairs of rows to train and to test on."""
    try:
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    if labels is None:
        parts: Iterable[tuple[Any, Any]] = GroupKFold(folds).split(group, groups=group)
        return parts
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # a share may be nothing
        try:
            return list(StratifiedGroupKFold(folds).split(group, labels, group))
        except ValueError as error:
            raise TableError(f"The labels cannot be shared among {folds} folds: {error}") from None
