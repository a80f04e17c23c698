"""Table of faces: a folder of Parquet parts, one row a face, and ``table.json``.

Every reader of a data set produces it through ``mien prepare``; every sampler consumes it. The
parts open in pandas, DuckDB, Hugging Face ``datasets`` and Ray Data as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mien.faces.face import Array
from mien.files.atomic import atomic_path, write_json
from mien.files.errors import TableError, nearest

FORMAT = 1
SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),  # JPEG or PNG bytes of the crop
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("person", pa.string()),
        ("clip", pa.string()),
        ("frame", pa.int32()),
        ("expression", pa.string()),
        ("yaw", pa.float32()),
        ("pitch", pa.float32()),
        ("roll", pa.float32()),
        ("action_units", pa.map_(pa.string(), pa.float32())),
        ("makeup", pa.bool_()),
        ("landmarks", pa.list_(pa.float32())),  # 136: x0 y0 x1 y1 …, pixels of the crop
        ("to_photo", pa.list_(pa.float32())),  # 6: 2x3, crop pixels → photo pixels
        ("box", pa.list_(pa.float32())),  # 4: left, top, right, bottom, photo pixels
        ("score", pa.float32()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("split", pa.string()),
        ("licence", pa.string()),
    ]
)

# What to run when a column is empty.
_FILL = {
    "landmarks": "prepare it again with `mien prepare` (it finds them)",
    "yaw": "prepare it again with `mien prepare` (it measures head pose)",
    "pitch": "prepare it again with `mien prepare` (it measures head pose)",
    "roll": "prepare it again with `mien prepare` (it measures head pose)",
    "clip": "prepare videos or renders: `mien prepare video:DIR --out TABLE`",
    "person": "prepare a data set whose reader knows persons, e.g. `mien prepare lfw:DIR`",
    "expression": "prepare a data set with expressions, e.g. `mien prepare fer2013:DIR`",
}


@dataclass
class Row:
    """One face. Empty fields stay empty (null) in the table.

    Attributes:
        image: Encoded JPEG or PNG bytes of the crop.
        source: Where it came from, unique within a table (``path``, ``path#frame``, ``path@face``).
        dataset: Name of the reader.
        person: Name or number of the person; unique together with ``dataset``.
        clip: Pictures of one person with one clip name were taken together.
        frame: Number of the frame within its clip.
        expression: Lower-case name (``neutral``, ``happy``, …) as the data set gives it.
        yaw: Degrees (signs as in ``Face.pose``).
        pitch: Degrees.
        roll: Degrees.
        action_units: Name → intensity.
        makeup: Whether the face wears make-up.
        landmarks: ``(68, 2)``, pixels of the crop, (0, 0) is the centre of the top left pixel.
        to_photo: ``(2, 3)``, crop pixels → photo pixels.
        box: ``(4,)`` left, top, right, bottom in photo pixels.
        score: Face probability in [0, 1].
        attributes: Whatever else the data set says.
        split: ``train``, ``val`` or ``test``.
        licence: Terms of the picture.
    """

    image: bytes
    source: str
    dataset: str = ""
    person: str = ""
    clip: str = ""
    frame: int = -1
    expression: str = ""
    yaw: float = float("nan")
    pitch: float = float("nan")
    roll: float = float("nan")
    action_units: dict[str, float] = field(default_factory=dict)
    makeup: bool | None = None
    landmarks: Array | None = None
    to_photo: Array | None = None
    box: Array | None = None
    score: float = float("nan")
    attributes: dict[str, str] = field(default_factory=dict)
    split: str = ""
    licence: str = ""


def _cell(value: Any) -> Any:
    """Turn an empty value into null, an array into a list."""
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()
    if isinstance(value, dict):
        return list(value.items()) or None
    if isinstance(value, float):
        return None if np.isnan(value) else value
    if isinstance(value, str):
        return value or None
    return None if isinstance(value, int) and not isinstance(value, bool) and value < 0 else value


class TableWriter:
    """Writes a table part by part in constant memory.

    A part is there whole or not at all; ``table.json`` is written last, on a clean exit. A writer
    on a folder that already holds parts goes on after them.

    Args:
        folder: The table's folder; made if absent.
        crop: Named framing of the crops (``tight``, ``ffhq``, ``whole``).
        size: Side of the crops in pixels.
        rows_per_part: Rows in memory before a part is written.

    Raises:
        TableError: The folder holds a table of another crop or size.
    """

    def __init__(
        self, folder: str | Path, *, crop: str, size: int, rows_per_part: int = 2048
    ) -> None:
        self.folder = Path(folder)
        self.crop, self.size, self.rows_per_part = crop, size, rows_per_part
        self.folder.mkdir(parents=True, exist_ok=True)
        info = self.folder / "table.json"
        if info.is_file():
            old = _read_info(info)
            if (old["crop"], old["size"]) != (crop, size):
                raise TableError(
                    f"{self.folder} holds {old['crop']} crops of {old['size']} px, not {crop} of "
                    f"{size}; give another folder with --out."
                )
        self._rows: list[Row] = []
        self._part = len(_parts(self.folder))

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def add(self, row: Row) -> None:
        """Add a face; writes a part when enough have gathered."""
        self._rows.append(row)
        if len(self._rows) >= self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Write the gathered rows as a part."""
        if not self._rows:
            return
        columns = {
            name: pa.array(
                [_cell(getattr(row, name)) for row in self._rows], SCHEMA.field(name).type
            )
            for name in SCHEMA.names
        }
        target = self.folder / f"part-{self._part:05d}.parquet"
        with atomic_path(target) as temporary:
            # JPEG does not compress further; dictionaries keep the label columns small.
            pq.write_table(
                pa.table(columns, schema=SCHEMA),
                temporary,
                compression={name: "NONE" if name == "image" else "ZSTD" for name in SCHEMA.names},
                use_dictionary=[
                    n for n in SCHEMA.names if pa.types.is_string(SCHEMA.field(n).type)
                ],
            )
        self._part += 1
        self._rows = []

    def close(self) -> dict[str, Any]:
        """Write what is left and ``table.json``; return its content."""
        self.flush()
        return write_info(self.folder, self.crop, self.size)


def write_info(folder: Path, crop: str, size: int) -> dict[str, Any]:
    """Count and hash the parts of ``folder``, write ``table.json`` and return its content."""
    digests: list[str] = []
    counts: dict[str, dict[str, int]] = {"dataset": {}, "split": {}, "licence": {}}
    rows = 0
    for part in _parts(folder):
        for batch in pq.ParquetFile(part).iter_batches(512, columns=["image", *counts]):
            rows += len(batch)
            digests += [hashlib.sha256(v.as_buffer()).hexdigest() for v in batch.column("image")]
            for name, count in counts.items():
                for value in batch.column(name).to_pylist():
                    count[value or ""] = count.get(value or "", 0) + 1
    info = {
        "format": FORMAT,
        "crop": crop,
        "size": size,
        "faces": rows,
        **{f"{name}s": dict(sorted(count.items())) for name, count in counts.items()},
        "fingerprint": hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
    }
    write_json(folder / "table.json", info)
    return info


class Table:
    """A finished table of faces, read lazily.

    Attributes:
        folder: Its folder.
        info: Content of ``table.json``: crop, size, faces, datasets, splits, licences, fingerprint.

    Raises:
        TableError: The folder is no finished table.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "table.json").is_file():
            what = "is not finished" if _parts(self.folder) else "is not a table of faces"
            raise TableError(
                f"{self.folder} {what}; make it with `mien prepare SRC --out {self.folder}`."
            )
        self.info = _read_info(self.folder / "table.json")
        self.parts = _parts(self.folder)

    def __len__(self) -> int:
        return int(self.info["faces"])

    def batches(
        self, columns: Sequence[str], rows: int = 512, start: int = 0, stop: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield record batches of ``columns`` in a fixed order, in constant memory.

        Args:
            columns: Names of columns.
            rows: Rows in a batch at most.
            start: First row of the table to yield; parts before it are not read.
            stop: Row before which to end; None: the last.

        Raises:
            TableError: No such column, or a damaged part.
        """
        for name in columns:
            if name not in SCHEMA.names:
                raise TableError(f"A table has no column {name!r}{nearest(name, SCHEMA.names)}")
        first = 0  # row of the table that the part or batch begins with
        for part in self.parts:
            try:
                file = pq.ParquetFile(part)
                for name in columns:
                    file.schema_arrow.field(name)  # KeyError: the part has no such column
                if first + file.metadata.num_rows <= start:
                    first += file.metadata.num_rows
                    continue
                for batch in file.iter_batches(rows, columns=list(columns)):
                    here, first = first, first + len(batch)
                    if stop is not None and here >= stop:
                        return
                    low = max(start - here, 0)
                    high = len(batch) if stop is None else min(stop - here, len(batch))
                    if low < high:
                        batch.validate(full=True)  # text that is no UTF-8 among others
                        yield batch.slice(low, high - low)
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise TableError(f"{part} is damaged ({error}); prepare the table again.") from None

    def column(self, name: str) -> list[Any]:
        """Return one column whole, null as None."""
        return [v for batch in self.batches([name], 8192) for v in batch.column(0).to_pylist()]

    def require(self, columns: Sequence[str], who: str) -> None:
        """Check that ``columns`` hold something.

        Raises:
            TableError: One is empty; says which command fills it.
        """
        for name in columns:
            if not any(len(b) > b.column(0).null_count for b in self.batches([name], 8192)):
                fill = _FILL.get(name, "prepare a data set that has it")
                raise TableError(
                    f"{who} needs the column {name!r}, which is empty in {self.folder}: {fill}."
                )


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text())
        if info["format"] != FORMAT:
            raise TableError(
                f"{path} is of table format {info['format']}, this version reads {FORMAT}; "
                "prepare the table again."
            )
        return dict(info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path} cannot be read ({error}); prepare the table again.") from None
