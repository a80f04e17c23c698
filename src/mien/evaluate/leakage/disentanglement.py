"""Disentanglement, completeness and informativeness (DCI).

Eastwood and Williams, *A framework for the quantitative evaluation of disentangled
representations*, ICLR 2018: of the dimensions, by the weights of a lasso, and of whole codes, by
their scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.leakage.codes import ALL
from mien.evaluate.leakage.factors import Factor
from mien.evaluate.tables import Rows, Split
from mien.faces.face import Array

DCI_ROWS = 2000  # that the lasso sees
DCI_CLASSES = 20  # persons, for the lasso


def measure_dci(
    joined: Array,
    factors: Sequence[Factor],
    splits: Mapping[str, Split],
    cells: Mapping[str, Mapping[str, Mapping[str, Any]]],
    codes: Sequence[str],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return ``LeakageReport.dci``: of the dimensions and, if there are several, of the codes.

    Args:
        joined: All codes side by side, ``(N, D)``.
        factors: Those that were decoded; one alone has nothing to be told from.
        splits: Factor → rows.
        cells: ``LeakageReport.cells``.
        codes: The rows of ``cells`` that ``joined`` is made of.
        seed: Seed of the choice of rows.
    """
    if len(factors) < 2:
        return {}
    names = [f.name for f in factors]
    whole = ALL if len(codes) > 1 else codes[0]
    informative = np.array([cells[whole][n]["score"] for n in names])
    importance = [lasso_importance(joined, f, splits[f.name], seed) for f in factors]
    found = {"dimensions": _entry(np.stack(importance, axis=1), informative, [], names)}
    if len(codes) > 1:
        scores = np.array([[cells[c][n]["score"] for n in names] for c in codes])
        found["codes"] = _entry(scores, informative, codes, names)
    return found


def lasso_importance(code: Array, factor: Factor, split: Split, seed: int = 0) -> Array:
    """Return how much each dimension ``(D,)`` of a code tells of a factor.

    The norm of the dimension's weights in a lasso (a multi-task lasso on the classes), its strength
    chosen on validation; zero where the factor cannot be decoded.
    """
    from sklearn.linear_model import MultiTaskLasso

    rng = np.random.default_rng(seed)
    train, val = (rng.permutation(rows)[:DCI_ROWS] for rows in (split.train, split.val))
    if factor.kind == "class" and len(factor.classes) > DCI_CLASSES:
        train, val = (rows[factor.values[rows] < DCI_CLASSES] for rows in (train, val))
    mean, scale = code[train].mean(0), code[train].std(0)
    x, z = ((code[rows] - mean) / np.maximum(scale, 1e-6) for rows in (train, val))
    y, true = _targets(factor, train), _targets(factor, val)
    centre, size = y.mean(0), np.maximum(y.std(0), 1e-6)
    y, true = (y - centre) / size, (true - centre) / size
    largest = float(np.linalg.norm(x.T @ y, axis=1).max()) / len(x)
    best, importance = 0.0, np.zeros(code.shape[1], np.float32)
    model = MultiTaskLasso(warm_start=True, max_iter=300, tol=1e-3)
    for share in (0.3, 0.1, 0.03, 0.01):
        model.set_params(alpha=max(share * largest, 1e-9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged to the last digit: good enough here
            model.fit(x, y)
        error = ((model.predict(z) - true) ** 2).sum()
        told = 1 - error / max(float((true**2).sum()), 1e-12)
        if told > best + 1e-3:
            best = told
            importance = np.linalg.norm(model.coef_, axis=0).astype(np.float32)
    return importance


def _targets(factor: Factor, rows: Rows) -> NDArray[np.float64]:
    values = factor.values[rows]
    if factor.kind == "number":
        return values.astype(np.float64)[:, None]
    return np.asarray(np.eye(min(len(factor.classes), DCI_CLASSES))[values])


def dci(importance: NDArray[Any]) -> dict[str, Any]:
    """Return disentanglement and completeness of a matrix of importances.

    Args:
        importance: ``(D, K)`` of dimensions (or codes) for factors, at least 0.

    Returns:
        ``disentanglement`` (whether a dimension tells of one factor only) and ``completeness``
        (whether a factor is told by one dimension only), 0 to 1, weighted by importance; and
        ``by_row`` ``(D,)`` and ``by_factor`` ``(K,)``, NaN where nothing is told.
    """
    r = np.asarray(importance, np.float64)
    total = r.sum()
    rows, columns = _concentration(r), _concentration(r.T)
    if total <= 0:
        return {"disentanglement": 0.0, "completeness": 0.0, "by_row": rows, "by_factor": columns}
    return {
        "disentanglement": float(np.nansum(rows * r.sum(1) / total)),
        "completeness": float(np.nansum(columns * r.sum(0) / total)),
        "by_row": rows,
        "by_factor": columns,
    }


def _concentration(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 minus the entropy of each row, in units of the largest possible one."""
    total = r.sum(1, keepdims=True)
    p = r / np.where(total > 0, total, 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    out = 1 - entropy / np.log(max(r.shape[1], 2))
    return np.where(total[:, 0] > 0, out, np.nan)


def _entry(
    importance: NDArray[Any],
    informative: NDArray[Any],
    rows: Sequence[str],
    factors: Sequence[str],
) -> dict[str, Any]:
    found = dci(importance)
    entry = {
        "disentanglement": found["disentanglement"],
        "completeness": found["completeness"],
        "informativeness": float(informative.mean()),
        "by_factor": dict(zip(factors, _plain(found["by_factor"]), strict=True)),
    }
    if rows:
        entry["by_code"] = dict(zip(rows, _plain(found["by_row"]), strict=True))
    return entry


def _plain(values: NDArray[Any]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
