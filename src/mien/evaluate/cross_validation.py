"""Person-disjoint cross-validation of a classifier over a frozen network.

Sets such as CK+, Oulu-CASIA and MMI have no split: in turn every fold of persons is measured by a
classifier that was trained on the others. The network under it comes from the stage before and is
the same in all folds; its training should not have seen the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.cache import FaceCache
from mien.data.labelled import class_numbers, expression_folds
from mien.evaluate.bootstrap import interval, mean_of
from mien.evaluate.classifiers import predict
from mien.evaluate.classify import class_details
from mien.evaluate.identity_swaps import trained_on
from mien.evaluate.report import markdown_table, package_versions
from mien.evaluate.runs import keep, table_mark, trained
from mien.files.atomic import sha256, write_json, write_text
from mien.files.errors import ConfigError, TableError
from mien.files.weights import load_weights, read_card, save_weights
from mien.methods.base import config_from, method_class
from mien.train.recipe import load_recipe, override_pairs

_BELOW = "below.safetensors"  # what the classifiers stand on
_SHAPE = ("width", "size", "skips")  # settings of DeRL that it has its shape from


@dataclass(frozen=True)
class FoldReport:
    """Accuracy over folds of persons.

    Attributes:
        rows: Classifier → ``folds`` (accuracy of each in percent), their ``mean`` and standard
            ``deviation``; over all pictures ``accuracy``, its 95 % ``interval`` by whole persons,
            and details by class.
        data: Pictures, persons, folds and the tables' fingerprints.
        settings: Weights, recipe and classes.
        versions: Versions of Python and packages.
    """

    rows: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    def markdown(self) -> str:
        """Return one row a classifier, and the confusion matrix of the fused one."""
        rows = [["classifier", "mean of folds % ± s.d.", "all pictures % [95 %]"]]
        for name, entry in self.rows.items():
            low, high = entry["interval"]
            mean = f"{entry['mean']:.2f} ± {entry['deviation']:.2f}"
            rows.append([name, mean, f"{entry['accuracy']:.2f} [{low:.1f}, {high:.1f}]"])
        first = next(iter(self.rows.values()))
        matrix = [["true, % called", *first["classes"]]]
        for name, counts in zip(first["classes"], first["confusion"], strict=True):
            total = max(sum(counts), 1)
            matrix.append([f"{name} ({sum(counts)})", *(f"{100 * n / total:.1f}" for n in counts)])
        d = self.data
        tables = ", ".join(f"{t['table']} ({t['fingerprint'][:12]})" for t in d["tables"])
        notes = [
            f"{d['pictures']} pictures of {d['persons']} persons in {d['folds']} folds of whole "
            f"persons, most frequent class {d['majority']:.1f} %; each classifier saw "
            f"{self.settings['images']} pictures of the other folds; {tables}."
        ]
        if d["seen_below"]:
            notes.append(
                "The network under the classifiers was, or may have been, trained on this set: it "
                "may know the persons that are measured."
            )
        return "\n".join([markdown_table(rows), markdown_table(matrix), *notes, ""])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "task": "cross-validation",
            "rows": self.rows,
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }


def cross_validate(
    weights: str | Path,
    tables: Sequence[str | Path],
    *,
    out: str | Path,
    folds: int = 10,
    recipe: str = "derl/laptop-classify",
    images: int = 0,
    overrides: Sequence[str] = (),
    flip: bool = False,
    seed: int = 0,
    threads: int = 0,
    accelerator: str = "auto",
) -> FoldReport | None:
    """Train and measure a classifier a fold.

    Args:
        weights: Shipped name or file of either stage; only the network under the classifiers is
            taken over.
        tables: Tables with persons and expressions.
        out: Folder: one run a fold, which is not trained again, and ``folds.json``, ``folds.md``.
        folds: Number of folds; persons go into them in the order of their names.
        recipe: That the classifiers are trained by.
        images: Pictures of each training; 0: as the recipe says.
        overrides: ``key=value`` as of ``mien train``. The classes are the tables' words, unless
            ``config.expressions`` is given.
        flip: Average the probabilities of a picture and its mirror image.
        seed: Seed of the bootstrap.
        threads: CPU threads; 0: all.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The report; None where a training was stopped.

    Raises:
        ConfigError: Weights of another method than the recipe's, or ``out`` holds other trainings.
        TableError: Pictures without a person, or too few persons.
        WeightsError: No such weights.
    """
    from mien import weights as store

    card = store.card(weights)
    asked = load_recipe(recipe)
    if card["method"] != asked.method:
        raise ConfigError(f"{weights} are weights of {card['method']}, {recipe} is not.")
    below = _below(weights, card, Path(out))
    size = int(card["config"]["size"])
    settings: dict[str, Any] = {f"config.{k}": card["config"][k] for k in _SHAPE}
    settings |= {"tables": [str(t) for t in tables], "size": size}
    settings |= {"images": images} if images else {}
    caches = [FaceCache(t, size) for t in tables]
    settings["config.expressions"] = _words(caches)
    settings |= dict(override_pairs(overrides)) | {"config.folds": folds}
    classes = settings["config.expressions"]
    number = class_numbers(classes)
    parts = expression_folds(caches, classes, folds)
    pictures = [(t, np.flatnonzero(part >= 0)) for t, part in enumerate(parts)]
    truth = np.concatenate([[number[w] for w in caches[t].expression[r]] for t, r in pictures])
    fold = np.concatenate([parts[t][r] for t, r in pictures])
    persons = np.concatenate([[f"{t}/{p}" for p in caches[t].person[r]] for t, r in pictures])
    said: dict[str, Any] = {}
    for k in range(folds):
        folder = Path(out) / f"fold-{k}"
        state = trained(
            folder, recipe, settings | {"config.fold": k}, below,
            threads=threads, accelerator=accelerator,
        )  # fmt: skip
        if state is None:
            return None
        if state.get("flip") != flip:
            method = store.load(folder / "weights.safetensors")
            found: dict[str, list[int]] = {}
            for t, part in enumerate(parts):
                rows = np.flatnonzero(part == k)
                if len(rows):
                    for name, value in predict(method, caches[t], rows, flip).items():
                        found.setdefault(name, []).extend(value.tolist())
            state |= {"flip": flip, "said": found}
            keep(folder, state)
        for name, values in state["said"].items():
            said.setdefault(name, np.full(len(truth), -1))[fold == k] = values
    report = FoldReport(
        {name: _row(truth, values, fold, persons, classes, seed) for name, values in said.items()},
        {
            "pictures": len(truth),
            "persons": len(np.unique(persons)),
            "folds": folds,
            "majority": 100 * float(np.bincount(truth).max() / len(truth)),
            "tables": [table_mark(t) for t in tables],
            "seen_below": any(trained_on(card, cache) for cache in caches),
        },
        {
            "weights": Path(weights).name,
            "recipe": recipe,
            "images": read_card(Path(out) / "fold-0" / "weights.safetensors")["images_seen"],
            "classes": list(classes),
            "flip": flip,
            "seed": seed,
        },
    )
    write_json(Path(out) / "folds.json", report.as_json())
    write_text(Path(out) / "folds.md", report.markdown())
    return report


def _below(weights: str | Path, card: dict[str, Any], out: Path) -> Path:
    """Write what the weights share with the stage before the classifier, if it is not there yet."""
    from mien import weights as store

    file, source = out / _BELOW, store.path(weights)
    mark = sha256(source)
    if file.is_file() and read_card(file).get("taken_from") == mark:
        return file
    cls = method_class(card["method"])
    config = config_from(cls.Config, card["config"])
    before, last = (cls(config, stage).state_dict() for stage in cls.stages[-2:])
    tensors = {n: v for n, v in load_weights(source)[0].items() if n in before and n in last}
    save_weights(file, tensors, {**card, "taken_from": mark})
    return file


def _words(caches: Sequence[FaceCache]) -> list[str]:
    words = sorted({str(w) for cache in caches for w in cache.expression[~cache.kept]} - {""})
    if len(words) < 2:
        raise TableError("The tables name fewer than two expressions; nothing is to be told apart.")
    return words


def _row(
    truth: Any, said: Any, fold: Any, persons: Any, classes: Sequence[str], seed: int
) -> dict[str, Any]:
    right = said == truth
    each = np.array([100 * right[fold == k].mean() for k in range(int(fold.max()) + 1)])
    low, high = interval(np.stack([right, np.ones(len(right))], 1), persons, mean_of, seed)
    return {
        "folds": each.tolist(),
        "mean": float(each.mean()),
        "deviation": float(each.std(ddof=1)),
        "accuracy": 100 * float(right.mean()),
        "interval": [100 * low, 100 * high],
        **class_details(truth, said, classes),
    }
