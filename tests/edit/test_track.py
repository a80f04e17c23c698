"""Faces through frames: less jitter, no lag where they move, and a new start at cuts and gaps."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from mien.edit.track import Tracker
from mien.faces.face import Face, Image
from mien.faces.find import face_from_landmarks
from mien.files.errors import FaceError

SIDE = 160


@pytest.fixture
def scene() -> Image:
    return np.random.default_rng(0).integers(90, 130, (SIDE, SIDE * 2, 3), dtype=np.uint8)


@pytest.fixture
def shape(toy_finder, scene) -> np.ndarray:
    (face,) = toy_finder(1)([scene])[0]
    return face.landmarks - face.landmarks.mean(0)


def at(scene: Image, shape: np.ndarray, *places: tuple[float, float, float]) -> list[Face]:
    """Return faces of x, y and scale, the largest first."""
    found = [
        face_from_landmarks(scene, shape * scale + (x, y), "tight", 32) for x, y, scale in places
    ]
    return sorted(found, key=lambda f: -np.ptp(f.landmarks))


def follow(tracker: Tracker, scene: Image, frames: Sequence[list[Face]]) -> list[list[Face]]:
    return [tracker(scene, faces, i / 25) for i, faces in enumerate(frames)]


def test_jitter_of_a_still_face_shrinks(scene, shape) -> None:
    rng = np.random.default_rng(1)
    truth = shape + np.array([100, 80])
    raw = [truth + rng.normal(0, 0.5, truth.shape) for _ in range(50)]
    frames = [[face_from_landmarks(scene, p, "tight", 32)] for p in raw]
    found = np.stack([faces[0].landmarks for faces in follow(Tracker(), scene, frames)])
    before = np.abs(np.diff(raw, axis=0)).mean()
    assert np.abs(np.diff(found, axis=0)).mean() < 0.4 * before
    crops = [faces[0].to_photo for faces in follow(Tracker(), scene, frames)]
    assert (
        np.std(crops[10:], axis=0).sum()
        < 0.7 * np.std([f[0].to_photo for f in frames[10:]], axis=0).sum()
    )
    off = follow(Tracker(smooth=False), scene, frames)
    assert all(
        np.array_equal(a[0].landmarks, b[0].landmarks) for a, b in zip(off, frames, strict=True)
    )


def test_a_moving_face_is_not_left_behind(scene, shape) -> None:
    frames = [at(scene, shape, (60 + 4 * i, 80, 1)) for i in range(40)]
    found = follow(Tracker(), scene, frames)
    lag = [
        np.abs(a[0].landmarks - b[0].landmarks).max() for a, b in zip(found, frames, strict=True)
    ]
    assert max(lag[10:]) < 4  # less than one frame


def test_a_cut_starts_anew(scene, shape) -> None:
    tracker = Tracker()
    follow(tracker, scene, [at(scene, shape, (100, 80, 1))] * 5)
    moved = at(scene, shape, (104, 80, 1))
    state = tracker.state()
    (same,) = tracker(scene, moved, 5 / 25)
    assert same.landmarks[0, 0] < moved[0].landmarks[0, 0] - 0.5  # smoothed
    tracker.restore(state)
    (cut,) = tracker(255 - scene // 2, moved, 5 / 25)
    assert np.array_equal(cut.landmarks, moved[0].landmarks)


def test_a_gap_starts_the_filter_anew_but_keeps_the_person(scene, shape) -> None:
    small, large = (60, 80, 0.5), (200, 80, 1)
    tracker = Tracker()
    tracker(scene, at(scene, shape, small), 0)
    tracker(scene, at(scene, shape, large), 0.04)  # somebody else: no change of person
    (found,) = tracker(scene, at(scene, shape, (62, 80, 0.5), large), 0.08)
    np.testing.assert_allclose(found.landmarks.mean(0), (62, 80), atol=0.1)
    assert tracker(scene, at(scene, shape, large), 0.3) == []
    (later,) = tracker(scene, at(scene, shape, large), 0.7)  # waited for long enough
    np.testing.assert_allclose(later.landmarks.mean(0), (200, 80), atol=0.1)


def test_all_and_only(scene, shape) -> None:
    two = [at(scene, shape, (60 + i, 80, 0.6), (220 - i, 80, 0.7)) for i in range(6)]
    found = follow(Tracker("all"), scene, two)
    assert [len(faces) for faces in found] == [2] * 6
    assert found[-1][0].landmarks.mean() > found[-1][1].landmarks.mean()
    with pytest.raises(FaceError, match="faces"):
        follow(Tracker("only"), scene, two)
    with pytest.raises(FaceError, match="several faces"):
        follow(Tracker("only"), scene, [two[0][:1], two[1]])
    assert [len(f) for f in follow(Tracker(1), scene, [two[0][:1], *two])] == [0, *[1] * 6]


def test_goes_on_from_a_state_exactly(scene, shape) -> None:
    rng = np.random.default_rng(2)
    frames = [
        [
            face_from_landmarks(
                scene, shape + np.array([90 + i, 80]) + rng.normal(0, 0.5, shape.shape)
            )
        ]
        for i in range(20)
    ]
    whole = follow(Tracker(), scene, frames)
    first, second = Tracker(), Tracker()
    follow(first, scene, frames[:9])
    second.restore(json.loads(json.dumps(first.state())))
    rest = [second(scene, faces, (9 + i) / 25) for i, faces in enumerate(frames[9:])]
    for a, b in zip(whole[9:], rest, strict=True):
        assert np.array_equal(a[0].landmarks, b[0].landmarks)
        assert np.array_equal(a[0].crop, b[0].crop)
