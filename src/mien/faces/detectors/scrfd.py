"""SCRFD by ONNX Runtime, with the user's own ONNX file."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.faces.detectors.base import PerImage, model_file, one_per_face, shrink
from mien.faces.face import Array, Image
from mien.files.errors import ConfigError, MissingExtraError


class Scrfd(PerImage):
    """See https://github.com/deepinsight/insightface/tree/master/detection/scrfd.

    Args:
        model: Path of ``scrfd_*.onnx`` or ``det_*.onnx``.
        side: Side of the network's square in pixels, a multiple of 32; the file's own if fixed.
        threshold: Least score, in [0, 1].
    """

    def __init__(self, model: str | Path = "", side: int = 640, threshold: float = 0.5) -> None:
        path = model_file(model, "scrfd", "onnx")
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "evaluate") from None
        try:
            self.net: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base
            raise ConfigError(f"{path} cannot be read as an ONNX model ({error}).") from None
        self.input = self.net.get_inputs()[0]
        fixed = self.input.shape[-1]
        self.side, self.threshold = fixed if isinstance(fixed, int) else side, threshold

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score in [0, 1]."""
        small, share = shrink(image, self.side)
        canvas = np.zeros((self.side, self.side, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        blob = cv2.dnn.blobFromImage(canvas, 1 / 128, mean=(127.5, 127.5, 127.5))
        outputs = [o.reshape(-1, o.shape[-1]) for o in self.net.run(None, {self.input.name: blob})]
        scores, reaches = ([o for o in outputs if o.shape[1] == n] for n in (1, 4))
        rows = np.concatenate([self._level(*each) for each in zip(count(), scores, reaches)])
        rows = rows[rows[:, 4] >= self.threshold]
        rows[:, :4] = rows[:, :4] / share - 0.5
        return one_per_face(rows)

    def _level(self, level: int, scores: Array, reaches: Array) -> Array:
        """Return the ``(n, 5)`` boxes of one stride, in pixels of the network's square."""
        stride = 8 << level
        cells = self.side // stride
        grid = np.indices((cells, cells))[::-1].reshape(2, -1).T * stride
        place = np.repeat(grid, len(scores) // len(grid), axis=0)
        edges = np.tile(place, 2) + reaches * [-stride, -stride, stride, stride]
        return np.column_stack([edges, scores]).astype(np.float32)
