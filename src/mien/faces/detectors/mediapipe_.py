"""MediaPipe's face detector task, if ``mediapipe`` is installed, with the user's model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.faces.detectors.base import PerImage, model_file, package, to_boxes
from mien.faces.face import Array, Image
from mien.files.errors import ConfigError


class MediaPipe(PerImage):
    """See https://ai.google.dev/edge/mediapipe/solutions/vision/face_detector.

    Args:
        model: Path of ``blaze_face_*.tflite``.
        threshold: Least score, in [0, 1].
    """

    def __init__(self, model: str | Path = "", threshold: float = 0.5) -> None:
        path = model_file(model, "mediapipe", "tflite")
        self.mp = package("mediapipe")
        tasks = self.mp.tasks
        options = tasks.vision.FaceDetectorOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(path)),
            min_detection_confidence=threshold,
        )
        try:
            self.net = tasks.vision.FaceDetector.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{path} is not a MediaPipe face detector ({error}).") from None

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score in [0, 1]."""
        picture = self.mp.Image(
            image_format=self.mp.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        rows = []
        for found in self.net.detect(picture).detections:
            box = found.bounding_box
            left, top = box.origin_x - 0.5, box.origin_y - 0.5
            score = found.categories[0].score
            rows.append((left, top, left + box.width, top + box.height, score))
        return to_boxes(rows)
