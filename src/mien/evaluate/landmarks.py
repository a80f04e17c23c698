"""How well the landmark network agrees with the annotations of sets that it never trained on.

The annotations of photographs were made by another network (MediaPipe), so their error is part of
the figure; those of the renders (``ict_faces``) are exact, but of another jaw line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mien.evaluate.quality import NO_JAW, by_yaw, nme
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.task import need_folder
from mien.faces.face import Array, Image
from mien.faces.find import Finder
from mien.faces.image import read_image
from mien.faces.landmarks import Landmarker
from mien.files.atomic import sha256, write_json, write_text
from mien.files.errors import ConfigError, TableError, nearest
from mien.files.weights import SHIPPED

BOX = 1.1  # side of the box over the larger side of the true points' bounding box
JITTER_SCALE = 1.15  # the side is multiplied by up to this, or divided
JITTER_SHIFT = 0.08  # the centre moves by up to this share of the side, in x and in y
ANGLES = ("yaw", "pitch", "roll")

_BATCH = 64
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Annotated:
    """Pictures that the network never saw, with their annotations.

    Attributes:
        name: Name of the set.
        files: N pictures.
        points: ``(N, 68, 2)`` in pixels, an integer is the centre of a pixel.
        pose: ``(N, 3)`` yaw, pitch, roll in degrees.
        truth: Where the annotations come from, and which pictures were taken.
    """

    name: str
    files: list[Path]
    points: Array
    pose: Array
    truth: str


@dataclass(frozen=True)
class LandmarkReport:
    """Agreement of landmarks and pose with annotations.

    Attributes:
        sets: Set → ``pictures``, ``found``, ``truth``, ``bins`` (from ``by_yaw``: ``nme``,
            ``nme_no_jaw``, ``nme_box`` and the absolute error of each angle), ``median_nme``.
        settings: Weights, detector, jitter of the boxes, seed.
        versions: Versions of Python and packages.
    """

    sets: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return one row a set."""
        bins = [b for b in next(iter(self.sets.values()))["bins"] if b != "all"]
        rows = [
            ["set", "pictures", "found", "NME %", "median", "no jaw", "box"]
            + [f"yaw {b}°" for b in bins]
            + [f"{a} MAE°" for a in ANGLES]
        ]
        for name, entry in self.sets.items():
            every = entry["bins"]["all"]
            rows.append(
                [
                    name,
                    str(entry["pictures"]),
                    str(entry["found"]),
                    _percent(every["nme"]),
                    _percent(entry["median_nme"]),
                    _percent(every["nme_no_jaw"]),
                    _percent(every["nme_box"]),
                ]
                + [
                    f"{_percent(entry['bins'][b]['nme'])} ({entry['bins'][b]['n']:.0f})"
                    for b in bins
                ]
                + [f"{every[a]:.1f}" for a in ANGLES]
            )
        notes = [
            "NME: mean distance over the distance of the outer eye corners (36, 45); "
            "box: over the root of the area of the points' bounding box."
        ]
        notes += [f"{name}: {entry['truth']}." for name, entry in self.sets.items()]
        notes.append(f"Boxes: {self.settings['boxes']}.")
        return markdown_table(rows) + "\n" + "\n".join(notes) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": _FORMAT,
            "task": "landmarks",
            "sets": _finite(self.sets),
            "settings": self.settings,
            "versions": self.versions,
        }

    def save(self, out: Path) -> None:
        """Write ``landmarks.json`` and ``landmarks.md``."""
        write_json(out / "landmarks.json", self.as_json())
        write_text(out / "landmarks.md", self.markdown())


