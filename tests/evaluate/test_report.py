from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien import weights
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


def _tables(table: Path, encoders: list, tasks: tuple[str, ...], **more):
    return evaluate(encoders, tasks, tables=[table], cache=False, progress=False, **more)


def test_labels_of_a_table(
    coded_table: Path, tmp_path: Path, reads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.evaluate.maps import KINDS

    flat = KINDS["umap"]._replace(place=lambda values, seed: np.eye(len(values), 2), module="numpy")
    monkeypatch.setitem(KINDS, "umap", flat)  # umap-learn need not be installed
    maps = {"tsne": ["expression"], "umap": ["yaw"]}
    out = tmp_path / "out"
    tasks = ("expression", "pose", "action-units")
    encoders = [reads("yaw"), reads("units")]
    report = _tables(coded_table, encoders, tasks, out=out, knn=True, folds=3, **maps)
    text = report.markdown()
    heading = text.splitlines()[0]
    for column in ("expression %", "yaw MAE° (R²)", "action units, mean F1 %"):
        assert column in heading
    assert "published" not in text  # nothing is published on a table of one's own
    assert "F1 % of each unit:" in text
    assert "nearest neighbours" in text
    assert "3 folds of whole persons" in text
    read = json.loads((out / "report.json").read_text())
    fingerprints = {r["data"]["fingerprint"] for r in read["results"]}
    assert len(fingerprints) == 1
    names = [f.name for f in out.glob("*.png")]
    for start in ("expression-", "pose-", "tsne-", "umap-"):
        assert sum(name.startswith(start) for name in names) == 2, start
    assert "action-units.png" in names
    assert len(names) == 9


def test_the_budget_of_a_training_stands_in_its_row(lfw_folder: Path) -> None:
    card = weights.card("facecycle")
    seen = sum(stage["images_seen"] for stage in [card, *card["earlier_stages"]])
    assert seen > card["images_seen"] > 0
    specs = ["facecycle", "untrained:facecycle", "hog"]
    report = _evaluate(lfw_folder.parent, specs, ("lfw",))
    assert [r.images_seen for r in report.results] == [seen, 0, 0]
    heading, _, *rows = report.markdown().splitlines()
    place = [cell.strip() for cell in heading.split("|")].index("images seen")
    cells = [row.split("|")[place].strip() for row in rows[:4]]
    assert cells == [f"{seen:,}", "–", "–", "–"]
    assert "images seen" not in _evaluate(lfw_folder.parent, ["hog"], ("lfw",)).markdown()


def test_few_labels_are_in_the_report(fer_folder: Path) -> None:
    report = _evaluate(fer_folder.parent, ["hog,size=48"], ("fer2013",), few_labels=True, knn=True)
    details = report.results[0].details
    assert set(details["few_labels"]) == {"0.01", "0.1"}
    (row,) = [line for line in report.markdown().splitlines() if "| fer2013 |" in line]
    assert f"{100 * details['knn']['accuracy']:.2f} (k = " in row
    assert f"{100 * report.results[0].value:.2f}" in row


def test_rates_are_in_the_report(lfw_folder: Path) -> None:
    text = _evaluate(lfw_folder.parent, ["hog"], ("lfw",)).markdown()
    assert "TAR at FAR 0.1 %" in text


def test_the_probe_of_a_paper_is_told(fer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.evaluate import official

    short = {k: dataclasses.replace(v, epochs=2) for k, v in official.EXPRESSION.items()}
    monkeypatch.setattr("mien.evaluate.classify.EXPRESSION", short)
    report = _evaluate(fer_folder.parent, ["hog,size=48"], ("fer2013",), protocol="pcl")
    assert "probe of pcl" in report.markdown()
    assert "best test epoch" in report.results[0].settings["protocol"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tasks": ("pose",)}, "--table"),
        ({"tasks": ("lfw",)}, "needs --data"),
        ({"tasks": ("lfw",), "protocol": "plc"}, "did you mean 'pcl'"),
        ({"tasks": ("lfw",), "folds": 1}, "2 or more"),
        ({"tasks": ("lfw",), "tsne": ["yaw"]}, "--out"),
        ({"tasks": ("lfw",), "umap": ["yaw"]}, "--out"),
        ({"tasks": ("lfw",), "umap": ["yaw"], "out": "out"}, "--table"),
    ],
)
def test_what_is_missing_is_told(more: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        evaluate(["hog"], cache=False, progress=False, **more)


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
