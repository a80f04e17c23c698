from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.lfw import Lfw, best_threshold, cosine, curve, tar_intervals, verify
from mien.evaluate.task import Settings
from mien.files.errors import ConfigError, TableError


@pytest.mark.parametrize(
    ("scores", "same", "threshold", "accuracy"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5, 1.0),
        ([0.9, 0.1, 0.2, 0.8], [1, 0, 0, 1], 0.5, 1.0),
        ([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1], 0.15, 0.75),  # 0.15 and 0.35 are as good
        ([0.5, 0.5, 0.5], [1, 1, 0], -0.5, 2 / 3),  # equal scores cannot be parted
        ([0.1, 0.2], [0, 0], 1.2, 1.0),
        ([0.1, 0.2], [1, 1], -0.9, 1.0),
    ],
)
def test_best_threshold(scores, same, threshold: float, accuracy: float) -> None:
    found = best_threshold(np.array(scores), np.array(same, bool))
    if threshold == 0.15:
        assert found[0] in (pytest.approx(0.15), pytest.approx(0.35))
    else:
        assert found[0] == pytest.approx(threshold)
    assert found[1] == pytest.approx(accuracy)


def test_best_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = np.round(rng.normal(size=50), 1)  # with ties
        same = rng.random(50) < 0.5
        threshold, accuracy = best_threshold(scores, same)
        assert accuracy == pytest.approx(((scores > threshold) == same).mean())
        grid = np.linspace(-4, 4, 1601)
        assert accuracy == pytest.approx(max(((scores > t) == same).mean() for t in grid))


def test_cosine() -> None:
    a = np.array([[1, 0], [1, 1], [0, 0]], np.float16)
    b = np.array([[2, 0], [-1, -1], [1, 1]], np.float16)
    assert cosine(a, b) == pytest.approx([1, -1, 0], abs=1e-6)


def test_the_curve_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.5
    scores = np.round(same + rng.normal(size=400), 1)
    found = curve(scores, same)
    far, tar, _ = roc_curve(same, scores)
    assert found["auc"] == pytest.approx(roc_auc_score(same, scores))
    assert found["tar"] == pytest.approx(tar[far <= 0.01].max())
    assert found["tar_at"]["0.01"] == found["tar"]
    assert found["tar_at"]["0.001"] == pytest.approx(tar[far <= 0.001].max())
    assert found["roc"][0] == [0, 0]
    assert found["roc"][-1] == [1, 1]


def test_the_interval_of_true_accepts() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(4000) % 2 == 0
    scores = rng.normal(size=4000) + 3 * same
    ends = tar_intervals(scores, same, repeats=300)
    points = curve(scores, same)["tar_at"]
    for rate, (low, high) in ends.items():
        assert low < points[rate] < high
    # Fewer false accepts are allowed: a smaller rate that is known less well.
    assert np.ptp(ends["0.001"]) > np.ptp(ends["0.01"])
    assert tar_intervals(scores, same, repeats=300) == ends


def test_the_interval_of_a_perfect_score() -> None:
    same = np.arange(200) % 2 == 0
    assert tar_intervals(same.astype(float), same, repeats=20)["0.001"] == [1, 1]


def _persons(folds: int = 4, pairs: int = 30, noise: float = 0.5, drowned: bool = True):
    """Embeddings of persons; if drowned, a loud direction that says nothing covers them."""
    rng = np.random.default_rng(0)
    values, index, same, fold = [], [], [], []
    for f in range(folds):
        people = rng.normal(size=(pairs, 20))
        for i in range(pairs):
            start = len(values)
            values += [people[i] + noise * rng.normal(size=20) for _ in range(2)]
            index.append((start, start + 1))
            same.append(True)
            fold.append(f)
        first = len(values) - 2 * pairs
        for i in range(pairs):
            index.append((first + 2 * i, first + (2 * i + 3) % (2 * pairs)))
            same.append(False)
            fold.append(f)
    x = np.array(values)
    if drowned:
        x[:, 0] += rng.normal(size=len(x)) * 40
    return x, np.array(index), np.array(same), np.array(fold)


def test_verify_chooses_the_treatment_that_works() -> None:
    found = verify(*_persons(), components=(10, 20))
    assert found["whitened"]["accuracy"] > found["raw"]["accuracy"] + 0.1
    assert found["chosen"]["accuracy"] == found["whitened"]["accuracy"]
    assert set(found["chosen"]["picked"]) == {"whitened 20"}
    assert set(found["raw"]["picked"]) == {"raw"}
    folds = np.array(found["chosen"]["folds"])
    assert found["chosen"]["accuracy"] == pytest.approx(folds.mean())
    assert found["chosen"]["error"] == pytest.approx(folds.std(ddof=1) / 2)


