"""Persons of LFW that are kept for measuring are never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.data.cache import FaceCache
from mien.data.identities import IdentitySampler, IdentitySettings
from mien.data.kept import kept_faces, kept_folds
from mien.data.table import Row, TableWriter
from mien.evaluate.identity_swaps import held_out_rows
from mien.faces.image import encode_image
from mien.files.errors import TableError

FREE = ("Anna_B", "Carl_D", "Eve_F")


def write(folder: Path, persons: tuple[str, ...], dataset: str = "lfw", split: str = "") -> Path:
    """Write two pictures a person; every pixel of a picture is its row."""
    with TableWriter(folder, crop="tight", size=16) as writer:
        for i, person in enumerate(p for p in persons for _ in range(2)):
            crop = np.full((16, 16, 3), i, np.uint8)
            given = split if person not in FREE else "train"
            row = Row(encode_image(crop, "PNG"), f"{i}", dataset=dataset, person=person)
            row.split = given
            writer.add(row)
    return folder


def test_the_list() -> None:
    kept = kept_folds()
    assert set(kept.values()) == {8, 9, 10}
    test = sum(fold > 8 for fold in kept.values())
    assert test >= 0.2 * 4281  # persons that the pairs of View 2 show
    first = next(iter(kept))
    dataset = np.array(["lfw", "lfw", "lfw", "omi"])
    found = kept_faces(dataset, np.array([first, "Anna_B", "", first]))
    assert found.tolist() == [True, False, False, False]


@pytest.mark.parametrize("split", ["", "train"])
def test_the_sampler_never_draws_a_kept_person(tmp_path: Path, split: str) -> None:
    """Not in a table that was prepared without folds, and not in one whose split is wrong."""
    kept = tuple(list(kept_folds())[:6])
    cache = FaceCache(write(tmp_path / "t", (*kept, *FREE), split=split), 16)
    sample = IdentitySampler([cache], IdentitySettings(flip=0.0), 64, 0, 0)
    assert sample.persons == len(FREE)
    drawn = set()
    for step in range(20):
        batch = sample(step)
        for name in ("source", "attributes"):
            drawn |= set(((batch[name][:, 0, 0, 0] + 1) * 127.5).round().int().tolist())
    assert drawn == set(range(2 * len(kept), 2 * len(kept) + 2 * len(FREE)))
    with pytest.raises(TableError, match="no faces in the split 'train'"):
        FaceCache(write(tmp_path / "kept", kept, split=split), 16).select("train")
    other = FaceCache(write(tmp_path / "other", kept, dataset="mine", split=split), 16)
    assert len(other.select("train")) == 2 * len(kept)  # a namesake of another set


def test_weights_that_saw_lfw_are_measured_on_kept_persons_only(tmp_path: Path) -> None:
    kept = tuple(list(kept_folds())[:3])
    folder = tmp_path / "t"
    with TableWriter(folder, crop="tight", size=16) as writer:
        for i, person in enumerate((*kept, "Anna_B", "Carl_D")):
            row = Row(encode_image(np.full((16, 16, 3), i, np.uint8), "PNG"), f"{i}")
            row.dataset, row.person, row.split = "lfw", person, "test"
            writer.add(row)
    cache = FaceCache(folder, 16)
    assert held_out_rows(cache, ["test"], seen=True).tolist() == [0, 1, 2]
    assert held_out_rows(cache, ["test"], seen=False).tolist() == [0, 1, 2, 3, 4]
