from __future__ import annotations

import numpy as np
import pytest

from mien.evaluate.bootstrap import bootstrap, interval, mean_of


def _accuracy(correct: np.ndarray) -> np.ndarray:
    return np.stack([correct, np.ones_like(correct)], 1).astype(float)


def test_independent_rows_give_the_binomial_interval() -> None:
    correct = np.arange(400) % 4 != 0
    low, high = interval(_accuracy(correct), np.arange(400), mean_of)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)


def test_copies_of_a_person_do_not_narrow_the_interval() -> None:
    correct = np.arange(400) % 4 != 0
    once = interval(_accuracy(correct), np.arange(400), mean_of)
    copied = interval(
        _accuracy(np.repeat(correct, 9)), np.repeat(np.arange(400), 9).astype(str), mean_of
    )
    assert np.ptp(copied) == pytest.approx(np.ptp(once), rel=0.1)


def test_it_is_a_function_of_the_seed() -> None:
    values = np.random.default_rng(0).normal(size=50)
    ends = [interval(_accuracy(values), np.arange(50), mean_of, seed) for seed in (0, 0, 1)]
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


def test_a_figure_that_is_never_defined_stays_nan() -> None:
    sums = np.stack([np.zeros(9), np.zeros(9), np.ones(9)], 1)

    def statistic(s: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.stack([s[..., 0] / s[..., 1], s[..., 2] / s[..., 2]], -1)

    ends = bootstrap(sums, np.arange(9), statistic)
    assert np.isnan(ends[:, 0]).all()
    assert ends[:, 1].tolist() == [1, 1]
