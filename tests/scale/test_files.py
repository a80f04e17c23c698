"""Codes in shards: what is there is kept, what was cut off goes on, nothing is computed twice."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from mien.data.embeddings import read_embeddings
from mien.data.table import Row, Table, TableWriter
from mien.edit.codes import Embedder, embed
from mien.faces.image import encode_image, write_image
from mien.files.errors import ConfigError, FaceError
from mien.scale import embed_files
from mien.scale import files as module


@pytest.fixture
def table(tmp_path):
    with TableWriter(tmp_path / "table", crop="tight", size=32, rows_per_part=7) as writer:
        for number in range(20):
            crop = np.full((32, 32, 3), 10 * number, np.uint8)
            writer.add(Row(encode_image(crop), f"t{number}", yaw=float(number)))
        writer.close()
    return tmp_path / "table"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)


def test_one_file_holds_what_memory_holds(tmp_path, table) -> None:
    out = tmp_path / "codes.parquet"
    found = embed_files("lbp", table, out, batch_size=2)
    expected = embed("lbp", table).table
    got = pq.read_table(out)
    assert (found.faces, found.kept, found.skipped) == (20, 0, {})
    assert got.schema.names == expected.schema.names
    assert got.equals(expected.cast(got.schema))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("shards", [1, 3, 20, 32])
def test_shards_together_are_the_whole(tmp_path, table, shards) -> None:
    out = tmp_path / "codes"
    for number in reversed(range(shards)):
        embed_files("lbp", table, out, num_shards=shards, shard=number)
    assert pq.read_table(out).column("source").to_pylist() == [f"t{i}" for i in range(20)]
    assert embed_files("lbp", table, out, num_shards=shards).kept == shards
    values = read_embeddings(out, Table(table), 944)
    assert np.isfinite(values).all()


def test_a_cut_goes_on_where_it_was(tmp_path, table, monkeypatch) -> None:
    out = tmp_path / "codes.parquet"
    seen = []
    record = Embedder.record

    def counting(self, rows, crops):
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.extend(r["source"] for r in rows)
        return record(self, rows, crops)

    monkeypatch.setattr(Embedder, "record", counting)
    with pytest.raises(KeyboardInterrupt):
        embed_files("lbp", table, out, batch_size=2)
    assert not out.exists()
    assert seen == [f"t{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    monkeypatch.setattr(Embedder, "record", record)
    again = []
    monkeypatch.setattr(
        Embedder, "record", lambda s, r, c: again.extend(x["source"] for x in r) or record(s, r, c)
    )
    embed_files("lbp", table, out, batch_size=2)
    assert again == [f"t{i}" for i in range(6, 20)]
    assert pq.read_table(out).equals(embed("lbp", table).table.cast(pq.read_schema(out)))
    again.clear()
    assert embed_files("lbp", table, out).kept == 1
    assert again == []


_CHILD = """
import sys, time
from mien.edit.codes import Embedder
from mien.scale import embed_files, files
files._BLOCK = 3
record = Embedder.record
def slow(self, rows, crops):
    time.sleep(0.02)
    return record(self, rows, crops)
Embedder.record = slow
embed_files("lbp", sys.argv[1], sys.argv[2], batch_size=2)
"""


def test_killed_at_any_instant_it_goes_on_to_the_same_codes(tmp_path, table) -> None:
    out = tmp_path / "codes.parquet"
    parts = tmp_path / f".{out.name}.parts"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for blocks in (1, 4):
        child = subprocess.Popen([sys.executable, "-c", _CHILD, table, out], env=environment)
        deadline = time.monotonic() + 60
        while len(list(parts.glob("[!.]*.parquet"))) < blocks:
            assert child.poll() is None, "it finished before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.003)
        child.kill()
        child.wait()
        assert not out.exists()
    embed_files("lbp", table, out, batch_size=2)
    embed_files("lbp", table, tmp_path / "whole.parquet", batch_size=2)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not list(tmp_path.glob(".*"))


def test_other_settings_are_not_mixed(tmp_path, table) -> None:
    embed_files("lbp", table, tmp_path / "codes", num_shards=2, shard=0)
    with pytest.raises(ConfigError, match="other weights"):
        embed_files("hog", table, tmp_path / "codes", num_shards=2)
    out = tmp_path / "codes.parquet"
    embed_files("lbp", table, out)
    assert embed_files("hog", table, out).kept == 0  # one file is replaced, as it always was
    assert pq.read_schema(out).metadata[b"mien.weights"] == b"hog"


def test_damaged_files_lose_nothing_else(tmp_path, photo, toy_finder) -> None:
    folder = tmp_path / "photos"
    for number in range(20):
        write_image(folder / f"{number:02d}.png", photo)
    for number in (4, 11):  # 10 %
        file = folder / f"{number:02d}.png"
        file.write_bytes(file.read_bytes()[:300] if number == 4 else b"\0" * 90)
    found = embed_files("lbp", folder, tmp_path / "c.parquet", finder=toy_finder(1))
    assert found.faces == 18
    assert set(found.skipped) == {str(folder / "04.png"), str(folder / "11.png")}


def test_a_damaged_crop_of_a_table_loses_nothing_else(tmp_path) -> None:
    with TableWriter(tmp_path / "table", crop="tight", size=32) as writer:
        for number in range(10):
            crop = encode_image(np.full((32, 32, 3), 20 * number, np.uint8))
            writer.add(Row(crop[: len(crop) // 2] if number == 3 else crop, f"t{number}"))
    found = embed_files("lbp", tmp_path / "table", tmp_path / "c.parquet")
    assert found.faces == 9
    assert list(found.skipped) == ["t3"]


def test_pictures_without_faces(tmp_path, photo, toy_finder) -> None:
    write_image(tmp_path / "p" / "0.png", photo)
    with pytest.raises(FaceError, match="no face to embed in 1 pictures"):
        embed_files("lbp", tmp_path / "p", tmp_path / "c.parquet", finder=toy_finder(0))
    found = embed_files("lbp", tmp_path / "p", tmp_path / "c", num_shards=2, finder=toy_finder(0))
    assert found.faces == 0
    assert pq.read_table(tmp_path / "c").schema.names[-1] == "embedding"


@pytest.mark.parametrize(
    ("out", "values", "says"),
    [
        ("c.csv", {}, "parquet"),
        ("c.parquet", {"shard": 0}, "num-shards"),
        ("c.parquet", {"num_shards": 2}, "folder"),
        ("c", {"num_shards": 0}, "num_shards"),
        ("c", {"num_shards": 2, "shard": 2}, "from 0 to 1"),
        ("c.parquet", {"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_orders(tmp_path, table, out, values, says) -> None:
    with pytest.raises(ConfigError, match=says):
        embed_files("lbp", table, tmp_path / out, **values)
