"""Codes computed by Ray are those of ``mien embed``, whatever is damaged among the pictures."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest

from mien.data.table import SCHEMA, Row, TableWriter
from mien.edit.codes import embed
from mien.faces.image import encode_image, write_image
from mien.files.errors import ConfigError, MissingExtraError
from mien.scale.ray import Codes, embed_dataset


def crops(count):
    return [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(count)]


@pytest.fixture
def table(tmp_path):
    with TableWriter(tmp_path / "table", crop="tight", size=32, rows_per_part=4) as writer:
        for i, crop in enumerate(crops(10)):
            data = encode_image(crop)
            writer.add(Row(data[: len(data) // 2] if i == 3 else data, f"t{i}", yaw=float(i)))
    return tmp_path / "table"


def test_a_batch_gives_a_row_a_face_and_a_reason_a_damaged_picture(table) -> None:
    rows = [{"image": encode_image(c), "source": str(i)} for i, c in enumerate(crops(3))]
    rows[1]["image"] = b"damaged"
    found = Codes("lbp")(pa.Table.from_pylist(rows, SCHEMA))
    assert found.column("source").to_pylist() == ["0", "2", "1"]
    assert found.column("skipped").to_pylist()[:2] == [None, None]
    assert "not a JPEG" in found.column("skipped").to_pylist()[2]
    assert found.column("embedding").null_count == 1
    assert Codes("lbp")(pa.Table.from_pylist(rows[1:2], SCHEMA)).schema == found.schema


def test_photos_are_searched(photo, toy_finder) -> None:
    codes = Codes("lbp")
    codes._embedder._finder = toy_finder(2)
    rows = [{"bytes": encode_image(photo), "path": "a"}, {"bytes": b"", "path": "b"}]
    found = codes(pa.Table.from_pylist(rows))
    assert found.column("source").to_pylist() == ["a", "a", "b"]
    assert found.column("face").to_pylist() == [0, 1, None]


def test_ray_that_is_missing_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"mien\[ray\]"):
        embed_dataset("lbp", None)


@pytest.fixture(scope="module")
def ray():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pytest.importorskip("ray.data")
        import ray

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield data
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_local_cluster_gives_the_codes_of_one_process(tmp_path, ray, table) -> None:
    faces = ray.read_parquet(str(table), file_extensions=["parquet"])  # table.json is there, too
    found = embed_dataset("lbp", faces, workers=2, batch_size=3)
    got = {row["source"]: row for row in found.take_all()}
    expected = {row["source"]: row for row in embed("lbp", table).table.to_pylist()}
    assert sorted(got) == [f"t{i}" for i in range(10)]
    assert got["t3"]["embedding"] is None
    assert "damaged" in got["t3"]["skipped"]
    for name, row in expected.items():
        assert got[name]["yaw"] == row["yaw"]
        assert np.array_equal(got[name]["embedding"], row["embedding"])
    with pytest.raises(ConfigError, match="needs the columns"):
        embed_dataset(
            "lbp", ray.read_parquet(str(table), columns=["source"], file_extensions=["parquet"])
        )
    for i, crop in enumerate(crops(3)):
        write_image(tmp_path / "p" / f"{i}.png", crop)
    photos = ray.read_binary_files(str(tmp_path / "p"), include_paths=True)
    rows = embed_dataset("lbp", photos, detector="crop").take_all()
    assert {row["source"].rpartition("/")[2] for row in rows} == {"0.png", "1.png", "2.png"}
