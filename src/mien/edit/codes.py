"""Codes of every face of photos, or of a table of faces, as one Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mien.data.table import Table
from mien.edit.photos import Editor
from mien.edit.sources import photo_files
from mien.faces.face import Image
from mien.faces.find import Finder, choose
from mien.faces.image import decode_image, read_image
from mien.files.atomic import atomic_path
from mien.files.errors import ConfigError, FaceError, MienError

if TYPE_CHECKING:
    from mien.methods.base import Method

_PHOTOS = 8  # decoded at a time: 40 megapixels are 120 MB


@dataclass(frozen=True)
class Embedded:
    """Codes of faces.

    Attributes:
        table: One row a face: ``source``, ``face`` (number within its photo, 0 is the largest),
            ``box``, ``score``, ``yaw``, ``pitch``, ``roll`` (degrees), then one list of float32 for
            each factor of the codes. The weights' name and SHA-256 stand in its metadata.
        skipped: Photo → why it has no row.
    """

    table: pa.Table
    skipped: dict[str, str] = field(default_factory=dict)


def embed(
    weights: str | Path | Method,
    sources: str | Path | Iterable[str | Path],
    *,
    out: str | Path | None = None,
    face: str | int = "all",
    detector: str = "dlib",
    finder: Finder | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Embedded:
    """Compute the codes of every face.

    Codes can tell who a person is: the file is readable by the user alone, and nothing is logged.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        sources: Pictures, folders of pictures, or tables of faces (``mien prepare``).
        out: Parquet file; None writes nothing.
        face: ``all``, or which one of each photo (``only``, ``largest``, ``central``, a number).
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        batch_size: Faces in a call of the network.
        progress: Show a progress bar.

    Raises:
        FaceError: No face in any of the photos.
        ImageError: A source does not exist or a folder is empty.
        TableError: A table is damaged.
        WeightsError: No such weights, or a damaged file.
        ConfigError: The method has no codes, or ``out`` does not end in ``.parquet``.
    """
    if out is not None and Path(out).suffix != ".parquet":
        raise ConfigError(f"Codes are written as Parquet: name {out} *.parquet.")
    if batch_size < 1:
        raise ConfigError(f"batch_size is at least 1, not {batch_size}.")
    if isinstance(sources, (str, Path)):
        sources = [sources]
    folders = [Path(s) for s in sources]
    tables = [Table(f) for f in folders if (f / "table.json").is_file()]
    plain = [f for f in folders if not (f / "table.json").is_file()]
    files = photo_files(plain) if plain or not tables else []

    editor = Editor(weights, detector, finder, "tight")
    skipped: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    crops: list[Image] = []
    batches: list[pa.RecordBatch] = []

    def flush() -> None:
        if rows:
            batches.append(_encode(editor, rows, crops))
            rows.clear()
            crops.clear()

    total = len(files) + sum(len(table) for table in tables)
    with tqdm(total=total, unit="img", desc="embed", disable=not progress) as bar:
        for row, crop, done in _faces(editor, files, tables, face, skipped):
            bar.update(done)
            if crop is None:
                continue
            rows.append(row)
            crops.append(crop)
            if len(rows) == batch_size:
                flush()
        flush()
    if not batches:
        reason = next(iter(skipped.values()), "the tables are empty.")
        raise FaceError(f"There is no face to embed in {total} pictures; the first: {reason}")
    metadata = {"mien.weights": editor.name, "mien.weights_sha256": editor.sha256}
    table = pa.Table.from_batches(batches).replace_schema_metadata(metadata)
    if out is not None:
        with atomic_path(out) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        Path(out).chmod(0o600)
    return Embedded(table, skipped)


def _faces(
    editor: Editor,
    files: list[Path],
    tables: list[Table],
    which: str | int,
    skipped: dict[str, str],
) -> Iterator[tuple[dict[str, Any], Image | None, int]]:
    """Yield row, crop (None: no face here) and by how many pictures the work went on."""
    for start in range(0, len(files), _PHOTOS):
        photos: dict[str, Image] = {}
        for file in files[start : start + _PHOTOS]:
            try:
                photos[str(file)] = read_image(file)
            except MienError as error:
                skipped[str(file)] = str(error)
                yield {}, None, 1
        found = editor.finder(list(photos.values()), list(photos))
        for (name, photo), faces in zip(photos.items(), found, strict=True):
            yield {}, None, 1
            try:
                chosen = [choose(faces, "largest" if which == "all" else which, name, photo.shape)]
            except FaceError as error:
                skipped[name] = str(error)
                continue
            for face in faces if which == "all" else chosen:
                yaw, pitch, roll = face.pose
                row = {
                    "source": name,
                    "face": faces.index(face),
                    "box": face.box.tolist(),
                    "score": face.score,
                    "yaw": yaw,
                    "pitch": pitch,
                    "roll": roll,
                }
                yield row, face.crop, 0
    for table in tables:
        for batch in table.batches(["image", "source", "box", "score", "yaw", "pitch", "roll"]):
            for row in batch.to_pylist():
                crop = decode_image(row.pop("image"))
                yield {**row, "face": 0}, crop, 1


def _encode(editor: Editor, rows: list[dict[str, Any]], crops: list[Image]) -> pa.RecordBatch:
    codes = editor.encode(crops)
    columns = {
        "source": pa.array([r["source"] for r in rows], pa.string()),
        "face": pa.array([r["face"] for r in rows], pa.int32()),
        "box": pa.array([r["box"] for r in rows], pa.list_(pa.float32())),
        **{
            name: pa.array([r[name] for r in rows], pa.float32(), from_pandas=True)  # NaN: null
            for name in ("score", "yaw", "pitch", "roll")
        },
    }
    for factor, values in codes.items():
        flat = np.ascontiguousarray(values)
        columns[factor] = pa.array(list(flat), pa.list_(pa.float32()))
    return pa.RecordBatch.from_pydict(columns)
