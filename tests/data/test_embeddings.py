import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data.embeddings import read_embeddings
from mien.data.procedural import write_table
from mien.data.table import Table
from mien.files.errors import TableError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, persons=2, frames=2, size=16)
    return Table(folder)


def write(path, rows, kind=None):
    columns = {"source": [s for s, _ in rows], "embedding": [list(e) for _, e in rows]}
    types = pa.schema([("source", pa.string()), ("embedding", kind or pa.list_(pa.float32()))])
    pq.write_table(pa.table(columns, types), path)
    return path


def test_rows_are_joined_by_source(table, tmp_path):
    names = table.column("source")
    rows = [(names[3], [3.0, 30.0]), ("somebody else", [9.0, 9.0]), (names[0], [1.0, 10.0])]
    found = read_embeddings(write(tmp_path / "e.parquet", rows), table, 2)
    assert found.dtype == np.float32
    assert found[[0, 3]].tolist() == [[1, 10], [3, 30]]
    assert np.isnan(found[[1, 2]]).all()


def test_other_numbers_are_converted(table, tmp_path):
    kinds = {np.float64: pa.list_(pa.float64()), np.float16: pa.large_list(pa.float16())}
    for number, kind in [*kinds.items(), (np.float32, pa.list_(pa.float32(), 2))]:
        rows = [(table.column("source")[1], [number(0.5), number(2)])]
        found = read_embeddings(write(tmp_path / "e.parquet", rows, kind), table, 2)
        assert found[1].tolist() == [0.5, 2.0]


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 3.0]], [[1.0, 2.0], [1.0]]])
def test_another_length(table, tmp_path, rows):
    names = table.column("source")
    file = write(tmp_path / "e.parquet", list(zip(names, rows, strict=False)))
    with pytest.raises(TableError, match=r"not all have 2 numbers.*config\.teacher_dim"):
        read_embeddings(file, table, 2)


def test_nothing_matches(table, tmp_path):
    file = write(tmp_path / "e.parquet", [("nobody", [1.0, 2.0])])
    with pytest.raises(TableError, match="no embedding of a face of") as caught:
        read_embeddings(file, table, 2)
    assert "nobody" not in str(caught.value)


def test_no_such_file(table, tmp_path):
    (tmp_path / "text.parquet").write_text("no Parquet")
    pq.write_table(pa.table({"source": ["a"]}), tmp_path / "column.parquet")
    for name in ("absent", "text", "column"):
        with pytest.raises(TableError, match="no Parquet file with the columns"):
            read_embeddings(tmp_path / f"{name}.parquet", table, 2)
