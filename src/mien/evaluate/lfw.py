"""LFW View 2: are these two pictures of one person? 6,000 pairs in 10 folds.

A pair's score is the cosine of its embeddings. Three treatments of the embeddings are scored:

- ``raw``: as they are;
- ``pca``: centred and projected on the first K principal components;
- ``whitened``: the same, each component scaled to unit variance.

Components are fitted, without labels, on the pictures of the nine other folds; threshold, K and,
for the headline figure ``chosen``, the treatment itself are those with the best accuracy on the
nine other folds. The fold that is measured has no part in any choice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mien.data.readers.lfw import pairs as read_pairs
from mien.evaluate.cache import embed
from mien.evaluate.encoders import Encoder
from mien.evaluate.pca import Moments, Pca
from mien.evaluate.pictures import fingerprint, read_pictures
from mien.evaluate.task import Result, Settings, need_folder
from mien.faces.face import Array, Image
from mien.files.errors import ConfigError, TableError

SIDE = 112
UNCROPPED = 250  # side of the pictures as first published
FALSE_ACCEPTS = (0.01, 0.001)
COMPONENTS = (32, 64, 128, 256)
LAYOUT = "NAME/NAME_0001.jpg (aligned crops, tight frame, 112 px) and pairs.txt (View 2)"

Pair = tuple[int, str, str, bool]  # fold from 0, two pictures, whether they show one person
Scores = NDArray[np.float64]  # (P,) one a pair
Own = TypeVar("Own", bound="Lfw")


@dataclass(frozen=True, eq=False)
class Lfw:
    """The set in memory.

    Attributes:
        crops: uint8 ``(N, 112, 112, 3)`` RGB of the pictures that the pairs name.
        pairs: ``(P, 2)``, rows of ``crops``.
        same: ``(P,)``, whether both show one person.
        fold: ``(P,)``, from 0.
        fingerprint: SHA-256 over the sorted content hashes of the pictures.
    """

    name: ClassVar[str] = "lfw"
    factor: ClassVar[str] = "identity"
    published: ClassVar[dict[str, float]] = {
        "FaceCycle": 73.72,
        "VGG-like": 71.48,
        "HoG": 62.73,
        "LBP": 56.90,
    }
    headings: ClassVar[tuple[str, ...]] = ("LFW %", "LFW % raw cosine")
    published_column: ClassVar[int] = 1
    folds: ClassVar[str] = "View 2, 10 folds"

    crops: Image
    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    fingerprint: str

    @classmethod
    def read(cls, folder: Path) -> Lfw:
        """Read the pairs and the pictures that they name.

        Raises:
            TableError: Another layout, pictures missing, or pictures that are not cropped.
            ImageError: A file that is not a picture.
        """
        listed = read_pairs(need_folder(folder, LAYOUT))
        if len({fold for fold, *_ in listed}) < 2:
            raise TableError(f"{folder}/pairs.txt has one fold; expected: {LAYOUT}")
        counted = [(fold - 1, a, b, same) for fold, a, b, same in listed]
        return cls.of_pairs(counted, folder, folder / "pairs.txt", LAYOUT)

    @classmethod
    def of_pairs(
        cls: type[Own], listed: Sequence[Pair], base: Path, source: Path, layout: str
    ) -> Own:
        """Read the pictures that pairs name.

        Args:
            listed: The pairs.
            base: Folder of the pictures.
            source: Where the pairs stand, for errors.
            layout: What was expected, for errors.

        Raises:
            TableError: Pictures are missing or not cropped.
            ImageError: A file that is not a picture.
        """
        names = sorted({name for _, *pair, _ in listed for name in pair})
        files = [base / name for name in names]
        missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
        if missing:
            raise TableError(
                f"{len(missing)} of {len(names)} pictures that {source} names are missing, first "
                f"{missing[0]}; expected: {layout}"
            )
        _check_cropped(files[0], layout)
        crops, hashes = read_pictures(files, size=SIDE)
        row = {name: i for i, name in enumerate(names)}
        return cls(
            crops,
            pairs=np.array([[row[a], row[b]] for _, a, b, _ in listed], np.int64),
            same=np.array([same for *_, same in listed], np.bool_),
            fold=np.array([fold for fold, *_ in listed], np.int64),
            fingerprint=fingerprint(hashes),
        )

    def run(
        self, encoder: Encoder, settings: Settings, cache: Path | None, progress: bool
    ) -> Result:
        """Score the pairs of each fold with what the other folds taught.

        Raises:
            ConfigError: The encoder's weights were trained on LFW (whose persons CPLFW shows too).
        """
        if {"lfw", self.name} & set(encoder.seen):
            raise ConfigError(
                f"The weights of {encoder.name} were trained on pictures of LFW, so its figure "
                "would mean nothing; take weights that never saw LFW."
            )
        start = time.monotonic()
        values = embed(
            encoder,
            self.crops,
            flip=settings.flip,
            batch_size=settings.batch_size,
            cache=cache,
            progress=progress,
        )
        found = verify(values, self.pairs, self.same, self.fold, settings.seed, progress)
        chosen = found["chosen"]
        for entry in found.values():
            entry["tar_interval"] = tar_intervals(entry.pop("scores"), self.same, settings.seed)
        half = 1.96 * chosen["error"]
        return Result(
            task=self.name,
            encoder=encoder.name,
            key=encoder.key,
            value=chosen["accuracy"],
            interval=(max(0.0, chosen["accuracy"] - half), min(1.0, chosen["accuracy"] + half)),
            error=chosen["error"],
            dims=values.shape[1],
            settings={
                "protocol": f"{self.folds}; cosine; threshold, components and treatment "
                "chosen on the nine other folds; components fitted without labels on their "
                "pictures",
                "input_size": encoder.input_size,
                "components": [k for k in COMPONENTS if k <= values.shape[1]],
                "flip": settings.flip,
                "seed": settings.seed,
            },
            details=found,
            data={
                "fingerprint": self.fingerprint,
                "pictures": len(self.crops),
                "pairs": len(self.pairs),
                "folds": int(self.fold.max()) + 1,
            },
            seconds=time.monotonic() - start,
        )

    @staticmethod
    def cells(result: Result) -> list[str]:
        """Return the accuracy of the chosen treatment and of the plain cosine."""
        entries = [result.details[treatment] for treatment in ("chosen", "raw")]
        return [f"{100 * e['accuracy']:.2f} ± {100 * e['error']:.2f}" for e in entries]

    @staticmethod
    def note(results: Sequence[Result]) -> str:
        """Return the protocol."""
        return (
            "LFW: View 2, mean of ten folds ± standard error; principal components, whitening and "
            "threshold chosen on the nine other folds, beside the cosine of the embeddings as they "
            "are (the publication does not say how it scored pairs)."
        )


def _check_cropped(file: Path, layout: str) -> None:
    """Raise TableError if a picture is as LFW first published it: 250 px, more than the face."""
    from mien.faces.image import read_image

    height, width = read_image(file).shape[:2]
    if height != width or height == UNCROPPED:
        raise TableError(
            f"{file} has {width} x {height} pixels: these are LFW's uncropped pictures; "
            f"expected: {layout}"
        )


def verify(
    values: NDArray[Any],
    pairs: NDArray[np.int64],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64],
    seed: int = 0,
    progress: bool = False,
    components: Sequence[int] = COMPONENTS,
) -> dict[str, dict[str, Any]]:
    """Measure embeddings ``(N, D)`` fold by fold.

    Args:
        values: Embeddings of the pictures.
        pairs: ``(P, 2)`` rows of ``values``.
        same: ``(P,)``.
        fold: ``(P,)``, from 0.
        seed: Seed of the PCA.
        progress: Show a progress bar.
        components: Numbers of components to choose from.

    Returns:
        For ``chosen``, ``raw``, ``pca`` and ``whitened``: ``accuracy``, ``error`` (standard error),
        ``folds`` (accuracy of each), ``thresholds``, ``picked`` (treatment and components of each
        fold), ``scores`` (held out, of every pair), and of those of all folds together ``auc``,
        ``tar``, ``tar_at`` and ``roc`` (see ``curve``).
    """
    raw = cosine(values[pairs[:, 0]], values[pairs[:, 1]])
    groups: dict[str, tuple[str, ...]] = {
        "chosen": ("raw", "pca", "whitened"),
        "raw": ("raw",),
        "pca": ("pca",),
        "whitened": ("whitened",),
    }
    out: dict[str, dict[str, Any]] = {
        name: {"folds": [], "thresholds": [], "picked": []} for name in groups
    }
    held = {name: np.zeros(len(pairs)) for name in groups}
    numbers = range(int(fold.max()) + 1)
    pictures = np.unique(pairs)
    every = Moments.of(values[pictures])
    most = min(max(components), values.shape[1])
    for k in tqdm(numbers, desc="folds", disable=not progress, leave=False):
        test = fold == k
        others = np.setdiff1d(pictures, pairs[~test])
        pca = (every - Moments.of(values[others])).fit_pca(most, seed)
        scores = {"raw": raw, **_projected(values, pairs, pca, components)}
        taught = {n: best_threshold(s[~test], same[~test]) for n, s in scores.items()}
        for name, kinds in groups.items():
            own = [n for n in scores if n.split()[0] in kinds]
            pick = max(own, key=lambda n: taught[n][1])  # the first, simplest one on a tie
            threshold = taught[pick][0]
            found = scores[pick][test]
            out[name]["folds"].append(float(((found > threshold) == same[test]).mean()))
            out[name]["thresholds"].append(threshold)
            out[name]["picked"].append(pick)
            held[name][test] = found
    for name, entry in out.items():
        folds = np.array(entry["folds"])
        entry["accuracy"] = float(folds.mean())
        entry["error"] = float(folds.std(ddof=1) / len(folds) ** 0.5)
        entry["scores"] = held[name]
        entry.update(curve(held[name], same))
    return out


def _projected(
    values: NDArray[Any], pairs: NDArray[np.int64], pca: Pca, components: Sequence[int]
) -> dict[str, Scores]:
    """Return the scores of all pairs after projection, by name."""
    plain = pca(values)
    out = {}
    for kind, projected in (("pca", plain), ("whitened", plain / pca.deviation)):
        for k in sorted({min(k, projected.shape[1]) for k in components}):
            part = projected[:, :k]
            out[f"{kind} {k}"] = cosine(part[pairs[:, 0]], part[pairs[:, 1]])
    return out


def cosine(a: NDArray[Any], b: NDArray[Any]) -> Scores:
    """Return the cosines ``(P,)`` of the rows of ``a`` and ``b`` ``(P, D)``; 0 for a zero row."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    norms: Array = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(1) / np.maximum(norms, 1e-12), np.float64)


