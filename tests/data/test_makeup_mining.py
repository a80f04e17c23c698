from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.makeup_mining import MiningSettings, mine_makeup, shows_makeup
from mien.data.procedural import Parameters, ProceduralFaces, label
from mien.data.table import TableWriter
from mien.faces.image import encode_image
from mien.files.errors import ConfigError, TableError


def _table(folder: Path, dataset: str = "folder") -> list[bool]:
    """Write 30 drawn faces of which every third wears make-up; nobody tells."""
    artist, worn = ProceduralFaces(size=112), [person % 3 == 0 for person in range(30)]
    with TableWriter(folder, crop="tight", size=112, rows_per_part=8) as writer:
        for person, on in enumerate(worn):
            scene = Parameters(artist.identity(person), yaw=float(person % 7) - 3)
            if on:
                scene = replace(scene, makeup=replace(artist.worn(person), lips_opacity=1.0))
            image, at = artist.draw(scene)
            row = label(scene, "neutral", person, 0)
            row.image, row.landmarks = encode_image(image, "PNG"), at
            row.source, row.dataset, row.makeup = str(person), dataset, None
            writer.add(row)
    return worn


def test_faces_with_make_up_are_found(tmp_path: Path) -> None:
    worn = _table(tmp_path / "a")
    counts = mine_makeup(tmp_path / "a", tmp_path / "b", MiningSettings(0.3, 0.4))
    assert counts == {"made_up": 9, "bare": 12, "open": 9}
    found = FaceCache(tmp_path / "b", 112)
    before = FaceCache(tmp_path / "a", 112)
    assert found.fingerprint == before.fingerprint
    assert found.person.tolist() == before.person.tolist()
    truth = np.array(worn)
    assert truth[found.makeup == 1].mean() > 0.7
    assert truth[found.makeup == 0].mean() < 0.2
    assert (tmp_path / "b" / "made_up.jpg").is_file()
    assert (tmp_path / "b" / "bare.jpg").is_file()
    with pytest.raises(TableError, match="already holds"):
        mine_makeup(tmp_path / "a", tmp_path / "b")


def test_wrong_shares_and_grey_sets_are_refused(tmp_path: Path) -> None:
    _table(tmp_path / "a", "fer2013")
    with pytest.raises(TableError, match="FER-2013"):
        mine_makeup(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match="shares"):
        mine_makeup(tmp_path / "a", tmp_path / "b", MiningSettings(0.7, 0.7))


def test_one_clear_sign_is_enough_for_a_single_face() -> None:
    bare = torch.tensor([12.0, 17.0, 16.0, 24.0, 4.0])
    assert not shows_makeup(bare[None]).item()
    for sign, clear in ((0, 20.0), (0, -20.0), (2, 30.0), (3, 40.0), (4, 15.0)):
        worn = bare.clone()
        worn[sign] = clear
        assert shows_makeup(worn[None]).item(), sign
