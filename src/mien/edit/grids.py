"""Pictures of what a method sees in faces or draws of them, one row a face.

``residue``: where a neutral face differs, by the layers that know it. ``attributes``: new pictures
of a person, with attributes drawn at random. ``interpolation``: a person while the attributes go
over to those of the next face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import torch

from mien.edit.photos import Editor, crops_to_tensor, tensor_to_images
from mien.edit.sources import photo_files
from mien.faces.face import Image
from mien.faces.find import Finder
from mien.faces.image import read_image
from mien.faces.provenance import write_edited
from mien.files.errors import ConfigError, FaceError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method

CELL = 128  # side of a picture of the grid in pixels
_HEAT = 0.65  # share of the colours of a map over the face


@dataclass(frozen=True)
class Grid:
    """A kind of grid.

    Attributes:
        name: How ``mien grid NAME`` calls it.
        function: Name of the method's function that gives its pictures.
        title: Heading.
        summary: What a row shows, in plain words.
        least: Faces that it needs.
    """

    name: str
    function: str
    title: str
    summary: str
    least: int = 1


GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "residue",
            "residue_maps",
            "What the expression leaves behind",
            "the face, its neutral face, and where the layers of the network (finest first) tell "
            "the two apart; bright is the strongest place of a map",
        ),
        Grid(
            "attributes",
            "generate",
            "New pictures of a person",
            "the face, then pictures of that person with pose, expression and light drawn at "
            "random, alike in every row",
        ),
        Grid(
            "interpolation",
            "interpolate_attributes",
            "From one picture to the next",
            "the face, then that person while pose, expression and light go over to those of the "
            "next face, which stands at the end",
            2,
        ),
    )
}


def grid_names(method: Method | type[Method]) -> list[str]:
    """Return the names of the grids that a method (or a class of methods) can give."""
    return [g.name for g in GRIDS.values() if callable(getattr(method, g.function, None))]


@torch.inference_mode()
def draw_grid(
    name: str, method: Method, crops: Sequence[Image], count: int = 6, seed: int = 0
) -> list[list[Image]]:
    """Return the pictures of a grid, uint8 ``(CELL, CELL, 3)`` each, one row a face.

    Args:
        name: Kind of grid.
        method: In evaluation mode.
        crops: uint8 ``(s, s, 3)`` each.
        count: Drawn pictures of a row; of ``residue`` there are as many as groups of layers.
        seed: Of what is drawn at random.

    Raises:
        ConfigError: No such grid, the method cannot give it, or too few faces or pictures.
        WeightsError: The weights lack what it takes.
    """
    if name not in GRIDS:
        raise ConfigError(f"No grid {name!r}{nearest(name, GRIDS)}")
    grid, able = GRIDS[name], grid_names(method)
    if name not in able:
        can = f"it can: {', '.join(able)}" if able else "it gives none"
        raise ConfigError(f"The method {method.name} gives no grid {name!r}; {can}.")
    if len(crops) < grid.least:
        raise ConfigError(f"The grid {name!r} needs {grid.least} faces or more, not {len(crops)}.")
    images = crops_to_tensor(crops, int(getattr(method.config, "size", 64)))
    shown = [_sized(crop) for crop in crops]
    draw: Any = getattr(method, grid.function)
    if name == "residue":
        neutral = tensor_to_images(cast("Any", method).neutralise(images).images)
        maps = draw(images).float().numpy()
        return [
            [face, _sized(calm), *(_heated(face, each) for each in own)]
            for face, calm, own in zip(shown, neutral, maps, strict=True)
        ]
    following = [*range(1, len(crops)), 0]
    if name == "attributes":
        drawn = draw(images, count, seed)
    else:
        drawn = draw(images, images, images[following], count)
    rows = [
        [face, *map(_sized, tensor_to_images(row))] for face, row in zip(shown, drawn, strict=True)
    ]
    if name == "interpolation":
        rows = [[*row, shown[i]] for row, i in zip(rows, following, strict=True)]
    return rows


def write_grid(
    name: str,
    photos: Sequence[str | Path],
    *,
    out: str | Path,
    weights: str | Path | Method,
    count: int = 6,
    seed: int = 0,
    detector: str = "dlib",
    finder: Finder | None = None,
) -> Path:
    """Write a grid of the faces of photos, marked as edited.

    Args:
        name: ``residue``, ``attributes`` or ``interpolation``.
        photos: Pictures or folders; every face counts, the largest of a photo first.
        out: File (``.png``, ``.jpg``, ``.webp``).
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        count: Drawn pictures of a row.
        seed: Of what is drawn at random.
        detector: Face detector.
        finder: Replaces the finder that ``detector`` names.

    Raises:
        ConfigError: As for ``draw_grid``, or a wrong kind of file.
        FaceError: No face in a photo.
        ImageError: A photo cannot be read.
        WeightsError: No such weights.
    """
    editor = Editor(weights, detector, finder)
    crops = []
    for path in photo_files(photos):
        faces = editor.find(read_image(path), path.name)
        if not faces:
            raise FaceError(f"No face was found in {path}.")
        crops += [face.crop for face in faces]
    rows = draw_grid(name, editor.method, crops, count, seed)
    write_edited(
        out, np.concatenate([np.concatenate(row, 1) for row in rows]), editor.record(name, 1.0)
    )
    return Path(out)


def _sized(image: Image) -> Image:
    how = cv2.INTER_AREA if len(image) > CELL else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (CELL, CELL), interpolation=how), np.uint8)


def _heated(face: Image, heat: Any) -> Image:
    """Lay a map ``(S, S)`` in [0, 1] over the grey picture of a face, both in CELL pixels."""
    values = cv2.resize(np.asarray(heat, np.float32), (CELL, CELL), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((values.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(colours[..., ::-1], _HEAT, grey, 1 - _HEAT, 0), np.uint8)
