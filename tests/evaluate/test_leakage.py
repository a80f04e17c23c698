from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.data.table import Row, TableWriter
from mien.evaluate.leakage import (
    WHOLE_FACE,
    Factor,
    LeakageReport,
    dci,
    decode,
    evaluate_leakage,
    factors_of,
    home,
    lasso_importance,
    split_for,
    swap_consistency,
)
from mien.evaluate.tables import Split, open_faces
from mien.faces.image import encode_image
from mien.files.errors import ConfigError, TableError, WeightsError
from mien.methods.base import Codes, Edit, Method

FACTORS = {"identity", "expression", "yaw", "pitch", "roll", "makeup", "light_azimuth"}


def _grey(crops: np.ndarray) -> np.ndarray:
    """Stands for the whole face where a test does not look at it."""
    return crops.mean((1, 2))[:, :1]


def _run(table: Path, encode: object, **more: object) -> LeakageReport:
    return evaluate_leakage(encode, [table], whole=_grey, cache=False, progress=False, **more)


@pytest.mark.parametrize(
    ("factor", "named"),
    [
        ("identity", "identity"),
        ("expression", "expression"),
        ("yaw", "yaw"),
        ("makeup", "makeup"),
    ],
)
def test_a_code_that_leaks_exactly_one_factor(
    coded_table: Path, reads: Callable, factor: str, named: str
) -> None:
    report = _run(coded_table, reads(factor))
    row = report.cells[factor]
    assert set(row) == FACTORS
    assert row[named]["score"] > 0.97
    for other in FACTORS - {named}:
        assert row[other]["score"] < 0.15, other
        assert row[other]["interval"][0] < 0.06, other


def test_the_whole_face_gives_everything_away(coded_table: Path, reads: Callable) -> None:
    report = evaluate_leakage(
        reads("yaw"), [coded_table], whole="pixels,size=16", cache=False, progress=False
    )
    row = report.cells["whole face"]
    assert min(cell["score"] for cell in row.values()) > 0.75
    assert report.settings["whole_face"] == "pixels,size=16"


def test_a_code_that_leaks_nothing(coded_table: Path, reads: Callable) -> None:
    report = _run(coded_table, reads(noise=4))
    assert max(cell["score"] for cell in report.cells["noise"].values()) < 0.15
    assert report.leaks == []


def test_the_number_of_the_matrix_in_its_own_unit(coded_table: Path, reads: Callable) -> None:
    row = _run(coded_table, reads("expression"), factors=["expression", "yaw"]).cells["expression"]
    assert row["expression"]["chance"] == 0.25
    assert row["expression"]["value"] == pytest.approx(1, abs=0.01)
    assert row["expression"]["measure"] == "balanced accuracy"
    assert row["yaw"]["chance"] == 0
    assert row["yaw"]["measure"] == "R²"


def _factor(values: np.ndarray, kind: str = "number") -> Factor:
    if kind == "number":
        return Factor("f", "number", values.astype(np.float32))
    return Factor("f", "class", values.astype(np.int64), tuple("abcdefgh"[: values.max() + 1]))


