"""Swaps measured with methods whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mien.data.procedural import write_table
from mien.evaluate.identity_swaps import evaluate_swaps
from mien.files.errors import ConfigError, TableError
from mien.methods.base import Edit


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=40, frames=3, size=64)
    return folder


class Fake:
    """A method in memory that swaps as ``take`` says: (images, drivers) → images."""

    name = "fake"
    config = SimpleNamespace(size=64)

    def __init__(self, take: Any) -> None:
        self.take = take

    def encode(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"identity": images.mean((2, 3))}

    def swap_identity(
        self, images: torch.Tensor, drivers: torch.Tensor, strength: float = 1.0
    ) -> Edit:
        return Edit(self.take(images, drivers))


def small(crops: np.ndarray) -> np.ndarray:
    """A judge: the picture itself, small."""
    x = crops.reshape(len(crops), 16, 4, 16, 4, 3).mean((2, 4)) - 128
    return np.asarray(x.reshape(len(x), -1), np.float32)


def measure(table: Path, take: Any, **options: Any) -> Any:
    return evaluate_swaps(
        Fake(take), table, judge=small, pairs=12, cache=False, progress=False,
        **{"splits": ("val", "test"), **options},
    )  # fmt: skip


def test_a_perfect_swapper_and_a_copier(table: Path, tmp_path: Path) -> None:
    perfect = measure(table, lambda images, drivers: drivers, out=tmp_path).measures
    copier = measure(table, lambda images, drivers: images).measures
    name = "cosine to source - to attribute picture"
    assert perfect["cosine to source"]["swapped"] == pytest.approx(1, abs=1e-4)
    assert perfect[name]["swapped"] > 0.02
    assert perfect[name]["p"] < 0.01
    assert copier["cosine to attribute picture"]["swapped"] == pytest.approx(1, abs=1e-4)
    assert copier[name]["swapped"] < 0
    assert copier[name]["p"] > 0.5
    near = "landmarks nearer to attribute picture, %"
    assert copier[near]["swapped"] == 100
    assert perfect[near]["swapped"] == 0
    colour = "mean colour, correlation with attribute picture"
    assert copier[colour]["swapped"] > 0.99 > perfect[colour]["swapped"]
    for file in ("swaps.json", "swaps.md", "swaps.png"):
        assert (tmp_path / file).stat().st_size > 0


def test_errors(table: Path) -> None:
    with pytest.raises(ConfigError, match="may have been, trained"):
        measure(table, lambda x, d: d, splits=("train",))
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        measure(table, lambda x, d: d, splits=("tes",))
    with pytest.raises(ConfigError, match="swap_identity"):
        evaluate_swaps("landmarks", table, judge=small)


def test_a_table_without_a_held_out_person(tmp_path: Path) -> None:
    write_table(tmp_path / "t", persons=2, frames=2, size=64)
    with pytest.raises(TableError, match="fewer than two persons"):
        measure(tmp_path / "t", lambda x, d: d)
