"""Networks of DeRL. The publication has no layer tables: sizes here are ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.nets.blocks import conv3

GROUPS = 4  # of layers of equal size, 1/2 to 1/16 of the picture


class Generator(nn.Module):
    """G: a face ``(B, 3, H, W)`` in [-1, 1] → the same person's neutral face.

    Encoder and decoder have layers of the same sizes: w at 1/2, 2w at 1/4, 4w at 1/8, 8w at 1/16.

    Args:
        width: w.
        skips: U-Net: the decoder sees the encoder's layers.
    """

    def __init__(self, width: int, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        sizes = [width * 2**i for i in range(GROUPS)]
        self.down = nn.ModuleList()
        for i, cout in enumerate(sizes):
            conv = nn.Conv2d(sizes[i - 1] if i else 3, cout, 4, 2, 1, bias=i == 0)
            norm = nn.BatchNorm2d(cout) if i else nn.Identity()
            self.down.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
        self.up = nn.ModuleList()
        for i, cout in reversed(list(enumerate(sizes))):
            cin = sizes[-1] if i == GROUPS - 1 else sizes[i + 1]
            if skips and i < GROUPS - 1:
                cin += cout
            layers = [conv3(cin, cout), nn.BatchNorm2d(cout), nn.ReLU()]
            self.up.append(
                nn.Sequential(*layers, conv3(cout, cout), nn.BatchNorm2d(cout), nn.ReLU())
            )
        self.last = nn.Conv2d(width, 3, 5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the neutral face ``(B, 3, H, W)`` in [-1, 1]."""
        return self.deposit(x)[0]

    def deposit(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the neutral face and the layers of encoder and decoder, largest first."""
        encoded = []
        for layer in self.down:
            x = layer(x)
            encoded.append(x)
        decoded: list[Tensor] = []
        for i, layer in enumerate(self.up):
            if i:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                if self.skips:
                    x = torch.cat([x, encoded[-1 - i]], 1)
            x = layer(x)
            decoded.insert(0, x)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.tanh(self.last(x)), encoded, decoded


class LocalCnn(nn.Module):
    """The local network of one group ``(B, C, h, w)``: features ``(B, width)`` and logits."""

    def __init__(self, channels: int, size: int, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        cin, cout = channels, width // 2
        while True:
            for _ in range(2):
                steps += [conv3(cin, cout), nn.BatchNorm2d(cout), nn.ReLU()]
                cin = cout
            if size <= 4:
                break
            steps.append(nn.MaxPool2d(2))
            size, cout = size // 2, width
        self.layers = nn.Sequential(*steps)
        self.features = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(cin, width))
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last hidden layer ``(B, width)`` and logits ``(B, classes)``."""
        y = F.relu(self.features(F.adaptive_avg_pool2d(self.layers(x), 1)))
        return y, self.classify(y)
