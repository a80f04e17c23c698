"""Blocks that the networks of several methods share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from torch import Tensor, nn
from torch.nn import functional as F

from mien.files.errors import ConfigError
from mien.nets.winograd import Conv3x3

_GRID = 8  # places a side that features of an early stage keep


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU with the paper's slope."""
    return F.leaky_relu(x, 0.1)


def conv3(cin: int, cout: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution, padding 1."""
    return Conv3x3(cin, cout) if stride == 1 else nn.Conv2d(cin, cout, 3, stride, 1)


class LinearAttention(nn.Module):
    """Linear channel attention: ``(B, C, H, W)`` → the same shape, cost linear in H·W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, channels, 1)
        self.theta = nn.Conv2d(channels, channels, 1)
        self.phi = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """S = φ θᵀ with θ softmax over positions; A = S g with g softmax over channels."""
        theta = self.theta(x).flatten(2).softmax(2)  # (B, C, N)
        phi = self.phi(x).flatten(2)
        g = self.g(x).flatten(2).softmax(1)
        a = (phi @ theta.transpose(1, 2)) @ g
        return lrelu(x + a.view_as(x))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; no normalisation layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return lrelu(x + self.conv2(lrelu(self.conv1(x))))


class HalvingBlock(nn.Module):
    """Halve the maps, then a residual block: ``(B, C, 2h, 2w)`` → ``(B, C', h, w)``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d
        self.down = nn.Sequential(conv3(cin, cout, 2), norm(cout), nn.LeakyReLU(0.2))
        self.block = nn.Sequential(
            conv3(cout, cout), norm(cout), nn.LeakyReLU(0.2), conv3(cout, cout), norm(cout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, cin, 2h, 2w)`` → ``(B, cout, h, w)``."""
        x = self.down(x)
        return F.leaky_relu(x + self.block(x), 0.2)


class Stem(nn.Module):
    """Image ``(B, 3, H, W)`` → features of 1/2, 1/4 and 1/8 of its size: where encoders begin.

    Shapes in comments are for 64 px and width w.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        act = nn.LeakyReLU(0.1)
        self.conv1 = nn.Sequential(nn.Conv2d(3, w, 7, 2, 3), act, conv3(w, w), act)  # w 32²
        self.layer1 = nn.Sequential(conv3(w, w), act, LinearAttention(w), conv3(w, w), act)
        self.layer2_1 = nn.Sequential(
            conv3(w, 2 * w, 2), act, LinearAttention(2 * w), conv3(2 * w, 2 * w), act
        )  # 2w 16²
        self.resblock1 = ResidualBlock(2 * w)
        self.resblock2 = ResidualBlock(2 * w)
        self.layer2_2 = nn.Sequential(conv3(2 * w, 2 * w, 2), act, conv3(2 * w, 2 * w), act)  # 8²

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what each stage makes of ``x``: w 32², 2w 16² and 2w 8² for a 64 px input.

        A subclass goes on from there.
        """
        x = self.layer1(self.conv1(x))
        yield x
        x = self.resblock2(self.resblock1(self.layer2_1(x)))
        yield x
        yield self.layer2_2(x)

    def stage_features(self, x: Tensor, stage: int = 0) -> Tensor:
        """Return what a stage makes of ``x`` ``(B, 3, H, W)`` as vectors ``(B, D)``.

        Args:
            x: Images as the network wants them.
            stage: From 1, averaged over a grid of 8x8 where it is finer; 0: the last, as it is.

        Raises:
            ConfigError: No such stage.
        """
        # Stages after the one asked for are not computed.
        outputs = list(islice(self.stage_outputs(x), stage if stage > 0 else None))
        if not 0 <= stage <= len(outputs):
            raise ConfigError(f"These networks have stages 1 to {len(outputs)}, no {stage}.")
        y = outputs[-1]
        if stage and y.shape[-1] > _GRID:
            y = F.adaptive_avg_pool2d(y, _GRID)
        return y.flatten(1)


def he_init(module: nn.Module) -> None:
    """Conv weights N(0, sqrt(2 / (k·k·out))), linear weights N(0, 0.01), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            nn.init.normal_(layer.weight, 0, deviation)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
