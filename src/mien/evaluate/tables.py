"""Labelled faces of tables for tasks that any table with the right column serves.

A set is a finished table, or ``READER:DIR`` for a public set whose pictures are crops already
(``rafdb:DIR``, ``pose_npz:DIR``), which is then read as published, without ``mien prepare``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.cache import FaceCache
from mien.data.readers import reader, reader_names
from mien.data.table import Row, Table
from mien.evaluate.cache import embed
from mien.evaluate.encoders import Encoder
from mien.evaluate.pca import fit_pca
from mien.evaluate.pictures import fingerprint
from mien.evaluate.task import Settings
from mien.faces.face import Array, Image
from mien.files.errors import ConfigError, MissingExtraError, TableError, nearest

ANGLES = ("yaw", "pitch", "roll")
MAX_DIMS = 4096  # of the closed form; longer embeddings are projected first
PROJECTED = 2048
VALIDATION = 0.15  # of the training persons, where a set has no validation split

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_COLUMNS = (
    "source",
    "dataset",
    "person",
    "clip",
    "expression",
    *ANGLES,
    "action_units",
    "makeup",
    "attributes",
    "split",
)


@dataclass(frozen=True, eq=False)
class Faces:
    """Labelled crops of one or several sets.

    Attributes:
        parts: Crops of each set, uint8 ``(N, S, S, 3)``, each of its own size.
        dataset: ``(N,)`` names of readers.
        person: ``(N,)``, unique with ``dataset``; empty where unknown.
        clip: ``(N,)``; empty where there is none.
        expression: ``(N,)``; empty where unknown.
        split: ``(N,)``.
        pose: float32 ``(N, 3)`` degrees; NaN where unknown.
        makeup: ``(N,)`` 0, 1 or NaN.
        units: N mappings action unit → intensity.
        attributes: N mappings.
        held: ``(N,)`` rows of sets that are for testing only.
        sets: For each set its name, fingerprint and number of faces.
    """

    parts: list[Image]
    dataset: NDArray[np.str_]
    person: NDArray[np.str_]
    clip: NDArray[np.str_]
    expression: NDArray[np.str_]
    split: NDArray[np.str_]
    pose: Array
    makeup: Array
    units: list[dict[str, float]]
    attributes: list[dict[str, str]]
    held: Mask
    sets: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def groups(self) -> NDArray[np.str_]:
        """``(N,)`` names of what may not be split: the person, else the clip, else the picture."""
        names = []
        for i, (data, person, clip) in enumerate(
            zip(self.dataset, self.person, self.clip, strict=True)
        ):
            own = f"p/{person}" if person else f"c/{clip}" if clip else f"#{i}"
            names.append(f"{data}/{own}")
        return np.array(names, np.str_)

    @property
    def names(self) -> str:
        """The sets in words, ``a → b`` where one is for testing only."""
        train = [s["name"] for s in self.sets if not s["test"]]
        test = [s["name"] for s in self.sets if s["test"]]
        return " + ".join(train) + (f" → {' + '.join(test)}" if test else "")

    @property
    def fingerprint(self) -> str:
        """Of all sets together."""
        marks = [s["fingerprint"] for s in self.sets]
        return str(marks[0]) if len(marks) == 1 else fingerprint(marks)

    def embed(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> NDArray[Any]:
        """Return the embeddings ``(N, D)`` of all sets."""
        return np.concatenate(
            [
                embed(
                    encoder,
                    part,
                    flip=settings.flip,
                    batch_size=settings.batch_size,
                    cache=cache,
                    progress=progress,
                )
                for part in self.parts
            ]
        )


def open_faces(
    train: Sequence[str | Path],
    test: Sequence[str | Path] = (),
    *,
    seed: int = 0,
    limit: int = 0,
    splits: Sequence[str] = (),
) -> Faces:
    """Read tables (or ``READER:DIR``), those of ``test`` for testing only.

    Args:
        train: Tables to train and, where there are no others, to test on.
        test: Tables to test on.
        seed: Seed of the choice under ``limit``.
        limit: Take so many faces of each table at random; 0: all.
        splits: Take faces of these splits alone; all if empty.

    Raises:
        ConfigError: No table, or an unknown reader.
        TableError: Not a table, a set whose pictures are not crops, or no face in the splits.
    """
    if not train:
        raise ConfigError("This task needs faces with labels: give a table with --table.")
    read = [_read(spec, False, limit, seed, splits) for spec in train]
    read += [_read(spec, True, limit, seed, splits) for spec in test]
    first, *others = read
    if not others:
        return first
    arrays = ("dataset", "person", "clip", "expression", "split", "pose", "makeup", "held")
    joined = {name: np.concatenate([getattr(f, name) for f in read]) for name in arrays}
    return Faces(
        **joined,
        parts=[part for f in read for part in f.parts],
        units=[u for f in read for u in f.units],
        attributes=[a for f in read for a in f.attributes],
        sets=[s for f in read for s in f.sets],
    )


def _read(spec: str | Path, held: bool, limit: int, seed: int, splits: Sequence[str]) -> Faces:
    head, _, folder = str(spec).partition(":")
    if folder and not Path(spec).exists() and head in reader_names():
        return _published(head, folder, held, limit, seed, splits)
    table = Table(spec)
    cache = FaceCache(spec, int(table.info["size"]))
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for batch in table.batches(_COLUMNS, 8192):
        for name in _COLUMNS:
            columns[name] += batch.column(name).to_pylist()
    crops = cache.images.transpose(0, 2, 3, 1)
    name = Path(spec).resolve().name
    return _faces(name, crops, columns, cache.fingerprint, held, limit, seed, splits)


def _published(
    name: str, folder: str, held: bool, limit: int, seed: int, splits: Sequence[str]
) -> Faces:
    """Read a public set whose pictures are crops."""
    source = reader(name, folder)
    crops: list[Image] = []
    labels: list[Row] = []
    for record in source.records():
        if record.frames or not record.crop:
            raise TableError(
                f"The pictures of {name} are not face crops; make a table of them first: "
                f"`mien prepare {name}:{folder} --out TABLE`."
            )
        crop = source.photo(record)[0]
        height, width = crop.shape[:2]
        if height != width:
            low = min(height, width)
            top, left = (height - low) // 2, (width - low) // 2
            crop = crop[top : top + low, left : left + low]
        if crops and crop.shape != crops[0].shape:
            side = len(crops[0])
            crop = np.asarray(
                cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8
            )
        crops.append(crop)
        labels.append(record.labels)
    hashes = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops]
    columns = {column: [getattr(row, column) for row in labels] for column in _COLUMNS}
    mark = fingerprint(hashes)
    return _faces(name, np.stack(crops), columns, mark, held, limit, seed, splits)


def _faces(
    name: str,
    crops: Image,
    columns: dict[str, list[Any]],
    mark: str,
    held: bool,
    limit: int,
    seed: int,
    splits: Sequence[str],
) -> Faces:
    rows = np.arange(len(crops))
    if splits:
        rows = rows[np.isin([v or "" for v in columns["split"]], list(splits))]
        if not len(rows):
            raise TableError(f"{name} has no faces in the split {' or '.join(splits)}.")
    if limit and limit < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:limit])
    if len(rows) < len(crops):
        crops = np.stack([crops[i] for i in rows])
        columns = {k: [v[i] for i in rows] for k, v in columns.items()}

    def text(column: str) -> NDArray[np.str_]:
        return np.array([v or "" for v in columns[column]], np.str_)

    def number(values: Sequence[Any]) -> list[float]:
        return [np.nan if v is None else float(v) for v in values]

    return Faces(
        parts=[crops],
        dataset=text("dataset"),
        person=text("person"),
        clip=text("clip"),
        expression=text("expression"),
        split=text("split"),
        pose=np.array([number(columns[a]) for a in ANGLES], np.float32).T,
        makeup=np.array(number(columns["makeup"]), np.float32),
        units=[dict(v or {}) for v in columns["action_units"]],
        attributes=[dict(v or {}) for v in columns["attributes"]],
        held=np.full(len(crops), held),
        sets=[{"name": name, "fingerprint": mark, "faces": len(crops), "test": held}],
    )


def column(faces: Faces, name: str) -> NDArray[Any]:
    """Return a column as numbers or strings ``(N,)``; NaN or empty where unknown.

    Raises:
        TableError: No such column, or an empty one.
    """
    if name in ANGLES:
        values: NDArray[Any] = faces.pose[:, ANGLES.index(name)]
    elif name == "makeup":
        values = faces.makeup
    elif name in ("person", "expression", "dataset", "clip", "split"):
        values = getattr(faces, name)
    elif any(name in row for row in faces.units):
        values = np.array([row.get(name, 0.0) for row in faces.units], np.float32)
    elif any(name in row for row in faces.attributes):
        values = as_numbers([row.get(name, "") for row in faces.attributes])
    else:
        known = {a for row in faces.attributes for a in row}
        known |= {u for row in faces.units for u in row}
        choices = known | {*ANGLES, "makeup", "person", "expression", "dataset"}
        raise TableError(f"{faces.names} has no column {name!r}{nearest(name, choices)}")
    empty = np.isnan(values) if values.dtype.kind == "f" else values == ""
    if empty.all():
        raise TableError(f"The column {name!r} of {faces.names} is empty.")
    return values


def as_numbers(values: Sequence[str]) -> NDArray[Any]:
    """Return float32 if every value that is not empty is a number, else the strings."""
    try:
        return np.array([float(v) if v else np.nan for v in values], np.float32)
    except ValueError:
        return np.array(values, np.str_)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on, to choose by and to measure on.

    Attributes:
        train: Rows.
        val: Rows.
        test: Rows.
        carved: The set has no validation split: it was taken from its training persons.
    """

    train: Rows
    val: Rows
    test: Rows
    carved: bool

    @property
    def official_train(self) -> Rows:
        """What a publication trains on: what was set aside included."""
        return np.concatenate([self.train, self.val]) if self.carved else self.train


