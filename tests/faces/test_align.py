from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.faces.align import crop_to_photo, invert, transform_points, warp, warp_crop
from mien.files.errors import ConfigError, FaceError

ARCFACE = [[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]
similarities = st.tuples(
    st.floats(-180, 180), st.floats(0.05, 40), st.floats(-3000, 3000), st.floats(-3000, 3000)
)


def similarity(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    turn = scale * np.exp(1j * np.radians(degrees))
    return np.array([[turn.real, -turn.imag, x], [turn.imag, turn.real, y]])


def with_five(five: np.ndarray) -> np.ndarray:
    """Return 68 landmarks whose eyes, nose tip and mouth corners are these."""
    points = np.zeros((68, 2))
    ring = np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], -1)
    points[36:42] = five[0] + ring - ring.mean(0)
    points[42:48] = five[1] + ring - ring.mean(0)
    points[[30, 48, 54]] = five[2:]
    return points


class TestCropToPhoto:
    @settings(max_examples=60, deadline=None)
    @given(similarities, st.sampled_from([32, 64, 112, 256]))
    def test_tight_finds_the_similarity_that_moved_the_template(self, parameters, size):
        truth = similarity(*parameters)
        template = (np.array(ARCFACE) + 0.5) * size / 112 - 0.5
        points = with_five(template) @ truth[:, :2].T + truth[:, 2]
        found = crop_to_photo(points, "tight", size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-3 * max(parameters[1], 1))

    @settings(max_examples=40, deadline=None)
    @given(similarities, st.sampled_from(["tight", "ffhq"]), st.integers(0, 1000))
    def test_follows_any_similarity_of_any_face(self, parameters, crop, seed):
        move = similarity(*parameters)
        base = with_five(np.array(ARCFACE) + np.random.default_rng(seed).normal(0, 4, (5, 2)))
        before = crop_to_photo(base, crop)
        after = crop_to_photo(base @ move[:, :2].T + move[:, 2], crop)
        expected = move[:, :2] @ before + np.column_stack([np.zeros((2, 2)), move[:, 2]])
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=2e-3 * max(parameters[1], 1))

    def test_tight_is_the_least_squares_fit_in_the_crop(self):
        five = np.array(ARCFACE) + np.random.default_rng(0).normal(0, 6, (5, 2))
        fit = invert(crop_to_photo(with_five(five), "tight")).astype(np.float64)

        def error(matrix: np.ndarray) -> float:
            return float(((five @ matrix[:, :2].T + matrix[:, 2] - ARCFACE) ** 2).sum())

        least = error(fit)
        for nudge in (
            similarity(0.2, 1, 0, 0),
            similarity(-0.2, 1, 0, 0),
            similarity(0, 1.003, 0, 0),
            similarity(0, 0.997, 0, 0),
            similarity(0, 1, 0.2, 0),
            similarity(0, 1, 0, -0.2),
        ):
            moved = nudge[:, :2] @ fit + np.column_stack([np.zeros((2, 2)), nudge[:, 2]])
            assert error(moved) > least

    def test_ffhq_is_the_published_quad(self, shape68):
        points = shape68 * 50 + (200, 150)
        left, right = points[36:42].mean(0), points[42:48].mean(0)
        eye, mouth = (left + right) / 2, (points[48] + points[54]) / 2
        x = right - left - np.flipud(mouth - eye) * [-1, 1]
        x /= np.hypot(*x)
        x *= max(np.hypot(*(right - left)) * 2.0, np.hypot(*(mouth - eye)) * 1.8)
        y = np.flipud(x) * [-1, 1]
        c = eye + (mouth - eye) * 0.1
        quad = np.stack([c - x - y, c + x - y, c + x + y, c - x + y])
        edge = [[-0.5, -0.5], [255.5, -0.5], [255.5, 255.5], [-0.5, 255.5]]
        found = transform_points(np.array(edge), crop_to_photo(points, "ffhq", 256))
        np.testing.assert_allclose(found, quad, atol=1e-3)

    @pytest.mark.parametrize("crop", ["tight", "ffhq"])
    def test_never_mirrors_and_covers_the_same_square_at_any_size(self, crop, shape68):
        points = shape68 * 50 + (200, 150)
        small, large = crop_to_photo(points, crop, 56), crop_to_photo(points, crop, 448)
        assert np.linalg.det(small[:, :2]) > 0
        corner = [[-0.5, -0.5]]
        np.testing.assert_allclose(
            transform_points(np.array(corner), small),
            transform_points(np.array(corner), large),
            atol=1e-3,
        )
        np.testing.assert_allclose(small[:, :2], 8 * large[:, :2], rtol=1e-5)

    def test_a_batch_is_its_faces(self, shape68):
        faces = np.stack([shape68 * 10, shape68 * 30 + 7])
        batch = crop_to_photo(faces[None])
        assert batch.shape == (1, 2, 2, 3)
        np.testing.assert_array_equal(batch[0, 1], crop_to_photo(faces[1]))

    @pytest.mark.parametrize("crop", ["tight", "ffhq"])
    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
    def test_points_that_coincide_are_no_face(self, crop, value):
        with pytest.raises(FaceError):
            crop_to_photo(np.full((68, 2), value), crop)

    def test_unknown_crop(self):
        with pytest.raises(ConfigError, match="did you mean 'tight'"):
            crop_to_photo(np.zeros((68, 2)), "tihgt")


