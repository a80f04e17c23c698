"""Expressions put on photos of neutral faces: a photo before and after, where nobody took both.

The landmarks of a neutral face are moved as another face's expression moved that face's own, and
what shows between the other face's lips is shown between the moved lips. The photo itself is the
exact neutral twin of the result, so that a network learns on photos, not on renders alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.pairs import warp_points

INNER_LIPS = slice(60, 68)
_GAP = 0.04  # of inter-ocular distances between the lips; less shows nothing
_SOFT = 0.7  # pixels over which the rim of the lips fades


def transplant(
    faces: Tensor, points: Tensor, donors: Tensor, donor_points: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Put expressions on neutral faces.

    Args:
        faces: Neutral faces ``(B, 3, S, S)`` in [-1, 1].
        points: Their landmarks ``(B, 68, 2)`` in pixels.
        donors: Faces with an expression, ``(B, 3, S, S)``.
        donor_points: Their landmarks.
        shift: ``(B, 68, 2)`` in pixels, how the expression moved the landmarks of the donor.

    Returns:
        The faces with the expression ``(B, 3, S, S)`` in [-1, 1], and their landmarks.
    """
    moved = points + shift
    result = warp_points(faces, points, shift)
    lips, source = moved[:, INNER_LIPS], donor_points[:, INNER_LIPS]
    inside = F.grid_sample(
        donors, _affine_grid(lips, source, faces.shape[-1]), padding_mode="border",
        align_corners=True,
    )  # fmt: skip
    inside = _as_bright(inside, donors, faces)
    eyes = (moved[:, 36] - moved[:, 45]).norm(dim=-1)
    open_ = (lips[:, 2] - lips[:, 6]).norm(dim=-1) > _GAP * eyes
    mask = fill_polygon(lips, faces.shape[-1]) * open_[:, None, None, None]
    return torch.lerp(result, inside, mask), moved


def fill_polygon(corners: Tensor, size: int) -> Tensor:
    """Return what share of each pixel lies in polygons: ``(B, K, 2)`` pixels → ``(B, 1, S, S)``.

    Even-odd rule on a grid of half pixels, softened over the rim.
    """
    fine = (torch.arange(2 * size) - 0.5) / 2
    a, b = corners[:, None], corners.roll(-1, 1)[:, None]  # (B, 1, K, 2)
    y = fine[:, None]
    rise = b[..., 1] - a[..., 1]
    crosses = (a[..., 1] > y) != (b[..., 1] > y)  # (B, 2S, K): edges that a row meets
    at = a[..., 0] + (y - a[..., 1]) / torch.where(rise == 0, torch.ones_like(rise), rise) * (
        b[..., 0] - a[..., 0]
    )
    # Of each row, how many edges lie right of each place: counted where they are met, summed up.
    met = torch.zeros(len(corners), 2 * size, 2 * size + 1)
    met.scatter_add_(2, torch.searchsorted(fine, at.contiguous()), crosses.float())
    right = met.flip(2).cumsum(2).flip(2)[:, :, 1:]
    inside = (right % 2)[:, None]
    share = F.avg_pool2d(inside, 2)
    d = torch.arange(-2, 3)
    kernel = torch.exp(-0.5 * (d / _SOFT) ** 2)
    kernel = kernel / kernel.sum()
    share = F.conv2d(F.pad(share, (2, 2, 0, 0)), kernel.view(1, 1, 1, 5))
    return F.conv2d(F.pad(share, (0, 0, 2, 2)), kernel.view(1, 1, 5, 1))


def _affine_grid(target: Tensor, source: Tensor, size: int) -> Tensor:
    """Return the sampling grid ``(B, S, S, 2)`` of the affine map that best takes target to source.

    Least squares over the points ``(B, K, 2)``, with a little ridge for closed lips.
    """
    centre, origin = target.mean(1, keepdim=True), source.mean(1, keepdim=True)
    t, s = target - centre, source - origin
    ridge = 0.5 * torch.eye(2)
    linear = torch.linalg.solve(t.mT @ t + ridge, t.mT @ s + ridge)  # (B, 2, 2), rows times it
    line = torch.arange(size, dtype=target.dtype)
    pixels = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(1, -1, 2)
    where = (pixels - centre) @ linear + origin
    grid: Tensor = (where * (2 / (size - 1)) - 1).view(-1, size, size, 2)
    return grid


def _as_bright(inside: Tensor, donors: Tensor, faces: Tensor) -> Tensor:
    """Scale what is taken from the donors by how bright the faces are beside them."""
    middle = slice(donors.shape[-1] // 4, -donors.shape[-1] // 4)
    light = [(x[..., middle, middle] + 1).mean((1, 2, 3), keepdim=True) for x in (faces, donors)]
    gain = (light[0] / light[1].clamp_min(0.05)).clamp(0.5, 2)
    return ((inside + 1) * gain - 1).clamp(-1, 1)
