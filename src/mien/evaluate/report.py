"""``evaluate``: encoders times tasks, as one table beside the published figures."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mien.evaluate.action_units import ActionUnits
from mien.evaluate.cache import default_folder
from mien.evaluate.cplfw import Cplfw
from mien.evaluate.encoders import Encoder, encoder
from mien.evaluate.expression import Expressions, RafDb
from mien.evaluate.fer2013 import Fer2013
from mien.evaluate.lfw import FALSE_ACCEPTS, Lfw
from mien.evaluate.maps import check_maps, save_maps
from mien.evaluate.official import PROTOCOLS
from mien.evaluate.pose import Pose
from mien.evaluate.tables import Faces, open_faces
from mien.evaluate.task import Result, SetTask, Settings, TableTask, Task, percent
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, nearest

SETS: dict[str, type[SetTask]] = {t.name: t for t in (Fer2013, RafDb, Lfw, Cplfw)}
LABELS: dict[str, type[TableTask]] = {t.name: t for t in (Expressions, Pose, ActionUnits)}
TASKS: dict[str, type[Task]] = {**SETS, **LABELS}
DEFAULT = ("fer2013", "lfw")
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
        budgets = {r.encoder: r.images_seen for r in self.results}
        if any(budgets.values()):
            heading.append("images seen")
            for n in names:
                rows[n].append(f"{budgets[n]:,}" if budgets[n] else "–")
            for row in published.values():
                row.append("–")
        for t in tasks:
            task = TASKS[t]
            heading += task.headings
            empty = ["–"] * len(task.headings)
            for n in names:
                result = found.get((n, t))
                rows[n] += empty if result is None else task.cells(result)
            for n, row in published.items():
                row += empty
                if n in task.published:
                    row[task.published_column - len(empty)] = f"{task.published[n]:.2f}"
            notes.append(task.note([r for r in self.results if r.task == t]))
            seen = [r.encoder for r in self.results if r.details.get("trained_on_this_set")
                    and r.task == t]  # fmt: skip
            if seen:
                title = "FER-2013" if t == "fer2013" else f"the set of the task {t}"
                notes.append(f"Trained on pictures of {title}: {', '.join(dict.fromkeys(seen))}.")
        if published:
            notes.append(f"Rows in italics: {PUBLISHED}.")
        table = markdown_table([heading, *rows.values(), *published.values()])
        parts = [table, *(_labelled(*part) for part in self._more())]
        return "\n".join(parts) + "\n".join(["", *notes, ""])

    def _more(self) -> list[tuple[str, list[list[str]]]]:
        """Return headings and rows of the tables that only some tasks have."""
        few = [["encoder", "task", "1 %", "10 %", "100 %", "nearest neighbours"]]
        rates = [["encoder", "task", *(f"TAR at FAR {100 * r:g} %" for r in FALSE_ACCEPTS), "AUC"]]
        units: list[list[str]] = []
        for r in self.results:
            own = r.details.get("few_labels", {}), r.details.get("knn")
            if any(own):
                share = {k: f"{100 * v['accuracy']:.2f} ± {100 * v['deviation']:.2f}"
                         for k, v in own[0].items()}  # fmt: skip
                knn = f"{100 * own[1]['accuracy']:.2f} (k = {own[1]['k']})" if own[1] else "–"
                row = [r.encoder, r.task, share.get("0.01", "–"), share.get("0.1", "–")]
                few.append([*row, f"{100 * r.value:.2f}", knn])
            if "tar_at" in r.details.get("chosen", {}):
                entry = r.details["chosen"]
                cells = [
                    percent(entry["tar_at"][str(f)], entry["tar_interval"][str(f)])
                    for f in FALSE_ACCEPTS
                ]
                rates.append([r.encoder, r.task, *cells, f"{entry['auc']:.4f}"])
            if "units" in r.details:
                measured = r.details["units"]
                units = units or [["encoder", *measured]]
                units.append([r.encoder, *(f"{100 * u['f1']:.1f}" for u in measured.values())])
        named = [
            ("Labels used, accuracy % (± standard deviation over draws)", few),
            ("True accepts [95 %]", rates),
            ("F1 % of each unit", units),
        ]
        return [(name, rows) for name, rows in named if len(rows) > 1]

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
    tasks: Sequence[str] = DEFAULT,
    *,
    data: str | Path | None = None,
    tables: Sequence[str | Path] = (),
    test_tables: Sequence[str | Path] = (),
    out: str | Path | None = None,
    protocol: str = "mien",
    knn: bool = False,
    few_labels: bool = False,
    folds: int = 0,
    cut: float | None = None,
    limit: int = 0,
    tsne: Sequence[str] = (),
    umap: Sequence[str] = (),
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
        tasks: Public sets (``fer2013``, ``rafdb``, ``lfw``, ``cplfw``) and labels of tables
            (``expression``, ``pose``, ``action-units``).
        data: Folder that holds the public sets, each in a folder called like its task.
        tables: For labels: tables of faces, or ``READER:DIR`` for a set whose pictures are crops
            already. Tested on are their test split, or persons that were not trained on.
        test_tables: For labels: tables to test on instead.
        out: Folder for ``report.json``, ``report.md`` and figures; None writes nothing.
        protocol: ``mien``, or the probe and choices of ``facecycle`` or ``pcl``.
        knn: Expressions: nearest neighbours too.
        few_labels: Expressions: with 1 % and 10 % of the labels too.
        folds: Folds of whole persons, where a table has no test split; 0: 5, action units 3.
        cut: Intensity from which an action unit counts as present; None: as the set has it.
        limit: Take so many faces of each table at random; 0: all.
        tsne: Columns (``person``, ``expression``, ``yaw`` …) to colour a t-SNE map of the tables'
            faces by; needs ``out``.
        umap: The same for a UMAP map; needs the extra ``umap``.
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
        TableError: A test set is missing or has another layout; no such column.
        WeightsError: No such weights.
        MissingExtraError: A package of an extra is not installed.
    """
    if not encoders:
        raise ConfigError("Nothing to evaluate: name at least one encoder, e.g. hog.")
    for name in tasks:
        if name not in TASKS:
            raise ConfigError(f"No task {name!r}{nearest(name, TASKS)}")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"No protocol {protocol!r}{nearest(protocol, PROTOCOLS)}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")
    if folds < 0 or folds == 1:
        raise ConfigError(f"folds must be 2 or more, not {folds}.")
    maps = {"tsne": tsne, "umap": umap}
    if any(maps.values()) and out is None:
        raise ConfigError("A map (t-SNE, UMAP) is a picture: say where to with --out.")
    settings = Settings(clean, flip, align, seed, batch_size, protocol, knn, few_labels, folds, cut)
    folder = default_folder() if cache is True else Path(cache) if cache else None
    # Encoders are built and columns looked up first: a misspelt one must not cost an hour.
    built = {
        name: [encoder(spec, TASKS[name].factor) for spec in encoders]
        for name in dict.fromkeys(tasks)
    }
    faces: Faces | None = None
    if any(maps.values()) or any(name in LABELS for name in built):
        faces = open_faces(tables, test_tables, seed=seed, limit=limit)
        check_maps(faces, maps)
    results = []
    for name, ready in built.items():
        task = _task(name, data, faces)
        for one in ready:
            result = task.run(one, settings, folder, progress)
            results.append(replace(result, images_seen=one.images_seen))
    report = Report(results, package_versions())
    if out is not None:
        report.save(Path(out))
    if any(maps.values()) and out is not None and faces is not None:
        for one in [encoder(spec) for spec in encoders]:
            save_maps(one, faces, maps, Path(out), settings, folder, progress)
    return report


def _task(name: str, data: str | Path | None, faces: Faces | None) -> Task:
    if name in LABELS and faces is not None:
        return LABELS[name].of(faces)
    if data is None:
        raise ConfigError(f"The task {name} needs --data, the folder that holds {name}/.")
    return SETS[name].read(Path(data) / name)


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


def _labelled(title: str, rows: list[list[str]]) -> str:
    return f"{title}:\n\n{markdown_table(rows)}"
