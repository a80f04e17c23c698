"""One face: what later calls need, so that nothing is detected twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Face:
    """An aligned face and its way back to the photo.

    Convention: pixel coordinates are (x, y) with x to the right and y down; an integer is the
    centre of a pixel (OpenCV), so the outer corner of the top left pixel is (-0.5, -0.5).

    Attributes:
        crop: uint8 ``(S, S, 3)`` RGB.
        landmarks: float32 ``(68, 2)``, iBUG order, in photo pixels.
        to_photo: float32 ``(2, 3)`` similarity, crop pixels to photo pixels.
        box: float32 ``(4,)`` left, top, right, bottom in photo pixels.
        score: Face probability in [0, 1] by the landmark network.
        source: Where the photo came from (path, or path plus frame number).
        crop_name: Named framing of the crop, ``tight`` or ``ffhq``.
        pose: Yaw, pitch, roll in degrees. yaw > 0: nose towards the image's right side;
            pitch > 0: looking up; roll > 0: head tilted clockwise as the viewer sees it.
    """

    crop: Image = field(repr=False)
    landmarks: Array = field(repr=False)
    to_photo: Array = field(repr=False)
    box: Array
    score: float
    source: str = ""
    crop_name: str = "tight"
    pose: tuple[float, float, float] = field(default=(float("nan"),) * 3)
