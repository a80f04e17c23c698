"""Codes of every face of photos, or of a table of faces: one row a face."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from mien.data.table import Table
from mien.edit.photos import Editor
from mien.edit.sources import photo_files
from mien.evaluate.encoders import encoder as make_encoder
from mien.evaluate.encoders import is_weights, onnx_codes
from mien.evaluate.pictures import resize
from mien.faces.face import Array, Face, Image
from mien.faces.find import Finder, choose
from mien.faces.image import decode_image, read_image
from mien.files.atomic import atomic_path
from mien.files.errors import ConfigError, FaceError, MienError

if TYPE_CHECKING:
    from mien.methods.base import Method

PRIVATE = 0o600  # codes can tell who a person is
_PHOTOS = 8  # decoded at a time: 40 megapixels are 120 MB
_COLUMNS = ("image", "source", "box", "score", "yaw", "pitch", "roll")
_ANGLES = ("score", "yaw", "pitch", "roll")


@dataclass(frozen=True)
class Embedded:
    """Codes of faces.

    Attributes:
        table: One row a face: ``source``, ``face`` (number within its photo, 0 is the largest),
            ``box``, ``score``, ``yaw``, ``pitch``, ``roll`` (degrees), then one list of float32 for
            each factor of the codes, or ``embedding`` where an encoder knows no factors. The
            weights' name and SHA-256 stand in its metadata.
        skipped: Photo → why it has no row.
    """

    table: pa.Table
    skipped: dict[str, str] = field(default_factory=dict)


class Embedder:
    """From crops to codes, whatever computes them.

    Args:
        encoder: Weights (shipped name, ``.safetensors`` file, a method in memory), or any other
            spec of ``mien.evaluate.encoders``, e.g. ``onnx:FILE,mean=127,std=128``.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.

    Attributes:
        name: Name of the weights, or the spec.
        sha256: Identifies what computes the codes; empty for a method in memory.
        size: Side in pixels of the crops that it works on.
        finder: Finds the faces of photos; made when it is first asked for.

    Raises:
        WeightsError: No such weights, or a damaged file.
        ConfigError: A spec is wrong, the method has no codes, or an unknown detector.
        MissingExtraError: ONNX without onnxruntime.
    """

    def __init__(
        self,
        encoder: str | Path | Method,
        detector: str = "dlib",
        finder: Finder | None = None,
    ) -> None:
        self._run: Callable[[list[Image]], dict[str, Array]]
        if isinstance(encoder, torch.nn.Module) or is_weights(str(encoder)):
            editor = Editor(encoder, detector, finder, "tight")
            self.name, self.sha256, self.size = editor.name, editor.sha256, editor.size
            self._run = editor.encode
        else:
            spec = str(encoder)
            if spec.startswith("onnx:"):
                made, run = onnx_codes(spec)
            else:
                made = make_encoder(spec)
                run = lambda crops: {"embedding": made(crops)}  # noqa: E731
            self.name, self.sha256, self.size = spec, made.key, made.input_size
            self._run = lambda crops: run(
                np.stack([resize(crop[None], self.size)[0] for crop in crops])
            )
        self._finder, self._detector = finder, detector
        empty = self([np.zeros((self.size, self.size, 3), np.uint8)])
        self.schema = pa.schema(
            [
                ("source", pa.string()),
                ("face", pa.int32()),
                ("box", pa.list_(pa.float32())),
                *((name, pa.float32()) for name in _ANGLES),
                *((name, pa.list_(pa.float32())) for name in empty),
            ],
            metadata={"mien.weights": self.name, "mien.weights_sha256": self.sha256},
        )

    @property
    def finder(self) -> Finder:
        """The finder, with crops of the size that the encoder wants."""
        if self._finder is None:
            self._finder = Finder(self._detector, "tight", self.size)
        return self._finder

    def call(self, name: str, sha256: str) -> None:
        """Name it after the weights that its ONNX file was made of."""
        self.name, self.sha256 = name, sha256
        self.schema = self.schema.with_metadata(
            {"mien.weights": name, "mien.weights_sha256": sha256}
        )

    def __call__(self, crops: list[Image]) -> dict[str, Array]:
        """Return factor → float32 ``(B, D)`` of uint8 crops ``(s, s, 3)`` of any size."""
        return self._run(crops)

    def record(self, rows: list[dict[str, Any]], crops: list[Image]) -> pa.RecordBatch:
        """Compute the codes of crops and lay them beside what is known of them.

        Args:
            rows: ``source``, ``face``, ``box``, ``score`` and angles of each.
            crops: uint8 ``(s, s, 3)`` each.
        """
        columns: dict[str, Any] = {
            name: pa.array([r[name] for r in rows], self.schema.field(name).type, from_pandas=True)
            for name in ("source", "face", "box", *_ANGLES)  # NaN: null
        }
        for factor, values in self(crops).items():
            flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
            ends = np.arange(0, len(flat) + 1, values.shape[1], dtype=np.int32)
            columns[factor] = pa.ListArray.from_arrays(ends, flat)
        return pa.RecordBatch.from_pydict(columns, schema=self.schema)


class Sources:
    """Photos and tables of faces as one numbered row of pictures.

    Args:
        sources: Pictures, folders of pictures, or tables of faces (``mien prepare``).

    Attributes:
        fingerprint: Of the names, sizes and dates of the files and the content of the tables.

    Raises:
        ImageError: A source does not exist or a folder is empty.
        TableError: A table is damaged.
    """

    def __init__(self, sources: str | Path | Iterable[str | Path]) -> None:
        if isinstance(sources, (str, Path)):
            sources = [sources]
        folders = [Path(s) for s in sources]
        self._tables = [Table(f) for f in folders if (f / "table.json").is_file()]
        plain = [f for f in folders if not (f / "table.json").is_file()]
        self._files = photo_files(plain) if plain or not self._tables else []

    def __len__(self) -> int:
        return len(self._files) + sum(len(table) for table in self._tables)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        digest = hashlib.sha256()
        for file in self._files:
            stat = file.stat()
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        for table in self._tables:
            digest.update(table.info["fingerprint"].encode())
        return digest.hexdigest()

    def batches(
        self,
        embedder: Embedder,
        which: str | int,
        batch_size: int,
        skipped: dict[str, str],
        start: int = 0,
        stop: int | None = None,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the codes of the pictures from ``start`` to ``stop``.

        Args:
            embedder: Finds faces and computes their codes.
            which: ``all``, or which face of each photo.
            batch_size: Faces in a call of the network.
            skipped: Gets pictures without a row, and why.
            start: Number of the first picture.
            stop: Number before which to end; None: all.
            advance: Called with how many pictures the work went on by.
        """
        rows: list[dict[str, Any]] = []
        crops: list[Image] = []
        for row, crop, done in self._faces(embedder, which, skipped, start, stop):
            advance(done)
            if crop is None:
                continue
            rows.append(row)
            crops.append(crop)
            if len(rows) == batch_size:
                yield embedder.record(rows, crops)
                rows, crops = [], []
        if rows:
            yield embedder.record(rows, crops)

    def _faces(
        self,
        embedder: Embedder,
        which: str | int,
        skipped: dict[str, str],
        start: int,
        stop: int | None,
    ) -> Iterator[tuple[dict[str, Any], Image | None, int]]:
        """Yield row, crop (None: no face here) and by how many pictures the work went on."""
        stop = len(self) if stop is None else stop
        yield from _photo_faces(embedder, self._files[start:stop], which, skipped)
        first = len(self._files)
        for table in self._tables:
            here, first = first, first + len(table)
            if start >= first or stop <= here:
                continue
            for batch in table.batches(_COLUMNS, 512, max(start - here, 0), stop - here):
                for row in batch.to_pylist():
                    try:
                        crop = decode_image(row.pop("image"))
                    except MienError as error:
                        skipped[row["source"]] = f"{row['source']} in {table.folder}: {error}"
                        yield {}, None, 1
                        continue
                    yield {**row, "face": 0}, crop, 1


