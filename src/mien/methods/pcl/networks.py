"""The networks of PCL (parameter counts are tested).

``width`` is the number of channels of the first layer, 64 in the paper, ``size`` the side of the
images in pixels. Shapes in comments are for 64 px and width w. Images are in [0, 1], not
normalised any further.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from mien.nets.blocks import Stem, conv3, he_init

NORMS = ("none", "batch", "group")


def code_length(width: int, size: int) -> int:
    """Return the length of a flattened code: 2048 in the paper."""
    return 2 * width * (size // 16) ** 2


class Trunk(Stem):
    """T: image ``(B, 3, H, W)`` → shared features t ``(B, 2w, H/16, W/16)``.

    FaceCycle's encoder with another end; fully convolutional. The rivals of PCL train it too.
    ``norm`` (ours): a normalisation layer behind every 3x3 and 7x7 convolution, see ``add_norm``.
    """

    def __init__(self, width: int = 64, norm: str = "none") -> None:
        super().__init__(width)
        w = width
        act = nn.LeakyReLU(0.1)
        self.layer3_1 = nn.Sequential(conv3(2 * w, 4 * w, 2), act, conv3(4 * w, 2 * w), act)  # 4²
        he_init(self)
        add_norm(self, norm)

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield w 32², 2w 16², 2w 8² and t, 2w 4², for a 64 px input."""
        for y in super().stage_outputs(x):
            yield y
        yield self.layer3_1(y)

    def forward(self, x: Tensor) -> Tensor:
        """Return t; 4x4 at 64 px, 7x7 at 100 px."""
        *_, t = self.stage_outputs(x)
        return t


class Backbone(nn.Module):
    """The trunk T and its two branches F (face-aware) and P (pose)."""

    def __init__(self, width: int = 64, norm: str = "none") -> None:
        super().__init__()
        self.trunk = Trunk(width, norm)
        self.face = _branch(2 * width, norm)
        self.pose = _branch(2 * width, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return t, z_f and z_p of ``x`` ``(B, 3, H, W)``, flattened: ``(B, 2w·4·4)`` each."""
        t = self.trunk(x)
        return t.flatten(1), self.face(t).flatten(1), self.pose(t).flatten(1)

    def face_code(self, x: Tensor) -> Tensor:
        """Return z_f alone."""
        z: Tensor = self.face(self.trunk(x)).flatten(1)
        return z

    def pose_code(self, x: Tensor) -> Tensor:
        """Return z_p alone."""
        z: Tensor = self.pose(self.trunk(x)).flatten(1)
        return z


def _branch(channels: int, norm: str) -> nn.Sequential:
    act = nn.LeakyReLU(0.1)
    branch = nn.Sequential(conv3(channels, channels), act, conv3(channels, channels), act)
    he_init(branch)
    add_norm(branch, norm)
    return branch


def add_norm(module: nn.Module, norm: str) -> None:
    """Put a normalisation layer behind every convolution of ``module`` but the 1x1 ones.

    Without one, nine tenths of what reaches the trunk's end is alike for all pictures, and a short
    training with a contrast removes the rest.

    Args:
        module: Changed in place.
        norm: ``none``, ``batch``, or ``group``: of 8 channels, over the picture, with standardised
            weights (Qiao et al. 2019, arXiv 1903.10520; else nine tenths stay alike), so that
            training and evaluation compute the same.
    """
    if norm == "none":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1):
            c = child.out_channels
            if norm == "group":
                parametrize.register_parametrization(child, "weight", _Standardise())
            layer = nn.BatchNorm2d(c) if norm == "batch" else nn.GroupNorm(max(1, c // 8), c)
            setattr(module, name, nn.Sequential(child, layer))
        else:
            add_norm(child, norm)


class _Standardise(nn.Module):
    """Weights ``(C', C, k, k)`` → those of every filter with mean 0 and length 1."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the same shape."""
        return F.normalize((weight - weight.mean((1, 2, 3), keepdim=True)).flatten(1)).view_as(
            weight
        )


def head(width: int = 64, size: int = 64) -> nn.Sequential:
    """MLP_f or MLP_p: a code → what the contrast compares, ``(B, 8w)``; BatchNorm comes last."""
    length = code_length(width, size)
    return nn.Sequential(
        nn.Linear(length, length),
        nn.ReLU(),
        nn.Linear(length, 8 * width),
        nn.BatchNorm1d(8 * width),
    )


class Decoder(nn.Module):
    """R(z_f, z_p): two codes → an image; the pose-disentangled decoder."""

    def __init__(self, width: int = 64, size: int = 64) -> None:
        super().__init__()
        w, doublings = width, int(math.log2(size))
        self.fc = nn.Linear(code_length(width, size), 8 * w)
        layers: list[nn.Module] = []
        for cin, cout in pairwise([8 * w, *[4 * w] * (doublings - 2), 2 * w]):  # 2² … 32²
            layers += [nn.ReLU(), _double(), conv3(cin, cout), nn.BatchNorm2d(cout)]
        layers += [nn.ReLU(), _double(), conv3(2 * w, 3), nn.Tanh()]
        self.draw = nn.Sequential(*layers)

    def forward(self, z_f: Tensor, z_p: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, D)`` → ``(B, 3, S, S)`` in (-1, 1)."""
        u = F.normalize(z_f + z_p, dim=1)
        image: Tensor = self.draw(self.fc(u)[:, :, None, None])
        return image


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear")
