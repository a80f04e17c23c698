"""The losses of PairedCycleGAN by the paper's names, in float32, and terms of later methods.

L_G, L_F and L_P are ``generator_loss`` and ``discriminator_loss`` of ``mien.nets.adversarial``.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 256


def l_i(back: Tensor, x: Tensor) -> Tensor:
    """L_I: ‖F(G(x, y)) - x‖_1, make-up put on and removed; the mean over pixels."""
    return (back - x).abs().mean()


def l_s(back: Tensor, y: Tensor) -> Tensor:
    """L_S: ‖G(F(y), G(x, y)) - y‖_1, the make-up carried there and back; the mean over pixels."""
    return (back - y).abs().mean()


def l_r(applied: Tensor, x: Tensor) -> Tensor:
    """L_R: ‖G(x, y) - x‖_1, so that a residual is no larger than it must be."""
    return (applied - x).abs().mean()


def masked_l1(a: Tensor, b: Tensor, mask: Tensor, rows: Tensor | None = None) -> Tensor:
    """‖a - b‖_1 where the mask is, per pixel of the mask.

    Args:
        a: ``(B, 3, S, S)``.
        b: ``(B, 3, S, S)``.
        mask: ``(B, 1, S, S)`` in [0, 1].
        rows: ``(B,)``, 1 for the rows that count; all if None. 0 if none counts.
    """
    weight = mask if rows is None else mask * rows[:, None, None, None]
    return ((a - b).abs() * weight).sum() / (3 * weight.sum()).clamp_min(1.0)


def histogram_loss(applied: Tensor, y: Tensor, mask: Tensor, y_mask: Tensor) -> Tensor:
    """BeautyGAN's make-up loss: L1 to the picture itself, remapped to the reference's histogram.

    The mean over all pixels, so it counts as its region is large (Li et al., *BeautyGAN*, 2018).

    Args:
        applied: G(x, y) ``(B, 3, S, S)`` in [-1, 1].
        y: The reference.
        mask: ``(B, 1, S, S)`` of the region in G(x, y).
        y_mask: ``(B, 1, S, S)`` of the region in y.
    """
    matched = match_histogram(applied.detach(), y, mask, y_mask)
    return ((applied - matched).abs() * mask).mean()


@torch.no_grad()
def match_histogram(x: Tensor, y: Tensor, mask: Tensor, y_mask: Tensor) -> Tensor:
    """Remap each channel of x so that its distribution in the mask is that of y in its own.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1].
        y: ``(B, 3, h, w)`` in [-1, 1].
        mask: ``(B, 1, H, W)`` in [0, 1], how much a pixel of x counts.
        y_mask: ``(B, 1, h, w)`` in [0, 1].

    Returns:
        ``(B, 3, H, W)`` in [-1, 1], in steps of 2 / 255. Where a mask is empty, x.
    """
    levels, source = _distribution(x, mask)
    _, target = _distribution(y, y_mask)
    # The lowest level of y below which as much lies as below that of x.
    middle = (
        source - (source - torch.cat([torch.zeros_like(source[..., :1]), source[..., :-1]], -1)) / 2
    )
    table = torch.searchsorted(target, middle).clamp_(max=_LEVELS - 1)
    matched = table.gather(2, levels).view_as(x).to(x.dtype) / 127.5 - 1
    empty = (mask.sum((1, 2, 3)) < 1) | (y_mask.sum((1, 2, 3)) < 1)
    return torch.where(empty[:, None, None, None], x, matched)


def _distribution(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return levels ``(B, 3, N)`` int64 and the cumulative shares ``(B, 3, 256)``."""
    levels = ((x.float() + 1) * 127.5).round().clamp(0, _LEVELS - 1).long().flatten(2)
    weight = mask.float().expand_as(x).flatten(2)
    counts = x.new_zeros(*x.shape[:2], _LEVELS, dtype=torch.float32)
    total = counts.scatter_add_(2, levels, weight).cumsum(2)
    return levels, total / total[..., -1:].clamp_min(1e-6)
