"""Faces followed through the frames of a video, their landmarks smoothed in time.

A network's landmarks tremble from frame to frame, and the crop with them. A One-Euro filter
(Casiez et al., CHI 2012) smooths what rests and lets what moves pass; it starts anew at scene cuts
and wherever a face was not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.faces.face import Array, Face, Image
from mien.faces.find import choose, extent, face_from_landmarks
from mien.files.errors import FaceError

_OVERLAP = 0.3  # IoU of two frames' landmark boxes from which on they are of one person
_HOLD = 0.5  # seconds for which a person who is not found is waited for
_CUT, _THUMBNAIL = 30.0, 16  # mean difference of thumbnails of so many pixels a side
# Hz at rest; Hz for each face size a second of motion; Hz of the filter of the speed.
_REST, _MOTION, _SPEED = 1.0, 20.0, 1.0


@dataclass
class _Track:
    """One person: where they were last, and the state of the filter."""

    box: NDArray[np.float64]
    seen: float
    last: float = -1.0
    points: NDArray[np.float64] | None = None
    speed: NDArray[np.float64] | None = None


class Tracker:
    """Follows one person, or all, through the frames of a video in their order.

    Args:
        which: Whom to follow: ``largest``, ``central``, a number (0 is the largest), ``only`` (an
            error where there are several) or ``all``. It decides at the first frame, at scene cuts
            and where the person was lost; in between it stays with the person.
        smooth: Whether landmarks are smoothed.
    """

    def __init__(self, which: str | int = "largest", smooth: bool = True) -> None:
        self.which, self.smooth = which, smooth
        self._tracks: list[_Track] = []
        self._last_time = -1.0
        self._thumbnail: NDArray[np.float32] | None = None

    def __call__(self, image: Image, faces: Sequence[Face], time: float) -> list[Face]:
        """Return the faces of those who are followed, cut anew at smoothed landmarks.

        Args:
            image: The frame, uint8 ``(H, W, 3)`` RGB.
            faces: All of its faces, the largest first.
            time: Seconds from the start of the video.

        Raises:
            FaceError: ``only`` and several faces.
        """
        if self._is_cut(image):
            self._tracks = []
        self._tracks = [t for t in self._tracks if time - t.seen <= _HOLD]
        boxes = [_box(face) for face in faces]
        pairs: list[tuple[_Track, Face]] = []
        free = list(range(len(faces)))
        overlaps = sorted(
            ((_overlap(t.box, boxes[i]), -n, i) for n, t in enumerate(self._tracks) for i in free),
            reverse=True,
        )
        waiting = set(range(len(self._tracks)))
        for overlap, number, i in overlaps:
            if overlap >= _OVERLAP and -number in waiting and i in free:
                waiting.remove(-number)
                free.remove(i)
                pairs.append((self._tracks[-number], faces[i]))
        for face in self._new([faces[i] for i in free], image.shape):
            track = _Track(_box(face), time)
            self._tracks.append(track)
            pairs.append((track, face))
        found = []
        for track, face in pairs:
            if track.seen < self._last_time:  # a gap: what it knew of the motion is old
                track.points = None
            found.append(self._smoothed(track, image, face, time))
            track.box, track.seen = _box(face), time
        self._last_time = time
        return sorted(found, key=lambda face: -extent(face))

    def state(self) -> dict[str, Any]:
        """Return all that it remembers, as JSON can hold it exactly."""
        return {
            "time": self._last_time,
            "thumbnail": None if self._thumbnail is None else self._thumbnail.tolist(),
            "tracks": [
                {
                    name: value.tolist() if isinstance(value, np.ndarray) else value
                    for name, value in vars(track).items()
                }
                for track in self._tracks
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._last_time = float(state["time"])
        thumbnail = state["thumbnail"]
        self._thumbnail = None if thumbnail is None else np.array(thumbnail, np.float32)
        self._tracks = []
        for track in state["tracks"]:
            values: dict[str, Any] = {
                name: np.array(value, np.float64) if isinstance(value, list) else value
                for name, value in track.items()
            }
            self._tracks.append(_Track(**values))

    def _new(self, free: Sequence[Face], shape: tuple[int, ...]) -> list[Face]:
        """Return those of the faces that belong to nobody yet who are followed from now on."""
        if self.which == "all" or not free:
            return list(free)
        if self.which == "only" and self._tracks:
            raise FaceError(
                f"{free[0].source or 'A frame'} holds several faces; choose one (--face largest) "
                "or all (--face all)."
            )
        if self._tracks:
            return []
        try:
            return [choose(free, self.which, shape=shape)]
        except FaceError:
            if self.which == "only":
                raise
            return []  # no face of this number yet

    def _smoothed(self, track: _Track, image: Image, face: Face, time: float) -> Face:
        raw = face.landmarks.astype(np.float64)
        step = time - track.last
        if not self.smooth or track.points is None or track.speed is None or step <= 0:
            track.points, track.speed, track.last = raw, np.zeros_like(raw), time
            return face
        side = max(extent(face), 1.0)
        moved = (raw - track.points) / side / step
        track.speed = track.speed + _share(_SPEED, step) * (moved - track.speed)
        speed = np.linalg.norm(track.speed, axis=1, keepdims=True)
        share = _share(_REST + _MOTION * speed, step)
        track.points, track.last = track.points + share * (raw - track.points), time
        try:
            return face_from_landmarks(
                image,
                track.points,
                face.crop_name,
                len(face.crop),
                face.source,
                box=face.box,
                score=face.score,
                pose=face.pose,
            )
        except FaceError:  # its points coincide
            return face

    def _is_cut(self, image: Image) -> bool:
        size = (_THUMBNAIL, _THUMBNAIL)
        now = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._thumbnail = self._thumbnail, now
        return before is not None and float(np.abs(now - before).mean()) > _CUT


def _share(cutoff: Any, step: float) -> Any:
    """Return how much of a new value a low pass of ``cutoff`` Hz takes after ``step`` seconds."""
    turn = 2 * np.pi * cutoff * step
    return turn / (turn + 1)


def _box(face: Face) -> NDArray[np.float64]:
    points: Array = face.landmarks
    return np.concatenate([points.min(0), points.max(0)]).astype(np.float64)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the intersection of two boxes over their union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common
    return common / union if union > 0 else 0.0
