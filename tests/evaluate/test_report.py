from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate import evaluate
from mien.evaluate.report import markdown_table
from mien.files.errors import ConfigError, TableError, WeightsError


def mean_colour(crops: np.ndarray) -> np.ndarray:
    return crops.reshape(len(crops), 16, -1).mean(2)


def _evaluate(folder: Path, encoders: list, tasks: tuple[str, ...] = ("fer2013", "lfw"), **more):
    return evaluate(encoders, tasks, data=folder, cache=False, progress=False, **more)


def test_one_table_of_all(fer_folder: Path, lfw_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = _evaluate(fer_folder.parent, ["hog,size=48", mean_colour], out=out)
    assert [(r.encoder, r.task) for r in report.results] == [
        ("hog,size=48", "fer2013"),
        ("mean_colour", "fer2013"),
        ("hog,size=48", "lfw"),
        ("mean_colour", "lfw"),
    ]
    table = report.markdown()
    lines = table.splitlines()
    assert len({len(line) for line in lines[:8]}) == 1
    assert f"{100 * report.results[0].value:.2f} [" in table
    assert f"{100 * report.results[2].value:.2f} ± " in table
    (facecycle,) = [line for line in lines if "FaceCycle, published" in line and "|" in line]
    assert "48.76" in facecycle
    assert "73.72" in facecycle
    assert (out / "report.md").read_text() == table


def test_the_json_says_what_was_measured_on_what(
    fer_folder: Path, lfw_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = _evaluate(fer_folder.parent, ["lbp"], out=out, seed=3)
    read = json.loads((out / "report.json").read_text())
    assert read["published"]["lfw"]["FaceCycle"] == 73.72
    assert read["versions"]["numpy"] == np.__version__
    for saved, result in zip(read["results"], report.results, strict=True):
        assert saved["value"] == result.value
        assert saved["key"].startswith("lbp/")
        assert len(saved["data"]["fingerprint"]) == 64
        assert saved["settings"]["seed"] == 3
        assert saved["interval"] == list(result.interval)
    prints = {r["data"]["fingerprint"] for r in read["results"]}
    assert len(prints) == 2


def test_figures(fer_folder: Path, lfw_folder: Path, tmp_path: Path) -> None:
    import cv2

    out = tmp_path / "out"
    _evaluate(fer_folder.parent, ["pixels,size=16", "pixels,size=17"], out=out)
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 3  # two confusion matrices, one ROC
    for file in pictures:
        image = cv2.imread(str(file))
        assert image is not None
        assert image.std() > 10


def test_without_matplotlib_the_report_is_still_written(
    lfw_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.evaluate import figures

    monkeypatch.setattr(figures, "have_matplotlib", lambda: False)
    _evaluate(lfw_folder.parent, ["pixels,size=16"], ("lfw",), out=tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]


def test_clean_is_told(fer_folder: Path) -> None:
    report = _evaluate(fer_folder.parent, ["pixels,size=16"], ("fer2013",), clean=True)
    assert "without the training pictures" in report.markdown()
    assert report.results[0].data["train"] == 56


def test_equal_calls_give_equal_figures(lfw_folder: Path) -> None:
    one, two = (_evaluate(lfw_folder.parent, ["hog"], ("lfw",)) for _ in range(2))
    assert one.results[0].details == two.results[0].details


def test_the_cache_gives_equal_figures(lfw_folder: Path, tmp_path: Path) -> None:
    found = [
        evaluate(["hog"], ["lfw"], data=lfw_folder.parent, cache=cache, progress=False)
        for cache in (tmp_path / "c", tmp_path / "c", False)
    ]
    assert len(list((tmp_path / "c").iterdir())) == 1
    assert len({str(f.results[0].details) for f in found}) == 1


@pytest.mark.parametrize(
    ("encoders", "tasks", "error", "says"),
    [
        ([], ("lfw",), ConfigError, "at least one encoder"),
        (["hog"], ("lwf",), ConfigError, "did you mean 'lfw'"),
        (["hgo"], ("lfw",), WeightsError, "neither a .safetensors file"),
        (["hog"], ("lfw",), TableError, r"lfw does not exist; expected: NAME/NAME_0001\.jpg"),
        (["hog"], ("fer2013",), TableError, "fer2013 does not exist; fer2013 expects: train"),
    ],
)
def test_errors(tmp_path: Path, encoders, tasks, error, says: str) -> None:
    with pytest.raises(error, match=says):
        _evaluate(tmp_path, encoders, tasks)


def test_a_wrong_encoder_is_found_before_any_picture_is_read(fer_folder: Path) -> None:
    (fer_folder / "train" / "sad" / "aaa.jpg").write_text("not a picture")
    with pytest.raises(ConfigError, match="no option"):
        _evaluate(fer_folder.parent, ["hog", "hog,cells=3"], ("fer2013",))


def test_the_package_is_light_to_import() -> None:
    import subprocess

    code = "import sys, mien.evaluate; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_markdown_table() -> None:
    table = markdown_table([["a", "bb"], ["ccc", "d"]])
    assert table == "| a   | bb |\n|-----|----|\n| ccc | d  |\n"
