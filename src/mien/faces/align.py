"""Landmarks to crops: similarity transforms, warps and their way back.

Convention: points are (x, y), an integer is the centre of a pixel (OpenCV). A matrix is 2x3 and
named by where it leads: ``to_photo`` takes crop pixels to photo pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.faces.face import Array, Image
from mien.files.errors import ConfigError, FaceError, nearest

CROPS = ("tight", "ffhq")
Border = Literal["reflect", "constant", "replicate"]
Pixels = TypeVar("Pixels", bound=NDArray[Any])

# ArcFace: eyes, nose tip and mouth corners, left to right in the image, in a 112 px crop.
_TEMPLATE = np.array(
    [[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]
)
_BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "constant": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
}
_LEAST_SPREAD = 1e-12  # square pixels
_MAX_SUPERSAMPLING = 16
_LONGEST_ENLARGED = 4096  # pixels
_KERNELS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def crop_to_photo(landmarks: NDArray[Any], crop: str = "tight", size: int = 112) -> Array:
    """Fit a named crop to landmarks.

    ``tight`` is the least-squares similarity of five points to the ArcFace template, its error
    taken in the crop; ``ffhq`` is the square that the FFHQ data set cuts, from eyes and mouth.

    Args:
        landmarks: ``(..., 68, 2)``, iBUG order, photo pixels.
        crop: ``tight`` or ``ffhq``.
        size: Side of the crop in pixels.

    Returns:
        ``to_photo``: float32 ``(..., 2, 3)``, crop pixels to photo pixels.

    Raises:
        ConfigError: No crop of that name.
        FaceError: Eyes and mouth of a face coincide or are not finite.
    """
    check_crop(crop)
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if not np.isfinite(landmarks).all():
        raise FaceError("The landmarks of a face are not finite; it cannot be aligned.")
    points = _to_complex(landmarks)
    left, right = points[..., 36:42].mean(-1), points[..., 42:48].mean(-1)
    if crop == "tight":
        five = np.stack([left, right, points[..., 30], points[..., 48], points[..., 54]], axis=-1)
        target = _to_complex((_TEMPLATE + 0.5) * size / 112 - 0.5)
        centre, target_centre = five.mean(-1), target.mean()
        centred = five - centre[..., None]
        # Umeyama in the plane: one complex number is scale and rotation, and never mirrors.
        spread = (abs(centred) ** 2).sum(-1)
        turn = (centred.conj() * (target - target_centre)).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Of points in one place only rounding is left, and that over itself is any number.
            turn = np.where(spread > _LEAST_SPREAD, spread / turn, 0)
        shift = centre - turn * target_centre
    else:
        eyes, mouth = (left + right) / 2, (points[..., 48] + points[..., 54]) / 2
        across, down = right - left, mouth - eyes
        axis = across - 1j * down
        reach = np.maximum(abs(across) * 2.0, abs(down) * 1.8)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            turn = np.where(reach**2 > _LEAST_SPREAD, axis / abs(axis) * reach * 2 / size, 0)
        shift = eyes + 0.1 * down - turn * (1 + 1j) * (size - 1) / 2
    if not np.all(np.isfinite(turn) & np.isfinite(shift) & (abs(turn) > 1e-6)):
        raise FaceError("The landmarks of a face coincide; it cannot be aligned.")
    rows = [
        np.stack([turn.real, -turn.imag, shift.real], axis=-1),
        np.stack([turn.imag, turn.real, shift.imag], axis=-1),
    ]
    return np.stack(rows, axis=-2).astype(np.float32)


def check_crop(crop: str, *others: str) -> None:
    """Raise ConfigError unless ``crop`` is a named crop or one of ``others``."""
    names = (*CROPS, *others)
    if crop not in names:
        raise ConfigError(f"No crop named {crop!r}{nearest(crop, names)}")


def invert(matrix: NDArray[Any]) -> Array:
    """Invert affine transforms ``(..., 2, 3)``; float32 of the same shape."""
    wide = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(wide[..., :2])
    return np.concatenate([linear, -linear @ wide[..., 2:]], axis=-1).astype(np.float32)


def transform_points(points: NDArray[Any], matrix: NDArray[Any]) -> Array:
    """Take points ``(..., n, 2)`` through affine transforms ``(..., 2, 3)``; float32."""
    wide = np.asarray(matrix, dtype=np.float64)
    moved = np.asarray(points) @ np.swapaxes(wide[..., :2], -1, -2) + wide[..., None, :, 2]
    return moved.astype(np.float32)


def warp_crop(image: Image, to_photo: NDArray[Any], size: int, border: Border = "reflect") -> Image:
    """Cut a crop out of a photo, without aliasing when it shrinks.

    Args:
        image: uint8 ``(H, W, 3)`` photo.
        to_photo: ``(2, 3)``, crop pixels to photo pixels.
        size: Side of the crop in pixels.
        border: What lies outside the photo: its mirror image, black, or its outermost pixels.

    Returns:
        uint8 ``(size, size, 3)``.
    """
    return warp(image, to_photo, (size, size), border)


def warp(
    image: Pixels,
    matrix: NDArray[Any],
    size: tuple[int, int],
    border: Border = "constant",
    *,
    enlarge: Literal["linear", "cubic"] | None = None,
) -> Pixels:
    """Sample ``image`` at ``matrix @ (x, y, 1)`` for every pixel (x, y) of the result.

    Where the result is coarser than the image, it is sampled finely and averaged, so that a pixel
    is the mean of the area it covers.

    Args:
        image: uint8 or float32 ``(H, W)`` or ``(H, W, C)``.
        matrix: ``(2, 3)``, result pixels to image pixels.
        size: Width and height of the result.
        border: What lies outside the image.
        enlarge: Kernel where the result is finer than the image, at full precision; without it
            bilinear, where some versions of OpenCV round places to 1/32 px.

    Returns:
        The dtype and channels of ``image``, ``(size[1], size[0], ...)``.
    """
    wide = np.asarray(matrix, dtype=np.float64)
    scale = math.sqrt(abs(np.linalg.det(wide[:, :2])))
    times = min(int(1 / max(scale, 1e-6)), _LONGEST_ENLARGED // max(image.shape[:2]))
    if enlarge and times > 1:
        shape = (image.shape[1] * times, image.shape[0] * times)
        image = cv2.resize(image, shape, interpolation=_KERNELS[enlarge])  # type: ignore[assignment]
        wide = times * wide
        wide[:, 2] += (times - 1) / 2
        scale *= times
    fine = min(max(math.ceil(scale - 1e-3), 1), _MAX_SUPERSAMPLING)
    if fine > 1:
        # A fine pixel j lies at (j + 0.5) / fine - 0.5 of the coarse grid.
        offset = wide[:, :2] @ np.full(2, 0.5 / fine - 0.5) + wide[:, 2]
        wide = np.column_stack([wide[:, :2] / fine, offset])
    warped = cv2.warpAffine(
        image,
        wide,
        (size[0] * fine, size[1] * fine),
        flags=_KERNELS[enlarge or "linear"] | cv2.WARP_INVERSE_MAP,
        borderMode=_BORDERS[border],
    )
    if fine > 1:
        warped = cv2.resize(warped, size, interpolation=cv2.INTER_AREA)
    return warped  # type: ignore[return-value]


def _to_complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]
