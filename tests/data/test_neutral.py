import numpy as np
import pytest

from mien.data.facs import UNITS
from mien.data.neutral import NeutralShape
from mien.files.errors import TableError


def faces(n, seed=0):
    """Faces whose landmarks are their own shape, moved by a smile, a jaw and the head's pose."""
    rng = np.random.default_rng(seed)
    own = 50 + 10 * rng.standard_normal((1, 68, 2)) + rng.standard_normal((n, 68, 2))
    units = np.zeros((n, len(UNITS)))
    for unit in ("AU12", "AU27"):
        units[:, UNITS.index(unit)] = rng.uniform(0, 1, n) * (rng.random(n) < 0.6)
    pose = rng.normal([0, -5, 0], [12, 8, 4], (n, 3))
    effect = np.random.default_rng(9).standard_normal((3, 68, 2)) * 6
    smile = np.maximum(units[:, UNITS.index("AU12")] - 0.1, 0)
    jaw = np.maximum(units[:, UNITS.index("AU27")] - 0.1, 0)
    yaw = np.sin(np.radians(pose[:, 0]))
    moved = np.einsum("kn,kpd->npd", np.stack([smile, jaw, yaw]), effect)
    return own, (own + moved).astype(np.float32), units.astype(np.float32), pose.astype(np.float32)


def error(a, b):
    return np.linalg.norm(a - b, axis=-1).mean()


def test_expression_and_pose_are_taken_out_of_faces_never_seen():
    _, points, units, pose = faces(3000)
    shape = NeutralShape(points, units, pose)
    own, points, units, pose = faces(200, seed=1)
    assert error(shape(points, units, pose), own) < 0.25 * error(points, own)


def test_a_resting_frontal_face_keeps_its_own_shape():
    _, points, units, pose = faces(3000)
    shape = NeutralShape(points, units, pose)
    level = np.array([[0, np.median(pose[:, 1]), 0]], np.float32)
    face = points[:1]
    assert np.allclose(shape(face, np.zeros((1, len(UNITS))), level), face, atol=1e-3)
    faint = np.full((1, len(UNITS)), 0.05)  # features of the person rather than an expression
    assert np.allclose(shape(face, faint, level), face, atol=1e-3)


def test_heads_are_turned_by_twelve_degrees_at_most():
    _, points, units, pose = faces(3000)
    shape = NeutralShape(points, units, pose)
    face, resting = points[:1], np.zeros((1, len(UNITS)))
    level = np.array([[0, np.median(pose[:, 1]), 5]], np.float32)

    def turned(yaw, pitch):
        return shape(face, resting, level + np.array([[yaw, pitch, 0]], np.float32))

    assert np.allclose(turned(40, 0), turned(12, 0), atol=1e-3)
    assert np.allclose(turned(-12, -30), turned(-12, -12), atol=1e-3)
    assert error(turned(12, 0), turned(6, 0)) > 0.1


def test_unknown_rows_are_left_out_of_the_fit_and_stay_unknown():
    _, points, units, pose = faces(1000)
    points[::2] = np.nan
    shape = NeutralShape(points, units, pose)
    neutral = shape(points, units, pose)
    assert np.isnan(neutral[0]).all()
    assert np.isfinite(neutral[1]).all()


def test_too_few_faces_or_no_action_units():
    _, points, units, pose = faces(300)
    with pytest.raises(TableError, match="need 200 faces"):
        NeutralShape(points[:199], units[:199], pose[:199])
    with pytest.raises(TableError, match="--annotations"):
        NeutralShape(points, 0 * units, pose)
