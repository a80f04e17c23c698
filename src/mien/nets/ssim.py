"""Structural similarity (Wang et al., 2004) on batches."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mien.data.warp import at_least_single

_WINDOW, _SIGMA = 11, 1.5


@lru_cache(maxsize=8)
def _blur_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(size, size)``: an 11-tap Gaussian along a line of pixels, zeros beyond its ends."""
    x = torch.arange(size, dtype=dtype, device=device)
    distance = x[:, None] - x
    line = torch.exp(-((torch.arange(_WINDOW) - _WINDOW // 2).double() ** 2) / (2 * _SIGMA**2))
    weight = torch.exp(-(distance**2) / (2 * _SIGMA**2)) / line.sum().item()
    return torch.where(distance.abs() <= _WINDOW // 2, weight, 0.0)


def _blur(x: Tensor) -> Tensor:
    """Blur ``(..., H, W)``. Two small matrix products are faster than 1-channel convolutions."""
    rows = _blur_matrix(x.shape[-2], x.dtype, x.device)
    columns = _blur_matrix(x.shape[-1], x.dtype, x.device)
    return rows @ (x @ columns)


def ssim(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the mean SSIM of each image.

    Args:
        x: ``(B, C, H, W)``.
        y: ``(kB, C, H, W)``, k pictures to compare with each of ``x``, in k blocks.
        data_range: Largest minus smallest possible value; C1 = (0.01 L)², C2 = (0.03 L)².

    Returns:
        ``(kB,)``.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    x = at_least_single(x).contiguous()
    y = at_least_single(y).contiguous().view(-1, *x.shape)  # (k, B, C, H, W)
    with torch.autocast(x.device.type, enabled=False):  # variances are differences of near equals
        mx, xx = _blur(torch.stack([x, x * x]))
        my, yy, xy = _blur(torch.stack([y, y * y, x * y]))
    square, product = mx * mx + my * my, mx * my
    value = (2 * product + c1) * (2 * (xy - product) + c2)
    value = value / ((square + c1) * (xx + yy - square + c2))
    means: Tensor = value.mean((2, 3, 4)).flatten()
    return means
