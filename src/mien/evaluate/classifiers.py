"""How often a method's own classifier names the expression of a picture as a table does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mien.data.cache import FaceCache
from mien.data.labelled import class_numbers
from mien.evaluate.bootstrap import interval, mean_of
from mien.evaluate.classify import class_details
from mien.evaluate.judges import take
from mien.evaluate.report import markdown_table, package_versions
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from mien.methods.base import Method

_BATCH = 128


@dataclass(frozen=True)
class ClassifierReport:
    """Accuracy of the fused classifier and of every branch.

    Attributes:
        rows: Name → ``accuracy`` in percent, its 95 % ``interval``, and details by class.
        data: Pictures, split and the table's fingerprint.
        settings: Weights and classes.
        versions: Versions of Python and packages.
    """

    rows: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row for the fused classifier and one for each branch."""
        rows = [["classifier", "accuracy % [95 %]"]]
        for name, entry in self.rows.items():
            low, high = entry["interval"]
            rows.append([name, f"{entry['accuracy']:.2f} [{low:.1f}, {high:.1f}]"])
        d = self.data
        mirror = "; mean over picture and mirror image" if self.settings["flip"] else ""
        return (
            f"{markdown_table(rows)}\n{d['pictures']} pictures of the split {d['split']}, most "
            f"frequent class {d['majority']:.1f} %{mirror}; data {d['fingerprint'][:12]}.\n"
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "classifier",
            "rows": self.rows,
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }


def evaluate_classifier(
    weights: str | Path | Method,
    table: str | Path,
    *,
    split: str = "test",
    flip: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
) -> ClassifierReport:
    """Measure a method that names expressions (``classifiers``).

    Args:
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        table: Table of faces with expressions.
        split: Which of its pictures.
        flip: Average the probabilities of a picture and its mirror image.
        out: Folder for ``classifier.json`` and ``classifier.md``.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: The method names no expressions.
        TableError: The split shows none of the classes.
        WeightsError: Weights without their classifier.
    """
    from mien import weights as store

    method = store.load(weights) if isinstance(weights, (str, Path)) else weights
    if not callable(getattr(method, "classifiers", None)):
        raise ConfigError(f"The method {method.name} names no expressions; derl does.")
    classes: tuple[str, ...] = method.config.expressions
    number = class_numbers(classes)
    cache = FaceCache(table, int(method.config.size))
    rows = cache.select(split)
    rows = rows[np.isin(cache.expression[rows], list(number))]
    if not len(rows):
        raise TableError(f"{cache.table.folder} shows none of {', '.join(classes)} in {split!r}.")
    truth = np.array([number[str(word)] for word in cache.expression[rows]])
    said = predict(method, cache, rows, flip)
    groups = np.where(cache.person[rows] >= 0, cache.person[rows], -1 - np.arange(len(rows)))
    measured = {}
    for name, found in said.items():
        right = np.stack([found == truth, np.ones(len(rows))], 1)
        low, high = interval(right, groups, mean_of, seed)
        measured[name] = {
            "accuracy": 100 * float((found == truth).mean()),
            "interval": [100 * low, 100 * high],
            **class_details(truth, found, classes),
        }
    report = ClassifierReport(
        measured,
        {
            "pictures": len(rows),
            "split": split,
            "majority": 100 * float(np.bincount(truth).max() / len(truth)),
            "fingerprint": cache.fingerprint,
            "datasets": cache.info["datasets"],
        },
        {
            "weights": str(weights) if isinstance(weights, (str, Path)) else method.name,
            "classes": list(classes),
            "flip": flip,
            "seed": seed,
        },
    )
    if out is not None:
        write_json(Path(out) / "classifier.json", report.as_json())
        write_text(Path(out) / "classifier.md", report.markdown())
    return report


@torch.inference_mode()
def predict(method: Any, cache: FaceCache, rows: Any, flip: bool) -> dict[str, Any]:
    """Return classifier → class of each row ``(N,)``.

    Args:
        method: That names expressions.
        cache: Table of faces.
        rows: ``(N,)`` of it.
        flip: Average the probabilities of a picture and its mirror image.
    """
    parts: dict[str, list[Any]] = {}
    for start in range(0, len(rows), _BATCH):
        x = take(cache, rows[start : start + _BATCH])
        for view in (x, x.flip(-1)) if flip else (x,):
            for name, p in method.classifiers(view).items():
                parts.setdefault(name, []).append(p.numpy())
    views = 2 if flip else 1
    found = {}
    for name, values in parts.items():
        both = [sum(values[i : i + views]) for i in range(0, len(values), views)]
        found[name] = np.concatenate(both).argmax(1)
    return found
