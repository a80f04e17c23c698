"""The five networks of IP-GAN: I and C are one ``Recogniser``; A, G and D.

The publication's layer tables are not followed (see ``method``). ``width`` is the number of
channels of the first layer, ``size`` the side of the images in pixels. Shapes in comments are for
64 px and width w; a larger size adds levels of 8w channels. Images are in [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mien.nets.blocks import HalvingBlock, conv3

INJECTIONS = ("input", "every")
_BOTTOM = 4  # side of the smallest maps


def level_widths(width: int, size: int) -> list[int]:
    """Return the channels of the levels of size/2 … 4 pixels: w, 2w, 4w, 8w at 64."""
    return [width * min(2**i, 8) for i in range(int(math.log2(size // _BOTTOM)))]


def sphere(code: Tensor) -> Tensor:
    """Give codes ``(B, D)`` the length √D, so that their mean square is 1; float32."""
    return F.normalize(code.float(), dim=1) * math.sqrt(code.shape[1])


class Trunk(nn.Sequential):
    """Image ``(B, 3, S, S)`` → ``(B, 8w·4·4)``: where I and A begin, each with its own.

    Args:
        width: w.
        size: S.
    """

    def __init__(self, width: int, size: int) -> None:
        widths = level_widths(width, size)
        levels = [HalvingBlock(a, b) for a, b in zip([3, *widths], widths, strict=False)]
        super().__init__(*levels, nn.Flatten())


class Recogniser(nn.Module):
    """I, and C with the same weights: image → identity code ``(B, dim)`` of mean square 1.

    Args:
        width: w.
        size: Side of the images.
        dim: Length of the code.
    """

    def __init__(self, width: int, size: int, dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, size)
        length = level_widths(width, size)[-1] * _BOTTOM**2
        self.code = nn.Linear(length, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return f_I (f_C) ``(B, dim)``, float32."""
        return sphere(self.norm(self.code(self.trunk(x))))


class AttributeEncoder(nn.Module):
    """A: image → μ and log σ² of its attribute code, ``(B, dim)`` each."""

    def __init__(self, width: int, size: int, dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, size)
        length = level_widths(width, size)[-1] * _BOTTOM**2
        self.mean = nn.Linear(length, dim)
        self.log_variance = nn.Linear(length, dim)
        nn.init.zeros_(self.log_variance.weight)  # starts as N(μ, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ² in float32."""
        y = self.trunk(x)
        return self.mean(y).float(), self.log_variance(y).float()


class _Draw(nn.Module):
    """A convolution of G, its normalisation and leaky ReLU.

    Args:
        cin: Channels of the input.
        cout: Channels of the output.
        code: Length of the z that scales and shifts the normalised maps; 0: learnt constants do.
    """

    def __init__(self, cin: int, cout: int, code: int) -> None:
        super().__init__()
        self.conv = conv3(cin, cout)
        self.norm = nn.BatchNorm2d(cout, affine=not code)
        self.style = nn.Linear(code, 2 * cout) if code else None
        if self.style is not None:
            nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.style is not None:
            scale, shift = self.style(z)[:, :, None, None].chunk(2, 1)
            x = x * (1 + scale) + shift
        return F.leaky_relu(x, 0.2)


class Generator(nn.Module):
    """G: z = [f_I, f_A] → picture ``(B, 3, S, S)`` in (-1, 1).

    Args:
        width: w.
        size: S.
        code: Length of z.
        depth: 3x3 convolutions at each size of the maps.
        inject: ``input``: z makes the 4x4 maps and nothing else; ``every``: it also scales and
            shifts the maps of every level.
    """

    def __init__(self, width: int, size: int, code: int, depth: int, inject: str) -> None:
        super().__init__()
        widths = level_widths(width, size)[::-1]  # of the maps of 8 … S pixels
        self.start = nn.Linear(code, widths[0] * _BOTTOM**2)
        self.norm = nn.BatchNorm2d(widths[0])
        style = code if inject == "every" else 0
        self.levels = nn.ModuleList(
            nn.ModuleList(_Draw(a if i == 0 else b, b, style) for i in range(depth))
            for a, b in zip([widths[0], *widths], widths, strict=False)
        )
        self.end = nn.Conv2d(widths[-1], 3, 5, 1, 2)

    def forward(self, identity: Tensor, attributes: Tensor) -> Tensor:
        """``(B, D)`` and ``(B, E)`` → ``(B, 3, S, S)``, float32."""
        z = torch.cat([identity, attributes], 1)
        x = F.leaky_relu(self.norm(self.start(z).unflatten(1, (-1, _BOTTOM, _BOTTOM))), 0.2)
        for level in self.levels:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            for draw in level:  # type: ignore[attr-defined]  # a ModuleList
                x = draw(x, z)
        y: Tensor = self.end(x)
        return y.float().tanh()


class Discriminator(nn.Module):
    """D: picture ``(B, 3, S, S)`` → its feature f_D ``(B, 8w)`` and its logit ``(B,)``.

    Spectral normalisation, leaky ReLU and average pooling; no batch normalisation, so that a
    picture's logit does not depend on its batch. The convolutions are the library's: those of
    ``mien.nets.winograd`` have no second derivative, which R1 needs.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        widths = level_widths(width, size)
        layers: list[nn.Module] = []
        for cin, cout in zip([3, *widths], widths, strict=False):
            layers += [spectral_norm(nn.Conv2d(cin, cout, 3, 1, 1)), nn.LeakyReLU(0.2)]
            layers += [nn.AvgPool2d(2)]
        last = widths[-1]
        layers += [spectral_norm(nn.Conv2d(last, last, 3, 1, 1)), nn.LeakyReLU(0.2), nn.Flatten()]
        self.net = nn.Sequential(*layers)
        self.feature = spectral_norm(nn.Linear(last * _BOTTOM**2, last))
        self.logit = spectral_norm(nn.Linear(last, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f_D and the logit, float32."""
        feature = F.leaky_relu(self.feature(self.net(x)), 0.2)
        logit: Tensor = self.logit(feature)[:, 0]
        return feature.float(), logit.float()
