"""Codes of photos and of tables: one row a face, in a private file."""

from __future__ import annotations

import stat

import numpy as np
import pyarrow.parquet as pq
import pytest

from mien.data.table import Row, TableWriter
from mien.edit.codes import embed
from mien.faces.image import encode_image, write_image
from mien.files.errors import ConfigError, FaceError, ImageError, TableError


@pytest.fixture
def folder(tmp_path, photo):
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", np.roll(photo, 40 * number, axis=2))
    return tmp_path / "photos"


@pytest.fixture
def table(tmp_path, photo):
    with TableWriter(tmp_path / "table", crop="tight", size=48) as writer:
        for number in range(5):
            crop = np.full((48, 48, 3), 40 * number, np.uint8)
            writer.add(Row(encode_image(crop), f"t{number}", yaw=float(number)))
        writer.close()
    return tmp_path / "table"


def test_one_row_a_face(tmp_path, folder, toy_method, toy_finder) -> None:
    out = tmp_path / "codes.parquet"
    found = embed(toy_method, folder, out=out, finder=toy_finder(2), batch_size=4)
    assert found.table.column("source").to_pylist() == [
        str(folder / f"{i}.png") for i in range(3) for _ in range(2)
    ]
    assert found.table.column("face").to_pylist() == [0, 1] * 3
    assert found.skipped == {}
    assert found.table.schema.metadata[b"mien.weights"] == b"toy"
    assert pq.read_table(out).equals(found.table)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert all(len(v) == 3 for v in found.table.column("identity").to_pylist())


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_do_not_change_the_codes(folder, toy_method, toy_finder, batch_size) -> None:
    whole = embed(toy_method, folder, finder=toy_finder(2)).table
    parts = embed(toy_method, folder, finder=toy_finder(2), batch_size=batch_size).table
    assert parts.equals(whole)


def test_choice_of_faces(folder, toy_method, toy_finder) -> None:
    one = embed(toy_method, folder, finder=toy_finder(2), face=1).table
    assert one.column("face").to_pylist() == [1, 1, 1]
    with pytest.raises(FaceError, match="choose one"):
        embed(toy_method, folder, finder=toy_finder(2), face="only")


def test_tables_of_faces(table, folder, toy_method, toy_finder) -> None:
    found = embed(toy_method, table, finder=toy_finder(0)).table
    assert found.column("source").to_pylist() == [f"t{i}" for i in range(5)]
    assert found.column("yaw").to_pylist() == [0, 1, 2, 3, 4]
    means = [v[0] for v in found.column("identity").to_pylist()]
    assert means == pytest.approx([40 * i / 127.5 - 1 for i in range(5)], abs=1e-6)
    both = embed(toy_method, [table, folder], finder=toy_finder(1)).table
    assert both.num_rows == 8


def test_photos_without_a_face_are_named(folder, toy_method, toy_finder) -> None:
    (folder / "3.jpg").write_text("text")

    class Sometimes(type(toy_finder())):
        def __call__(self, images, sources=None):
            found = super().__call__(images, sources)
            return [f if "1.png" not in s else [] for f, s in zip(found, sources, strict=True)]

    found = embed(toy_method, folder, finder=Sometimes())
    assert found.table.num_rows == 2
    assert set(found.skipped) == {str(folder / "1.png"), str(folder / "3.jpg")}
    with pytest.raises(FaceError, match="no face to embed in 4 pictures"):
        embed(toy_method, folder, finder=toy_finder(0))


def test_wrong_orders(tmp_path, folder, table, toy_method, toy_finder) -> None:
    with pytest.raises(ConfigError, match="parquet"):
        embed(toy_method, folder, out=tmp_path / "codes.csv")
    with pytest.raises(ConfigError, match="batch_size"):
        embed(toy_method, folder, batch_size=0)
    with pytest.raises(ImageError, match="at least one picture"):
        embed(toy_method, [], finder=toy_finder())
    (table / "part-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(TableError, match="damaged"):
        embed(toy_method, table, finder=toy_finder())
