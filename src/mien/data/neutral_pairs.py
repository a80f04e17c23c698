"""Pairs of a face with an expression and its neutral twin, from tables of faces.

Five kinds, mixed in every batch: two pictures of a clip that share their frame (renders), a neutral
photo on which somebody else's expression was put, two photos of one person, a neutral face and
itself, and an expression without a neutral twin. A batch is a pure function of (seed, rank, step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.data.augment import (
    color_jitter,
    gaussian_blur,
    grayscale,
    horizontal_flip,
    lower_resolution,
    noise,
    random_similarity,
)
from mien.data.cache import take_rows
from mien.data.facs import UNITS
from mien.data.neutral import resting
from mien.data.pairs import warp_points
from mien.data.transplant import fill_polygon, transplant
from mien.files.errors import TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("clip", "transplant", "person", "same", "alone")
_CALM, _SHOWN = 0.15, 0.3  # activations that a neutral face stays below, an expression is above
# Units of nose and mouth; scores of brows and lids are as much the person's features.
_CLEAR = ("AU9", "AU10", "AU11", "AU12", "AU15", "AU16", "AU18", "AU20", "AU22", "AU27")
_DONORS = 6  # of which the one that is turned most like the face is taken
_NEAR = (12.0, 10.0, 10.0)  # degrees of yaw, pitch, roll between two photos of a person


@dataclass(frozen=True)
class NeutralPairSettings:
    """How pairs are drawn and augmented.

    Attributes:
        clip: Share of pairs of a clip (an expression and a neutral picture in one frame).
        transplant: Share of neutral photos that another face's expression was put on.
        person: Share of pairs of two photos of a person, turned alike; the neutral one is warped
            so that its landmarks lie where those of the other one would rest.
        same: Share of neutral faces that stay as they are.
        alone: Share of faces with an expression whose neutral twin is unknown.
        degrees: Largest turn.
        scale: Largest enlargement (and the inverse of the smallest).
        shift: Largest shift, in picture widths.
        jitter: Strength of the colour jitter.
        gray: Share of grey pairs.
        blur: Share of blurred pairs, and of those of a lower resolution.
        grain: Share of pairs with noise on the picture with the expression.
        person_weight: Of the L1 error of pairs of two photos, whose light and frame differ.
    """

    clip: float = 1.0
    transplant: float = 0.0
    person: float = 0.0
    same: float = 0.1
    alone: float = 0.0
    degrees: float = 10.0
    scale: float = 1.1
    shift: float = 0.03
    jitter: float = 0.3
    gray: float = 0.2
    blur: float = 0.3
    grain: float = 0.2
    person_weight: float = 0.2


class NeutralPairSampler:
    """Draws ``{"image", "neutral", "weight", "paired"}``.

    ``image`` and ``neutral`` are ``(B, 3, S, S)`` in [-1, 1] and share every augmentation.
    ``weight`` ``(B, 1, 1, 1)`` is that of the L1 error; for a face without a twin
    ``neutral`` is a neutral face of somebody else, ``paired`` ``(B,)`` is 0, and the weight is 0.
    What is sure about such a face, that it stays itself away from eyes, brows and mouth, is
    ``keep`` ``(B, 1, S, S)``: the weight of the error to ``image`` itself.

    Args:
        caches: Tables of faces with landmarks.
        settings: How pairs are drawn.
        batch_size: Pairs in a batch.
        seed: Seed of the run.
        rank: Number of the process.

    Raises:
        TableError: A kind has a share and no table holds such pairs.
    """

    def __init__(
        self,
        caches: list[Any],
        settings: NeutralPairSettings,
        batch_size: int,
        seed: int,
        rank: int,
    ) -> None:
        self.settings, self.batch_size, self.seed, self.rank = settings, batch_size, seed, rank
        self.caches = caches
        share = np.array([getattr(settings, kind) for kind in KINDS], np.float64)
        if share.min() < 0 or not share.sum():
            raise TableError("The shares of kinds of pairs are at least 0, and one is above.")
        self.share = share / share.sum()
        sizes = [len(cache) for cache in caches]
        self.first = np.concatenate([[0], np.cumsum(sizes)])  # of each table in one numbering
        self.points = np.concatenate([cache.landmarks for cache in caches])
        self.pose = np.concatenate([np.nan_to_num(cache.pose) for cache in caches])
        self.rest = self.points.copy()  # where the landmarks lie without the expression
        parts = [self._sort(t, cache) for t, cache in enumerate(caches)]
        self.neutral, self.shown, self.clips, self.persons = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        counts = {
            "clip": len(self.clips),
            "transplant": min(len(self.neutral), len(self.shown)),
            "person": len(self.persons),
            "same": len(self.neutral) + len(self.clips),
            "alone": min(len(self.neutral), len(self.shown)),
        }
        for kind, weight in zip(KINDS, self.share, strict=True):
            if weight and not counts[kind]:
                raise TableError(f"No table holds pairs of the kind {kind!r}: {_NEEDS[kind]}.")

    def _sort(self, t: int, cache: Any) -> tuple[NDArray[np.int64], ...]:
        """Return neutral photos, photos with an expression, pairs of clips and of persons."""
        start = self.first[t]
        rows = cache.select(split="train")
        rows = rows[np.isfinite(cache.landmarks[rows]).all((1, 2))]
        clip = start + _clip_pairs(cache, rows)
        places, rest = resting(cache, rows)
        photos = rows[places]
        if not len(photos):
            none = np.zeros(0, np.int64)
            return none, none, clip, none.reshape(0, 2)
        self.rest[start + photos] = rest
        units = cache.action_units[photos]
        strength = units[:, [UNITS.index(unit) for unit in _CLEAR]].max(1)
        label = cache.expression[photos]
        neutral = (strength < _CALM) | ((label == "neutral") & (strength < _SHOWN))
        shown = (strength > _SHOWN) & (label != "neutral")
        pairs = _person_pairs(cache, photos[neutral], photos[shown])
        return start + photos[neutral], start + photos[shown], clip, start + pairs

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        s = self.settings
        rng = np.random.default_rng([self.seed, self.rank, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        kind = np.sort(rng.choice(len(KINDS), self.batch_size, p=self.share))
        image, neutral, points, weight = [], [], [], []
        for k, name in enumerate(KINDS):
            count = int((kind == k).sum())
            if count:
                x, y, where = getattr(self, f"_{name}")(count, rng)
                image.append(x)
                neutral.append(y)
                points.append(where)
                weight.append(
                    torch.full((count,), {"person": s.person_weight, "alone": 0.0}.get(name, 1.0))
                )
        x, y = torch.cat(image), torch.cat(neutral)
        where, row = torch.cat(points), torch.cat(weight)
        size = x.shape[-1]
        alone = torch.from_numpy(kind == KINDS.index("alone"))
        keep = alone.float()[:, None, None, None] * (1 - _moving(where, size))

        both = torch.cat([x, y, keep], 1)  # one geometry for all
        both, _, _ = random_similarity(
            both, generator, s.degrees, (1 / s.scale, s.scale), s.shift, border="border"
        )
        both, _ = horizontal_flip(both, generator)
        x, y, keep = both[:, :3], both[:, 3:6], both[:, 6:]
        wide = torch.cat([x, y], -1)  # and one set of colours
        wide = color_jitter(wide, generator, s.jitter, s.jitter, s.jitter, s.jitter / 8, p=0.8)
        wide = grayscale(wide, generator, s.gray)
        both = torch.cat(wide.chunk(2, -1), 1)
        both = gaussian_blur(both, generator, (0.3, 1.0), s.blur)
        both = lower_resolution(both, generator, (0.5, 1.0), s.blur)
        x, y = both.chunk(2, 1)
        x = noise(x, generator, (0.0, 0.03), s.grain)
        return {
            "image": x,
            "neutral": y,
            "weight": row[:, None, None, None],
            "keep": keep,
            "paired": (~alone).float(),
        }

    def _take(self, rows: NDArray[np.int64]) -> Tensor:
        table = np.searchsorted(self.first, rows, "right") - 1
        return take_rows(self.caches, table, rows - self.first[table])

    def _clip(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.clips[rng.integers(len(self.clips), size=count)].T
        return self._take(a), self._take(b), torch.from_numpy(self.points[a])

    def _transplant(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a = rng.choice(self.neutral, count)
        candidates = rng.choice(self.shown, (count, _DONORS))
        apart = np.abs(self.pose[candidates] - self.pose[a][:, None]).sum(2)
        d = candidates[np.arange(count), apart.argmin(1)]
        neutral = self._take(a)
        shift = (self.points[d] - self.rest[d]) * rng.uniform(0.6, 1.1, (count, 1, 1))
        image, moved = transplant(
            neutral,
            torch.from_numpy(self.points[a]),
            self._take(d),
            torch.from_numpy(self.points[d]),
            torch.from_numpy(shift.astype(np.float32)),
        )
        return image, neutral, moved

    def _person(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.persons[rng.integers(len(self.persons), size=count)].T
        points, rest = torch.from_numpy(self.points[b]), torch.from_numpy(self.rest[a])
        neutral = warp_points(self._take(b), points, rest - points)
        return self._take(a), neutral, torch.from_numpy(self.points[a])

    def _same(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = rng.choice(np.concatenate([self.neutral, self.clips[:, 1]]), count)
        x = self._take(rows)
        return x, x, torch.from_numpy(self.points[rows])

    def _alone(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = rng.choice(self.shown, count)
        other = rng.choice(self.neutral, count)
        return self._take(rows), self._take(other), torch.from_numpy(self.points[rows])


_NEEDS = {
    "clip": "clips with a neutral picture (mien prepare ict_pairs:DIR, ckplus_peaks:DIR, …)",
    "transplant": "photos with action units (mien prepare … --annotations FILE)",
    "person": "photos with persons and action units, a neutral one and another turned alike",
    "same": "neutral faces",
    "alone": "photos with action units (mien prepare … --annotations FILE)",
}


def _clip_pairs(cache: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(N, 2)``: rows with an expression and the neutral row of their clip."""
    rows = rows[cache.clip[rows] >= 0]
    named = cache.expression[rows]
    neutral = {int(cache.clip[i]): int(i) for i in rows[named == "neutral"]}
    pairs = [
        (int(i), neutral[int(cache.clip[i])])
        for i in rows[(named != "neutral") & (named != "")]
        if int(cache.clip[i]) in neutral
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _person_pairs(
    cache: Any, neutral: NDArray[np.int64], shown: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return ``(N, 2)``: photos with an expression and neutral ones of the person, turned alike."""
    pairs = []
    for i in shown[cache.person[shown] >= 0]:
        same = neutral[cache.person[neutral] == cache.person[i]]
        near = (np.abs(cache.pose[same] - cache.pose[i]) < _NEAR).all(1)
        pairs += [(int(i), int(j)) for j in same[near]]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _moving(points: Tensor, size: int) -> Tensor:
    """Return ``(B, 1, S, S)``, 1 where an expression moves or folds a face: brows to chin.

    The polygon of brows and jaw, which fades beyond it; hair, neck and background are outside.
    """
    outline = torch.cat([points[:, :17], points[:, 17:27].flip(1)], 1)
    return fill_polygon(outline, size).clamp(0, 1)
