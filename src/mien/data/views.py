"""Views of pictures for contrastive learning: whole batches, every picture its own parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mien.data.augment import (
    color_jitter,
    gaussian_blur,
    grayscale,
    horizontal_flip,
    random_resized_crop,
    sobel,
)


@dataclass(frozen=True)
class ViewSettings:
    """How strongly colours and detail change; the defaults are PCL's. Nothing moves.

    Attributes:
        brightness: Strength of the colour jitter, as ``contrast``, ``saturation`` and ``hue``.
        contrast: See ``color_jitter``.
        saturation: See ``color_jitter``.
        hue: See ``color_jitter``.
        jitter: Share of pictures whose colours change.
        gray: Share of grey pictures.
        blur: Share of blurred pictures.
        sigma: Smallest and largest width of the blur in pixels.
        sobel: Share of pictures that become the strength of their edges.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter: float = 0.8
    gray: float = 0.2
    blur: float = 0.8
    sigma: tuple[float, float] = (0.1, 2.0)
    sobel: float = 0.6


def draw_view(x: Tensor, generator: torch.Generator, settings: ViewSettings) -> Tensor:
    """Change colours and detail of ``(B, 3, S, S)`` in [-1, 1], in the order of the publication."""
    s = settings
    x = color_jitter(x, generator, s.brightness, s.contrast, s.saturation, s.hue, p=s.jitter)
    x = grayscale(x, generator, p=s.gray)
    taps = 2 * (x.shape[-1] // 20) + 1  # a tenth of the side: 7 of 64 pixels
    x = gaussian_blur(x, generator, s.sigma, p=s.blur, taps=taps)
    return sobel(x, generator, p=s.sobel)


def moved_crops(
    x: Tensor,
    generator: torch.Generator,
    area: tuple[float, float] = (0.2, 1.0),
    mirror: float = 0.5,
) -> Tensor:
    """Cut pictures ``(B, 3, S, S)`` at random places and sizes and mirror some of them.

    Args:
        x: Values are not looked at.
        generator: Source of randomness.
        area: Smallest and largest share of the picture's area.
        mirror: Share of mirrored crops.
    """
    x = random_resized_crop(x, generator, area, (3 / 4, 4 / 3))
    return horizontal_flip(x, generator, mirror)[0]


def step_generator(like: Tensor) -> torch.Generator:
    """Return a generator on the device of ``like``, a function of torch's global state.

    The engine makes that state a function of (seed, rank, step): views drawn within a step repeat
    as batches do.
    """
    seed = int(torch.randint(1 << 62, ()))
    return torch.Generator(device=like.device).manual_seed(seed)
