"""The figures of a publication beside ours, measured as it measured them, where the data is there.

The published figures of FaceCycle are those of its project's README (Chang et al., ICCV 2021). PCL
(Liu et al., CVPR 2023) publishes no table with its code, so its column stays empty rather than be
filled from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.evaluate.cplfw import Cplfw
from mien.evaluate.encoders import Encoder, code_sizes, encoder
from mien.evaluate.expression import RafDb
from mien.evaluate.fer2013 import Fer2013
from mien.evaluate.lfw import Lfw
from mien.evaluate.report import TASKS, evaluate, markdown_table, package_versions
from mien.evaluate.tables import ANGLES
from mien.evaluate.task import Result, SetTask
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, MienError, nearest

POSE_TRAIN, POSE_TEST = "300w_lp", "aflw2000"
# Side of the pictures that the convolutional features are taken of, where it is not the native one.
SIZES = {
    ("facecycle", "rafdb"): 100,
    ("pcl", "fer2013"): 100,
    ("pcl", "rafdb"): 100,
    ("pcl", "pose"): 256,
}


@dataclass(frozen=True)
class _Row:
    """A published figure.

    Attributes:
        measure: What it is.
        task: Task that measures it.
        figure: As published; None: no figure is known.
        unit: ``%`` or ``°``.
        ours: Takes it out of a result.
    """

    measure: str
    task: str
    figure: float | None
    unit: str
    ours: Callable[[Result], float]


def _accuracy(result: Result) -> float:
    return 100 * result.value


def _raw(result: Result) -> float:
    """The publication says "directly applied": the plain cosine."""
    return 100 * float(result.details["raw"]["accuracy"])


def _angle(name: str) -> Callable[[Result], float]:
    return lambda result: float(result.details["angles"][name]["mae"])


def _rows(name: str) -> list[_Row]:
    pose = {"facecycle": (11.70, 12.76, 12.94)}.get(name, (None, None, None))
    sets: list[tuple[str, type[SetTask], Callable[[Result], float]]] = [
        ("FER-2013, linear probe", Fer2013, _accuracy),
        ("RAF-DB, linear probe", RafDb, _accuracy),
        ("LFW, cosine", Lfw, _raw),
        ("CPLFW, cosine", Cplfw, _raw),
    ]
    known = name == "facecycle"
    rows = [
        _Row(words, task.name, task.published["FaceCycle"] if known else None, "%", take)
        for words, task, take in sets
    ]
    return rows + [
        _Row(f"300W-LP → AFLW2000, {angle} MAE", "pose", figure, "°", _angle(angle))
        for angle, figure in zip(ANGLES, pose, strict=True)
    ]


PUBLICATIONS = {
    "facecycle": "Chang et al., FaceCycle, ICCV 2021, figures of the project's README",
    "pcl": "Liu et al., PCL, CVPR 2023; no table of figures is published with the code",
}


@dataclass(frozen=True)
class Reproduction:
    """A publication's figures beside ours.

    Attributes:
        publication: ``facecycle`` or ``pcl``.
        encoder: What was measured.
        rows: ``measure``, ``published``, ``ours``, ``difference`` (ours minus theirs), ``unit``,
            ``fingerprint`` of the data, or ``missing``: why there is no figure of ours.
        results: The results behind the rows.
        versions: Versions of Python and packages.
    """

    publication: str
    encoder: str
    rows: list[dict[str, Any]]
    results: list[Result]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a figure."""
        table = [["measure", "published", "ours", "difference", "data"]]
        notes = []
        for row in self.rows:
            unit = row["unit"]
            table.append(
                [
                    row["measure"],
                    "–" if row["published"] is None else f"{row['published']:.2f} {unit}",
                    "–" if row["ours"] is None else f"{row['ours']:.2f} {unit}",
                    "–" if row["difference"] is None else f"{row['difference']:+.2f}",
                    row["fingerprint"][:12] or "not there",
                ]
            )
            if row["missing"] and row["missing"] not in notes:
                notes.append(row["missing"])
        notes.insert(0, f"Published: {PUBLICATIONS[self.publication]}. Ours: {self.encoder}.")
        used = dict.fromkeys(
            f"{TASKS[r.task].headings[0]}: {r.settings['protocol']}." for r in self.results
        )
        return markdown_table(table) + "\n" + "\n".join([*notes, *used]) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "reproduce",
            "publication": self.publication,
            "source": PUBLICATIONS[self.publication],
            "encoder": self.encoder,
            "rows": self.rows,
            "results": [r.as_json() for r in self.results],
            "versions": self.versions,
        }


