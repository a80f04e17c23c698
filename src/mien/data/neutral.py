"""The neutral, frontal landmarks that a face would have, estimated from its action units and pose.

A picture shows one expression; where its person's mouth would rest is not in it. Over many faces,
though, landmarks in an aligned crop follow action units and head pose almost linearly. The estimate
takes that share out of a face's own landmarks and leaves what is its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.facs import UNITS
from mien.faces.face import Array
from mien.files.errors import TableError

_DEAD = 0.1  # weaker units are as much the person's features as an expression
_DEAD_PITCH = 8.0  # degrees; less is as much the framing of the picture as the head
_MOST_TURN = 12.0  # degrees that are taken out; a flow of more tears the nose
_RESTING = 0.05  # of smile and open jaw: where faces rest
_SHRINK_UNITS = 1 / 60  # ridge penalties, for each row
_SHRINK_POSE = 1 / 2000
_LEAST = 200  # rows


class NeutralShape:
    """Ridge regression of landmarks on action units and head pose.

    Args:
        points: ``(N, 68, 2)``, pixels of crops of one kind and size.
        units: ``(N, 23)``, activations in [0, 1] in the order of ``UNITS``.
        pose: ``(N, 3)``, yaw, pitch, roll in degrees. The median pitch counts as frontal: its zero
            depends on how a set was measured.

    Raises:
        TableError: Fewer than 200 rows have landmarks and pose, or none has action units.
    """

    def __init__(self, points: Array, units: Array, pose: Array) -> None:
        known = np.isfinite(points).all((1, 2)) & np.isfinite(pose).all(1)
        if known.sum() < _LEAST or not units[known].any():
            raise TableError(
                f"Neutral shapes need {_LEAST} faces with landmarks, head pose and action units; "
                "prepare the table with --annotations that hold them."
            )
        points, units, pose = points[known], units[known], pose[known]
        self.level = np.array([0.0, np.median(pose[:, 1]), 0.0])
        smile, jaw = units[:, UNITS.index("AU12")], units[:, UNITS.index("AU27")]
        resting = (smile < _RESTING) & (jaw < _RESTING)
        self._rest = np.median(units[resting], 0) if resting.any() else np.zeros(len(UNITS))
        x = self._causes(units, pose)
        centred, y = x - x.mean(0), points.reshape(len(points), -1).astype(np.float64)
        penalty = np.full(x.shape[1], _SHRINK_POSE)
        penalty[: len(UNITS)] = _SHRINK_UNITS
        gram = centred.T @ centred + len(x) * np.diag(penalty)
        self._effect = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))

    def __call__(self, points: Array, units: Array, pose: Array) -> Array:
        """Return the neutral landmarks ``(N, 68, 2)`` of faces, turned to the front.

        By 12 degrees of yaw and of pitch at most: what is hidden no flow can show.
        """
        turn = (pose - self.level)[:, :2]
        pose = pose.copy()
        pose[:, :2] += turn.clip(-_MOST_TURN, _MOST_TURN) - turn
        moved = self._causes(units, pose) @ self._effect
        return np.asarray(points - moved.reshape(-1, 68, 2), np.float32)

    def _causes(self, units: Array, pose: Array) -> NDArray[np.float64]:
        """Return what moves landmarks ``(N, 29)``; zero for a resting, frontal face."""
        shown = _beyond(units - self._rest, _DEAD)
        turn = pose - self.level
        turn[:, 1] = _beyond(turn[:, 1], _DEAD_PITCH)
        yaw, pitch, roll = np.sin(np.radians(turn)).T
        turned = [yaw, pitch, roll, yaw**2, pitch**2, yaw * pitch]
        return np.concatenate([shown, np.stack(turned, 1)], 1)


def _beyond(value: NDArray[Any], dead: float) -> NDArray[np.float64]:
    return np.asarray(np.sign(value) * np.maximum(np.abs(value) - dead, 0))


def resting(cache: Any, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Estimate where the landmarks of photos would lie without their expressions.

    The heads stay as they are turned. Pictures of clips are left out, and so are those without
    landmarks or head pose; all are if none has action units.

    Args:
        cache: ``mien.data.cache.FaceCache`` of a table.
        rows: Rows of it ``(N,)``.

    Returns:
        Places in ``rows`` ``(M,)`` of the photos that are told of, and their landmarks
        ``(M, 68, 2)`` at rest.
    """
    told = np.isfinite(cache.landmarks[rows]).all((1, 2)) & np.isfinite(cache.pose[rows]).all(1)
    places = np.flatnonzero(told & (cache.clip[rows] < 0))
    chosen = rows[places]
    units, points = cache.action_units[chosen], cache.landmarks[chosen]
    if not units.any():
        return places[:0], points[:0]
    shape = NeutralShape(points, units, cache.pose[chosen])
    return places, shape(points, units, np.broadcast_to(shape.level, (len(chosen), 3)))
