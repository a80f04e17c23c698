"""Pictures in the Parquet and Arrow files of Hugging Face ``datasets``, read without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, pictures
from mien.data.readers.webdataset import labelled
from mien.faces.face import Image
from mien.faces.image import read_image_sized
from mien.files.errors import ImageError

_ROWS = 2048  # of labels at a time
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


@register
class HuggingFace(Reader):
    """A data set with a column of pictures, as the hub holds it or ``save_to_disk`` writes it.

    Columns ``person``, ``clip``, ``expression`` and ``split`` become the table's, other plain
    values attributes; class labels are written by name. Names of files such as
    ``train-00000-of-00002.parquet``, or of their folder, tell the split where no column does.
    """

    name = "huggingface"
    layout = "*.parquet or *.arrow with a column of pictures ({bytes, path}), as `datasets` writes"

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        # Rows are asked for in order: what the last one needed is kept.
        self._schema = lru_cache(1)(_schema)
        self._groups = lru_cache(1)(_groups)
        self._cells = lru_cache(1)(_cells)

    def records(self) -> Iterator[Record]:
        """Yield every row, file by file; one that is damaged is listed among the rejected."""
        found = False
        for file in pictures(self.root, (".parquet", ".arrow")):
            inside = below(file, self.root)
            try:
                schema = self._schema(file)
                if not _picture_column(schema):
                    continue
                found = True
                yield from self._rows(file, inside, schema)
            except (pa.ArrowException, OSError):
                found = True
                yield Record(inside, file, labels=self.labels())
        if not found:
            raise self.wrong("holds no file with a column of pictures")

    def _rows(self, file: Path, inside: str, schema: pa.Schema) -> Iterator[Record]:
        names = _class_names(schema)
        plain = [f.name for f in schema if _is_plain(f.type)]
        split = _split(file, self.root)
        number = 0
        for batch in _batches(file, plain):
            columns = {name: batch.column(name).to_pylist() for name in plain}
            for row in range(len(batch)):
                said = {k: _named(names.get(k), v[row]) for k, v in columns.items()}
                labels = self.labels(**labelled({"split": split, **said}))
                yield Record(f"{inside}/{number}", file, number, labels=labels)
                number += 1

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return the pixels of a row.

        Raises:
            ImageError: They cannot be read, or the row only names a file elsewhere.
        """
        if record.index < 0:
            raise ImageError(f"{record.file} is damaged or cut off; copy or download it again.")
        value = self._cell(record.file, record.index)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise ImageError(
                f"{record.source} holds no picture, at most the name of one; embed the pictures "
                "in the data set (`datasets.Dataset.push_to_hub` and `to_parquet` do)."
            )
        return read_image_sized(data, max_side=max_side)

    def _cell(self, file: Path, number: int) -> Any:
        try:
            column = _picture_column(self._schema(file))
            for group, (first, rows) in enumerate(self._groups(file)):
                if first <= number < first + rows:
                    return self._cells(file, column, group)[number - first].as_py()
        except (pa.ArrowException, OSError) as error:
            raise ImageError(f"{file} is damaged ({error}); copy or download it again.") from None
        raise ImageError(f"{file} has no row {number}; it has changed while it was read.")


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".parquet":
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what ``datasets`` noted of the columns."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _picture_column(schema: pa.Schema) -> str:
    """Return the first column of pictures; empty if there is none."""
    features = _features(schema)
    for field in schema:
        noted = features.get(field.name)
        kind = noted.get("_type") if isinstance(noted, dict) else None
        inner = {f.name for f in field.type} if pa.types.is_struct(field.type) else set()
        if kind == "Image" or (kind is None and {"bytes", "path"} <= inner):
            return str(field.name)
    return ""


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return column → names of its numbers."""
    return {
        name: noted["names"]
        for name, noted in _features(schema).items()
        if isinstance(noted, dict) and isinstance(noted.get("names"), list)
    }


def _named(names: list[str] | None, value: Any) -> Any:
    """Return the class name that a number stands for; -1 is datasets' "not known"."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating)
    return any(test(kind) for test in (*tests, types.is_boolean))


def _split(file: Path, root: Path) -> str:
    for part in (file.name, file.parent.name if file != root else ""):
        word = part.partition("-")[0].partition(".")[0].lower()
        if word in _SPLITS:
            return _SPLITS[word]
    return ""


def _batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        yield from pq.ParquetFile(file).iter_batches(_ROWS, columns=columns)
        return
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield batch.select(columns)


def _groups(file: Path) -> list[tuple[int, int]]:
    """Return first row and number of rows of each row group or batch."""
    if file.suffix == ".parquet":
        metadata = pq.read_metadata(file)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    else:
        sizes = [len(batch) for batch in _batches(file, [])]
    return list(zip(accumulate(sizes, initial=0), sizes, strict=False))


def _cells(file: Path, column: str, group: int) -> pa.ChunkedArray | pa.Array:
    """Return the pictures of one row group or batch."""
    if file.suffix == ".parquet":
        return pq.ParquetFile(file).read_row_group(group, columns=[column]).column(0)
    return next(islice(_batches(file, [column]), group, None)).column(0)
