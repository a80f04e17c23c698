from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate import official, reproduce
from mien.evaluate.encoders import encoder
from mien.evaluate.fer2013 import Fer2013
from mien.evaluate.task import Settings
from mien.files.errors import ConfigError, WeightsError


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    short = {k: dataclasses.replace(v, epochs=2) for k, v in official.EXPRESSION.items()}
    monkeypatch.setattr("mien.evaluate.classify.EXPRESSION", short)


def _run(publication: str, data: Path, spec: str = "hog,size=48", **more: object):
    return reproduce(publication, spec, data=data, cache=False, progress=False, **more)


def test_one_table_of_what_is_there(fer_folder: Path, lfw_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _run("facecycle", fer_folder.parent, out=out)
    rows = {row["measure"]: row for row in done.rows}
    assert [row["published"] for row in done.rows] == [
        48.76,
        71.01,
        73.72,
        58.52,
        11.7,
        12.76,
        12.94,
    ]
    fer = rows["FER-2013, linear probe"]
    task = Fer2013.read(fer_folder)
    alone = task.run(encoder("hog,size=48"), Settings(protocol="facecycle"), None, False)
    assert fer["ours"] == pytest.approx(100 * alone.value)
    assert fer["difference"] == pytest.approx(fer["ours"] - 48.76)
    assert fer["fingerprint"] == task.fingerprint
    assert rows["LFW, cosine"]["ours"] is not None
    for measure in ("RAF-DB, linear probe", "CPLFW, cosine", "300W-LP → AFLW2000, yaw MAE"):
        assert rows[measure]["ours"] is None
        assert rows[measure]["fingerprint"] == ""
        assert rows[measure]["missing"]
    text = done.markdown()
    assert "48.76 %" in text
    assert f"{fer['difference']:+.2f}" in text
    assert fer["fingerprint"][:12] in text
    assert "mien prepare 300w_lp:DIR" in text
    assert (out / "reproduce.md").read_text() == text
    assert json.loads((out / "reproduce.json").read_text())["rows"] == done.rows


def test_head_pose_from_the_arrays_that_the_papers_use(tmp_path: Path) -> None:
    for name, count in (("300w_lp", 60), ("aflw2000", 20)):
        rng = np.random.default_rng(count)
        poses = rng.uniform(-90, 90, (count, 3))
        images = np.zeros((count, 64, 64, 3), np.uint8)
        for k in range(3):
            images[:, k * 20 : k * 20 + 20] = (poses[:, k] + 100).astype(np.uint8)[
                :, None, None, None
            ]
        np.savez(tmp_path / f"{name}.npz", image=images, pose=poses)
    done = _run("facecycle", tmp_path, spec="pixels,size=16")
    pose = [row for row in done.rows if "MAE" in row["measure"]]
    assert [row["published"] for row in pose] == [11.70, 12.76, 12.94]
    assert all(row["ours"] < 40 and len(row["fingerprint"]) == 64 for row in pose)
    (result,) = done.results
    assert result.data["names"] == "pose_npz → pose_npz"
    assert result.settings["largest_angle"] == {"train": 99.0, "test": False}


def test_pcl_publishes_no_figures(lfw_folder: Path) -> None:
    done = _run("pcl", lfw_folder.parent)
    assert all(row["published"] is None and row["difference"] is None for row in done.rows)
    assert "no table of figures is published" in done.markdown()


def test_sizes_are_the_publications() -> None:
    from mien.evaluate.publications import _sized

    assert _sized("facecycle", "facecycle", "rafdb") == "facecycle,size=100"
    assert _sized("facecycle", "facecycle", "fer2013") == "facecycle"
    assert _sized("facecycle,size=32", "facecycle", "rafdb") == "facecycle,size=32"
    assert _sized("facecycle@identity", "facecycle", "rafdb") == "facecycle@identity"
    assert _sized("hog", "pcl", "pose") == "hog"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'facecycle'"):
        reproduce("facecycl", data=tmp_path)
    with pytest.raises(WeightsError):
        reproduce("facecycle", "no-such-weights", data=tmp_path)


def test_callables_too(lfw_folder: Path, reads: Callable) -> None:
    done = reproduce("pcl", reads("yaw"), data=lfw_folder.parent, cache=False, progress=False)
    assert done.encoder == "yaw"
