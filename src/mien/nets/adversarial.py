"""Losses of generative adversarial networks and the discriminator of image patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mien.files.errors import ConfigError, nearest

KINDS = ("logistic", "least-squares", "hinge")


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "logistic") -> Tensor:
    """Return what D minimises.

    ``logistic`` is the published -log D(real) - log(1 - D(fake)), from logits.

    Args:
        real: Logits of real pictures, any shape.
        fake: Logits of generated ones.
        kind: One of ``KINDS``.

    Raises:
        ConfigError: Another kind.
    """
    if kind == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "least-squares":
        return (real - 1).square().mean() + fake.square().mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    raise ConfigError(f"No adversarial loss {kind!r}{nearest(kind, KINDS)}")


def generator_loss(fake: Tensor, kind: str = "logistic") -> Tensor:
    """Return what G minimises, from D's logits of its pictures (``logistic``: -log D)."""
    if kind == "logistic":
        return F.softplus(-fake).mean()
    if kind == "least-squares":
        return (fake - 1).square().mean()
    if kind == "hinge":
        return -fake.mean()
    raise ConfigError(f"No adversarial loss {kind!r}{nearest(kind, KINDS)}")


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """½ E ||∇ D(x)||² over real pictures (Mescheder, Geiger, Nowozin, ICML 2018).

    Args:
        logits: D's logits of ``real``, computed outside autocast.
        real: ``(B, C, H, W)`` that requires a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., *Image-to-image translation*, CVPR 2017): a logit for each patch.

    4x4 convolutions of stride 2 with leaky ReLU, then two of stride 1; spectral normalisation in
    place of batch normalisation, so that a picture's logits do not depend on its batch.

    Args:
        channels: Of the input (a condition and a picture side by side).
        width: Channels of the first layer.
        layers: Strided layers; 3 are pix2pix's, with patches of 70 pixels.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        cin = channels
        for i in range(layers + 1):
            cout = width * min(2**i, 8)
            conv = nn.Conv2d(cin, cout, 4, 2 if i < layers else 1, 1)
            steps += [spectral_norm(conv), nn.LeakyReLU(0.2)]
            cin = cout
        steps.append(spectral_norm(nn.Conv2d(cin, 1, 4, 1, 1)))
        self.net = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, 1, h, w)`` of ``(B, channels, H, W)``."""
        y: Tensor = self.net(x)
        return y
