from __future__ import annotations

import colorsys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.data.makeup_artist import MakeupParameters, draw_parameters, paint, paint_photo
from mien.data.procedural import Parameters, ProceduralFaces
from mien.faces.regions import region_masks
from mien.files.errors import ConfigError, FaceError

SIZE = 112
Faces = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Four drawn faces from light to dark skin in [-1, 1], and their landmarks."""
    artist = ProceduralFaces(size=SIZE)
    skins = ((246, 215, 190), (214, 164, 126), (150, 100, 68), (78, 50, 36))
    drawn = [
        artist.draw(Parameters(replace(artist.identity(i), skin=skin)))
        for i, skin in enumerate(skins)
    ]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1, torch.from_numpy(np.stack([at for _, at in drawn]))


def _worn(seed: int = 0, batch: int = 4, **fixed: Tensor) -> MakeupParameters:
    generator = torch.Generator().manual_seed(seed)
    return replace(draw_parameters(batch, generator, always=True), **fixed)


def _mean(images: Tensor, mask: Tensor) -> Tensor:
    return (images * mask).sum((2, 3)) / mask.sum((2, 3))


def test_what_is_not_painted_stays_bit_for_bit(faces: Faces) -> None:
    images, points = faces
    painted, cover = paint(images, points, _worn())
    bare = (cover.amax(1, keepdim=True) == 0).expand_as(images)
    assert bare.float().mean() > 0.2
    assert torch.equal(painted[bare], images[bare])
    assert (painted - images).abs().mean((1, 2, 3)).min() > 0.004
    assert cover.min() >= 0
    assert cover.max() <= 1
    assert painted.abs().max() <= 1


def test_nothing_worn_changes_nothing(faces: Faces) -> None:
    images, points = faces
    painted, cover = paint(images, points, _worn().only())
    assert torch.equal(painted, images)
    assert not cover.any()


@pytest.mark.parametrize("region", range(3))
def test_a_region_alone_is_painted_alone(faces: Faces, region: int) -> None:
    images, points = faces
    name = ("lips", "eyes", "skin")[region]
    painted, cover = paint(images, points, _worn(), (name,))
    assert cover[:, region].amax((1, 2)).min() > 0.1
    assert not np.delete(cover.numpy(), region, 1).any()
    other = paint(images, points, _worn().only(name))[0]
    torch.testing.assert_close(painted, other)


def test_opaque_lips_have_the_colour_that_was_chosen(faces: Faces) -> None:
    images, points = faces
    hues = []
    for colour in ((0.7, 0.1, 0.2), (0.2, 0.2, 0.7)):
        worn = _worn(
            lip_colour=torch.tensor(colour).expand(4, 3), lip_opacity=torch.ones(4),
            lip_gloss=torch.zeros(4),
        )  # fmt: skip
        painted, cover = paint(images, points, worn, ("lips",))
        mean = (_mean(painted, (cover[:, :1] > 0.9).float()) + 1) / 2
        hues.append([colorsys.rgb_to_hsv(*rgb)[0] for rgb in mean.tolist()])
        aim = colorsys.rgb_to_hsv(*colour)[0]
        assert np.abs((np.array(hues[-1]) - aim + 0.5) % 1 - 0.5).max() < 0.03, "on every skin"


def test_paint_keeps_the_shading(faces: Faces) -> None:
    images, points = faces
    ramp = torch.linspace(0.55, 1, SIZE)
    lit = (images + 1) * ramp - 1
    painted, cover = paint(lit, points, _worn(lip_opacity=torch.ones(4)), ("lips",))
    on = cover[:, 0] > 0.9
    half = torch.arange(SIZE) < points[:, 51, 0, None].round()
    for k in range(4):
        left = painted[k].mean(0)[on[k] & half[k]].mean()
        right = painted[k].mean(0)[on[k] & ~half[k]].mean()
        assert right > left + 0.02, "the side in the shade stays darker"


def test_foundation_favours_no_direction() -> None:
    gain = draw_parameters(4000, torch.Generator().manual_seed(0)).foundation_gain.log()
    assert gain.mean().abs() < 0.01


def test_larger_pictures_get_the_same_make_up(faces: Faces) -> None:
    images, points = faces
    small, _ = paint(images, points, _worn(3))
    big_images = torch.nn.functional.interpolate(images, scale_factor=4, mode="bilinear")
    big, _ = paint(big_images, (points + 0.5) * 4 - 0.5, _worn(3))
    change = torch.nn.functional.avg_pool2d(big - big_images, 4)
    assert (change - (small - images)).abs().mean() < 0.25 * (small - images).abs().mean()


def test_drawing_is_a_function_of_the_generator() -> None:
    first, second = (draw_parameters(8, torch.Generator().manual_seed(5)) for _ in range(2))
    other = draw_parameters(8, torch.Generator().manual_seed(6))
    for field in fields(MakeupParameters):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))
    assert not torch.equal(first.lip_colour, other.lip_colour)


def test_colours_of_the_test_are_never_trained_on() -> None:
    places = {}
    for name in ("train", "test"):
        worn = draw_parameters(3000, torch.Generator().manual_seed(1), name)
        colours = torch.cat([worn.lip_colour, worn.shadow_colour, worn.blush_colour])
        hue = np.array([colorsys.rgb_to_hsv(*rgb)[0] * 360 for rgb in colours.tolist()])
        places[name] = hue % 40
    inside = (places["test"] > 27.9) & (places["test"] < 39.3)
    assert inside.all()
    assert not ((places["train"] > 26.5) & (places["train"] < 39.9)).any()
    with pytest.raises(ConfigError, match="train or test"):
        draw_parameters(1, torch.Generator(), "val")  # type: ignore[arg-type]


def test_paint_lies_in_its_region(faces: Faces) -> None:
    images, points = faces
    _, cover = paint(images, points, _worn())
    masks = region_masks(points, SIZE)
    assert (cover[:, :1] * (1 - masks[:, :1])).sum() < 0.1 * cover[:, :1].sum()
    near_eyes = masks[:, 1:2] + masks[:, 2:3]
    assert (cover[:, 1:2] * (near_eyes < 0.05)).sum() < 0.15 * cover[:, 1:2].sum()


def test_a_photo_is_painted_at_its_resolution(faces: Faces) -> None:
    images, points = faces
    photo = np.full((300, 400, 3), 90, np.uint8)
    face = ((images[1] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    photo[100:212, 200:312] = face
    place = points[1].numpy() + np.float32([200, 100])
    painted, masks = paint_photo(photo, place, _worn()[[1]])
    assert painted.shape == photo.shape
    assert masks.shape == photo.shape
    assert (painted[:, :150] == photo[:, :150]).all()
    changed = (painted != photo).any(2)
    assert changed.sum() > 500
    assert not (changed & (masks.max(2) == 0)).any()
    with pytest.raises(FaceError, match="outside"):
        paint_photo(photo, place + 1000, _worn()[[1]])


def test_numbers_that_differ_are_refused(faces: Faces) -> None:
    images, points = faces
    with pytest.raises(ConfigError, match="do not belong together"):
        paint(images, points, _worn(batch=2))
    with pytest.raises(ConfigError, match="No region named"):
        _worn().only("hair")