def best_threshold(scores: Scores, same: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the threshold with the best accuracy of ``score > threshold``, and that accuracy.

    Thresholds lie half-way between neighbouring scores, or beyond the ends; of several best ones
    the middle one is taken.
    """
    order = np.argsort(scores, kind="stable")
    sorted_scores, truth = scores[order], same[order]
    # Cutting before position i calls the first i pairs different and the others same.
    right = np.concatenate([[0], np.cumsum(~truth)]) + np.concatenate(
        [np.cumsum(truth[::-1])[::-1], [0]]
    )
    cuts = np.concatenate(
        [
            [sorted_scores[0] - 1],
            (sorted_scores[:-1] + sorted_scores[1:]) / 2,
            [sorted_scores[-1] + 1],
        ]
    )
    possible = np.concatenate([[True], sorted_scores[:-1] < sorted_scores[1:], [True]])
    right = np.where(possible, right, -1)
    best = np.flatnonzero(right == right.max())
    place = best[len(best) // 2]
    return float(cuts[place]), float(right[place] / len(scores))


def curve(scores: Scores, same: NDArray[np.bool_], points: int = 200) -> dict[str, Any]:
    """Return ``auc``, ``tar`` at 1 % false accepts and a thinned ``roc`` curve.

    ``tar_at`` holds the true accept rate at each rate of ``FALSE_ACCEPTS``.
    """
    order = np.argsort(-scores, kind="stable")
    truth = same[order]
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    far = np.concatenate([[0], np.cumsum(~truth)[last]]) / max(1, int((~same).sum()))
    tar = np.concatenate([[0], np.cumsum(truth)[last]]) / max(1, int(same.sum()))
    thin = np.unique(np.linspace(0, len(far) - 1, min(points, len(far))).astype(int))
    return {
        "auc": float((np.diff(far) * (tar[1:] + tar[:-1])).sum() / 2),
        "tar": float(tar[far <= 0.01].max()),
        "tar_at": {str(rate): float(tar[far <= rate].max()) for rate in FALSE_ACCEPTS},
        "roc": np.stack([far[thin], tar[thin]], 1).round(5).tolist(),
    }


def tar_intervals(
    scores: Scores, same: NDArray[np.bool_], seed: int = 0, repeats: int = 1000
) -> dict[str, list[float]]:
    """Return the 95 % bootstrap interval of ``tar_at``, pairs drawn with replacement."""
    rng = np.random.default_rng(seed)
    true, false = scores[same], np.sort(scores[~same])[::-1]
    # Of N falsely scored pairs the draw keeps them sorted: its k-th largest is the threshold.
    drawn: dict[str, list[float]] = {str(rate): [] for rate in FALSE_ACCEPTS}
    for _ in range(repeats):
        own = np.sort(true[rng.integers(0, len(true), len(true))])
        others = false[np.sort(rng.integers(0, len(false), len(false)))]
        for rate in FALSE_ACCEPTS:
            allowed = int(rate * len(others) + 1e-9)
            threshold = others[min(allowed, len(others) - 1)]
            above = len(own) - np.searchsorted(own, threshold, side="right")
            drawn[str(rate)].append(above / len(own))
    return {
        rate: [float(v) for v in np.quantile(values, (0.025, 0.975))]
        for rate, values in drawn.items()
    }
