"""StyleGAN2: mapping network, synthesis network and discriminator, without compiled operations.

Karras et al., *Analyzing and Improving the Image Quality of StyleGAN*, CVPR 2020; details as in the
authors' later release with adaptive augmentation (NeurIPS 2020). A modulated convolution scales the
maps before and after one shared kernel instead of making a kernel for each picture: the result is
the same, and a CPU is much faster so. Everything has a second derivative, which R1 and the path
length need; the convolutions are therefore the library's, not those of ``mien.nets.winograd``.

Sizes: picture of side S (a power of two), Z and W lengths of z and w, L = 2 log2(S) - 2 styles.
``channels(r)`` = min(base / r, max) at maps of side r. Images are in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.data.warp import at_least_single
from mien.files.errors import ConfigError, nearest

ARCHITECTURES = ("skip", "resnet", "orig", "adain")
NOISE = ("const", "random", "none")
_EPS = 1e-8
_SLOPE = 0.2
_GAIN = math.sqrt(2)  # of the activation
_HALF = math.sqrt(0.5)  # of the sum of two branches
_TAPS = (1.0, 3.0, 3.0, 1.0)
_AT_ONCE = 64  # pictures that are drawn together


def sizes(size: int) -> list[int]:
    """Return the sides of the maps, 4 … ``size``.

    Raises:
        ConfigError: Not a power of two from 8 on.
    """
    if size < 8 or size & (size - 1):
        raise ConfigError(f"A style-based network has a size of 8, 16, 32, …, not {size}.")
    return [2**i for i in range(2, size.bit_length())]


def channels(size: int, base: int, most: int) -> int:
    """Return the channels of maps of side ``size``."""
    return max(1, min(base // size, most))


def blur(x: Tensor, padding: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Filter ``(B, C, H, W)`` by [1, 3, 3, 1] both ways.

    Args:
        x: Maps.
        padding: Zeros before and behind each line.
        gain: Sum of the filter.
    """
    if padding[0] != padding[1]:
        x, padding = F.pad(x, padding * 2), (0, 0)
    taps = x.new_tensor(_TAPS)
    kernel = torch.outer(taps, taps) * (gain / taps.sum() ** 2)
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), padding=padding[0], groups=x.shape[1])


# A CPU takes ten times as long for the derivative of a convolution that keeps channels apart if its
# stride is 2: the two below filter at full size.


def upsample(x: Tensor) -> Tensor:
    """Double ``(B, C, H, W)``: insert zeros, then the filter times 4."""
    b, c, h, w = x.shape
    wide = x.new_zeros(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)
    wide[:, :, ::2, ::2] = x
    return blur(wide, (2, 1), 4.0)


def downsample(x: Tensor) -> Tensor:
    """Halve ``(B, C, H, W)``: the filter, then every other pixel."""
    return blur(x, (1, 1))[:, :, ::2, ::2]


