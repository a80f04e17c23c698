from __future__ import annotations

import numpy as np
import pytest

from mien.evaluate.pca import Moments, fit_pca


def _values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 5)) * [9, 5, 3, 1, 0.5] @ rng.normal(size=(5, 40)) + 3


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    values = _values()
    ours, theirs = fit_pca(values, 4), PCA(4).fit(values)
    assert np.allclose(ours.deviation**2, theirs.explained_variance_, rtol=1e-3)
    turned = np.abs(ours.axes.T @ theirs.components_.T)
    assert np.allclose(turned, np.eye(4), atol=1e-3)


def test_whitening_gives_unit_variance() -> None:
    values = _values()
    out = fit_pca(values, 4)(values, whiten=True)
    assert np.allclose(out.std(0, ddof=1), 1, atol=1e-3)
    assert np.allclose(out.mean(0), 0, atol=1e-3)


@pytest.mark.parametrize(("rows", "dims", "kept"), [(300, 64, 5), (3, 64, 2), (300, 2, 2)])
def test_it_keeps_no_more_than_varies(rows: int, dims: int, kept: int) -> None:
    assert fit_pca(_values()[:rows], dims).axes.shape == (40, kept)


def test_the_input_stays_as_it_was() -> None:
    values = _values().astype(np.float32)
    before = values.copy()
    fit_pca(values, 3)
    assert np.array_equal(values, before)


def test_moments_give_the_same_and_forget_what_is_subtracted() -> None:
    values = _values()
    both = np.concatenate([values, 1e3 + np.random.default_rng(1).normal(size=(50, 40))])
    direct = fit_pca(values, 4)
    ours = (Moments.of(both) - Moments.of(both[300:])).fit_pca(4)
    assert np.allclose(ours.mean, direct.mean, atol=1e-4)
    assert np.allclose(ours.deviation, direct.deviation, rtol=1e-3)
    assert np.allclose(np.abs(ours.axes.T @ direct.axes), np.eye(4), atol=1e-3)
    assert Moments.of(values).fit_pca(64).axes.shape == (40, 5)
    assert Moments.of(values[:3]).fit_pca(64).axes.shape == (40, 2)
