"""How well a factor is decoded from a code, by a linear and by a small non-linear probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mien.evaluate.bootstrap import Sums, interval
from mien.evaluate.leakage.factors import Factor
from mien.evaluate.pca import fit_pca
from mien.evaluate.probe import fit_probe, fit_ridge
from mien.evaluate.tables import Split
from mien.faces.face import Array
from mien.files.errors import MissingExtraError

DIMS = 512  # longer codes are projected on so many components, fitted on train
KERNEL = 500  # features of the non-linear probe

Memory = dict[bytes, tuple[list[Array], list[Array]]]


def decode_each(
    codes: Mapping[str, Array],
    factors: Sequence[Factor],
    splits: Mapping[str, Split],
    groups: NDArray[np.str_],
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Decode every factor from every code; return ``LeakageReport.cells``."""
    cells: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in codes}
    total = len(codes) * len(factors)
    with _one_thread(), tqdm(total=total, desc="probes", disable=not progress, leave=False) as bar:
        for name, code in codes.items():
            memory: Memory = {}
            for factor in factors:
                split = splits[factor.name]
                cells[name][factor.name] = decode(code, factor, split, groups, seed, memory)
                bar.update()
    return cells


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread.

    A probe is hundreds of small steps. With more threads every one of them waits for all threads,
    and where the machine has other work, that is most of the time: six times as long, measured
    beside two trainings on two cores.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def decode(
    code: Array,
    factor: Factor,
    split: Split,
    groups: NDArray[np.str_],
    seed: int = 0,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Decode a factor from a code ``(N, D)`` by both probes; the better one on validation counts.

    Args:
        code: All faces.
        factor: What is decoded.
        split: Rows to train on, to choose by and to measure on.
        groups: ``(N,)`` whom the bootstrap draws whole.
        seed: Seed of components, kernel and bootstrap.
        memory: Features of this code by split, so that factors of one split share them.

    Returns:
        See ``LeakageReport.cells``.
    """
    parts, curved = _features(code, split, seed, {} if memory is None else memory)
    labels = [factor.values[rows] for rows in (split.train, split.val, split.test)]
    tried = {}
    for name, features in (("linear", parts), ("nonlinear", curved)):
        guess = _guess(features, labels, factor)
        validation = _score(_sums(factor, labels[1], guess[0]).sum(0), factor)
        tried[name] = (float(validation), guess[1])
    best = max(tried, key=lambda name: tried[name][0])
    # Everybody is in the test part of identity: there the pictures are drawn.
    own = split.test.astype(np.str_) if factor.name == "identity" else groups[split.test]
    sums = {name: _sums(factor, labels[2], guess) for name, (_, guess) in tried.items()}
    total = sums[best].sum(0)
    chance = 1 / _present(total) if factor.kind == "class" else 0.0
    score = float(_score(total, factor))
    return {
        "score": score,
        "interval": list(interval(sums[best], own, lambda s: _score(s, factor), seed)),
        "probe": best,
        "value": score * (1 - chance) + chance,
        "chance": float(chance),
        "measure": "balanced accuracy" if factor.kind == "class" else "R²",
        **{name: float(_score(s.sum(0), factor)) for name, s in sums.items()},
    }


def _features(
    code: Array, split: Split, seed: int, memory: Memory
) -> tuple[list[Array], list[Array]]:
    """Return the features of the linear and of the non-linear probe, of train, val and test."""
    rows = (split.train, split.val, split.test)
    key = b"/".join(part.tobytes() for part in rows)
    if key not in memory:
        parts = [code[part] for part in rows]
        if code.shape[1] > DIMS:
            project = fit_pca(parts[0], DIMS, seed)
            parts = [project(part) for part in parts]
        memory[key] = parts, _kernel(parts, seed)
    return memory[key]


def _kernel(parts: Sequence[Array], seed: int) -> list[Array]:
    """Return kernel features (Nyström, radial basis, width by the median distance)."""
    try:
        from sklearn.kernel_approximation import Nystroem
        from sklearn.metrics import pairwise_distances
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    scaler = StandardScaler().fit(parts[0])
    scaled = [scaler.transform(part) for part in parts]
    few = scaled[0][np.random.default_rng(seed).permutation(len(scaled[0]))[:500]]
    distance = pairwise_distances(few, metric="sqeuclidean")
    median = float(np.median(distance[np.triu_indices(len(few), 1)])) if len(few) > 1 else 1.0
    count = min(KERNEL, len(scaled[0]))
    model = Nystroem(gamma=1 / max(median, 1e-6), n_components=count, random_state=seed)
    model.fit(scaled[0])
    return [np.asarray(model.transform(part), np.float32) for part in scaled]


def _guess(
    parts: Sequence[Array], labels: Sequence[NDArray[Any]], factor: Factor
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what a probe says of validation and of test."""
    if factor.kind == "number":
        targets = [part[:, None] for part in labels]
        ridge = fit_ridge(parts[0], targets[0], parts[1], targets[1])
        return ridge.outputs(parts[1])[:, 0], ridge.outputs(parts[2])[:, 0]
    count = len(factor.classes)
    probe = fit_probe(parts[0], labels[0], parts[1], labels[1], classes=count, progress=False)
    # Balanced accuracy is measured: a class may not win by being frequent.
    prior = np.log(np.bincount(labels[0], minlength=count) + 1.0)
    val, test = ((probe.outputs(part) - prior).argmax(1) for part in parts[1:])
    return val, test


def _sums(factor: Factor, truth: NDArray[Any], guess: NDArray[Any]) -> Sums:
    if factor.kind == "class":
        onehot = np.eye(len(factor.classes))[truth]
        return np.concatenate([onehot * (guess == truth)[:, None], onehot], 1)
    t = truth.astype(np.float64)
    return np.stack([(guess - t) ** 2, t, t**2, np.ones_like(t)], 1)


def _score(sums: Sums, factor: Factor) -> NDArray[Any]:
    """Return the score in [0, 1]: balanced accuracy above chance, or R²."""
    if factor.kind == "number":
        square, total, squares, count = (sums[..., i] for i in range(4))
        spread = squares - total**2 / np.maximum(count, 1)
        return np.asarray(np.clip(1 - square / np.maximum(spread, 1e-12), 0, 1))
    right, count = np.split(sums, 2, -1)
    present = _present(sums)
    accuracy = (right / np.maximum(count, 1)).sum(-1) / present
    return np.asarray(np.clip((accuracy - 1 / present) / np.maximum(1 - 1 / present, 1e-12), 0, 1))


def _present(sums: Sums) -> NDArray[Any]:
    """Return the number of classes that the test faces show, 1 at least."""
    return np.asarray(np.maximum((np.split(sums, 2, -1)[1] > 0).sum(-1), 1))