def activate(x: Tensor, clamp: float = 0.0) -> Tensor:
    """Leaky ReLU of slope 0.2, without the factor √2, which layers put into their kernels.

    Args:
        x: Maps.
        clamp: Largest absolute value that is let through; 0: any.
    """
    x = F.leaky_relu(x, _SLOPE)
    return x.clamp(-clamp, clamp) if clamp else x


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate: N(0, 1) weights, scaled when used.

    Args:
        cin: Length of the input.
        cout: Length of the output.
        bias: Its start.
        lr_mul: What weights and bias are multiplied by beside 1/√cin.
    """

    def __init__(self, cin: int, cout: int, bias: float = 0.0, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin) / lr_mul)
        self.bias = nn.Parameter(torch.full((cout,), bias / lr_mul))
        self.lr_mul = lr_mul

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """``(..., cin)`` → ``(..., cout)``, multiplied by ``gain``."""
        scale = self.lr_mul * gain
        weight = self.weight * (scale / math.sqrt(self.weight.shape[1]))
        return F.linear(x, weight, self.bias * scale)


class EqualConv(nn.Module):
    """Convolution with an equalised learning rate: ``(B, cin, h, w)`` → ``(B, cout, h, w)``.

    Args:
        cin: Channels of the input.
        cout: Channels of the output.
        kernel: Side of the kernel, 1 or 3.
        bias: Whether there is one.
        down: Blur and halve the maps.
    """

    def __init__(
        self, cin: int, cout: int, kernel: int, bias: bool = True, down: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None
        self.scale = 1 / math.sqrt(cin * kernel * kernel)
        self.down = down

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Convolve and multiply by ``gain``; no activation."""
        weight = self.weight * (self.scale * gain)
        bias = None if self.bias is None else self.bias * gain
        side = weight.shape[-1]
        if not self.down:
            return F.conv2d(x, weight, bias, padding=side // 2)
        if side == 1:  # the kernel sees single pixels: halve first
            return F.conv2d(downsample(x), weight, bias)
        return F.conv2d(blur(x, (2, 2)), weight, bias, stride=2)


class Mapping(nn.Module):
    """z → w: normalisation to mean square 1, then layers that learn a hundredth as fast.

    Args:
        z_dim: Z.
        w_dim: W.
        layers: Their number.
        lr_mul: Their learning rate over that of other layers.
    """

    def __init__(self, z_dim: int, w_dim: int, layers: int, lr_mul: float = 0.01) -> None:
        super().__init__()
        lengths = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(EqualLinear(a, b, lr_mul=lr_mul) for a, b in pairwise(lengths))

    def forward(self, z: Tensor) -> Tensor:
        """``(B, Z)`` → ``(B, W)``, float32 also under autocast."""
        with torch.autocast(z.device.type, enabled=False):
            x = z.float()
            x = x * (x.square().mean(1, keepdim=True) + _EPS).rsqrt()
            for layer in self.layers:
                x = activate(layer(x, _GAIN))
        return x


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and activation.

    Args:
        cin: Channels of the input.
        cout: Channels of the output.
        w_dim: W.
        size: Side of the output.
        up: The input is half as large.
        clamp: Largest absolute value of the output; 0: any.
    """

    noise: Tensor

    def __init__(
        self, cin: int, cout: int, w_dim: int, size: int, up: bool, clamp: float = 0.0
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.style = EqualLinear(w_dim, cin, 1.0)
        self.weight = nn.Parameter(torch.randn(cout, cin, 3, 3))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(size, size))
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: str = "random", gain: float = 1.0) -> Tensor:
        """Return ``(B, cout, size, size)``.

        Args:
            x: ``(B, cin, h, h)``.
            w: ``(B, W)``.
            noise: One of ``NOISE``.
            gain: What the output is multiplied by.
        """
        scale = _GAIN * gain  # leaky ReLU lets a positive factor through: apply it before
        with torch.autocast(x.device.type, enabled=False):
            s = self.style(w.float())
            # W'_oi = W_oi s_i; demodulation makes every output's variance 1 (eq. 3).
            d = (s.square() @ self.weight.square().sum((2, 3)).mT + _EPS).rsqrt() * scale
            bias = self.bias * scale
            side = 2 * x.shape[-1] if self.up else x.shape[-1]
            grain: Tensor | None = None  # one channel, which is far less than all
            if noise == "random":
                grain = torch.randn(len(x), 1, side, side, device=x.device)
            elif noise == "const":
                grain = self.noise[None, None]
            if grain is not None:
                grain = grain * (self.noise_strength * scale)
        x = x * s.to(x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = blur(x, (1, 1), 4.0)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = torch.addcmul(bias.to(x.dtype)[:, None, None], x, d.to(x.dtype)[:, :, None, None])
        if grain is not None:
            x += grain.to(x.dtype)
        return activate(x, self.clamp * gain)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: maps → colours, float32."""

    def __init__(self, cin: int, w_dim: int, clamp: float = 0.0) -> None:
        super().__init__()
        self.clamp = clamp
        self.style = EqualLinear(w_dim, cin, 1.0)
        self.weight = nn.Parameter(torch.randn(3, cin, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``(B, cin, h, h)`` and ``(B, W)`` → ``(B, 3, h, h)``."""
        with torch.autocast(x.device.type, enabled=False):
            s = self.style(w.float()) / math.sqrt(self.weight.shape[1])
            # The kernel is small here, and the maps are large: the style goes into the kernel.
            kernel = self.weight[None, :, :, 0, 0] * s[:, None]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        rgb: Tensor = (pixels @ kernel.to(x.dtype).mT).float() + self.bias
        if self.clamp:
            rgb = rgb.clamp(-self.clamp, self.clamp)
        return rgb.view(len(x), x.shape[2], x.shape[3], 3).permute(0, 3, 1, 2)


class SynthesisBlock(nn.Module):
    """The layers of one map size; ``styles`` of them, and ToRGB where the architecture has one.

    Args:
        cin: Channels of the maps of half the size; 0 for the first block, a learned constant.
        cout: Channels.
        w_dim: W.
        size: Side of the maps.
        architecture: One of ``ARCHITECTURES``.
        last: Whether this is the last block.
        clamp: Largest absolute value of maps and colours; 0: any.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        w_dim: int,
        size: int,
        architecture: str,
        last: bool,
        clamp: float,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        if cin:
            self.conv0 = StyledConv(cin, cout, w_dim, size, True, clamp)
            if architecture == "resnet":
                self.skip = EqualConv(cin, cout, 1, bias=False)
        else:
            self.const = nn.Parameter(torch.randn(cout, size, size))
        self.conv1 = StyledConv(cout, cout, w_dim, size, False, clamp)
        self.styles = 2 if cin else 1
        if last or architecture == "skip":
            self.torgb = ToRGB(cout, w_dim, clamp)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: str
    ) -> tuple[Tensor, Tensor | None]:
        """Return maps and picture of this size from those of half of it.

        Args:
            x: ``(B, cin, h, h)``; None for the first block.
            image: ``(B, 3, h, h)`` or None.
            ws: ``(B, ≥ styles + 1, W)`` from this block's first style on.
            noise: One of ``NOISE``.
        """
        if x is None:
            x = self.const.expand(len(ws), *self.const.shape)
            x = x.contiguous(memory_format=torch.channels_last)
            x = self.conv1(x, ws[:, 0], noise)
        elif self.architecture == "resnet":
            skip = upsample(self.skip(x, _HALF))
            x = self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise, _HALF) + skip
        else:
            x = self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise)
        if image is not None:
            image = upsample(image)
        if hasattr(self, "torgb"):
            rgb = self.torgb(x, ws[:, self.styles])
            image = rgb if image is None else image + rgb
        return x, image


