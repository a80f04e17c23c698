"""Linear probes on frozen features, to the optimum.

Classes: multinomial logistic regression; labels that do not exclude each other (action units): a
logistic regression each; numbers (angles): ridge regression in closed form. The L2 strength of each
is the one that does best on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

Labels = NDArray[np.int64]

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
RIDGE_STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)
_PATIENCE = 2  # weaker strengths tried after validation accuracy has stopped rising


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        weights: ``(D, C)`` for standardised features.
        bias: ``(C,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviation of the training features.
        strength: Chosen L2 strength λ of mean cross-entropy + λ/2 ‖W‖².
        tried: λ → validation accuracy of every strength that was fitted.
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    strength: float
    tried: dict[float, float]

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``(N, C)`` for ``(N, D)`` features."""
        values = _standardise(features, self.mean, self.scale)
        return np.asarray((values @ self.weights + self.bias).numpy(), np.float32)

    def predict(self, features: NDArray[Any]) -> Labels:
        """Return ``(N,)`` class numbers."""
        return np.asarray(self.logits(features).argmax(1), np.int64)


def fit_probe(
    features: NDArray[Any],
    labels: Labels,
    val_features: NDArray[Any],
    val_labels: Labels,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    max_steps: int = 100,
    tolerance: float = 1e-4,
    progress: bool = True,
) -> Probe:
    """Fit probes from strong to weak L2, each from the one before; keep the best on validation.

    The path ends when two strengths in a row do not raise validation accuracy. Deterministic.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` in [0, classes).
        val_features: ``(M, D)``.
        val_labels: ``(M,)``.
        classes: Number of classes C.
        strengths: L2 strengths to try.
        max_steps: L-BFGS steps for each strength.
        tolerance: Largest gradient entry at which a fit counts as converged.
        progress: Show a progress bar.
    """
    scale, mean = _moments(features)
    x = _standardise(features, mean, scale)
    y = torch.from_numpy(labels)
    z = _standardise(val_features, mean, scale)
    target = torch.from_numpy(val_labels)
    onehot = torch.nn.functional.one_hot(y, classes).double()
    solution = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64)
    tried: dict[float, float] = {}
    best, chosen, chosen_strength, worse = -1.0, solution, strengths[0], 0
    path = tqdm(sorted(strengths, reverse=True), desc="probe", disable=not progress, leave=False)
    for strength in path:
        solution = _solve(x, onehot, strength, solution, max_steps, tolerance, "softmax")
        w = solution.float()
        accuracy = float((torch.addmm(w[-1], z, w[:-1]).argmax(1) == target).double().mean())
        tried[strength] = accuracy
        if accuracy > best:
            best, chosen, chosen_strength, worse = accuracy, solution, strength, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    final = chosen.float()
    return Probe(final[:-1], final[-1], mean, scale, chosen_strength, tried)


@dataclass(frozen=True, eq=False)
class LabelProbe:
    """Logistic regressions, one a label.

    Attributes:
        weights: ``(D, L)`` for standardised features.
        bias: ``(L,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviation of the training features.
        thresholds: ``(L,)`` logits above which a label counts as present (best F1 on
            validation).
        strength: Chosen L2 strength.
        tried: Strength → mean average precision on validation.
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    thresholds: NDArray[np.float32]
    strength: float
    tried: dict[float, float]

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``(N, L)`` for ``(N, D)`` features."""
        values = _standardise(features, self.mean, self.scale)
        return np.asarray((values @ self.weights + self.bias).numpy(), np.float32)


def fit_labels(
    features: NDArray[Any],
    labels: NDArray[Any],
    val_features: NDArray[Any],
    val_labels: NDArray[Any],
    *,
    strengths: Sequence[float] = STRENGTHS,
    max_steps: int = 100,
    tolerance: float = 1e-4,
) -> LabelProbe:
    """Fit a logistic regression a label, all at once.

    Args:
        features: ``(N, D)``.
        labels: ``(N, L)`` of 0, 1 and NaN where unknown.
        val_features: ``(M, D)``.
        val_labels: ``(M, L)``.
        strengths: L2 strengths to try; the path ends as in ``fit_probe``.
        max_steps: L-BFGS steps for each strength.
        tolerance: Largest gradient entry at which a fit counts as converged.
    """
    scale, mean = _moments(features)
    x, z = _standardise(features, mean, scale), _standardise(val_features, mean, scale)
    y = torch.from_numpy(labels.astype(np.float64))
    solution = torch.zeros(x.shape[1] + 1, y.shape[1], dtype=torch.float64)
    tried: dict[float, float] = {}
    best, chosen, chosen_strength, worse = -1.0, solution, strengths[0], 0
    for strength in sorted(strengths, reverse=True):
        solution = _solve(x, y, strength, solution, max_steps, tolerance, "logistic")
        w = solution.float()
        precision = _mean_precision(val_labels, torch.addmm(w[-1], z, w[:-1]).numpy())
        tried[strength] = precision
        if precision > best:
            best, chosen, chosen_strength, worse = precision, solution, strength, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    final = chosen.float()
    logits = torch.addmm(final[-1], z, final[:-1]).numpy()
    thresholds = [best_f1(logits[:, k], val_labels[:, k])[0] for k in range(y.shape[1])]
    return LabelProbe(
        final[:-1], final[-1], mean, scale, np.array(thresholds, np.float32), chosen_strength, tried
    )


