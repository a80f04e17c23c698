"""Drawn faces and smooth photos: everything that faces/ is tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from mien.faces.align import warp_crop
from mien.faces.detectors import detector
from mien.faces.detectors.base import Detector
from mien.faces.face import Face, Image
from mien.faces.landmarks import Landmarks


def _draw_face(canvas: Image, x: float, y: float, side: float) -> Image:
    """Draw a face of ``side`` px from brows to chin that a HOG detector takes for one."""
    picture, unit = canvas.copy(), side / 100

    def oval(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, ...]) -> None:
        centre = (round((x + dx * unit) * 16), round((y + dy * unit) * 16))
        axes = (round(rx * unit * 16), round(ry * unit * 16))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA, 4)

    skin, dark, shade = (215, 170, 145), (50, 35, 30), (170, 120, 100)
    oval(0, -8, 52, 72, dark)
    oval(0, 0, 45, 62, skin)
    for s in (-1, 1):
        oval(s * 20, -24, 13, 3, dark)
        oval(s * 20, -12, 12, 8, shade)
        oval(s * 20, -12, 9, 4.5, (250, 250, 250))
        oval(s * 20, -12, 4, 4, dark)
        oval(s * 5, 14, 4, 2.5, (110, 70, 60))
    oval(0, 10, 8, 6, shade)
    oval(0, 12, 6, 4, skin)
    oval(0, 33, 19, 5, (160, 60, 60))
    oval(0, 33, 17, 1.2, (90, 30, 30))
    oval(0, 44, 12, 2, shade)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(unit * 1.2, 0.1)), dtype=np.uint8)


def _shape68() -> np.ndarray:
    """Return 68 points of a face whose box is about (-1, -1) to (1, 1)."""
    jaw = np.radians(np.linspace(180, 0, 17))
    points = np.zeros((68, 2))
    points[:17] = np.stack([np.cos(jaw), -0.4 + 1.4 * np.sin(jaw)], -1)
    points[17:22] = np.linspace((-0.8, -0.9), (-0.2, -0.9), 5)
    points[22:27] = np.linspace((0.2, -0.9), (0.8, -0.9), 5)
    points[27:31] = np.linspace((0, -0.6), (0, 0.0), 4)
    points[31:36] = np.linspace((-0.2, 0.1), (0.2, 0.1), 5)
    ring = np.radians(np.arange(180, 540, 60))
    points[36:42] = np.stack([-0.45 + 0.15 * np.cos(ring), -0.55 + 0.07 * np.sin(ring)], -1)
    points[42:48] = np.stack([0.45 + 0.15 * np.cos(ring), -0.55 + 0.07 * np.sin(ring)], -1)
    ring = np.radians(np.arange(180, 540, 30))
    points[48:60] = np.stack([0.35 * np.cos(ring), 0.5 + 0.15 * np.sin(ring)], -1)
    ring = np.radians(np.arange(180, 540, 45))
    points[60:68] = np.stack([0.25 * np.cos(ring), 0.5 + 0.05 * np.sin(ring)], -1)
    return points


@pytest.fixture(scope="session")
def dlib_detector() -> Detector:
    """The default detector, which takes a while to make."""
    return detector("dlib")


@pytest.fixture
def draw_face() -> Callable[[Image, float, float, float], Image]:
    """Draw a face at (x, y) whose box has about ``side`` px."""
    return _draw_face


@pytest.fixture
def canvas() -> Callable[[int, int], Image]:
    """A plain picture of a width and a height."""
    return lambda width, height: np.full((height, width, 3), (120, 140, 160), np.uint8)


@pytest.fixture(scope="session")
def shape68() -> np.ndarray:
    return _shape68()


@pytest.fixture
def smooth_photo() -> Callable[..., Image]:
    """A photo without detail below ``blur`` px."""

    def make(width: int = 320, height: int = 240, blur: float = 6.0, seed: int = 0) -> Image:
        noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
        soft = np.asarray(cv2.GaussianBlur(noise, (0, 0), blur))
        return np.clip((soft - soft.mean()) / soft.std() * 50 + 127, 0, 255).astype(np.uint8)

    return make


@pytest.fixture
def face_at() -> Callable[..., Face]:
    """A face whose crop is centred at (x, y), ``scale`` photo px a crop px, turned by degrees."""

    def make(
        photo: Image, x: float, y: float, scale: float, degrees: float = 0.0, size: int = 64
    ) -> Face:
        turn = scale * np.exp(1j * np.radians(degrees))
        linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
        shift = np.array([x, y]) - linear @ np.full(2, (size - 1) / 2)
        to_photo = np.column_stack([linear, shift]).astype(np.float32)
        points = (_shape68() * size * 0.35) @ linear.T + (x, y)
        return Face(
            crop=warp_crop(photo, to_photo, size),
            landmarks=points.astype(np.float32),
            to_photo=to_photo,
            box=np.concatenate([points.min(0), points.max(0)]).astype(np.float32),
            score=1.0,
        )

    return make


@pytest.fixture
def template_landmarker() -> Callable[..., Any]:
    """A landmark finder that fits a fixed shape into every box; its scores can be given."""

    def make(scores: list[float] | None = None) -> Callable[..., list[Landmarks]]:
        def find(images: list[Image], boxes: list[np.ndarray]) -> list[Landmarks]:
            left, result = list(scores or []), []
            for found in boxes:
                assert found.shape[1:] == (4,)
                centre, half = (found[:, :2] + found[:, 2:]) / 2, (found[:, 2:] - found[:, :2]) / 2
                points = centre[:, None] + _shape68() * half[:, None]
                n = len(found)
                score = [left.pop(0) for _ in range(n)] if scores else [1.0] * n
                pose = np.tile(np.array([1, 2, 3], np.float32), (n, 1))
                result.append(
                    Landmarks(points.astype(np.float32), np.array(score, np.float32), pose)
                )
            return result

        return find

    return make
