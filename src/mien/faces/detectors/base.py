"""What the detectors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.faces.face import Array, Image
from mien.files.errors import ConfigError


class Detector(Protocol):
    """See ``mien.faces.detectors``."""

    def __call__(self, images: list[Image], /) -> list[Array]:
        """Return float32 ``(n, 5)`` an image: left, top, right, bottom, score."""
        ...


class PerImage(ABC):
    """A detector that looks at one image after the other."""

    def __call__(self, images: list[Image]) -> list[Array]:
        """Return float32 ``(n, 5)`` an image: left, top, right, bottom, score."""
        return [self.detect(image) for image in images]

    @abstractmethod
    def detect(self, image: Image) -> Array:
        """Return the boxes of one image."""


def to_boxes(rows: Any) -> Array:
    """Return rows of (left, top, right, bottom, score) as float32 ``(n, 5)``, best first."""
    boxes = np.asarray(rows, dtype=np.float32).reshape(-1, 5)
    return boxes[np.argsort(-boxes[:, 4], kind="stable")]


def one_per_face(boxes: Array, overlap: float = 0.4) -> Array:
    """Drop boxes ``(n, 5)``, scores above 0, whose IoU with a better one is above ``overlap``."""
    sides = np.column_stack([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2]]).astype(float)
    keep = cv2.dnn.NMSBoxes(sides.tolist(), boxes[:, 4].tolist(), 0.0, overlap)
    return to_boxes(boxes[np.asarray(keep, dtype=int)])


def shrink(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """Shrink so that the longer side has at most ``side`` pixels; return the factor too."""
    share = min(1.0, side / max(image.shape[:2]))
    return (image if share == 1 else resize(image, share)), share


def resize(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Resize both sides by ``share``."""
    size = [max(1, round(side * share)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def package(name: str) -> Any:
    """Import a package that this project does not depend on.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"The detector {name!r} is not installed ({error}): pip install {name}, or use 'dlib'."
        ) from None


def model_file(path: str | Path, name: str, kind: str) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        ConfigError: No path was given or there is no such file.
    """
    if not path or not Path(path).is_file():
        what = f"found no file {path}" if path else "needs a model file"
        raise ConfigError(f"The detector {name!r} {what}: name it as {name}:PATH.{kind}.")
    return Path(path)
