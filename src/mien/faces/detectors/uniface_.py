"""UniFace's RetinaFace, if ``uniface`` is installed."""

from __future__ import annotations

import cv2
import numpy as np

from mien.faces.detectors.base import PerImage, package, to_boxes
from mien.faces.face import Array, Image


class UniFace(PerImage):
    """RetinaFace with the package's own defaults; the package downloads its weights if absent."""

    def __init__(self) -> None:
        self.net = package("uniface").RetinaFace()

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score in [0, 1]."""
        faces = self.net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return to_boxes([(*(np.asarray(face.bbox) - 0.5), face.confidence) for face in faces])