def _split(n: int) -> Split:
    rows = np.arange(n)
    return Split(rows[: n // 2], rows[n // 2 : 3 * n // 4], rows[3 * n // 4 :], True)


def test_what_is_bent_is_found_by_the_nonlinear_probe_only() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (800, 2)).astype(np.float32)
    groups = np.arange(800).astype(np.str_)
    found = decode(x, _factor(x[:, 0] ** 2), _split(800), groups)
    assert found["linear"] < 0.05
    assert found["nonlinear"] > 0.95
    assert found["probe"] == "nonlinear"
    assert found["score"] == found["nonlinear"]
    ring = (np.linalg.norm(x, axis=1) > 0.75).astype(int)
    found = decode(x, _factor(ring, "class"), _split(800), groups)
    assert found["linear"] < 0.2
    assert found["nonlinear"] > 0.8


def test_a_rare_class_is_no_less_a_leak() -> None:
    """19 of 20 faces are of one class: guessing it is chance, not a score of 0.95."""
    rng = np.random.default_rng(0)
    labels = (np.arange(1200) % 20 == 0).astype(int)
    groups = np.arange(1200).astype(np.str_)
    noise = rng.normal(size=(1200, 3)).astype(np.float32)
    assert decode(noise, _factor(labels, "class"), _split(1200), groups)["score"] < 0.2
    shifted = noise + 2.0 * labels[:, None].astype(np.float32)
    assert decode(shifted, _factor(labels, "class"), _split(1200), groups)["score"] > 0.7


def test_factors_are_those_that_differ(coded_table: Path) -> None:
    found = {f.name: f for f in factors_of(open_faces([coded_table]))}
    assert set(found) == FACTORS  # "note" is the same for all
    assert found["light_azimuth"].kind == "number"
    assert found["makeup"].classes == ("no", "yes")
    assert len(found["identity"].classes) == 24


def test_nobody_is_on_both_sides_but_for_identity(coded_table: Path) -> None:
    faces = open_faces([coded_table])
    found = {f.name: f for f in factors_of(faces)}
    split = split_for(faces, found["yaw"])
    assert not set(faces.person[split.train]) & set(faces.person[split.test])
    split = split_for(faces, found["identity"])
    assert set(faces.person[split.train]) == set(faces.person[split.test])
    assert not set(split.train) & set(split.test)
    assert len(split.train) + len(split.val) + len(split.test) == 288


def test_identity_is_measured_on_other_clips(tmp_path: Path) -> None:
    crop = np.zeros((16, 16, 3), np.uint8)
    with TableWriter(tmp_path / "t", crop="tight", size=16) as writer:
        for person in range(3):
            for clip in range(4):
                for frame in range(3):
                    crop[:] = person * 36 + clip * 9 + frame
                    writer.add(
                        Row(
                            encode_image(crop, "PNG"),
                            f"{person}/{clip}/{frame}",
                            dataset="x",
                            person=str(person),
                            clip=str(clip),
                        )
                    )
    faces = open_faces([tmp_path / "t"])
    (identity,) = factors_of(faces)
    split = split_for(faces, identity)
    keys = np.char.add(faces.person, faces.clip)
    sides = [set(keys[rows]) for rows in (split.train, split.val, split.test)]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert all(sides)


@pytest.mark.parametrize(
    ("importance", "disentanglement", "completeness"),
    [
        (np.eye(3), 1, 1),
        (np.ones((3, 3)), 0, 0),
        (np.repeat(np.eye(3), 2, 0), 1, 1 - np.log(2) / np.log(6)),  # two dimensions a factor
        (np.array([[1, 1, 1], [0, 0, 0]]), 0, 1),  # one dimension tells all
        (np.zeros((2, 3)), 0, 0),
    ],
)
def test_disentanglement_and_completeness(
    importance: np.ndarray, disentanglement: float, completeness: float
) -> None:
    found = dci(importance)
    assert found["disentanglement"] == pytest.approx(disentanglement, abs=1e-9)
    assert found["completeness"] == pytest.approx(completeness, abs=1e-9)


def test_dimensions_weigh_by_what_they_tell() -> None:
    """A pure dimension that tells little counts little."""
    found = dci(np.array([[0.01, 0, 0], [1, 1, 1]]))
    assert found["disentanglement"] == pytest.approx(0.01 / 3.01)
    assert found["by_row"] == pytest.approx([1, 0], abs=1e-9)


def test_the_lasso_finds_the_dimension() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)).astype(np.float32)
    number = lasso_importance(x, _factor(3 * x[:, 4] + 0.1 * rng.normal(size=400)), _split(400))
    assert number.argmax() == 4
    assert number[4] > 20 * np.delete(number, 4).max()
    labels = np.digitize(x[:, 7], [-0.5, 0.5])
    classes = lasso_importance(x, _factor(labels, "class"), _split(400))
    assert classes.argmax() == 7
    assert not lasso_importance(x, _factor(rng.normal(size=400)), _split(400)).any()


