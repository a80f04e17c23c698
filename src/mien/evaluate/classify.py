"""Measure embeddings by telling classes apart: linear probe, nearest neighbours, few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.official import EXPRESSION, train_recipe
from mien.evaluate.probe import Labels, bootstrap_interval, confusion, fit_probe
from mien.evaluate.task import Settings
from mien.files.errors import MissingExtraError

SHARES = (0.01, 0.1)  # of the labelled pictures; all of them are the linear probe itself
DRAWS = 3  # of a share
NEIGHBOURS = (1, 5, 20, 100)
TEMPERATURE = 0.07  # a neighbour's vote is exp(cosine / temperature)
LINEAR = "standardised features, multinomial logistic regression, L2 strength chosen on validation"


def protocol_words(settings: Settings) -> str:
    """Return how classes are told apart, in words."""
    if settings.protocol == "mien":
        return LINEAR
    return f"{settings.protocol}: {EXPRESSION[settings.protocol].words}"


def classify(
    train: tuple[NDArray[Any], Labels],
    val: tuple[NDArray[Any], Labels],
    test: tuple[NDArray[Any], Labels],
    classes: int,
    settings: Settings,
    progress: bool = False,
    carved: bool = False,
) -> tuple[Labels, dict[str, Any]]:
    """Fit the probe on train, choose its strength on validation, predict test.

    Args:
        train: Features ``(N, D)`` and class numbers ``(N,)``; ``val`` and ``test`` alike.
        val: Alike.
        test: What is measured.
        classes: Number of classes.
        settings: Protocol, ``knn`` and ``few_labels``.
        progress: Show progress bars.
        carved: Validation was taken from the training pictures: a publication trains on both.

    Returns:
        Predicted classes of test, and what came out: choices, ``knn``, ``few_labels``.
    """
    details: dict[str, Any] = {}
    if settings.protocol == "mien":
        probe = fit_probe(*train, *val, classes=classes, progress=progress)
        predicted = probe.classes(test[0])
        details["validation_accuracy"] = max(probe.tried.values())
        details["strength"] = probe.strength
        details["tried"] = {str(k): v for k, v in probe.tried.items()}
    else:
        parts = (train, val) if carved else (train,)
        trained = train_recipe(
            EXPRESSION[settings.protocol],
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            test[0],
            lambda p: float((p.argmax(1) == test[1]).mean()),
            outputs=classes,
            seed=settings.seed,
            progress=progress,
        )
        predicted = np.asarray(trained.predictions.argmax(1), np.int64)
        details["epoch"], details["curve"] = trained.epoch, trained.curve
    if settings.knn:
        details["knn"] = nearest_neighbours(train, val, test)
    if settings.few_labels:
        details["few_labels"] = few_labels(train, val, test, classes, settings.seed)
    return predicted, details


def nearest_neighbours(
    train: tuple[NDArray[Any], Labels],
    val: tuple[NDArray[Any], Labels],
    test: tuple[NDArray[Any], Labels],
    neighbours: Sequence[int] = NEIGHBOURS,
) -> dict[str, Any]:
    """Measure the vote of the nearest training pictures by cosine, k chosen on validation.

    Returns:
        ``accuracy`` on test with its 95 % ``interval``, ``k`` and ``tried`` (k → accuracy on
        validation).
    """
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None

    def correct(k: int, part: tuple[NDArray[Any], Labels]) -> NDArray[np.bool_]:
        model = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / TEMPERATURE)
        ).fit(train[0].astype(np.float32), train[1])
        return np.asarray(model.predict(part[0].astype(np.float32)) == part[1])

    tried = {k: float(correct(k, val).mean()) for k in neighbours if k <= len(train[0])}
    k = max(tried, key=lambda n: tried[n])
    right = correct(k, test)
    return {
        "accuracy": float(right.mean()),
        "interval": list(bootstrap_interval(right)),
        "k": k,
        "tried": {str(n): v for n, v in tried.items()},
    }


def few_labels(
    train: tuple[NDArray[Any], Labels],
    val: tuple[NDArray[Any], Labels],
    test: tuple[NDArray[Any], Labels],
    classes: int,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
) -> dict[str, dict[str, Any]]:
    """Measure the linear probe with a share of the labels, those of validation included.

    Every class keeps its share and at least one picture.

    Returns:
        Share → ``accuracy`` and ``deviation`` over ``draws`` draws, ``labels`` (pictures with one).
    """
    out = {}
    for share in shares:
        found, labels = [], 0
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            few, choose = (_share_of(part[1], share, rng) for part in (train, val))
            labels = len(few) + len(choose)
            probe = fit_probe(
                train[0][few],
                train[1][few],
                val[0][choose],
                val[1][choose],
                classes=classes,
                progress=False,
            )
            found.append(float((probe.classes(test[0]) == test[1]).mean()))
        out[str(share)] = {
            "accuracy": float(np.mean(found)),
            "deviation": float(np.std(found)),
            "draws": found,
            "labels": labels,
        }
    return out


def pooled(found: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """Return the details of several folds as those of one, the accuracies by number of faces.

    Args:
        found: What ``classify`` gave for each fold.
        counts: Faces that each fold measured.
    """
    if len(found) == 1:
        return found[0]
    out: dict[str, Any] = {"folds": list(found)}
    if "knn" in found[0]:
        ks = sorted({one["knn"]["k"] for one in found})
        out["knn"] = {
            "accuracy": float(
                np.average([one["knn"]["accuracy"] for one in found], weights=counts)
            ),
            "k": " or ".join(map(str, ks)),
        }
    if "few_labels" in found[0]:
        out["few_labels"] = {
            share: {
                name: float(np.average([one["few_labels"][share][name] for one in found],
                                       weights=counts))
                for name in ("accuracy", "deviation", "labels")
            }
            for share in found[0]["few_labels"]
        }  # fmt: skip
    return out


def _share_of(labels: Labels, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    rows = []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        rows.append(own[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(rows))


def class_details(labels: Labels, predicted: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Return the confusion matrix and the recall of each class as JSON values."""
    counts = confusion(labels, predicted, len(classes))
    recall = counts.diagonal() / np.maximum(counts.sum(1), 1)
    return {
        "classes": list(classes),
        "confusion": counts.tolist(),
        "recall": {c: float(r) for c, r in zip(classes, recall, strict=True)},
        "mean_recall": float(recall[counts.sum(1) > 0].mean()),
    }
