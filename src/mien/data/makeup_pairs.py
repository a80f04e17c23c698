"""Bare faces and references with make-up, cut to the regions that PairedCycleGAN sees.

Three kinds of references, mixed in every batch: other bare photos that the make-up artist painted
(``painted``; the same paint on the bare face is the exact target), renders with their bare twins
(``rendered``; the twin is the bare face and the render, placed alike, the exact target), and photos
of faces that really wear make-up (``mined``; no target). A batch is a pure function of (seed, rank,
step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.data.augment import color_jitter, mirror_points, random_similarity
from mien.data.cache import take_rows
from mien.data.makeup_artist import draw_parameters, paint
from mien.data.pairs import warp_smoothly
from mien.data.warp import spline_flow
from mien.faces.regions import (
    CROPS,
    REGIONS,
    crop_matrices,
    cut,
    region_masks,
    to_crop_points,
)
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("painted", "rendered", "mined")
_ALPHA = {"lips": 0.95, "eyes": 0.85, "skin": 0.5}  # of the warped reference in W
_MOST_YAW = 40.0  # degrees
_CANDIDATES = 6  # of which the reference that is turned most like the bare face is taken
_NEAR_GREY = 4.0  # mean difference of channels of 255; less is a grey photo
_BLOCK = 1024
_NEEDS = {
    "painted": "photos of faces with landmarks, bare as far as is known",
    "rendered": "renders with make-up and their bare twins (mien prepare ict_makeup:DIR)",
    "mined": "photos whose column `makeup` says yes (mien mine-makeup TABLE --out OTHER)",
}


@dataclass(frozen=True)
class MakeupPairSettings:
    """How pairs are drawn and augmented.

    Attributes:
        regions: Of ``REGIONS``; each gets its own crops of the same faces.
        size: Side of the crops in pixels.
        painted: Share of references that the artist painted.
        rendered: Share of rendered references.
        mined: Share of photos with real make-up.
        colours: Of the artist, ``train`` or ``test``.
        always: The artist always puts something on every region.
        degrees: Largest turn before the crop is cut; the crop follows the face, so this moves
            only the pixels' grid.
        jitter: Crops are moved and enlarged by up to this share of their side.
        light: Strength of the jitter of brightness and contrast of bare photos before they are
            painted. The colours of a reference with real make-up stay.
        split: Which split of the tables to draw from.
    """

    regions: tuple[str, ...] = REGIONS
    size: int = 64
    painted: float = 0.7
    rendered: float = 0.0
    mined: float = 0.0
    colours: str = "train"
    always: bool = True
    degrees: float = 6.0
    jitter: float = 0.06
    light: float = 0.15
    split: str = "train"


class MakeupPairSampler:
    """Draws crops of bare faces x and references y with make-up, all ``(B, ...)``.

    For each region, ``REGION_`` and:

    - ``bare``: x, ``(B, 3, S, S)`` in [-1, 1]; ``bare_mask`` ``(B, 1, S, S)`` is the region's mask,
      ``bare_points`` ``(B, 68, 2)`` its landmarks in pixels of the crop.
    - ``reference``: y, with ``reference_mask`` and ``reference_points``.
    - ``warped``: W(x, y), the reference's make-up warped onto x.
    - ``target``: x in exactly y's make-up, where ``known`` ``(B,)`` is 1; x itself elsewhere.
    - ``removed``: y without its make-up, where ``known_bare`` ``(B,)`` is 1; y itself elsewhere.

    ``kind`` ``(B,)`` is the place in ``KINDS``. Of the two eyes one is drawn for each pair; right
    eyes are mirrored.

    Args:
        caches: Tables of faces of one size with landmarks.
        settings: How pairs are drawn.
        batch_size: Pairs in a batch.
        seed: Seed of the run.
        rank: Number of the process.

    Raises:
        ConfigError: No such region, or no share above 0.
        TableError: A kind has a share and no table holds what it needs, or a table holds pictures
            of FER-2013, which may not be edited.
    """

    def __init__(
        self,
        caches: list[Any],
        settings: MakeupPairSettings,
        batch_size: int,
        seed: int,
        rank: int,
    ) -> None:
        self.settings, self.batch_size, self.seed, self.rank = settings, batch_size, seed, rank
        self.caches = caches
        for region in settings.regions:
            if region not in REGIONS:
                raise ConfigError(f"No region named {region!r}; there are {', '.join(REGIONS)}.")
        share = np.array([getattr(settings, kind) for kind in KINDS], np.float64)
        if share.min() < 0 or not share.sum():
            raise ConfigError("The shares of kinds of pairs are at least 0, and one is above.")
        self.share = share / share.sum()
        if any((cache.dataset == "fer2013").any() for cache in caches):
            raise TableError("FER-2013 may not be edited or drawn; leave its table out.")
        self.first = np.concatenate([[0], np.cumsum([len(cache) for cache in caches])])
        self.points = np.concatenate([cache.landmarks for cache in caches])
        self.pose = np.concatenate([np.nan_to_num(cache.pose) for cache in caches])
        parts = [self._sort(t, cache) for t, cache in enumerate(caches)]
        self.bare, self.mined, self.twins = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        photos = len(self.bare)
        counts = {
            "painted": photos if photos > 1 else 0,
            "rendered": len(self.twins),
            "mined": min(photos, len(self.mined)),
        }
        for kind, weight in zip(KINDS, self.share, strict=True):
            if weight and not counts[kind]:
                raise TableError(f"No table holds pairs of the kind {kind!r}: {_NEEDS[kind]}.")

    def _sort(self, t: int, cache: Any) -> tuple[NDArray[np.int64], ...]:
        """Return bare photos, photos with make-up, and pairs (made-up render, bare twin)."""
        start = self.first[t]
        wanted = cache.split == self.settings.split
        if self.settings.split == "train":
            wanted = (wanted | (cache.split == "")) & ~cache.kept
        rows = _frontal(cache, np.flatnonzero(wanted))
        clips = rows[cache.clip[rows] >= 0]
        bare = {int(cache.clip[i]): int(i) for i in clips[cache.makeup[clips] == 0]}
        twins = [
            (int(i), bare[int(cache.clip[i])])
            for i in clips[cache.makeup[clips] == 1]
            if int(cache.clip[i]) in bare
        ]
        photos = photo_rows(cache, rows)
        return (
            start + photos[cache.makeup[photos] != 1],
            start + photos[cache.makeup[photos] == 1],
            start + np.array(twins, np.int64).reshape(-1, 2),
        )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        s = self.settings
        rng = np.random.default_rng([self.seed, self.rank, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        n = self.batch_size
        kind = np.sort(rng.choice(len(KINDS), n, p=self.share))
        x_row, y_row, bare_row = self._rows(kind, rng)
        x, x_points = self._placed(x_row, generator)
        painted, rendered = (torch.from_numpy(kind == k) for k in (0, 1))

        # A render's twin is placed as the render, and so is the target of a rendered bare face.
        state = generator.get_state()
        y, y_points = self._placed(y_row, generator)
        generator.set_state(state)
        removed, _ = self._placed(bare_row, generator)
        plain = torch.cat([x, y])
        plain = color_jitter(plain, generator, s.light, s.light, s.light / 2, s.light / 20)
        lit = painted | torch.from_numpy(kind == KINDS.index("mined"))
        x = torch.where(lit[:, None, None, None], plain[:n], x)
        y = torch.where(painted[:, None, None, None], plain[n:], y)
        removed = torch.where(painted[:, None, None, None], y, removed)
        target = x.clone()

        worn = draw_parameters(n, generator, s.colours, always=s.always)  # type: ignore[arg-type]
        rows = painted.nonzero()[:, 0]
        if len(rows):
            both = torch.cat([rows, rows])
            faces = torch.cat([x[rows], y[rows]])
            points = torch.cat([x_points[rows], y_points[rows]])
            made_up, _ = paint(faces, points, worn[both], s.regions)
            target[rows], y[rows] = made_up.chunk(2)
        rows = rendered.nonzero()[:, 0]
        if len(rows):  # the render, where its bare twin x lies
            target[rows] = self._as_twin(y_row[rows], x_row[rows], x[rows], x_points[rows])

        known = (painted | rendered).float()
        x_masks = region_masks(x_points, x.shape[-1], x)
        y_masks = region_masks(y_points, y.shape[-1], removed)
        warped = makeup_warp(x, x_points, y, y_points, x_masks)
        batch: dict[str, Tensor] = {"kind": torch.from_numpy(kind)}
        x_to, y_to = (self._matrices(points, rng) for points in (x_points, y_points))
        right = torch.from_numpy(rng.random(n) < 0.5)
        for region in s.regions:
            r = REGIONS.index(region)
            place = torch.full((n,), CROPS.index(region if region != "eyes" else "left_eye"))
            if region == "eyes":
                place += right
            every = torch.arange(n)
            to_x, to_y = x_to[every, place], y_to[every, place]
            seen_x = cut(torch.cat([x, target, warped, x_masks[:, r : r + 1]], 1), to_x, s.size)
            seen_y = cut(torch.cat([y, removed, y_masks[:, r : r + 1]], 1), to_y, s.size)
            batch |= {
                f"{region}_bare": seen_x[:, :3],
                f"{region}_target": seen_x[:, 3:6],
                f"{region}_warped": seen_x[:, 6:9],
                f"{region}_bare_mask": seen_x[:, 9:],
                f"{region}_reference": seen_y[:, :3],
                f"{region}_removed": seen_y[:, 3:6],
                f"{region}_reference_mask": seen_y[:, 6:],
                f"{region}_known": known,
                f"{region}_known_bare": known,
                f"{region}_bare_points": _crop_points(x_points, to_x, s.size),
                f"{region}_reference_points": _crop_points(y_points, to_y, s.size),
            }
        return batch

    def _rows(
        self, kind: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Draw rows of x, of y, and of y without make-up (y itself where nobody knows)."""
        x, y, bare = (np.zeros(len(kind), np.int64) for _ in range(3))
        for k, name in enumerate(KINDS):
            here = np.flatnonzero(kind == k)
            if not len(here):
                continue
            if name == "rendered":
                y[here], bare[here] = self.twins[rng.integers(len(self.twins), size=len(here))].T
                x[here] = bare[here]
                continue
            x[here] = rng.choice(self.bare, len(here))
            pool = self.bare if name == "painted" else self.mined
            candidates = rng.choice(pool, (len(here), _CANDIDATES))
            apart = np.abs(self.pose[candidates] - self.pose[x[here]][:, None])[:, :, :2].sum(2)
            apart += 1e3 * (candidates == x[here][:, None])
            y[here] = candidates[np.arange(len(here)), apart.argmin(1)]
            bare[here] = y[here]
        return x, y, bare

    def _take(self, rows: NDArray[np.int64]) -> Tensor:
        table = np.searchsorted(self.first, rows, "right") - 1
        return take_rows(self.caches, table, rows - self.first[table])

    def _placed(self, rows: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pictures and landmarks, turned and mirrored at random."""
        x, points = self._take(rows), torch.from_numpy(self.points[rows])
        x, moved, _ = random_similarity(
            x, generator, self.settings.degrees, points=points, border="border"
        )
        points = points if moved is None else moved
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        flipped = mirror_points(points, x.shape[-1])
        return x, torch.where(mirrored[:, None, None], flipped, points)

    def _as_twin(
        self, rows: NDArray[np.int64], twins: NDArray[np.int64], x: Tensor, points: Tensor
    ) -> Tensor:
        """Return the pictures of ``rows``, moved as their twins were to become ``x``.

        The map is a similarity or its mirror image; landmarks before and after give it.
        """
        before = torch.from_numpy(self.points[twins])
        mirrored = mirror_points(before, x.shape[-1])
        pictures = self._take(rows)
        options = []
        for source, picture in ((before, pictures), (mirrored, pictures.flip(-1))):
            a, b = points - points.mean(1, keepdim=True), source - source.mean(1, keepdim=True)
            linear = torch.linalg.lstsq(a, b).solution.mT  # pixels of x to those of the picture
            offset = source.mean(1) - (linear @ points.mean(1)[:, :, None])[:, :, 0]
            matrix = torch.cat([linear, offset[:, :, None]], 2)
            error = (points @ linear.mT + offset[:, None] - source).square().mean((1, 2))
            options.append((error, cut(picture, matrix, x.shape[-1])))
        (e0, straight), (e1, flipped) = options
        return torch.where((e0 <= e1)[:, None, None, None], straight, flipped)

    def _matrices(self, points: Tensor, rng: np.random.Generator) -> Tensor:
        """Return where crops lie ``(B, 4, 2, 3)``, moved and enlarged a little."""
        s = self.settings
        matrices = crop_matrices(points, s.size)
        move = torch.from_numpy(rng.uniform(-s.jitter, s.jitter, (len(points), 4, 2))) * s.size
        grow = torch.from_numpy(rng.uniform(-s.jitter, s.jitter, (len(points), 4, 1, 1))).exp()
        linear = matrices[..., :2] * grow.to(matrices)
        middle = torch.full((2,), (s.size - 1) / 2)
        centre = (matrices[..., :2] @ middle) + matrices[..., 2]
        offset = centre - (linear @ (middle + move.to(matrices))[..., None])[..., 0]
        return torch.cat([linear, offset[..., None]], -1)


def makeup_warp(
    x: Tensor,
    x_points: Tensor,
    y: Tensor,
    y_points: Tensor,
    masks: Tensor | None = None,
    alpha: dict[str, float] | None = None,
) -> Tensor:
    """Return W(x, y): the make-up of references warped onto bare faces by landmarks and blended.

    A signal of style for D_S, never a target: skin, shading and expression of y come along. The
    reference is made as bright as x, so that its light does not.

    Args:
        x: Bare faces ``(B, 3, S, S)`` in [-1, 1].
        x_points: Their landmarks ``(B, 68, 2)`` in pixels.
        y: References ``(B, 3, S, S)``.
        y_points: Their landmarks.
        masks: Of x ``(B, 3, S, S)``; made from ``x_points`` if None.
        alpha: Region → opacity of what is warped.

    Returns:
        ``(B, 3, S, S)`` in [-1, 1].
    """
    size = x.shape[-1]
    masks = region_masks(x_points, size, x) if masks is None else masks
    warped = warp_smoothly(y, spline_flow(x_points, y_points, size, 48))
    skin = masks[:, 2:]
    light = [((z + 1) * skin).sum((1, 2, 3), keepdim=True) for z in (x, warped)]
    gain = (light[0] / light[1].clamp_min(1e-3)).clamp(0.5, 2)
    warped = ((warped + 1) * gain - 1).clamp(-1, 1)
    share = alpha or _ALPHA
    weight = torch.tensor([share[region] for region in REGIONS]).to(x)[None, :, None, None]
    return torch.lerp(x, warped, (masks * weight).sum(1, keepdim=True).clamp(0, 1))


def photo_rows(cache: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that make-up can be put on: coloured photos, turned less than 40 degrees."""
    rows = _frontal(cache, rows)
    rows = rows[~np.char.startswith(cache.dataset[rows].astype(str), "ict_")]
    return rows[_coloured(cache, rows)]


def _frontal(cache: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    known: NDArray[np.bool_] = np.isfinite(cache.landmarks[rows]).all((1, 2))
    turned: NDArray[np.float32] = np.abs(np.nan_to_num(cache.pose[rows, 0]))
    return rows[known & (turned < _MOST_YAW)]


def _crop_points(points: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Return landmarks in pixels of crops, renamed where the crop mirrors the face."""
    inside = to_crop_points(points, matrices)
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    renamed = mirror_points(inside, size)
    renamed[..., 0] = (size - 1) - renamed[..., 0]
    return torch.where(mirrored[:, None, None], renamed, inside)


def _coloured(cache: Any, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which photos have colours."""
    found = [np.zeros(0, bool)]
    for start in range(0, len(rows), _BLOCK):
        x = cache.images[rows[start : start + _BLOCK]][:, :, ::4, ::4].astype(np.float32)
        found.append((x.max(1) - x.min(1)).mean((1, 2)) > _NEAR_GREY)
    return np.concatenate(found)
