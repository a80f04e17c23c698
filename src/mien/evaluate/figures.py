"""Pictures of a report: confusion, ROC, pose, action units. They show no face."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.evaluate.tables import ANGLES
from mien.evaluate.task import Result
from mien.files.atomic import atomic_path
from mien.files.errors import MissingExtraError


def have_matplotlib() -> bool:
    """Return whether matplotlib is installed (extra ``evaluate``)."""
    return importlib.util.find_spec("matplotlib") is not None


def save_figures(results: Sequence[Result], out: Path) -> list[Path]:
    """Write a confusion matrix or a pose scatter a result, one ROC and one bar chart a task.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    made = []
    for result in results:
        for detail, draw in (("confusion", _confusion), ("scatter", _scatter)):
            if detail in result.details:
                made.append(out / f"{result.task}-{stem(result.encoder)}.png")
                save(draw(result), made[-1])
    for task in dict.fromkeys(r.task for r in results):
        own = [r for r in results if r.task == task]
        if "roc" in own[0].details.get("chosen", {}):
            made.append(out / f"{task}-roc.png")
            save(_roc(own), made[-1])
        if "units" in own[0].details:
            made.append(out / f"{task}.png")
            save(_bars(own), made[-1])
    return made


def stem(encoder: str) -> str:
    """Return a file name for an encoder, different for different specs."""
    digest = hashlib.sha256(encoder.encode()).hexdigest()[:6]
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(encoder).name).strip("-") + f"-{digest}"


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sizes in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "evaluate") from None
    return Figure(figsize=(width, height), layout="constrained")


def _confusion(result: Result) -> Any:
    counts = np.array(result.details["confusion"], np.float64)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = result.details["classes"]
    figure = new_figure(5.2, 4.6)
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
    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    for result in results:
        far, tar = np.array(result.details["chosen"]["roc"]).T
        axes.plot(far, tar, label=f"{result.encoder} ({100 * result.value:.2f} %)")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")
    axes.set_title(f"{results[0].task}, held-out folds")
    axes.legend(fontsize=8)
    return figure


def _scatter(result: Result) -> Any:
    points = np.array(result.details["scatter"], np.float64)
    figure = new_figure(9.6, 3.6)
    for i, (axes, angle) in enumerate(zip(figure.subplots(1, 3), ANGLES, strict=True)):
        truth, guess = points[:, i], points[:, 3 + i]
        low, high = float(points[:, [i, 3 + i]].min()), float(points[:, [i, 3 + i]].max())
        axes.plot([low, high], [low, high], color="grey", linestyle=":")
        axes.scatter(truth, guess, s=5, alpha=0.4, linewidths=0)
        entry = result.details["angles"][angle]
        axes.set_title(f"{angle}: MAE {entry['mae']:.1f}°, R² {entry['r2']:.2f}", fontsize=10)
        axes.set_xlabel("true, degrees")
        axes.set_ylabel("predicted, degrees" if i == 0 else "")
    figure.suptitle(f"{result.encoder} on {result.data['names']}", fontsize=10)
    return figure


def _bars(results: Sequence[Result]) -> Any:
    units = list(results[0].details["units"])
    figure = new_figure(max(5.2, 0.6 * len(units) + 2), 3.8)
    axes = figure.subplots()
    width = 0.8 / len(results)
    for k, result in enumerate(results):
        entries = [result.details["units"][unit] for unit in units]
        values = np.array([e["f1"] for e in entries])
        ends = np.array([e["interval"] for e in entries])
        bars = np.maximum(np.stack([values - ends[:, 0], ends[:, 1] - values]), 0)
        place = np.arange(len(units)) + (k - (len(results) - 1) / 2) * width
        label = f"{result.encoder} (mean {100 * result.value:.1f} %)"
        axes.bar(place, values, width, yerr=bars, label=label, error_kw={"linewidth": 0.8})
    always = [results[0].details["units"][unit]["f1_of_always"] for unit in units]
    axes.plot(np.arange(len(units)), always, "k_", markersize=14, label="always present")
    axes.set_xticks(range(len(units)), units, rotation=45, ha="right")
    axes.set_ylim(0, 1)
    axes.set_ylabel("F1")
    axes.legend(fontsize=8)
    return figure


def save(figure: Any, target: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
