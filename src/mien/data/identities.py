"""Pictures with their persons, each beside the picture whose attributes it is to be drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.data.augment import (
    color_jitter,
    gaussian_blur,
    horizontal_flip,
    lower_resolution,
    random_similarity,
)
from mien.data.cache import take_rows
from mien.data.neutral import resting
from mien.data.transplant import transplant
from mien.files.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_CANDIDATES = 6  # donors of an expression, of which the one turned most like the face is taken


@dataclass(frozen=True)
class IdentitySettings:
    """How pictures are drawn and augmented.

    Attributes:
        weights: Share of each table; by their numbers of pictures if empty.
        least: Pictures that a person needs to have a label.
        same_share: Share of the rows whose attributes come from the same person.
        same_person: These rows' attributes come from another picture of the person (the same one
            if there is none), not from the same picture.
        flip: Share of mirrored pictures.
        degrees: Largest turn of a source.
        scale: Largest enlargement of a source (and the inverse of the smallest).
        shift: Largest shift of a source, in picture widths.
        jitter: Strength of the colour jitter of sources.
        blur: Share of blurred sources, and of those of a lower resolution.
        expressions: Share of the photos among the sources that get somebody else's expression.
    """

    weights: tuple[float, ...] = ()
    least: int = 2
    same_share: float = 0.5
    same_person: bool = False
    flip: float = 0.5
    degrees: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    jitter: float = 0.0
    blur: float = 0.0
    expressions: float = 0.0


class IdentitySampler:
    """Draws batches ``{"source", "attributes", "label", "same"}``, pure in (seed, rank, step).

    ``source`` and ``attributes`` are ``(B, 3, S, S)`` in [-1, 1], ``label`` ``(B,)`` int64 is the
    person of the source, -1 where unknown, ``same`` ``(B,)`` is 1 where the attributes come from
    the same picture (or person). With a teacher, ``teacher`` ``(B, D)`` is its embedding of the
    source, NaN where there is none. The other rows take their attributes from any picture.

    Attributes:
        persons: Number of persons with a label; over all tables, sorted by data set and name.

    Args:
        caches: Tables of faces; pictures come from their training split.
        settings: How pictures are drawn.
        batch_size: Rows in a batch.
        seed: Seed of the run.
        rank: Number of the process.
        teacher: For each table the embeddings of its rows ``(N, D)``, or None.

    Raises:
        TableError: Another number of weights or of embeddings than of tables.
    """

    def __init__(
        self,
        caches: list[Any],
        settings: IdentitySettings,
        batch_size: int,
        seed: int,
        rank: int,
        teacher: Sequence[NDArray[np.float32] | None] = (),
    ) -> None:
        self.caches, self.settings = caches, settings
        self.batch_size, self.seed, self.rank = batch_size, seed, rank
        for what, given in (("weights", settings.weights), ("teacher files", teacher)):
            if given and len(given) != len(caches):
                raise TableError(f"{len(given)} {what} are given for {len(caches)} tables.")
        rows = [cache.select(split="train") for cache in caches]
        # A picture's number counts through the training splits of all tables.
        self.table = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        self.row = np.concatenate(rows)
        self.count = np.array([len(r) for r in rows])
        self.first = np.cumsum(self.count) - self.count
        share = np.array(settings.weights or self.count, np.float64)
        self.share = share / share.sum()
        self.label, self.persons = _labels(caches, rows, settings.least)
        self.order = np.argsort(self.label, kind="stable")  # pictures, person by person
        self.place = np.argsort(self.order, kind="stable")
        self.teacher = _joined(teacher, rows)
        self.worn = _Expressions(caches, rows) if settings.expressions else None

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        s, n = self.settings, self.batch_size
        rng = np.random.default_rng([self.seed, self.rank, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        source = self._any(n, rng)
        count = int(n * s.same_share + rng.random())  # its mean is the share
        same = rng.permutation(n) < count
        partner = self._same_person(source, rng) if s.same_person else source
        other = self._other(source, rng)
        attributes = np.where(same, partner, other)

        x_s = self._take(source)
        if self.worn is not None:
            x_s = self.worn(x_s, source, rng.random(n) < s.expressions, self._take, rng)
        x_s = horizontal_flip(x_s, generator, s.flip)[0]
        x_a = horizontal_flip(self._take(attributes), generator, s.flip)[0]
        if self.worn is None:
            # One picture on both sides is mirrored on both sides or on none.
            alone = torch.from_numpy(same & (attributes == source))[:, None, None, None]
            x_a = torch.where(alone, x_s, x_a)
        batch = {
            "source": self._augment(x_s, generator),
            "attributes": x_a,
            "label": torch.from_numpy(self.label[source]),
            "same": torch.from_numpy(same).float(),
        }
        if self.teacher is not None:
            batch["teacher"] = torch.from_numpy(self.teacher[source])
        return batch

    def _any(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the numbers of ``n`` pictures by the shares of the tables."""
        table = rng.choice(len(self.caches), n, p=self.share)
        return np.asarray(self.first[table] + rng.integers(0, self.count[table]), np.int64)

    def _other(self, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw any picture for each of ``pictures``, but not the same one."""
        drawn = self._any(len(pictures), rng)
        table = self.table[drawn]
        after = self.first[table] + (drawn + 1 - self.first[table]) % self.count[table]
        return np.where(drawn == pictures, after, drawn)

    def _same_person(
        self, pictures: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw another picture of the same person for each; the picture itself if none is known."""
        label = self.label[pictures]
        ordered = self.label[self.order]
        low = np.searchsorted(ordered, label, "left")
        others = np.searchsorted(ordered, label, "right") - low - 1
        step = rng.integers(0, np.maximum(others, 1))
        own = self.place[pictures] - low
        drawn = self.order[low + np.minimum(step + (step >= own), others)]
        return np.where((label >= 0) & (others > 0), drawn, pictures)

    def _take(self, pictures: NDArray[np.int64]) -> Tensor:
        """Return pictures ``(n, 3, S, S)`` in [-1, 1] by their numbers."""
        return take_rows(self.caches, self.table[pictures], self.row[pictures])

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        s = self.settings
        if s.degrees or s.shift or s.scale != 1:
            x = random_similarity(x, generator, s.degrees, (1 / s.scale, s.scale), s.shift)[0]
        if s.jitter:
            x = color_jitter(x, generator, s.jitter, s.jitter, s.jitter, s.jitter / 10, p=0.8)
        if s.blur:
            x = gaussian_blur(x, generator, (0.3, 1.5), p=s.blur)
            x = lower_resolution(x, generator, (0.4, 1.0), p=s.blur)
        return x


class _Expressions:
    """Puts the expressions of photos on other photos (``mien.data.transplant``).

    Pictures go by their numbers in the training splits of all tables. Pictures of clips, and those
    without landmarks, pose or action units, stay as they are.

    Raises:
        TableError: No table holds photos with landmarks, head pose and action units.
    """

    def __init__(self, caches: list[Any], rows: list[NDArray[np.int64]]) -> None:
        pairs = list(zip(caches, rows, strict=True))
        self.points = np.concatenate([cache.landmarks[chosen] for cache, chosen in pairs])
        self.pose = np.concatenate([np.nan_to_num(cache.pose[chosen]) for cache, chosen in pairs])
        self.rest = np.full_like(self.points, np.nan)
        first = 0
        for cache, chosen in pairs:
            told, rest = resting(cache, chosen)
            self.rest[first + told] = rest
            first += len(chosen)
        self.known = np.isfinite(self.rest).all((1, 2))
        self.donors = np.flatnonzero(self.known)
        if not len(self.donors):
            raise TableError(
                "No table holds photos with landmarks, head pose and action units, which putting "
                "expressions on other faces needs (mien prepare … --annotations FILE)."
            )

    def __call__(
        self,
        images: Tensor,
        pictures: NDArray[np.int64],
        chosen: NDArray[np.bool_],
        take: Callable[[NDArray[np.int64]], Tensor],
        rng: np.random.Generator,
    ) -> Tensor:
        """Return ``images`` ``(n, 3, S, S)``, the ``chosen`` ones with another's expression."""
        candidates = rng.choice(self.donors, (len(pictures), _CANDIDATES))
        places = np.flatnonzero(chosen & self.known[pictures])
        if not len(places):
            return images
        a, candidates = pictures[places], candidates[places]
        apart = np.abs(self.pose[candidates] - self.pose[a][:, None]).sum(2)
        d = candidates[np.arange(len(a)), apart.argmin(1)]
        shift = (self.points[d] - self.rest[d]) - (self.points[a] - self.rest[a])
        worn, _ = transplant(
            images[places],
            torch.from_numpy(self.points[a]),
            take(d),
            torch.from_numpy(self.points[d]),
            torch.from_numpy(shift.astype(np.float32)),
        )
        images = images.clone()
        images[places] = worn
        return images


def _labels(
    caches: list[Any], rows: list[NDArray[np.int64]], least: int
) -> tuple[NDArray[np.int64], int]:
    """Return the label of every picture (-1: none) and the number of labels."""
    names: list[tuple[str, str] | None] = []
    for cache, chosen in zip(caches, rows, strict=True):
        person = cache.table.column("person")
        names += [(str(cache.dataset[i]), person[i]) if person[i] else None for i in chosen]
    counts: dict[tuple[str, str], int] = {}
    for name in names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    known = sorted(name for name, count in counts.items() if count >= least)
    number = {name: i for i, name in enumerate(known)}
    return np.array([-1 if n is None else number.get(n, -1) for n in names], np.int64), len(known)


def _joined(
    teacher: Sequence[NDArray[np.float32] | None], rows: list[NDArray[np.int64]]
) -> NDArray[np.float32] | None:
    """Return the embeddings of all pictures ``(N, D)``; None if no table has any."""
    dims = {t.shape[1] for t in teacher if t is not None}
    if not dims:
        return None
    if len(dims) > 1:
        raise TableError(f"The embeddings of one teacher have one length, not {sorted(dims)}.")
    parts = [
        np.full((len(chosen), min(dims)), np.nan, np.float32) if t is None else t[chosen]
        for t, chosen in zip(teacher, rows, strict=True)
    ]
    return np.concatenate(parts)
