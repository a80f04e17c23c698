"""Differentiable backward warping.

Convention: a flow ``(B, 2, h, w)`` is in normalised units: channel 0 is x, channel 1 is y, 2.0 is
the whole width (height), and the output at a place samples the input at *place + flow*. Corners of
the pixel grid are the centres of its outer pixels (``align_corners=True``), so a flow is free of
the size of the tensor it warps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def base_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the identity sampling grid ``(1, 2, height, width)`` in [-1, 1]."""
    y = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    x = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


def at_least_single(x: Tensor) -> Tensor:
    """Return ``x`` as float32 if it is of half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a flow ``(B, 2, h, w)`` to ``(B, 2, *size)``; its units are free of the size."""
    if flow.shape[-2:] == size:
        return flow
    return F.interpolate(flow, size, mode="bilinear", align_corners=True)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample ``x`` ``(B, C, H, W)`` at the places that ``flow`` ``(B, 2, h, w)`` names.

    Bilinear, zero beyond the border. A zero flow returns ``x``. Places are single precision at
    least: the half kind would round them to an eighth of a pixel.
    """
    flow = resize_flow(at_least_single(flow), (x.shape[-2], x.shape[-1]))
    grid = (base_grid(x.shape[-2], x.shape[-1], flow) + flow).permute(0, 2, 3, 1)
    x = x.to(flow.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def inverse_flow(flow: Tensor) -> Tensor:
    """Return one fixed-point step of the inverse of ``flow``: minus the flow, sampled by itself."""
    return -warp(flow, flow).clamp(-1, 1)


def spline_flow(target: Tensor, source: Tensor, size: int, coarse: int = 32) -> Tensor:
    """Return the flow by which a picture with points ``target`` samples one with ``source``.

    A thin-plate spline through the points, the smoothest map that takes each to its partner, with
    a little ridge for points that coincide.

    Args:
        target: ``(B, P, 2)`` in pixels.
        source: ``(B, P, 2)`` in pixels.
        size: Side of both pictures in pixels.
        coarse: Side of the flow; it is smooth.

    Returns:
        ``(B, 2, coarse, coarse)``.
    """
    a, b = (points * (2 / (size - 1)) - 1 for points in (target, source))
    count = a.shape[1]
    plane = torch.cat([torch.ones_like(a[..., :1]), a], -1)  # (B, P, 3)
    matrix = a.new_zeros(len(a), count + 3, count + 3)
    matrix[:, :count, :count] = _plate(a, a) + 1e-4 * torch.eye(count).to(a)
    matrix[:, :count, count:], matrix[:, count:, :count] = plane, plane.mT
    aim = torch.cat([b - a, a.new_zeros(len(a), 3, 2)], 1)
    weight = torch.linalg.solve(matrix, aim)
    grid = base_grid(coarse, coarse, a).flatten(2).mT.expand(len(a), -1, -1)
    moved = _plate(grid, a) @ weight[:, :count] + weight[:, count, None]
    moved = moved + grid @ weight[:, count + 1 :]
    flow: Tensor = moved.mT.reshape(len(a), 2, coarse, coarse)
    return flow


def _plate(a: Tensor, b: Tensor) -> Tensor:
    """Return ``r² log r`` of all distances between ``(B, N, 2)`` and ``(B, P, 2)``."""
    square = (a[:, :, None] - b[:, None]).square().sum(-1)
    return 0.5 * square * square.clamp_min(1e-12).log()
