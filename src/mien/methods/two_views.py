"""What SimCLR, MoCo v2, BYOL and SimSiam share: PCL's trunk and two random views of every image.

Colours and detail change as in PCL; the crops and mirror images that these methods rest on come
first, with the ranges that their later papers agree on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from mien.data.singles import Part, SingleSampler
from mien.data.views import ViewSettings, draw_view, moved_crops, step_generator
from mien.faces.face import Image
from mien.files.errors import ConfigError, nearest
from mien.methods.base import Batch, Codes, Method, Sampler, config_from, picture_grid
from mien.methods.pcl.networks import NORMS, Trunk, code_length


class TwoViews(Method):
    """A trunk and two views of each image; a subclass adds its heads and its step."""

    @dataclass(frozen=True)
    class Config:
        """Settings that all of them have."""

        width: int = 64  # channels of the first layer
        size: int = 64  # side of the images in pixels
        norm: str = "none"  # normalisation in the trunk: none as in PCL, batch or group
        crop: tuple[float, float] = (0.2, 1.0)  # smallest and largest area of a view
        mirror: float = 0.5  # share of mirrored views
        weight_decay: float = 1e-4
        weights: tuple[float, ...] = ()  # share of each table; by their sizes if empty
        views: dict[str, Any] = field(default_factory=dict)  # see mien.data.views.ViewSettings

    columns = ("image",)
    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        if config.size < 32 or config.size % 16:
            raise ConfigError(f"size is a multiple of 16 from 32 on, not {config.size}.")
        self.view_settings: ViewSettings = config_from(ViewSettings, config.views)
        if config.norm not in NORMS:
            raise ConfigError(f"norm has no value {config.norm!r}{nearest(config.norm, NORMS)}")
        self.trunk = Trunk(config.width, config.norm)
        self.length = code_length(config.width, config.size)  # of the flattened trunk

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw ``batch_size`` single images."""
        part = Part(batch_size, self.config.weights)
        return SingleSampler(caches, {"image": part}, seed, rank, self.config.size)

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """One Adam, as PCL has it."""
        trained = [p for p in self.parameters() if p.requires_grad]
        decay = self.config.weight_decay
        return {self.name: optim.Adam(trained, learning_rate, weight_decay=decay, fused=True)}

    @torch.no_grad()
    def two_views(self, images: Tensor) -> Tensor:
        """Return two views of ``images`` ``(B, 3, S, S)`` in [-1, 1]: ``(2B, 3, S, S)`` in [0, 1].

        Rows i and B + i are views of one image.
        """
        generator = step_generator(images)
        x = moved_crops(images.repeat(2, 1, 1, 1), generator, self.config.crop, self.config.mirror)
        return (draw_view(x, generator, self.view_settings) + 1) / 2

    def represent(self, views: Tensor) -> Tensor:
        """Return the flattened trunk ``(B, 2w·4·4)`` of ``views`` in [0, 1]."""
        h: Tensor = self.trunk(views).flatten(1)
        return h

    @torch.no_grad()
    def preview(self, batch: Batch) -> Image:
        """Columns are faces; rows: image, its two views."""
        x = batch["image"][:16]
        return picture_grid([x, *(self.two_views(x) * 2 - 1).chunk(2)])

    def encode(self, images: Tensor) -> Codes:
        """Return the flattened trunk as ``trunk``: these methods take nothing apart.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; resized to ``size``.
        """
        size = (self.config.size, self.config.size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return {"trunk": self.represent((images + 1) / 2)}

    def features(self, images: Tensor, code: str = "trunk", stage: int = 0) -> Tensor:
        """Return the flattened trunk at any size: 64 px give 2w·4·4 features, 100 px 2w·7·7.

        ``stage`` from 1 picks an earlier one, see ``Stem.stage_features``.
        """
        if code != "trunk":
            raise ConfigError(f"These weights have the code 'trunk' only, not {code!r}.")
        return self.trunk.stage_features((images + 1) / 2, stage)


def mlp(*lengths: int, norm: bool = True) -> nn.Sequential:
    """Linear layers from length to length with (BatchNorm and) ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(lengths):
        layers += [nn.Linear(before, after)]
        layers += [nn.BatchNorm1d(after), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move ``target`` towards ``online``: θ' ← m θ' + (1 - m) θ."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
