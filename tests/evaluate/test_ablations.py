"""Variants are trained by the engine, measured, compared; nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.data.procedural import write_table
from mien.evaluate import runs
from mien.evaluate.ablations import FULL, MEASURES, Given, ablate
from mien.files.errors import ConfigError
from mien.files.weights import save_weights
from mien.methods.base import config_from, method_class
from mien.train.loop import train
from mien.train.recipe import ABLATIONS, ablation_files, load_recipe, parse_yaml

SMALL = {
    "ipgan": [
        "config.width=4",
        "config.identity_dim=16",
        "config.attribute_dim=8",
        "config.expressions=0.0",
        "config.weights=[]",
    ],
    "derl": [
        "config.width=4",
        "config.local_width=8",
        "config.expressions=[happy, 'neutral|sleepy']",
    ],
}
EQUAL = ["batch_size=4", "precision=32-true", "preview_every=0", "warmup=1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=20, frames=6, size=64)
    return folder


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the trainings that the ablation starts, by the names of their folders."""
    started: list[str] = []

    def counted(recipe: str, *, out: Path, **options: Any) -> Path:
        started.append(Path(out).name)
        return train(recipe, out=out, accelerator="cpu", **{**options, "threads": 1})

    monkeypatch.setattr(runs, "train", lambda recipe, accelerator, **o: counted(recipe, **o))
    return started


def small(crops: np.ndarray) -> np.ndarray:
    """A judge: the picture itself, small."""
    x = crops.reshape(len(crops), 16, 4, 16, 4, 3).mean((2, 4)) - 128
    return np.asarray(x.reshape(len(x), -1), np.float32)


def run(method: str, table: Path, out: Path, more: Sequence[str] = (), **options: Any) -> Any:
    return ablate(
        method, out=out, tables=[table], images=8, overrides=[*EQUAL, *SMALL[method], *more],
        cache=False, progress=False, **options,
    )  # fmt: skip


def test_parts_of_the_classifier(table: Path, tmp_path: Path, trainings: list[str]) -> None:
    def again(**options: Any) -> Any:
        return run(
            "derl", table, tmp_path, stage="classify", only=["difference", "untrained"], **options
        )

    report = again()
    assert trainings == [FULL, "difference", "untrained"]
    assert set(report.figures) == {FULL, "difference", "untrained"}
    accuracy = {name: found["accuracy %, fused"] for name, found in report.figures.items()}
    for name in ("difference", "untrained"):
        entry = accuracy[name]
        assert entry["difference"] == entry["value"] - accuracy[FULL]["value"]
        low, high = entry["difference_interval"]
        assert low <= entry["difference"] <= high
    # Without other weights to start from the untrained generator is the full method itself.
    assert accuracy["untrained"]["value"] == accuracy[FULL]["value"]
    cards = [json.loads((tmp_path / n / "weights.json").read_text()) for n in report.figures]
    assert {card["images_seen"] for card in cards} == {8}
    assert [card["config"]["residue"] for card in cards] == ["layers", "difference", "layers"]
    assert "difference [95 %]" in (tmp_path / "ablations.md").read_text()
    told = json.loads((tmp_path / "ablations.json").read_text())
    assert told["data"]["train"][0]["fingerprint"] == cards[0]["data"][0]["fingerprint"]

    files = {f: f.stat().st_mtime_ns for f in tmp_path.glob("*/weights.safetensors")}
    assert again().figures == report.figures
    assert trainings == [FULL, "difference", "untrained"], "finished ones are skipped"
    assert {f: f.stat().st_mtime_ns for f in files} == files
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        again(more=["seed=4"])


