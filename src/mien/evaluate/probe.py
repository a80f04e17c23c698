"""Linear probe: multinomial logistic regression on frozen features, to the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

Labels = NDArray[np.int64]

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
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
    solution = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64)
    tried: dict[float, float] = {}
    best, chosen, chosen_strength, worse = -1.0, solution, strengths[0], 0
    path = tqdm(sorted(strengths, reverse=True), desc="probe", disable=not progress, leave=False)
    for strength in path:
        solution = _solve(x, y, strength, solution, max_steps, tolerance)
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


def _solve(
    x: Tensor, y: Tensor, strength: float, start: Tensor, max_steps: int, tolerance: float
) -> Tensor:
    """Minimise mean cross-entropy + strength/2 ‖W‖² over ``(D + 1, C)``; last row is the bias.

    The matrix products run in float32; the sums in float64, or the line search sees noise.
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
    onehot = torch.nn.functional.one_hot(y, start.shape[1]).double()

    @torch.no_grad()
    def closure() -> Tensor:
        w = solution.float()
        log_p = torch.addmm(w[-1], x, w[:-1]).double().log_softmax(1)
        residual = (log_p.exp() - onehot) / len(x)
        grad = torch.empty_like(solution)
        grad[:-1] = (x.T @ residual.float()).double() + strength * solution[:-1]
        grad[-1] = residual.sum(0)
        solution.grad = grad
        loss = -(log_p * onehot).sum() / len(x)
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
