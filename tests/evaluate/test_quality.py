from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.evaluate.quality import NO_JAW, by_yaw, l1, landmark_change, nme, psnr, ssim, symmetry
from mien.files.errors import ConfigError


def _images(n: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_images() -> None:
    x = _images()
    assert l1(x, x).tolist() == [0, 0, 0]
    assert torch.isinf(psnr(x, x)).all()
    assert torch.allclose(ssim(x, x), torch.ones(3))


def test_units() -> None:
    x = torch.full((1, 3, 8, 8), -0.5)
    y = x + 0.2  # a tenth of the range
    assert l1(x, y).item() == pytest.approx(0.1)
    assert psnr(x, y).item() == pytest.approx(20, abs=1e-3)
    assert l1(x, x - 9).item() == pytest.approx(0.25)  # clipped to black


def test_ssim_is_scikit_images_() -> None:
    from skimage.metrics import structural_similarity

    x = torch.nn.functional.avg_pool2d(_images(1, 68), 5, 1)
    y = (x + 0.3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    # Black frames are alike in both, and scikit-image leaves out the outermost 5 pixels.
    x, y = (torch.nn.functional.pad(v, (18,) * 4, value=-1) for v in (x, y))
    theirs = structural_similarity(
        *((v[0].numpy() + 1) / 2 for v in (x, y)),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert theirs < 0.95
    assert ssim(x, y).item() == pytest.approx(1 + (theirs - 1) * 90**2 / 100**2, abs=1e-3)


@pytest.mark.parametrize("side", [8, 9])
def test_symmetry(side: int) -> None:
    x = _images(2, side)
    assert symmetry((x + x.flip(-1)) / 2).abs().max().item() == pytest.approx(0, abs=1e-6)
    half = torch.full((1, 3, 8, 8), -1.0)
    half[..., 4:] = 1
    assert symmetry(half).item() == 1
    assert (symmetry(x) > 0.1).all()


def _points(n: int = 4) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(n, 68, 2)) * 20
    points[:, 36], points[:, 45] = (0, 0), (30, 40)  # 50 apart
    return points


def test_nme_is_over_the_outer_eye_corners() -> None:
    true = _points()
    assert nme(true + np.array([3, 4]), true) == pytest.approx([0.1] * 4)
    assert nme(true, true).tolist() == [0] * 4
    jaw = true.copy()
    jaw[:, :17] += [30, 40]
    assert nme(jaw, true) == pytest.approx([17 / 68] * 4)
    assert nme(jaw, true, NO_JAW).tolist() == [0] * 4
    size = np.sqrt(np.ptp(true, axis=1).prod(1))
    assert nme(true + np.array([3, 4]), true, over="box") == pytest.approx(5 / size)
    assert landmark_change(true, true + np.array([0, 5])) == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("shape", [(3, 68, 2), (4, 5, 2), (4, 68, 3)])
def test_nme_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="N, 68, 2"):
        nme(np.zeros(shape), _points())


def test_by_yaw() -> None:
    yaw = np.array([0, -14.9, 15, -29, 30, 80, np.nan])
    found = by_yaw(yaw, {"error": np.arange(7.0)})
    assert {k: v["n"] for k, v in found.items()} == {"all": 7, "0-15": 2, "15-30": 2, "30-": 2}
    assert found["0-15"]["error"] == 0.5
    assert found["30-"]["error"] == 4.5
    assert found["all"]["error"] == 3
    empty = by_yaw(np.zeros(2), {"error": np.ones(2)})
    assert np.isnan(empty["30-"]["error"])
