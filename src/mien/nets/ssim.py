"""Structural similarity (Wang et al., 2004) on batches."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5


@lru_cache(maxsize=8)
def _kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.arange(_WINDOW, dtype=dtype, device=device) - _WINDOW // 2
    g = torch.exp(-(x**2) / (2 * _SIGMA**2))
    return g / g.sum()


def _blur(x: Tensor) -> Tensor:
    """Blur by an 11-tap Gaussian, zero padding, separably: two 1-D passes of one channel each."""
    b, c, h, w = x.shape
    k = _kernel(x.dtype, x.device)
    x = x.reshape(b * c, 1, h, w)
    x = F.conv2d(x, k.view(1, 1, 1, -1), padding=(0, _WINDOW // 2))
    return F.conv2d(x, k.view(1, 1, -1, 1), padding=(_WINDOW // 2, 0)).view(b, c, h, w)


def ssim(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the mean SSIM of each image ``(B,)``.

    Args:
        x: ``(B, C, H, W)``.
        y: The same shape.
        data_range: Largest minus smallest possible value; C1 = (0.01 L)², C2 = (0.03 L)².
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y], 1)).chunk(5, 1)
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    value = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3))
