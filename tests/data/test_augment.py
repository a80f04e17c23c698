import cv2
import numpy as np
import pytest
import torch

from mien.data.augment import (
    MIRROR,
    color_jitter,
    gaussian_blur,
    grayscale,
    horizontal_flip,
    lower_resolution,
    mirror_points,
    noise,
    quadrant_crops,
    random_resized_crop,
    random_similarity,
    sobel,
)
from mien.data.procedural import Parameters, ProceduralFaces
from mien.files.errors import ConfigError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=4, size=32, seed=1):
    return torch.rand(n, 3, size, size, generator=rng(seed)) * 2 - 1


SOMETIMES = {
    "color_jitter": lambda x, g, p: color_jitter(x, g, 0.4, 0.4, 0.4, 0.1, p=p),
    "grayscale": lambda x, g, p: grayscale(x, g, p=p),
    "gaussian_blur": lambda x, g, p: gaussian_blur(x, g, (0.5, 2.0), p=p),
    "sobel": lambda x, g, p: sobel(x, g, p=p),
    "lower_resolution": lambda x, g, p: lower_resolution(x, g, (0.4, 0.6), p=p),
    "noise": lambda x, g, p: noise(x, g, (0.05, 0.1), p=p),
    "horizontal_flip": lambda x, g, p: horizontal_flip(x, g, p=p)[0],
}


@pytest.mark.parametrize("name", SOMETIMES)
def test_p_0_changes_nothing_bit_for_bit_and_p_1_changes_every_image(name):
    x = batch(16)
    assert torch.equal(SOMETIMES[name](x, rng(), 0.0), x)
    changed = SOMETIMES[name](x, rng(), 1.0)
    assert ((changed - x).abs().amax((1, 2, 3)) > 1e-4).all()
    assert changed.abs().max() <= 1 + 1e-5
    assert changed.shape == x.shape


@pytest.mark.parametrize("name", SOMETIMES)
def test_every_image_is_chosen_by_itself_and_the_others_stay_bit_for_bit(name):
    x = batch(64)
    out = SOMETIMES[name](x, rng(3), 0.5)
    same = (out == x).flatten(1).all(1)
    assert 16 <= int(same.sum()) <= 48


@pytest.mark.parametrize("name", SOMETIMES)
def test_a_batch_is_a_function_of_the_generator_and_draws_the_same_number_of_values(name):
    x = batch()
    a, b = rng(5), rng(5)
    assert torch.equal(SOMETIMES[name](x, a, 0.5), SOMETIMES[name](x, b, 0.5))
    c = rng(5)
    SOMETIMES[name](x, c, 0.0)  # how many images change must not move the generator
    assert torch.equal(a.get_state(), c.get_state())


def test_the_input_is_not_written_to():
    for change in SOMETIMES.values():
        x = batch()
        before = x.clone()
        change(x, rng(), 1.0)
        assert torch.equal(x, before)


# --- colours ------------------------------------------------------------------------------------


def test_brightness_alone_scales_towards_black():
    x = batch(8) * 0.5 - 0.4  # stays inside the range
    out = color_jitter(x, rng(), brightness=0.2)
    share = (out + 1) / (x + 1)
    assert torch.allclose(share, share[:, :1, :1, :1].expand_as(share), atol=1e-4)
    factors = share[:, 0, 0, 0]
    assert ((factors > 0.8) & (factors < 1.2)).all()
    assert factors.std() > 0.01


def test_contrast_keeps_the_mean_grey_and_saturation_the_luma():
    x = batch(8) * 0.3
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    out = color_jitter(x, rng(), contrast=0.5)
    assert torch.allclose(
        (out * luma).sum(1).mean((1, 2)), (x * luma).sum(1).mean((1, 2)), atol=1e-5
    )
    out = color_jitter(x, rng(), saturation=0.5)
    assert torch.allclose((out * luma).sum(1), (x * luma).sum(1), atol=1e-5)
    assert not torch.allclose(out, x, atol=1e-3)


def test_hue_keeps_luma_and_grey():
    x = batch(8) * 0.3
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    out = color_jitter(x, rng(), hue=0.5)
    assert torch.allclose((out * luma).sum(1), (x * luma).sum(1), atol=1e-5)
    grey = x[:, :1].expand(-1, 3, -1, -1).contiguous()
    assert torch.allclose(color_jitter(grey, rng(), hue=0.5), grey, atol=1e-5)


