"""The measures of swapped identities, each beside what unedited photos get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.cache import FaceCache
from mien.evaluate.bootstrap import Statistic, Sums, interval, mean_of
from mien.evaluate.cache import embed
from mien.evaluate.encoders import Encoder
from mien.evaluate.judges import ExpressionJudge, directions, landmarks, pictures, rank, take
from mien.evaluate.kernel_distance import kernel_distance
from mien.evaluate.pca import fit_pca
from mien.evaluate.quality import NO_JAW, nme, psnr
from mien.faces.face import Array
from mien.files.errors import MissingExtraError
from mien.methods.base import Edit

if TYPE_CHECKING:
    from mien.methods.base import Method

Rows = NDArray[np.int64]
Measures = dict[str, dict[str, Any]]

DIFFERENCE = "cosine to source - to attribute picture"
KID = "KID to real pictures, 1e-3"
_BATCH = 32
_MOST_DB = 100.0  # of equal pictures, whose PSNR is infinite
_PCA_PICTURES = 6000  # of the training split at most: they are in memory together


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which pictures meet.

    Attributes:
        sources: ``(N,)`` rows of the table that give the identity.
        attributes: ``(N,)`` rows of other persons that give all the rest.
        gallery: ``(P,)`` rows, one of each person.
        places: ``(N,)`` where ``gallery`` shows the source person.
        twice: bool ``(N,)``: it shows the person in another picture than the source.
    """

    sources: Rows
    attributes: Rows
    gallery: Rows
    places: Rows
    twice: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Swaps:
    """What a method made of pairs.

    Each measure is a mapping: ``swapped`` and its 95 % ``interval`` by whole source persons,
    ``copy`` (the attribute picture as it is), ``real`` (another photo of the source person) and
    ``chance``; None where there is none.

    Attributes:
        faces: The table, at the size of the method.
        pairs: What met.
        images: ``(N, 3, S, S)`` what came out.
        folder: Cache of embeddings; None keeps nothing.
        seed: Seed of the bootstrap.
    """

    faces: FaceCache
    pairs: Pairs
    images: Tensor
    folder: Path | None
    seed: int

    @property
    def persons(self) -> Rows:
        """``(N,)`` the source persons."""
        return np.asarray(self.faces.person[self.pairs.sources])

    def identity(self, judge: Encoder) -> Measures:
        """Measure by a judge whose face it is."""
        pairs = self.pairs
        swapped = directions(judge, pictures(self.images), self.folder)
        source, attribute, gallery = (
            self._look(judge, rows) for rows in (pairs.sources, pairs.attributes, pairs.gallery)
        )
        other = gallery[pairs.places]
        to_source, to_attribute = (
            [(x * y).sum(1) for x in (swapped, attribute, other)] for y in (source, attribute)
        )
        apart = [a - b for a, b in zip(to_source, to_attribute, strict=True)]
        found, without, real = (
            100.0 * rank(x, gallery, pairs.places).first for x in (swapped, attribute, source)
        )
        difference = self._entry(*apart)
        difference["p"] = above_zero(apart[0], self.persons)
        difference["p_copy"] = above_zero(apart[1], self.persons)
        return {
            "cosine to source": self._entry(*to_source),
            "cosine to attribute picture": self._entry(*to_attribute),
            DIFFERENCE: difference,
            "source person at rank 1, %": self._entry(found, without, real, 100 / len(gallery)),
        }

    def attributes(self, landmarks: Callable[[Tensor], Array] = landmarks) -> Measures:
        """Measure whether shape (by ``landmarks``) and colour are the attribute picture's."""
        source, attribute = self._take(self.pairs.sources), self._take(self.pairs.attributes)
        points, own, theirs = (landmarks(x) for x in (self.images, attribute, source))
        near = nme(points, own, NO_JAW) < nme(points, theirs, NO_JAW)
        colour, own_colour, their_colour = (
            x.mean((2, 3)).double().numpy() for x in (self.images.clamp(-1, 1), attribute, source)
        )
        found = {
            "landmarks nearer to attribute picture, %": self._entry(
                100.0 * near, np.full(len(near), 100.0), chance=50.0
            )
        }
        for name, true in (("attribute picture", own_colour), ("source", their_colour)):
            sums = _products(colour, true)
            found[f"mean colour, correlation with {name}"] = {
                "swapped": float(_correlation(sums.sum(0))),
                "interval": self._interval(sums, _correlation),
                "copy": float(_correlation(_products(own_colour, true).sum(0))),
                "real": None,
                "chance": 0.0,
            }
        return found

    def expression(self, judge: ExpressionJudge) -> Measures:
        """Measure whether a judge sees the attribute picture's expression."""
        seen = judge(pictures(self.images), self.folder)
        true = judge(pictures(self._take(self.pairs.attributes)), self.folder)
        classes = max(seen.max(), true.max()) + 1
        shares = [np.bincount(c, minlength=classes) / len(c) for c in (seen, true)]
        entry = self._entry(
            100.0 * (seen == true),
            np.full(len(seen), 100.0),
            chance=100 * float(shares[0] @ shares[1]),
        )
        return {"expression of attribute picture, %": entry}

    def reconstruction(self, method: Method) -> Measures:
        """Measure G(x, x) against x, and a PCA of equally many numbers fitted on the table.

        The PCA is left out where the table has no training split or the method no codes.
        """
        rows = np.unique(self.pairs.attributes)
        x = self._take(rows)
        again = run_batches(_reconstruct(method), x)
        persons = np.asarray(self.faces.person[rows])
        found = {"reconstruction, PSNR dB": self._quality(again, x, persons)}
        size = code_length(method, x[:1])
        own = self.faces.split
        train = np.flatnonzero((own == "train") | (own == ""))
        if not size or len(train) < 2:
            return found
        rng = np.random.default_rng(self.seed)
        train = np.sort(rng.permutation(train)[:_PCA_PICTURES])
        pca = fit_pca(self._take(train).flatten(1).numpy(), size, self.seed)
        drawn = pca(x.flatten(1).numpy()) @ pca.axes.T + pca.mean
        name = f"PCA of {len(pca.deviation)} numbers, PSNR dB"
        found[name] = self._quality(torch.from_numpy(drawn).view_as(x), x, persons)
        return found

    def distance(self, features: Encoder, real: Rows) -> Measures:
        """Measure KID to real pictures; the attribute pictures, which are real, give the floor.

        Args:
            features: Encoder whose features are compared.
            real: Rows of pictures that are in no pair.
        """
        drawn = np.unique(self.pairs.attributes)
        x, floor, y = (
            embed(features, crops, cache=self.folder, progress=False)
            for crops in (
                pictures(self.images),
                *(pictures(self._take(rows)) for rows in (drawn, real)),
            )
        )
        theirs = self.faces.person[real]
        value, ends = kernel_distance(x, y, self.persons, theirs, seed=self.seed)
        least = kernel_distance(floor, y, self.faces.person[drawn], theirs, seed=self.seed)[0]
        return {
            KID: {
                "swapped": 1e3 * value,
                "interval": [1e3 * end for end in ends],
                "copy": 1e3 * least,
                "real": None,
                "chance": None,
            }
        }

    def _take(self, rows: Rows) -> Tensor:
        return take(self.faces, rows)

    def _look(self, judge: Encoder, rows: Rows) -> Array:
        """Return the embeddings of rows at unit length, each picture embedded once."""
        names, place = np.unique(rows, return_inverse=True)
        return directions(judge, pictures(self._take(names)), self.folder)[place]

    def _interval(
        self, sums: NDArray[Any], statistic: Statistic, groups: Rows | None = None
    ) -> list[float]:
        return list(
            interval(sums, self.persons if groups is None else groups, statistic, self.seed)
        )

    def _entry(
        self,
        swapped: NDArray[Any],
        copy: NDArray[Any],
        real: NDArray[Any] | None = None,
        chance: float | None = None,
    ) -> dict[str, Any]:
        """Return the means of ``(N,)`` values; of ``real`` only where another picture exists."""
        twice = self.pairs.twice
        sums = np.stack([swapped, np.ones(len(swapped))], 1).astype(np.float64)
        return {
            "swapped": float(swapped.mean()),
            "interval": self._interval(sums, mean_of),
            "copy": float(copy.mean()),
            "real": float(real[twice].mean()) if real is not None and twice.any() else None,
            "chance": chance,
        }

    def _quality(self, images: Tensor, true: Tensor, persons: Rows) -> dict[str, Any]:
        values = psnr(images, true).clamp(max=_MOST_DB).double().numpy()
        sums = np.stack([values, np.ones(len(values))], 1)
        return {
            "swapped": float(values.mean()),
            "interval": self._interval(sums, mean_of, persons),
            "copy": None,
            "real": None,
            "chance": None,
        }


