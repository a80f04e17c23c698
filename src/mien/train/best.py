"""The best weights of a training by what its method measures, kept whatever comes after them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from mien.files.errors import WeightsError
from mien.files.weights import mend_card, save_weights
from mien.methods.base import Score


class Best:
    """A weight file that only better weights replace.

    The file holds its card, so that the rename of one file decides; a process that is killed at any
    instant leaves the old or the new weights. Steps that a resumed training repeats give the same
    measures again and replace nothing.

    Args:
        file: Where the weights lie, ending in ``.safetensors``.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.value = math.nan  # nothing was kept yet

    def resume(self) -> None:
        """Take over what an earlier process kept, if anything.

        Raises:
            WeightsError: The file is damaged.
        """
        if not self.file.is_file():
            return
        told = mend_card(self.file).get("best")
        if not isinstance(told, dict) or not isinstance(told.get("value"), float):
            raise WeightsError(f"{self.file} does not say what it is best at; move it away.")
        self.value = float(told["value"])

    def beaten_by(self, score: Score) -> bool:
        """Whether a score is better than what is kept; one that is no number never is."""
        if not math.isfinite(score.value):
            return False
        if math.isnan(self.value):
            return True
        return score.value < self.value if score.lower_is_better else score.value > self.value

    def keep(self, score: Score, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
        """Put weights in the place of those that were kept."""
        told = {"measure": score.name, "value": float(score.value)}
        save_weights(self.file, tensors, {**card, "best": told}, inside=True)
        self.value = float(score.value)
