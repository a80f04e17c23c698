"""Maps of embeddings in two dimensions (t-SNE, UMAP), coloured by columns of the table.

t-SNE: van der Maaten and Hinton, *Visualizing data using t-SNE*, JMLR 2008. UMAP: McInnes, Healy
and Melville, *UMAP: Uniform manifold approximation and projection for dimension reduction*, 2018.
Both start from the same principal components and have their libraries' own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.encoders import Encoder
from mien.evaluate.figures import new_figure, save, stem
from mien.evaluate.pca import fit_pca
from mien.evaluate.tables import Faces, column
from mien.evaluate.task import Settings
from mien.files.errors import MissingExtraError, TableError

FACES = 2000  # shown at most
FEWEST = 5  # that have a map: fewer have no eigenvectors for UMAP to start from
COMPONENTS = 50  # that a map starts from
COLOURS = 10  # classes with a colour of their own; the rest is grey


def check_maps(faces: Faces, columns: Mapping[str, Sequence[str]]) -> None:
    """Raise what ``save_maps`` would raise, before any embedding.

    Args:
        faces: What is to be shown.
        columns: Kind of map (``tsne``, ``umap``) → columns.

    Raises:
        TableError: No such column, or an empty one; fewer than ``FEWEST`` faces.
        MissingExtraError: scikit-learn or umap-learn is not installed.
    """
    for kind, names in columns.items():
        if names:
            _require(kind)
        for name in names:
            column(faces, name)
    if any(columns.values()) and len(faces) < FEWEST:
        raise TableError(f"{faces.names} has {len(faces)} faces; a map needs {FEWEST} at least.")


def save_maps(
    encoder: Encoder,
    faces: Faces,
    columns: Mapping[str, Sequence[str]],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write ``KIND-ENCODER-COLUMN.png`` for each column: a kind has one map in other colours.

    Args:
        encoder: What embeds.
        faces: What is embedded, at most ``FACES`` of them at random.
        columns: Kind of map (``tsne``, ``umap``) → columns: ``person``, ``expression``,
            ``dataset``, ``makeup``, an angle, or the name of an attribute or action unit.
        out: Folder.
        settings: Batch size, mirror, seed.
        cache: Folder of the embeddings.
        progress: Show progress bars.

    Raises:
        TableError: No such column, or an empty one; fewer than ``FEWEST`` faces.
        MissingExtraError: scikit-learn, umap-learn or matplotlib is not installed.
    """
    check_maps(faces, columns)
    values = faces.embed(encoder, settings, cache, progress)
    rows = np.random.default_rng(settings.seed).permutation(len(values))[:FACES]
    made = []
    for kind, names in columns.items():
        if not names:
            continue
        place = KINDS[kind].place(values[rows], settings.seed)
        for name in names:
            made.append(out / f"{kind}-{stem(encoder.name)}-{name}.png")
            title = f"{KINDS[kind].title}, {encoder.name}: {name}"
            save(_picture(place, column(faces, name)[rows], title), made[-1])
    return made


def tsne(values: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Return the t-SNE map ``(N, 2)`` of embeddings ``(N, D)``, the same for the same seed.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    _require("tsne")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(values) - 1) / 3))
    model = TSNE(perplexity=perplexity, init="random", random_state=seed)
    return np.asarray(model.fit_transform(_components(values, seed)), np.float64)


def umap(values: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Return the UMAP map ``(N, 2)`` of embeddings ``(N, D)``, the same for the same seed.

    Raises:
        MissingExtraError: umap-learn is not installed.
    """
    _require("umap")
    from umap import UMAP

    neighbours = min(15, len(values) - 1)
    # A seed asks for one thread: several would add up in any order.
    model = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(_components(values, seed)), np.float64)


def _components(values: NDArray[Any], seed: int) -> NDArray[Any]:
    return fit_pca(values, COMPONENTS, seed)(values)


class Kind(NamedTuple):
    """A kind of map.

    Attributes:
        title: Its name in print.
        place: Embeddings ``(N, D)`` and a seed → places ``(N, 2)``.
        module: What it imports.
        package: Where that comes from.
        extra: The extra of this package that installs it.
    """

    title: str
    place: Callable[[NDArray[Any], int], NDArray[np.float64]]
    module: str
    package: str
    extra: str


KINDS = {
    "tsne": Kind("t-SNE", tsne, "sklearn", "scikit-learn", "evaluate"),
    "umap": Kind("UMAP", umap, "umap", "umap-learn", "umap"),
}


def _require(kind: str) -> None:
    if find_spec(KINDS[kind].module) is None:
        raise MissingExtraError(KINDS[kind].package, KINDS[kind].extra)


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
