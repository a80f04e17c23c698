"""The networks of PairedCycleGAN for one region of the face.

G(x, y) and F(y) are dilated residual networks: no layer makes the maps smaller, dilation widens
what a place sees. They draw a residual, which is added to the picture. D_X, D_Y and D_S are the
patch discriminators of ``mien.nets.adversarial``. ``width`` is w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nets.adversarial import PatchDiscriminator

PADDINGS = ("reflect", "zeros")
_EPSILON = 1e-5


class _Dilated(nn.Module):
    """Residual block: two dilated 3x3 convolutions, each with instance normalisation."""

    def __init__(self, channels: int, dilation: int, padding: str) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, channels, padding, dilation)
        self.conv2 = _conv3(channels, channels, padding, dilation)
        self.norm1 = _Norm(channels)
        self.norm2 = _Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.norm1(self.conv1(x)))
        y = x + self.norm2(self.conv2(y))
        return y


class Generator(nn.Module):
    """Pictures side by side → a residual ``(B, 3, S, S)`` in (-1, 1).

    Args:
        pictures: 2 for G (x and y), 1 for F (y).
        channels: Of each picture as it is given.
        width: w, channels of each stem of G; the body has 2w.
        blocks: Residual blocks; their dilations are 1, 2, 4, ….
        fold: Side of the squares of pixels that become channels of one place: 1 is the paper's
            network; 2 quarters the work and loses nothing of the picture.
        norm: Whether the stems normalise too, which hides how bright a picture is on the whole.
        padding: ``reflect``, or ``zeros``, which is faster.
    """

    def __init__(
        self,
        pictures: int,
        channels: int,
        width: int,
        blocks: int,
        fold: int,
        norm: bool,
        padding: str,
    ) -> None:
        super().__init__()
        body = 2 * width
        self.fold = fold
        self.stems = nn.ModuleList(
            _stem(channels * fold**2, body // pictures, fold, norm, padding)
            for _ in range(pictures)
        )
        self.blocks = nn.Sequential(*(_Dilated(body, 2**i, padding) for i in range(blocks)))
        # Against the grid that dilated convolutions leave.
        self.smooth = nn.Sequential(_conv3(body, body, padding, 2), _Norm(body), nn.ReLU())
        self.out = _conv3(body, 3 * fold**2, padding)
        if fold > 1:  # pixels of a place start alike, so that there is no pattern to unlearn
            first = self.out.weight.data[:: fold**2] / fold
            self.out.weight.data.copy_(first.repeat_interleave(fold**2, 0))
            self.out.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, *pictures: Tensor) -> Tensor:
        """``(B, channels, S, S)`` each → ``(B, 3, S, S)``, float32."""
        folded = (F.pixel_unshuffle(p, self.fold) if self.fold > 1 else p for p in pictures)
        maps = [stem(p) for stem, p in zip(self.stems, folded, strict=True)]
        y: Tensor = self.out(self.smooth(self.blocks(torch.cat(maps, 1)))).float()
        if self.fold > 1:
            y = F.pixel_shuffle(y, self.fold)
        return y.tanh()


class StyleDiscriminator(PatchDiscriminator):
    """D_S: two pictures side by side → a logit a patch, whether they wear the same make-up."""

    def embed(self, y: Tensor) -> Tensor:
        """Return what D_S makes of a picture ``(B, 3, S, S)`` beside itself, ``(B, D)``.

        Mean and deviation of the last maps before the logits: the make-up's style.
        """
        maps = self.net[:-1](torch.cat([y, y], 1)).float().flatten(2)
        return torch.cat([maps.mean(2), maps.std(2)], 1)


def _stem(cin: int, cout: int, fold: int, norm: bool, padding: str) -> nn.Sequential:
    kernel = 7 if fold == 1 else 3  # of folded places: 6 pixels or more
    conv = nn.Conv2d(cin, cout, kernel, 1, kernel // 2, padding_mode=padding)  # type: ignore[arg-type]
    return nn.Sequential(conv, *([_Norm(cout)] if norm else []), nn.ReLU())


def _conv3(cin: int, cout: int, padding: str, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, 1, dilation, dilation, padding_mode=padding)  # type: ignore[arg-type]


class _Norm(nn.Module):
    """Instance normalisation with a scale and a shift a channel.

    The library's copies maps that lie channels last into another layout and back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _InstanceNorm.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True, dtype=torch.float32)
        squares = x.square().mean((2, 3), keepdim=True, dtype=torch.float32)
        rate = ((squares - mean.square()).clamp_min(0) + _EPSILON).rsqrt()
        scale = weight[:, None, None] * rate
        ctx.save_for_backward(x, weight, mean, rate)
        return torch.addcmul(bias[:, None, None] - mean * scale, x, scale).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mean, rate = ctx.saved_tensors
        places = x.shape[2] * x.shape[3]
        total = dy.sum((2, 3), keepdim=True, dtype=torch.float32)
        along = (dy * x).sum((2, 3), keepdim=True, dtype=torch.float32)
        along = rate * (along - mean * total)  # dy · x̂
        # dx = γ σ⁻¹ (dy - mean(dy) - x̂ mean(dy · x̂)) = a dy + b x + c
        a = weight[:, None, None] * rate
        b = -a * rate * along / places
        c = -a * total / places - b * mean
        dx = torch.addcmul(torch.addcmul(c, x, b), dy, a).to(x.dtype)
        return dx, along.sum((0, 2, 3)), total.sum((0, 2, 3))
