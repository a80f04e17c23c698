"""Sheets of edited faces beside true ones, marked as edited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mien.faces.provenance import EditRecord, write_edited
from mien.methods.base import picture_grid

if TYPE_CHECKING:
    from mien.methods.base import Method


def write_sheet(path: Path, rows: list[Tensor], task: str, weights: str | Path | Method) -> None:
    """Write rows of faces under each other, with the record that ``mien inspect`` reads.

    Args:
        path: Target, a PNG file.
        rows: Each ``(B, 3, S, S)`` in [-1, 1].
        task: What was done to the edited ones.
        weights: What did it: a shipped name, a file, or a method in memory.
    """
    from mien import weights as store

    if isinstance(weights, (str, Path)):
        digest = str(store.card(weights).get("sha256", ""))
        record = EditRecord(task, 1.0, Path(weights).stem, digest)
    else:
        record = EditRecord(task, 1.0, weights.name)
    write_edited(path, picture_grid([row.clamp(-1, 1) for row in rows]), record)


def blank(images: Tensor) -> Tensor:
    """Return one white picture ``(1, 3, S, S)`` of the size of ``images``."""
    return torch.ones_like(images[:1])
