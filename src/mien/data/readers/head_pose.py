"""Head pose sets: 300W-LP, AFLW2000, the npz form of both and of BIWI, and BIWI itself.

Their angles follow one convention (from 300W-LP, where the model's rotation is Rx Ry Rz): positive
yaw turns the nose towards the image's left, positive pitch looks up, positive roll is clockwise as
the viewer sees it. So yaw changes its sign here, pitch and roll keep theirs; the numbers are
otherwise those that the literature compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.readers import Reader, Record, register
from mien.faces.face import Array, Image
from mien.files.errors import ImageError, MissingExtraError, TableError


def _read_mat(file: Path) -> dict[str, Any]:
    """Read a MATLAB file (version 5; nothing in it is executed)."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtraError("scipy", "evaluate") from None
    try:
        return dict(loadmat(file))
    except Exception as error:
        raise TableError(f"{file} is no MATLAB file ({error}); fetch it again.") from None


def _signed(pitch: float, yaw: float, roll: float) -> dict[str, float]:
    """Return the labels of angles in degrees in the sets' convention."""
    return {"yaw": -float(yaw), "pitch": float(pitch), "roll": float(roll)}


class _Fitted(Reader):
    points: str

    def of(self, path: Path, **known: Any) -> Record | None:
        """Return the record of a picture with a .mat file beside it, if it has one."""
        mat = path.with_suffix(".mat")
        if not mat.is_file():
            return None
        values = _read_mat(mat)
        # Pose_Para: pitch, yaw, roll in radians, then shift and scale.
        angles = np.degrees(np.asarray(values["Pose_Para"], np.float64).ravel()[:3])
        shape = np.asarray(values[self.points], np.float32)[:2]
        # MATLAB counts pixels from 1. AFLW2000's pt2d has 21 points; only 68 are of use.
        points: Array | None = shape.T - 1 if shape.shape == (2, 68) else None
        labels = self.labels(**_signed(*angles), **known)
        source = path.relative_to(self.root).as_posix()
        return Record(source, path, labels=labels, landmarks=points)


@register
class W300Lp(_Fitted):
    """300W-LP: photos and views synthesised from them. Flipped copies are left out."""

    name = "300w_lp"
    licence = "300W-LP: research only"
    layout = "{AFW,HELEN,IBUG,LFPW}/NAME_0.jpg and NAME_0.mat (Pose_Para, pt2d)"
    points = "pt2d"

    def records(self) -> Iterator[Record]:
        """Yield every picture; the views of one photo share a clip."""
        found = False
        for subset in ("AFW", "HELEN", "IBUG", "LFPW"):
            for path in sorted((self.root / subset).glob("*.jpg")):
                record = self.of(path, clip=f"{subset}/{path.stem.rpartition('_')[0]}")
                if record is not None:
                    found = True
                    yield record
        if not found:
            raise self.wrong("holds no such pictures")


@register
class Aflw2000(_Fitted):
    """AFLW2000-3D. Where it is measured, faces beyond 99 degrees are left out by convention."""

    name = "aflw2000"
    licence = "AFLW2000-3D: research only"
    layout = "image00002.jpg and image00002.mat (Pose_Para, pt3d_68)"
    points = "pt3d_68"

    def records(self) -> Iterator[Record]:
        """Yield every picture, sorted by name."""
        found = False
        for path in sorted(self.root.glob("*.jpg")):
            record = self.of(path, split="test")
            if record is not None:
                found = True
                yield record
        if not found:
            raise self.wrong("holds no such pictures")


@register
class PoseNpz(Reader):
    """The arrays that FSA-Net distributes (faces cut out, 64 px)."""

    name = "pose_npz"
    licence = "as the set in the file: research only"
    layout = "*.npz with image (N, S, S, 3) BGR and pose (N, 3) yaw, pitch, roll in degrees"

    def records(self) -> Iterator[Record]:
        """Yield every row of every file."""
        files = sorted(self.root.glob("*.npz")) if self.root.is_dir() else [self.root]
        if not files:
            raise self.wrong("holds no .npz file")
        for file in files:
            for index, (yaw, pitch, roll) in enumerate(self._array(file, "pose")):
                labels = self.labels(**_signed(pitch, yaw, roll), attributes={"set": file.stem})
                yield Record(f"{file.name}#{index}", file, index, labels=labels, crop=True)

    def _array(self, file: Path, name: str) -> Any:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return arrays[name]
        except (OSError, ValueError, KeyError) as error:
            raise TableError(f"{file} has no array {name!r} ({error}); see {self.layout}") from None

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return a row of the array; one file is held at a time."""
        if getattr(self, "_file", None) != record.file:
            self._images, self._file = self._array(record.file, "image"), record.file
        picture = np.asarray(self._images[record.index])
        if picture.dtype != np.uint8 or picture.ndim != 3:
            raise ImageError(f"{record.source} is not a uint8 colour picture.")
        image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        return image, (image.shape[1], image.shape[0])


@register
class Biwi(Reader):
    """BIWI Kinect head pose: 24 recordings of 20 persons."""

    name = "biwi"
    licence = "BIWI Kinect Head Pose Database: research only"
    layout = "[hpdb/]01/frame_00003_rgb.png and frame_00003_pose.txt (3x3 rotation, then position)"

    def records(self) -> Iterator[Record]:
        """Yield every frame; a recording is a clip."""
        base = self.root / "hpdb" if (self.root / "hpdb").is_dir() else self.root
        found = False
        for path in sorted(base.glob("*/frame_*_rgb.png")):
            pose = path.with_name(path.name.replace("_rgb.png", "_pose.txt"))
            if not pose.is_file():
                continue
            found = True
            recording = path.parent.name
            labels = self.labels(
                person=_BIWI_PERSON.get(recording, recording),
                clip=recording,
                frame=int(path.name.split("_")[1]),
                **_biwi_angles(np.loadtxt(pose, max_rows=3)),
            )
            yield Record(path.relative_to(self.root).as_posix(), path, labels=labels)
        if not found:
            raise self.wrong("holds no such frames")


# Four persons were recorded twice.
_BIWI_PERSON = {"21": "03", "22": "04", "23": "09", "24": "14"}


def _biwi_angles(rotation: Any) -> dict[str, float]:
    """Return our angles of BIWI's rotation, read as in Hopenet and FSA-Net."""
    r = np.asarray(rotation, np.float64).T
    roll = -np.arctan2(r[1, 0], r[0, 0])
    yaw = -np.arctan2(-r[2, 0], np.hypot(r[2, 1], r[2, 2]))
    pitch = np.arctan2(r[2, 1], r[2, 2])
    return _signed(*np.degrees([pitch, yaw, roll]))
