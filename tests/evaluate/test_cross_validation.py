"""Nobody is measured by a classifier that was trained on them, and everybody is measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.labelled import ExpressionSampler, expression_folds
from mien.data.procedural import write_table
from mien.evaluate.cross_validation import cross_validate
from mien.files.errors import ConfigError, TableError
from mien.files.weights import load_weights, save_weights
from mien.methods import config_from, method_class

CLASSES = ("happy", "neutral|sleepy")
SETTINGS = [
    "batch_size=8",
    "precision=32-true",
    "warmup=1",
    "config.local_width=8",
    "config.expressions=[happy, 'neutral|sleepy']",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=12, frames=6, size=32)
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cls = method_class("derl")
    torch.manual_seed(0)
    config = {"width": 4, "size": 32, "skips": True}
    method = cls(config_from(cls.Config, config), "neutralise")
    file = tmp_path_factory.mktemp("weights") / "g.safetensors"
    card = {"method": "derl", "stage": "neutralise", "config": config, "data": [{"table": "a"}]}
    save_weights(file, method.state_dict(), card)
    return file


def test_folds_part_persons_and_the_sampler_leaves_one_out(table: Path) -> None:
    caches = [FaceCache(table, 32), FaceCache(table, 32)]  # persons of two tables are others
    parts = expression_folds(caches, CLASSES, 5)
    for cache, part in zip(caches, parts, strict=True):
        wanted = np.isin(cache.expression, ("happy", "neutral", "sleepy"))
        assert np.array_equal(part >= 0, wanted)
        for person in np.unique(cache.person[wanted]):
            assert len(np.unique(part[wanted & (cache.person == person)])) == 1
    assert set(np.concatenate(parts).tolist()) == {-1, 0, 1, 2, 3, 4}
    for fold in range(5):
        sampler = ExpressionSampler(caches, CLASSES, 8, 0, 0, folds=5, fold=fold)
        drawn = [parts[t][r] for t, r in zip(sampler.table, sampler.row, strict=True)]
        assert set(drawn) == set(range(5)) - {fold}
        assert len(drawn) == sum(int(((p >= 0) & (p != fold)).sum()) for p in parts)
    caches[0].person[:] = -1
    with pytest.raises(TableError, match="no person"):
        expression_folds(caches, CLASSES, 5)


def test_cross_validation(
    table: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**options: Any) -> Any:
        return cross_validate(
            generator, [table], out=tmp_path, folds=3, images=16, overrides=SETTINGS,
            threads=1, accelerator="cpu", **options,
        )  # fmt: skip

    report = run()
    fused = report.rows["fused"]
    cache = FaceCache(table, 32)
    count = int(np.isin(cache.expression, ("happy", "neutral", "sleepy")).sum())
    assert np.sum(fused["confusion"]) == report.data["pictures"] == count
    assert fused["mean"] == pytest.approx(np.mean(fused["folds"]))
    assert fused["deviation"] == pytest.approx(np.std(fused["folds"], ddof=1))
    assert fused["accuracy"] == pytest.approx(100 * np.trace(fused["confusion"]) / count)
    assert not report.data["seen_below"]
    assert report.data["persons"] == 12
    # The generator is taken over and stays; the folds' classifiers differ.
    given = load_weights(generator)[0]
    found = [load_weights(tmp_path / f"fold-{k}/weights.safetensors")[0] for k in range(3)]
    for tensors in found:
        assert all(torch.equal(tensors[n], v) for n, v in given.items() if n.startswith("g."))
    assert not torch.equal(found[0]["fused.1.weight"], found[1]["fused.1.weight"])
    told = [json.loads((tmp_path / f"fold-{k}/weights.json").read_text()) for k in range(3)]
    assert [card["config"]["fold"] for card in told] == [0, 1, 2]
    assert "± " in (tmp_path / "folds.md").read_text()

    monkeypatch.setattr("mien.evaluate.runs.train", None)  # nothing is trained again
    again = run()
    assert again.rows == report.rows
    run(flip=True)
    with pytest.raises(ConfigError, match=r"other settings \(steps\)"):
        cross_validate(generator, [table], out=tmp_path, folds=3, images=32, overrides=SETTINGS)


def test_errors(table: Path, generator: Path, tmp_path: Path) -> None:
    derl = method_class("derl")
    with pytest.raises(ConfigError, match="weights of facecycle"):
        cross_validate("facecycle", [table], out=tmp_path)
    with pytest.raises(TableError, match="12 persons, too few for 13 folds"):
        cross_validate(generator, [table], out=tmp_path, folds=13, overrides=SETTINGS)
    with pytest.raises(ConfigError, match="fold is one of 0 to 2"):
        derl(config_from(derl.Config, {"folds": 3, "fold": 3}), "classify")
