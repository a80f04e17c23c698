"""Make-up measured with methods whose answer is known."""

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
from mien.data.makeup_artist import draw_parameters, paint
from mien.data.procedural import write_table
from mien.evaluate.judges import take
from mien.evaluate.makeup import LIKENESS, draw_rows, evaluate_makeup, held_out_photos
from mien.evaluate.makeup_measures import (
    colour_difference,
    hue_slope,
    largest_gap,
    left_of_skin,
    mean,
    paint_pairs,
    share,
)
from mien.faces.regions import region_masks
from mien.files.errors import ConfigError, TableError
from mien.files.weights import save_weights
from mien.methods import config_from, method_class
from mien.methods.base import Edit


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=30, frames=2, size=112)
    return folder


class Copier:
    """A method in memory that does nothing, or adds ``outside`` beyond the lips."""

    name = "fake"
    config = SimpleNamespace(size=64, regions=("lips",))

    def __init__(self, outside: float = 0.0) -> None:
        self.outside = outside

    def eval(self) -> Copier:
        return self

    def apply_makeup(
        self, images: Tensor, drivers: Tensor, *, landmarks: Tensor, driver_landmarks: Tensor
    ) -> Edit:
        assert images.shape == drivers.shape
        assert landmarks.shape == driver_landmarks.shape
        mask = region_masks(landmarks, images.shape[-1], images)[:, :1]
        return Edit((images + self.outside * (mask == 0)).clamp(-1, 1))

    def remove_makeup(self, images: Tensor, *, landmarks: Tensor) -> Edit:
        return Edit(images)


class Oracle(Copier):
    """Knows the paint of every pair: first each face's own reference, then the next one's."""

    def apply_makeup(
        self, images: Tensor, drivers: Tensor, *, landmarks: Tensor, driver_landmarks: Tensor
    ) -> Edit:
        count = len(images)
        worn = draw_parameters(count, torch.Generator().manual_seed(0), "test", always=True)
        rows = [*range(1, count), 0] if hasattr(self, "bare") else list(range(count))
        self.bare = images
        return Edit(paint(images, landmarks, worn.only("lips")[rows], ("lips",))[0])

    def remove_makeup(self, images: Tensor, *, landmarks: Tensor) -> Edit:
        return Edit(self.bare)


def small(crops: np.ndarray) -> np.ndarray:
    """A judge: the picture itself, small."""
    x = crops.reshape(len(crops), 16, 4, 16, 4, 3).mean((2, 4)) - 128
    return np.asarray(x.reshape(len(x), -1), np.float32)


def measured(table: Path, method: Any, **options: Any) -> Any:
    return evaluate_makeup(
        method, table, judge=small, pairs=6, splits=("val", "test"), cache=False, progress=False,
        **options,
    )  # fmt: skip


def test_an_oracle_and_a_copier(table: Path, tmp_path: Path) -> None:
    report = measured(table, Oracle(), out=tmp_path)
    copier = measured(table, Copier()).measures
    found = report.measures
    error, slope = "ΔE to exact, lips", "hue slope, lips"
    assert found[error]["edited"] == pytest.approx(0, abs=1e-5)
    assert copier[error]["edited"] > 3
    assert found[error]["others"]["copy"] == pytest.approx(copier[error]["edited"])
    assert found["ΔE of mean colour, lips"]["edited"] == pytest.approx(0, abs=1e-5)
    assert found[slope]["edited"] == pytest.approx(found[slope]["others"]["exact"])
    assert found[slope]["edited"] > 0.6
    assert abs(copier[slope]["edited"]) < 1e-6
    assert copier[slope]["others"]["exact"] == pytest.approx(found[slope]["edited"])
    left = "make-up left by removal %, lips"
    assert found[left]["edited"] == pytest.approx(0)
    assert copier[left]["edited"] == pytest.approx(100)
    assert found["PSNR of F(G(x, y)), dB"]["edited"] == 99
    assert found["change outside the mask, 1/255"]["edited"] < 1
    assert copier[LIKENESS]["edited"] == pytest.approx(100)
    assert found[LIKENESS]["edited"] == pytest.approx(found[LIKENESS]["others"]["exact"])
    assert found[LIKENESS]["edited"] < 100
    assert not any("skin" in name for name in found), "only what the method paints is measured"
    low, high = copier[error]["interval"]
    assert low < copier[error]["edited"] < high
    told = json.loads((tmp_path / "makeup.json").read_text())
    assert told["measures"][slope]["edited"] == pytest.approx(found[slope]["edited"])
    assert sum(e["n"] for e in told["tones"][error].values()) == report.data["pairs"]
    for file in ("makeup.md", "makeup.png", "makeup-figure.png"):
        assert (tmp_path / file).stat().st_size > 0


def test_a_leak_beyond_the_mask_is_seen(table: Path) -> None:
    found = measured(table, Copier(outside=0.1)).measures
    assert found["change outside the mask, 1/255"]["edited"] > 5