class Synthesis(nn.Module):
    """ws → picture."""

    def __init__(
        self,
        size: int,
        channel_base: int,
        channel_max: int,
        w_dim: int,
        architecture: str,
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [channels(s, channel_base, channel_max) for s in sizes(size)]
        self.blocks = nn.ModuleDict(
            {
                str(s): SynthesisBlock(cin, cout, w_dim, s, architecture, s == size, clamp)
                for s, cin, cout in zip(sizes(size), [0, *widths], widths, strict=False)
            }
        )
        self.num_ws = 2 * len(widths)

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
        x: Tensor | None = None
        image: Tensor | None = None
        first = 0
        for block in cast("Iterable[SynthesisBlock]", self.blocks.values()):
            x, image = block(x, image, ws[:, first:], noise)
            first += block.styles
        return cast("Tensor", image)


class Generator(nn.Module):
    """Mapping and synthesis.

    Attributes:
        mapping: z ``(B, Z)`` → w ``(B, W)``.
        synthesis: ws ``(B, L, W)`` → pictures.
        w_avg: ``(W,)``, mean of w.
        num_ws: L.

    Args:
        size: S.
        channel_base: Channels of maps of side r are this over r …
        channel_max: … but no more than this.
        z_dim: Z.
        w_dim: W.
        mapping_layers: Layers of the mapping network.
        architecture: How maps become pictures: ``skip`` (a sum over sizes), ``resnet``, ``orig``;
            ``adain``: the synthesis network of StyleGAN1 (``mien.nets.stylegan1``).
        clamp: Largest absolute value of maps and colours (NVIDIA's files: 256); 0: any.

    Raises:
        ConfigError: No such size or architecture.
    """

    w_avg: Tensor

    def __init__(
        self,
        size: int = 1024,
        channel_base: int = 32768,
        channel_max: int = 512,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        architecture: str = "skip",
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ConfigError(
                f"No architecture {architecture!r}{nearest(architecture, ARCHITECTURES)}"
            )
        self.size, self.z_dim, self.w_dim = size, z_dim, w_dim
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)
        if architecture == "adain":
            from mien.nets.stylegan1 import (
                AdaptiveSynthesis,
            )  # which is made of blocks of this file

            self.synthesis: Synthesis | AdaptiveSynthesis = AdaptiveSynthesis(
                size, channel_base, channel_max, w_dim
            )
        else:
            self.synthesis = Synthesis(size, channel_base, channel_max, w_dim, architecture, clamp)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    @property
    def num_ws(self) -> int:
        """L."""
        return self.synthesis.num_ws

    def spread(self, w: Tensor) -> Tensor:
        """Give every layer the same style: ``(B, W)`` → ``(B, L, W)``."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def truncate(self, ws: Tensor, psi: float, layers: int | None = None) -> Tensor:
        """Move styles ``(B, W)`` or ``(B, L, W)`` towards their mean: w_avg + ψ (w - w_avg).

        Args:
            ws: Styles.
            psi: ψ; 1 leaves them, 0 gives the mean face.
            layers: Only the first so many of L; all if None.
        """
        moved = self.w_avg.lerp(ws, psi)
        if layers is None or ws.ndim == 2:
            return moved
        return torch.cat([moved[:, :layers], ws[:, layers:]], 1)

    def forward(self, z: Tensor, psi: float = 1.0, noise: str = "random") -> Tensor:
        """Draw pictures ``(B, 3, S, S)`` from z ``(B, Z)`` with truncation ψ."""
        picture: Tensor = self.synthesis(self.spread(self.truncate(self.mapping(z), psi)), noise)
        return picture

    @torch.no_grad()
    def draw(self, count: int, psi: float = 1.0, seed: int = 0) -> Tensor:
        """Draw pictures ``(count, 3, S, S)``, about [-1, 1]; the same for the same seed.

        Args:
            count: Their number.
            psi: Truncation: 1 is all variety, 0 the mean face.
            seed: Of z. The noise is the stored one.
        """
        z = torch.randn(count, self.z_dim, generator=torch.Generator().manual_seed(seed))
        parts = torch.split(z.to(self.w_avg.device), _AT_ONCE)
        return torch.cat([self(part, psi, "const") for part in parts])


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the maps."""

    def __init__(self, cin: int, cout: int, clamp: float = 0.0) -> None:
        super().__init__()
        self.clamp = clamp
        self.conv0 = EqualConv(cin, cin, 3)
        self.conv1 = EqualConv(cin, cout, 3, down=True)
        self.skip = EqualConv(cin, cout, 1, bias=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, cin, 2h, 2h)`` → ``(B, cout, h, h)``."""
        y = activate(self.conv0(x, _GAIN), self.clamp)
        y = activate(self.conv1(y, _GAIN * _HALF), self.clamp * _HALF)
        skip: Tensor = self.skip(x, _HALF)
        if self.clamp:
            skip = skip.clamp(-self.clamp * _HALF, self.clamp * _HALF)
        return y + skip


class Discriminator(nn.Module):
    """Picture → logit; residual, with the standard deviation over the minibatch as a feature.

    Args:
        size: S.
        channel_base: As of ``Generator``.
        channel_max: As of ``Generator``.
        group: Pictures over which the deviation is taken; a batch is a multiple of it, or smaller.
        clamp: Largest absolute value of maps; 0: any.
    """

    def __init__(
        self,
        size: int = 1024,
        channel_base: int = 32768,
        channel_max: int = 512,
        group: int = 4,
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.group, self.clamp = size, group, clamp
        widths = {s: channels(s, channel_base, channel_max) for s in sizes(size)}
        self.from_rgb = EqualConv(3, widths[size], 1)
        # The entrance of the size before, while a network that grew from it fades over.
        self.from_rgb_half = EqualConv(3, widths[size // 2], 1) if size > 8 else None
        self.blocks = nn.ModuleDict(
            {
                str(s): DiscriminatorBlock(widths[s], widths[s // 2], clamp)
                for s in reversed(sizes(size)[1:])
            }
        )
        last = widths[4]
        self.conv = EqualConv(last + 1, last, 3)
        self.dense = EqualLinear(last * 16, last)
        self.logit = EqualLinear(last, 1)

    def forward(self, x: Tensor, fade: float = 1.0) -> Tensor:
        """Return logits ``(B,)``, float32.

        Args:
            x: ``(B, 3, S, S)``.
            fade: Below 1: the share of the largest block; the rest comes from the halved picture
                by the entrance of the smaller network (progressive growing).
        """
        y = activate(self.from_rgb(x, _GAIN), self.clamp)
        for size, block in self.blocks.items():
            y = block(y)
            if int(size) == self.size and fade < 1 and self.from_rgb_half is not None:
                half = activate(self.from_rgb_half(downsample(x), _GAIN), self.clamp)
                y = half.lerp(y, fade)
        y = activate(self.conv(self._deviation(y), _GAIN), self.clamp)
        with torch.autocast(x.device.type, enabled=False):
            y = at_least_single(y).flatten(1)
            logit: Tensor = self.logit(activate(self.dense(y, _GAIN)))
        return logit[:, 0]

    def _deviation(self, x: Tensor) -> Tensor:
        """Append one channel: the mean deviation over each group ``(B, C, h, h)``."""
        n = len(x)
        group = min(self.group, n)
        if n % group:
            raise ConfigError(f"The batch of {n} pictures is no multiple of {group}.")
        grouped = at_least_single(x).reshape(group, n // group, *x.shape[1:])
        deviation = (grouped.var(0, unbiased=False) + _EPS).sqrt().mean((1, 2, 3))
        wide = deviation.to(x.dtype).repeat(group)[:, None, None, None]
        return torch.cat([x, wide.expand(-1, 1, *x.shape[2:])], 1)
