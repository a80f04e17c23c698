"""Folds of whole persons."""

import sys

import numpy as np
import pytest

from mien.data.folds import person_folds
from mien.files.errors import ConfigError, MissingExtraError, TableError


def _persons(count=40, seed=0):
    """Return numbers of persons with 1 to 20 pictures each, in no order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat(np.arange(count) * 3, rng.integers(1, 21, count)))


@pytest.fixture(params=["balanced", "sorted", "labelled"])
def choices(request):
    persons = _persons()
    if request.param == "labelled":
        return persons, {"labels": np.random.default_rng(1).integers(0, 6, len(persons))}
    return persons, {"order": request.param}


def test_every_person_lies_in_one_fold_and_no_fold_is_empty(choices):
    persons, known = choices
    fold = person_folds(persons, 10, **known)
    assert fold.dtype == np.int64
    assert fold.shape == persons.shape
    assert set(fold.tolist()) == set(range(10))
    for person in np.unique(persons):
        assert len(np.unique(fold[persons == person])) == 1


def test_folds_repeat(choices):
    persons, known = choices
    first = person_folds(persons, 10, 3, **known)
    assert np.array_equal(first, person_folds(persons, 10, 3, **known))


@pytest.mark.parametrize("order", ["balanced", "sorted"])
def test_as_many_folds_as_persons_leave_one_out(order):
    persons = _persons()
    fold = person_folds(persons, 40, order=order)
    pairs = set(zip(persons.tolist(), fold.tolist(), strict=True))
    assert len(pairs) == len({f for _, f in pairs}) == 40


def test_balanced_folds_hold_about_as_many_pictures():
    persons = _persons()
    counts = np.bincount(person_folds(persons, 5))
    assert counts.max() - counts.min() <= 2
    assert np.ptp(np.bincount(person_folds(persons, 5, order="sorted"))) > 2


def test_the_seed_decides_among_equal_persons():
    persons = np.repeat(np.arange(20), 4)
    found = [person_folds(persons, 5, seed) for seed in range(3)]
    assert not np.array_equal(found[0], found[1])
    assert all(np.bincount(fold).tolist() == [16] * 5 for fold in found)
    labels = np.tile(np.arange(4), 20)
    assert not np.array_equal(*(person_folds(persons, 5, s, labels=labels) for s in (0, 1)))


def test_sorted_folds_take_every_nth_person():
    persons = np.array([7, 7, 1, 9, 30, 12, 1])
    assert person_folds(persons, 2, order="sorted").tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert person_folds(persons, 3, 5, order="sorted").tolist() == [1, 1, 0, 2, 1, 0, 0]


def test_labels_are_shared_out():
    persons = np.repeat(np.arange(20), 6)
    labels = np.repeat(np.arange(20) % 2, 6)  # half of the persons show one class only
    fold = person_folds(persons, 5, labels=labels)
    shares = [np.bincount(labels[fold == k], minlength=2).tolist() for k in range(5)]
    assert shares == [[12, 12]] * 5


def test_a_rare_class_is_no_warning():
    persons = np.repeat(np.arange(10), 3)
    labels = np.where(np.arange(30) == 4, "contempt", "anger")
    assert set(person_folds(persons, 5, labels=labels).tolist()) == set(range(5))


def test_what_cannot_be_parted_is_one_sentence():
    persons = np.repeat(np.arange(4), 2)
    with pytest.raises(TableError, match="There are 4 persons, too few for 10 folds"):
        person_folds(persons)
    with pytest.raises(TableError, match="2 pictures have no person"):
        person_folds(np.array([-1, 0, 1, -1]), 2)
    with pytest.raises(TableError, match="cannot be shared among 4 folds"):
        person_folds(persons, 4, labels=np.arange(8))
    with pytest.raises(TableError, match="0 persons"):
        person_folds(np.zeros(0, np.int64), 2)
    with pytest.raises(ConfigError, match="2 or more"):
        person_folds(persons, 1)
    with pytest.raises(ConfigError, match="did you mean 'sorted'"):
        person_folds(persons, 2, order="sort")
    with pytest.raises(ConfigError, match="no regard to labels"):
        person_folds(persons, 2, labels=np.zeros(8), order="sorted")


def test_scikit_learn_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    persons = np.arange(4)
    with pytest.raises(MissingExtraError, match="evaluate"):
        person_folds(persons, 2)
    assert person_folds(persons, 2, order="sorted").tolist() == [0, 1, 0, 1]
