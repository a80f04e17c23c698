"""The encoder of style codes and the perceptual distance, which the paper calls φ and D."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nets.blocks import HalvingBlock
from mien.nets.perceptual import LandmarkFeatures, VggFeatures

_BOTTOM = 4  # side of the smallest maps
_COARSE, _MIDDLE = 3, 6  # styles below these come from the smallest and the middle maps (pSp, e4e)
_LANDMARK_SIDE, _VGG_SIDE = 64, 256  # what the perceptual networks were made for
_TINY = 1e-8


class Encoder(nn.Module):
    """Face → style codes in one pass: one code for all layers, and a difference for each (e4e).

    Tov et al., *Designing an Encoder for StyleGAN Image Manipulation*, SIGGRAPH 2021. Smaller, and
    without its progressive training and its discriminator of codes. A convolution halves the
    picture down to 4x4; coarse styles are read off the smallest maps, fine ones off larger maps.

    Args:
        width: Channels of the first maps.
        size: Side of the pictures.
        styles: L.
        w_dim: W.
    """

    def __init__(self, width: int, size: int, styles: int, w_dim: int) -> None:
        super().__init__()
        self.styles, self.w_dim = styles, w_dim
        widths = [width * min(2**i, 8) for i in range(int(math.log2(size // _BOTTOM)))]
        self.levels = nn.ModuleList(
            HalvingBlock(a, b) for a, b in zip([3, *widths], widths, strict=False)
        )
        places = _BOTTOM**2
        self.base = nn.Linear(widths[-1] * places, w_dim)
        ends = [0, min(_COARSE, styles), min(_MIDDLE, styles), styles]
        sources = widths[-1:], widths[-2:][:1], widths[-3:][:1]
        self.deltas = nn.ModuleList(
            nn.Linear(c[0] * places, (b - a) * w_dim)
            for c, a, b in zip(sources, ends, ends[1:], strict=False)
            if b > a
        )
        nn.init.normal_(self.base.weight, 0, 0.1 / math.sqrt(widths[-1] * places))
        for head in self.deltas:  # all layers begin with the same code
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return w0 ``(B, W)`` and Δ ``(B, L, W)`` in deviations from the mean, float32."""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        found = [F.adaptive_avg_pool2d(m, _BOTTOM).flatten(1) for m in maps[::-1][:3]]
        deltas = [head(f) for head, f in zip(self.deltas, found, strict=False)]
        base: Tensor = self.base(found[0])
        return base.float(), torch.cat(deltas, 1).float().view(-1, self.styles, self.w_dim)


class Perceptual(nn.Module):
    """φ, and D(x, y) = ‖φ(x) - φ(y)‖² for each picture of a batch.

    Args:
        weights: ``landmarks``, or the path of torchvision's ``vgg16-*.pth`` (relu3_3 at 256 px).
    """

    def __init__(self, weights: str = "landmarks") -> None:
        super().__init__()
        own = weights == "landmarks"
        self.side = _LANDMARK_SIDE if own else _VGG_SIDE
        self.net = LandmarkFeatures() if own else VggFeatures(Path(weights), ("relu3_3",))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps of ``x`` ``(B, 3, S, S)`` in [-1, 1]."""
        if x.shape[-1] != self.side:
            size = (self.side, self.side)
            x = F.interpolate(x, size, mode="bilinear", antialias=x.shape[-1] > self.side)
        found: list[Tensor] = self.net(x)
        return found


def distance(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """Return D ``(B,)``: squared differences of maps over the mean square of the target's.

    So every layer counts alike, and 0.1 means a tenth of the target's energy.
    """
    layers = []
    for f, t in zip(found, target, strict=True):
        t = t.float()
        error = (f.float() - t).square().mean((1, 2, 3))
        layers.append(error / (t.square().mean((1, 2, 3)) + _TINY))
    return torch.stack(layers).mean(0)


def style_distance(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """Return D1 ``(B,)``: squared differences of Gram matrices, over the target's squares."""
    layers = []
    for f, t in zip(found, target, strict=True):
        g, wanted = _gram(f.float()), _gram(t.float())
        error = (g - wanted).square().mean((1, 2))
        layers.append(error / (wanted.square().mean((1, 2)) + _TINY))
    return torch.stack(layers).mean(0)


def _gram(x: Tensor) -> Tensor:
    x = x.flatten(2)
    return x @ x.mT / x.shape[-1]
