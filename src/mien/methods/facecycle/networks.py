"""The four networks of FaceCycle (spec §1.3; parameter counts are tested).

``width`` is the number of channels of the first layer: 64 in the paper. Shapes in comments are for
a 64 px input and width w.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.data.warp import at_least_single, inverse_flow, warp
from mien.nets.blocks import LinearAttention, ResidualBlock, Stem, conv3, he_init, lrelu
from mien.nets.vgg import Vgg19

CODE = 256  # length of c_exp and c_id


class Encoder(Stem):
    """Image → code ``(B, 256)`` in (-1, 1). E_exp and E_id are two of these.

    ``stage_features`` is fully convolutional (any size); ``forward`` needs 64 px, for which the
    flattened features are 2w·4·4 long.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__(width)
        w = width
        act = nn.LeakyReLU(0.1)
        self.layer3_1 = nn.Sequential(conv3(2 * w, 4 * w, 2), act, conv3(4 * w, 4 * w), act)  # 4²
        self.layer3_2 = nn.Sequential(conv3(4 * w, 4 * w), act, conv3(4 * w, 2 * w), act)  # 2w 4²
        self.fc = nn.Sequential(
            nn.Linear(2 * w * 16, 512), nn.LeakyReLU(0.1), nn.Linear(512, CODE), nn.Tanh()
        )
        he_init(self)

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield w 32², 2w 16², 2w 8², 4w 4², 2w 4² for a 64 px input."""
        for y in super().stage_outputs(x):
            yield y
        y = self.layer3_1(y)
        yield y
        yield self.layer3_2(y)

    def forward(self, x: Tensor) -> Tensor:
        """Return the code ``(B, 256)`` of ``x`` ``(B, 3, 64, 64)``."""
        code: Tensor = self.fc(self.stage_features(x))
        return code


class FlowDecoder(nn.Module):
    """Expression code ``(B, 256)`` → flow ``(B, 2, 16, 16)`` in (-1, 1)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        c = 4 * width
        self.expand = nn.Conv2d(CODE, 16 * c, 1)  # then PixelShuffle(4): c 4²
        self.attention1 = LinearAttention(c)
        self.conv1 = conv3(c, c)
        self.conv2 = conv3(c, c // 2)
        self.attention2 = LinearAttention(c // 2)
        self.conv3 = conv3(c // 2, c // 2)
        self.resblock1 = ResidualBlock(c // 2)
        self.resblock2 = ResidualBlock(c // 2)
        self.conv4 = conv3(c // 2, c // 4)
        self.to_flow = nn.Conv2d(c // 4, 2, 1, bias=False)
        he_init(self)
        for layer in (self.conv4, self.to_flow):
            nn.init.normal_(layer.weight, 0, 0.05)  # flow is near the identity at the start

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow that removes the expression and its inverse."""
        x = lrelu(F.pixel_shuffle(self.expand(code[:, :, None, None]), 4))
        x = lrelu(self.conv1(self.attention1(x)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = lrelu(self.conv3(self.attention2(lrelu(self.conv2(x)))))
        x = self.resblock2(self.resblock1(x))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = lrelu(self.conv4(x))
        with torch.autocast(x.device.type, enabled=False):  # a place needs more than 8 bits
            flow = torch.tanh(self.to_flow(at_least_single(x)))
        return flow, inverse_flow(flow)


class NoiseEncoding(nn.Module):
    """Appearance residual from noise and the features' means: in-paints what a warp exposes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """``features`` and ``noise`` are ``(B, C, H, W)``; so is the residual."""
        mean = features.mean((2, 3), keepdim=True)
        return F.relu(self.conv2(F.relu(self.conv1(noise + mean))))


class Generator(nn.Module):
    """G(x, f): image and flow → image, by warping features at two scales.

    Args:
        width: Channels of the first layer (64 in the paper).
        blocks: Residual blocks at 1/4 of the resolution (8 in the paper).
        eval_noise: Keep the noise at evaluation, as published; otherwise it is zero there.
    """

    def __init__(self, width: int = 64, blocks: int = 8, eval_noise: bool = False) -> None:
        super().__init__()
        c = 4 * width
        self.eval_noise = eval_noise
        self.stem = Vgg19(("relu2_1", "relu3_1"), width)
        self.noise16 = NoiseEncoding(c)
        self.noise32 = NoiseEncoding(c // 2)
        self.reduce = conv3(c, c)
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(blocks)])
        self.up1 = nn.ConvTranspose2d(c, c // 2, 4, 2, 1)
        self.conv1 = conv3(c // 2, c // 2)
        self.up2 = nn.ConvTranspose2d(c, c // 2, 4, 2, 1)
        self.conv2 = conv3(c // 2, c // 2)
        self.to_rgb = conv3(c // 2, 3)

    def extract(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features that ``decode`` warps: 2w at 1/2 and 4w at 1/4 of the resolution."""
        a, b = self.stem(x)
        return a, b

    def decode(self, features: tuple[Tensor, Tensor], flow: Tensor | None) -> Tensor:
        """Warp the features by ``flow`` (or not), add the appearance residuals, draw the image."""
        a, b = features
        if flow is not None:
            a, b = self._warp(a, b, flow)
        return self._draw(a, b)

    def decode_both(self, features: tuple[Tensor, Tensor], flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``decode(features, flow)`` and ``decode(features, None)`` in one pass."""
        a, b = features
        warped_a, warped_b = self._warp(a, b, flow)
        drawn = self._draw(torch.cat([warped_a, a]), torch.cat([warped_b, b]))
        with_flow, without = drawn.chunk(2)
        return with_flow, without

    def _warp(self, a: Tensor, b: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        return (
            warp(a, flow) + self.noise32(a, self._noise(a)),
            warp(b, flow) + self.noise16(b, self._noise(b)),
        )

    def _draw(self, a: Tensor, b: Tensor) -> Tensor:
        y = self.blocks(F.relu(self.reduce(b)))
        y = F.relu(self.conv1(F.relu(self.up1(y))))
        y = F.relu(self.conv2(F.relu(self.up2(torch.cat([a, y], 1)))))
        return at_least_single(self.to_rgb(y))

    def forward(self, x: Tensor, flow: Tensor | None) -> Tensor:
        """``x`` ``(B, 3, H, W)``, ``flow`` ``(B, 2, h, w)`` or None → ``(B, 3, H, W)``."""
        return self.decode(self.extract(x), flow)

    def _noise(self, like: Tensor) -> Tensor:
        if self.training or self.eval_noise:
            return torch.randn_like(like)
        return torch.zeros_like(like)


class Renormalise(nn.Module):
    """Instance normalisation, then scale γ(c) and shift β(c); γ is used directly, not 1 + γ."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Conv2d(CODE, channels, 1)
        self.beta = nn.Conv2d(CODE, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """``x`` ``(B, C, H, W)`` or one for all, ``code`` ``(B, 256)``."""
        c = code[:, :, None, None]
        scaled: Tensor = F.instance_norm(x) * self.gamma(c) + self.beta(c)
        return scaled


class Normaliser(nn.Module):
    """N: neutral face → mean face (``denorm``) and mean face → neutral face (``renorm``)."""

    def __init__(self, width: int = 64, blocks: int = 7) -> None:
        super().__init__()
        c = 4 * width
        self.stem = Vgg19(("relu3_1",), width)
        self.denorm = Renormalise(c)
        self.renorm = Renormalise(c)
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(blocks)])
        self.up1 = nn.ConvTranspose2d(c, c // 2, 4, 2, 1)
        self.conv1 = conv3(c // 2, c // 2)
        self.up2 = nn.ConvTranspose2d(c // 2, c // 2, 4, 2, 1)
        self.to_rgb = nn.Conv2d(c // 2, 3, 1)

    def forward(self, x: Tensor, direction: str, code: Tensor) -> Tensor:
        """``x`` ``(B, 3, H, W)`` or one for all; ``direction`` is ``denorm`` or ``renorm``.

        ``code`` is c_id, ``(B, 256)``.
        """
        y = self.stem(x)[0]
        y = (self.denorm if direction == "denorm" else self.renorm)(y, code)
        y = self.blocks(y)
        y = F.relu(self.conv1(F.relu(self.up1(y))))
        return at_least_single(self.to_rgb(F.relu(self.up2(y))))
