"""Boxes, landmarks, transforms and flows: what holds for any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mien.data.augment import mirror_points
from mien.data.warp import resize_flow, spline_flow
from mien.data.warp import warp as flow_warp
from mien.faces.align import crop_to_photo, invert, transform_points, warp, warp_crop
from mien.faces.find import choose, face_from_landmarks
from mien.faces.paste import BLENDS, MASKS, paste, warp_photo
from mien.files.errors import FaceError

QUICK = settings(max_examples=30, deadline=None)
FACE = np.random.default_rng(0).normal(0, 1.5, (68, 2)) + np.stack(
    [np.arange(68) % 17, np.arange(68) // 17 * 4], -1
)


@st.composite
def similarities(draw) -> np.ndarray:
    """2x3: turned by any angle, 0.2 to 20 times as large, shifted by up to 500 px."""
    turn = draw(st.floats(-math.pi, math.pi))
    scale = draw(st.floats(0.2, 20))
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    x, y = draw(st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
    return np.array([[c, -s, x], [s, c, y]])


@QUICK
@given(
    matrix=similarities(), points=arrays(np.float32, (5, 2), elements=st.floats(-99, 99, width=32))
)
def test_the_inverse_takes_points_back(matrix, points) -> None:
    there = transform_points(points, matrix)
    back = transform_points(there, invert(matrix))
    assert np.allclose(
        back, points, atol=1e-3 * max(1.0, 1 / abs(matrix[0, 0] + 1j * matrix[1, 0]))
    )


@QUICK
@given(first=similarities(), second=similarities())
def test_transforms_chain(first, second) -> None:
    square = np.vstack([second, [0, 0, 1]])
    once = transform_points(FACE, first @ square)
    twice = transform_points(transform_points(FACE, second), first)
    assert np.allclose(once, twice, rtol=1e-4, atol=1e-2)


@QUICK
@given(matrix=similarities(), crop=st.sampled_from(["tight", "ffhq"]), size=st.integers(16, 256))
def test_a_crop_is_a_similarity_that_never_mirrors(matrix, crop, size) -> None:
    to_photo = crop_to_photo(transform_points(FACE, matrix), crop, size)
    (a, b), (c, d) = to_photo[:, :2].astype(np.float64)
    assert a == pytest.approx(d, rel=1e-5, abs=1e-6)
    assert b == pytest.approx(-c, rel=1e-5, abs=1e-6)
    assert a * d - b * c > 0


@QUICK
@given(crop=st.sampled_from(["tight", "ffhq"]), size=st.integers(16, 128), times=st.integers(2, 4))
def test_crops_of_all_sizes_frame_the_same_square(crop, size, times) -> None:
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    small, large = (
        transform_points((corners + 0.5) * s - 0.5, crop_to_photo(FACE, crop, s))
        for s in (size, size * times)
    )
    assert np.allclose(small, large, atol=2e-3)


@QUICK
@given(
    place=st.integers(0, 67),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    axis=st.booleans(),
)
def test_landmarks_that_are_not_finite_are_one_plain_error(place, value, axis) -> None:
    points = FACE.copy()
    points[place, int(axis)] = value
    with pytest.raises(FaceError, match="not finite"):
        crop_to_photo(points)


@QUICK
@given(
    where=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    crop=st.sampled_from(["tight", "ffhq"]),
)
@example(where=(0.0, 1.47579079e-293), crop="ffhq")
def test_landmarks_in_one_place_are_one_plain_error(where, crop) -> None:
    with pytest.raises(FaceError, match="coincide"):
        crop_to_photo(np.full((68, 2), where), crop)


@QUICK
@given(
    points=arrays(np.float32, (3, 68, 2), elements=st.floats(-50, 200, width=32)),
    width=st.integers(2, 200),
)
def test_mirroring_twice_changes_nothing(points, width) -> None:
    tensor = torch.from_numpy(points)
    once = mirror_points(tensor, width)
    assert torch.allclose(mirror_points(once, width), tensor, atol=1e-3)
    ends = once[:, [0, 16]] + tensor[:, [16, 0]] * torch.tensor([1.0, -1.0])  # ends of the jaw
    expected = torch.tensor([width - 1.0, 0.0]).expand_as(ends)
    assert torch.allclose(ends, expected, atol=1e-3)


@QUICK
@given(
    image=arrays(np.uint8, st.tuples(st.integers(4, 30), st.integers(4, 30), st.just(3))),
    dx=st.integers(-3, 3),
    dy=st.integers(-3, 3),
)
def test_warping_by_whole_pixels_moves_pixels(image, dx, dy) -> None:
    height, width = image.shape[:2]
    moved = warp(image, np.array([[1, 0, dx], [0, 1, dy]]), (width, height))
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    assert np.array_equal(moved, padded[3 + dy : 3 + dy + height, 3 + dx : 3 + dx + width])


@QUICK
@given(colour=st.integers(0, 255), matrix=similarities(), size=st.integers(16, 64))
def test_a_plain_picture_stays_plain_in_every_crop(colour, matrix, size) -> None:
    image = np.full((40, 50, 3), colour, np.uint8)
    crop = warp_crop(image, matrix * np.array([[0.1, 0.1, 1]]), size)
    assert crop.shape == (size, size, 3)
    assert (np.abs(crop.astype(int) - colour) <= 1).all()


def found(photo, scale: float = 5.0, shift: tuple[float, float] = (20.0, 20.0)):
    return face_from_landmarks(photo, (FACE * scale + shift).astype(np.float32), "tight", 32)


@QUICK
@given(
    seed=st.integers(0, 99),
    scale=st.floats(2, 9),
    shift=st.tuples(st.floats(-60, 120), st.floats(-60, 120)),
    blend=st.sampled_from(BLENDS),
    mask=st.sampled_from(MASKS),
)
def test_an_unedited_crop_gives_the_photo_back(seed, scale, shift, blend, mask) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (120, 140, 3), np.uint8)
    face = found(photo, scale, shift)  # partly or wholly outside as well
    assert np.array_equal(paste(photo, face, face.crop, blend=blend, mask=mask), photo)
    assert np.array_equal(warp_photo(photo, face, np.zeros((2, 8, 8)), mask=mask), photo)


@QUICK
@given(
    sizes=st.lists(st.floats(2, 5), min_size=1, max_size=4),
    number=st.integers(0, 5),
)
def test_a_choice_is_one_of_the_faces_or_one_plain_error(sizes, number) -> None:
    photo = np.zeros((200, 200, 3), np.uint8)
    faces = [found(photo, s, (10.0 * s, 8.0 * s)) for s in sorted(sizes, reverse=True)]
    for which in ("largest", "central"):
        assert choose(faces, which, "p", photo.shape) in faces
    assert choose(faces, "largest", "p", photo.shape) is faces[0]
    if number < len(faces):
        assert choose(faces, number, "p", photo.shape) is faces[number]
    else:
        with pytest.raises(FaceError):
            choose(faces, number, "p", photo.shape)


@QUICK
@given(seed=st.integers(0, 999), height=st.integers(2, 12), width=st.integers(2, 12))
def test_a_flow_of_nothing_moves_nothing(seed, height, width) -> None:
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(flow_warp(x, torch.zeros(2, 2, 3, 3)), x, atol=1e-5)


@QUICK
@given(x=st.floats(-2, 2), y=st.floats(-2, 2), side=st.integers(2, 9), other=st.integers(2, 9))
def test_an_even_flow_is_free_of_its_size(x, y, side, other) -> None:
    flow = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, side, other)
    assert torch.allclose(
        resize_flow(flow, (other, side)), flow[..., :1, :1].expand(1, 2, other, side), atol=1e-6
    )


@QUICK
@given(seed=st.integers(0, 999), shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)))
def test_a_spline_through_shifted_points_is_the_shift(seed, shift) -> None:
    draw = np.random.default_rng(seed)
    target = draw.uniform(5, 58, (1, 20, 2))
    assume(np.linalg.cond(np.c_[np.ones(20), target[0]]) < 1e3)
    flow = spline_flow(*(torch.from_numpy(p) for p in (target, target + np.array(shift))), 64, 8)
    expected = torch.tensor(shift, dtype=torch.float64).view(1, 2, 1, 1) * 2 / 63
    assert torch.allclose(flow, expected.expand_as(flow), atol=1e-6)
