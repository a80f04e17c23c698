"""Grids: the right pictures in the right places, and marked as edited."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.demo import demo
from mien.edit.grids import CELL, draw_grid, grid_names, write_grid
from mien.faces.image import read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.errors import ConfigError, WeightsError
from mien.methods.derl import DeRL
from mien.methods.ipgan import IPGAN


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def small(stage: str = "synthesise") -> IPGAN:
    torch.manual_seed(0)
    config = IPGAN.Config(width=4, size=32, identity_dim=16, attribute_dim=8)
    return IPGAN(config, stage).eval()


def derl() -> DeRL:
    torch.manual_seed(0)
    return DeRL(DeRL.Config(width=4, size=32)).eval()


@pytest.fixture
def crops() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
            for _ in range(3)]  # fmt: skip


def test_who_can_what(toy_method) -> None:
    assert grid_names(derl()) == ["residue"]
    assert grid_names(small()) == ["attributes", "interpolation"]
    assert grid_names(toy_method) == []


def test_residue(crops) -> None:
    rows = draw_grid("residue", derl(), crops)
    assert [len(row) for row in rows] == [6, 6, 6]  # face, neutral, four groups
    assert all(cell.shape == (CELL, CELL, 3) for row in rows for cell in row)
    assert any((a != b).any() for a, b in zip(rows[0][2:], rows[1][2:], strict=True))


def test_attributes_are_drawn_by_the_seed(crops) -> None:
    first, again, other = (draw_grid("attributes", small(), crops, 4, s) for s in (1, 1, 2))
    assert [len(row) for row in first] == [5, 5, 5]
    np.testing.assert_array_equal(first, again)
    assert (np.array(first)[:, 1:] != np.array(other)[:, 1:]).any()


def test_interpolation_ends_at_the_next_face(crops) -> None:
    rows = draw_grid("interpolation", small(), crops, 3)
    assert [len(row) for row in rows] == [5, 5, 5]
    for row, following in zip(rows, [1, 2, 0], strict=True):
        np.testing.assert_array_equal(row[-1], rows[following][0])


@pytest.mark.parametrize(
    ("name", "method", "count", "text"),
    [
        ("residu", derl, 6, "did you mean 'residue'"),
        ("attributes", derl, 6, "it can: residue"),
        ("attributes", small, 0, "At least 1"),
        ("interpolation", small, 1, "at least 2 steps"),
    ],
)
def test_errors(crops, name, method, count, text) -> None:
    with pytest.raises(ConfigError, match=text):
        draw_grid(name, method(), crops, count)


def test_one_face_goes_nowhere(crops) -> None:
    with pytest.raises(ConfigError, match="2 faces or more"):
        draw_grid("interpolation", small(), crops[:1])


def test_weights_of_the_first_stage_draw_nothing(crops) -> None:
    with pytest.raises(WeightsError, match="draw nothing"):
        draw_grid("attributes", small("recognise"), crops)


def test_the_file_says_that_it_was_edited(tmp_path, photo, toy_finder) -> None:
    write_image(tmp_path / "me.png", photo)
    out = write_grid(
        "residue", [tmp_path / "me.png"], out=tmp_path / "o.png", weights=derl(),
        finder=toy_finder(1),
    )  # fmt: skip
    assert read_provenance(out).state == "valid"
    assert read_image(out).shape == (CELL, 6 * CELL, 3)


@pytest.mark.parametrize(
    ("method", "files", "text"),
    [
        (derl, {"residue.png"}, "What the expression leaves behind"),
        (small, {"attributes.png", "interpolation.png"}, "New pictures of a person"),
    ],
)
def test_the_demo_shows_them(tmp_path, photo, toy_finder, method, files, text) -> None:
    write_image(tmp_path / "me.png", photo)
    page = demo(
        [tmp_path / "me.png"], out=tmp_path / "demo", weights=method(), finder=toy_finder(2),
        progress=False,
    )  # fmt: skip
    assert files <= {p.name for p in page.parent.iterdir()}
    assert text in page.read_text()
    assert all(read_provenance(page.parent / name).state == "valid" for name in files)
