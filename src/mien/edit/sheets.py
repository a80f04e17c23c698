"""Pieces of the sheets that show an edit: faces cut out of their photos, under labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mien.faces.align import warp, warp_crop
from mien.faces.face import Face, Image

PORTRAIT = 256  # px, side of a face on a sheet
_MARGIN, _LABEL = 0.35, 24  # sides of a tight crop around it; px


def portrait(photo: Image, face: Face, side: int = PORTRAIT) -> Image:
    """Cut a face out of its photo with some room around it: uint8 ``(side, side, 3)``.

    White is what lies outside the photo.
    """
    crop = len(face.crop)
    margin = _MARGIN if face.crop_name == "tight" else 0  # other framings have room already
    scale = crop * (1 + 2 * margin) / side
    shift = -margin * crop + (scale - 1) / 2
    grow = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
    to_photo = np.asarray(face.to_photo @ grow, np.float32)
    inside = warp(np.ones(photo.shape[:2], np.float32), to_photo, (side, side))[..., None]
    cut = warp_crop(photo, to_photo, side)
    return np.asarray(np.rint(cut * inside + 255 * (1 - inside)), np.uint8)


def labelled(pictures: Sequence[Image], labels: Sequence[str]) -> Image:
    """Set pictures of one size side by side under their labels."""
    columns = []
    for picture, label in zip(pictures, labels, strict=True):
        band = np.full((_LABEL, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(band, label, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([band, picture]))
    return np.concatenate(columns, axis=1)
