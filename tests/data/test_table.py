import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data.table import SCHEMA, Row, Table, TableWriter, write_info
from mien.files.errors import TableError


def _row(number: int, **known) -> Row:
    return Row(bytes([number]) * 8, f"{number}.jpg", **known)


def _write(folder, rows, per_part=2, crop="tight", size=112):
    with TableWriter(folder, crop=crop, size=size, rows_per_part=per_part) as writer:
        for row in rows:
            writer.add(row)


def test_rows_come_back_as_they_were_and_empty_fields_are_null(tmp_path):
    points = np.arange(136, dtype=np.float32).reshape(68, 2)
    full = Row(
        b"jpeg",
        "a.jpg",
        dataset="lfw",
        person="x",
        clip="c",
        frame=3,
        expression="happy",
        yaw=1.5,
        pitch=-2.0,
        roll=0.0,
        action_units={"AU12": 0.5},
        makeup=False,
        landmarks=points,
        to_photo=np.eye(2, 3, dtype=np.float32),
        box=np.array([0, 1, 2, 3], np.float32),
        score=0.25,
        attributes={"age": "30"},
        split="val",
        licence="L",
    )
    _write(tmp_path / "t", [full, Row(b"png", "b.jpg")])
    a, b = pq.read_table(tmp_path / "t" / "part-00000.parquet").to_pylist()
    assert a["landmarks"] == points.ravel().tolist()
    assert a["action_units"] == [("AU12", 0.5)]
    assert a["attributes"] == [("age", "30")]
    assert (a["frame"], a["makeup"], a["roll"], a["score"]) == (3, False, 0.0, 0.25)
    assert a["to_photo"] == [1, 0, 0, 0, 1, 0]
    assert {k for k, v in b.items() if v is not None} == {"image", "source"}


def test_parts_are_cut_by_rows_and_read_in_order(tmp_path):
    _write(tmp_path / "t", [_row(i) for i in range(5)])
    table = Table(tmp_path / "t")
    assert [p.name for p in table.parts] == [f"part-0000{i}.parquet" for i in range(3)]
    assert table.column("source") == [f"{i}.jpg" for i in range(5)]
    assert len(table) == 5
    assert sum(len(b) for b in table.batches(["image", "split"], rows=1)) == 5


def test_info_counts_and_its_fingerprint_does_not_depend_on_order(tmp_path):
    rows = [_row(1, split="train", dataset="a"), _row(2, split="val", dataset="b"), _row(3)]
    _write(tmp_path / "t", rows)
    _write(tmp_path / "u", rows[::-1], per_part=9)
    _write(tmp_path / "v", rows[:2])
    t, u, v = (Table(tmp_path / n).info for n in "tuv")
    assert t["splits"] == {"": 1, "train": 1, "val": 1}
    assert t["datasets"] == {"": 1, "a": 1, "b": 1}
    assert t["fingerprint"] == u["fingerprint"] != v["fingerprint"]


def test_a_writer_goes_on_after_the_parts_that_are_there(tmp_path):
    _write(tmp_path / "t", [_row(0)])
    _write(tmp_path / "t", [_row(1)])
    assert Table(tmp_path / "t").column("source") == ["0.jpg", "1.jpg"]


def test_a_writer_refuses_a_table_of_another_crop(tmp_path):
    _write(tmp_path / "t", [_row(0)])
    with pytest.raises(TableError, match="tight crops of 112 px, not ffhq of 64"):
        TableWriter(tmp_path / "t", crop="ffhq", size=64)


def test_an_error_while_writing_leaves_no_finished_table(tmp_path):
    def rows():
        yield _row(0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _write(tmp_path / "t", rows())
    with pytest.raises(TableError, match="is not a table of faces"):
        Table(tmp_path / "t")


def test_an_unfinished_table_says_so(tmp_path):
    _write(tmp_path / "t", [_row(0)])
    (tmp_path / "t" / "table.json").unlink()
    with pytest.raises(TableError, match=r"is not finished; make it with `mien prepare SRC"):
        Table(tmp_path / "t")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', "no json"])
def test_a_damaged_or_foreign_info_file_is_one_sentence(tmp_path, text):
    _write(tmp_path / "t", [_row(0)])
    (tmp_path / "t" / "table.json").write_text(text)
    with pytest.raises(TableError, match="prepare the table again"):
        Table(tmp_path / "t")


def test_a_damaged_part_is_named(tmp_path):
    _write(tmp_path / "t", [_row(0)])
    part = tmp_path / "t" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(TableError, match=r"part-00000\.parquet is damaged"):
        Table(tmp_path / "t").column("source")


def test_an_empty_column_names_the_command_that_fills_it(tmp_path):
    _write(tmp_path / "t", [_row(0, person="x"), _row(1)])
    table = Table(tmp_path / "t")
    table.require(["image", "person"], "this")
    with pytest.raises(TableError, match=r"FaceCycle needs the column 'clip'.*mien prepare video"):
        table.require(["clip"], "FaceCycle")
    with pytest.raises(TableError, match="no column 'persn', did you mean 'person'"):
        table.column("persn")


def test_the_schema_is_stable():
    # A table written by one version is read by the next; a change here is a change of FORMAT.
    names = (
        "image source dataset person clip frame expression yaw pitch roll action_units makeup "
        "landmarks to_photo box score attributes split licence"
    )
    assert SCHEMA.names == names.split()
    assert SCHEMA.field("landmarks").type == pa.list_(pa.float32())


def test_write_info_is_what_the_file_holds(tmp_path):
    _write(tmp_path / "t", [_row(0)])
    info = write_info(tmp_path / "t", "tight", 112)
    assert json.loads((tmp_path / "t" / "table.json").read_text()) == info


@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 9), (7, 8), (5, 5), (11, 99)])
def test_batches_of_some_rows(tmp_path, start, stop) -> None:
    with TableWriter(tmp_path, crop="tight", size=8, rows_per_part=4) as writer:
        for number in range(13):
            writer.add(Row(b"x", str(number)))
    found = [
        source
        for batch in Table(tmp_path).batches(["source"], 3, start, stop)
        for source in batch.column(0).to_pylist()
    ]
    assert found == [str(i) for i in range(13)][start:stop]


def test_text_that_is_no_utf8_is_damage(tmp_path) -> None:
    with TableWriter(tmp_path, crop="tight", size=8) as writer:
        writer.add(Row(b"x", "abcdefgh"))
    part = tmp_path / "part-00000.parquet"
    data = part.read_bytes()
    assert b"abcdefgh" in data
    part.write_bytes(data.replace(b"abcdefgh", b"abc\xff\xfefgh"))
    with pytest.raises(TableError, match="damaged"):
        Table(tmp_path).column("source")


def test_a_part_without_a_column_is_damaged(tmp_path):
    _write(tmp_path, [_row(0)])
    part = tmp_path / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["source"]), part)
    with pytest.raises(TableError, match=r"part-00000\.parquet is damaged"):
        Table(tmp_path).column("source")
