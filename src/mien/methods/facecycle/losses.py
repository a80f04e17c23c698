"""The losses of FaceCycle. Images here are ImageNet-normalised, as in the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from mien.data.warp import at_least_single, base_grid
from mien.nets.ssim import ssim

# Eyes, nose tip, mouth corners and lips of a ``tight`` crop, in the units of a flow: x, y.
_FEATURES = (
    *((-0.32, -0.07), (0.32, -0.07), (0.0, 0.29), (-0.26, 0.66), (0.26, 0.66)),
    *((0.0, 0.58), (0.0, 0.76), (-0.32, -0.3), (0.32, -0.3)),
)
_REACH = 0.18


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error."""
    return (a - b).abs().mean()


def symmetry(y: Tensor) -> Tensor:
    """Sym(y): mean difference of the left half and the mirrored right half of ``(B, C, H, W)``."""
    half = y.shape[-1] // 2
    return (y[..., :half] - y[..., -half:].flip(-1)).abs().mean()


def gram(features: Tensor) -> Tensor:
    """F Fᵀ / (H·W) of ``(B, C, H, W)``: ``(B, C, C)``; not divided by C."""
    f = at_least_single(features).flatten(2)
    with torch.autocast(f.device.type, enabled=False):
        return f @ f.transpose(1, 2) / f.shape[-1]


def gram_loss(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """L_perc: sum over layers of the squared error of Gram matrices.

    ``found`` may hold k times the batch of ``target`` (several pictures of the same images): the
    target's Grams are computed once and repeated, the published code passes it k times.
    """
    total = found[0].new_zeros(())
    for f, t in zip(found, target, strict=True):
        with torch.no_grad():
            wanted = gram(t)
        g = gram(f)
        repeated = wanted.repeat(len(g) // len(wanted), 1, 1)
        total = total + (g - repeated).square().mean()
    return total


def dissimilarity(x: Tensor, ys: list[Tensor]) -> list[Tensor]:
    """1 - SSIM(x, y) of several y, mean over the batch; constants C1 = 0.01², C2 = 0.03²."""
    value = ssim(x, torch.cat(ys)).view(len(ys), -1)
    return list(1 - value.mean(1))


def margin(mean_face: Tensor, neutral: Tensor, official: bool) -> Tensor:
    """L_mar: up to 0.1 a pixel between mean face and neutral face is free.

    The published code throws its hinge away and is left with mean(|m - n| - 0.1).
    """
    difference = (mean_face - neutral).abs() - 0.1
    return difference.mean() if official else difference.relu().mean()


def focus(flow: Tensor) -> Tensor:
    """Weights ``(1, 1, h, w)`` of mean 1 for errors of ``flow`` (ours): ten times at the features.

    Beyond the features the flow is little more than a guess, and expressions are small there.
    """
    grid = base_grid(flow.shape[-2], flow.shape[-1], flow)
    at = torch.tensor(_FEATURES, dtype=flow.dtype, device=flow.device)[:, :, None, None]
    distance = (grid - at).square().sum(1).amin(0)
    weight = 1 + 9 * torch.exp(-distance / (2 * _REACH**2))
    return (weight / weight.mean())[None, None]
