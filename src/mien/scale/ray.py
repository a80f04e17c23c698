"""Codes of the faces of a Ray Data set, computed all over a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mien.edit.codes import Embedder, face_rows
from mien.faces.face import Image
from mien.faces.image import decode_image, read_image
from mien.files.errors import ConfigError, MienError, MissingExtraError

if TYPE_CHECKING:
    from ray.data import Dataset


def embed_dataset(
    encoder: str | Path,
    dataset: Dataset,
    *,
    workers: int = 1,
    face: str | int = "all",
    detector: str = "dlib",
    batch_size: int = 64,
    gpus: float = 0,
) -> Dataset:
    """Return the codes of a Ray Data set of crops or photos, one row a face.

    Nothing is computed until the result is read, e.g. by ``write_parquet``. Codes can tell who a
    person is: write them where only you can read.

    Args:
        encoder: Weights (a name, or a file that every machine sees) or another encoder
            (``mien.edit.codes.Embedder``).
        dataset: ``ray.data.read_parquet(TABLE, file_extensions=["parquet"])`` of a table of faces
            (columns ``image`` and ``source``), or of photos, in which faces are searched for:
            ``ray.data.read_binary_files(PHOTOS, include_paths=True)`` (``bytes`` and ``path``).
        workers: Processes, each with the network in memory.
        face: Of photos: ``all``, or which one (``only``, ``largest``, ``central``, a number).
        detector: Face detector of photos (``mien.faces.detectors``).
        batch_size: Pictures at a time.
        gpus: Graphics processors of each process.

    Returns:
        The columns of ``mien embed`` and ``skipped``: why a picture has no codes, else null.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: A number is out of range, or the columns are others.
        MienError: No such encoder; raised here already, before any process starts.
    """
    try:
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if workers < 1 or batch_size < 1:
        raise ConfigError("workers and batch_size are at least 1.")
    names = set(dataset.columns() or ())
    if not ({"image", "source"} <= names or {"bytes", "path"} <= names):
        raise ConfigError(
            "The set needs the columns image and source (a table of faces) or bytes and path "
            f"(ray.data.read_binary_files with include_paths=True), not {sorted(names)}."
        )
    made = (str(encoder), face, detector)
    Codes(*made)
    return dataset.map_batches(
        Codes,
        fn_constructor_args=made,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
    )


class Codes:
    """From a batch of pictures to their codes; what ``embed_dataset`` maps over a set."""

    def __init__(self, encoder: str, face: str | int = "all", detector: str = "dlib") -> None:
        self._embedder = Embedder(encoder, detector)
        self._face = face
        self.schema = self._embedder.schema.append(pa.field("skipped", pa.string()))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one row a face, and one for every picture that has none."""
        rows: list[dict[str, Any]] = []
        crops: list[Image] = []
        skipped: list[dict[str, str]] = []
        for picture in batch.to_pylist():
            name = str(picture["source" if "source" in picture else "path"])
            try:
                found = self._faces(picture, name)
            except MienError as error:
                skipped.append({"source": name, "skipped": str(error)})
                continue
            rows += [row for row, _ in found]
            crops += [crop for _, crop in found]
        parts = [pa.Table.from_pylist(skipped, self.schema)]
        if rows:
            codes = pa.Table.from_batches([self._embedder.record(rows, crops)])
            nothing = pa.nulls(len(codes), pa.string())
            parts.insert(0, codes.append_column("skipped", nothing).cast(self.schema))
        return pa.concat_tables(parts)

    def _faces(self, picture: dict[str, Any], name: str) -> list[tuple[dict[str, Any], Image]]:
        if "image" not in picture:
            photo = read_image(picture["bytes"])
            return face_rows(photo, self._embedder.finder([photo], [name])[0], name, self._face)
        known = {k: picture.get(k) for k in ("box", "score", "yaw", "pitch", "roll")}
        return [({"source": name, "face": 0, **known}, decode_image(picture["image"]))]
