"""Persons of LFW that are kept for measuring: nothing is trained on them, whatever a table says.

``lfw_kept.csv`` names the 1,333 persons of folds 8 (validation), 9 and 10 (test) of View 2, 31 % of
those that its pairs show. The others of LFW may be trained on.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

LFW = "lfw"  # what the reader calls the data set


@cache
def kept_folds() -> dict[str, int]:
    """Return name of a person, as LFW's folders are called → fold of View 2, 8 to 10."""
    text = (files("mien.data") / "lfw_kept.csv").read_text(encoding="utf-8")
    return {row["name"]: int(row["fold"]) for row in csv.DictReader(text.splitlines())}


def kept_faces(dataset: NDArray[np.str_], person: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return which faces show a person that is kept for measuring.

    Args:
        dataset: ``(N,)`` names of readers.
        person: ``(N,)`` names of persons, empty where unknown.
    """
    own = dataset == LFW
    return np.asarray(own & np.isin(person, list(kept_folds())) if own.any() else own, np.bool_)
