"""Pairs of pictures of one person from tables of faces.

Four kinds: two frames of a clip, a picture and its mirror image, a picture and itself warped by
somebody else's expression, and any of these mirrored. All are drawn in batches; a batch is a pure
function of (seed, rank, step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.augment import (
    color_jitter,
    gaussian_blur,
    grayscale,
    lower_resolution,
    random_similarity,
)
from mien.data.clips import ClipPartners
from mien.data.neutral import NeutralShape
from mien.data.warp import base_grid, resize_flow
from mien.files.errors import TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANCHORS = 24  # points on the border that an expression warp leaves in place
_FLOW = 16  # side of the known flows: that of FaceCycle's flow decoder


@dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn and augmented.

    Attributes:
        weights: Share of each table in a batch; equal if empty.
        mirror: Probability that the second frame is the mirror image of the first.
        expression_warp: Probability that a pair of a single photo is warped by an expression.
        degrees: Largest turn of a frame.
        scale: Largest enlargement of a frame (and the inverse of the smallest).
        shift: Largest shift, in picture widths.
        jitter: Strength of the colour jitter of both frames.
        resting: Share of the pictures without a clip that are drawn among resting faces: frontal,
            mouth closed and relaxed, as their landmarks and head pose show (0: all alike, and only
            labels make an anchor).
        guided: Give the flow to the neutral face for every picture of a table with action units, as
            ``mien.data.neutral`` estimates it.
        code_gray: Probability of grey for what the encoder sees (0: it sees the frame itself).
        code_blur: Probability of a blur and of a lower resolution for what the encoder sees.
    """

    weights: tuple[float, ...] = ()
    mirror: float = 0.5
    expression_warp: float = 0.0
    degrees: float = 0.0
    scale: float = 1.025
    shift: float = 0.0
    jitter: float = 0.05
    resting: float = 0.0
    guided: bool = False
    code_gray: float = 0.0
    code_blur: float = 0.0


