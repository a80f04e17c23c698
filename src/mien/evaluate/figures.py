"""Pictures of a report: confusion matrices and ROC curves. They show no face."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.evaluate.task import Result
from mien.files.atomic import atomic_path
from mien.files.errors import MissingExtraError


def have_matplotlib() -> bool:
    """Return whether matplotlib is installed (extra ``evaluate``)."""
    return importlib.util.find_spec("matplotlib") is not None


def save_figures(results: Sequence[Result], out: Path) -> list[Path]:
    """Write one confusion matrix a FER-2013 result and one ROC figure for all LFW results.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    made = []
    for result in results:
        if "confusion" in result.details:
            digest = hashlib.sha256(result.encoder.encode()).hexdigest()[:6]
            stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(result.encoder).name).strip("-")
            made.append(out / f"{result.task}-{stem}-{digest}.png")
            _save(_confusion(result), made[-1])
    curves = [r for r in results if "roc" in r.details.get("chosen", {})]
    if curves:
        made.append(out / "lfw-roc.png")
        _save(_roc(curves), made[-1])
    return made


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "evaluate") from None
    return Figure(figsize=(width, height), layout="constrained")


def _confusion(result: Result) -> Any:
    counts = np.array(result.details["confusion"], np.float64)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = result.details["classes"]
    figure = _figure(5.2, 4.6)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{result.encoder}: {100 * result.value:.2f} %")
    for (row, column), value in np.ndenumerate(share):
        colour = "white" if value > 0.5 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def _roc(results: Sequence[Result]) -> Any:
    figure = _figure(5.2, 4.6)
    axes = figure.subplots()
    for result in results:
        far, tar = np.array(result.details["chosen"]["roc"]).T
        axes.plot(far, tar, label=f"{result.encoder} ({100 * result.value:.2f} %)")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")
    axes.set_title("LFW View 2, held-out folds")
    axes.legend(fontsize=8)
    return figure


def _save(figure: Any, target: Path) -> None:
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