def above_zero(differences: NDArray[Any], groups: NDArray[Any]) -> float:
    """Return how likely such differences are if they are not above 0.

    One-sided Wilcoxon signed-rank test on the means of the groups.

    Args:
        differences: ``(N,)``.
        groups: ``(N,)``, equal for values of one person.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.stats import wilcoxon
    except ImportError:
        raise MissingExtraError("scipy", "evaluate") from None

    place = np.unique(groups, return_inverse=True)[1]
    means = np.bincount(place, differences) / np.bincount(place)
    if not means.any():
        return 1.0
    return float(wilcoxon(means, alternative="greater").pvalue)


def run_batches(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """Return what a function gives for images ``(N, 3, S, S)``, batch by batch."""
    with torch.inference_mode():
        batches = zip(*(torch.split(x, _BATCH) for x in images), strict=True)
        return torch.cat([function(*batch) for batch in batches])


def code_length(method: Any, images: Tensor) -> int:
    """Return how many numbers the codes of a method are; 0 if it has none.

    The trunk, where there are other codes, is what they are made of and does not count.
    """
    if not callable(getattr(method, "encode", None)):
        return 0
    with torch.inference_mode():
        try:
            codes = method.encode(images)
        except NotImplementedError:
            return 0
    apart = [name for name in codes if name != "trunk"] or list(codes)
    return sum(codes[name].flatten(1).shape[1] for name in apart)


def _reconstruct(method: Any) -> Callable[[Tensor], Tensor]:
    """Return how a method draws a face from its own parts."""

    def draw(images: Tensor) -> Tensor:
        if not callable(getattr(method, "reconstruct", None)):
            return swap(method, images, images)
        made = method.reconstruct(images)
        drawn: Tensor = made.images if isinstance(made, Edit) else made
        return drawn

    return draw


def swap(method: Any, attributes: Tensor, sources: Tensor) -> Tensor:
    """Return ``attributes`` ``(B, 3, S, S)`` with the identities of ``sources``."""
    images: Tensor = method.swap_identity(attributes, sources).images
    return images


def _products(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Return what each row of ``(N, C)`` adds to the sums that correlations follow from."""
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1).reshape(len(x), -1)


def _correlation(sums: Sums) -> NDArray[Any]:
    """Return the mean of Pearson's correlations over the columns ``(N, C)`` of ``_products``."""
    n, x, y, xx, yy, xy = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 6), -1, 0)
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    return np.asarray(((n * xy - x * y) / np.sqrt(np.maximum(spread, 1e-12))).mean(-1))
