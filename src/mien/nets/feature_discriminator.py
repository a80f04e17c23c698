"""A discriminator that looks at the features of a trained encoder instead of at pixels.

Sauer et al., *Projected GANs Converge Faster*, NeurIPS 2021; used beside a discriminator of pixels,
as in Kumari et al., *Ensembling Off-the-shelf Models for GAN Training*, CVPR 2022. An encoder that
has seen many faces tells real and drawn ones apart long before one that starts from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

_SMALLEST = 4  # side of the maps of logits


class FeatureDiscriminator(nn.Module):
    """Logits for each of an encoder's feature maps, mixed across channels and scales.

    The mixing is random and stays so (the publication's CCM and CSM): without it D looks at the few
    features that are easiest to tell apart, and G learns those alone.

    Args:
        shapes: Channels and side of each map, from the finest to the coarsest.
        width: Channels of the mixed maps and of the heads.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], width: int = 64) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c, _ in shapes)
        self.upward = nn.ModuleList(
            nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in shapes[1:]
        )
        for conv in (*self.across, *self.upward):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
            conv.requires_grad_(False)
        self.heads = nn.ModuleList(_head(width, side) for _, side in shapes)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return logits ``(B, 1, h, w)`` for each of the feature maps ``(B, C, H, W)``."""
        mixed = [conv(_scaled(m)) for conv, m in zip(self.across, maps, strict=True)]
        for i in range(len(mixed) - 2, -1, -1):
            coarser = F.interpolate(
                mixed[i + 1], mixed[i].shape[-2:], mode="bilinear", align_corners=False
            )
            mixed[i] = (mixed[i] + self.upward[i](coarser)) / 2**0.5
        return [head(y) for head, y in zip(self.heads, mixed, strict=True)]


def _scaled(x: Tensor) -> Tensor:
    """Bring every place's features to a mean square of one: an encoder's maps differ in scale."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _head(width: int, side: int) -> nn.Sequential:
    """Halve a map of this side until it is small, then one logit a place."""
    layers: list[nn.Module] = []
    while side > _SMALLEST:
        layers += [spectral_norm(nn.Conv2d(width, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        side //= 2
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))
