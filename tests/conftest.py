"""A face that needs no detector and a method that needs no training, for tests of whole photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.faces.face import Face, Image
from mien.faces.find import face_from_landmarks
from mien.methods.base import Codes, Edit, Method


class ToyMethod(Method):
    """Neutralising moves the face by a flow; swapping takes the driver's mean colour."""

    name = "toy"

    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 32

    def __init__(self) -> None:
        super().__init__(self.Config(), "main")
        self.calls = 0

    def neutralise(self, images: Tensor, strength: float = 1.0) -> Edit:
        from mien.data.warp import warp

        self.calls += 1
        flow = torch.zeros(len(images), 2, 8, 8)
        flow[:, 0] = -0.2 * strength
        return Edit(warp(images, flow) + 0.1 * strength, flow)

    def to_mean_face(self, images: Tensor, strength: float = 1.0) -> Edit:
        return Edit(images + strength * (0 - images))

    def swap_identity(self, images: Tensor, drivers: Tensor, strength: float = 1.0) -> Edit:
        mean = drivers.mean((2, 3), keepdim=True)
        return Edit(images + strength * (mean - images))

    def encode(self, images: Tensor) -> Codes:
        return {"identity": images.mean((2, 3)), "expression": images.amax((2, 3))}


class ToyFinder:
    """Finds ``count`` faces side by side in any photo."""

    def __init__(self, count: int = 1, size: int = 32) -> None:
        self.count, self.size = count, size

    def __call__(
        self, images: Sequence[Image], sources: Sequence[str] | None = None
    ) -> list[list[Face]]:
        names = sources or [""] * len(images)
        return [
            [self._face(image, name, i) for i in range(self.count)]
            for image, name in zip(images, names, strict=True)
        ]

    def _face(self, image: Image, name: str, number: int) -> Face:
        height, width = image.shape[:2]
        centre = np.array([width * (number + 0.5) / self.count, height / 2])
        points = drawn_landmarks() * min(width / self.count, height) / 3 + centre
        return face_from_landmarks(image, points, "tight", self.size, name)


def drawn_landmarks() -> np.ndarray:
    """Return 68 points of a schematic upright face, about 2 units wide around (0, 0)."""

    def arc(
        n: int, x: float, y: float, rx: float, ry: float, start: float, end: float
    ) -> np.ndarray:
        t = np.radians(np.linspace(start, end, n))
        return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], -1)

    nose = np.stack([np.zeros(4), np.linspace(-0.3, 0.15, 4)], -1)
    return np.concatenate(
        [
            arc(17, 0, 0, 1, 1.1, 180, 0),
            arc(5, -0.45, -0.5, 0.3, 0.1, 180, 360),
            arc(5, 0.45, -0.5, 0.3, 0.1, 180, 360),
            nose,
            arc(5, 0, 0.2, 0.15, 0.08, 180, 0),
            arc(6, -0.4, -0.3, 0.15, 0.07, 180, 480),
            arc(6, 0.4, -0.3, 0.15, 0.07, 180, 480),
            arc(12, 0, 0.55, 0.35, 0.15, 180, 510),
            arc(8, 0, 0.55, 0.25, 0.06, 180, 495),
        ]
    ).astype(np.float32)


@pytest.fixture
def toy_method() -> Method:
    return ToyMethod()


@pytest.fixture
def toy_finder() -> Callable[..., ToyFinder]:
    return ToyFinder


@pytest.fixture
def photo() -> Image:
    """A 200 x 160 picture with fine texture."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(60, 180, 200, dtype=np.float32)[None, :, None]
    noise = rng.normal(0, 20, (160, 200, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a clip with a tone, its pictures at given 25ths of a second."""

    def make(pictures: Sequence[Image], times: Sequence[int], name: str = "spoken.mp4") -> Path:
        import av

        path = tmp_path / name
        with av.open(str(path), "w") as container:
            video = container.add_stream("libx264", rate=25)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt, video.options = "yuv420p", {"crf": "10"}
            video.codec_context.time_base = Fraction(1, 25)
            sound = container.add_stream("aac", rate=16000)
            for i in range(16 * (times[-1] + 2) // 25 + 1):
                tone = np.sin(np.arange(1000 * i, 1000 * (i + 1)) / 20, dtype=np.float32)
                heard = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 16000, 1000 * i
                container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
            for image, time in zip(pictures, times, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        return path

    return make
