"""Linear probes on frozen features, to the optimum.

Classes: multinomial logistic regression; labels that do not exclude each other (action units): a
logistic regression each; numbers (angles): ridge regression in closed form. The L2 strength of each
is the one that does best on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_CURVATURE = 0.15  # of cross-entropy over a logit, p (1 - p), on average
_RANK = 1e-6  # of the largest variance: less is rounding
_PATIENCE = 2  # weaker strengths tried after validation accuracy has stopped rising


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear map of standardised features.

    Attributes:
        weights: ``(D, C)`` for standardised features.
        bias: ``(C,)``.
        mean: ``(D,)`` of the training features.
        scale: ``(D,)`` standard deviation of the training features.
        strength: Chosen L2 strength.
        tried: Strength → what it reached on validation, of every one that was fitted.
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    strength: float
    tried: dict[float, float]

    def outputs(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``(N, C)`` for ``(N, D)`` features: logits, or the numbers of a regression."""
        values = _standardise(features, self.mean, self.scale)
        return np.asarray((values @ self.weights + self.bias).numpy(), np.float32)

    def classes(self, features: NDArray[Any]) -> Labels:
        """Return the class numbers ``(N,)`` with the largest outputs."""
        return np.asarray(self.outputs(features).argmax(1), np.int64)


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
    """Fit multinomial logistic regressions; keep the most accurate on validation.

    The objective of strength λ is mean cross-entropy + λ/2 ‖W‖². Deterministic.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` in [0, classes).
        val_features: ``(M, D)``.
        val_labels: ``(M,)``.
        classes: Number of classes C.
        strengths: L2 strengths to try, see ``_fit_path``.
        max_steps: L-BFGS steps for each strength.
        tolerance: Largest gradient entry at which a fit counts as converged.
        progress: Show a progress bar.
    """
    onehot = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).double()
    target = torch.from_numpy(val_labels)
    return _fit_path(
        features,
        onehot,
        val_features,
        lambda logits: float((logits.argmax(1) == target).double().mean()),
        "softmax",
        strengths,
        _Stop(max_steps, tolerance),
        progress,
    )


@dataclass(frozen=True, eq=False)
class LabelProbe(Probe):
    """Logistic regressions, one a label.

    Attributes:
        thresholds: ``(C,)`` logits above which a label counts as present (best F1 on validation).
    """

    thresholds: NDArray[np.float32]


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
    """Fit a logistic regression a label, all at once; keep the best mean average precision.

    Args:
        features: ``(N, D)``.
        labels: ``(N, L)`` of 0, 1 and NaN where unknown.
        val_features: ``(M, D)``.
        val_labels: ``(M, L)``.
        strengths: L2 strengths to try, see ``_fit_path``.
        max_steps: L-BFGS steps for each strength.
        tolerance: Largest gradient entry at which a fit counts as converged.
    """
    probe = _fit_path(
        features,
        torch.from_numpy(labels.astype(np.float64)),
        val_features,
        lambda logits: _mean_precision(val_labels, logits.numpy()),
        "logistic",
        strengths,
        _Stop(max_steps, tolerance),
        False,
    )
    logits = probe.outputs(val_features)
    thresholds = [best_f1(logits[:, k], val_labels[:, k])[0] for k in range(logits.shape[1])]
    return LabelProbe(**vars(probe), thresholds=np.array(thresholds, np.float32))


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