class TestTransforms:
    @settings(max_examples=40, deadline=None)
    @given(similarities, st.integers(0, 99))
    def test_inverse_brings_points_back(self, parameters, seed):
        matrix = similarity(*parameters)
        points = np.random.default_rng(seed).uniform(0, 500, (9, 2))
        back = transform_points(transform_points(points, matrix), invert(matrix))
        np.testing.assert_allclose(back, points, atol=0.05 + 2e-3 / parameters[1])

    def test_batches(self):
        matrices = np.stack([similarity(0, 2, 1, 0), similarity(90, 1, 0, 0)])
        points = np.array([[[1, 2]], [[1, 2]]])
        np.testing.assert_allclose(
            transform_points(points, matrices), [[[3, 4]], [[-2, 1]]], atol=1e-6
        )


class TestWarp:
    @pytest.mark.parametrize("enlarge", [None, "linear", "cubic"])
    def test_identity_changes_nothing(self, smooth_photo, enlarge):
        photo = smooth_photo(60, 50, blur=0.5)
        same = warp(photo, np.eye(2, 3), (60, 50), enlarge=enlarge)
        np.testing.assert_array_equal(same, photo)

    @settings(max_examples=30, deadline=None)
    @given(
        degrees=st.floats(-180, 180),
        scale=st.floats(0.05, 2),
        enlarge=st.sampled_from([None, "linear", "cubic"]),
    )
    def test_reads_a_ramp_where_the_matrix_points(self, degrees, scale, enlarge):
        y, x = np.mgrid[:50, :60].astype(np.float32)
        turn = similarity(degrees, scale, 0, 0)
        turn[:, 2] = (30, 25) - turn[:, :2] @ [7.5, 5.5]
        result = warp(np.stack([x, y], -1), turn, (16, 12), enlarge=enlarge)
        assert result.shape == (12, 16, 2)
        assert result.dtype == np.float32
        places = np.stack(np.meshgrid(np.arange(16), np.arange(12)), -1) @ turn[:, :2].T
        # OpenCV's cubic kernel bends a ramp a little between pixels.
        tolerance = 0.1 if enlarge == "cubic" else 0.03
        np.testing.assert_allclose(result, places + turn[:, 2], atol=tolerance)

    def test_enlarging_to_full_precision(self):
        ramp = np.arange(8, dtype=np.float32)[None].repeat(8, 0)
        matrix = similarity(0, 1 / 200, 0.5 / 200 - 0.5, 0.5 / 200 - 0.5)

        def steps(enlarge: str) -> np.ndarray:
            row = warp(ramp, matrix, (1600, 10), "replicate", enlarge=enlarge)[5]
            return np.diff(row[2 * 200 : -2 * 200])

        np.testing.assert_allclose(steps("linear"), 1 / 200, atol=2e-4)
        assert (steps("cubic") < 2 / 200).all()  # rounded to 1/32 px there would be jumps of 0.03

    def test_shrinking_averages(self):
        board = np.indices((96, 96)).sum(0) % 2 * 255
        grey = warp(board.astype(np.uint8), similarity(0, 8, 3.5, 3.5), (12, 12))
        np.testing.assert_allclose(grey, 127.5, atol=1)

    def test_borders(self):
        image = np.full((10, 10, 3), 200, np.uint8)
        image[:, 0] = 50
        left = similarity(0, 1, -3, 0)
        assert (warp(image, left, (2, 2), "constant") == 0).all()
        assert (warp(image, left, (2, 2), "replicate") == 50).all()
        assert (warp(image, left, (2, 2), "reflect") == 200).all()

    def test_crop_of_a_face_outside_the_photo(self, smooth_photo):
        photo = smooth_photo(50, 40)
        crop = warp_crop(photo, similarity(10, 1, -500, 900), 32)
        assert crop.shape == (32, 32, 3)
        assert crop.dtype == np.uint8
