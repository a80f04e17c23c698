from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.evaluate.encoders import encoder
from mien.evaluate.tables import open_faces
from mien.evaluate.task import Settings
from mien.evaluate.tsne import as_numbers, column, save_tsne, tsne
from mien.files.errors import TableError


def test_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    place = tsne(np.eye(6)[labels] * 20 + rng.normal(size=(90, 6)))
    centres = np.stack([place[labels == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(place[:, None] - centres, axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.95


def test_one_picture_a_column(coded_table: Path, tmp_path: Path, reads: Callable) -> None:
    faces = open_faces([coded_table], limit=60)
    made = save_tsne(
        encoder(reads("expression")), faces, ["expression", "yaw"], tmp_path, Settings()
    )
    assert [m.name.rpartition("-")[2] for m in made] == ["expression.png", "yaw.png"]
    pictures = [cv2.imread(str(m)) for m in made]
    assert all(p is not None and p.std() > 5 for p in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("yaw", "f"),
        ("makeup", "f"),
        ("expression", "U"),
        ("person", "U"),
        ("AU12", "f"),
        ("light_azimuth", "f"),
        ("note", "U"),
    ],
)
def test_columns(coded_table: Path, name: str, kind: str) -> None:
    values = column(open_faces([coded_table]), name)
    assert values.shape == (288,)
    assert values.dtype.kind == kind


def test_no_such_column(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    with pytest.raises(TableError, match="did you mean 'expression'"):
        column(faces, "expresion")
    with pytest.raises(TableError, match="is empty"):
        column(faces, "clip")


def test_as_numbers() -> None:
    assert as_numbers(["1", "", "2.5"])[[0, 2]].tolist() == [1, 2.5]
    assert as_numbers(["1", "short"]).tolist() == ["1", "short"]
