"""A map of embeddings as one piece of HTML: a dot a face, which shows when a pointer is on it.

Nothing of it runs: the faces are drawn by style rules alone, so that any page may hold it.
"""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np

from mien.evaluate.encoders import encoder
from mien.evaluate.maps import COLOURS, FEWEST, KINDS
from mien.evaluate.tables import Faces, column, open_faces
from mien.evaluate.task import Settings
from mien.faces.face import Image
from mien.faces.image import encode_image
from mien.files.errors import ConfigError, TableError, nearest

FACES = 800  # dots at most: their pictures travel with the page
_SIDE, _THUMB = 760, 64  # px
_PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee",
    "#aa3377", "#ee8866", "#44bb99", "#bbcc33", "#99ddff",
)  # fmt: skip


def explore(
    spec: str, table: str, colour: str = "expression", kind: str = "umap", limit: int = FACES
) -> str:
    """Return the map of a table's faces as HTML.

    Args:
        spec: Encoder, as ``mien evaluate`` takes it.
        table: Table of faces, or ``READER:DIR``.
        colour: Column that colours the dots: ``person``, ``expression``, ``yaw``, an attribute …
        kind: ``umap`` or ``tsne``.
        limit: Faces at most, drawn at random with a fixed seed.

    Raises:
        ConfigError: No such encoder or kind.
        MissingExtraError: umap-learn or scikit-learn is not installed.
        TableError: No table, fewer than five faces, or no such column.
    """
    if kind not in KINDS:
        raise ConfigError(f"No map {kind!r}{nearest(kind, KINDS)}")
    faces = open_faces([table], limit=limit)
    if len(faces) < FEWEST:
        raise TableError(f"{table} has {len(faces)} faces; a map needs {FEWEST} at least.")
    labels = column(faces, colour)
    values = faces.embed(encoder(spec), Settings(), None, False)
    place = KINDS[kind].place(values, 0)
    low, high = place.min(0), place.max(0)
    spots = 20 + (_SIDE - 40) * (place - low) / np.maximum(high - low, 1e-9)
    colours, legend = _colours(labels)
    return _page(spots, _thumbs(faces), [str(v) for v in labels], colours, legend)


def _thumbs(faces: Faces) -> list[str]:
    def coded(crop: Image) -> str:
        small = cv2.resize(crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
        data = encode_image(np.asarray(small, np.uint8), "JPEG")
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()

    return [coded(crop) for part in faces.parts for crop in part]


def _colours(labels: np.ndarray) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a colour for each label, and the legend: colour, what it stands for."""
    if labels.dtype.kind == "f" and len(np.unique(labels)) > COLOURS:
        low, high = np.nanpercentile(labels, [2, 98])
        share = np.nan_to_num((labels - low) / max(high - low, 1e-9), nan=0.5).clip(0, 1)
        hues = [f"hsl({240 - 240 * s:.0f} 70% 50%)" for s in share]
        return hues, [("hsl(240 70% 50%)", f"{low:.3g}"), ("hsl(0 70% 50%)", f"{high:.3g}")]
    names, counts = np.unique(labels.astype(np.str_), return_counts=True)
    shown = sorted(names[np.argsort(-counts, kind="stable")][:COLOURS])
    known = dict(zip(shown, _PALETTE, strict=False))
    legend = [(colour, name or "unknown") for name, colour in known.items()]
    return [known.get(str(v), "#bbbbbb") for v in labels], legend


def _page(
    spots: np.ndarray,
    pictures: list[str],
    labels: list[str],
    colours: list[str],
    legend: list[tuple[str, str]],
) -> str:
    dots = []
    for (x, y), picture, label, colour in zip(spots, pictures, labels, colours, strict=True):
        # The picture stays inside the map, beside its dot.
        left = x + 8 if x < _SIDE / 2 else x - 8 - 2 * _THUMB
        top = min(max(y - _THUMB, 0), _SIDE - 2 * _THUMB)
        dots.append(
            f'<g><circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="{colour}"/>'
            f'<image href="{picture}" x="{left:.0f}" y="{top:.0f}" width="{2 * _THUMB}" '
            f'height="{2 * _THUMB}"/><title>{escape(label)}</title></g>'
        )
    keys = " ".join(
        f'<span style="color:{colour}">&#9679;</span> {escape(name)}' for colour, name in legend
    )
    return (
        "<style>.mien-map image{display:none;pointer-events:none}"
        ".mien-map g:hover image{display:inline}.mien-map g:hover circle{r:9px}</style>"
        f"<p>{keys}</p>"
        f'<svg class="mien-map" viewBox="0 0 {_SIDE} {_SIDE}" style="max-width:{_SIDE}px" '
        f'role="img" aria-label="Map of {len(labels)} faces">{"".join(dots)}</svg>'
    )
