"""InsightFace's detector, if ``insightface`` is installed (its models: non-commercial research)."""

from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np

from mien.faces.detectors.base import PerImage, package, to_boxes
from mien.faces.face import Array, Image


class InsightFace(PerImage):
    """The detector of a model pack, which the package keeps under ``~/.insightface``.

    Args:
        pack: Model pack; the package downloads it if absent.
        side: Side of the network's square in pixels, a multiple of 32.
        threshold: Least score, in [0, 1].
    """

    def __init__(self, pack: str = "buffalo_l", side: int = 640, threshold: float = 0.5) -> None:
        app = package("insightface.app")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every model
            self.net = app.FaceAnalysis(name=pack, allowed_modules=["detection"])
            self.net.prepare(ctx_id=-1, det_thresh=threshold, det_size=(side, side))

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score in [0, 1]."""
        faces = self.net.get(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return to_boxes([(*(np.asarray(face.bbox) - 0.5), face.det_score) for face in faces])
