"""Measures of pictures and of landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.faces.face import Array
from mien.files.errors import ConfigError
from mien.nets.ssim import ssim as _ssim

NO_JAW = slice(17, 68)
OUTER_EYES = (36, 45)
YAW_BINS = ((0.0, 15.0), (15.0, 30.0), (30.0, 180.0))


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute difference ``(B,)`` of images ``(B, 3, H, W)`` in [-1, 1].

    In units of [0, 1], i.e. 0.01 is 2.55 grey levels.
    """
    return (_unit(x) - _unit(y)).abs().mean((1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio ``(B,)`` in dB; infinite for equal images.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1]; values outside are clipped.
        y: The same shape.
    """
    error = (_unit(x) - _unit(y)).square().mean((1, 2, 3))
    return -10 * torch.log10(error)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity ``(B,)`` of images ``(B, 3, H, W)`` in [-1, 1].

    Gaussian window of 11 px, zero padding, mean over channels; values outside are clipped.
    """
    return _ssim(_unit(x), _unit(y), data_range=1.0)


def symmetry(images: Tensor) -> Tensor:
    """Return the mean absolute difference ``(B,)`` of left half and mirrored right half.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1]. Units of [0, 1]: 0 is a symmetric picture. The middle
            column of an odd width is left out.
    """
    x = _unit(images)
    half = x.shape[-1] // 2
    return (x[..., :half] - x.flip(-1)[..., :half]).abs().mean((1, 2, 3))


def _unit(images: Tensor) -> Tensor:
    return (images.clamp(-1, 1) + 1) / 2


def interocular(points: NDArray[Any]) -> Array:
    """Return the distance of the outer eye corners ``(N,)`` of ``(N, 68, 2)``."""
    left, right = OUTER_EYES
    return np.asarray(np.linalg.norm(points[:, left] - points[:, right], axis=-1), np.float32)


def nme(
    predicted: NDArray[Any],
    true: NDArray[Any],
    points: slice = slice(0, 68),
    over: str = "eyes",
) -> Array:
    """Return the normalised mean error ``(N,)``.

    Args:
        predicted: ``(N, 68, 2)``, iBUG order.
        true: The same shape.
        points: Which points count, e.g. ``NO_JAW``.
        over: What the mean distance is divided by: ``eyes``, the true inter-ocular distance, or
            ``box``, the root of the area of the true points' bounding box, which does not vanish in
            profile.

    Raises:
        ConfigError: Other shapes.
    """
    if predicted.shape != true.shape or true.shape[1:] != (68, 2):
        raise ConfigError(
            f"Landmarks must be two arrays (N, 68, 2), not {predicted.shape} and {true.shape}."
        )
    distance = np.linalg.norm(predicted[:, points] - true[:, points], axis=-1).mean(1)
    unit = interocular(true) if over == "eyes" else np.sqrt(np.ptp(true, axis=1).prod(1))
    return np.asarray(distance / np.maximum(unit, 1e-6), np.float32)


def landmark_change(before: NDArray[Any], after: NDArray[Any]) -> Array:
    """Return how far landmarks moved ``(N,)``, over the inter-ocular distance before.

    Args:
        before: ``(N, 68, 2)`` of the pictures.
        after: ``(N, 68, 2)`` of the edited pictures, same pixels.
    """
    return nme(after, before)


def by_yaw(yaw: NDArray[Any], values: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, float]]:
    """Return the means of ``values`` by bin of absolute yaw.

    Args:
        yaw: ``(N,)`` in degrees.
        values: Name → ``(N,)``.

    Returns:
        ``"all"``, ``"0-15"``, ``"15-30"``, ``"30-"`` → ``n`` and the mean of each value; nan
            in an empty bin. NaN yaw counts in ``all`` only.
    """
    turned = np.abs(np.asarray(yaw, np.float64))
    masks = {"all": np.ones(len(turned), bool)}
    for low, high in YAW_BINS:
        name = f"{low:.0f}-{high:.0f}" if high < 180 else f"{low:.0f}-"
        masks[name] = (turned >= low) & (turned < high)
    return {
        name: {
            "n": float(mask.sum()),
            **{k: float(v[mask].mean()) if mask.any() else float("nan") for k, v in values.items()},
        }
        for name, mask in masks.items()
    }
