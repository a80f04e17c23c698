"""Tar shards of WebDataset and files of Hugging Face datasets, and what is damaged in them."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data.prepare import prepare
from mien.data.procedural import ProceduralFaces
from mien.data.readers import reader
from mien.data.table import Table
from mien.faces.image import decode_image, encode_image
from mien.files.errors import ImageError

FACES = ProceduralFaces(size=64)
PICTURES = [FACES.draw(FACES.parameters(i, 2)[0])[0] for i in range(8)]
OPTIONS = {"detector": "crop", "min_score": 0.0, "crop": "whole", "size": 64}


def shard(path, files, format=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(numbers, start=""):
    for i in numbers:
        note = {"person": f"p{i % 3}", "age": 20 + i, "tags": ["x"]}
        yield f"{start}{i:03d}.jpg", encode_image(PICTURES[i], "JPEG")
        yield f"{start}{i:03d}.json", json.dumps(note).encode()
        yield f"{start}{i:03d}.txt", b"whatever else there is"


def read(source):
    return [(r, source.photo(r)[0]) for r in source.records()]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("start", ["", "folder.v1/", "ä" * 60 + "/"])
def test_shards_give_pictures_and_labels(tmp_path, format, start) -> None:
    shard(tmp_path / "a-000.tar", samples(range(5), start), format)
    shard(tmp_path / "a-001.tar", samples(range(5, 8), start), format)
    found = read(reader("webdataset", tmp_path))
    names = [f"a-{i // 5:03d}.tar/{start}{i:03d}.jpg" for i in range(8)]
    assert [r.source for r, _ in found] == names
    assert [r.labels.person for r, _ in found] == [f"p{i % 3}" for i in range(8)]
    assert [r.labels.attributes for r, _ in found] == [{"age": str(20 + i)} for i in range(8)]
    for (_, image), drawn in zip(found, PICTURES, strict=True):
        assert np.array_equal(image, decode_image(encode_image(drawn, "JPEG")))


def test_a_shard_that_was_cut_off_gives_what_it_holds(tmp_path) -> None:
    whole = shard(tmp_path / "b.tar", samples(range(4)))
    shard(tmp_path / "c.tar", samples(range(4, 6)))
    with tarfile.open(whole) as tar:
        third = tar.getmember("002.jpg").offset_data
    whole.write_bytes(whole.read_bytes()[: third + 100])
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    source = reader("webdataset", tmp_path)
    records = list(source.records())
    inside = ["b.tar/000.jpg", "b.tar/001.jpg", "b.tar", "c.tar/004.jpg", "c.tar/005.jpg"]
    kept = [r.source for r in records if r.source != "b.tar/002.jpg"]
    assert kept == ["a.tar", *inside]
    for record in records:
        if record.source in ("a.tar", "b.tar", "b.tar/002.jpg"):
            with pytest.raises(ImageError, match="damaged or cut off"):
                source.photo(record)
        else:
            source.photo(record)
    info = prepare(f"webdataset:{tmp_path}", tmp_path / "t", progress=False, workers=1, **OPTIONS)
    assert info["faces"] == 4
    assert set(info["rejected"]) == {"unreadable"}


@pytest.mark.parametrize("note", [b"{", b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_note_costs_no_picture(tmp_path, note) -> None:
    shard(tmp_path / "a.tar", [("1.json", note), ("1.png", encode_image(PICTURES[0]))])
    ((record, image),) = read(reader("webdataset", tmp_path))
    assert record.labels.attributes == {}
    assert np.array_equal(image, PICTURES[0])


def hub(numbers):
    """A table as ``datasets`` writes it."""
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["calm", "glad"]},
        "person": {"dtype": "string", "_type": "Value"},
    }
    pictures = [{"bytes": encode_image(PICTURES[i]), "path": f"{i}.png"} for i in numbers]
    table = pa.table(
        {
            "person": [f"p{i}" for i in numbers],
            "image": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([i % 2 for i in numbers], pa.int64()),
        }
    )
    noted = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": noted})


def arrow(table, file, rows):
    with pa.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_of_the_hub_give_pictures_and_labels(tmp_path, kind) -> None:
    for name, numbers in (("train-00000-of-00001", range(5)), ("test-00000-of-00001", range(5, 8))):
        if kind == "parquet":
            pq.write_table(hub(numbers), tmp_path / f"{name}.parquet", row_group_size=2)
        else:
            arrow(hub(numbers), tmp_path / f"{name}.arrow", 2)
    found = read(reader("huggingface", tmp_path))
    order = [5, 6, 7, 0, 1, 2, 3, 4]
    assert [r.labels.person for r, _ in found] == [f"p{i}" for i in order]
    assert [r.labels.split for r, _ in found] == ["test"] * 3 + ["train"] * 5
    labels = [r.labels.attributes["label"] for r, _ in found]
    assert labels == [("calm", "glad")[i % 2] for i in order]
    for (_, image), number in zip(found, order, strict=True):
        assert np.array_equal(image, PICTURES[number])
    source = f"huggingface:{tmp_path}"
    prepare(source, tmp_path / "t", progress=False, workers=1, **OPTIONS)
    assert Table(tmp_path / "t").column("person") == [f"p{i}" for i in order]


def test_a_damaged_file_of_the_hub_loses_nothing_else(tmp_path) -> None:
    for number in range(3):
        pq.write_table(hub([number]), tmp_path / f"{number}.parquet")
    file = tmp_path / "1.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    empty = hub([3]).set_column(
        1, "image", pa.array([{"bytes": None, "path": "x.png"}], hub([3]).schema.field(1).type)
    )
    pq.write_table(empty, tmp_path / "3.parquet")
    pq.write_table(pa.table({"text": ["no picture"]}), tmp_path / "4.parquet")
    info = prepare(f"huggingface:{tmp_path}", tmp_path / "t", progress=False, workers=1, **OPTIONS)
    assert info["faces"] == 2
    assert info["rejected"] == {"unreadable": 2}
    said = (tmp_path / "t" / "rejected.csv").read_text()
    assert "1.parquet,unreadable" in said
    assert "embed the pictures" in said
