"""What the tasks of tables share: predictions of faces that were held out, and their result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from mien.evaluate.encoders import Encoder
from mien.evaluate.tables import Faces, Split
from mien.evaluate.task import Result, Settings

# Fits on a split; returns what it says of the test rows, what it chose, and the components.
Fit = Callable[[Split], tuple[NDArray[Any], dict[str, Any], int]]


def predict_tests(
    splits: Sequence[Split], predicted: NDArray[Any], fit: Fit
) -> tuple[list[dict[str, Any]], int]:
    """Fill the test rows of ``predicted`` (``(N,)`` or ``(N, C)``), split by split.

    Returns:
        What was chosen in each split, and the number of components (0: the embeddings as they are).
    """
    found, components = [], 0
    for split in splits:
        predicted[split.test], chosen, components = fit(split)
        found.append(chosen)
    return found, components


def table_result(
    task: str,
    faces: Faces,
    encoder: Encoder,
    settings: Settings,
    splits: Sequence[Split],
    *,
    value: float,
    interval: tuple[float, float],
    dims: int,
    components: int,
    protocol: str,
    details: Mapping[str, Any],
    start: float,
    choices: Mapping[str, Any] | None = None,
    counts: Mapping[str, Any] | None = None,
) -> Result:
    """Return the result of a task of tables.

    Args:
        task: Its name.
        faces: What was measured on.
        encoder: What embedded.
        settings: What was asked for.
        splits: What was trained and tested on.
        value: Headline figure.
        interval: Its 95 % interval.
        dims: Length of an embedding.
        components: That it was projected on; 0: none.
        protocol: In words, how the figure was made.
        details: What the task found.
        start: ``time.monotonic()`` before the embedding.
        choices: Settings that only this task has.
        counts: Counts of the data that only this task has.
    """
    return Result(
        task=task,
        encoder=encoder.name,
        key=encoder.key,
        value=value,
        interval=interval,
        dims=dims,
        settings={
            "protocol": protocol,
            "probe": settings.protocol,
            **(choices or {}),
            "input_size": encoder.input_size,
            "pca": components,
            "flip": settings.flip,
            "seed": settings.seed,
        },
        details={
            **details,
            "trained_on_this_set": bool(set(encoder.seen) & set(faces.dataset.tolist())),
        },
        data={
            "sets": faces.sets,
            "names": faces.names,
            "fingerprint": faces.fingerprint,
            "splits": [[len(s.train), len(s.val), len(s.test)] for s in splits],
            **(counts or {}),
        },
        seconds=time.monotonic() - start,
    )