def _photo_faces(
    embedder: Embedder, files: list[Path], which: str | int, skipped: dict[str, str]
) -> Iterator[tuple[dict[str, Any], Image | None, int]]:
    with ThreadPoolExecutor(2) as pool:  # decoders work without the interpreter lock
        for start in range(0, len(files), _PHOTOS):
            photos: dict[str, Image] = {}
            part = files[start : start + _PHOTOS]
            for file, photo in zip(part, pool.map(_read, part), strict=True):
                if isinstance(photo, MienError):
                    skipped[str(file)] = str(photo)
                    yield {}, None, 1
                else:
                    photos[str(file)] = photo
            found = embedder.finder(list(photos.values()), list(photos))
            for (name, photo), faces in zip(photos.items(), found, strict=True):
                yield {}, None, 1
                try:
                    for row, crop in face_rows(photo, faces, name, which):
                        yield row, crop, 0
                except FaceError as error:
                    skipped[name] = str(error)


def face_rows(
    photo: Image, faces: list[Face], name: str, which: str | int
) -> list[tuple[dict[str, Any], Image]]:
    """Return row and crop of the faces of a photo that are asked for.

    Args:
        photo: uint8 ``(H, W, 3)``.
        faces: What was found in it, the largest first.
        name: Of the photo.
        which: ``all``, or which one.

    Raises:
        FaceError: No face, or not the one that is asked for.
    """
    one = choose(faces, "largest" if which == "all" else which, name, photo.shape)
    return [
        (
            {
                "source": name,
                "face": number,
                "box": face.box.tolist(),
                "score": face.score,
                **dict(zip(("yaw", "pitch", "roll"), face.pose, strict=True)),
            },
            face.crop,
        )
        for number, face in enumerate(faces)
        if which == "all" or face is one
    ]


def _read(file: Path) -> Image | MienError:
    try:
        return read_image(file)
    except MienError as error:
        return error


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
    """Compute the codes of every face, in memory.

    Codes can tell who a person is: the file is readable by the user alone, and nothing is logged.
    ``mien.scale.embed_files`` writes any number of faces in constant memory and resumes.

    Args:
        weights: Shipped name, ``.safetensors`` file, a method in memory, or any other encoder
            (``Embedder``).
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
    pictures = Sources(sources)
    embedder = Embedder(weights, detector, finder)
    skipped: dict[str, str] = {}
    with tqdm(total=len(pictures), unit="img", desc="embed", disable=not progress) as bar:
        batches = list(pictures.batches(embedder, face, batch_size, skipped, advance=bar.update))
    if not batches:
        raise no_face(len(pictures), skipped)
    table = pa.Table.from_batches(batches, embedder.schema)
    if out is not None:
        with atomic_path(out, PRIVATE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return Embedded(table, skipped)


def no_face(total: int, skipped: dict[str, str]) -> FaceError:
    """Return the error that no picture of ``total`` gave a face."""
    reason = next(iter(skipped.values()), "the tables are empty.")
    return FaceError(f"There is no face to embed in {total} pictures; the first: {reason}")