def reproduce(
    publication: str,
    spec: str | Encoder | Callable[[Image], Any] = "",
    *,
    data: str | Path,
    out: str | Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
    cache: str | Path | bool = True,
    progress: bool = True,
) -> Reproduction:
    """Measure an encoder as a publication measured its own.

    Args:
        publication: ``facecycle`` or ``pcl``.
        spec: Encoder; empty: the shipped weights of that name. Of weights without ``@`` the
            convolutional features are taken, at the publication's size.
        data: Folder that holds ``fer2013/``, ``rafdb/``, ``lfw/``, ``cplfw/`` and, for head pose,
            ``300w_lp`` and ``aflw2000``: each a table of faces, or the arrays of FSA-Net (a folder
            of ``.npz`` or ``NAME.npz``), which the publications use. What is missing is told.
        out: Folder for ``reproduce.json`` and ``reproduce.md``; None writes nothing.
        seed: Seed of everything random.
        batch_size: Pictures in a call of the encoder.
        cache: As in ``evaluate``.
        progress: Show progress bars.

    Raises:
        ConfigError: No such publication.
        WeightsError: No such weights.
    """
    if publication not in PUBLICATIONS:
        raise ConfigError(f"No publication {publication!r}{nearest(publication, PUBLICATIONS)}")
    chosen = spec or publication
    encoder(chosen)  # wrong weights may not look like missing data
    root = Path(data)
    rows = _rows(publication)
    found: dict[str, Result] = {}
    missing: dict[str, str] = {}
    for task in dict.fromkeys(row.task for row in rows):
        given: dict[str, list[str]] = {}
        try:
            if task == "pose":
                train, test = (_pose_set(root, name) for name in (POSE_TRAIN, POSE_TEST))
                given = {"tables": [train], "test_tables": [test]}
            report = evaluate(
                [_sized(chosen, publication, task)],
                [task],
                data=root,
                protocol=publication,
                seed=seed,
                batch_size=batch_size,
                cache=cache,
                progress=progress,
                tables=given.get("tables", ()),
                test_tables=given.get("test_tables", ()),
            )
            found[task] = report.results[0]
        except MienError as error:
            missing[task] = f"{task}: {error}"
    made = [_compared(row, found.get(row.task), missing.get(row.task, "")) for row in rows]
    name = chosen if isinstance(chosen, str) else encoder(chosen).name
    done = Reproduction(publication, name, made, list(found.values()))
    if out is not None:
        write_json(Path(out) / "reproduce.json", done.as_json())
        write_text(Path(out) / "reproduce.md", done.markdown())
    return done


def _sized(
    spec: str | Encoder | Callable[[Image], Any], publication: str, task: str
) -> str | Encoder | Callable[[Image], Any]:
    """Return the spec with the publication's size; features alone can be taken at any."""
    size = SIZES.get((publication, task))
    if not size or not isinstance(spec, str) or ",size=" in spec or not code_sizes(spec):
        return spec
    return f"{spec},size={size}"


def _pose_set(root: Path, name: str) -> str:
    """Return a table, or the arrays of FSA-Net, as ``evaluate`` takes them."""
    folder, file = root / name, root / f"{name}.npz"
    if (folder / "table.json").is_file():
        return str(folder)
    if file.is_file():
        return f"pose_npz:{file}"
    if folder.is_dir() and any(folder.glob("*.npz")):
        return f"pose_npz:{folder}"
    raise ConfigError(
        f"{folder} is neither a table of faces nor a folder of FSA-Net's .npz arrays; make a table "
        f"with `mien prepare {name}:DIR --out {folder}`."
    )


def _compared(row: _Row, result: Result | None, missing: str) -> dict[str, Any]:
    ours = None if result is None else row.ours(result)
    difference = None if ours is None or row.figure is None else ours - row.figure
    return {
        "measure": row.measure,
        "published": row.figure,
        "ours": ours,
        "difference": difference,
        "unit": row.unit,
        "fingerprint": "" if result is None else str(result.data["fingerprint"]),
        "missing": missing,
    }
