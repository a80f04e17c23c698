"""Action units by linear probe: F1 of each unit on persons that were not trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mien.evaluate.bootstrap import Sums, bootstrap, interval
from mien.evaluate.encoders import Encoder
from mien.evaluate.held_out import predict_tests, table_result
from mien.evaluate.official import ACTION_UNIT_THRESHOLD, ACTION_UNITS, train_recipe
from mien.evaluate.probe import fit_labels
from mien.evaluate.tables import Faces, Mask, Split, arrange, reduced
from mien.evaluate.task import Result, Settings
from mien.faces.face import Array
from mien.files.errors import TableError

FOLDS = 3  # the habit of the field for DISFA and BP4D
# Sets coded by people: the units that are reported, and the intensity from which one is present.
# A unit that is not in a row of theirs was not visible.
CODED: dict[str, tuple[tuple[int, ...], float]] = {
    "disfa": ((1, 2, 4, 6, 9, 12, 25, 26), 2.0),
    "bp4d": ((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24), 1.0),
    "bp4dplus": ((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24), 1.0),
}
CODED_CUT = {"ck_plus": 1.0, "ckplus_peaks": 1.0}  # only the units that are there are coded
ACTIVATION_CUT = 0.3  # of renders and of expression scores, which run from 0 to 1
RARE = 0.02  # units that fewer of the faces show are left out
LINEAR = (
    "standardised features, logistic regression a unit, L2 strength and threshold (best F1) chosen "
    "on validation"
)


@dataclass(frozen=True, eq=False)
class ActionUnits:
    """Faces with action units."""

    name: ClassVar[str] = "action-units"
    factor: ClassVar[str] = "expression"
    published: ClassVar[dict[str, float]] = {}
    headings: ClassVar[tuple[str, ...]] = ("action units, mean F1 %",)
    published_column: ClassVar[int] = 0

    faces: Faces

    @classmethod
    def of(cls, faces: Faces) -> ActionUnits:
        """Take the faces with action units.

        Raises:
            TableError: There are none.
        """
        if not any(faces.units):
            raise TableError(
                f"{faces.names} has no action units; prepare a set that has, e.g. "
                "`mien prepare disfa:DIR --out TABLE`."
            )
        return cls(faces)

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Fit the probes on some persons, measure them on others."""
        start = time.monotonic()
        units, present = presence(self.faces, settings.cut)
        known: Mask = np.asarray(~np.isnan(present).all(axis=1))
        splits, words = arrange(
            self.faces, known, folds=settings.folds or FOLDS, seed=settings.seed, always_folds=True
        )
        values = self.faces.embed(encoder, settings, cache, progress)
        called = np.full(present.shape, np.nan, np.float32)
        found, components = predict_tests(
            splits,
            called,
            lambda split: self._fit(values, present, split, encoder, settings, progress),
        )
        test = np.concatenate([split.test for split in splits])
        sums = _sums(present[test], called[test])
        groups = self.faces.groups[test]
        f1, always = _f1(sums.sum(0)), _f1_always(sums.sum(0))
        ends = bootstrap(sums, groups, _f1, settings.seed)
        return table_result(
            self.name,
            self.faces,
            encoder,
            settings,
            splits,
            value=float(np.mean(f1)),
            interval=interval(sums, groups, _mean_f1, settings.seed),
            dims=values.shape[1],
            components=components,
            protocol=f"{_words(settings)}; {words}",
            choices={
                "cut": {name: _cut(name, settings.cut) for name in sorted(set(self.faces.dataset))}
            },
            details={
                "units": {
                    unit: {
                        "f1": float(f1[i]),
                        "interval": [float(v) for v in ends[:, i]],
                        "f1_of_always": float(always[i]),
                        "present": float(np.nanmean(present[test, i])),
                    }
                    for i, unit in enumerate(units)
                },
                "folds": found,
            },
            counts={"persons": len(np.unique(groups))},
            start=start,
        )

    def _fit(
        self,
        values: NDArray[Any],
        present: Array,
        split: Split,
        encoder: Encoder,
        settings: Settings,
        progress: bool,
    ) -> tuple[Array, dict[str, Any], int]:
        """Return what is called present (0 or 1) in the test rows, and what was chosen."""
        if settings.protocol == "pcl":
            threshold = np.log(ACTION_UNIT_THRESHOLD / (1 - ACTION_UNIT_THRESHOLD))
            rows, truth = split.official_train, present[split.test]
            trained = train_recipe(
                ACTION_UNITS,
                values[rows],
                present[rows],
                values[split.test],
                lambda p: float(_mean_f1(_sums(truth, p > threshold).sum(0))),
                outputs=present.shape[1],
                seed=settings.seed,
                progress=progress,
            )
            called = (trained.predictions > threshold).astype(np.float32)
            return called, {"epoch": trained.epoch, "curve": trained.curve}, 0
        parts, components = reduced(values, split, encoder, settings)
        probe = fit_labels(parts[0], present[split.train], parts[1], present[split.val])
        called = (probe.outputs(parts[2]) > probe.thresholds).astype(np.float32)
        tried = {str(k): v for k, v in probe.tried.items()}
        return called, {"strength": probe.strength, "tried": tried}, components

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return the mean F1 with its interval."""
        low, high = result.interval
        return [f"{100 * result.value:.2f} [{100 * low:.1f}, {100 * high:.1f}]"]

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        one = results[0]
        units = one.details["units"]
        always = np.mean([u["f1_of_always"] for u in units.values()])
        cut = ", ".join(f"{name} {value:g}" for name, value in one.settings["cut"].items())
        return (
            f"Action units: {one.data['names']}; mean F1 of {len(units)} units over the faces of "
            "all folds together [95 % bootstrap interval over persons]; present from intensity "
            f"{cut}; always present: {100 * always:.1f} %; {one.settings['protocol']}."
        )


def presence(faces: Faces, cut: float | None = None) -> tuple[tuple[str, ...], Array]:
    """Return the units that are measured and whether each is present.

    Args:
        faces: Faces with intensities.
        cut: Intensity from which a unit is present; None: as the set's users have it.

    Returns:
        Names, and float32 ``(N, U)`` of 0, 1 and NaN where it is not known.

    Raises:
        TableError: No unit is shown often enough.
    """
    sets = set(faces.dataset.tolist())
    if len(sets) == 1 and (name := next(iter(sets))) in CODED:
        names = [f"AU{number}" for number in CODED[name][0]]
    else:
        every = {unit for row in faces.units for unit in row}
        names = sorted(every, key=lambda u: (len(u), u))
    out = np.full((len(faces), len(names)), np.nan, np.float32)
    for i, (row, data, expression) in enumerate(
        zip(faces.units, faces.dataset.tolist(), faces.expression.tolist(), strict=True)
    ):
        if not row and expression != "neutral":
            continue  # nobody coded it
        limit = _cut(data, cut)
        absent = np.nan if data in CODED and row else 0.0
        out[i] = [float(row[u] >= limit) if u in row else absent for u in names]
    known = ~np.isnan(out)
    share = np.where(known, out, 0).sum(0) / np.maximum(known.sum(0), 1)
    kept = np.flatnonzero((share >= RARE) & (share <= 1 - RARE)).tolist()
    if not kept:
        raise TableError(
            f"No action unit of {faces.names} is present in {100 * RARE:.0f} % of the faces; try "
            "another --cut."
        )
    return tuple(names[i] for i in kept), out[:, kept]


def _cut(dataset: str, cut: float | None) -> float:
    if cut is not None:
        return cut
    return CODED[dataset][1] if dataset in CODED else CODED_CUT.get(dataset, ACTIVATION_CUT)


def _words(settings: Settings) -> str:
    return f"pcl: {ACTION_UNITS.words}" if settings.protocol == "pcl" else LINEAR


def _sums(truth: Array, called: NDArray[Any]) -> Sums:
    """Return what each face adds: true positives, called and present, each ``(N, U)``."""
    known = ~np.isnan(truth)
    present = known & (truth > 0.5)
    positive = known & (called > 0.5)
    return np.concatenate([present & positive, positive, present, known], 1).astype(np.float64)


def _f1(sums: Sums) -> NDArray[Any]:
    hits, called, present, _ = np.split(sums, 4, -1)
    return np.asarray(2 * hits / np.maximum(called + present, 1e-12))


def _f1_always(sums: Sums) -> NDArray[Any]:
    _, _, present, known = np.split(sums, 4, -1)
    return np.asarray(2 * present / np.maximum(known + present, 1e-12))


def _mean_f1(sums: Sums) -> NDArray[Any]:
    return np.asarray(_f1(sums).mean(-1))