def test_jitter_keeps_the_memory_format_and_gives_the_same_colours():
    x = batch()
    last = x.contiguous(memory_format=torch.channels_last)
    a = color_jitter(x, rng(), 0.4, 0.4, 0.4, 0.1)
    b = color_jitter(last, rng(), 0.4, 0.4, 0.4, 0.1)
    assert torch.allclose(a, b, atol=1e-5)
    assert b.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wrong", [{"brightness": -0.1}, {"hue": 0.6}])
def test_impossible_jitter(wrong):
    with pytest.raises(ConfigError, match="Strengths"):
        color_jitter(batch(), rng(), **wrong)


def test_grey_is_the_luma_in_three_channels():
    x = batch()
    out = grayscale(x, rng(), p=1.0)
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for channel in range(3):
        assert torch.allclose(out[:, channel], luma, atol=1e-6)


# --- filters ------------------------------------------------------------------------------------


def test_blur_equals_opencv():
    x = batch(2, 24)
    out = gaussian_blur(x, rng(), sigma=(1.2, 1.2), p=1.0, taps=7)
    for image, blurred in zip(x, out, strict=True):
        expected = cv2.GaussianBlur(
            image.permute(1, 2, 0).numpy(), (7, 7), 1.2, borderType=cv2.BORDER_REFLECT_101
        )
        assert np.allclose(blurred.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_blur_refuses_even_taps():
    with pytest.raises(ConfigError, match="odd number of taps"):
        gaussian_blur(batch(), rng(), taps=6)


def test_sobel_shows_edges_and_nothing_else():
    x = -torch.ones(1, 3, 16, 16)
    x[..., 8:] = 1.0  # one vertical edge
    out = sobel(x, rng(), p=1.0)
    assert (out[:, :, 2:-2, 7:9] > 0.6).all()
    assert (out[:, :, 2:-2, 2:6] < -0.99).all()


def test_noise_has_the_asked_width_and_can_be_shared():
    x = torch.zeros(8, 3, 64, 64)
    out = noise(x, rng(), sigma=(0.05, 0.05), p=1.0)
    assert out.std() == pytest.approx(0.1, rel=0.05)  # a share of [-1, 1]
    shared = noise(x, rng(), sigma=(0.05, 0.05), p=1.0, shared=True)
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert not torch.equal(out[:, 0], out[:, 2])


def test_lower_resolution_removes_what_is_finer():
    fine = torch.ones(1, 1, 32, 32)
    fine[..., ::2] = -1  # stripes of one pixel
    assert lower_resolution(fine, rng(), (0.4, 0.4), p=1.0).abs().max() < 0.15
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(lower_resolution(flat, rng(), (0.4, 0.4), p=1.0), flat, atol=1e-5)
    x = batch()
    assert torch.allclose(lower_resolution(x, rng(), (1.0, 1.0), p=1.0), x, atol=1e-5)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        lower_resolution(x, rng(), (0.0, 1.0))


# --- geometry -----------------------------------------------------------------------------------


def test_mirror_points_twice_is_the_identity():
    points = torch.rand(5, 68, 2, generator=rng()) * 64
    assert torch.allclose(mirror_points(mirror_points(points, 64), 64), points, atol=1e-5)
    assert sorted(MIRROR) == list(range(68))
    assert all(MIRROR[MIRROR[i]] == i for i in range(68))


def test_mirrored_points_lie_on_the_mirrored_picture():
    faces = ProceduralFaces(size=64)
    left = torch.from_numpy(faces.landmarks(Parameters(yaw=20, roll=5), aligned=False))
    right = torch.from_numpy(faces.landmarks(Parameters(yaw=-20, roll=-5), aligned=False))
    assert (mirror_points(left, 64) - right).abs().max() < 1e-3


def test_flip_says_which_images_it_mirrored():
    x = batch(32)
    out, chosen = horizontal_flip(x, rng(), p=0.5)
    assert 0 < int(chosen.sum()) < 32
    for image, before, mirrored in zip(out, x, chosen, strict=True):
        assert torch.equal(image, before.flip(-1) if mirrored else before)


def dots(points, size=64, width=2.0):
    """Pictures with a bright spot at each of the points ``(B, P, 2)``."""
    axis = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    far = (x - points[..., 0, None, None]) ** 2 + (y - points[..., 1, None, None]) ** 2
    return torch.exp(-far / (2 * width**2)).sum(1, keepdim=True)


def centre_of(image):
    """Return the centre of mass (x, y) of pictures ``(B, 1, S, S)``."""
    axis = torch.arange(image.shape[-1], dtype=torch.float32)
    mass = image.sum((1, 2, 3))
    return (
        torch.stack([(image.sum((1, 2)) * axis).sum(-1), (image.sum((1, 3)) * axis).sum(-1)], -1)
        / (mass[:, None])
    )


def test_a_similarity_moves_points_with_the_picture():
    points = 32 + (torch.rand(6, 1, 2, generator=rng(1)) - 0.5) * 20
    image, moved, to_result = random_similarity(
        dots(points),
        rng(2),
        degrees=40,
        scale=(0.8, 1.25),
        shift=0.1,
        points=points,
        border="zeros",
    )
    assert (centre_of(image) - moved[:, 0]).abs().max() < 0.05
    by_matrix = torch.einsum("bij,bpj->bpi", to_result[:, :, :2], points) + to_result[:, None, :, 2]
    assert torch.allclose(by_matrix, moved, atol=1e-4)
    assert (moved - points).abs().max() > 2


def test_a_positive_turn_is_clockwise_and_nothing_asked_is_nothing_done():
    x = batch(4)
    same, points, matrix = random_similarity(x, rng())
    assert torch.allclose(same, x, atol=1e-5)
    assert points is None
    assert torch.allclose(matrix, torch.eye(2, 3).expand(4, 2, 3), atol=1e-6)
    _, _, matrix = random_similarity(x, rng(), degrees=30)
    turned = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert turned.abs().max() <= 30
    right = torch.tensor([[[28.0, 15.5]]]).expand(4, 1, 2)  # right of the centre
    _, moved, _ = random_similarity(x, rng(), degrees=30, points=right)
    assert torch.equal(moved[:, 0, 1] > 15.5, turned > 0)  # y points down


def test_resized_crop_of_everything_is_the_image():
    x = batch()
    out = random_resized_crop(x, rng(), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.allclose(out, x, atol=1e-5)


def test_resized_crop_enlarges_the_share_it_cuts():
    ramp = torch.linspace(-1, 1, 64).expand(16, 1, 64, 64)
    out = random_resized_crop(ramp, rng(), scale=(0.25, 0.25), ratio=(1.0, 1.0))
    width = out[..., -1].mean((1, 2)) - out[..., 0].mean((1, 2))
    assert torch.allclose(width, torch.full((16,), 1.0), atol=0.05)  # half of the ramp
    assert (out[..., 0].mean((1, 2))).std() > 0.1  # at different places


def test_quadrant_crops_come_from_two_different_quadrants_of_24_pixels():
    n, size = 200, 64
    position = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(position, position, indexing="ij")
    where = torch.stack([x, y])[None].expand(n, 2, size, size)
    crops = quadrant_crops(where.contiguous(), rng())
    corners = []
    for crop in crops:
        assert crop.shape == (n, 2, size, size)
        low, high = crop.amin((2, 3)), crop.amax((2, 3))
        assert torch.allclose(high - low, torch.full((n, 2), 23.0), atol=1e-3)  # 24 x 24 pixels
        assert torch.equal((low / 32).floor(), (high / 32).floor())  # inside one quadrant
        assert ((low % 32) <= 8).all()
        corners.append((low / 32).floor())
        assert len(torch.unique(low % 32, dim=0)) > 40  # at all places in it
    assert (corners[0] != corners[1]).any(1).all()
    pairs = torch.unique(torch.cat(corners, 1), dim=0)
    assert len(pairs) == 12  # every ordered pair of quadrants


def test_the_second_quadrant_crop_may_be_of_another_picture():
    x = batch()
    alone = quadrant_crops(x, rng())
    first, second = quadrant_crops(x, rng(), second=-x)
    assert first.equal(alone[0])
    torch.testing.assert_close(second, -alone[1])


def test_quadrant_crops_refuse_more_than_a_quadrant():
    with pytest.raises(ConfigError, match=r"between 0 and 0\.25"):
        quadrant_crops(batch(), rng(), share=0.3)