def evaluate_landmarks(
    data: str | Path,
    sets: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    detector: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    limit: int = 0,
    progress: bool = True,
) -> LandmarkReport:
    """Run the landmark network on annotated pictures of people that it never trained on.

    Args:
        data: Folder that holds the sets and ``annotations/``.
        sets: Of ``utkface``, ``lfw``, ``omi``, ``london`` and ``ict_faces``; empty: those there.
        weights: Weights of the landmark network; None: the shipped ones.
        detector: None: boxes around the annotated points, shifted and scaled at random;
            otherwise a detector's name, and what it misses lowers ``found``.
        out: Folder for ``landmarks.json`` and ``landmarks.md``; None writes nothing.
        seed: Seed of the boxes.
        limit: Take so many pictures of each set, evenly spread; 0: all.
        progress: Show a progress bar.

    Raises:
        ConfigError: Unknown set or detector.
        TableError: A set or its annotations are missing.
        WeightsError: The weights are missing or another network's.
    """
    root = Path(data)
    for name in sets:
        if name not in SETS:
            raise ConfigError(f"No annotated set {name!r}{nearest(name, SETS)}")
    names = list(sets) or [name for name in SETS if (root / name).is_dir()]
    if not names:
        raise TableError(f"{root} holds none of the annotated sets: {', '.join(SETS)}.")
    file = Path(weights) if weights else SHIPPED / "landmarks.safetensors"
    landmarker = Landmarker(file)
    finder = Finder(detector, landmarker=landmarker) if detector else None
    measured = {}
    for name in names:
        annotated = _thin(SETS[name](root), limit)
        points, pose, found = _run(annotated, landmarker, finder, seed, progress)
        measured[name] = _measure(annotated, points, pose, found)
    boxes = (
        f"of the detector {detector}; a face counts as found if the one nearest to it lies on it"
        if detector
        else f"squares around the annotated points, side {BOX} x their extent, scaled by up to "
        f"{JITTER_SCALE} and shifted by up to {JITTER_SHIFT} of the side at random"
    )
    settings = {"weights": file.name, "sha256": sha256(file), "boxes": boxes, "seed": seed}
    report = LandmarkReport(measured, {**settings, "limit": limit}, package_versions())
    if out is not None:
        report.save(Path(out))
    return report


def jittered_boxes(points: Array, rng: np.random.Generator) -> Array:
    """Return boxes ``(N, 4)`` such as a detector would give for landmarks ``(N, 68, 2)``."""
    low, high = points.min(1), points.max(1)
    side = (high - low).max(1) * BOX * JITTER_SCALE ** rng.uniform(-1, 1, len(points))
    centre = (low + high) / 2 + side[:, None] * rng.uniform(-1, 1, (len(points), 2)) * JITTER_SHIFT
    half = side[:, None] / 2
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


