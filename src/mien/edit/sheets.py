"""Pieces of the sheets that show an edit: faces cut out of their photos, under labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mien.faces.align import warp_crop
from mien.faces.face import Face, Image

PORTRAIT = 256  # px, side of a face on a sheet
_MARGIN, _LABEL = 0.35, 24  # sides of the crop around it; px


def portrait(photo: Image, face: Face, side: int = PORTRAIT) -> Image:
    """Cut a face out of its photo with some room around it: uint8 ``(side, side, 3)``."""
    crop = len(face.crop)
    scale = crop * (1 + 2 * _MARGIN) / side
    shift = -_MARGIN * crop + (scale - 1) / 2
    grow = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
    return warp_crop(photo, np.asarray(face.to_photo @ grow, np.float32), side)


def labelled(pictures: Sequence[Image], labels: Sequence[str]) -> Image:
    """Set pictures of one size side by side under their labels."""
    columns = []
    for picture, label in zip(pictures, labels, strict=True):
        band = np.full((_LABEL, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(band, label, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([band, picture]))
    return np.concatenate(columns, axis=1)
