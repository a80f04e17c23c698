from __future__ import annotations

import numpy as np
import pytest

from mien.evaluate.probe import bootstrap_interval, confusion, fit_probe


def _clouds(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    centres = np.random.default_rng(9).normal(size=(4, 12))
    values = centres[labels] + rng.normal(size=(n, 12)) * 1.5
    return values * np.linspace(0.01, 30, 12) + 5, labels  # scales that need standardising


@pytest.mark.parametrize("strength", [0.1, 0.01, 0.001])
def test_it_finds_the_optimum_that_scikit_learn_finds(strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = _clouds(400, 0)
    v, w = _clouds(200, 1)
    probe = fit_probe(
        x, y, v, w, classes=4, strengths=[strength], tolerance=1e-6, max_steps=500, progress=False
    )
    standard = (x - x.mean(0)) / x.std(0)
    reference = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=5000)
    reference.fit(standard, y)
    expected = reference.decision_function((v - x.mean(0)) / x.std(0))
    found = probe.logits(v)
    expected -= expected.mean(1, keepdims=True)
    found = found - found.mean(1, keepdims=True)
    assert np.abs(found - expected).max() < 0.02
    assert np.mean(probe.predict(v) == reference.predict((v - x.mean(0)) / x.std(0))) > 0.99


def test_the_strength_is_the_best_on_validation_and_the_path_ends_early() -> None:
    x, y = _clouds(60, 0)
    v, w = _clouds(300, 1)
    probe = fit_probe(x, y, v, w, classes=4, progress=False)
    assert probe.tried[probe.strength] == max(probe.tried.values())
    assert list(probe.tried) == sorted(probe.tried, reverse=True)
    assert probe.tried[probe.strength] == pytest.approx((probe.predict(v) == w).mean())


def test_a_constant_feature_does_no_harm() -> None:
    x, y = _clouds(100, 0)
    x[:, 3] = 7
    probe = fit_probe(x, y, x, y, classes=4, progress=False)
    assert np.isfinite(probe.logits(x)).all()
    assert (probe.predict(x) == y).mean() > 0.6


def test_fitting_twice_gives_equal_weights() -> None:
    x, y = _clouds(100, 0)
    one, two = (fit_probe(x, y, x, y, classes=4, progress=False) for _ in range(2))
    assert np.array_equal(one.weights.numpy(), two.weights.numpy())


def test_confusion_has_true_classes_in_rows() -> None:
    counts = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_bootstrap_interval_has_the_binomials_width() -> None:
    correct = np.arange(3589) % 2 == 0
    low, high = bootstrap_interval(correct)
    assert low < correct.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / 3589**0.5, rel=0.05)
    assert bootstrap_interval(correct) == (low, high)
    assert bootstrap_interval(np.ones(10, bool)) == (1.0, 1.0)
