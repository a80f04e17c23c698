"""A table of faces as a memory-mapped array: what training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.facs import UNITS
from mien.data.kept import kept_faces
from mien.data.table import Table
from mien.faces.face import Array, Image
from mien.files.atomic import atomic_path
from mien.files.errors import TableError

if TYPE_CHECKING:
    from torch import Tensor

_LABELS = (
    *("dataset", "person", "clip", "expression", "yaw", "pitch", "roll"),
    *("action_units", "makeup", "landmarks", "split"),
)
_BLOCK = 1024


class FaceCache:
    """Crops of a table at one size, decoded once into ``.cache-SIZE.npy`` beside it.

    The file is a plain uint8 array ``(N, 3, S, S)``, mapped and not loaded: memory stays small and
    processes share it. It is rebuilt when the table's fingerprint changes.

    Attributes:
        fingerprint: Of the table.
        info: Content of ``table.json``.
        landmarks: float32 ``(N, 68, 2)``, pixels of the crop at ``size``; NaN where unknown.
        pose: float32 ``(N, 3)``, yaw, pitch, roll in degrees; NaN where unknown.
        action_units: float32 ``(N, 23)`` in the order of ``mien.data.facs.UNITS``; 0 where none is
            told.
        makeup: int8 ``(N,)``, 1 with make-up, 0 bare, -1 where it is not told.
        dataset: ``(N,)`` strings.
        person: int64 ``(N,)``, equal for pictures of one person of one data set; -1 unknown.
        clip: int64 ``(N,)``, equal for pictures of one clip; -1 where there is none.
        expression: ``(N,)`` strings.
        split: ``(N,)`` strings.
        kept: ``(N,)``, whether the person is kept for measuring (``mien.data.kept``).

    Args:
        folder: A finished table.
        size: Side of the crops in pixels.

    Raises:
        TableError: Not a table, or one of its pictures is damaged.
    """

    def __init__(self, folder: str | Path, size: int) -> None:
        self.table = Table(folder)
        self.info = self.table.info
        self.size = size
        self.fingerprint: str = self.info["fingerprint"]
        if not len(self.table):
            raise TableError(f"{folder} holds no faces; prepare it from pictures that show some.")
        self.images = self._open()
        self._read_labels()

    def named(self) -> dict[str, Any]:
        """Return what a model card says of a table that weights learned from."""
        return {
            "table": self.table.folder.name,
            "fingerprint": self.fingerprint,
            "faces": len(self),
            "licences": self.info.get("licences", {}),
        }

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return crops ``(n, 3, S, S)`` as a uint8 tensor."""
        import torch

        return torch.from_numpy(self.images[rows])

    def select(self, split: str = "train") -> NDArray[np.int64]:
        """Return the rows of a split; rows without a split belong to ``train``.

        Persons that are kept for measuring never belong to ``train``.

        Raises:
            TableError: There are none.
        """
        wanted = self.split == split
        if split == "train":
            wanted = (wanted | (self.split == "")) & ~self.kept
        rows = np.flatnonzero(wanted)
        if not len(rows):
            raise TableError(f"{self.table.folder} has no faces in the split {split!r}.")
        return rows

    def _open(self) -> NDArray[np.uint8]:
        file = self.table.folder / f".cache-{self.size}.npy"
        stamp = file.with_suffix(".json")
        if not (file.is_file() and _stamp(stamp) == self.fingerprint):
            stamp.unlink(missing_ok=True)
            self._build(file)
            with atomic_path(stamp) as temporary:
                temporary.write_text(json.dumps({"fingerprint": self.fingerprint}))
        return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def _build(self, file: Path) -> None:
        from tqdm import tqdm

        shape = (len(self.table), 3, self.size, self.size)
        with atomic_path(file) as temporary:
            out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            done = 0
            with (
                ThreadPoolExecutor(2) as pool,  # OpenCV decodes without the interpreter lock
                tqdm(total=len(out), desc="cache", unit="img", leave=False, disable=None) as bar,
            ):
                for batch in self.table.batches(["image", "source"], _BLOCK):
                    crops = pool.map(self._decode, batch.column(0).to_pylist())
                    names = batch.column(1).to_pylist()
                    for crop, name in zip(crops, names, strict=True):
                        if crop is None:
                            raise TableError(
                                f"The picture of {name} in {self.table.folder} is damaged; "
                                "prepare the table again."
                            )
                        out[done] = crop.transpose(2, 0, 1)
                        done += 1
                    bar.update(len(batch))
            out.flush()
            del out

    def _decode(self, data: bytes) -> Image | None:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            return None
        if image.shape[0] != self.size:
            how = cv2.INTER_AREA if image.shape[0] > self.size else cv2.INTER_LINEAR
            image = cv2.resize(image, (self.size, self.size), interpolation=how)
        return np.asarray(image, np.uint8)

    def _read_labels(self) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in _LABELS}
        for batch in self.table.batches(_LABELS, 8192):
            for name in _LABELS:
                columns[name] += batch.column(name).to_pylist()
        self.dataset = _strings(columns["dataset"])
        self.expression = _strings(columns["expression"])
        self.split = _strings(columns["split"])
        persons = _strings(columns["person"])
        self.person = _numbers(persons, self.dataset, persons)
        self.kept = kept_faces(self.dataset, persons)
        clips = _strings(columns["clip"])
        self.clip = _numbers(clips, self.dataset, persons, clips)
        angles = [
            [np.nan if v is None else v for v in columns[n]] for n in ("yaw", "pitch", "roll")
        ]
        self.pose: Array = np.array(angles, np.float32).T
        told = [dict(row or ()) for row in columns["action_units"]]
        self.action_units: Array = np.array(
            [[row.get(unit, 0.0) for unit in UNITS] for row in told], np.float32
        )
        worn = [-1 if told is None else int(told) for told in columns["makeup"]]
        self.makeup: NDArray[np.int8] = np.array(worn, np.int8)
        # Stored in pixels of the stored crop; pixel centres are integers.
        scale = self.size / float(self.info["size"])
        unknown = [np.nan] * 136
        points = np.array([unknown if v is None else v for v in columns["landmarks"]], np.float32)
        self.landmarks: Array = (points.reshape(-1, 68, 2) + 0.5) * np.float32(scale) - 0.5


def take_rows(
    caches: Sequence[FaceCache], table: NDArray[np.int64], row: NDArray[np.int64]
) -> Tensor:
    """Return pictures of several tables as float32 ``(n, 3, S, S)`` in [-1, 1].

    Args:
        caches: Tables of one size.
        table: ``(n,)`` which of them each picture is in.
        row: ``(n,)`` its row there.
    """
    import torch

    size = caches[0].size
    drawn = torch.empty(len(table), 3, size, size, dtype=torch.uint8)
    for t, cache in enumerate(caches):
        here = np.flatnonzero(table == t)
        drawn[torch.from_numpy(here)] = cache.take(row[here])
    return drawn.float().div_(127.5).sub_(1.0)


def _stamp(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _strings(values: list[str | None]) -> NDArray[np.str_]:
    return np.array([v or "" for v in values], dtype=np.str_)


def _numbers(known: NDArray[np.str_], *names: NDArray[np.str_]) -> NDArray[np.int64]:
    """Number distinct combinations of ``names``; -1 where ``known`` is empty."""
    keys = np.array(["\x1f".join(row) for row in zip(*names, strict=True)], dtype=np.str_)
    numbers = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return np.where(known == "", -1, numbers)
