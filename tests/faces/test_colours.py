from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from mien.faces.colours import to_lab, to_linear, to_srgb, tone_bins, typology_angle


def test_lab_is_that_of_scikit_image() -> None:
    rgb = np.random.default_rng(0).random((1, 8, 8, 3)).astype(np.float32)
    ours = to_lab(torch.from_numpy(rgb).permute(0, 3, 1, 2) * 2 - 1)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), rgb2lab(rgb), atol=0.05)


def test_linear_light_comes_back() -> None:
    x = torch.linspace(-1, 1, 101)
    torch.testing.assert_close(to_srgb(to_linear(x)), x, atol=1e-5, rtol=0)


def test_skin_is_sorted_from_light_to_dark() -> None:
    skins = [(246, 215, 190), (233, 190, 158), (186, 132, 94), (112, 72, 48), (60, 38, 28)]
    images = torch.tensor(skins)[:, :, None, None].expand(-1, 3, 64, 64) / 127.5 - 1
    points = 8 + 48 * torch.rand(5, 68, 2, generator=torch.Generator().manual_seed(0))
    angle = typology_angle(images, points)
    lab = rgb2lab(np.array(skins)[:, None] / 255.0)[:, 0]
    expected = np.degrees(np.arctan((lab[:, 0] - 50) / lab[:, 2]))
    np.testing.assert_allclose(angle.numpy(), expected, atol=0.2)
    bins = tone_bins(angle)
    assert bins.tolist() == [0, 1, 3, 5, 5]


@pytest.mark.parametrize(("angle", "tone"), [(60, 0), (50, 1), (30, 2), (20, 3), (0, 4), (-40, 5)])
def test_bins_have_the_usual_limits(angle: float, tone: int) -> None:
    assert tone_bins(torch.tensor([float(angle)])).item() == tone
