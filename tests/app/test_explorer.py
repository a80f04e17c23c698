"""The map of embeddings: a dot a face, with its picture and its label."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mien.app.explorer import explore
from mien.data.table import Row, TableWriter
from mien.faces.image import encode_image
from mien.files.errors import ConfigError, TableError


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    with TableWriter(tmp_path / "t", crop="tight", size=32) as writer:
        for k in range(24):
            dark = k % 2
            crop = rng.integers(0, 40, (32, 32, 3)).astype(np.uint8) + np.uint8(200 * (1 - dark))
            row = Row(encode_image(crop, "PNG"), f"{k}", expression=("<bright>", "dark")[dark])
            row.yaw = float(k)
            writer.add(row)
    return str(tmp_path / "t")


def test_like_faces_lie_together_and_show_themselves(table) -> None:
    html = explore("pixels,pca=0", table, "expression", "tsne")
    dots = re.findall(r'cx="(\d+)" cy="(\d+)".*?<title>(.*?)</title>', html)
    assert len(dots) == 24
    assert html.count("data:image/jpeg;base64,") == 24
    assert {label for *_, label in dots} == {"&lt;bright&gt;", "dark"}
    assert "<script" not in html
    places = {name: np.array([[int(x), int(y)] for x, y, n in dots if n == name])
              for name in ("&lt;bright&gt;", "dark")}  # fmt: skip
    middle = {n: p.mean(0) for n, p in places.items()}
    apart = np.linalg.norm(middle["dark"] - middle["&lt;bright&gt;"])
    assert all(np.linalg.norm(p - middle[n], axis=1).mean() < apart for n, p in places.items())


def test_numbers_get_a_scale_of_colours(table) -> None:
    html = explore("pixels,pca=0", table, "yaw", "tsne")
    assert len(set(re.findall(r'fill="(hsl[^"]+)"', html))) > 10


def test_wrong_orders(table) -> None:
    with pytest.raises(ConfigError, match="No map"):
        explore("pixels", table, "expression", "pca")
    with pytest.raises(TableError):
        explore("pixels", table, "nothing", "tsne")
    with pytest.raises(TableError, match="needs 5"):
        explore("pixels", table, "expression", "tsne", limit=3)
