"""The synthesis network of StyleGAN1: styles that normalise maps and scale them anew.

Karras, Laine, Aila: *A Style-Based Generator Architecture for Generative Adversarial Networks*,
CVPR 2019. The mapping network is that of ``mien.nets.stylegan``, which does not differ. Style i
belongs to one layer: two of each size, 0 and 1 of 4x4, 4 and 5 of 16x16. All sizes are trained
together; the growing of the publication is not here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.files.errors import ConfigError, nearest
from mien.nets.stylegan import NOISE, EqualConv, EqualLinear, activate, channels, sizes

_EPS = 1e-8
_GAIN = math.sqrt(2)  # of a kernel before an activation
_TAPS = (1.0, 2.0, 1.0)


def soften(x: Tensor) -> Tensor:
    """Filter ``(B, C, H, W)`` by [1, 2, 1] both ways; the sum of the filter is 1."""
    taps = x.new_tensor(_TAPS)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


class AdaptiveLayer(nn.Module):
    """Noise, bias, activation, normalisation of every map, style.

    Args:
        channels: C.
        w_dim: W.
        size: Side of the maps.
    """

    noise: Tensor

    def __init__(self, channels: int, w_dim: int, size: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualLinear(w_dim, 2 * channels)
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, w: Tensor, noise: str) -> Tensor:
        """``(B, C, h, h)`` and ``(B, W)`` → ``(B, C, h, h)``, float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if noise != "none":
                grain = self.noise
                if noise == "random":
                    grain = torch.randn(len(x), 1, *x.shape[2:], device=x.device)
                x = x + grain * self.noise_strength[:, None, None]
            x = activate(x + self.bias[:, None, None])
            x = x - x.mean((2, 3), keepdim=True)
            x = x * (x.square().mean((2, 3), keepdim=True) + _EPS).rsqrt()
            scale, shift = self.style(w.float())[:, :, None, None].chunk(2, 1)
            styled: Tensor = x * (scale + 1) + shift
            return styled


class AdaptiveSynthesis(nn.Module):
    """ws → picture.

    Args:
        size: S.
        channel_base: Channels of maps of side r are this over r (16384 in the publication) …
        channel_max: … but no more than this.
        w_dim: W.
    """

    def __init__(self, size: int, channel_base: int, channel_max: int, w_dim: int) -> None:
        super().__init__()
        widths = {s: channels(s, channel_base, channel_max) for s in sizes(size)}
        self.const = nn.Parameter(torch.ones(widths[4], 4, 4))
        self.convs = nn.ModuleList([EqualConv(widths[4], widths[4], 3, bias=False)])
        for s in sizes(size)[1:]:
            self.convs.append(EqualConv(widths[s // 2], widths[s], 3, bias=False))
            self.convs.append(EqualConv(widths[s], widths[s], 3, bias=False))
        self.layers = nn.ModuleList(
            AdaptiveLayer(widths[s], w_dim, s) for s in sizes(size) for _ in range(2)
        )
        self.torgb = EqualConv(widths[size], 3, 1)
        self.num_ws = len(self.layers)

    def forward(self, ws: Tensor, noise: str = "random") -> Tensor:
        """``(B, L, W)`` → ``(B, 3, S, S)`` float32, about [-1, 1] and not clamped.

        Args:
            ws: A style for each layer.
            noise: ``random`` draws new noise, ``const`` takes the stored one, ``none`` has none.

        Raises:
            ConfigError: Another number of styles, or another noise.
        """
        if ws.shape[1] != self.num_ws:
            raise ConfigError(f"The generator wants {self.num_ws} styles, not {ws.shape[1]}.")
        if noise not in NOISE:
            raise ConfigError(f"No noise {noise!r}{nearest(noise, NOISE)}")
        x = self.layers[0](self.const.expand(len(ws), -1, -1, -1), ws[:, 0], noise)
        for i, conv in enumerate(self.convs, 1):
            if i % 2 == 0:  # the first layer of a size
                x = soften(conv(F.interpolate(x, scale_factor=2.0), _GAIN))
            else:
                x = conv(x, _GAIN)
            x = self.layers[i](x, ws[:, i], noise)
        rgb: Tensor = self.torgb(x)
        return rgb.float()
