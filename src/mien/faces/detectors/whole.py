"""For pictures that already are face crops: one box a picture, nothing is searched."""

from __future__ import annotations

import numpy as np

from mien.faces.detectors.base import PerImage, to_boxes
from mien.faces.face import Array, Image


class Whole(PerImage):
    """The square where the face of a crop sits. The defaults fit crops that the face fills.

    Args:
        size: Side of the square, brows to chin, in shorter sides of the picture.
        centre: Its centre (x, y), in widths and heights of the picture.
    """

    def __init__(self, size: float = 0.95, centre: tuple[float, float] = (0.5, 0.6)) -> None:
        self.size, self.centre = size, centre

    def detect(self, image: Image) -> Array:
        """Return float32 ``(1, 5)``: left, top, right, bottom, score 1."""
        height, width = image.shape[:2]
        middle = np.array(self.centre) * (width, height) - 0.5
        half = self.size * min(width, height) / 2
        return to_boxes([*(middle - half), *(middle + half), 1.0])
