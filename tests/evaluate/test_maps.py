from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.evaluate.encoders import encoder
from mien.evaluate.maps import check_maps, save_maps, tsne, umap
from mien.evaluate.tables import open_faces
from mien.evaluate.task import Settings
from mien.files.errors import MissingExtraError, TableError

KINDS = [
    tsne,
    pytest.param(
        umap,
        marks=[
            pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed"),
            pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning"),
        ],
    ),
]


def _groups() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    return np.eye(6)[labels] * 20 + rng.normal(size=(90, 6)), labels


@pytest.mark.parametrize("place", KINDS)
def test_groups_stay_apart(place: Callable) -> None:
    values, labels = _groups()
    found = place(values)
    assert found.shape == (90, 2)
    centres = np.stack([found[labels == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(found[:, None] - centres, axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.95


@pytest.mark.parametrize("place", KINDS)
def test_the_seed_makes_the_map(place: Callable) -> None:
    values, _ = _groups()
    first = place(values, 1)
    assert np.array_equal(first, place(values, 1))
    assert not np.array_equal(first, place(values, 2))


@pytest.mark.parametrize("place", KINDS)
def test_few_faces_have_a_map(place: Callable) -> None:
    assert np.isfinite(place(_groups()[0][:5])).all()


def test_one_picture_a_column(coded_table: Path, tmp_path: Path, reads: Callable) -> None:
    faces = open_faces([coded_table], limit=30)
    columns = {"tsne": ["expression", "yaw"], "umap": []}
    made = save_maps(encoder(reads("expression")), faces, columns, tmp_path, Settings())
    assert [m.name.rpartition("-")[2] for m in made] == ["expression.png", "yaw.png"]
    pictures = [cv2.imread(str(m)) for m in made]
    assert all(p is not None and p.std() > 5 for p in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_each_kind_has_its_files(
    coded_table: Path, tmp_path: Path, reads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.evaluate import maps

    line = maps.KINDS["umap"]._replace(place=lambda values, seed: values[:, :2], module="numpy")
    monkeypatch.setitem(maps.KINDS, "umap", line)
    faces = open_faces([coded_table], limit=30)
    columns = {"tsne": ["yaw"], "umap": ["yaw", "person"]}
    made = save_maps(encoder(reads("units")), faces, columns, tmp_path, Settings())
    kinds = [m.name.partition("-")[0] for m in made]
    assert kinds == ["tsne", "umap", "umap"]
    assert len({m.read_bytes() for m in made}) == 3


def test_what_cannot_be_drawn_is_told_at_once(
    coded_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = open_faces([coded_table])
    with pytest.raises(TableError, match="did you mean 'expression'"):
        check_maps(faces, {"tsne": ["expresion"]})
    with pytest.raises(TableError, match="a map needs 5 at least"):
        check_maps(open_faces([coded_table], limit=4), {"tsne": ["yaw"]})
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    check_maps(faces, {"tsne": ["yaw"], "umap": []})
    with pytest.raises(MissingExtraError, match=r"'umap-learn'.*mien\[umap\]"):
        check_maps(faces, {"umap": ["yaw"]})
    with pytest.raises(MissingExtraError, match=r"mien\[umap\]"):
        umap(np.zeros((9, 4)))