def test_what_was_cut_off_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[str]
) -> None:
    # Averaged weights would take steps of their own, for the statistics of their normalisation.
    monkeypatch.setitem(SMALL, "derl", [*SMALL["derl"], "checkpoint_every=1", "ema=0.0"])
    whole = run("derl", table, tmp_path / "whole", stage="classify", only=[FULL])
    method = method_class("derl")
    step: Callable[..., Any] = method.step

    def cut(self: Any, *given: Any) -> Any:
        if cut.count == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        cut.count += 1  # type: ignore[attr-defined]
        return step(self, *given)

    cut.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(method, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        run("derl", table, tmp_path / "cut", stage="classify", only=[FULL])
    assert json.loads((tmp_path / "cut/full/weights.json").read_text())["steps"] == 1
    monkeypatch.setattr(method, "step", step)
    report = run("derl", table, tmp_path / "cut", stage="classify", only=[FULL])
    assert report.figures == whole.figures
    both = [tmp_path / name / FULL / "weights.safetensors" for name in ("whole", "cut")]
    assert both[0].read_bytes() == both[1].read_bytes()


def test_swaps_without_a_loss(
    table: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "leakage", lambda weights, given: {})  # has tests of its own
    with pytest.raises(ConfigError, match="--judge"):
        run("ipgan", table, tmp_path)
    report = run("ipgan", table, tmp_path, judge=small, pairs=8, only=["no-gc"])
    names = "cosine to source", "landmarks nearer to attribute picture, %"
    for name in names:
        assert {"value", "difference", "difference_interval"} <= set(report.figures["no-gc"][name])
    assert report.settings["judges"] == ["small", "", ""]
    # Another judge measures again and trains nothing.
    report = run("ipgan", table, tmp_path, judge=lambda crops: small(255 - crops), pairs=8,
                 only=["no-gc"])  # fmt: skip
    assert trainings == [FULL, "no-gc"]
    assert report.settings["judges"] == ["<lambda>", "", ""]


@pytest.mark.parametrize(
    ("measure", "method", "stage", "codes", "wanted"),
    [
        ("leakage", "ipgan", "synthesise", (), "identity from the code appearance"),
        ("edits", "derl", "neutralise", (), "neutralise landmarks"),
        ("probes", "pcl", "main", ("pose", "identity"), "pose, mean error in degrees, identity"),
    ],
)
def test_measures(
    table: Path, tmp_path: Path, measure: str, method: str, stage: str, codes: Any, wanted: str
) -> None:
    config = {"width": 4}
    if method == "ipgan":
        config |= {"identity_dim": 16, "attribute_dim": 8, "identities": 8}
    cls = method_class(method)
    torch.manual_seed(0)
    tensors = cls(config_from(cls.Config, config), stage).state_dict()
    file = tmp_path / "weights.safetensors"
    save_weights(file, tensors, {"method": method, "stage": stage, "config": config})
    given = Given((str(table),), codes=codes, cache=False, progress=False)
    figures = MEASURES[measure](file, given)
    assert any(name.startswith(wanted) for name in figures)
    for entry in figures.values():
        assert entry["interval"][0] <= entry["value"] <= entry["interval"][1]


def test_errors(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ipgan'"):
        ablate("ipgn", out=tmp_path)
    with pytest.raises(ConfigError, match="neutralise and classify; name one with --stage"):
        ablate("derl", out=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'no-kl'"):
        ablate("ipgan", out=tmp_path, only=["nokl"], judge=small)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ablation_files(), ids=lambda f: f.parent.name)
def test_every_listed_variant_is_a_training_and_differs(file: Path) -> None:
    assert file.name == f"{ABLATIONS}.yaml"
    for stage, entry in parse_yaml(file).items():
        assert set(entry["measures"]) <= set(MEASURES)
        full = load_recipe(entry["recipe"])
        cls = method_class(full.method)
        assert full.method == file.parent.name
        assert (full.stage or cls.stages[0]) == stage
        configs = [config_from(cls.Config, full.config)]
        for changes in entry["variants"].values():
            settings = {k: v for k, v in changes.items() if k != "init_from"}
            recipe = load_recipe(entry["recipe"], settings)
            assert recipe.steps == full.steps
            assert recipe.seed == full.seed
            config = config_from(cls.Config, recipe.config)
            cls(config, stage)
            if "init_from" not in changes:
                assert config not in configs
            configs.append(config)
