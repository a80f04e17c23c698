from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien.evaluate import action_units
from mien.evaluate.action_units import ActionUnits, presence
from mien.evaluate.encoders import encoder
from mien.evaluate.tables import open_faces
from mien.evaluate.task import Result, Settings
from mien.files.errors import TableError


def _run(faces, encode, **settings: object) -> Result:
    return ActionUnits.of(faces).run(encoder(encode), Settings(**settings), None, False)


def test_a_code_that_holds_the_units(coded_table: Path, reads: Callable) -> None:
    result = _run(open_faces([coded_table]), reads("units"))
    assert list(result.details["units"]) == ["AU1", "AU12"]
    assert result.value > 0.95
    assert result.data["persons"] == 24
    assert len(result.data["splits"]) == 3
    for unit in result.details["units"].values():
        assert unit["interval"][0] <= unit["f1"] <= unit["interval"][1]


def test_a_code_that_holds_none(coded_table: Path, reads: Callable) -> None:
    """The best threshold of a meaningless score is to call all faces present."""
    result = _run(open_faces([coded_table]), reads("yaw", noise=2))
    for unit in result.details["units"].values():
        share = unit["present"]
        assert share == pytest.approx(0.6 * 0.7, abs=0.08)
        assert unit["f1_of_always"] == pytest.approx(2 * share / (1 + share))
        assert unit["f1"] == pytest.approx(unit["f1_of_always"], abs=0.06)


def test_folds_part_persons_even_if_there_is_a_split(
    write_coded: Callable, tmp_path: Path, reads: Callable
) -> None:
    write_coded(tmp_path / "t", persons=6, split="test")
    write_coded(tmp_path / "t", persons=6, split="train", first_person=6)
    result = _run(open_faces([tmp_path / "t"]), reads("units"))
    assert sum(split[2] for split in result.data["splits"]) == 144


def _faces(coded_table: Path, dataset: str, units: list, expressions: list[str]):
    faces = open_faces([coded_table], limit=len(units))
    return dataclasses.replace(
        faces,
        dataset=np.array([dataset] * len(units)),
        expression=np.array(expressions),
        units=units,
    )


def test_what_is_known_and_present_depends_on_the_set(coded_table: Path) -> None:
    units = [{"AU1": 2.0, "AU12": 1.0}, {"AU1": 1.0}, {}, {"AU12": 5.0}]
    plain = ["", "", "", ""]
    names, present = presence(_faces(coded_table, "disfa", units, plain))
    # DISFA: present from 2, a unit that is not told could not be seen.
    assert names == ("AU1", "AU12")
    assert np.array_equal(present, [[1, 0], [0, np.nan], [np.nan] * 2, [np.nan, 1]], equal_nan=True)
    # CK+: present from 1, what is not listed is absent; a neutral face shows none.
    names, present = presence(
        _faces(coded_table, "ck_plus", [*units, {}], ["", "", "neutral", "", ""])
    )
    assert np.array_equal(present, [[1, 1], [1, 0], [0, 0], [0, 1], [np.nan] * 2], equal_nan=True)
    # Activations run from 0 to 1.
    units = [{"AU1": 0.29, "AU12": 0.31}, {"AU1": 0.9}]
    _, present = presence(_faces(coded_table, "ict_faces", units, ["", ""]))
    assert present.tolist() == [[0, 1], [1, 0]]
    names, present = presence(_faces(coded_table, "ict_faces", units, ["", ""]), cut=0.2)
    assert names == ("AU12",)  # AU1 is always present now: nothing to tell apart
    assert present.tolist() == [[1], [0]]


def test_bp4d_reports_its_twelve(coded_table: Path) -> None:
    numbers = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
    units = [{f"AU{n}": float(k % 2) for n in (*numbers, 28)} for k in range(4)]
    names, present = presence(_faces(coded_table, "bp4d", units, [""] * 4))
    assert names == tuple(f"AU{n}" for n in numbers)
    assert (present == [[0], [1], [0], [1]]).all()


def test_nothing_is_present(coded_table: Path) -> None:
    with pytest.raises(TableError, match="another --cut"):
        presence(open_faces([coded_table]), cut=7)
    faces = dataclasses.replace(open_faces([coded_table]), units=[{}] * 288)
    with pytest.raises(TableError, match="no action units; prepare a set that has"):
        ActionUnits.of(faces)


def test_the_recipe_of_pcl(
    coded_table: Path, reads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(action_units.ACTION_UNITS, epochs=3)
    monkeypatch.setattr(action_units, "ACTION_UNITS", short)
    result = _run(open_faces([coded_table]), reads("yaw", noise=2), protocol="pcl")
    assert all(len(fold["curve"]) == 3 for fold in result.details["folds"])
    # A probability of 0.0005 calls everything present.
    for unit in result.details["units"].values():
        assert unit["f1"] == pytest.approx(unit["f1_of_always"])