class Split2(Method):
    """Codes that are channels; edits that swap what they should, or something else."""

    name = "split2"

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(self.Config(), "main")
        self.wrong = wrong

    def encode(self, images: torch.Tensor) -> Codes:
        x = torch.nn.functional.avg_pool2d(images, 16).flatten(2)
        return {"identity": x[:, 0], "expression": x[:, 1], "trunk": x.flatten(1)}

    def transfer_expression(self, images: torch.Tensor, drivers: torch.Tensor) -> Edit:
        out = images.clone()
        out[:, 0 if self.wrong else 1] = drivers[:, 0 if self.wrong else 1]
        return Edit(out)


def test_swaps() -> None:
    rng = np.random.default_rng(0)
    crops, drivers = rng.integers(0, 256, (2, 40, 64, 64, 3)).astype(np.uint8)
    found = swap_consistency(Split2(), crops, drivers)
    assert found == {
        "transfer_expression": {"identity": {"stays": 1}, "expression": {"follows": 1}}
    }
    found = swap_consistency(Split2(wrong=True), crops, drivers)
    assert found["transfer_expression"] == {"identity": {"stays": 0}, "expression": {"follows": 0}}


def test_weights_are_taken_apart_into_codes(coded_table: Path, tmp_path: Path) -> None:
    from mien.files.weights import save_weights
    from mien.methods.facecycle import FaceCycle

    config = {"width": 4, "generator_width": 4, "blocks": 1, "perceptual": "none"}
    torch.manual_seed(0)
    method = FaceCycle(FaceCycle.Config(**config), "identity")
    card = {"method": "facecycle", "stage": "identity", "config": config}
    file = tmp_path / "w.safetensors"
    save_weights(file, dict(method.state_dict()), card)
    out = tmp_path / "out"
    report = evaluate_leakage(
        str(file),
        [coded_table],
        factors=["expression", "yaw"],
        cache=False,
        progress=False,
        limit=120,
        out=out,
    )
    assert list(report.cells) == ["expression", "identity", "all codes", "whole face"]
    assert set(report.dci) == {"codes", "dimensions"}
    assert set(report.swaps) == {"transfer_expression", "swap_identity"}
    read = json.loads((out / "leakage.json").read_text())
    assert read["cells"]["identity"]["yaw"]["score"] == report.cells["identity"]["yaw"]["score"]
    assert read["data"]["fingerprint"] == report.data["fingerprint"]
    assert (out / "leakage.md").read_text() == report.markdown()
    assert (out / "leakage.png").stat().st_size > 5000


def test_leaks_are_what_a_code_is_not_there_for() -> None:
    def cell(score: float) -> dict:
        interval = [score - 0.02, score + 0.02]
        return {"score": score, "interval": interval, "linear": score, "chance": 0.0}

    cells = {
        "pose": {"yaw": cell(0.9), "identity": cell(0.3), "expression": cell(0.06)},
        "identity": {"yaw": cell(0.5), "identity": cell(0.8), "expression": cell(0.0)},
        "onnx:x": {"yaw": cell(0.7), "identity": cell(0.8), "expression": cell(0.9)},
        "whole face": {"yaw": cell(0.99), "identity": cell(0.9), "expression": cell(0.9)},
    }
    homes = {"yaw": "pose", "identity": "identity", "expression": "expression"}
    factors = {name: {"home": code} for name, code in homes.items()}
    report = LeakageReport("x", cells, factors, {}, {}, {"faces": 9, "names": "t"}, {})
    assert report.leaks == [("identity", "yaw", 0.5), ("pose", "identity", 0.3)]
    assert "identity gives away yaw (0.50); pose gives away identity (0.30)" in report.markdown()


