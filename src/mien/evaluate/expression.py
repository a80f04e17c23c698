"""Expressions by linear probe: RAF-DB as published, or any table with expressions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mien.evaluate.bootstrap import interval, mean_of
from mien.evaluate.classify import class_details, classify, pooled, protocol_words
from mien.evaluate.encoders import Encoder
from mien.evaluate.held_out import predict_tests, table_result
from mien.evaluate.probe import Labels
from mien.evaluate.tables import Faces, Mask, Split, arrange, open_faces, reduced
from mien.evaluate.task import Result, Settings, need_folder, percent
from mien.files.errors import TableError

FOLDS = 5
LEAST = 10  # pictures of an expression; rarer ones are left out


@dataclass(frozen=True, eq=False)
class Expressions:
    """Faces with expressions.

    Attributes:
        faces: All faces of the sets.
        classes: Names of the expressions, sorted.
        labels: ``(N,)`` index into ``classes``; -1 without one.
    """

    name: ClassVar[str] = "expression"
    factor: ClassVar[str] = "expression"
    published: ClassVar[dict[str, float]] = {}
    headings: ClassVar[tuple[str, ...]] = ("expression %", "mean recall %")
    published_column: ClassVar[int] = 0

    faces: Faces
    classes: tuple[str, ...]
    labels: Labels

    @classmethod
    def of(cls, faces: Faces) -> Expressions:
        """Take the expressions that at least ``LEAST`` faces show.

        Raises:
            TableError: There are fewer than two.
        """
        names, counts = np.unique(faces.expression, return_counts=True)
        classes = [n for n, c in zip(names.tolist(), counts, strict=True) if n and c >= LEAST]
        if len(classes) < 2:
            raise TableError(
                f"{faces.names} has fewer than two expressions with {LEAST} faces; prepare a set "
                "with expressions, e.g. `mien prepare rafdb:DIR --out TABLE`."
            )
        place = {name: i for i, name in enumerate(classes)}
        labels = np.array([place.get(e, -1) for e in faces.expression.tolist()], np.int64)
        return cls(faces, tuple(classes), labels)

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Fit the probe on some persons, measure it on others."""
        start = time.monotonic()
        usable: Mask = self.labels >= 0
        splits, words = arrange(
            self.faces, usable, folds=settings.folds or FOLDS, seed=settings.seed
        )
        values = self.faces.embed(encoder, settings, cache, progress)
        predicted = np.full(len(values), -1, np.int64)

        def fit(split: Split) -> tuple[Labels, dict[str, Any], int]:
            parts, components = reduced(values, split, encoder, settings)
            guess, chosen = classify(
                (parts[0], self.labels[split.train]),
                (parts[1], self.labels[split.val]),
                (parts[2], self.labels[split.test]),
                len(self.classes),
                settings,
                progress,
                split.carved,
            )
            return guess, chosen, components

        found, components = predict_tests(splits, predicted, fit)
        test = np.concatenate([split.test for split in splits])
        truth, guess = self.labels[test], predicted[test]
        correct = (truth == guess).astype(np.float64)
        sums = np.stack([correct, np.ones_like(correct)], 1)
        return table_result(
            self.name,
            self.faces,
            encoder,
            settings,
            splits,
            value=float(correct.mean()),
            interval=interval(sums, self.faces.groups[test], mean_of, settings.seed),
            dims=values.shape[1],
            components=components,
            protocol=f"{protocol_words(settings)}; {words}",
            details={
                **class_details(truth, guess, self.classes),
                "most_frequent": float(np.bincount(truth).max() / len(truth)),
                **pooled(found, [len(split.test) for split in splits]),
            },
            start=start,
        )

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return accuracy with its interval, and mean recall."""
        return [
            percent(result.value, result.interval),
            f"{100 * result.details['mean_recall']:.2f}",
        ]

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        one = results[0]
        return (
            f"Expression: {one.data['names']}; {len(one.details['classes'])} classes, accuracy "
            "[95 % bootstrap interval over persons] beside the mean recall of the classes "
            f"(always the most frequent: {100 * one.details['most_frequent']:.1f} %); "
            f"{one.settings['protocol']}."
        )


class RafDb(Expressions):
    """RAF-DB: the aligned pictures of 100 px and the official split."""

    name: ClassVar[str] = "rafdb"
    published: ClassVar[dict[str, float]] = {"FaceCycle": 71.01, "FAb-Net": 66.72, "TCAE": 65.32}
    headings: ClassVar[tuple[str, ...]] = ("RAF-DB %", "RAF-DB mean recall %")

    @classmethod
    def read(cls, folder: Path) -> RafDb:
        """Read the set in its own layout.

        Raises:
            TableError: Another layout.
        """
        layout = "basic/EmoLabel/list_patition_label.txt and basic/Image/aligned/ (RAF-DB)"
        need_folder(folder, layout)
        task = cls.of(open_faces([f"rafdb:{folder}"]))
        return cls(task.faces, task.classes, task.labels)

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        return (
            "RAF-DB: aligned pictures, test accuracy [95 % bootstrap interval] and mean recall; "
            f"{results[0].settings['protocol']}."
        )