def fit_ridge(
    features: NDArray[Any],
    targets: NDArray[Any],
    val_features: NDArray[Any],
    val_targets: NDArray[Any],
    *,
    strengths: Sequence[float] = RIDGE_STRENGTHS,
) -> Probe:
    """Fit ridge regressions of all strengths in closed form; keep the best mean R².

    The objective of strength λ is mean squared error + λ ‖W‖².

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
    axes, variance = _principal(x)
    right = axes.T @ ((x.T @ (y - bias).float()).double() / len(x))
    true = torch.from_numpy(val_targets.astype(np.float64))
    spread = (true - true.mean(0)).square().sum(0).clamp(min=1e-12)
    tried: dict[float, float] = {}
    best: tuple[float, float, Tensor] = (-float("inf"), strengths[0], torch.zeros(x.shape[1], 1))
    for strength in sorted(strengths, reverse=True):
        weights = (axes @ (right / (variance + strength)[:, None])).float()
        error = (z @ weights + bias.float() - true).square().sum(0)
        tried[strength] = float((1 - error / spread).mean())
        if tried[strength] > best[0]:
            best = (tried[strength], strength, weights)
    return Probe(best[2], bias.float(), mean, scale, best[1], tried)


@dataclass(frozen=True)
class _Stop:
    """When L-BFGS ends."""

    max_steps: int
    tolerance: float


def _fit_path(
    features: NDArray[Any],
    targets: Tensor,
    val_features: NDArray[Any],
    score: Callable[[Tensor], float],
    link: Literal["softmax", "logistic"],
    strengths: Sequence[float],
    stop: _Stop,
    progress: bool,
) -> Probe:
    """Fit from strong to weak L2, each from the one before; keep the best ``score``.

    The path ends when two strengths in a row do not raise the score on validation. ``score`` takes
    the logits ``(M, C)`` of the validation features.
    """
    scale, mean = _moments(features)
    x, z = _standardise(features, mean, scale), _standardise(val_features, mean, scale)
    axes, variance = _principal(x)
    axes = axes.float()
    x = x @ axes
    solution = torch.zeros(x.shape[1] + 1, targets.shape[1], dtype=torch.float64)
    tried: dict[float, float] = {}
    best, chosen_strength, worse = -1.0, strengths[0], 0
    chosen = (solution[:-1].float(), solution[-1].float())
    path = tqdm(sorted(strengths, reverse=True), desc="probe", disable=not progress, leave=False)
    for strength in path:
        solution = _solve(x, variance, targets, strength, solution, stop, link)
        weights, bias = axes @ solution[:-1].float(), solution[-1].float()
        tried[strength] = score(torch.addmm(bias, z, weights))
        if tried[strength] > best:
            best, chosen, chosen_strength, worse = tried[strength], (weights, bias), strength, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    return Probe(*chosen, mean, scale, chosen_strength, tried)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal axes ``(D, K)`` of ``x`` ``(N, D)`` and its mean square along each.

    K is at most the smaller of N and D: no solution with an L2 penalty leaves the span of the rows.
    """
    count, dims = x.shape
    if dims <= count:
        variance, axes = torch.linalg.eigh((x.T @ x).double() / count)
        return axes, variance.clamp(min=0)
    variance, left = torch.linalg.eigh((x @ x.T).double() / count)
    kept = variance > _RANK * variance[-1]
    variance, left = variance[kept], left[:, kept]
    return (x.T @ left.float()).double() / (count * variance).sqrt(), variance


def _solve(
    x: Tensor,
    variance: Tensor,
    y: Tensor,
    strength: float,
    start: Tensor,
    stop: _Stop,
    link: Literal["softmax", "logistic"],
) -> Tensor:
    """Minimise mean cross-entropy + strength/2 ‖W‖² over ``(K + 1, C)``; last row is the bias.

    ``x`` ``(N, K)`` lies along its principal axes, so that dividing every weight by the root of its
    curvature, about ``_CURVATURE`` · variance + strength, makes all directions equally steep:
    L-BFGS then needs a few steps, not hundreds. ``y`` is float64 ``(N, C)``: one-hot for
    ``softmax``, any of 0, 1, NaN (unknown) for ``logistic``, where the mean is each column's own.
    The matrix products run in float32; the sums in float64, or the line search sees noise.
    """
    curvature = torch.cat([_CURVATURE * variance + strength, variance.new_tensor([_CURVATURE])])
    unit = curvature.rsqrt()[:, None]
    solution = (start / unit).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [solution],
        max_iter=stop.max_steps,
        tolerance_grad=stop.tolerance,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    known = (~y.isnan()).double()
    y = y.nan_to_num()
    share = known / known.sum(0).clamp(min=1)

    @torch.no_grad()
    def closure() -> Tensor:
        exact = solution * unit
        w = exact.float()
        logits = torch.addmm(w[-1], x, w[:-1]).double()
        if link == "softmax":
            log_p = logits.log_softmax(1)
            residual = (log_p.exp() - y) / len(x)
            loss = -(log_p * y).sum() / len(x)
        else:
            residual = (logits.sigmoid() - y) * share
            loss = ((torch.nn.functional.softplus(logits) - y * logits) * share).sum()
        grad = torch.empty_like(exact)
        grad[:-1] = (x.T @ residual.float()).double() + strength * exact[:-1]
        grad[-1] = residual.sum(0)
        solution.grad = grad * unit
        return loss + strength / 2 * exact[:-1].square().sum()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return solution.detach() * unit


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