@pytest.mark.parametrize(
    ("name", "personal", "codes", "where"),
    [
        ("yaw", False, ("identity", "pose", "trunk"), "pose"),
        ("yaw", False, ("expression", "identity"), "expression"),
        ("yaw", False, ("onnx:x",), ""),
        ("expression", False, ("identity", "pose"), "identity"),
        ("expression_intensity", False, ("expression", "identity"), "expression"),
        ("light_azimuth", False, ("expression", "appearance"), "appearance"),
        ("makeup", True, ("identity", "appearance"), "appearance"),
        ("skin_tone", True, ("expression", "identity"), "identity"),
        ("background", False, ("expression", "identity"), ""),
        ("expression", False, ("identity", "appearance"), "appearance"),
        ("yaw", False, ("identity", "appearance"), "appearance"),
        ("identity", False, ("identity", "appearance"), "identity"),
        ("expression", False, ("appearance",), ""),
    ],
)
def test_homes(name: str, personal: bool, codes: tuple[str, ...], where: str) -> None:
    factor = Factor(name, "number", np.zeros(3, np.float32), personal=personal)
    assert home(factor, codes) == where


def test_what_never_differs_within_a_person_is_personal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with TableWriter(tmp_path / "t", crop="tight", size=16) as writer:
        for person in range(12):
            for frame in range(6):
                crop = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                attributes = {"hair": "ab"[person % 2], "hat": "ab"[frame % 2]}
                row = Row(encode_image(crop, "PNG"), f"{person}/{frame}", attributes=attributes)
                row.person, row.dataset = str(person), "x"
                writer.add(row)
    found = {f.name: f.personal for f in factors_of(open_faces([tmp_path / "t"]))}
    assert found == {"identity": True, "hair": True, "hat": False}


def test_the_whole_face_has_shape_and_colour() -> None:
    crops = np.zeros((2, 64, 64, 3), np.uint8)
    crops[0, :, :, 0] = 200
    crops[1, :, 32:] = 200
    values = WHOLE_FACE(crops)
    assert values.shape == (2, 1764 + 768)
    assert not np.allclose(values[0, 1764:], values[1, 1764:])
    assert values[1, :1764].sum() > values[0, :1764].sum()


def test_errors(coded_table: Path, tmp_path: Path, reads: Callable) -> None:
    with pytest.raises(ConfigError, match="did you mean 'yaw'"):
        _run(coded_table, reads("yaw"), factors=["yow"])
    with pytest.raises(WeightsError):
        _run(coded_table, "nothing-like-it")
    with pytest.raises(ConfigError, match="--table"):
        evaluate_leakage("hog", [], cache=False)
    with TableWriter(tmp_path / "bare", crop="tight", size=16) as writer:
        for i in range(3):
            crop = np.full((16, 16, 3), i, np.uint8)
            writer.add(Row(encode_image(crop, "PNG"), str(i)))
    with pytest.raises(TableError, match="no labels to decode"):
        _run(tmp_path / "bare", reads("yaw"))


def test_faces_of_a_split_alone(coded_table: Path, tmp_path: Path, reads: Callable) -> None:
    """Persons of other splits have no part: neither as classes nor to train a probe on."""
    from mien.data.table import Table

    own = tmp_path / "split"
    with TableWriter(own, crop="tight", size=16) as writer:
        for batch in Table(coded_table).batches(["image", "source", "person", "expression"], 4096):
            for row in batch.to_pylist():
                row["split"] = "test" if int(row["person"]) < 9 else "train"
                writer.add(Row(**row))
    report = _run(own, reads("identity"), splits=["test"])
    assert report.factors["identity"]["classes"] == 9
    assert report.data["faces"] == sum(report.factors["expression"]["split"]) == 9 * 12
    assert report.cells["identity"]["identity"]["score"] > 0.9
    assert "of split, split test" in report.markdown()
    with pytest.raises(TableError, match="split val"):
        _run(own, reads("identity"), splits=["val"])


def test_probes_run_in_one_thread(
    coded_table: Path, reads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.evaluate.leakage import probes

    threads = []
    fit = probes.fit_probe

    def counted(*given: object, **more: object) -> object:
        threads.append(torch.get_num_threads())
        return fit(*given, **more)

    monkeypatch.setattr(probes, "fit_probe", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _run(coded_table, reads("identity"), factors=["expression"])
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
