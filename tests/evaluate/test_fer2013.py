from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate.encoders import encoder
from mien.evaluate.fer2013 import EXPRESSIONS, Fer2013
from mien.evaluate.task import Settings
from mien.files.errors import ImageError, TableError

CSV_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def _run(task: Fer2013, spec: str = "hog,size=48", **settings: object):
    return task.run(encoder(spec), Settings(**settings), None, False)


def test_folders(fer_folder: Path) -> None:
    task = Fer2013.read(fer_folder)
    assert task.crops.shape == (7 * 14 + 1, 48, 48)
    assert [(task.split == s).sum() for s in range(3)] == [57, 21, 21]
    assert np.bincount(task.labels).tolist() == [14, 14, 14, 15, 14, 14, 14]


def test_the_probe_tells_the_classes_apart(fer_folder: Path) -> None:
    result = _run(Fer2013.read(fer_folder))
    assert result.value > 0.8
    assert result.interval[0] <= result.value <= result.interval[1]
    counts = np.array(result.details["confusion"])
    assert counts.sum(1).tolist() == [3] * 7
    assert counts.trace() / 21 == pytest.approx(result.value)
    assert result.dims == 900
    assert result.data["test"] == 21


def test_meaningless_features_stay_near_chance(fer_folder: Path) -> None:
    rng = np.random.default_rng(0)
    result = Fer2013.read(fer_folder).run(
        encoder(lambda crops: rng.normal(size=(len(crops), 8))), Settings(), None, False
    )
    assert result.value < 0.5


def test_clean_drops_the_copies_from_train(fer_folder: Path) -> None:
    task = Fer2013.read(fer_folder)
    assert task.copies().sum() == 1
    assert task.labels[task.copies()].tolist() == [EXPRESSIONS.index("happy")]
    assert _run(task).data["train"] == 57
    cleaned = _run(task, clean=True)
    assert cleaned.data["train"] == 56
    assert cleaned.settings["clean"]


def test_pca_is_fitted_on_train_only(fer_folder: Path) -> None:
    task = Fer2013.read(fer_folder)
    result = _run(task, "pixels,pca=20")
    assert result.settings["pca"] == 20
    assert result.dims == 2304
    # Ruining the test pictures may not change what validation says.
    task.crops[task.split == 2] = 0
    assert _run(task, "pixels,pca=20").details["tried"] == result.details["tried"]


def test_the_csv_gives_the_same_set(fer_folder: Path) -> None:
    task = Fer2013.read(fer_folder)
    other = fer_folder.parent / "csv"
    other.mkdir()
    usage = ("Training", "PublicTest", "PrivateTest")
    with (other / "fer2013.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["emotion", "pixels", "Usage"])
        for crop, label, split in zip(task.crops, task.labels, task.split, strict=True):
            emotion = CSV_ORDER.index(EXPRESSIONS[label])
            writer.writerow([emotion, " ".join(map(str, crop.ravel())), usage[split]])
    again = Fer2013.read(other)
    for name in ("crops", "labels", "split"):
        assert np.array_equal(getattr(again, name), getattr(task, name))


@pytest.mark.parametrize("row", ["9,1 2 3,Training", "0,1 2 3,Train_"])
def test_a_csv_row_without_labels_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(TableError, match=r"fer2013\.csv#0"):
        Fer2013.read(tmp_path)


def test_a_missing_folder_says_which_layout_is_expected(fer_folder: Path) -> None:
    with pytest.raises(TableError, match=r"does not exist.*train\|validation\|test.*fer2013\.csv"):
        Fer2013.read(fer_folder.parent / "nowhere")


@pytest.mark.parametrize("gone", ["validation/sad/*", "test/*/*"])
def test_a_split_without_a_class(fer_folder: Path, gone: str) -> None:
    for file in fer_folder.glob(gone):
        file.unlink()
    with pytest.raises(TableError, match=r"no pictures of '(sad|angry)' in its split '(val|test)'"):
        Fer2013.read(fer_folder)


def test_an_empty_csv(tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(TableError, match="no pictures of 'angry'"):
        Fer2013.read(tmp_path)


def test_a_text_file_named_jpg_is_named(fer_folder: Path) -> None:
    (fer_folder / "train" / "sad" / "aaa.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"aaa\.jpg"):
        Fer2013.read(fer_folder)


def test_the_fingerprint_is_of_contents_not_names(fer_folder: Path) -> None:
    before = Fer2013.read(fer_folder).fingerprint
    file = fer_folder / "test" / "sad" / "test_0.png"
    file.rename(file.with_name("other.png"))
    assert Fer2013.read(fer_folder).fingerprint == before
    file.with_name("other.png").unlink()
    assert Fer2013.read(fer_folder).fingerprint != before


@pytest.mark.data
def test_the_official_counts() -> None:
    task = Fer2013.read(Path(os.environ["MIEN_DATA"]) / "fer2013")
    assert [(task.split == s).sum() for s in range(3)] == [28709, 3589, 3589]
    assert np.bincount(task.labels[task.split == 2]).tolist() == [491, 55, 528, 879, 626, 594, 416]
    assert task.copies().sum() > 500
