"""Photos to faces: detection, landmarks and crops in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mien.faces.align import check_crop, crop_to_photo, warp_crop
from mien.faces.detectors import detector as make_detector
from mien.faces.detectors.base import Detector
from mien.faces.face import Array, Face, Image
from mien.files.errors import ConfigError, FaceError

if TYPE_CHECKING:
    from mien.faces.landmarks import Landmarks

LandmarkFinder = Callable[[list[Image], list[Array]], "list[Landmarks]"]
CHOICES = ("only", "largest", "central")
_OVERLAP = 0.5  # IoU above which two sets of landmarks are of one face


class Finder:
    """Find and align every face of every photo.

    Args:
        detector: A name (``mien.faces.detectors``) or a detector.
        crop: ``tight`` or ``ffhq`` (``mien.faces.align``).
        size: Side of the crops in pixels.
        min_score: Least face probability by the landmark network, in [0, 1].
        landmarker: Replaces ``mien.faces.landmarks.Landmarker`` with the shipped weights.

    Raises:
        ConfigError: Unknown detector or crop.
    """

    def __init__(
        self,
        detector: str | Detector = "dlib",
        crop: str = "tight",
        size: int = 112,
        min_score: float = 0.5,
        landmarker: LandmarkFinder | None = None,
    ) -> None:
        check_crop(crop)
        self.detector = make_detector(detector) if isinstance(detector, str) else detector
        self.crop, self.size, self.min_score = crop, size, min_score
        if landmarker is None:
            from mien.faces.landmarks import Landmarker

            landmarker = cast(LandmarkFinder, Landmarker())
        self.landmarker = landmarker

    def __call__(
        self, images: Sequence[Image], sources: Sequence[str] | None = None
    ) -> list[list[Face]]:
        """Find the faces.

        Args:
            images: uint8 ``(H, W, 3)`` RGB each.
            sources: Where each photo came from, kept in ``Face.source``.

        Returns:
            The faces of each photo, the largest first; no two are of one face.
        """
        images = list(images)
        names = [""] * len(images) if sources is None else list(sources)
        boxes = [found[:, :4] for found in self.detector(images)]
        marks = self.landmarker(images, boxes)
        return [self._faces(*each) for each in zip(images, names, boxes, marks, strict=True)]

    def _faces(self, image: Image, source: str, boxes: Array, marks: Landmarks) -> list[Face]:
        faces: list[Face] = []
        for i in np.argsort(-marks.score, kind="stable"):
            score, points = float(marks.score[i]), marks.points[i]
            if not score >= self.min_score or any(_same(points, f.landmarks) for f in faces):
                continue
            try:
                faces.append(
                    face_from_landmarks(
                        image,
                        points,
                        self.crop,
                        self.size,
                        source,
                        box=boxes[i],
                        score=score,
                        pose=tuple(float(a) for a in marks.pose[i]),
                    )
                )
            except FaceError:  # its points coincide: not a face
                continue
        return sorted(faces, key=lambda face: -extent(face))


def face_from_landmarks(
    image: Image,
    landmarks: NDArray[Any],
    crop: str = "tight",
    size: int = 112,
    source: str = "",
    *,
    box: NDArray[Any] | None = None,
    score: float = 1.0,
    pose: tuple[float, ...] | None = None,
) -> Face:
    """Align a face whose landmarks are known.

    Args:
        image: uint8 ``(H, W, 3)`` RGB photo.
        landmarks: ``(68, 2)``, iBUG order, photo pixels.
        crop: ``tight`` or ``ffhq``.
        size: Side of the crop in pixels.
        source: Where the photo came from.
        box: ``(4,)`` left, top, right, bottom; the landmarks' bounding box if not given.
        score: Face probability.
        pose: Yaw, pitch, roll in degrees; unknown (NaN) if not given.

    Raises:
        ConfigError: No crop of that name.
        FaceError: The landmarks coincide or are not finite.
    """
    points = np.array(landmarks, dtype=np.float32)
    to_photo = crop_to_photo(points, crop, size)
    if box is None:
        box = np.concatenate([points.min(0), points.max(0)])
    yaw, pitch, roll = pose if pose is not None else (float("nan"),) * 3
    return Face(
        crop=warp_crop(image, to_photo, size),
        landmarks=points,
        to_photo=to_photo,
        box=np.array(box, dtype=np.float32),
        score=score,
        source=source,
        crop_name=crop,
        pose=(yaw, pitch, roll),
    )


def choose(
    faces: Sequence[Face],
    which: str | int = "only",
    source: str = "",
    shape: tuple[int, ...] | None = None,
) -> Face:
    """Choose one of the faces of a photo.

    Args:
        faces: The faces, the largest first.
        which: ``only`` (an error if there are several), ``largest``, ``central`` (nearest to the
            photo's middle) or a number, 0 being the largest.
        source: Name of the photo for error messages; the faces' own if not given.
        shape: Height and width of the photo, which ``central`` needs.

    Raises:
        FaceError: No face, several and no choice, or no such number.
        ConfigError: ``which`` is none of these.
    """
    name = source or (faces[0].source if faces else "") or "The photo"
    if not faces:
        raise FaceError(
            f"{name} holds no face that was found; take a photo where the face is larger, upright "
            "and lit, or, if the picture is cut to the face already, use the detector 'crop'."
        )
    if isinstance(which, int) or which.isdecimal():
        if not 0 <= int(which) < len(faces):
            raise FaceError(
                f"{name} has no face number {which}; they run from 0 (the largest) to "
                f"{len(faces) - 1}."
            )
        return faces[int(which)]
    if which not in CHOICES:
        raise ConfigError(f"Choose a face by number or {', '.join(CHOICES)}, not {which!r}.")
    if which == "only" and len(faces) > 1:
        raise FaceError(
            f"{name} holds {len(faces)} faces; choose one: 'largest', 'central' or a number from "
            f"0 (the largest) to {len(faces) - 1}."
        )
    if which == "central":
        if shape is None:
            raise ConfigError("Choosing the central face needs the shape of the photo.")
        middle = (np.array([shape[1], shape[0]]) - 1) / 2
        return min(faces, key=lambda f: float(np.hypot(*(f.landmarks.mean(0) - middle))))
    return faces[0]


def extent(face: Face) -> float:
    """Return the larger side of the landmarks' bounding box in photo pixels."""
    return float(np.ptp(face.landmarks, axis=0).max())


def _same(a: Array, b: Array) -> bool:
    """Tell whether two sets of landmarks cover the same place."""
    low = np.maximum(a.min(0), b.min(0))
    high = np.minimum(a.max(0), b.max(0))
    common = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(np.ptp(a, axis=0)) + np.prod(np.ptp(b, axis=0))) - common
    return common > _OVERLAP * union
