from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.evaluate.cplfw import Cplfw, read_pairs
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.task import Settings
from mien.files.errors import ConfigError, TableError


@pytest.fixture
def cplfw_folder(tmp_path: Path) -> Path:
    """``cplfw/`` with 20 + 20 pairs of 20 persons, two lines a pair, those of one person first."""
    root = tmp_path / "data" / "cplfw"
    (root / "aligned images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    same, different = [], []
    for person in range(20):
        face = rng.integers(0, 256, (7, 7, 3)).astype(np.uint8)
        for k in (1, 2):
            image = cv2.resize(face, (112, 112), interpolation=cv2.INTER_CUBIC)
            image = cv2.add(image, rng.integers(0, 30, image.shape).astype(np.uint8))
            cv2.imwrite(str(root / "aligned images" / f"P_{person}_{k}.jpg"), image)
        same += [f"P_{person}_1.jpg 1", f"P_{person}_2.jpg 1"]
        different += [f"P_{person}_1.jpg 0", f"P_{(person + 1) % 20}_2.jpg 0"]
    (root / "pairs_CPLFW.txt").write_text("\n".join(same + different) + "\n")
    return root


def test_reading_and_running(cplfw_folder: Path) -> None:
    task = Cplfw.read(cplfw_folder)
    assert task.crops.shape == (40, 112, 112, 3)
    assert task.same.tolist() == [True] * 20 + [False] * 20
    assert np.bincount(task.fold[task.same]).tolist() == [2] * 10
    assert np.bincount(task.fold[~task.same]).tolist() == [2] * 10
    result = task.run(encoder("pixels,size=16"), Settings(), None, False)
    assert result.task == "cplfw"
    assert result.value > 0.9
    assert set(result.details["chosen"]["tar_at"]) == {"0.01", "0.001"}
    assert Cplfw.cells(result)[0] == f"{100 * result.value:.2f} ± {100 * result.error:.2f}"


def test_one_line_a_pair(cplfw_folder: Path) -> None:
    file = cplfw_folder / "pairs_CPLFW.txt"
    before = read_pairs(cplfw_folder)
    file.write_text("\n".join(f"{a} {b} {int(same)}" for _, a, b, same in before))
    assert read_pairs(cplfw_folder) == before


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 1\nb.jpg 0\n" * 20,  # labels of one pair differ
        "a.jpg 1\nb.jpg 1\na.jpg 0\n",  # half a pair
        "a.jpg b.jpg same\n" * 20,
        "",
        "a.jpg 1\nb.jpg 1\n" * 20,  # no pair of two persons
    ],
)
def test_other_lists(cplfw_folder: Path, text: str) -> None:
    (cplfw_folder / "pairs_CPLFW.txt").write_text(text)
    with pytest.raises(TableError, match="expected: pairs_CPLFW"):
        read_pairs(cplfw_folder)


def test_missing_pictures_and_folder(cplfw_folder: Path) -> None:
    (cplfw_folder / "aligned images" / "P_3_1.jpg").unlink()
    with pytest.raises(TableError, match=r"1 of 40 pictures.*first P_3_1\.jpg"):
        Cplfw.read(cplfw_folder)
    with pytest.raises(TableError, match="does not exist"):
        Cplfw.read(cplfw_folder.parent / "nowhere")


def test_weights_that_saw_lfw_are_refused(cplfw_folder: Path) -> None:
    seen = Encoder("mine", "", 16, lambda crops: crops.mean((1, 2)), seen=("lfw",))
    with pytest.raises(ConfigError, match="trained on pictures of LFW"):
        Cplfw.read(cplfw_folder).run(seen, Settings(), None, False)