def _run(
    annotated: Annotated,
    landmarker: Landmarker,
    finder: Finder | None,
    seed: int,
    progress: bool,
) -> tuple[Array, Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return points, pose and whether the face was found, a row a picture."""
    boxes = jittered_boxes(annotated.points, np.random.default_rng(seed))
    points, pose = np.zeros_like(annotated.points), np.zeros_like(annotated.pose)
    found = np.ones(len(boxes), bool)
    bar = tqdm(total=len(boxes), desc=annotated.name, disable=not progress, leave=False)
    with bar:
        for start in range(0, len(boxes), _BATCH):
            index = range(start, min(start + _BATCH, len(boxes)))
            images: list[Image] = [read_image(annotated.files[i]) for i in index]
            if finder is None:
                marks = landmarker(images, [boxes[i : i + 1] for i in index])
                for i, one in zip(index, marks, strict=True):
                    points[i], pose[i] = one.points[0], one.pose[0]
            else:
                for i, faces in zip(index, finder(images), strict=True):
                    true = annotated.points[i]
                    distance = [np.linalg.norm(f.landmarks - true, axis=1).mean() for f in faces]
                    extent = np.ptp(true, axis=0).max()
                    found[i] = bool(faces) and min(distance) < extent / 4
                    if found[i]:
                        face = faces[int(np.argmin(distance))]
                        points[i], pose[i] = face.landmarks, face.pose
            bar.update(len(index))
    return points, pose, found


def _measure(
    annotated: Annotated, points: Array, pose: Array, found: np.ndarray[Any, np.dtype[np.bool_]]
) -> dict[str, Any]:
    true, angles = annotated.points[found], annotated.pose[found]
    errors = {
        "nme": nme(points[found], true),
        "nme_no_jaw": nme(points[found], true, NO_JAW),
        "nme_box": nme(points[found], true, over="box"),
    }
    for k, name in enumerate(ANGLES):
        errors[name] = np.abs((pose[found, k] - angles[:, k] + 180) % 360 - 180)
    return {
        "pictures": len(found),
        "found": int(found.sum()),
        "truth": annotated.truth,
        "median_nme": float(np.median(errors["nme"])) if found.any() else float("nan"),
        "bins": by_yaw(angles[:, 0], errors),
    }


def _thin(annotated: Annotated, limit: int) -> Annotated:
    if not limit or limit >= len(annotated.files):
        return annotated
    keep = np.linspace(0, len(annotated.files) - 1, limit).astype(int)
    return Annotated(
        annotated.name,
        [annotated.files[i] for i in keep],
        annotated.points[keep],
        annotated.pose[keep],
        annotated.truth,
    )


def _annotations(root: Path, name: str, chosen: Callable[[str], bool], which: str) -> Annotated:
    """Read ``annotations/NAME.parquet``; its (0, 0) is the outer corner of the first pixel."""
    import pyarrow.parquet as pq

    need_folder(root / name, f"the pictures of {name} in {root}")
    file = root / "annotations" / f"{name}.parquet"
    if not file.is_file():
        raise TableError(f"{file} does not exist; it holds the annotations of {name}.")
    table = pq.read_table(file, columns=["file", "landmarks68", *ANGLES])
    rows = [i for i, one in enumerate(table["file"].to_pylist()) if chosen(one)]
    if not rows:
        raise TableError(f"{file} annotates no picture of {which}.")
    table = table.take(rows)
    points = np.array(table["landmarks68"].to_pylist(), np.float32).reshape(-1, 68, 2) - 0.5
    pose = np.stack([table[a].to_numpy().astype(np.float32) for a in ANGLES], 1)
    files = [root / name / one for one in table["file"].to_pylist()]
    return Annotated(name, files, points, pose, f"MediaPipe's points and angles, {which}")


def _finite(value: Any) -> Any:
    """Return nested dictionaries with None for nan, which JSON does not know."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def _column(file: Path, key: str, value: str) -> dict[str, str]:
    if not file.is_file():
        raise TableError(f"{file} does not exist; it says which pictures are held out.")
    with file.open(newline="") as stream:
        return {row[key]: row[value] for row in csv.DictReader(stream)}


def _utkface(root: Path) -> Annotated:
    split = _column(root / "utkface" / "splits.csv", "file", "split")
    return _annotations(root, "utkface", lambda f: split.get(f) == "test", "its test split")


def _lfw(root: Path) -> Annotated:
    folds = _column(root / "lfw" / "folds.csv", "name", "fold")
    held = ("9", "10")
    return _annotations(root, "lfw", lambda f: folds.get(f.split("/")[0]) in held, "folds 9 and 10")


def _omi(root: Path) -> Annotated:
    return _annotations(
        root, "omi", lambda f: int(Path(f).stem) % 10 == 0, "generated faces, ids divisible by 10"
    )


def _london(root: Path) -> Annotated:
    return _annotations(root, "london", lambda f: True, "all pictures")


def _ict_faces(root: Path) -> Annotated:
    import pyarrow.parquet as pq

    folder = root / "ict_faces"
    file = folder / "labels.parquet"
    if not file.is_file():
        raise TableError(f"{file} does not exist; it holds the labels of the renders.")
    table = pq.read_table(file, columns=["image", "landmarks68", *ANGLES])
    points = np.array(table["landmarks68"].to_pylist(), np.float32).reshape(-1, 68, 2)
    pose = np.stack([table[a].to_numpy().astype(np.float32) for a in ANGLES], 1)
    files = [folder / one for one in table["image"].to_pylist()]
    return Annotated("ict_faces", files, points, pose, "renders, exact points and angles")


SETS: dict[str, Callable[[Path], Annotated]] = {
    "utkface": _utkface,
    "lfw": _lfw,
    "omi": _omi,
    "london": _london,
    "ict_faces": _ict_faces,
}
