"""How true edits are: on people with a neutral and another picture, never trained on.

The other picture is the truth of a transfer, the neutral one of a neutralised face; leaving the
picture as it is ("copy") is the baseline of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.data.cache import FaceCache
from mien.evaluate.quality import NO_JAW, interocular, l1, nme, ssim, symmetry
from mien.evaluate.report import markdown_table, package_versions
from mien.faces.face import Array
from mien.faces.landmarks import Landmarker
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from mien.methods.base import Method

SIZE = 64
_BATCH = 32
_REPEATS = 2000


@dataclass(frozen=True)
class EditReport:
    """Measures of edits, each beside the baseline of leaving the picture as it is.

    Attributes:
        measures: Name → ``edited``, ``copy`` and ``interval`` (95 %, of the edited mean).
        data: Persons, pairs and the table's fingerprint.
        settings: Weights, crop size, what the landmarks were measured by.
        versions: Versions of Python and packages.
    """

    measures: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure."""
        rows = [["measure", "edited [95 %]", "copy"]]
        for name, entry in self.measures.items():
            low, high = entry["interval"]
            rows.append(
                [name, f"{entry['edited']:.4f} [{low:.4f}, {high:.4f}]", f"{entry['copy']:.4f}"]
            )
        note = f"{self.data['pairs']} pairs of {self.data['persons']} persons, {SIZE} px crops."
        return markdown_table(rows) + f"\n{note}\n"

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "edits",
            "measures": self.measures,
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }


def evaluate_edits(
    weights: str | Path | Method,
    table: str | Path,
    *,
    out: str | Path | None = None,
    seed: int = 0,
) -> EditReport:
    """Measure ``neutralise`` and ``transfer_expression``.

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of faces with persons and expressions, one of them ``neutral``.
        out: Folder for ``edits.json`` and ``edits.md``.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: The method cannot neutralise or transfer expressions.
        TableError: No person has a neutral and another picture.
    """
    from mien import weights as store

    method = store.load(weights) if isinstance(weights, (str, Path)) else weights
    for edit in ("neutralise", "transfer_expression"):
        if not callable(getattr(method, edit, None)):
            raise ConfigError(f"The method {method.name} has no edit {edit!r}.")
    cache = FaceCache(table, SIZE)
    neutral, other = _pairs(cache)
    runs = [
        _measure(
            method, _images(cache, neutral[i : i + _BATCH]), _images(cache, other[i : i + _BATCH])
        )
        for i in range(0, len(neutral), _BATCH)
    ]
    measures = {}
    rng = np.random.default_rng(seed)
    for name in runs[0]:
        edited, copy = (np.concatenate([run[name][k] for run in runs]) for k in (0, 1))
        draws = rng.choice(edited, (_REPEATS, len(edited))).mean(1)
        measures[name] = {
            "edited": float(edited.mean()),
            "copy": float(copy.mean()),
            "interval": [float(v) for v in np.quantile(draws, (0.025, 0.975))],
        }
    report = EditReport(
        measures,
        {
            "pairs": len(neutral),
            "persons": len(np.unique(cache.person[neutral])),
            "fingerprint": cache.fingerprint,
            "datasets": cache.info["datasets"],
        },
        {
            "weights": str(weights) if isinstance(weights, (str, Path)) else method.name,
            "size": SIZE,
            "landmarks": "the shipped landmark network, on the crops",
            "seed": seed,
        },
    )
    if out is not None:
        write_json(Path(out) / "edits.json", report.as_json())
        write_text(Path(out) / "edits.md", report.markdown())
    return report


def _pairs(cache: FaceCache) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of neutral pictures and of another expression of the same persons."""
    named = (cache.person >= 0) & (cache.expression != "")
    first: dict[int, int] = {}
    for row in np.flatnonzero(named & (cache.expression == "neutral")):
        first.setdefault(int(cache.person[row]), int(row))
    other = [r for r in np.flatnonzero(named & (cache.expression != "neutral"))
             if int(cache.person[r]) in first]  # fmt: skip
    if not other:
        raise TableError(
            f"{cache.table.folder} has no person with a neutral and another picture; prepare a set "
            "that has, e.g. `mien prepare london:DIR --out TABLE`."
        )
    return np.array([first[int(cache.person[r])] for r in other]), np.array(other)


def _images(cache: FaceCache, rows: np.ndarray) -> Tensor:
    return cache.take(rows).float().div_(127.5).sub_(1.0)


def _measure(method: Any, neutral: Tensor, other: Tensor) -> dict[str, tuple[Array, Array]]:
    """Return measure → values of the edited pictures, values of the copies."""
    with torch.inference_mode():
        neutralised = method.neutralise(other).images
        transferred = method.transfer_expression(neutral, other).images
    points = {
        name: _landmarks(images)
        for name, images in (
            ("neutral", neutral),
            ("other", other),
            ("neutralised", neutralised),
            ("transferred", transferred),
        )
    }

    def apart(a: str, b: str) -> Array:
        return 100 * nme(points[a], points[b], NO_JAW)

    def both(measure: Any, edited: Tensor, copy: Tensor, true: Tensor) -> tuple[Array, Array]:
        return measure(edited, true).numpy(), measure(copy, true).numpy()

    return {
        "transfer L1": both(l1, transferred, neutral, other),
        "transfer SSIM": both(ssim, transferred, neutral, other),
        "transfer landmarks % eyes": (apart("transferred", "other"), apart("neutral", "other")),
        "neutralise L1": both(l1, neutralised, other, neutral),
        "neutralise SSIM": both(ssim, neutralised, other, neutral),
        "neutralise landmarks % eyes": (apart("neutralised", "neutral"), apart("other", "neutral")),
        "asymmetry of neutralised": (symmetry(neutralised).numpy(), symmetry(other).numpy()),
        "mouth width, eyes": (_mouth(points["neutralised"]), _mouth(points["other"])),
    }


def _landmarks(images: Tensor) -> Array:
    """Measure ``(B, 68, 2)`` in pixels of the crops."""
    side = images.shape[-1]
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    box = np.array([[0.06 * side, 0.06 * side, 0.94 * side, 0.94 * side]], np.float32)
    found = Landmarker()([np.ascontiguousarray(p) for p in pixels], [box] * len(pixels))
    return np.concatenate([f.points for f in found])


def _mouth(points: Array) -> Array:
    """Return the width of the mouth over the inter-ocular distance ``(B,)``."""
    return np.asarray(np.linalg.norm(points[:, 48] - points[:, 54], axis=-1) / interocular(points))
