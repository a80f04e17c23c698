"""Miniature test sets in the official layouts, drawn, not photographed."""

from __future__ import annotations

from collections.abc import Callable
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


BLOCKS = {  # which 4x4 blocks of a coded crop hold which factor
    "identity": (0, 1, 2, 3),
    "yaw": (4,),
    "pitch": (5,),
    "roll": (6,),
    "expression": (7, 8, 9, 10),
    "light": (11,),
    "makeup": (12,),
    "units": (13, 14),
}
CODED_EXPRESSIONS = ("happy", "neutral", "sad", "surprise")


def write_coded_table(
    folder: Path,
    persons: int = 24,
    frames: int = 12,
    *,
    dataset: str = "coded",
    split: str | None = None,
    first_person: int = 0,
) -> Path:
    """Write a table of 16 px crops whose 16 blocks are the labels themselves, and nothing else."""
    from mien.data.table import Row, TableWriter
    from mien.faces.image import encode_image

    with TableWriter(folder, crop="tight", size=16) as writer:
        for person in range(first_person, first_person + persons):
            who = np.random.default_rng([7, person])
            identity = who.uniform(0, 1, 4)
            for frame in range(frames):
                rng = np.random.default_rng([8, person, frame])
                angles = rng.uniform(-1, 1, 3) * (60, 30, 20)
                expression = int(rng.integers(4))
                light, makeup = rng.uniform(-70, 70), bool(rng.integers(2))
                units = rng.uniform(0, 1, 2) * (rng.random(2) < 0.6)
                values = np.zeros(16)
                values[:4] = identity
                values[4:7] = angles / (60, 30, 20) / 2 + 0.5
                values[7 + expression] = 1
                values[11:15] = light / 140 + 0.5, makeup, *units
                grey = np.kron(values.reshape(4, 4), np.ones((4, 4))) * 255
                crop = np.repeat(grey.round().astype(np.uint8)[..., None], 3, 2)
                row = Row(
                    encode_image(crop, "PNG"),
                    f"{person}/{frame}",
                    dataset=dataset,
                    person=str(person),
                    expression=CODED_EXPRESSIONS[expression],
                    makeup=makeup,
                    attributes={"light_azimuth": f"{light:.1f}", "note": "same for all"},
                    action_units={
                        "AU45": 0.01,  # so that no face counts as not coded; too weak to be present
                        **{n: float(v) for n, v in zip(("AU1", "AU12"), units, strict=True) if v},
                    },
                    split=split or "",
                )
                row.yaw, row.pitch, row.roll = (float(a) for a in angles)
                writer.add(row)
    return folder


@pytest.fixture
def coded_table(tmp_path: Path) -> Path:
    return write_coded_table(tmp_path / "coded")


@pytest.fixture
def write_coded() -> Callable[..., Path]:
    return write_coded_table


@pytest.fixture
def reads() -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
    """Make an encoder that sees only some factors of coded crops: ``reads("yaw", "light")``."""

    def make(*factors: str, noise: int = 0) -> Callable[[np.ndarray], np.ndarray]:
        chosen = [block for factor in factors for block in BLOCKS[factor]]

        def encode(crops: np.ndarray) -> np.ndarray:
            grey = crops[..., 0].astype(np.float32).reshape(len(crops), 4, 4, 4, 4).mean((2, 4))
            own = grey.reshape(len(crops), 16)[:, chosen] / 255
            if not noise:
                return own
            # Noise that is a function of the crop, so that equal calls give equal embeddings.
            seeds = [int(crop.astype(np.int64).sum()) for crop in crops]
            more = [np.random.default_rng(s).normal(size=noise) for s in seeds]
            return np.concatenate([own, np.array(more, np.float32)], 1)

        encode.__name__ = "_".join(factors) or "noise"
        encode.input_size = 16  # type: ignore[attr-defined]
        return encode

    return make
