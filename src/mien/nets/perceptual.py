"""Frozen feature extractors for perceptual losses.

VGG-19 with ImageNet weights where the user has torchvision's file; otherwise the first stages of
the project's own landmark network, which is shipped.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.faces.landmarks import LANDMARKS, load_landmark_net
from mien.nets.vgg import Vgg19

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Layers of VGG-19 (or VGG-16, up to relu3_3) for images in [-1, 1].

    Args:
        weights: torchvision's file.
        outputs: Names of the layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, weights: Path, outputs: tuple[str, ...] = ("relu2_1", "relu3_1", "relu4_1")
    ) -> None:
        super().__init__()
        self.net = Vgg19(outputs)
        self.net.load_torchvision(weights)
        self.net.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``x`` ``(B, 3, H, W)`` in [-1, 1]."""
        found: list[Tensor] = self.net(((x + 1) / 2 - self.mean) / self.std)
        return found


class LandmarkFeatures(nn.Module):
    """The three stages of the shipped landmark network, frozen, normalisation statistics fixed."""

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        # A copy: the loss network moves to other devices and memory formats.
        self.net = deepcopy(load_landmark_net(weights or LANDMARKS))
        self.net.requires_grad_(False)

    def train(self, mode: bool = True) -> LandmarkFeatures:
        """Stay in evaluation mode: batch statistics of the loss network never move."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return three feature maps of ``x`` ``(B, 3, H, W)`` in [-1, 1]."""
        return self.net.features(x)


_PLACES = 4  # a side, over which maps are averaged


def pooled(maps: list[Tensor]) -> Tensor:
    """Return one vector ``(B, D)`` a picture: the mean of every map over 4x4 places."""
    return torch.cat([F.adaptive_avg_pool2d(m, _PLACES).flatten(1) for m in maps], 1)
