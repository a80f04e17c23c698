from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate.encoders import encoder
from mien.evaluate.official import Recipe
from mien.evaluate.pose import Pose
from mien.evaluate.tables import open_faces
from mien.evaluate.task import Result, Settings
from mien.files.errors import TableError


def _run(faces, encode, **settings: object) -> Result:
    return Pose.of(faces).run(encoder(encode), Settings(**settings), None, False)


def test_a_code_that_holds_yaw_only(coded_table: Path, reads: Callable) -> None:
    result = _run(open_faces([coded_table]), reads("yaw"))
    angles = result.details["angles"]
    assert angles["yaw"]["mae"] < 0.5
    assert angles["yaw"]["r2"] > 0.999
    for other in ("pitch", "roll"):
        assert abs(angles[other]["r2"]) < 0.1
        assert angles[other]["mae"] == pytest.approx(angles[other]["mae_of_mean"], rel=0.05)
    # Uniform angles: the mean absolute deviation from the mean is half the half-range.
    assert angles["pitch"]["mae_of_mean"] == pytest.approx(15, rel=0.1)
    for angle in angles.values():
        assert angle["interval"][0] <= angle["mae"] <= angle["interval"][1]
        assert angle["r2_interval"][0] <= angle["r2"] <= angle["r2_interval"][1]
    assert result.value == pytest.approx(np.mean([a["mae"] for a in angles.values()]))
    assert result.interval[0] < result.value < result.interval[1]


def test_r2_and_mae_are_scikit_learns(coded_table: Path, reads: Callable) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    result = _run(open_faces([coded_table]), reads("yaw", "light", noise=3))
    points = np.array(result.details["scatter"])
    assert len(points) == 288
    for i, angle in enumerate(result.details["angles"].values()):
        truth, guess = points[:, i], points[:, 3 + i]
        assert angle["mae"] == pytest.approx(mean_absolute_error(truth, guess), abs=0.01)
        assert angle["r2"] == pytest.approx(r2_score(truth, guess), abs=1e-3)


def test_train_on_one_table_test_on_another(
    coded_table: Path, write_coded: Callable, tmp_path: Path, reads: Callable
) -> None:
    other = write_coded(tmp_path / "other", persons=4, dataset="other")
    result = _run(open_faces([coded_table], [other]), reads("yaw", "pitch", "roll"))
    assert result.value < 0.5
    assert result.data["splits"] == [[240, 48, 48]]
    assert result.data["names"] == "coded → other"
    assert "tested on others" in result.settings["protocol"]
    assert "coded → other" in Pose.note([result])


def _wide(folder: Path) -> object:
    faces = open_faces([folder])
    faces.pose[::10, 1] = 120
    return faces


@pytest.mark.parametrize(
    ("protocol", "tested"), [("mien", 288 - 29), ("facecycle", 288)], ids=["mien", "facecycle"]
)
def test_large_angles_are_left_out_as_the_protocol_says(
    coded_table: Path, reads: Callable, protocol: str, tested: int
) -> None:
    result = _run(_wide(coded_table), reads("yaw"), protocol=protocol)
    assert sum(split[2] for split in result.data["splits"]) == tested
    assert sum(split[0] + split[1] for split in result.data["splits"]) == 4 * (288 - 29)
    assert result.data["left_out"] == 29
    assert ("train and test" in Pose.note([result])) == (protocol == "mien")


def test_the_recipe_of_pcl(
    coded_table: Path, reads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from mien.evaluate import pose

    short: Recipe = dataclasses.replace(pose.POSE, epochs=4)
    monkeypatch.setattr(pose, "POSE", short)
    result = _run(open_faces([coded_table]), reads("yaw"), protocol="pcl", folds=2)
    assert result.settings["probe"] == "pcl"
    for fold in result.details["folds"]:
        assert len(fold["curve"]) == 4
        assert fold["curve"][fold["epoch"] - 1] == max(fold["curve"])


def test_a_table_without_angles(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    faces.pose[:] = np.nan
    with pytest.raises(TableError, match="no head pose; prepare it again"):
        Pose.of(faces)