def test_blush_and_foundation_are_told_apart(table: Path) -> None:
    class KnowsBlush(Copier):
        """Takes off all paint at the first call, and nothing at the second."""

        def remove_makeup(self, images: Tensor, *, landmarks: Tensor) -> Edit:
            bare, self.bare = self.bare, images
            return Edit(bare)

    faces = FaceCache(table, 112)
    rows = np.arange(6)
    x, points = take(faces, rows), torch.from_numpy(faces.landmarks[rows])
    worn = draw_parameters(6, torch.Generator().manual_seed(0), always=True)
    method = KnowsBlush()
    method.bare = x
    pairs = paint_pairs(x, points, x, points, worn, rows, ("skin",))
    found = left_of_skin(method, pairs)
    left = [
        found[f"make-up left by removal %, skin, {kind} alone"] for kind in ("blush", "foundation")
    ]
    assert left[0].value() == pytest.approx(0)
    assert left[1].value() > 50, "the blush of the first call is not the foundation"


def test_weights_stand_beside_others(table: Path, tmp_path: Path) -> None:
    cls = method_class("pairedcyclegan")
    config = {"width": 4, "discriminator_width": 4, "blocks": 2, "size": 16, "masked": True}
    names = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        names.append(tmp_path / f"{seed}.safetensors")
        card = {"method": "pairedcyclegan", "stage": "main", "config": config, "data": []}
        save_weights(names[-1], cls(config_from(cls.Config, config)).state_dict(), card)
    report = measured(table, names[0], others=names[1:])
    for region in ("lips", "eyes", "skin"):
        entry = report.measures[f"ΔE to exact, {region}"]
        other = entry["others"][str(names[1])]
        assert other > 0
        assert other != entry["edited"]
    assert "by skin tone of x" in report.markdown()
    with pytest.raises(ConfigError, match="same regions"):
        measured(table, Copier(), others=names)


def test_colour_difference_is_that_of_the_region() -> None:
    x = torch.zeros(1, 3, 16, 16)
    y = x.clone()
    y[..., :8] += 0.2
    left = torch.zeros(1, 1, 16, 16)
    left[..., :8] = 1
    masks = torch.cat([left, 1 - left, torch.zeros_like(left)], 1)
    found = colour_difference(x, y, masks)
    assert found[0, 0] > 5
    assert found[0, 1] == 0
    assert np.isnan(found[0, 2]), "a region that is not seen has no difference"


def test_hue_slope_by_hand() -> None:
    def lab(*degrees: float, chroma: float = 30.0) -> np.ndarray:
        angle = np.radians(degrees)
        one = np.stack([np.full(len(angle), 50.0), np.cos(angle), np.sin(angle)], -1)
        return one * [1, chroma, chroma]

    reference = np.stack([lab(350, 10, 0, 0), lab(20, 350, 170, 40)], 1)
    output = np.stack([lab(0, 5, 0, 10), lab(15, 355, 90, 30)], 1)
    sums, count = hue_slope(reference, output)
    assert count == 3, "170 degrees apart: nobody knows which way round"
    assert sums[2].tolist() == [0, 0]
    assert sums.sum(0)[0] / sums.sum(0)[1] == pytest.approx(0.5)
    assert hue_slope(reference * [1, 0.01, 0.01], output)[1] == 0, "grey has no hue"


def test_gaps_count_where_there_are_enough() -> None:
    tones = {"light": {"n": 30, "value": 2.0}, "tan": {"n": 20, "value": 5.0},
             "dark": {"n": 19, "value": 99.0}}  # fmt: skip
    assert largest_gap(tones) == {"gap": 3.0, "highest": "tan", "lowest": "light"}
    assert largest_gap({"tan": tones["tan"]}) is None


def test_pairs_that_do_not_count_are_left_out() -> None:
    persons = np.arange(4)
    found = mean(np.array([1.0, 3.0, np.nan, np.nan]))
    assert found.value() == 2
    assert found.interval(persons, 0) == [1.0, 3.0]
    assert np.isnan(found.value(np.array([False, False, True, True])))
    assert share(np.array([1.0, 1.0]), np.array([1.0, 3.0])).value() == 50


def test_who_is_measured(table: Path) -> None:
    faces = FaceCache(table, 112)
    rows = held_out_photos(faces, ("test",), seen=True)
    assert set(faces.split[rows]) == {"test"}
    assert not set(faces.person[rows]) & set(faces.person[faces.split == "train"])
    faces.dataset = np.full(len(faces), "lfw")
    faces.kept = np.isin(np.arange(len(faces)), rows[1:])
    assert held_out_photos(faces, ("test",), seen=True).tolist() == rows[1:].tolist()
    faces = FaceCache(table, 112)
    x, y = draw_rows(faces, held_out_photos(faces, ("val", "test"), True), 8, 0)
    assert len(set(x.tolist())) == len(x)
    assert (faces.person[x] != faces.person[y]).all()


def test_errors(table: Path) -> None:
    with pytest.raises(ConfigError, match="may have been, trained"):
        evaluate_makeup(Copier(), table, judge=small, splits=("train",))
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        evaluate_makeup(Copier(), table, judge=small, splits=("tes",))
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        evaluate_makeup(Copier(), table, judge=small, colours="trains")
    with pytest.raises(ConfigError, match="apply_makeup"):
        evaluate_makeup("landmarks", table, judge=small)


def test_a_table_without_photos_is_refused(table: Path) -> None:
    faces = FaceCache(table, 112)
    faces.makeup[:] = 1
    with pytest.raises(TableError, match="fewer than two"):
        held_out_photos(faces, ("test",), True)
    faces.dataset = np.full(len(faces), "fer2013")
    with pytest.raises(TableError, match="FER-2013"):
        held_out_photos(faces, ("test",), True)
