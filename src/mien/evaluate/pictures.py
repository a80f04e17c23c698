"""Pictures of a test set in memory: decoding, resizing, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mien.faces.face import Image
from mien.files.errors import ImageError


def decode(data: bytes, *, name: str, size: int, grey: bool = False) -> Image:
    """Decode one stored crop.

    Args:
        data: Encoded bytes (JPEG, PNG).
        name: What to call the picture in an error.
        size: Side that the crop must have; another one is resized.
        grey: Return ``(S, S)`` instead of ``(S, S, 3)`` RGB.

    Raises:
        ImageError: Not a picture.
    """
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise ImageError(f"{name} is not a readable picture; fetch it again or remove it.")
    if image.shape[:2] != (size, size):
        image = resize(np.asarray(image, np.uint8)[None], size)[0]
    return np.asarray(image, np.uint8)


def read_pictures(
    files: Sequence[Path], *, size: int, grey: bool = False
) -> tuple[Image, list[str]]:
    """Read crops and the SHA-256 of each file.

    Returns:
        uint8 ``(N, S, S, 3)`` RGB, or ``(N, S, S)`` if ``grey``; N hex hashes.
    """
    shape = (len(files), size, size) if grey else (len(files), size, size, 3)
    crops = np.empty(shape, np.uint8)
    hashes = []
    for i, file in enumerate(files):
        data = file.read_bytes()
        hashes.append(hashlib.sha256(data).hexdigest())
        crops[i] = decode(data, name=str(file), size=size, grey=grey)
    return crops, hashes


def fingerprint(hashes: Iterable[str]) -> str:
    """Return the SHA-256 over the sorted content hashes of a data set."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def resize(crops: Image, size: int) -> Image:
    """Resize ``(B, S, S)`` or ``(B, S, S, 3)`` to side ``size``: by area down, linear up."""
    if crops.shape[1:3] == (size, size):
        return crops
    how = cv2.INTER_AREA if crops.shape[1] > size else cv2.INTER_LINEAR
    out = [cv2.resize(crop, (size, size), interpolation=how) for crop in crops]
    return np.stack(out).astype(np.uint8, copy=False)


def to_rgb(crops: Image) -> Image:
    """Return ``(B, S, S, 3)``; grey ``(B, S, S)`` is repeated over the channels."""
    return crops if crops.ndim == 4 else np.repeat(crops[..., None], 3, axis=3)
