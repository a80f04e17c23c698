"""Codes of any number of pictures, written in shards that can be cut off and started again.

A shard is a contiguous part of the pictures and one Parquet file. While it is computed, blocks of
pictures lie as small files in a hidden folder beside it; what is there whole is not computed again.
A finished shard is left as it is, so the same command can be given to any number of machines, again
and again, until all shards are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mien import weights as shelf
from mien.edit.codes import PRIVATE, Embedder, Sources, no_face
from mien.evaluate.encoders import is_weights
from mien.faces.find import Finder
from mien.files.atomic import atomic_path, write_text
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from mien.methods.base import Method

_BLOCK = 256  # pictures whose work is lost at most
_RUN, _SKIPPED, _FACES = b"mien.run", b"mien.skipped", b"mien.faces"


@dataclass
class Written:
    """What was written.

    Attributes:
        files: One Parquet file a shard.
        faces: Their rows.
        skipped: Picture → why it has no row.
        kept: Shards that were finished before.
    """

    files: list[Path] = field(default_factory=list)
    faces: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    kept: int = 0


def embed_files(
    encoder: str | Path | Method,
    sources: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    num_shards: int | None = None,
    shard: int | None = None,
    face: str | int = "all",
    detector: str = "dlib",
    finder: Finder | None = None,
    batch_size: int = 64,
    backend: str = "torch",
    progress: bool = False,
) -> Written:
    """Write the codes of every face; the same call after a stop goes on where it was.

    Codes can tell who a person is: files are readable by the user alone, and nothing is logged.

    Args:
        encoder: Weights or any other encoder (``mien.edit.codes.Embedder``).
        sources: Pictures, folders of pictures, or tables of faces (``mien prepare``).
        out: ``*.parquet``, or with ``num_shards`` a folder of ``codes-00000-of-00008.parquet``, …,
            which pandas, DuckDB and ``datasets`` open as one table.
        num_shards: Into how many files the pictures are cut, as equal as possible.
        shard: Which of them to write, from 0; None: all, one after the other.
        face: ``all``, or which one of each photo (``only``, ``largest``, ``central``, a number).
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        batch_size: Faces in a call of the network.
        backend: What runs weights: ``torch``, or ``onnx`` (onnxruntime, from an export that is
            compared with torch first).
        progress: Show a progress bar.

    Raises:
        FaceError: No face in any of the photos (without ``num_shards``; a shard may be empty).
        ImageError: A source does not exist or a folder is empty.
        TableError: A table is damaged.
        WeightsError: No such weights, or a damaged file.
        ConfigError: A number is out of range, ``out`` is no Parquet file, or its folder holds
            shards of another run.
    """
    out = Path(out)
    targets = _targets(out, num_shards, shard)
    if batch_size < 1:
        raise ConfigError(f"batch_size is at least 1, not {batch_size}.")
    pictures = Sources(sources)
    embedder = _embedder(encoder, detector, finder, backend)
    # A method in memory has no name by which to know it again.
    what = embedder.sha256 or uuid.uuid4().hex
    crops = [backend, detector, str(face), embedder.size]
    run = json.dumps([what, *crops, pictures.fingerprint, num_shards or 1])
    run = hashlib.sha256(run.encode()).hexdigest()

    written = Written()
    total, whole = num_shards or 1, num_shards is None
    for number, target in targets:
        start, stop = (len(pictures) * k // total for k in (number, number + 1))
        if _finished(target, run, whole):
            written.kept += 1
        else:
            label = "embed" if total == 1 else f"embed {number + 1}/{total}"
            with tqdm(total=stop - start, unit="img", desc=label, disable=not progress) as bar:
                _write_shard(
                    target, run, start, stop, pictures, embedder, face, batch_size, bar, whole
                )
        metadata = pq.read_schema(target).metadata
        written.files.append(target)
        written.faces += int(metadata[_FACES])
        written.skipped |= json.loads(metadata[_SKIPPED])
    return written


def _embedder(
    encoder: str | Path | Method, detector: str, finder: Finder | None, backend: str
) -> Embedder:
    if backend == "torch":
        return Embedder(encoder, detector, finder)
    if backend != "onnx":
        raise ConfigError(f"The backend is torch or onnx, not {backend!r}.")
    if not isinstance(encoder, (str, Path)) or not is_weights(str(encoder)):
        raise ConfigError("The backend onnx runs weights: give a shipped name or .safetensors.")
    from mien.export.onnx import export

    with tempfile.TemporaryDirectory() as folder:  # the session keeps the model in memory
        file = Path(folder) / "encoder.onnx"
        export(encoder, file)
        made = Embedder(f"onnx:{file}", detector, finder)
    made.call(Path(encoder).stem, str(shelf.card(encoder)["sha256"]))
    return made


def _targets(out: Path, num_shards: int | None, shard: int | None) -> list[tuple[int, Path]]:
    """Return number and file of every shard to write."""
    if num_shards is None:
        if shard is not None:
            raise ConfigError("A shard is one of several: give --num-shards as well.")
        if out.suffix != ".parquet":
            raise ConfigError(f"Codes are written as Parquet: name {out} *.parquet.")
        return [(0, out)]
    if not 1 <= num_shards <= 99_999:
        raise ConfigError(f"num_shards goes from 1 to 99999, not {num_shards}.")
    if shard is not None and not 0 <= shard < num_shards:
        raise ConfigError(f"shard goes from 0 to {num_shards - 1}, not {shard}.")
    if out.suffix == ".parquet" or out.is_file():
        raise ConfigError(f"Shards are written into a folder: {out} is a name of one file.")
    numbers = range(num_shards) if shard is None else [shard]
    return [(k, out / f"codes-{k:05d}-of-{num_shards:05d}.parquet") for k in numbers]


def _finished(target: Path, run: str, whole: bool) -> bool:
    """Tell whether ``target`` is there; one of another run is replaced if it is the whole."""
    if not target.is_file():
        return False
    try:
        found = pq.read_schema(target).metadata[_RUN].decode()
    except (pa.ArrowInvalid, OSError, KeyError, TypeError):
        found = ""
    if found != run and not whole:
        raise ConfigError(
            f"{target} holds codes of other weights, pictures or settings; give another folder "
            "with --out."
        )
    return bool(found == run)


def _write_shard(
    target: Path,
    run: str,
    start: int,
    stop: int,
    pictures: Sources,
    embedder: Embedder,
    face: str | int,
    batch_size: int,
    bar: tqdm[Any],
    whole: bool,
) -> None:
    parts = target.parent / f".{target.name}.parts"
    stamp = parts / "run"
    if not (stamp.is_file() and stamp.read_text() == run):
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True, mode=0o700)
        write_text(stamp, run)
    files = []
    for first in range(start, stop, _BLOCK):
        last = min(first + _BLOCK, stop)
        file = parts / f"{first:012d}.parquet"
        files.append(file)
        if file.is_file():
            bar.update(last - first)
            continue
        skipped: dict[str, str] = {}
        rows = list(pictures.batches(embedder, face, batch_size, skipped, first, last, bar.update))
        metadata = {**embedder.schema.metadata, _SKIPPED: json.dumps(skipped)}
        table = pa.Table.from_batches(rows, embedder.schema).replace_schema_metadata(metadata)
        with atomic_path(file, PRIVATE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    skipped, faces = _join(target, run, files, embedder.schema, whole)
    if not faces and whole:
        raise no_face(len(pictures), skipped)
    shutil.rmtree(parts, ignore_errors=True)


def _join(
    target: Path, run: str, parts: list[Path], schema: pa.Schema, whole: bool
) -> tuple[dict[str, str], int]:
    """Write the blocks into one file, one in memory at a time; return what was skipped and rows.

    Nothing is written where there is no face in the whole.
    """
    skipped: dict[str, str] = {}
    faces = 0
    for part in parts:
        try:
            metadata = pq.read_metadata(part)
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{part} is damaged ({error}); delete it and start again.") from None
        skipped |= json.loads(metadata.metadata[_SKIPPED])
        faces += metadata.num_rows
    if not faces and whole:
        return skipped, 0
    notes = {_RUN: run, _SKIPPED: json.dumps(skipped), _FACES: str(faces)}
    schema = schema.with_metadata({**schema.metadata, **notes})
    with (
        atomic_path(target, PRIVATE) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in parts:
            writer.write_table(pq.read_table(part).cast(schema))
    return skipped, faces
