"""The tutorials run as they stand in the documents, in an empty folder, without data or network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mien.faces.provenance import read_provenance

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "tutorials"


def run(name: str, folder: Path) -> str:
    """Run a tutorial in a process of its own and return what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "",
        "XDG_CONFIG_HOME": str(folder / ".config"),  # the key that signs edits
        "XDG_CACHE_HOME": str(folder / ".cache"),
    }
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / f"{name}.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_take_apart(tmp_path: Path) -> None:
    text = run("take_apart", tmp_path)
    half, whole, _ = (float(c) for c in re.findall(r"mean change ([\d.]+)", text))
    assert 0 < half < whole
    for name in ("half", "neutral", "smiling"):
        found = read_provenance(tmp_path / "take-apart" / f"{name}.png")
        assert found is not None
        assert found.record.weights == "facecycle"


def test_look_alikes(tmp_path: Path) -> None:
    text = run("look_alikes", tmp_path)
    person, expression = (int(n) for n in re.findall(r"(\d) of 8$", text, re.MULTILINE))
    assert person >= 6  # by chance 1.1
    assert expression >= 6  # by chance 3.4
    assert (tmp_path / "codes.parquet").stat().st_mode & 0o077 == 0


def test_train_tiny(tmp_path: Path) -> None:
    text = run("train_tiny", tmp_path)
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", text)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "40 codes of 32 numbers" in text


def test_measure_encoder(tmp_path: Path) -> None:
    text = run("measure_encoder", tmp_path)
    assert re.search(r"^\| tiles +\| .*\n\| hog,size=64 +\|", text, re.MULTILINE)
    assert "What each code of tiles gives away" in text
    assert (tmp_path / "leakage" / "leakage.json").is_file()


def test_add_a_method(tmp_path: Path) -> None:
    text = run("add_a_method", tmp_path)
    assert "{'appearance': 3, 'identity': 32}" in text
    found = read_provenance(tmp_path / "nobody.png")
    assert found is not None
    assert found.record.method == "colourless"


def test_every_tutorial_is_run_and_shown() -> None:
    names = {file.stem for file in TUTORIALS.glob("*.py")}
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names <= tests
    page = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    for name in names:
        assert f"tutorials/{name}.py" in page
