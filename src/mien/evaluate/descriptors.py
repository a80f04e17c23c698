"""Hand-made descriptors over whole batches: HOG and uniform LBP.

They give the numbers of scikit-image (``hog`` with 9 hard bins and L2-Hys blocks of 2x2;
``local_binary_pattern`` with ``nri_uniform``, 8 neighbours, radius 2, up to the order of the
bins), many times faster.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mien.faces.face import Array, Image

_ORIENTATIONS = 9
_NEIGHBOURS = 8
LBP_BINS = 59


def grey(crops: Image) -> Tensor:
    """Return float32 ``(B, S, S)`` luma (ITU-R 601) of ``(B, S, S, 3)`` RGB, 0 to 255."""
    rgb = torch.from_numpy(np.ascontiguousarray(crops)).float()
    return rgb @ torch.tensor([0.299, 0.587, 0.114])


def hog(crops: Image, cell: int = 8) -> Array:
    """Histograms of oriented gradients.

    Args:
        crops: uint8 ``(B, S, S, 3)``; S at least ``2 * cell``.
        cell: Side of a cell in pixels; blocks are 2x2 cells, one cell apart.

    Returns:
        float32 ``(B, (n - 1)² * 4 * 9)`` with n = S // cell.
    """
    image = grey(crops)
    dy, dx = torch.zeros_like(image), torch.zeros_like(image)
    dy[:, 1:-1] = image[:, 2:] - image[:, :-2]
    dx[:, :, 1:-1] = image[:, :, 2:] - image[:, :, :-2]
    magnitude = torch.hypot(dy, dx)
    # Turned into the upper half plane first: a modulo would send 180° minus rounding to bin 8.
    sign = torch.where((dy < 0) | ((dy == 0) & (dx < 0)), -1.0, 1.0)
    angle = torch.atan2(dy * sign, dx * sign)
    bins = (angle * (_ORIENTATIONS / math.pi)).long().clamp_(0, _ORIENTATIONS - 1)
    n = image.shape[1] // cell
    cells = _histograms(bins, magnitude, n, cell, _ORIENTATIONS) / cell**2
    blocks = torch.stack(
        [cells[:, i : n - 1 + i, j : n - 1 + j] for i in (0, 1) for j in (0, 1)], dim=3
    ).flatten(3)
    for limit in (0.2, 1.0):
        blocks = blocks / (blocks.square().sum(-1, keepdim=True) + 1e-10).sqrt()
        blocks = blocks.clamp(max=limit)
    return blocks.flatten(1).numpy()


def lbp(crops: Image, patch: int = 16) -> Array:
    """Histograms of uniform local binary patterns (59 bins, 8 neighbours, radius 2).

    Args:
        crops: uint8 ``(B, S, S, 3)``.
        patch: Side of a patch in pixels (16 at 64 px, 20 at 100 px).

    Returns:
        float32 ``(B, n² * 59)`` with n = S // patch; each histogram sums to one.
    """
    codes = lbp_codes(grey(crops).round())
    n = codes.shape[1] // patch
    counts = _histograms(codes, torch.ones_like(codes, dtype=torch.float32), n, patch, LBP_BINS)
    return (counts / patch**2).flatten(1).numpy()


def lbp_codes(image: Tensor, radius: int = 2) -> Tensor:
    """Return int64 ``(B, S, S)`` codes 0 to 58 of grey ``(B, S, S)``; outside counts as black."""
    size = image.shape[1]
    padded = torch.nn.functional.pad(image, (radius + 1,) * 4)
    pattern = torch.zeros_like(image, dtype=torch.int64)
    for p in range(_NEIGHBOURS):
        y = round(-radius * math.sin(2 * math.pi * p / _NEIGHBOURS), 5)
        x = round(radius * math.cos(2 * math.pi * p / _NEIGHBOURS), 5)
        top, left = math.floor(y), math.floor(x)
        fy, fx = y - top, x - left
        sample = torch.zeros_like(image)
        for oy, wy in ((0, 1 - fy), (1, fy)):
            for ox, wx in ((0, 1 - fx), (1, fx)):
                if wy * wx == 0:
                    continue
                y0, x0 = top + oy + radius + 1, left + ox + radius + 1
                sample += wy * wx * padded[:, y0 : y0 + size, x0 : x0 + size]
        # Grey levels are whole numbers: the tolerance only absorbs rounding on flat skin.
        pattern += (sample - image >= -1e-3).long() << p
    return _uniform_table()[pattern]


def _uniform_table() -> Tensor:
    """Return a code for each of 256 patterns: 58 with at most two changes, one for the rest."""
    table = torch.full((256,), LBP_BINS - 1)
    uniform = [p for p in range(256) if (p ^ (p >> 1 | (p & 1) << 7)).bit_count() <= 2]
    table[uniform] = torch.arange(LBP_BINS - 1)
    return table


def _histograms(bins: Tensor, weights: Tensor, n: int, side: int, count: int) -> Tensor:
    """Sum ``weights`` by bin over n x n squares: ``(B, S, S)`` -> ``(B, n, n, count)``."""
    batch, edge = bins.shape[0], n * side
    square = torch.arange(edge) // side
    place = (square[:, None] * n + square[None, :]) * count
    index = bins[:, :edge, :edge] + place
    index = index + (torch.arange(batch) * (n * n * count))[:, None, None]
    total = torch.bincount(
        index.reshape(-1), weights[:, :edge, :edge].reshape(-1), batch * n * n * count
    )
    return total.reshape(batch, n, n, count).float()
