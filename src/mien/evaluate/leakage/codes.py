"""What factors are decoded from: each code of an encoder, all of them together, the whole face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.descriptors import hog
from mien.evaluate.encoders import Encoder, code_sizes, encoder, with_code
from mien.evaluate.pictures import resize
from mien.faces.face import Array, Image

ALL, WHOLE = "all codes", "whole face"


def coder_of(spec: str | Encoder | Callable[[Image], Any]) -> tuple[Encoder, dict[str, int]]:
    """Return an encoder that gives all codes in one pass, and the length of each code.

    There are no lengths for an encoder that is one code.
    """
    sizes = code_sizes(spec) if isinstance(spec, str) else {}
    if isinstance(spec, str) and sizes:
        spec = with_code(spec, "+".join(sizes))
    return encoder(spec), sizes


def cut_apart(values: NDArray[Any], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return code → its columns of ``(N, D)``."""
    cuts = np.cumsum(list(sizes.values()))[:-1]
    parts = np.split(values.astype(np.float32), cuts, axis=1)
    return dict(zip(sizes, parts, strict=True))


def together(codes: Sequence[Array]) -> Array:
    """Return codes side by side, each scaled so that they weigh alike."""
    return np.concatenate([_scaled(code) for code in codes], 1)


def _scaled(values: Array) -> Array:
    """Return a code with unit variance in the mean of its dimensions, so that codes weigh alike."""
    spread = float(np.sqrt(values.var(0).mean()))
    return np.asarray((values - values.mean(0)) / max(spread, 1e-6), np.float32)


def _whole_face(crops: Image) -> Array:
    """Return HOG and the colours of 16 x 16 px ``(B, D)`` of crops ``(B, 64, 64, 3)``."""
    colours = resize(crops, 16).reshape(len(crops), -1).astype(np.float32) / 255
    return np.concatenate([hog(crops), colours], 1)


WHOLE_FACE = Encoder("HOG and colours", "whole/1", 64, _whole_face)
