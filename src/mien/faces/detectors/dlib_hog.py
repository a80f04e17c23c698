"""dlib's frontal face detector (HOG + linear SVM, compiled into the wheel)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.faces.detectors.base import PerImage, resize, shrink, to_boxes
from mien.faces.face import Array, Image


class DlibHog(PerImage):
    """Coarse to fine: a shrunk grey photo first; larger, padded and laxer if that finds nothing.

    The detector's window is 80 px, so the first pass finds faces of at least ``80 / side`` of the
    photo's longer side and the second one those of ``80 / fine_side``. Small faces beside a large
    one are found only with a larger ``side``.

    Args:
        side: Longer side in the first pass, in pixels; smaller photos stay as they are.
        fine_side: Longer side in the second pass, at most; photos are enlarged up to twice.
        threshold: Least score in the first pass.
        fine_threshold: Least score in the second pass.
    """

    def __init__(
        self,
        side: int = 400,
        fine_side: int = 1280,
        threshold: float = 0.0,
        fine_threshold: float = -0.2,
    ) -> None:
        import dlib

        self.find = dlib.get_frontal_face_detector()
        self.side, self.fine_side = side, fine_side
        self.threshold, self.fine_threshold = threshold, fine_threshold

    def detect(self, image: Image) -> Array:
        """Return float32 ``(n, 5)``: left, top, right, bottom, score (about 0 to 3)."""
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        coarse, share = shrink(grey, self.side)
        boxes = self._run(coarse, share, 0, self.threshold)
        if len(boxes):
            return boxes
        share = min(2.0, self.fine_side / max(grey.shape))
        fine = resize(grey, share)
        margin = round(0.15 * min(fine.shape))  # a face that fills the picture lacks its rim
        fine = np.pad(fine, margin, mode="edge")
        return self._run(fine, share, margin, self.fine_threshold)

    def _run(self, grey: NDArray[np.uint8], share: float, margin: int, least: float) -> Array:
        found, scores, _ = self.find.run(np.ascontiguousarray(grey), 0, least)
        edges = [(r.left() - 0.5, r.top() - 0.5, r.right() + 0.5, r.bottom() + 0.5) for r in found]
        corners = (np.array(edges).reshape(-1, 4) - margin + 0.5) / share - 0.5
        return to_boxes(np.column_stack([corners, np.array(scores)]))
