from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mien.evaluate import landmarks as module
from mien.evaluate.landmarks import SETS, evaluate_landmarks, jittered_boxes
from mien.faces.landmarks import LandmarkNet, Landmarks
from mien.files.errors import ConfigError, TableError, WeightsError
from mien.files.weights import save_weights

SIDE = 64


def _face(seed: int) -> np.ndarray:
    """68 points inside a 64 px picture, eyes apart."""
    points = np.random.default_rng(seed).uniform(12, 52, (68, 2))
    points[36:42] = (20, 24)
    points[42:48] = (44, 24)
    return points


def _write(root: Path, name: str, files: list[str], yaw: list[float], extra: float = 0.5) -> None:
    rows = []
    for i, file in enumerate(files):
        target = root / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.full((SIDE, SIDE, 3), 40 + i, np.uint8))
        rows.append((_face(i) + extra).ravel().astype(np.float16 if extra else np.float32))
    where = root / "annotations" / f"{name}.parquet"
    if name == "ict_faces":
        where = root / name / "labels.parquet"
    where.parent.mkdir(exist_ok=True)
    angle = pa.array(yaw, pa.float32())
    key = "image" if name == "ict_faces" else "file"
    table = pa.table(
        {
            key: files,
            "landmarks68": pa.array([r.astype(np.float32) for r in rows], pa.list_(pa.float32())),
            "yaw": angle,
            "pitch": angle,
            "roll": angle,
        }
    )
    pq.write_table(table, where)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    _write(root, "omi", [f"{i}.jpg" for i in range(8, 22)], [0.0] * 14)
    _write(root, "london", ["001_neutral.jpg", "001_smiling.jpg"], [0.0, 20.0])
    _write(root, "ict_faces", ["images/0/0.jpg", "images/0/1.jpg"], [40.0, -40.0], extra=0)
    _write(root, "utkface", ["a.jpg", "b.jpg", "c.jpg"], [1.0, 2.0, 3.0])
    (root / "utkface" / "splits.csv").write_text(
        "file,group,split\na.jpg,0,train\nb.jpg,1,test\nc.jpg,2,val\n"
    )
    _write(root, "lfw", ["A/A_0001.jpg", "B/B_0001.jpg", "C/C_0001.jpg"], [0.0] * 3)
    (root / "lfw" / "folds.csv").write_text("name,fold\nA,1\nB,9\nC,10\n")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "net.safetensors"
    net = LandmarkNet(width=4)
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    save_weights(file, tensors, {"method": "landmarks", "config": {"width": 4}})
    return file


class Oracle:
    """A landmarker that knows the pictures by their grey level and is off by (3, 4) pixels."""

    def __init__(self, path: Path) -> None:
        pass

    def __call__(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Landmarks]:
        out = []
        for image, box in zip(images, boxes, strict=True):
            points = _face(round(float(image.mean())) - 40) + np.array([3, 4])
            n = len(box)
            out.append(
                Landmarks(
                    np.repeat(points[None], n, 0).astype(np.float32),
                    np.ones(n, np.float32),
                    np.full((n, 3), 5, np.float32),
                )
            )
        return out


def test_only_held_out_pictures_are_measured(data: Path, weights: Path) -> None:
    report = evaluate_landmarks(data, weights=weights, progress=False)
    assert {k: v["pictures"] for k, v in report.sets.items()} == {
        "utkface": 1,
        "lfw": 2,
        "omi": 2,
        "london": 2,
        "ict_faces": 2,
    }


def test_the_error_is_that_of_the_network(
    data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Landmarker", Oracle)
    report = evaluate_landmarks(data, ["london", "ict_faces"], weights=weights, progress=False)
    for name in ("london", "ict_faces"):  # both conventions of pixels: 5 px over 24
        assert report.sets[name]["bins"]["all"]["nme"] == pytest.approx(5 / 24, abs=2e-3)
        assert report.sets[name]["bins"]["all"]["nme_no_jaw"] == pytest.approx(5 / 24, abs=2e-3)
    assert report.sets["london"]["bins"]["0-15"]["yaw"] == pytest.approx(5)
    assert report.sets["london"]["bins"]["15-30"]["yaw"] == pytest.approx(15)
    assert report.sets["ict_faces"]["bins"]["30-"]["yaw"] == pytest.approx(40)
    assert "MediaPipe" in report.sets["london"]["truth"]
    assert "exact" in report.sets["ict_faces"]["truth"]


def test_end_to_end_counts_what_the_detector_misses(
    data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Landmarker", Oracle)
    found = evaluate_landmarks(data, ["omi"], weights=weights, detector="crop", progress=False)
    assert found.sets["omi"]["found"] == 2
    assert "detector crop" in found.settings["boxes"]
    none = evaluate_landmarks(data, ["omi"], weights=weights, detector="dlib", progress=False)
    assert none.sets["omi"]["found"] == 0  # flat grey: no face for dlib
    assert none.sets["omi"]["pictures"] == 2
    assert "–" in none.markdown()


def test_the_report_is_saved_as_plain_json(data: Path, weights: Path, tmp_path: Path) -> None:
    report = evaluate_landmarks(data, ["omi"], weights=weights, out=tmp_path / "o", progress=False)
    read = json.loads(
        (tmp_path / "o" / "landmarks.json").read_text(), parse_constant=lambda c: pytest.fail(c)
    )
    assert read["sets"]["omi"]["bins"]["30-"]["nme"] is None
    assert len(read["settings"]["sha256"]) == 64
    assert (tmp_path / "o" / "landmarks.md").read_text() == report.markdown()


def test_a_limit_spreads_evenly(data: Path, weights: Path) -> None:
    report = evaluate_landmarks(data, ["omi"], weights=weights, limit=1, progress=False)
    assert report.sets["omi"]["pictures"] == 1


def test_boxes_are_seeded_and_lie_on_the_face() -> None:
    points = np.stack([_face(i) for i in range(50)])
    one, two, other = (jittered_boxes(points, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    side = (one[:, 2:] - one[:, :2]) / np.ptp(points, axis=1).max(1)[:, None]
    assert np.allclose(side[:, 0], side[:, 1])
    assert side.min() >= 1.1 / 1.15 - 1e-5
    assert side.max() <= 1.1 * 1.15 + 1e-5
    assert np.ptp(side) > 0.1


def test_errors(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'london'"):
        evaluate_landmarks(data, ["londn"], weights=weights)
    with pytest.raises(TableError, match="holds none of the annotated sets"):
        evaluate_landmarks(tmp_path, weights=weights)
    with pytest.raises(WeightsError):
        evaluate_landmarks(data, weights=tmp_path / "nothing.safetensors")
    (data / "utkface" / "splits.csv").unlink()
    with pytest.raises(TableError, match="splits"):
        SETS["utkface"](data)
    (data / "annotations" / "omi.parquet").unlink()
    with pytest.raises(TableError, match="annotations of omi"):
        SETS["omi"](data)
