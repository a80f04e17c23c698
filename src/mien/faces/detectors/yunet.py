"""YuNet by OpenCV's ``FaceDetectorYN``, with the user's own ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.faces.detectors.base import PerImage, model_file, shrink, to_boxes
from mien.faces.face import Array, Image
from mien.files.errors import ConfigError


class YuNet(PerImage):
    """See https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet.

    Args:
        model: Path of ``face_detection_yunet_*.onnx``.
        side: Photos are shrunk to this longer side, in pixels.
        threshold: Least score, in [0, 1].
    """

    def __init__(self, model: str | Path = "", side: int = 1280, threshold: float = 0.6) -> None:
        path = model_file(model, "yunet", "onnx")
        try:
            self.net: Any = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
        except cv2.error as error:
            raise ConfigError(
                f"{path} is not a YuNet model for this OpenCV ({error.err})."
            ) from None
        self.side = side

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score in [0, 1]."""
        small, share = shrink(image, self.side)
        self.net.setInputSize(small.shape[1::-1])
        _, rows = self.net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return to_boxes([])
        corner, size = rows[:, :2], rows[:, 2:4]
        edges = np.column_stack([corner, corner + size]) / share - 0.5
        return to_boxes(np.column_stack([edges, rows[:, 14]]))
