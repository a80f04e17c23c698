"""A sheet for looking: every reference's make-up on every photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mien.edit.makeup import read_references
from mien.edit.photos import Editor, check_task
from mien.faces.face import Face, Image
from mien.faces.find import Finder
from mien.faces.provenance import write_edited
from mien.files.errors import ConfigError

if TYPE_CHECKING:
    from mien.methods.base import Method

CELL = 192  # side of a picture in pixels


def write_makeup_sheet(
    photos: Sequence[str | Path],
    references: Sequence[str | Path],
    *,
    out: str | Path,
    weights: str | Path | Method,
    strength: float = 1.0,
    detector: str = "dlib",
    finder: Finder | None = None,
) -> list[str]:
    """Write a sheet, marked as edited: references across, photos down, results between.

    Photos and references that are not usable are left out.

    Args:
        photos: Pictures or folders; the largest face of each counts.
        references: The same, with make-up.
        out: File (``.png``, ``.jpg``, ``.webp``).
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        strength: From 0 to 1.
        detector: Face detector.
        finder: Replaces the finder that ``detector`` names.

    Returns:
        What was left out or may have gone wrong.

    Raises:
        ConfigError: The method puts no make-up on, no reference, or a wrong kind of file.
        FaceError: No photo or no reference shows a face that is usable.
        ImageError: A photo cannot be read.
        WeightsError: No such weights.
    """
    if not references:
        raise ConfigError("A sheet of make-up needs references (--reference).")
    editor = Editor(weights, detector, finder)
    check_task("makeup", editor.method, True, strength)
    worn, warnings = read_references(list(references), editor.finder, "largest")
    faces, said = read_references(list(photos), editor.finder, "largest", reference=False)
    rows: list[list[Image]] = [[np.full((CELL, CELL, 3), 255, np.uint8)]]
    rows[0] += [_cell(face.crop) for face in worn]
    rows += [[_cell(face.crop)] for face in faces]
    for reference in worn:
        for row, picture in zip(rows[1:], _made(editor, faces, reference, strength), strict=True):
            row.append(_cell(picture))
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
    write_edited(out, sheet, editor.record("makeup", strength))
    return [*warnings, *said]


def _made(editor: Editor, faces: list[Face], reference: Face, strength: float) -> list[Image]:
    return [c.new for c in editor.generate("makeup", faces, [reference] * len(faces), strength)]


def _cell(image: Image) -> Image:
    how = cv2.INTER_AREA if len(image) > CELL else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (CELL, CELL), interpolation=how), np.uint8)
