"""The matrix of codes and factors, as text, JSON and picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.evaluate.leakage.codes import ALL, WHOLE
from mien.evaluate.leakage.factors import HOMES
from mien.evaluate.report import markdown_table, package_versions
from mien.files.atomic import write_json, write_text

_FORMAT = 1


@dataclass(frozen=True)
class LeakageReport:
    """What each code gives away.

    Attributes:
        encoder: Its spec.
        cells: Row (code, ``all codes``, ``whole face``) → factor → ``score`` and ``interval`` (0
            chance, 1 everything), ``probe`` (the better one on validation), ``value`` and
            ``chance`` in its own unit (balanced accuracy or R²), and the scores ``linear`` and
            ``nonlinear``.
        factors: Factor → ``kind``, number of ``classes``, counts of faces, ``home`` (the code that
            it belongs in; empty where none of the encoder's is).
        dci: ``codes`` and ``dimensions`` → ``disentanglement``, ``completeness``,
            ``informativeness``, and each code's or factor's own.
        swaps: Edit → for each code the share of pairs in which it ``follows`` the driver or
            ``stays``; empty where the encoder edits nothing.
        data: The table, its splits that were taken, and which of its sets the weights saw.
        settings: What was chosen.
        versions: Versions of Python and packages.
    """

    encoder: str
    cells: dict[str, dict[str, dict[str, Any]]]
    factors: dict[str, dict[str, Any]]
    dci: dict[str, dict[str, Any]]
    swaps: dict[str, dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=package_versions)

    @property
    def leaks(self) -> list[tuple[str, str, float]]:
        """Code, factor and score of what a code gives away and is not there for, worst first."""
        found = [
            (code, factor, cell["score"])
            for code, row in self.cells.items()
            if code in HOMES
            for factor, cell in row.items()
            if self.factors[factor]["home"] not in ("", code) and cell["interval"][0] > 0.05
        ]
        return sorted(found, key=lambda leak: -leak[2])

    def markdown(self) -> str:
        """Return the matrix, then disentanglement, swaps and the worst leaks."""
        rows = [["", *self.factors]]
        for code, row in self.cells.items():
            cells = [
                f"{c['score']:.2f} [{c['interval'][0]:.2f}, {c['interval'][1]:.2f}]"
                for c in row.values()
            ]
            rows.append([code, *cells])
        linear = [["linear probe, % (chance)", *self.factors]]
        for code, row in self.cells.items():
            linear.append([code, *(_linear(cell) for cell in row.values())])
        parts = [
            f"What each code of {self.encoder} gives away: 0 chance, 1 everything [95 %]; the "
            "better of a linear and a small non-linear probe.\n",
            markdown_table(rows),
            "By the linear probe alone: balanced accuracy, or R² of numbers.\n",
            markdown_table(linear),
        ]
        if self.dci:
            names = ("disentanglement", "completeness", "informativeness")
            table = [["of", *names]]
            table += [[of, *(f"{entry[n]:.2f}" for n in names)] for of, entry in self.dci.items()]
            parts.append(markdown_table(table))
        if self.swaps:
            table = [["edit", "code", "share of pairs", "should be 1.00 because it"]]
            for edit, codes in self.swaps.items():
                for code, entry in codes.items():
                    word = "follows" if "follows" in entry else "stays"
                    why = "follows the driver" if word == "follows" else "stays with the face"
                    table.append([edit, code, f"{entry[word]:.2f}", why])
            parts.append(markdown_table(table))
        worst = [f"{code} gives away {factor} ({score:.2f})" for code, factor, score in self.leaks]
        if worst:
            parts.append(f"Largest leaks: {'; '.join(worst[:5])}.\n")
        splits, seen = self.data.get("splits"), self.data.get("seen")
        of = f", split {' and '.join(splits)}" if splits else ""
        known = f"; the weights saw pictures of {', '.join(seen)}" if seen else ""
        parts.append(f"Faces: {self.data['faces']} of {self.data['names']}{of}{known}.\n")
        return "\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": _FORMAT,
            "task": "leakage",
            "encoder": self.encoder,
            "cells": self.cells,
            "factors": self.factors,
            "dci": self.dci,
            "swaps": self.swaps,
            "leaks": [list(leak) for leak in self.leaks],
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
        }

    def save(self, out: Path) -> None:
        """Write ``leakage.json``, ``leakage.md`` and, if matplotlib is installed, the picture."""
        from mien.evaluate.figures import have_matplotlib, save

        write_json(out / "leakage.json", self.as_json())
        write_text(out / "leakage.md", self.markdown())
        if have_matplotlib():
            save(_picture(self), out / "leakage.png")


def _linear(cell: dict[str, Any]) -> str:
    """Return what the linear probe reaches in the factor's own unit, in percent."""
    chance = cell["chance"]
    value = 100 * (cell["linear"] * (1 - chance) + chance)
    return f"{value:.1f} ({100 * chance:.1f})" if chance else f"{value:.1f}"


def _picture(report: LeakageReport) -> Any:
    from matplotlib.patches import Rectangle

    from mien.evaluate.figures import new_figure

    rows, columns = list(report.cells), list(report.factors)
    scores = np.array([[report.cells[r][c]["score"] for c in columns] for r in rows])
    figure = new_figure(2.6 + 0.75 * len(columns), 2.0 + 0.55 * len(rows))
    axes = figure.subplots()
    picture = axes.imshow(scores, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [c.replace("_", " ") for c in columns])
    axes.tick_params(axis="x", labelrotation=35, top=True, labeltop=True, bottom=False,
                     labelbottom=False)  # fmt: skip
    for label in axes.get_xticklabels():
        label.set_ha("left")
    axes.set_yticks(range(len(rows)), [f"{r} code" if r in HOMES else r for r in rows])
    framed = False
    for (row, column), value in np.ndenumerate(scores):
        colour = "white" if value > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        if report.factors[columns[column]]["home"] == rows[row]:
            framed = True
            frame = Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, linewidth=2.2)
            axes.add_patch(frame)
    kept = sum(r not in (ALL, WHOLE) for r in rows)
    axes.axhline(kept - 0.5, color="black", linewidth=1)
    figure.colorbar(picture, ax=axes, label="0 chance, 1 everything")
    figure.suptitle(f"What each code of {report.encoder} gives away", fontsize=12)
    if framed:
        axes.set_xlabel("framed: what the code is there for; the rest should be pale", fontsize=9)
    return figure