def arrange(
    faces: Faces, usable: Mask, *, folds: int, seed: int = 0, always_folds: bool = False
) -> tuple[list[Split], str]:
    """Split the usable rows so that nobody is trained and tested on.

    In this order: sets given for testing; the split column, where it names a test split; else
    ``folds`` folds of whole persons, each measured once. Where there is no validation split, a
    share of the training persons is set aside.

    Args:
        faces: The rows.
        usable: ``(N,)`` rows that have the label.
        folds: Number of folds.
        seed: Seed of the choice of validation persons.
        always_folds: Ignore the split column.

    Returns:
        The splits, and in words how they were made.

    Raises:
        TableError: Too few persons, or the same persons on both sides.
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import GroupKFold
    except ImportError:
        raise MissingExtraError("scikit-learn", "evaluate") from None
    groups = faces.groups
    if faces.held.any():
        rest = np.flatnonzero(usable & ~faces.held & (faces.split != "test"))
        test = np.flatnonzero(usable & faces.held)
        if not len(test):
            raise TableError(f"The test sets of {faces.names} have no face with that label.")
        known = (faces.person != "") | (faces.clip != "")
        both = set(groups[rest][known[rest]]) & set(groups[test][known[test]])
        if both:
            raise TableError(
                f"{len(both)} persons (or clips) lie in the training and in the test sets of "
                f"{faces.names}; give sets that share nobody."
            )
        pairs = [(rest, test)]
        words = "trained on some sets, tested on others"
    elif not always_folds and _split_serves(faces, usable):
        test = np.flatnonzero(usable & (faces.split == "test"))
        pairs = [(np.flatnonzero(usable & (faces.split != "test")), test)]
        words = "the sets' own split"
    else:
        rows = np.flatnonzero(usable)
        number = len(np.unique(groups[rows]))
        if number < max(folds, 2):
            raise TableError(
                f"{faces.names} has this label for {number} persons (or pictures), too few for "
                f"{folds} folds."
            )
        parts = GroupKFold(folds).split(rows, groups=groups[rows])
        pairs = [(rows[a], rows[b]) for a, b in parts]
        words = f"{folds} folds of whole persons"
    return [_with_validation(faces, rest, test, groups, seed) for rest, test in pairs], words


def _split_serves(faces: Faces, usable: Mask) -> bool:
    test = usable & (faces.split == "test")
    return bool(test.any() and (usable & np.isin(faces.split, ("train", ""))).any())


def _with_validation(
    faces: Faces, rest: Rows, test: Rows, groups: NDArray[np.str_], seed: int
) -> Split:
    """Part ``rest`` into train and validation: by the split column, else by whole groups."""
    given = faces.split[rest] == "val"
    if given.any() and not given.all():
        return Split(rest[~given], rest[given], test, carved=False)
    names = np.unique(groups[rest])
    if len(names) < 2:
        raise TableError(f"{faces.names} has too few persons with that label to train on.")
    count = max(1, round(VALIDATION * len(names)))
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    taken = np.isin(groups[rest], chosen)
    return Split(rest[~taken], rest[taken], test, carved=True)


def reduced(
    values: NDArray[Any], split: Split, encoder: Encoder, settings: Settings
) -> tuple[list[NDArray[Any]], int]:
    """Return the embeddings of train, val and test, projected where that is asked or needed.

    Returns:
        Three arrays, and the number of components (0: as they are). Components are fitted on train.
    """
    dims = values.shape[1]
    wanted = encoder.pca or (PROJECTED if dims > MAX_DIMS else 0)
    parts = [values[rows] for rows in (split.train, split.val, split.test)]
    if not wanted or wanted >= dims:
        return parts, 0
    project = fit_pca(parts[0], wanted, settings.seed)
    return [project(part) for part in parts], wanted
