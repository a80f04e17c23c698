from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.data.augment import mirror_points
from mien.data.procedural import Parameters, ProceduralFaces
from mien.faces.align import warp
from mien.faces.regions import (
    CROPS,
    LEFT_EYE,
    REGIONS,
    crop_matrices,
    cut,
    depth,
    nearness,
    parsing_masks,
    region_masks,
    to_crop_points,
)

SIZE = 112


@pytest.fixture(scope="module")
def faces() -> tuple[torch.Tensor, torch.Tensor]:
    """Three drawn faces in [-1, 1] and their landmarks."""
    artist = ProceduralFaces(size=SIZE)
    drawn = [
        artist.draw(Parameters(artist.identity(i), yaw=y)) for i, y in ((0, 0), (1, 20), (2, -25))
    ]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1, torch.from_numpy(np.stack([at for _, at in drawn]))


def _at(masks: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    x, y = place.round().long().unbind(-1)
    return masks[torch.arange(len(masks)), :, y, x]


def test_depth_is_the_distance_to_the_rim() -> None:
    square = torch.tensor([[[10.0, 10.0], [30.0, 10.0], [30.0, 26.0], [10.0, 26.0]]])
    found = depth(square, (40, 48))
    assert found.shape == (1, 1, 40, 48)
    assert found[0, 0, 18, 14] == pytest.approx(4, abs=1e-4)
    assert found[0, 0, 18, 37] == pytest.approx(-7, abs=1e-4)
    assert found[0, 0, 6, 7] == pytest.approx(-5, abs=1e-4)


def test_large_pictures_have_the_same_distances() -> None:
    square = torch.tensor([[[100.0, 100.0], [700.0, 100.0], [700.0, 500.0], [100.0, 500.0]]])
    found = depth(square, (700, 900))
    assert found[0, 0, 300, 150] == pytest.approx(50, abs=0.5)
    line = torch.tensor([[[100.0, 100.0], [700.0, 100.0]]])
    assert nearness(line, (700, 900))[0, 0, 180, 400] == pytest.approx(-80, abs=0.5)


def test_masks_are_where_the_regions_are(faces: tuple[torch.Tensor, ...]) -> None:
    _, points = faces
    masks = region_masks(points, SIZE)
    assert masks.shape == (3, len(REGIONS), SIZE, SIZE)
    assert masks.min() >= 0
    assert masks.sum(1).max() <= 1 + 1e-5
    lips, eyes, skin = range(3)
    upper_lip = points[:, [51, 62]].mean(1)
    assert (_at(masks, upper_lip)[:, lips] > 0.5).all()
    assert (_at(masks, points[:, LEFT_EYE].mean(1)).amax(1) < 0.05).all(), "nothing on eyeballs"
    lid = points[:, [37, 38, 19, 20]].mean(1)
    assert (_at(masks, lid)[:, eyes] > 0.5).all()
    assert (_at(masks, points[:, 30])[:, skin] > 0.9).all()
    assert masks[..., :6, :].max() < 0.05, "not above the face"


def test_masks_of_a_mirrored_face_are_mirrored(faces: tuple[torch.Tensor, ...]) -> None:
    _, points = faces
    mirrored = region_masks(mirror_points(points, SIZE), SIZE)
    torch.testing.assert_close(mirrored, region_masks(points, SIZE).flip(-1), atol=2e-3, rtol=0)


def test_what_is_not_skin_fades_out_of_the_skin(faces: tuple[torch.Tensor, ...]) -> None:
    images, points = faces
    covered = images.clone()
    covered[..., 75:82, 40:50] = torch.tensor([-0.9, -0.2, 0.6])[:, None, None]
    masks = region_masks(points, SIZE, covered)
    assert (masks[:, 2, 77:80, 43:47] < 0.05).all()
    assert (_at(masks, points[:, 29])[:, 2] > 0.9).all()


def test_crops_show_their_region_and_come_back(faces: tuple[torch.Tensor, ...]) -> None:
    images, points = faces
    matrices = crop_matrices(points, 64)
    assert matrices.shape == (3, len(CROPS), 2, 3)
    for k, seen in enumerate((slice(48, 68), slice(36, 42), slice(42, 48), slice(17, 68))):
        inside = to_crop_points(points[:, seen], matrices[:, k])
        assert inside.min() > 0
        assert inside.max() < 63
        back = inside @ matrices[:, k, :, :2].mT + matrices[:, k, None, :, 2]
        torch.testing.assert_close(back, points[:, seen], atol=1e-3, rtol=0)
    flipped = crop_matrices(mirror_points(points, SIZE), 64)
    left = cut(images, matrices[:, 1], 64)
    right = cut(images.flip(-1), flipped[:, 2], 64)
    torch.testing.assert_close(left, right, atol=1e-3, rtol=0)


def test_cutting_is_what_the_warp_of_a_photo_gives(faces: tuple[torch.Tensor, ...]) -> None:
    images, points = faces
    for k, size in ((0, 64), (2, 64), (3, 40)):
        matrix = crop_matrices(points, size)[:, k]
        ours = cut(images, matrix, size)[1].permute(1, 2, 0).numpy()
        photo = images[1].permute(1, 2, 0).contiguous().numpy()
        theirs = warp(photo, matrix[1].numpy(), (size, size), "replicate")
        assert np.abs(ours - theirs).mean() < 0.01


def test_parsing_maps_decide_where_there_are_some(faces: tuple[torch.Tensor, ...]) -> None:
    _, points = faces
    labels = torch.ones(3, SIZE, SIZE, dtype=torch.uint8)
    labels[:, 85:95, 40:70] = 9
    labels[:, :30] = 10
    masks = parsing_masks(labels, points)
    assert (masks[:, 0, 86:94, 42:68] == 1).all()
    assert masks[:, :, :30].max() == 0
    assert masks.sum(1).max() <= 1 + 1e-5
    assert (_at(masks, points[:, [37, 38, 19, 20]].mean(1))[:, 1] > 0.3).all()
