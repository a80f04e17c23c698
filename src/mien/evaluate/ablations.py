"""Ablations: what a method loses without one of its parts, at equal budget and seed.

``recipes/METHOD/ablations.yaml`` lists, by stage, a recipe, how its weights are measured, and the
variants: a name and the settings that differ. Each is trained by the engine and measured by the
method's own evaluation. What is finished is not done again, what was cut off goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.cache import FaceCache
from mien.data.table import Table
from mien.evaluate.encoders import Encoder
from mien.evaluate.leakage.codes import ALL, WHOLE
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.runs import keep, table_mark, trained
from mien.evaluate.tables import open_faces
from mien.faces.face import Image
from mien.files.atomic import write_json, write_text
from mien.files.errors import ConfigError, nearest
from mien.files.weights import read_card
from mien.train.recipe import (
    ABLATIONS,
    ablation_files,
    find_recipe,
    load_recipe,
    override_pairs,
    parse_yaml,
)

FULL = "full"
_START = "init_from"  # the one key of a variant that is no setting of the recipe; only "none"

_PROBED = {"expression": "expression, accuracy", "pose": "pose, mean error in degrees"}

Spec = str | Encoder | Callable[[Image], Any]
Figures = dict[str, dict[str, Any]]  # measure → value and interval


@dataclass(frozen=True)
class Ablations:
    """One stage's entry of ``ablations.yaml``.

    Attributes:
        recipe: That the full method is trained by.
        measures: Names of ``MEASURES``.
        codes: Codes that ``probes`` look at.
        variants: Name → settings that differ from the recipe; ``init_from: none`` starts anew.
    """

    recipe: str
    measures: tuple[str, ...]
    codes: tuple[str, ...]
    variants: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """What the measures need: see ``ablate``."""

    tables: tuple[str, ...] = ()
    judge: Spec = ""
    landmark_judge: str = ""
    expression_judge: Spec = ""
    data: str | Path | None = None
    codes: tuple[str, ...] = ()
    pairs: int = 400
    seed: int = 0
    cache: str | Path | bool = True
    progress: bool = True


@dataclass(frozen=True)
class AblationReport:
    """Figures of every variant, and what they differ by from the full method's.

    Attributes:
        figures: Variant → measure → ``value`` and its 95 % ``interval``; of all but the full method
            also ``difference`` and ``difference_interval``.
        trainings: Variant → settings that differ, and pictures seen.
        data: Fingerprints of the tables that were trained and measured on.
        settings: Method, stage, recipe, budget, seed, measures and judges.
        missing: Variants that are not finished.
        versions: Versions of Python and packages.
    """

    figures: dict[str, Figures]
    trainings: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    missing: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a measure and one column a variant, then what was trained on what."""
        names = list(self.figures)
        heads = [f"{n}: value, difference [95 %]" if n != FULL else "full [95 %]" for n in names]
        rows = [["measure", *heads]]
        measures = dict.fromkeys(m for found in self.figures.values() for m in found)
        rows += [[m, *(_cell(self.figures[name].get(m)) for name in names)] for m in measures]
        s = self.settings
        changes = [["variant", "differs by"]]
        for name in names:
            told = self.trainings[name]["settings"]
            changes.append([name, ", ".join(f"{k}={v}" for k, v in told.items()) or "–"])
        tables = ", ".join(f"{t['table']} ({t['fingerprint'][:12]})" for t in self.data["train"])
        tests = ", ".join(f"{t['table']} ({t['fingerprint'][:12]})" for t in self.data["test"])
        notes = [
            f"{s['recipe']}, stage {s['stage']}: one training each of {s['images']} pictures in "
            f"batches of {s['batch_size']}, seed {s['seed']}; from {s['init_from'] or 'scratch'}.",
            f"Trained on {tables}; measured on {tests or 'the sets of the judges'}.",
            "The intervals are those of the measurement; that of a difference takes both as "
            "independent, which is wider than what the same pictures would allow. What another "
            "seed of the training would change is in neither.",
        ]
        if self.missing:
            notes.append(f"Not finished: {', '.join(self.missing)}.")
        return "\n".join([markdown_table(rows), markdown_table(changes), *notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "ablations",
            "figures": self.figures,
            "trainings": self.trainings,
            "data": self.data,
            "settings": self.settings,
            "missing": self.missing,
            "versions": self.versions,
        }


def ablate(
    method: str,
    *,
    out: str | Path,
    images: int = 0,
    tables: Sequence[str | Path] = (),
    test_tables: Sequence[str | Path] = (),
    stage: str = "",
    only: Sequence[str] = (),
    init_from: str | Path | None = None,
    overrides: Sequence[str] = (),
    judge: Spec = "",
    landmark_judge: str = "",
    expression_judge: Spec = "",
    data: str | Path | None = None,
    pairs: int = 400,
    threads: int = 0,
    accelerator: str = "auto",
    cache: str | Path | bool = True,
    progress: bool = True,
) -> AblationReport:
    """Train and measure a method whole and without each of its parts.

    Args:
        method: That has a list of ablations.
        out: Folder: one run a variant, and ``ablations.json`` and ``ablations.md``.
        images: Pictures of each training; 0: as the recipe says.
        tables: Tables to train on; the recipe's if empty.
        test_tables: Tables to measure on; those that are trained on if empty.
        stage: Stage whose ablations are meant; may be left out where the method has one such.
        only: Names of variants; the full method is always among them. Empty: all.
        init_from: Weights that every variant starts from, but those that start anew.
        overrides: ``key=value`` for all variants, as of ``mien train``.
        judge: Of identity, for ``swaps`` (which needs one) and ``edits``.
        landmark_judge: Of shape, for ``swaps``: ``dlib:FILE``; ours if empty.
        expression_judge: For ``swaps`` and ``edits``.
        data: Folder that holds ``fer2013/``, for ``expression_judge``.
        pairs: Pairs of persons that ``swaps`` takes.
        threads: CPU threads; 0: all.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        cache: Folder for embeddings; True: the user's cache folder; False: none.
        progress: Show progress bars of the measures.

    Returns:
        The report; where a training was stopped, of what is finished.

    Raises:
        ConfigError: No such list, stage or variant, or ``out`` holds trainings with other settings.
        TableError: A table is missing or does not serve.
    """
    chosen_stage, listed = _listed(method, stage)
    for name in only:
        if name not in (FULL, *listed.variants):
            raise ConfigError(f"No variant {name!r}{nearest(name, (FULL, *listed.variants))}")
    if "swaps" in listed.measures and not judge:
        raise ConfigError(f"Swaps of {method} need a judge of identity: --judge dlib:FILE.")
    common = dict(override_pairs(overrides))
    if images:
        common["images"] = images
    if tables:
        common["tables"] = [str(t) for t in tables]
    variants = {FULL: {}, **{n: v for n, v in listed.variants.items() if not only or n in only}}
    base = load_recipe(listed.recipe, common)
    tests = tuple(str(t) for t in test_tables or base.tables)
    given = Given(
        tests,
        judge,
        landmark_judge,
        expression_judge,
        data,
        listed.codes,
        pairs,
        base.seed,
        cache,
        progress,
    )
    judged = {
        "measures": list(listed.measures),
        "tables": [table_mark(t)["fingerprint"] for t in tests],
        "judges": [_said(judge), _said(landmark_judge), _said(expression_judge)],
        "pairs": pairs,
    }
    figures: dict[str, Figures] = {}
    trainings: dict[str, dict[str, Any]] = {}
    for name, changes in variants.items():
        folder = Path(out) / name
        start = None if changes.get(_START) == "none" else init_from
        settings = {k: v for k, v in changes.items() if k != _START}
        state = trained(
            folder,
            listed.recipe,
            common | settings,
            start,
            threads=threads,
            accelerator=accelerator,
        )
        if state is None:
            break
        weights = folder / "weights.safetensors"
        if state.get("measured") != judged:
            state["figures"] = {}
            for measure in listed.measures:
                state["figures"] |= MEASURES[measure](weights, given)
            state["measured"] = judged
            keep(folder, state)
        figures[name] = state["figures"]
        card = read_card(weights)
        trainings[name] = {"settings": changes, "images_seen": card["images_seen"]}
    for name, found in figures.items():
        if name != FULL:
            figures[name] = {m: _against(entry, figures[FULL].get(m)) for m, entry in found.items()}
    report = AblationReport(
        figures,
        trainings,
        {"train": [table_mark(t) for t in base.tables], "test": [table_mark(t) for t in tests]},
        {
            "method": method,
            "stage": chosen_stage,
            "recipe": listed.recipe,
            "overrides": {k: v for k, v in common.items() if k not in ("tables", "images")},
            "images": base.steps * base.batch_size,
            "batch_size": base.batch_size,
            "seed": base.seed,
            "init_from": _name(init_from),
            "pairs": pairs,
            "judges": judged["judges"],
        },
        [name for name in variants if name not in figures],
    )
    write_json(Path(out) / "ablations.json", report.as_json())
    write_text(Path(out) / "ablations.md", report.markdown())
    return report


# The list -----------------------------------------------------------------------------------------


def _listed(method: str, stage: str) -> tuple[str, Ablations]:
    """Return the stage that is meant and its ablations."""
    known = [folder.parent.name for folder in ablation_files()]
    if method not in known:
        raise ConfigError(f"No ablations of {method!r}{nearest(method, known)}")
    file = find_recipe(f"{method}/{ABLATIONS}")
    stages = parse_yaml(file)
    if stage and stage not in stages:
        raise ConfigError(f"{method} has no ablations of {stage!r}{nearest(stage, stages)}")
    if not stage and len(stages) > 1:
        raise ConfigError(
            f"{method} has ablations of the stages {' and '.join(stages)}; name one with --stage."
        )
    stage = stage or next(iter(stages))
    entry = stages[stage]
    for name in entry["measures"]:
        if name not in MEASURES:
            raise ConfigError(f"{file}: no measure {name!r}{nearest(name, MEASURES)}")
    for name, changes in entry["variants"].items():
        if changes.get(_START, "none") != "none":
            raise ConfigError(f"{file}: init_from of {name!r} can only be none.")
    return stage, Ablations(
        entry["recipe"], tuple(entry["measures"]), tuple(entry.get("codes", ())), entry["variants"]
    )


# Names --------------------------------------------------------------------------------------------


def _name(start: str | Path | None) -> str:
    return "" if start is None else Path(start).name


def _said(judge: Spec) -> str:
    """Return how a judge is called, without the folder of its file."""
    if not isinstance(judge, str):
        return judge.name if isinstance(judge, Encoder) else judge.__name__
    kind, colon, file = judge.partition(":")
    return f"{kind}{colon}{Path(file).name}" if colon else judge


# Measures -----------------------------------------------------------------------------------------


def _swaps(weights: Path, given: Given) -> Figures:
    from mien.evaluate.identity_swaps import evaluate_swaps

    report = evaluate_swaps(
        str(weights),
        given.tables[0],
        judge=given.judge,
        landmark_judge=given.landmark_judge,
        expression_judge=given.expression_judge,
        data=given.data,
        pairs=given.pairs,
        out=weights.parent / "report",
        seed=given.seed,
        cache=given.cache,
        progress=given.progress,
    )
    return _figures(report.measures, "swapped")


def _edits(weights: Path, given: Given) -> Figures:
    from mien.evaluate.edits import evaluate_edits

    report = evaluate_edits(
        str(weights),
        given.tables[0],
        judges=[given.judge] if given.judge else [],
        expression_judge=given.expression_judge,
        data=given.data,
        out=weights.parent / "report",
        seed=given.seed,
        cache=given.cache,
        progress=given.progress,
    )
    return _figures(report.measures, "edited")


def _classifier(weights: Path, given: Given) -> Figures:
    from mien.evaluate.classifiers import evaluate_classifier

    report = evaluate_classifier(
        str(weights), given.tables[0], flip=True, out=weights.parent / "report", seed=given.seed
    )
    return {f"accuracy %, {n}": figure for n, figure in _figures(report.rows, "accuracy").items()}


def _leakage(weights: Path, given: Given) -> Figures:
    """Return how well persons and expressions of the test split are told from each code."""
    from mien.evaluate.leakage import evaluate_leakage, factors_of

    faces = open_faces(given.tables[:1], splits=("test",))
    told = {factor.name for factor in factors_of(faces)} & {"identity", "expression"}
    if not told:
        return {}
    report = evaluate_leakage(
        str(weights),
        given.tables[:1],
        factors=sorted(told),
        splits=("test",),
        out=weights.parent / "report",
        seed=given.seed,
        cache=given.cache,
        progress=given.progress,
    )
    found: Figures = {}
    for code, row in report.cells.items():
        for factor, cell in row.items():
            if code not in (ALL, WHOLE):
                found[f"{factor} from the code {code} (0 chance, 1 all)"] = _figure(
                    cell["score"], cell["interval"]
                )
    return found


def _probes(weights: Path, given: Given) -> Figures:
    """Return expressions and pose by probes of the codes, of the tables that are labelled so."""
    from mien.evaluate.report import evaluate

    found: Figures = {}
    for table in given.tables:
        faces = FaceCache(table, int(Table(table).info["size"]))
        labelled = {
            "expression": bool((faces.expression != "").any()),
            "pose": bool(np.isfinite(faces.pose).any()),
        }
        report = evaluate(
            [f"{weights}@{code}" for code in given.codes],
            [name for name, told in labelled.items() if told],
            tables=[table],
            out=weights.parent / "report",
            seed=given.seed,
            cache=given.cache,
            progress=given.progress,
        )
        for i, result in enumerate(report.results):
            code = given.codes[i % len(given.codes)]
            found[f"{_PROBED[result.task]}, {code}, {Path(table).name}"] = _figure(
                result.value, result.interval
            )
    return found


MEASURES: dict[str, Callable[[Path, Given], Figures]] = {
    "swaps": _swaps,
    "edits": _edits,
    "classifier": _classifier,
    "leakage": _leakage,
    "probes": _probes,
}


def _figures(entries: Mapping[str, Mapping[str, Any]], key: str) -> Figures:
    return {name: _figure(entry[key], entry["interval"]) for name, entry in entries.items()}


def _figure(value: float, interval: Sequence[float]) -> dict[str, Any]:
    return {"value": float(value), "interval": [float(end) for end in interval]}


def _against(entry: dict[str, Any], full: dict[str, Any] | None) -> dict[str, Any]:
    """Return a figure with its difference from the full method's and the interval of that.

    By the distances of both values from the ends of their intervals, as if they were independent
    (Zou and Donner, Statistics in Medicine 2008).
    """
    if full is None:
        return entry
    a, (a_low, a_high) = entry["value"], entry["interval"]
    b, (b_low, b_high) = full["value"], full["interval"]
    low = ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    high = ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5
    return {**entry, "difference": a - b, "difference_interval": [a - b - low, a - b + high]}


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    shown, ends = entry["value"], entry["interval"]
    text = f"{shown:.4f}"
    if "difference" in entry:
        text += f", {entry['difference']:+.4f}"
        ends = entry["difference_interval"]
    return f"{text} [{ends[0]:.4f}, {ends[1]:.4f}]"
