from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mien.data.transplant import fill_polygon, transplant

SIZE = 64


def test_polygons_are_filled_as_opencv_fills_them() -> None:
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, (6, 9)), 1)
    corners = 32 + 22 * np.stack([np.cos(angle), np.sin(angle)], -1)
    ours = fill_polygon(torch.from_numpy(corners).float(), SIZE)[:, 0].numpy()
    for share, points in zip(ours, corners, strict=True):
        drawn = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(drawn, [np.round(points * 256).astype(np.int32)], 255, cv2.LINE_8, 8)
        drawn = cv2.GaussianBlur(drawn.astype(np.float32) / 255, (5, 5), 0.7)
        assert np.abs(share - drawn).mean() < 0.03
    assert ours.min() >= 0
    assert ours.max() <= 1 + 1e-5


def test_a_polygon_without_area_is_empty() -> None:
    line = torch.tensor([[[10.0, 20.0], [30.0, 20.0], [50.0, 20.0]]])
    assert fill_polygon(line, SIZE).max() == 0


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A calm face and one whose lips are apart, with their landmarks."""
    points = torch.zeros(2, 68, 2)
    ring = torch.arange(68) * (2 * torch.pi / 68)
    points[..., 0], points[..., 1] = 32 + 20 * ring.cos(), 30 + 20 * ring.sin()
    points[:, 36], points[:, 45] = torch.tensor([20.0, 25.0]), torch.tensor([44.0, 25.0])
    around = torch.arange(8) * (2 * torch.pi / 8) + torch.pi
    lips = torch.stack([32 + 8 * around.cos(), 46 + 0.2 * around.sin()], -1)
    points[0, 60:68] = lips
    points[1, 60:68] = torch.stack([32 + 8 * around.cos(), 46 + 5 * around.sin()], -1)
    faces = torch.zeros(2, 3, SIZE, SIZE)
    faces[1, :, 41:52, 22:43] = 0.9  # what shows between the lips
    return faces[:1], points[:1], faces[1:], points[1:]


def test_what_shows_between_the_lips_is_taken_over(pair: tuple[torch.Tensor, ...]) -> None:
    face, points, donor, donor_points = pair
    image, moved = transplant(face, points, donor, donor_points, donor_points - points)
    torch.testing.assert_close(moved, donor_points)
    assert image[0, :, 46, 32].mean() > 0.3, "between the moved lips"
    assert image[0, :, :30].abs().max() < 1e-5, "nothing else changes"
    assert image.abs().max() <= 1


def test_closed_lips_show_nothing(pair: tuple[torch.Tensor, ...]) -> None:
    face, points, donor, _ = pair
    image, moved = transplant(face, points, donor, points, torch.zeros_like(points))
    torch.testing.assert_close(moved, points)
    torch.testing.assert_close(image, face, atol=1e-4, rtol=0)
