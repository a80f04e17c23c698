from __future__ import annotations

import numpy as np
import pytest

from mien.evaluate.probe import (
    RIDGE_STRENGTHS,
    best_f1,
    bootstrap_interval,
    confusion,
    fit_labels,
    fit_probe,
    fit_ridge,
)


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
    found = probe.outputs(v)
    expected -= expected.mean(1, keepdims=True)
    found = found - found.mean(1, keepdims=True)
    assert np.abs(found - expected).max() < 0.02
    assert np.mean(probe.classes(v) == reference.predict((v - x.mean(0)) / x.std(0))) > 0.99


def test_the_strength_is_the_best_on_validation_and_the_path_ends_early() -> None:
    x, y = _clouds(60, 0)
    v, w = _clouds(300, 1)
    probe = fit_probe(x, y, v, w, classes=4, progress=False)
    assert probe.tried[probe.strength] == max(probe.tried.values())
    assert list(probe.tried) == sorted(probe.tried, reverse=True)
    assert probe.tried[probe.strength] == pytest.approx((probe.classes(v) == w).mean())


def test_a_constant_feature_does_no_harm() -> None:
    x, y = _clouds(100, 0)
    x[:, 3] = 7
    probe = fit_probe(x, y, x, y, classes=4, progress=False)
    assert np.isfinite(probe.outputs(x)).all()
    assert (probe.classes(x) == y).mean() > 0.6


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


def _numbers(seed: int, n: int, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    y = np.stack([x[:, 0] * 3 + 5, x[:, 1] - x[:, 2] + 0.1 * rng.normal(size=n)], 1)
    return x.astype(np.float32), y


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 80)], ids=["primal", "dual"])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_ridge_is_scikit_learns(n: int, d: int, strength: float) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, y = _numbers(0, n, d)
    z, true = _numbers(1, 40, d)
    found = fit_ridge(x, y, z, true, strengths=(strength,))
    scaler = StandardScaler().fit(x)
    other = Ridge(alpha=strength * n).fit(scaler.transform(x), y)
    assert found.outputs(z) == pytest.approx(other.predict(scaler.transform(z)), abs=2e-2)
    assert found.strength == strength


def test_ridge_takes_the_strength_that_validation_likes() -> None:
    x, y = _numbers(0, 60, 40)
    z, true = _numbers(1, 500, 40)
    found = fit_ridge(x, y, z, true)
    assert found.tried[found.strength] == max(found.tried.values())
    assert found.tried[found.strength] > 0.9
    assert len(found.tried) == len(RIDGE_STRENGTHS)


def test_labels_are_scikit_learns_logistic_regressions() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32) * (1, 2, 3, 4, 5)
    y = (x[:, :2] + rng.normal(size=(300, 2)) > (0, 2)).astype(np.float32)
    y[::7, 1] = np.nan
    found = fit_labels(x, y, x, y, strengths=(0.01,))
    scaled = StandardScaler().fit(x).transform(x)
    logits = found.outputs(x)
    for k in range(2):
        known = ~np.isnan(y[:, k])
        model = LogisticRegression(C=1 / (0.01 * known.sum()), tol=1e-8)
        model.fit(scaled[known], y[known, k])
        assert logits[:, k] == pytest.approx(model.decision_function(scaled), abs=2e-2)


def test_best_f1_is_the_best_of_all() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    for _ in range(3):
        scores = np.round(rng.normal(size=40), 1)
        labels = (scores + rng.normal(size=40) > 0.5).astype(float)
        labels[:5] = np.nan
        threshold, found = best_f1(scores, labels)
        truth, own = labels[5:], scores[5:]
        assert found == pytest.approx(f1_score(truth, own > threshold))
        grid = [f1_score(truth, own > t) for t in np.unique(own)[:-1]]
        assert found == pytest.approx(max(grid))


def test_best_f1_without_a_positive() -> None:
    threshold, found = best_f1(np.array([0.1, 0.2]), np.array([0.0, np.nan]))
    assert threshold == np.inf
    assert found == 0
