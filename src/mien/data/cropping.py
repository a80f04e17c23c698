"""Records of a reader to rows of a table: decode, find, align, judge. The work of one process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mien.data.duplicates import face_hash
from mien.data.readers import Reader, Record
from mien.data.table import Row
from mien.faces.align import crop_to_photo, invert, transform_points, warp_crop
from mien.faces.detectors.base import shrink
from mien.faces.detectors.whole import Whole
from mien.faces.face import Array, Image
from mien.faces.image import encode_image
from mien.files.errors import FaceError, MienError, MissingExtraError

if TYPE_CHECKING:
    from mien.faces.find import Finder
    from mien.faces.landmarks import Landmarker, Landmarks

BATCH = 32  # pictures decoded at once,
_PIXELS = 16_000_000  # or so many pixels
THUMBNAIL = 96  # pixels
CHOICES = ("largest", "central", "all", "only")
# Where the face sits in a crop: crops cut close first, then looser ones.
_CLOSE, _LOOSE = Whole(0.95, (0.5, 0.6)), Whole(0.62, (0.5, 0.58))
_UNSURE = 0.5  # score of the close guess below which the loose one is tried


@dataclass(frozen=True)
class Settings:
    """What to cut and what to keep; see ``mien.data.prepare.prepare``."""

    detector: str = "dlib"
    crop: str = "tight"
    size: int = 112
    faces: str = "largest"
    min_size: float = 24.0
    min_score: float | None = None
    max_yaw: float | None = None
    max_pitch: float | None = None
    max_roll: float | None = None
    deduplicate: bool = True
    quality: int = 95
    max_side: int = 1600


@dataclass
class Rejected:
    """A face or photo that is not in the table."""

    source: str
    reason: str
    detail: str = ""
    thumbnail: bytes = b""


@dataclass
class Outcome:
    """Faces of some records in order: rows with their hashes (None: never a duplicate)."""

    rows: list[Row] = field(default_factory=list)
    hashes: list[int | None] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


@dataclass
class _Photo:
    """A decoded record."""

    record: Record
    image: Image
    scale: Array  # (2,), true width and height over those of ``image``


@dataclass
class _Found:
    """A face in pixels of the decoded image."""

    points: Array
    box: Array
    score: float
    pose: tuple[float, float, float]


class Cropper:
    """Cuts the faces out of records.

    Args:
        settings: What to cut and what to keep.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def _landmarker(self) -> Landmarker:
        from mien.faces.landmarks import Landmarker

        return Landmarker()

    @cached_property
    def _finder(self) -> Finder:
        from mien.faces.find import Finder

        return Finder(self.settings.detector, size=16, min_score=0.0)  # scores are judged here

    def __call__(self, reader: Reader, records: Iterable[Record]) -> Outcome:
        """Cut the faces of ``records``; nothing that is wrong with a picture raises."""
        outcome = Outcome()
        for photos in _batches(self._decode(reader, records, outcome)):
            for photo, faces in zip(photos, self._find(photos), strict=True):
                self._judge(photo, faces, outcome)
        return outcome

    def _decode(
        self, reader: Reader, records: Iterable[Record], outcome: Outcome
    ) -> Iterator[_Photo]:
        for record in records:
            try:
                if record.frames:
                    for own, frame in reader.frames(record):
                        yield _photo(own, *self._shrink(frame))
                else:
                    yield _photo(record, *reader.photo(record, self.settings.max_side))
            except MissingExtraError:
                raise
            except Exception as error:  # whatever a damaged file makes a decoder do
                said = str(error) if isinstance(error, MienError) else repr(error)
                outcome.rejected.append(Rejected(record.source, "unreadable", said))

    def _shrink(self, frame: Image) -> tuple[Image, tuple[int, int]]:
        size = (frame.shape[1], frame.shape[0])
        return shrink(frame, self.settings.max_side)[0], size

    def _find(self, photos: Sequence[_Photo]) -> list[list[_Found]]:
        """Return the faces of each photo: known, in a known place, or searched for."""
        found: list[list[_Found]] = [[] for _ in photos]
        search, look, boxes = [], [], []
        for i, photo in enumerate(photos):
            labels, points = photo.record.labels, photo.record.landmarks
            if points is not None:
                points = _to_image(points, photo.scale)
                box = np.concatenate([points.min(0), points.max(0)])
                pose = (labels.yaw, labels.pitch, labels.roll)
                found[i] = [_Found(points, box, labels.score, pose)]
                if any(math.isnan(angle) for angle in pose) and np.isfinite(box).all():
                    look.append(i)
                    boxes.append(box[None])
            elif labels.box is not None:
                look.append(i)
                boxes.append(_to_image(labels.box.reshape(2, 2), photo.scale).reshape(1, 4))
            elif photo.record.crop:
                look.append(i)
                boxes.append(_CLOSE([photo.image])[0][:, :4])
            else:
                search.append(i)
        if look:
            with _one_thread():
                looked = self._look(photos, look, boxes)
            for i, box, marks in zip(look, boxes, looked, strict=True):
                face = _Found(marks.points[0], box[0], float(marks.score[0]), _angles(marks))
                if found[i]:  # its points are known: only the pose is measured
                    found[i][0].pose = face.pose
                else:
                    found[i] = [face]
        if search:
            with _one_thread():
                searched = self._finder([photos[i].image for i in search])
            for i, faces in zip(search, searched, strict=True):
                found[i] = [_Found(f.landmarks, f.box, f.score, f.pose) for f in faces]
        return found

    def _look(
        self, photos: Sequence[_Photo], look: list[int], boxes: list[Array]
    ) -> list[Landmarks]:
        """Find the landmarks of one box a photo; crops get a second guess of their framing."""
        marks = self._landmarker([photos[i].image for i in look], boxes)
        again = [
            k
            for k, i in enumerate(look)
            if photos[i].record.crop
            and photos[i].record.landmarks is None
            and photos[i].record.labels.box is None
            and marks[k].score[0] < _UNSURE
        ]
        if again:
            images = [photos[look[k]].image for k in again]
            loose = [box[:, :4] for box in _LOOSE(images)]
            for k, box, better in zip(again, loose, self._landmarker(images, loose), strict=True):
                if better.score[0] > marks[k].score[0]:
                    marks[k], boxes[k] = better, box
        return marks

    def _judge(self, photo: _Photo, faces: list[_Found], outcome: Outcome) -> None:
        """Cut the faces that pass and add every other one to the rejected."""
        s, record = self.settings, photo.record
        if not faces:
            outcome.rejected.append(_reject(photo, None, "no face", f"by {s.detector}"))
            return
        passed: list[tuple[int, _Found]] = []
        for number, face in enumerate(faces):
            reason = self._fault(photo, face)
            if reason:
                outcome.rejected.append(_reject(photo, face, *reason, number, len(faces)))
            else:
                passed.append((number, face))
        if len(passed) > 1 and s.faces != "all":
            if s.faces == "only":
                detail = f"{len(passed)} faces; say which to take"
                outcome.rejected.append(_reject(photo, None, "several faces", detail))
                return
            chosen = self._choose(photo, passed)
            for number, face in passed:
                if number != chosen[0]:
                    detail = f"not the {s.faces} of {len(passed)}"
                    outcome.rejected.append(
                        _reject(photo, face, "several faces", detail, number, len(faces))
                    )
            passed = [chosen]
        for number, face in passed:
            suffix = f"@{number}" if s.faces == "all" and len(faces) > 1 else ""
            try:
                row, crop = self._cut(photo, face, record.source + suffix)
            except FaceError as error:
                outcome.rejected.append(_reject(photo, face, "not aligned", str(error)))
                continue
            # Sets with an official split stay whole, clips live on frames that are alike.
            loose = s.deduplicate and not row.clip and not row.split
            outcome.rows.append(row)
            outcome.hashes.append(face_hash(crop) if loose else None)

    def _fault(self, photo: _Photo, face: _Found) -> tuple[str, str] | None:
        """Return reason and detail if a face is not to be kept."""
        s = self.settings
        searched = photo.record.landmarks is None and not photo.record.crop
        # What a data set calls a face is one, unless the caller says otherwise.
        least = s.min_score if s.min_score is not None else 0.5 if searched else 0.0
        if face.score < least:
            return "score too low", f"{face.score:.2f} < {least:g}"
        extent = float((np.ptp(face.points, axis=0) * photo.scale).max())
        if extent < s.min_size:
            return "too small", f"{extent:.0f} px < {s.min_size:g}"
        for name, angle, most in zip(
            ("yaw", "pitch", "roll"),
            self._pose(photo, face),
            (s.max_yaw, s.max_pitch, s.max_roll),
            strict=True,
        ):
            if most is not None and abs(angle) > most:
                return "turned too far", f"{name} {angle:.0f}°, more than {most:g}°"
        return None

    def _choose(self, photo: _Photo, faces: list[tuple[int, _Found]]) -> tuple[int, _Found]:
        if self.settings.faces == "largest":
            return max(faces, key=lambda each: float(np.ptp(each[1].points, axis=0).max()))
        middle = (np.array(photo.image.shape[1::-1]) - 1) / 2
        return min(faces, key=lambda each: float(np.hypot(*(each[1].points.mean(0) - middle))))

    @staticmethod
    def _pose(photo: _Photo, face: _Found) -> tuple[float, float, float]:
        """Return the pose in the photo: what the data set says, else what was measured."""
        labels = photo.record.labels
        said = (labels.yaw, labels.pitch, labels.roll)
        yaw, pitch, roll = (b if math.isnan(a) else a for a, b in zip(said, face.pose, strict=True))
        return yaw, pitch, roll

    def _cut(self, photo: _Photo, face: _Found, source: str) -> tuple[Row, Image]:
        s, record = self.settings, photo.record
        if s.crop == "whole":
            to_image = _whole(photo.image, s.size)
        else:
            fitted = face.points
            if record.align is not None:
                fitted = _to_image(record.align, photo.scale)
            to_image = crop_to_photo(fitted, s.crop, s.size)
        crop = photo.image
        data = b""
        if crop.shape == (s.size, s.size, 3) and _stays(to_image, s.size):
            # The stored picture is the crop: keep its bytes, nothing is lost by encoding again.
            to_image = np.eye(2, 3, dtype=np.float32)
            if record.index < 0 and (photo.scale == 1).all():
                data = record.file.read_bytes()
            data = data if data.startswith(b"\xff\xd8\xff") else b""  # PNG may hold alpha
        elif s.crop == "whole":
            crop = _square(photo.image, s.size)
        else:
            crop = warp_crop(photo.image, to_image, s.size)
        yaw, pitch, roll = self._pose(photo, face)
        to_photo = to_image * photo.scale[:, None]
        to_photo[:, 2] += (photo.scale - 1) / 2
        box = _to_photo(face.box.reshape(2, 2), photo.scale).reshape(4)
        row = replace(
            record.labels,
            image=data or encode_image(crop, "JPEG", quality=s.quality),
            source=source,
            yaw=yaw,
            pitch=pitch,
            # The crop is turned upright: what is left of the roll is what it shows.
            roll=roll - math.degrees(math.atan2(to_image[1, 0], to_image[0, 0])),
            landmarks=transform_points(face.points, invert(to_image)),
            to_photo=to_photo.astype(np.float32),
            box=box,
            score=face.score,
        )
        return row, crop


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the networks to one thread: processes share the processors, and sums stay the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(photos: Iterable[_Photo]) -> Iterator[list[_Photo]]:
    """Gather photos for the networks, but never many large ones."""
    batch: list[_Photo] = []
    pixels = 0
    for photo in photos:
        batch.append(photo)
        pixels += photo.image.shape[0] * photo.image.shape[1]
        if len(batch) == BATCH or pixels >= _PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _photo(record: Record, image: Image, size: tuple[int, int]) -> _Photo:
    return _Photo(record, image, np.asarray(np.divide(size, image.shape[1::-1]), np.float32))


