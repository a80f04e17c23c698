"""Generators measured whose answer is known: one that knows the photos by heart, and noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.evaluate.generator import FLOOR, _Found, evaluate_generator
from mien.evaluate.neighbours import nearest, precision_recall
from mien.files.errors import ConfigError, TableError, WeightsError
from mien.files.weights import save_weights
from mien.methods.stylegan import StyleGAN
from mien.nets.stylegan import Generator

SIZE = 16
SMALL = {"channel_base": 64, "channel_max": 4, "z_dim": 4, "w_dim": 4, "mapping_layers": 1}
KID = "KID pixels, 1e-3 [95 %]"
NEAREST, VERY_NEAR = "nearest is a training photo, %", "very near to a training photo, %"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=120, frames=2, size=32)
    return folder


class Drawer(Generator):
    """Returns given pictures."""

    def __init__(self, drawn: Tensor) -> None:
        super().__init__(SIZE, **SMALL)
        self.drawn = drawn

    def draw(self, count: int, psi: float = 1.0, seed: int = 0) -> Tensor:
        return self.drawn[:count]


def method(name: str, drawn: Tensor) -> Any:
    return SimpleNamespace(name=name, g=Drawer(drawn))


def photos(table: Path, split: str) -> Tensor:
    cache = FaceCache(table, SIZE)
    return cache.take(cache.select(split)).float() / 127.5 - 1


def measure(table: Path, made: list[Any], images: int, **options: Any) -> Any:
    return evaluate_generator(
        made, [table], images=images, features=["pixels"], cache=False, progress=False,
        **options,
    )  # fmt: skip


def test_who_copies_and_who_does_not(table: Path, tmp_path: Path) -> None:
    train, held = photos(table, "train"), photos(table, "test")
    generator = torch.Generator().manual_seed(0)
    mirrored = train[torch.randperm(len(train), generator=generator)[: len(held)]].flip(-1)
    noise = torch.rand(len(held), 3, SIZE, SIZE, generator=generator) * 2 - 1
    made = [method("copier", mirrored), method("noise", noise), method("unseen", held)]
    report = measure(table, made, len(held), out=tmp_path)
    copier, nothing, unseen, floor = (report.rows[n] for n in ("copier", "noise", "unseen", FLOOR))
    assert copier[VERY_NEAR]["value"] == 100
    assert unseen[VERY_NEAR]["value"] < 10
    assert unseen[NEAREST]["value"] == 0  # they are the held-out photos themselves
    for other in (copier, unseen, floor):
        assert nothing[KID]["value"] > other[KID]["value"] + 100
    assert unseen[KID]["value"] < 0
    assert report.best == "unseen"
    for name in ("precision, %", "recall, %"):
        assert unseen[name]["value"] == 100
        assert floor[name]["value"] > 20
        assert nothing[name]["value"] < floor[name]["value"]
    assert "memorising: copier, noise, unseen" in report.markdown()
    told = json.loads((tmp_path / "generator.json").read_text())
    assert told["data"]["fingerprint"] == FaceCache(table, SIZE).fingerprint
    assert told["data"]["held_out"] == len(held)
    kinds = sorted(p.name.partition("-")[0] for p in tmp_path.glob("*.png"))
    assert kinds == ["distances"] * 3 + ["neighbours"] * 3 + ["samples"] * 3


def test_all_training_photos_are_nearest_to_themselves(table: Path) -> None:
    """Only the training photos among the rivals can be known by heart: one in eight or so."""
    train = photos(table, "train")
    row = measure(table, [method("copier", train)], len(train)).rows["copier"]
    assert row[NEAREST]["value"] > 50
    assert row[VERY_NEAR]["value"] == 100


def test_weights_in_files(table: Path, tmp_path: Path) -> None:
    settings = {"size": SIZE, **SMALL}
    mark = FaceCache(table, SIZE).fingerprint
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = StyleGAN(StyleGAN.Config(**settings))
        card = {"method": "stylegan", "config": settings, "data": [{"fingerprint": mark}]}
        save_weights(tmp_path / f"{seed}.safetensors", made.state_dict(), card)
    files = [str(tmp_path / f"{seed}.safetensors") for seed in (0, 1)]
    report = measure(table, files, 20)
    assert list(report.rows) == [*files, FLOOR]
    assert report.best in files
    assert "say nothing" not in report.markdown()
    again = measure(table, files, 20)
    assert again.rows == report.rows
    assert measure(table, files, 20, truncation=0.5).rows[files[0]] != report.rows[files[0]]


def test_errors(table: Path, tmp_path: Path) -> None:
    good = method("a", torch.zeros(20, 3, SIZE, SIZE))
    with pytest.raises(ConfigError, match="no style-based generator"):
        measure(table, ["pcl"], 20)
    with pytest.raises(ConfigError, match="at least one"):
        measure(table, [], 20)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        measure(table, [good], 20, truncation=2)
    with pytest.raises(ConfigError, match="not 3"):
        measure(table, [good], 3)
    with pytest.raises(ConfigError, match="twice"):
        measure(table, [good, good], 20)
    with pytest.raises(WeightsError):
        measure(table, ["no-such"], 20)
    write_table(tmp_path / "few", persons=4, frames=1, size=32)
    with pytest.raises(TableError):
        measure(tmp_path / "few", [good], 20)


def slow_precision(drawn: np.ndarray, real: np.ndarray, k: int) -> list[bool]:
    """The published definition, one picture at a time."""
    inside = []
    for x in drawn:
        hit = False
        for i, y in enumerate(real):
            others = sorted(np.linalg.norm(z - y) for j, z in enumerate(real) if j != i)
            hit |= bool(np.linalg.norm(x - y) <= others[k - 1])
        inside.append(hit)
    return inside


def test_precision_and_recall_are_the_published_ones() -> None:
    rng = np.random.default_rng(0)
    drawn, real = rng.normal(2.0, 0.7, (30, 3)), rng.normal(size=(25, 3))
    precision, recall = precision_recall(drawn, real, 3)
    assert precision.tolist() == slow_precision(drawn, real, 3)
    assert recall.tolist() == slow_precision(real, drawn, 3)
    assert 0 < recall.mean() < precision.mean() < 1
    with pytest.raises(ConfigError, match="more than 3"):
        precision_recall(drawn[:3], real)


def test_nearest_looks_through_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.evaluate.neighbours._BLOCK", 7)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    apart, rows = nearest(a, b, 3)
    true = np.linalg.norm(a[:, None] - b[None], axis=2)
    np.testing.assert_array_equal(rows, np.argsort(true, 1)[:, :3])
    np.testing.assert_allclose(apart, np.sort(true, 1)[:, :3], rtol=1e-4)


def test_neighbours_are_different_photos() -> None:
    """A photo that is as near to the mirrored picture is shown once."""
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (9, 4, 2, 3)).astype(np.uint8)
    crops = np.concatenate([half, half[:, :, ::-1]], 2)  # each its own mirror image

    def embed(one: Any, crops: np.ndarray, keep: bool = True) -> np.ndarray:
        return crops.reshape(len(crops), -1).astype(np.float32)

    space: Any = SimpleNamespace(encoders=[None], train=embed(None, crops[2:]), embed=embed)
    found = _Found(space, crops[:2])
    true = np.linalg.norm(embed(None, crops[:2])[:, None] - space.train[None], axis=2)
    np.testing.assert_array_equal(found.rows, np.argsort(true, 1)[:, :5])
    np.testing.assert_allclose(found.apart, true.min(1), rtol=1e-4)
