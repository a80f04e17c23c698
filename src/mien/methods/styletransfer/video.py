"""Expression transfer over the frames of a video, by crops of one fixed place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mien.files.errors import ConfigError
from mien.methods.base import Edit
from mien.methods.styletransfer.inversion import Settings
from mien.methods.styletransfer.method import StyleTransfer


def transfer_video(
    method: StyleTransfer,
    images: Iterable[Tensor],
    drivers: Iterable[Tensor],
    *,
    neutral: Tensor | None = None,
    strength: float = 1.0,
    first: Settings | None = None,
    later: int = 10,
    smoothing: float = 0.5,
) -> Iterator[Edit]:
    """Put the expressions of a driving video on a video, frame by frame.

    The inversion of frame t starts from the codes of frame t - 1 and needs few steps; the codes
    that are mixed are an exponential mean over time, so that the face does not flicker. The crops
    must come from one place in all frames: a crop that follows the face anew would tremble.

    Args:
        method: In evaluation mode.
        images: Crops ``(3, S, S)`` in [-1, 1] of the video, one a frame; a single one is a still
            picture that the driver moves, if it is repeated (``itertools.repeat``).
        drivers: Crops of the driving video; the shorter of the two ends the result.
        neutral: A neutral crop ``(3, S, S)`` of the driver: the layers then move by the difference.
        strength: From 0 to 1.
        first: How the first frames are inverted, after E.
        later: Steps of every later frame.
        smoothing: Share of the frames before in the mean over time; 0 turns it off.

    Yields:
        One edit of one image ``(1, 3, S, S)`` a frame.

    Raises:
        ConfigError: A share or a strength out of range.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing is a share from 0 to below 1, not {smoothing}.")
    if not 0 <= strength <= 1:
        raise ConfigError(f"The strength of an edit lies between 0 and 1, not at {strength}.")
    first = first or Settings(method.config.invert_steps, method.config.invert_rate)
    # The schedule of a long descent would jump away from codes that are nearly right.
    after = replace(first, steps=later, learning_rate=first.learning_rate / 2)
    rest = None if neutral is None else method.invert(neutral[None], first).codes
    codes: Tensor | None = None
    mean: Tensor | None = None
    for image, driver in zip(images, drivers, strict=False):
        pair = torch.stack([image, driver])
        if codes is None:
            codes = method.invert(pair, first).codes
        else:
            codes = method.invert(pair, after, codes).codes
        mean = codes if mean is None else codes.lerp(mean, smoothing)
        source, target = mean[:1], mean[1:]
        if rest is not None:
            target = source + target - rest
        yield method.carried(pair[:1], source, method.exchanged(source, target, strength), strength)
