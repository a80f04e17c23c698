from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.evaluate.classifiers import evaluate_classifier
from mien.files.errors import ConfigError, TableError

CLASSES = ("happy", "neutral|sleepy")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=6, frames=6, size=64)
    return folder


class Oracle:
    """Knows every picture of a table; its first branch is always wrong."""

    name = "oracle"
    config = SimpleNamespace(size=64, expressions=CLASSES)

    def __init__(self, table: Path) -> None:
        cache = FaceCache(table, 64)
        self.pictures = cache.take(np.arange(len(cache))).float()
        self.label = torch.tensor([int(e in ("neutral", "sleepy")) for e in cache.expression])

    def classifiers(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = (images + 1) * 127.5
        both = torch.cat([self.pictures, self.pictures.flip(-1)])
        found = torch.cdist(x.flatten(1), both.flatten(1)).argmin(1) % len(self.pictures)
        right = torch.nn.functional.one_hot(self.label[found], 2).float()
        return {"fused": right, "branch 1": 1 - right, "branch 2": right}


@pytest.mark.parametrize("flip", [False, True])
def test_accuracy(table: Path, tmp_path: Path, flip: bool) -> None:
    report = evaluate_classifier(Oracle(table), table, split="train", flip=flip, out=tmp_path)
    assert report.rows["fused"]["accuracy"] == 100
    assert report.rows["branch 1"]["accuracy"] == 0
    assert report.rows["branch 2"]["accuracy"] == 100
    cache = FaceCache(table, 64)
    wanted = ("happy", "neutral", "sleepy")
    assert report.data["pictures"] == int(np.isin(cache.expression, wanted).sum())
    assert "100.00" in (tmp_path / "classifier.md").read_text()
    assert (tmp_path / "classifier.json").is_file()


def test_errors(table: Path) -> None:
    with pytest.raises(TableError, match="test"):
        evaluate_classifier(Oracle(table), table)
    with pytest.raises(ConfigError, match="names no expressions"):
        evaluate_classifier("facecycle", table)
