"""``evaluate``: encoders times tasks, as one table beside the published figures."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mien.evaluate.cache import default_folder
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.fer2013 import Fer2013
from mien.evaluate.lfw import Lfw
from mien.evaluate.task import Result, Settings, Task
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, nearest

TASKS: dict[str, type[Task]] = {task.name: task for task in (Fer2013, Lfw)}
PUBLISHED = "as published by Chang et al., FaceCycle, ICCV 2021, in the project's README"

_PACKAGES = ("mien", "torch", "numpy", "opencv-python-headless", "onnxruntime")
_FORMAT = 1


@dataclass(frozen=True)
class Report:
    """Results of encoders on tasks.

    Attributes:
        results: One an encoder and task, in the order they were asked for.
        versions: Versions of Python and of the packages that matter.
    """

    results: list[Result]
    versions: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table: a row an encoder, a column a measure, then the published rows."""
        tasks = [t for t in TASKS if any(r.task == t for r in self.results)]
        names = list(dict.fromkeys(r.encoder for r in self.results))
        found = {(r.encoder, r.task): r for r in self.results}
        heading, rows = ["encoder"], {n: [n] for n in names}
        published = {n: [f"*{n}, published*"] for t in tasks for n in TASKS[t].published}
        notes = []
        if "fer2013" in tasks:
            heading.append("FER-2013 %")
            for n in names:
                rows[n].append(_interval(found.get((n, "fer2013"))))
            for n, row in published.items():
                row.append(_percent(Fer2013.published.get(n)))
            chosen = next(r for r in self.results if r.task == "fer2013").settings
            notes.append(
                "FER-2013: linear probe, test accuracy [95 % bootstrap interval]; official split"
                + (" without the training pictures that also lie in it" if chosen["clean"] else "")
                + ("; pictures aligned by the landmark network." if chosen["align"] else ".")
            )
        if "lfw" in tasks:
            heading += ["LFW %", "LFW % raw cosine"]
            for n in names:
                result = found.get((n, "lfw"))
                rows[n] += [_folds(result, "chosen"), _folds(result, "raw")]
            for n, row in published.items():
                row += [_percent(None), _percent(Lfw.published.get(n))]
            notes.append(
                "LFW: View 2, mean of ten folds ± standard error; principal components, whitening "
                "and threshold chosen on the nine other folds, beside the cosine of the embeddings "
                "as they are (the publication does not say how it scored pairs)."
            )
        seen = [r.encoder for r in self.results if r.details.get("trained_on_this_set")]
        if seen:
            notes.append(f"Trained on pictures of FER-2013: {', '.join(dict.fromkeys(seen))}.")
        notes.append(f"Rows in italics: {PUBLISHED}.")
        return markdown_table([heading, *rows.values(), *published.values()]) + "\n".join(
            ["", *notes, ""]
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        tasks = dict.fromkeys(r.task for r in self.results)
        return {
            "format": _FORMAT,
            "results": [r.as_json() for r in self.results],
            "published": {t: TASKS[t].published for t in tasks},
            "published_source": PUBLISHED,
            "versions": self.versions,
        }

    def save(self, out: Path) -> None:
        """Write ``report.json``, ``report.md`` and, if matplotlib is installed, the figures."""
        from mien.evaluate.figures import have_matplotlib, save_figures

        write_json(out / "report.json", self.as_json())
        write_text(out / "report.md", self.markdown())
        if have_matplotlib():
            save_figures(self.results, out)


def evaluate(
    encoders: Sequence[str | Encoder | Callable[[Image], Any]],
    tasks: Sequence[str] = tuple(TASKS),
    *,
    data: str | Path,
    out: str | Path | None = None,
    clean: bool = False,
    flip: bool = False,
    align: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> Report:
    """Measure encoders on public test sets.

    Args:
        encoders: Specs as in ``mien.evaluate.encoders``, or callables from uint8 ``(B, S, S, 3)``
            RGB crops to ``(B, D)``.
        tasks: Of ``fer2013`` and ``lfw``.
        data: Folder that holds ``fer2013/`` and ``lfw/``.
        out: Folder for ``report.json``, ``report.md`` and figures; None writes nothing.
        clean: FER-2013: train without the pictures that also lie in validation or test.
        flip: Average the embeddings of each picture and its mirror image.
        align: FER-2013: align the pictures by the landmark network first.
        seed: Seed of PCA and bootstrap.
        batch_size: Pictures in a call of an encoder.
        cache: Folder for embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars.

    Returns:
        The report; ``print(report.markdown())`` shows the table.

    Raises:
        ConfigError: No encoder, unknown task, unknown option of an encoder.
        TableError: A test set is missing or has another layout.
        WeightsError: No such weights.
    """
    if not encoders:
        raise ConfigError("Nothing to evaluate: name at least one encoder, e.g. hog.")
    for name in tasks:
        if name not in TASKS:
            raise ConfigError(f"No task {name!r}{nearest(name, TASKS)}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")
    settings = Settings(clean, flip, align, seed, batch_size)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    # All encoders are built before any set is read: a misspelt one must not cost an hour.
    built = {
        name: [encoder(spec, TASKS[name].factor) for spec in encoders]
        for name in dict.fromkeys(tasks)
    }
    results = []
    for name, ready in built.items():
        task = TASKS[name].read(Path(data) / name)
        results += [task.run(one, settings, folder, progress) for one in ready]
    report = Report(results, package_versions())
    if out is not None:
        report.save(Path(out))
    return report


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter for the figures."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(result: Result | None) -> str:
    if result is None:
        return "–"
    low, high = result.interval
    return f"{100 * result.value:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _folds(result: Result | None, treatment: str) -> str:
    if result is None:
        return "–"
    entry = result.details[treatment]
    return f"{100 * entry['accuracy']:.2f} ± {100 * entry['error']:.2f}"