def best_f1(scores: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """Return the threshold with the best F1 of ``score > threshold``, and that F1.

    NaN labels do not count; without a positive label nothing is called present.
    """
    known = ~np.isnan(labels)
    scores, truth = scores[known], labels[known] > 0.5
    if not truth.any():
        return float("inf"), 0.0
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    possible = np.append(ordered[:-1] > ordered[1:], True)  # equal scores cannot be parted
    place = int(np.argmax(np.where(possible, f1, -1)))
    below = ordered[place + 1] if place + 1 < len(ordered) else ordered[place] - 1
    return float((ordered[place] + below) / 2), float(f1[place])


def _mean_precision(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    from sklearn.metrics import average_precision_score

    values = []
    for k in range(labels.shape[1]):
        known = ~np.isnan(labels[:, k])
        truth = labels[known, k] > 0.5
        if truth.any():
            values.append(average_precision_score(truth, scores[known, k]))
    return float(np.mean(values)) if values else 0.0


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        weights: ``(D, T)`` for standardised features.
        bias: ``(T,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviation of the training features.
        strength: Chosen λ of mean squared error + λ ‖W‖².
        tried: λ → mean R² of the targets on validation.
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    strength: float
    tried: dict[float, float]

    def predict(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``(N, T)`` for ``(N, D)`` features."""
        values = _standardise(features, self.mean, self.scale)
        return np.asarray((values @ self.weights + self.bias).numpy(), np.float32)


def fit_ridge(
    features: NDArray[Any],
    targets: NDArray[Any],
    val_features: NDArray[Any],
    val_targets: NDArray[Any],
    *,
    strengths: Sequence[float] = RIDGE_STRENGTHS,
) -> Ridge:
    """Fit ridge regressions of all strengths from one eigendecomposition; keep the best.

    Args:
        features: ``(N, D)``.
        targets: ``(N, T)``.
        val_features: ``(M, D)``.
        val_targets: ``(M, T)``.
        strengths: L2 strengths to try.
    """
    scale, mean = _moments(features)
    x, z = _standardise(features, mean, scale), _standardise(val_features, mean, scale)
    y = torch.from_numpy(targets.astype(np.float64))
    bias = y.mean(0)
    count, dims = x.shape
    primal = dims <= count
    gram = ((x.T @ x) if primal else (x @ x.T)).double() / count
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    right = vectors.T @ ((x.T @ (y - bias).float()).double() / count if primal else y - bias)
    true = torch.from_numpy(val_targets.astype(np.float64))
    spread = (true - true.mean(0)).square().sum(0).clamp(min=1e-12)
    tried: dict[float, float] = {}
    best: tuple[float, float, Tensor] = (-float("inf"), strengths[0], torch.zeros(dims, 1))
    for strength in sorted(strengths, reverse=True):
        inner = vectors @ (right / (values + strength)[:, None])
        weights = (inner if primal else (x.T @ inner.float()).double() / count).float()
        error = (z @ weights + bias.float() - true).square().sum(0)
        tried[strength] = float((1 - error / spread).mean())
        if tried[strength] > best[0]:
            best = (tried[strength], strength, weights)
    return Ridge(best[2], bias.float(), mean, scale, best[1], tried)


def _solve(
    x: Tensor,
    y: Tensor,
    strength: float,
    start: Tensor,
    max_steps: int,
    tolerance: float,
    link: Literal["softmax", "logistic"],
) -> Tensor:
    """Minimise mean cross-entropy + strength/2 ‖W‖² over ``(D + 1, C)``; last row is the bias.

    ``y`` is float64 ``(N, C)``: one-hot for ``softmax``, any of 0, 1, NaN (unknown) for
    ``logistic``, where the mean is each column's own. The matrix products run in float32; the sums
    in float64, or the line search sees noise.
    """
    solution = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [solution],
        max_iter=max_steps,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    known = (~y.isnan()).double()
    y = y.nan_to_num()
    share = known / known.sum(0).clamp(min=1)

    @torch.no_grad()
    def closure() -> Tensor:
        w = solution.float()
        logits = torch.addmm(w[-1], x, w[:-1]).double()
        if link == "softmax":
            log_p = logits.log_softmax(1)
            residual = (log_p.exp() - y) / len(x)
            loss = -(log_p * y).sum() / len(x)
        else:
            residual = (logits.sigmoid() - y) * share
            loss = ((torch.nn.functional.softplus(logits) - y * logits) * share).sum()
        grad = torch.empty_like(solution)
        grad[:-1] = (x.T @ residual.float()).double() + strength * solution[:-1]
        grad[-1] = residual.sum(0)
        solution.grad = grad
        return loss + strength / 2 * solution[:-1].square().sum()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return solution.detach()


def _moments(features: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return the standard deviation (1 where nothing varies) and mean over rows, by blocks."""
    total = np.zeros(features.shape[1])
    square = np.zeros(features.shape[1])
    shift = features[0].astype(np.float64)
    for start in range(0, len(features), 1024):
        block = features[start : start + 1024] - shift
        total += block.sum(0)
        square += (block * block).sum(0)
    offset = total / len(features)
    deviation = np.sqrt(np.maximum(square / len(features) - offset**2, 0))
    deviation[deviation < 1e-6 * max(1e-6, float(deviation.max()))] = 1
    return torch.from_numpy(deviation).float(), torch.from_numpy(offset + shift).float()


def _standardise(features: NDArray[Any], mean: Tensor, scale: Tensor) -> Tensor:
    values = torch.from_numpy(features.astype(np.float32))
    return values.sub_(mean).div_(scale)


def confusion(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Return counts ``(C, C)``; rows are true classes."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def bootstrap_interval(
    correct: NDArray[np.bool_], seed: int = 0, repeats: int = 10_000
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of an accuracy.

    Resampling N outcomes with replacement is a binomial draw, so no outcome is moved.
    """
    draws = np.random.default_rng(seed).binomial(len(correct), correct.mean(), repeats)
    low, high = np.quantile(draws / len(correct), (0.025, 0.975))
    return float(low), float(high)
