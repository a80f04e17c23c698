"""Colours in tensors: linear light, CIE Lab, and the tone of a face's skin.

The tone is the individual typology angle (Chardon et al. 1991), ``atan((L* - 50) / b*)`` of the
skin's median colour. It is measured in a photo, so it is that of the skin under the photo's light;
the six bins follow the usual limits and are like Fitzpatrick's types, not a diagnosis of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.faces.regions import skin_samples

TONES = ("very light", "light", "intermediate", "tan", "brown", "dark")
"""Bins of skin tone from I to VI."""
_LIMITS = (55.0, 41.0, 28.0, 10.0, -30.0)  # degrees
_TO_XYZ = (  # over the white of D65
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def to_linear(images: Tensor) -> Tensor:
    """Take sRGB in [-1, 1] to linear light in [0, 1]."""
    x = (images.clamp(-1, 1) + 1) / 2
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Tensor) -> Tensor:
    """Take linear light to sRGB in [-1, 1], what is too bright clipped."""
    x = light.clamp(0, 1)
    x = torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-6) ** (1 / 2.4) - 0.055)
    return x * 2 - 1


def to_lab(images: Tensor) -> Tensor:
    """Take sRGB ``(B, 3, ...)`` in [-1, 1] to CIE Lab (D65); L in [0, 100]."""
    xyz = torch.einsum("kc,bc...->bk...", torch.tensor(_TO_XYZ).to(images), to_linear(images))
    f = torch.where(
        xyz > 216 / 24389, xyz.clamp_min(1e-6) ** (1 / 3), xyz * (24389 / 3132) + 16 / 116
    )
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def skin_colour(images: Tensor, landmarks: Tensor) -> Tensor:
    """Return the median Lab colour ``(B, 3)`` of cheeks and nose.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        landmarks: ``(B, 68, 2)`` in pixels.
    """
    height, width = images.shape[-2:]
    scale = torch.tensor([width, height]).to(landmarks)
    grid = (skin_samples(landmarks) + 0.5) * 2 / scale - 1
    seen = F.grid_sample(images, grid[:, None], padding_mode="border", align_corners=False)
    return to_lab(seen)[:, :, 0].median(2).values


def typology_angle(images: Tensor, landmarks: Tensor) -> Tensor:
    """Return the individual typology angle of faces in degrees, ``(B,)``; light skin is high.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        landmarks: ``(B, 68, 2)`` in pixels.
    """
    lightness, _, yellow = skin_colour(images, landmarks).unbind(1)
    return torch.rad2deg(torch.atan2(lightness - 50, yellow.clamp_min(1e-3)))


def tone_bins(angles: Tensor) -> Tensor:
    """Return the bin of typology angles, int64: places in ``TONES``."""
    return (angles[..., None] <= torch.tensor(_LIMITS).to(angles)).sum(-1)
