"""A map of embeddings in two dimensions (t-SNE), coloured by a column of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.encoders import Encoder
from mien.evaluate.figures import new_figure, save, stem
from mien.evaluate.pca import fit_pca
from mien.evaluate.tables import ANGLES, Faces
from mien.evaluate.task import Settings
from mien.files.errors import MissingExtraError, TableError, nearest

FACES = 2000  # shown at most
COMPONENTS = 50  # that t-SNE starts from
COLOURS = 10  # classes with a colour of their own; the rest is grey


def save_tsne(
    encoder: Encoder,
    faces: Faces,
    columns: Sequence[str],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write ``tsne-ENCODER-COLUMN.png`` for each column: the same map, other colours.

    Args:
        encoder: What embeds.
        faces: What is embedded, at most ``FACES`` of them at random.
        columns: ``person``, ``expression``, ``dataset``, ``makeup``, an angle, or the name of an
            attribute or action unit.
        out: Folder.
        settings: Batch size, mirror, seed.
        cache: Folder of the embeddings.
        progress: Show progress bars.

    Raises:
        TableError: No such column, or an empty one.
        MissingExtraError: scikit-learn or matplotlib is not installed.
    """
    coloured = {name: column(faces, name) for name in columns}  # before the long work
    values = faces.embed(encoder, settings, cache, progress)
    rows = np.random.default_rng(settings.seed).permutation(len(values))[:FACES]
    place = tsne(values[rows], settings.seed)
    made = []
    for name, labels in coloured.items():
        made.append(out / f"tsne-{stem(encoder.name)}-{name}.png")
        save(_picture(place, labels[rows], f"{encoder.name}: {name}"), made[-1])
    return made


def tsne(values: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Return the map ``(N, 2)`` of embeddings ``(N, D)``."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    reduced = fit_pca(values, COMPONENTS, seed)(values)
    perplexity = min(30.0, max(1.0, (len(values) - 1) / 3))
    model = TSNE(perplexity=perplexity, init="random", random_state=seed)
    return np.asarray(model.fit_transform(reduced), np.float64)


def column(faces: Faces, name: str) -> NDArray[Any]:
    """Return a column as numbers or strings ``(N,)``; NaN or empty where unknown.

    Raises:
        TableError: No such column, or an empty one.
    """
    if name in ANGLES:
        values: NDArray[Any] = faces.pose[:, ANGLES.index(name)]
    elif name == "makeup":
        values = faces.makeup
    elif name in ("person", "expression", "dataset", "clip", "split"):
        values = getattr(faces, name)
    elif any(name in row for row in faces.units):
        values = np.array([row.get(name, 0.0) for row in faces.units], np.float32)
    elif any(name in row for row in faces.attributes):
        values = as_numbers([row.get(name, "") for row in faces.attributes])
    else:
        known = {a for row in faces.attributes for a in row}
        known |= {u for row in faces.units for u in row}
        choices = known | {*ANGLES, "makeup", "person", "expression", "dataset"}
        raise TableError(f"{faces.names} has no column {name!r}{nearest(name, choices)}")
    empty = np.isnan(values) if values.dtype.kind == "f" else values == ""
    if empty.all():
        raise TableError(f"The column {name!r} of {faces.names} is empty.")
    return values


def as_numbers(values: Sequence[str]) -> NDArray[Any]:
    """Return float32 if every value that is not empty is a number, else the strings."""
    try:
        return np.array([float(v) if v else np.nan for v in values], np.float32)
    except ValueError:
        return np.array(values, np.str_)


def _picture(place: NDArray[np.float64], labels: NDArray[Any], title: str) -> Any:
    figure = new_figure(6.0, 5.0)
    axes = figure.subplots()
    x, y = place.T
    if labels.dtype.kind == "f" and len(np.unique(labels)) > COLOURS:
        points = axes.scatter(x, y, c=labels, s=6, cmap="coolwarm", linewidths=0)
        figure.colorbar(points, ax=axes)
    else:
        names, counts = np.unique(labels.astype(np.str_), return_counts=True)
        shown = names[np.argsort(-counts, kind="stable")][:COLOURS]
        rest = ~np.isin(labels.astype(np.str_), shown)
        axes.scatter(x[rest], y[rest], s=4, color="lightgrey", linewidths=0)
        for name in sorted(shown):
            own = labels.astype(np.str_) == name
            axes.scatter(x[own], y[own], s=6, label=name or "unknown", linewidths=0)
        axes.legend(fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    return figure
