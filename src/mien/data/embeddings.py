"""A teacher's embeddings of the faces of a table, to train a small recogniser by.

Embeddings of faces are biometric data: nothing here prints them or names the faces they belong to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mien.files.errors import TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.data.table import Table


def read_embeddings(path: str | Path, table: Table, dim: int) -> NDArray[np.float32]:
    """Join a file of embeddings to the rows of a table.

    Args:
        path: Parquet with the columns ``source`` (string, as in the table) and ``embedding`` (list
            of ``dim`` floats).
        table: The table of faces.
        dim: Length of an embedding.

    Returns:
        float32 ``(N, dim)`` in the order of the table; NaN where the file has none.

    Raises:
        TableError: No such file, another length, or no row of the table has an embedding.
    """
    places: dict[str, int] = {}
    for batch in table.batches(["source"], 8192):
        for source in batch.column(0).to_pylist():
            places[source] = len(places)
    found = np.full((len(table), dim), np.nan, np.float32)
    matched = 0
    for batch in _batches(path):
        vectors = batch.column("embedding")
        if any(length != dim for length in vectors.value_lengths().to_pylist()):
            raise TableError(
                f"The embeddings of {path} do not all have {dim} numbers; give their length by "
                "config.teacher_dim."
            )
        values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        rows = np.array([places.get(s, -1) for s in batch.column("source").to_pylist()], np.int64)
        found[rows[rows >= 0]] = values[rows >= 0]
        matched += int((rows >= 0).sum())
    if not matched:
        raise TableError(
            f"{path} has no embedding of a face of {table.folder}: its column 'source' must hold "
            "the names that the table holds."
        )
    return found


def _batches(path: str | Path) -> list[pa.RecordBatch]:
    try:
        table = pq.read_table(path, columns=["source", "embedding"])
        target = pa.schema([("source", pa.string()), ("embedding", pa.list_(pa.float32()))])
        batches: list[pa.RecordBatch] = table.cast(target).to_batches(8192)
        return batches
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(
            f"{path} is no Parquet file with the columns 'source' and 'embedding': {reason}"
        ) from None