def test_the_measured_fold_has_no_part_in_any_choice() -> None:
    values, pairs, same, fold = _persons()
    before = verify(values, pairs, same, fold, components=(10,))
    lied = same.copy()
    lied[fold == 2] = ~lied[fold == 2]
    ruined = values.copy()
    ruined[np.unique(pairs[fold == 2])] = 1e3
    for changed in (
        verify(values, pairs, lied, fold, components=(10,)),
        verify(ruined, pairs, same, fold, components=(10,)),
    ):
        for name in ("thresholds", "picked"):
            assert changed["chosen"][name][2] == before["chosen"][name][2]
    assert verify(values, pairs, lied, fold, components=(10,))["chosen"]["folds"][2] < 0.5


def test_perfect_and_meaningless_embeddings() -> None:
    values, pairs, same, fold = _persons(noise=0, drowned=False)
    assert verify(values, pairs, same, fold)["raw"]["accuracy"] == 1
    rng = np.random.default_rng(1)
    nothing = verify(rng.normal(size=values.shape), pairs, same, fold)["chosen"]
    assert abs(nothing["accuracy"] - 0.5) < 0.15
    assert abs(nothing["auc"] - 0.5) < 0.15


def test_reading(lfw_folder: Path) -> None:
    task = Lfw.read(lfw_folder)
    assert task.crops.shape[1:] == (112, 112, 3)
    assert task.pairs.shape == (24, 2)
    assert task.same.tolist() == ([True] * 4 + [False] * 4) * 3
    assert task.fold.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    pictures = sorted(f for f in lfw_folder.glob("*/*.jpg"))
    by_content = {cv2.imread(str(f)).tobytes(): f.name for f in pictures}
    names = [by_content[crop[..., ::-1].tobytes()] for crop in task.crops]
    assert [names[i] for i in task.pairs[1]] == ["Person_01_0001.jpg", "Person_01_0003.jpg"]
    assert [names[i] for i in task.pairs[4]] == ["Person_00_0001.jpg", "Person_01_0003.jpg"]


def test_running(lfw_folder: Path) -> None:
    result = Lfw.read(lfw_folder).run(encoder("pixels,size=16"), Settings(), None, False)
    assert result.value > 0.9
    assert result.error is not None
    assert result.interval[0] <= result.value <= result.interval[1] <= 1
    assert result.data["pairs"] == 24
    assert {"chosen", "raw", "pca", "whitened"} == set(result.details)


def test_weights_that_saw_lfw_are_refused(lfw_folder: Path) -> None:
    seen = Encoder("mine", "", 16, lambda crops: crops.mean((1, 2)), seen=("lfw",))
    with pytest.raises(ConfigError, match="trained on pictures of LFW"):
        Lfw.read(lfw_folder).run(seen, Settings(), None, False)


def test_missing_pictures_are_counted(lfw_folder: Path) -> None:
    for name in ("Person_00", "Person_21"):
        (lfw_folder / name / f"{name}_0001.jpg").unlink()
    with pytest.raises(TableError, match=r"2 of \d+ pictures.*missing, first Person_00"):
        Lfw.read(lfw_folder)


def test_missing_folder_or_list(lfw_folder: Path) -> None:
    with pytest.raises(TableError, match=r"expected: NAME/NAME_0001\.jpg"):
        Lfw.read(lfw_folder.parent / "nowhere")
    (lfw_folder / "pairs.txt").unlink()
    with pytest.raises(TableError, match=r"pairs\.txt cannot be read"):
        Lfw.read(lfw_folder)


def test_uncropped_pictures_are_refused(lfw_folder: Path) -> None:
    for file in lfw_folder.glob("*/*.jpg"):
        cv2.imwrite(str(file), np.zeros((250, 250, 3), np.uint8))
    with pytest.raises(TableError, match="uncropped"):
        Lfw.read(lfw_folder)


@pytest.mark.parametrize(
    "text", ["", "hello\n", "2\t1\nA\t1\t2\nA\t1\tB\t1\n", "1\t1\nA\t1\t2\nA\t1\tB\t1\n"]
)
def test_a_broken_list_is_one_plain_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(TableError, match=r"pairs\.txt (is not|holds|has one fold)"):
        Lfw.read(tmp_path)


@pytest.mark.data
def test_the_official_list() -> None:
    task = Lfw.read(Path(os.environ["MIEN_DATA"]) / "lfw")
    assert len(task.crops) == 7701
    assert task.same.sum() == 3000
    assert np.bincount(task.fold).tolist() == [600] * 10
    for k in range(10):  # no picture is in two folds
        held = np.unique(task.pairs[task.fold == k])
        assert not np.isin(held, task.pairs[task.fold != k]).any()