def _angles(marks: Landmarks) -> tuple[float, float, float]:
    yaw, pitch, roll = (float(angle) for angle in marks.pose[0])
    return yaw, pitch, roll


def _to_image(points: Array, scale: Array) -> Array:
    """Photo pixels to pixels of the decoded, perhaps shrunk image."""
    return np.asarray((points + 0.5) / scale - 0.5, np.float32)


def _to_photo(points: Array, scale: Array) -> Array:
    return np.asarray((points + 0.5) * scale - 0.5, np.float32)


def _whole(image: Image, size: int) -> Array:
    """Return crop pixel → image pixel of the central square of a picture."""
    height, width = image.shape[:2]
    side = min(height, width)
    scale = side / size
    start = np.array([(width - side) // 2, (height - side) // 2])
    shift = start + scale / 2 - 0.5
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)


def _square(image: Image, size: int) -> Image:
    """Cut the central square and resize it."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side != size:
        how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        square = np.asarray(cv2.resize(square, (size, size), interpolation=how), np.uint8)
    return np.ascontiguousarray(square)


def _stays(to_image: Array, size: int) -> bool:
    """Tell whether a crop is the whole image, to a twentieth of a pixel at its corners."""
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], np.float32)
    return bool(np.abs(transform_points(corners, to_image) - corners).max() < 0.05)


def _reject(
    photo: _Photo,
    face: _Found | None,
    reason: str,
    detail: str = "",
    number: int = 0,
    faces: int = 1,
) -> Rejected:
    image = photo.image
    if face is not None and np.isfinite(face.box).all():
        left, top, right, bottom = face.box.round().astype(int)
        margin = max(right - left, bottom - top) // 4
        part = image[
            max(top - margin, 0) : max(bottom + margin, 0),
            max(left - margin, 0) : max(right + margin, 0),
        ]
        image = part if min(part.shape[:2]) > 1 else image
    share = THUMBNAIL / max(image.shape[:2])
    size = [max(1, round(side * share)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    source = photo.record.source + (f"@{number}" if faces > 1 else "")
    return Rejected(source, reason, detail, encode_image(small, "JPEG", quality=80))
