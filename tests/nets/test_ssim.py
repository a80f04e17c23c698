import torch
from torch.nn import functional as F

from mien.nets.ssim import ssim


def windowed_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The definition, with an 11x11 window (σ = 1.5) and zero padding."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    line = line / line.sum()
    window = (line[:, None] * line).expand(x.shape[1], 1, 11, 11)

    def blur(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(z, window, padding=5, groups=z.shape[1])

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    value = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    return (value / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean((1, 2, 3))


def test_equals_the_definition_for_several_pictures_of_each_image():
    x, y = torch.rand(3, 3, 40, 56), torch.rand(6, 3, 40, 56)
    expected = torch.cat([windowed_ssim(x, y[:3]), windowed_ssim(x, y[3:])])
    torch.testing.assert_close(ssim(x, y), expected, atol=1e-5, rtol=1e-5)


def test_of_an_image_with_itself_is_one():
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))


def test_memory_format_does_not_matter():
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    last = torch.channels_last
    torch.testing.assert_close(
        ssim(x.contiguous(memory_format=last), y.contiguous(memory_format=last)), ssim(x, y)
    )