class PairSampler:
    """Draws batches ``{"image0", "image1", "code0", "code1", "anchor0", …, "flow", "known"}``.

    ``image*`` are frames ``(B, 3, S, S)`` in [-1, 1], ``code*`` what the expression encoder sees of
    them (more strongly augmented). ``anchor*`` ``(B,)`` is 1 where the neutral, frontal face is
    known: it samples the frame at *place + rest* (``rest*``, ``(B, 2, 16, 16)`` in the units of
    ``mien.data.warp``). For a picture of a neutral and frontal face that is what our augmentation
    moved, for a guided one also what expression and pose did. Where ``known`` ``(B,)`` is 1, both
    frames were made from one picture by warps of our own: frame 1 samples frame 0 at
    *place + flow*.

    Args:
        caches: Tables of faces; those with clips give pairs of frames, others pairs of one photo.
        settings: How pairs are drawn.
        batch_size: Pairs in a batch.
        seed: Seed of the run.
        rank: Number of the process.

    Raises:
        TableError: Expression warps are asked for and no table holds expression/neutral pairs, or
            guidance and no table holds action units.
    """

    def __init__(
        self, caches: list[Any], settings: PairSettings, batch_size: int, seed: int, rank: int
    ) -> None:
        self.caches, self.settings = caches, settings
        self.batch_size, self.seed, self.rank = batch_size, seed, rank
        share = np.array(settings.weights or [1.0] * len(caches), np.float64)
        if len(share) != len(caches):
            raise TableError(f"{len(share)} weights are given for {len(caches)} tables.")
        self.share = share / share.sum()
        self.rows = [cache.select(split="train") for cache in caches]
        self.partners = [
            ClipPartners(cache, rows) for cache, rows in zip(caches, self.rows, strict=True)
        ]
        self.anchors = [_anchors(cache) for cache in caches]
        self.resting = [np.zeros(0, np.int64) for _ in caches]
        if settings.resting:
            for t, (cache, rows) in enumerate(zip(caches, self.rows, strict=True)):
                resting = _resting(cache) & (cache.clip < 0)
                self.anchors[t] = self.anchors[t] | resting
                self.resting[t] = rows[resting[rows]]
        self.neutral: list[NDArray[np.float32] | None] = [None for _ in caches]
        if settings.guided:
            self._guide()
        self.bank = np.concatenate(
            [_expressions(cache, rows) for cache, rows in zip(caches, self.rows, strict=True)]
        )
        if settings.expression_warp and not len(self.bank):
            raise TableError(
                "Expression warps need a table of expression/neutral pairs: "
                "mien prepare ict_pairs:DIR --out TABLE"
            )

    def _guide(self) -> None:
        """Estimate the neutral landmarks of every row of the tables with action units."""
        for t, (cache, rows) in enumerate(zip(self.caches, self.rows, strict=True)):
            if cache.action_units.any():
                points, units, pose = cache.landmarks, cache.action_units, cache.pose
                shape = NeutralShape(points[rows], units[rows], pose[rows])
                neutral = shape(points, units, pose)
                usable = np.asarray(np.isfinite(neutral).all((1, 2)))
                self.neutral[t] = np.where(usable[:, None, None], neutral, points)
                self.anchors[t] = self.anchors[t] | usable
        if all(each is None for each in self.neutral):
            raise TableError(
                "Guidance needs a table with action units: prepare one with --annotations that "
                "hold `blendshapes`."
            )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of ``step``."""
        s, n = self.settings, self.batch_size
        rng = np.random.default_rng([self.seed, self.rank, step])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        table = np.sort(rng.choice(len(self.caches), n, p=self.share))
        first, second, points, neutral, anchor, single = [], [], [], [], [], []
        for t, cache in enumerate(self.caches):
            count = int((table == t).sum())
            if not count:
                continue
            a = rng.choice(self.rows[t], count)
            if len(self.resting[t]):
                chosen = rng.random(count) < s.resting
                a = np.where(chosen, rng.choice(self.resting[t], count), a)
            b = self.partners[t].draw(a, rng)
            first.append(cache.take(a))
            second.append(cache.take(b))
            points.append(np.stack([cache.landmarks[a], cache.landmarks[b]]))
            resting = self.neutral[t]
            neutral.append(points[-1] if resting is None else np.stack([resting[a], resting[b]]))
            anchor.append(np.stack([self.anchors[t][a], self.anchors[t][b]]))
            single.append(a == b)
        x0 = torch.cat(first).float().div_(127.5).sub_(1.0)
        x1 = torch.cat(second).float().div_(127.5).sub_(1.0)
        flags = torch.from_numpy(np.concatenate(anchor, 1)).float()

        alone = np.concatenate(single)
        where = torch.from_numpy(np.concatenate(points, 1))  # (2, n, 68, 2)
        rest = torch.zeros(2 * n, 2, _FLOW, _FLOW)  # by which a neutral face samples its picture
        if s.guided:
            change = torch.from_numpy(np.concatenate(neutral, 1)) - where
            guide = point_flow(where.flatten(0, 1), change.flatten(0, 1), x0.shape[-1])
            rest = resize_flow(guide, (_FLOW, _FLOW))
        known = torch.zeros(n)
        moved = torch.zeros(n, 2, _FLOW, _FLOW)  # of the expression warps
        if s.expression_warp:
            warped = alone & (rng.random(n) < s.expression_warp)
            index = torch.from_numpy(np.flatnonzero(warped))
            if len(index):
                shift = self.bank[rng.integers(len(self.bank), size=len(index))]
                shift = shift * rng.uniform(-0.3, 1.3, (len(index), 1, 1))
                flow = point_flow(
                    where[0, index],
                    torch.from_numpy(shift.astype(np.float32)),
                    x1.shape[-1],
                )
                x1[index] = warp_smoothly(x1[index], flow)
                moved[index] = resize_flow(flow, (_FLOW, _FLOW))
                known[index] = 1.0
                if s.guided:
                    rest[n + index] = _before(rest[n + index], moved[index])
                else:
                    flags[1, index] = 0.0
            alone &= ~warped

        x = torch.cat([x0, x1])
        placed = torch.eye(2, 3).expand(2 * n, 2, 3)
        if s.degrees or s.shift or s.scale != 1:
            x, _, placed = random_similarity(
                x, generator, s.degrees, (1 / s.scale, s.scale), s.shift
            )
        x = color_jitter(x, generator, s.jitter, s.jitter, s.jitter, s.jitter / 5, p=0.8)
        flip0, flip1 = torch.rand(2, n, generator=generator) < 0.5
        flip1 = torch.where(known > 0, flip0, flip1)  # mirrored alone, the flow would be lost
        flip = torch.cat([flip0, flip1])[:, None, None, None]
        x0, x1 = torch.where(flip, x.flip(-1), x).chunk(2)
        placed0, placed1 = placed.chunk(2)
        flow = _mirror_flow(_between(moved, placed0, placed1, x.shape[-1]), flip0)
        rest0 = _mirror_flow(_rest(rest[:n], placed0, x.shape[-1]), flip0)
        rest1 = _mirror_flow(_rest(rest[n:], placed1, x.shape[-1]), flip1)
        mirrored = torch.from_numpy(alone | (rng.random(n) < s.mirror))
        # As published: the mirror image is of the first frame as it was augmented.
        x1 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x1)
        flags[1] = torch.where(mirrored, flags[0], flags[1])
        batch = {
            "image0": x0,
            "image1": x1,
            "anchor0": flags[0],
            "anchor1": flags[1],
            "flow": flow,
            "known": torch.where(mirrored, 0.0, known),
            "rest0": rest0,
            "rest1": torch.where(
                mirrored[:, None, None, None], _mirror_flow(rest0, mirrored), rest1
            ),
        }
        if s.code_gray or s.code_blur:
            code = torch.cat([x0, x1])
            code = color_jitter(code, generator, 0.3, 0.3, 0.3, 0.03, p=0.8)
            code = grayscale(code, generator, p=s.code_gray)
            code = gaussian_blur(code, generator, (0.3, 1.2), p=s.code_blur)
            code = lower_resolution(code, generator, (0.4, 1.0), p=s.code_blur)
            batch["code0"], batch["code1"] = code.chunk(2)
        return batch


def warp_points(x: Tensor, points: Tensor, shift: Tensor) -> Tensor:
    """Move ``points`` of the pictures by ``shift`` and everything between them smoothly.

    Args:
        x: ``(B, C, S, S)``.
        points: ``(B, P, 2)`` in pixels.
        shift: ``(B, P, 2)`` in pixels, where each point goes.

    Returns:
        ``(B, C, S, S)``; the border stays in place.
    """
    return warp_smoothly(x, point_flow(points, shift, x.shape[-1]))


def warp_smoothly(x: Tensor, flow: Tensor) -> Tensor:
    """Warp ``(B, C, S, S)`` by a coarse flow ``(B, 2, h, w)``; beyond the border it is repeated."""
    flow = resize_flow(flow, (x.shape[-2], x.shape[-1]))
    grid = (base_grid(x.shape[-2], x.shape[-1], flow) + flow).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def point_flow(points: Tensor, shift: Tensor, size: int) -> Tensor:
    """Return the flow ``(B, 2, 32, 32)`` that moves ``points`` by ``shift`` (see ``warp_points``).

    The displacement is a Gaussian radial basis interpolation of the points' shifts, zero on the
    border. Units are those of ``mien.data.warp``.
    """
    unit = 2 / (size - 1)
    around = torch.linspace(0, 2 * np.pi, _ANCHORS + 1)[:-1]
    ring = torch.stack([around.cos(), around.sin()], -1)
    ring = ring / ring.abs().amax(-1, keepdim=True)  # on the border of the square
    source = points * unit - 1
    target = torch.cat([source + shift * unit, ring.expand(len(points), -1, -1)], 1)
    move = torch.cat([-shift * unit, torch.zeros(len(points), _ANCHORS, 2)], 1)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance: Tensor = torch.cdist(a, b)
        return torch.exp(-((distance / 0.35) ** 2))

    matrix = kernel(target, target) + 1e-2 * torch.eye(target.shape[1])
    weight = torch.linalg.solve(matrix, move)
    coarse = 32
    grid = base_grid(coarse, coarse, points).permute(0, 2, 3, 1).reshape(1, -1, 2)
    flow: Tensor = kernel(grid.expand(len(points), -1, -1), target) @ weight
    return flow.view(-1, coarse, coarse, 2).movedim(3, 1)


def _between(moved: Tensor, placed0: Tensor, placed1: Tensor, size: int) -> Tensor:
    """Return the flow by which frame 1 samples frame 0.

    Args:
        moved: ``(B, 2, h, h)``, flow by which the second picture samples the first one.
        placed0: ``(B, 2, 3)``, pixels of the first picture to pixels of frame 0.
        placed1: ``(B, 2, 3)``, pixels of the second picture to pixels of frame 1.
        size: Side of the pictures in pixels.
    """
    unit = 2 / (size - 1)
    place = base_grid(_FLOW, _FLOW, moved)  # (1, 2, h, h)
    pixels = (place.flatten(2) + 1) / unit
    # frame 1 → second picture → first picture → frame 0
    second = torch.linalg.solve(placed1[:, :, :2], pixels - placed1[:, :, 2:])
    where = (second * unit - 1).view(-1, 2, _FLOW, _FLOW)
    step = F.grid_sample(
        moved, where.permute(0, 2, 3, 1), padding_mode="border", align_corners=True
    )
    first = ((where + step).flatten(2) + 1) / unit
    frame0 = placed0[:, :, :2] @ first + placed0[:, :, 2:]
    flow: Tensor = (frame0 * unit - 1).view_as(where) - place
    return flow


def _rest(rest: Tensor, placed: Tensor, size: int) -> Tensor:
    """Return the flow by which a neutral face samples the frame of its picture.

    Args:
        rest: ``(B, 2, h, h)``, flow by which it samples the picture.
        placed: ``(B, 2, 3)``, pixels of the picture to pixels of the frame.
        size: Side of the picture in pixels.
    """
    unit = 2 / (size - 1)
    place = base_grid(_FLOW, _FLOW, placed)
    picture = ((place + rest).flatten(2) + 1) / unit
    frame = placed[:, :, :2] @ picture + placed[:, :, 2:]
    flow: Tensor = (frame * unit - 1).view(-1, 2, _FLOW, _FLOW) - place
    return flow


def _before(rest: Tensor, moved: Tensor, steps: int = 3) -> Tensor:
    """Return the flow by which a neutral face samples the warped picture.

    Args:
        rest: ``(B, 2, h, h)``, flow by which it samples the picture itself.
        moved: ``(B, 2, h, h)``, flow by which the warped picture samples the picture.
        steps: Fixed-point steps of the inverse of ``moved``.
    """
    target = base_grid(_FLOW, _FLOW, rest) + rest
    place = target
    for _ in range(steps):
        step = F.grid_sample(
            moved, place.permute(0, 2, 3, 1), padding_mode="border", align_corners=True
        )
        place = target - step
    return place - base_grid(_FLOW, _FLOW, rest)


def _mirror_flow(flow: Tensor, chosen: Tensor) -> Tensor:
    """Return the flows of the mirrored frames where ``chosen`` ``(B,)``, the others as they are."""
    mirrored = torch.stack([-flow[:, 0], flow[:, 1]], 1).flip(-1)
    return torch.where(chosen[:, None, None, None], mirrored, flow)


def _anchors(cache: Any) -> NDArray[np.bool_]:
    """Rows that their labels call neutral and near frontal (exact labels only: renders)."""
    turn = np.abs(np.nan_to_num(cache.pose, nan=90.0))
    frontal = (turn[:, 0] < 4) & (turn[:, 1] < 6) & (turn[:, 2] < 4)
    return np.asarray(frontal & (cache.expression == "neutral"))


def _resting(cache: Any) -> NDArray[np.bool_]:
    """Rows whose landmarks and pose show a frontal face with a closed, relaxed mouth.

    The zero of pitch and the usual width of a mouth are those of the table: both depend on how its
    landmarks were made.
    """
    points = cache.landmarks
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    width = np.linalg.norm(points[:, 48] - points[:, 54], axis=-1) / eyes
    gap = np.linalg.norm(points[:, 62] - points[:, 66], axis=-1) / eyes
    turn = cache.pose - [0, np.nanmedian(cache.pose[:, 1]), 0]
    with np.errstate(invalid="ignore"):  # unknown landmarks or pose: not resting
        frontal = (np.abs(turn) < [6, 8, 5]).all(1)
        closed = (gap < 0.03) & (width < np.nanquantile(width, 0.4))
    return np.asarray(frontal & closed)


def _expressions(cache: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return landmark shifts ``(n, 68, 2)`` from neutral to expression of one head in one pose."""
    keep = rows[np.char.startswith(cache.dataset[rows].astype(str), "ict_pairs")]
    neutral = {int(cache.clip[i]): i for i in keep if cache.expression[i] == "neutral"}
    shifts = [
        cache.landmarks[i] - cache.landmarks[neutral[int(cache.clip[i])]]
        for i in keep
        if cache.expression[i] != "neutral" and int(cache.clip[i]) in neutral
    ]
    return np.array(shifts, np.float32).reshape(-1, 68, 2)
