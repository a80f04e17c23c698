"""Other frames of the same clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ClipPartners:
    """For every row the rows of the same clip; a row without a clip is its own partner.

    Args:
        cache: A table of faces.
        rows: Those that may be drawn.
    """

    def __init__(self, cache: Any, rows: NDArray[np.int64]) -> None:
        clip = np.full(len(cache), -1, np.int64)
        clip[rows] = cache.clip[rows]
        self.order = np.argsort(clip, kind="stable")
        ordered = clip[self.order]
        self.start = np.searchsorted(ordered, clip, "left")
        self.stop = np.searchsorted(ordered, clip, "right")
        self.known = clip >= 0

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return a random other row of the same clip for each of ``rows``."""
        low, count = self.start[rows], self.stop[rows] - self.start[rows]
        other = self.order[low + rng.integers(0, count)]
        again = other == rows  # one redraw makes "the same frame twice" rare, not impossible
        other[again] = self.order[low + rng.integers(0, count)][again]
        return np.where(self.known[rows], other, rows)
