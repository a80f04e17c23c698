"""Head pose by linear regression: yaw, pitch and roll in degrees, on any table that has them."""

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
from mien.evaluate.official import POSE, train_recipe
from mien.evaluate.probe import fit_ridge
from mien.evaluate.tables import ANGLES, Faces, Mask, Split, arrange, reduced
from mien.evaluate.task import Result, Settings
from mien.faces.face import Array
from mien.files.errors import TableError

FOLDS = 5
LARGEST = 99.0  # degrees; the convention of AFLW2000: larger angles are left out
SHOWN = 1500  # points of the scatter kept in a result
LINEAR = "standardised features, ridge regression in closed form, strength chosen on validation"
_FILTERS = {
    "mien": (True, True),
    "facecycle": (True, False),  # filters the training faces only
    "pcl": (True, True),
}


@dataclass(frozen=True, eq=False)
class Pose:
    """Faces with angles."""

    name: ClassVar[str] = "pose"
    factor: ClassVar[str] = "pose"
    published: ClassVar[dict[str, float]] = {}
    headings: ClassVar[tuple[str, ...]] = (
        *(f"{angle} MAE° (R²)" for angle in ANGLES),
        "mean MAE°",
    )
    published_column: ClassVar[int] = 0

    faces: Faces

    @classmethod
    def of(cls, faces: Faces) -> Pose:
        """Take the faces with three angles.

        Raises:
            TableError: There are none.
        """
        if not np.isfinite(faces.pose).all(1).any():
            raise TableError(
                f"{faces.names} has no head pose; prepare it again with `mien prepare` (it "
                "measures head pose)."
            )
        return cls(faces)

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Regress the angles of some persons, measure on others."""
        start = time.monotonic()
        known: Mask = np.asarray(np.isfinite(self.faces.pose).all(axis=1))
        small: Mask = known & (np.abs(self.faces.pose) <= LARGEST).all(axis=1)
        on_train, on_test = _FILTERS[settings.protocol]
        splits, words = arrange(
            self.faces, known, folds=settings.folds or FOLDS, seed=settings.seed
        )
        values = self.faces.embed(encoder, settings, cache, progress)
        predicted = np.full((len(values), 3), np.nan, np.float32)
        middle = predicted.copy()
        kept = [
            Split(
                whole.train[small[whole.train]] if on_train else whole.train,
                whole.val[small[whole.val]] if on_train else whole.val,
                whole.test[small[whole.test]] if on_test else whole.test,
                whole.carved,
            )
            for whole in splits
        ]
        found, components = predict_tests(
            kept, predicted, lambda split: self._fit(values, split, encoder, settings, progress)
        )
        for split in kept:
            middle[split.test] = self.faces.pose[split.train].mean(0)
        test = np.concatenate([split.test for split in kept])
        truth, guess = self.faces.pose[test], predicted[test]
        groups = self.faces.groups[test]
        sums = _sums(truth, guess, middle[test])
        measured = _measures(sums.sum(0))
        ends = bootstrap(sums, groups, _measures, settings.seed)
        angles = {
            angle: {
                "mae": float(measured[i]),
                "interval": [float(v) for v in ends[:, i]],
                "r2": float(measured[3 + i]),
                "r2_interval": [float(v) for v in ends[:, 3 + i]],
                "mae_of_mean": float(measured[6 + i]),
            }
            for i, angle in enumerate(ANGLES)
        }
        shown = np.sort(np.random.default_rng(settings.seed).permutation(len(test))[:SHOWN])
        return table_result(
            self.name,
            self.faces,
            encoder,
            settings,
            kept,
            value=float(measured[:3].mean()),
            interval=interval(sums, groups, _mean_error, settings.seed),
            dims=values.shape[1],
            components=components,
            protocol=f"{_words(settings)}; {words}",
            choices={"largest_angle": {"train": on_train and LARGEST, "test": on_test and LARGEST}},
            details={
                "angles": angles,
                "scatter": np.concatenate([truth, guess], 1)[shown].round(2).tolist(),
                **(found[0] if len(found) == 1 else {"folds": found}),
            },
            counts={"left_out": int((known & ~small).sum())},
            start=start,
        )

    def _fit(
        self,
        values: NDArray[Any],
        split: Split,
        encoder: Encoder,
        settings: Settings,
        progress: bool,
    ) -> tuple[Array, dict[str, Any], int]:
        """Return the angles of the test rows, what was chosen, and the number of components."""
        pose = self.faces.pose
        if settings.protocol == "pcl":
            rows = split.official_train
            trained = train_recipe(
                POSE,
                values[rows],
                pose[rows],
                values[split.test],
                lambda p: -float(np.abs(p - pose[split.test]).mean()),
                outputs=3,
                seed=settings.seed,
                progress=progress,
            )
            return trained.predictions, {"epoch": trained.epoch, "curve": trained.curve}, 0
        parts, components = reduced(values, split, encoder, settings)
        probe = fit_ridge(parts[0], pose[split.train], parts[1], pose[split.val])
        tried = {str(k): v for k, v in probe.tried.items()}
        return probe.outputs(parts[2]), {"strength": probe.strength, "tried": tried}, components

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return the error and R² of each angle, then the mean error."""
        angles = [result.details["angles"][a] for a in ANGLES]
        low, high = result.interval
        return [f"{a['mae']:.2f} ({a['r2']:.2f})" for a in angles] + [
            f"{result.value:.2f} [{low:.2f}, {high:.2f}]"
        ]

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        one = results[0]
        guess = ", ".join(f"{one.details['angles'][a]['mae_of_mean']:.1f}°" for a in ANGLES)
        limits = one.settings["largest_angle"]
        on = [name for name in ("train", "test") if limits[name]]
        return (
            f"Pose: {one.data['names']}; mean absolute error in degrees [95 % bootstrap interval "
            f"over persons]; faces beyond {LARGEST:.0f}° left out of {' and '.join(on)}; always "
            f"the mean of the training faces: {guess}; {one.settings['protocol']}."
        )


def _words(settings: Settings) -> str:
    return f"pcl: {POSE.words}" if settings.protocol == "pcl" else LINEAR


def _sums(truth: Array, guess: Array, middle: Array) -> Sums:
    """Return what each face ``(N, 3)`` adds to ``_measures``: five times three sums, and one."""
    t, error = truth.astype(np.float64), (guess - truth).astype(np.float64)
    columns = [np.abs(error), error**2, t, t**2, np.abs(t - middle), np.ones((len(t), 1))]
    return np.concatenate(columns, 1)


def _measures(sums: Sums) -> NDArray[Any]:
    """Return MAE, R² and the MAE of always guessing the mean, each of three angles."""
    count = sums[..., 15:]
    absolute, square, total, squares, plain = (sums[..., 3 * i : 3 * i + 3] for i in range(5))
    spread = np.maximum(squares - total**2 / count, 1e-12)
    return np.concatenate([absolute / count, 1 - square / spread, plain / count], -1)


def _mean_error(sums: Sums) -> NDArray[Any]:
    return np.asarray(_measures(sums)[..., :3].mean(-1))
