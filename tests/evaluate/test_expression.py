from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.evaluate import classify as classify_module
from mien.evaluate.classify import few_labels, nearest_neighbours
from mien.evaluate.encoders import encoder
from mien.evaluate.expression import Expressions, RafDb
from mien.evaluate.tables import open_faces
from mien.evaluate.task import Result, Settings
from mien.files.errors import TableError


def _run(faces, encode, **settings: object) -> Result:
    return Expressions.of(faces).run(encoder(encode), Settings(**settings), None, False)


def test_a_code_that_holds_the_expression(coded_table: Path, reads: Callable) -> None:
    result = _run(
        open_faces([coded_table]), reads("expression"), knn=True, few_labels=True, folds=2
    )
    assert result.value == 1
    assert result.details["classes"] == ["happy", "neutral", "sad", "surprise"]
    assert len(result.details["folds"]) == 2
    assert result.details["knn"]["accuracy"] == 1
    assert set(result.details["few_labels"]) == {"0.01", "0.1"}
    assert result.details["few_labels"]["0.1"]["accuracy"] > 0.95


def test_a_code_that_does_not(coded_table: Path, reads: Callable) -> None:
    result = _run(open_faces([coded_table]), reads("yaw", "identity"))
    assert abs(result.value - 0.25) < 0.09
    assert result.interval[0] < result.value < result.interval[1]
    assert result.details["most_frequent"] == pytest.approx(0.25, abs=0.06)


def test_a_table_without_expressions(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    with pytest.raises(TableError, match="fewer than two expressions"):
        Expressions.of(dataclasses.replace(faces, expression=np.array([""] * 288)))


RAF = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@pytest.fixture
def raf_folder(tmp_path: Path) -> Path:
    """A small ``rafdb/`` in its own layout: a bar whose angle is the class, 100 px."""
    root = tmp_path / "data" / "rafdb"
    (root / "basic" / "EmoLabel").mkdir(parents=True)
    aligned = root / "basic" / "Image" / "aligned"
    aligned.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for split, count in (("train", 12), ("test", 4)):
        for label in range(7):
            for i in range(count):
                image = rng.integers(0, 40, (100, 100, 3)).astype(np.uint8)
                x, y = 40 * np.cos(np.pi * label / 7), 40 * np.sin(np.pi * label / 7)
                start, end = (int(50 - x), int(50 - y)), (int(50 + x), int(50 + y))
                cv2.line(image, start, end, (255, 200, 180), 8)
                name = f"{split}_{label}{i:03d}"
                cv2.imwrite(str(aligned / f"{name}_aligned.jpg"), image)
                lines.append(f"{name}.jpg {label + 1}")
    (root / "basic" / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    return root


def test_rafdb_in_its_own_layout(raf_folder: Path) -> None:
    task = RafDb.read(raf_folder)
    assert task.classes == tuple(sorted(RAF))
    assert task.faces.parts[0].shape == (112, 100, 100, 3)
    result = task.run(encoder("hog"), Settings(), None, False)
    assert result.task == "rafdb"
    assert result.value > 0.9
    assert result.data["splits"][0][2] == 28
    assert sum(result.data["splits"][0][:2]) == 84
    assert "own split" in result.settings["protocol"]


@pytest.mark.parametrize("protocol", ["facecycle", "pcl"])
def test_the_recipes_of_the_papers_train_on_all_training_pictures(
    raf_folder: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    trained = []
    real = classify_module.train_recipe

    def watch(recipe, features, *rest, **more):
        trained.append(len(features))
        return real(dataclasses.replace(recipe, epochs=3), features, *rest, **more)

    monkeypatch.setattr(classify_module, "train_recipe", watch)
    result = RafDb.read(raf_folder).run(encoder("hog"), Settings(protocol=protocol), None, False)
    assert trained == [84]
    assert result.settings["probe"] == protocol
    curve = result.details["curve"]
    assert result.value == pytest.approx(max(curve) if protocol == "pcl" else curve[-1])


def test_rafdb_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="list_patition_label"):
        RafDb.read(tmp_path / "rafdb")


def _blobs(count: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.eye(3)[labels] * 4
    return centres + rng.normal(size=(count, 3)) * spread, labels.astype(np.int64)


def test_neighbours() -> None:
    train, val, test = _blobs(300, 1.0, 0), _blobs(60, 1.0, 1), _blobs(60, 1.0, 2)
    found = nearest_neighbours(train, val, test)
    assert found["accuracy"] > 0.9
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert str(found["k"]) in found["tried"]
    assert max(found["tried"].values()) == found["tried"][str(found["k"])]
    assert nearest_neighbours(_blobs(4, 0.1, 0), val, test)["k"] == 1  # no more than there are


def test_few_labels_use_few_labels() -> None:
    train, val, test = _blobs(600, 2.0, 0), _blobs(300, 2.0, 1), _blobs(300, 2.0, 2)
    found = few_labels(train, val, test, 3)
    assert found["0.01"]["labels"] == 3 * 2 + 3
    assert found["0.1"]["labels"] == 60 + 30
    assert found["0.01"]["accuracy"] <= found["0.1"]["accuracy"] + 0.02
    assert len(set(found["0.01"]["draws"])) > 1
    assert few_labels(train, val, test, 3) == found
