"""Miniature test sets in the official layouts, drawn, not photographed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def fer_picture(label: int, rng: np.random.Generator) -> np.ndarray:
    """A bar whose angle is the class, 48x48 grey."""
    image = np.full((48, 48), 128, np.uint8)
    angle = np.pi * label / 7
    x, y = 18 * np.cos(angle), 18 * np.sin(angle)
    cx, cy = rng.integers(21, 28, 2)
    start, end = (int(cx - x), int(cy - y)), (int(cx + x), int(cy + y))
    cv2.line(image, start, end, int(rng.integers(180, 255)), 4)
    return cv2.add(image, rng.integers(0, 20, image.shape).astype(np.uint8))


@pytest.fixture
def fer_folder(tmp_path: Path) -> Path:
    """``fer2013/`` with 8, 3 and 3 pictures a class; one test picture is also in train."""
    root = tmp_path / "data" / "fer2013"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3), ("test", 3)):
        for label, name in enumerate(EXPRESSIONS):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{split}_{i}.png"), fer_picture(label, rng))
    copy = (root / "test" / "happy" / "test_0.png").read_bytes()
    (root / "train" / "happy" / "copy.png").write_bytes(copy)
    return root


@pytest.fixture
def lfw_folder(tmp_path: Path) -> Path:
    """``lfw/`` with 3 folds of 4 + 4 pairs: 4 persons a fold, 3 pictures each."""
    root = tmp_path / "data" / "lfw"
    rng = np.random.default_rng(0)
    lines = ["3\t4"]
    for fold in range(3):
        names = [f"Person_{fold}{i}" for i in range(4)]
        for name in names:
            (root / name).mkdir(parents=True)
            face = rng.integers(0, 256, (7, 7, 3)).astype(np.uint8)
            for k in range(3):
                image = cv2.resize(face, (112, 112), interpolation=cv2.INTER_CUBIC)
                image = cv2.add(image, rng.integers(0, 30, image.shape).astype(np.uint8))
                cv2.imwrite(str(root / name / f"{name}_{k + 1:04d}.jpg"), image)
        lines += [f"{name}\t1\t{2 + i % 2}" for i, name in enumerate(names)]
        lines += [f"{names[i]}\t1\t{names[(i + 1) % 4]}\t3" for i in range(4)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root
