"""Measures of make-up on faces whose exact result is known.

A pair is a bare face x and a reference y that the make-up artist of ``mien.data.makeup_artist``
painted; x painted with the same parameters is the exact result. Every value is a mean over pairs of
one picture each, with its interval over whole persons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.makeup_artist import MakeupParameters, paint
from mien.evaluate.bootstrap import Statistic, interval, mean_of
from mien.faces.colours import TONES, to_lab, tone_bins, typology_angle
from mien.faces.regions import REGIONS, region_masks
from mien.files.errors import MissingExtraError
from mien.methods.pairedcyclegan.losses import match_histogram

Values = NDArray[np.float64]

LEAST_OF_TONE = 20  # pairs that a bin of skin tones needs to count in the largest gap
_BATCH = 32
_LEAST_PIXELS = 8.0  # of a region that is measured
_GREY = 8.0  # of chroma; less has no hue
_APART = 120.0  # degrees between two references; near 180 it is unsure which way a hue turned
_MOST_DB = 99.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """Bare faces, painted references and exact results, ``(N, 3, S, S)`` in [-1, 1].

    Attributes:
        x: Bare faces.
        x_points: Their landmarks ``(N, 68, 2)`` in pixels.
        y: References, painted.
        y_points: Their landmarks.
        exact: x in the make-up of y.
        exact_next: x in the make-up of the next pair's y.
        cover: How opaque the paint of ``exact`` is, ``(N, 3, S, S)`` in the order of ``REGIONS``.
        cover_next: That of ``exact_next``.
        y_cover: That of ``y``.
        masks: Regions of x, ``(N, 3, S, S)``.
        persons: ``(N,)`` equal for faces x of one person.
        worn: Make-up of each pair.
        regions: That were painted and are measured.
        tones: ``(N,)`` bin of the skin of x (``mien.faces.colours.TONES``).
    """

    x: Tensor
    x_points: Tensor
    y: Tensor
    y_points: Tensor
    exact: Tensor
    exact_next: Tensor
    cover: Tensor
    cover_next: Tensor
    y_cover: Tensor
    masks: Tensor
    persons: NDArray[np.int64]
    worn: MakeupParameters
    regions: tuple[str, ...]
    tones: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


def paint_pairs(
    x: Tensor,
    x_points: Tensor,
    y: Tensor,
    y_points: Tensor,
    worn: MakeupParameters,
    persons: NDArray[np.int64],
    regions: tuple[str, ...] = REGIONS,
) -> Pairs:
    """Paint references and exact results.

    Args:
        x: Bare faces ``(N, 3, S, S)`` in [-1, 1].
        x_points: Their landmarks ``(N, 68, 2)``.
        y: Faces of the references, bare.
        y_points: Their landmarks.
        worn: Make-up of each pair.
        persons: ``(N,)`` who x is.
        regions: To paint.
    """
    worn = worn.only(*regions)
    after = [*range(1, len(x)), 0]
    made, next_, refs = (
        _in_batches(lambda a, b, w: torch.cat(paint(a, b, w, regions), 1), *given)
        for given in ((x, x_points, worn), (x, x_points, worn[after]), (y, y_points, worn))
    )
    tones = tone_bins(typology_angle(x, x_points)).numpy()
    masks = _in_batches(lambda a, p: region_masks(p, a.shape[-1], a), x, x_points)
    return Pairs(
        x, x_points, refs[:, :3], y_points, made[:, :3], next_[:, :3],
        made[:, 3:], next_[:, 3:], refs[:, 3:], masks, persons, worn, regions, tones,
    )  # fmt: skip


def colour_difference(x: Tensor, y: Tensor, masks: Tensor) -> Values:
    """Return the mean ΔE2000 of pictures in each region, ``(B, R)``; NaN where it is not seen.

    Args:
        x: ``(B, 3, H, W)`` in [-1, 1].
        y: The same shape.
        masks: ``(B, R, H, W)`` in [0, 1].

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    a, b = (to_lab(z.double()).permute(0, 2, 3, 1).numpy() for z in (x, y))
    weight = masks.double().numpy()
    seen = weight.max(1) > 0
    apart = np.zeros(seen.shape)
    apart[seen] = _ciede2000(a[seen], b[seen])
    return _mean(weight, apart[:, None])


def mean_colour(images: Tensor, weight: Tensor) -> Values:
    """Return the mean Lab colour ``(B, R, 3)`` under each weight ``(B, R, H, W)``."""
    lab = to_lab(images.double()).numpy()
    w = weight.double().numpy()
    return np.stack([_mean(w, lab[:, k : k + 1]) for k in range(3)], -1)


def hue_slope(reference: Values, output: Values) -> tuple[Values, int]:
    """Return what each face adds to the slope of output hue on reference hue.

    Each face was given two references. The slope is that of the difference of the two results' hue
    on the difference of the references' hue, through the origin: what the face itself has of hue
    drops out, and a copy has 0. Pairs count where both references have a hue and theirs are less
    than 120 degrees apart.

    Args:
        reference: Lab colours ``(B, 2, 3)`` of the make-up on the references.
        output: Those of the results.

    Returns:
        ``(B, 2)`` sums of products and of squares, 0 for pairs that do not count; and how many do.
    """
    hue = [np.degrees(np.arctan2(c[..., 2], c[..., 1])) for c in (reference, output)]
    apart, turned = ((h[:, 1] - h[:, 0] + 180) % 360 - 180 for h in hue)
    chroma = np.hypot(reference[..., 1], reference[..., 2]).min(1)
    counts = (chroma >= _GREY) & (np.abs(apart) < _APART) & np.isfinite(turned)
    sums = np.stack([apart * turned, apart**2], 1)
    return np.where(counts[:, None], sums, 0.0), int(counts.sum())


@dataclass(frozen=True, eq=False)
class System:
    """What one method, or a baseline, makes of the pairs; one row a pair.

    Attributes:
        images: G(x, y) ``(N, 3, S, S)``.
        following: G(x, next y).
        removed: F(exact); None if it removes nothing.
        back: F(G(x, y)); None likewise.
    """

    images: Tensor
    following: Tensor
    removed: Tensor | None = None
    back: Tensor | None = None


def run(method: Any, pairs: Pairs) -> System:
    """Return what a method makes of the pairs."""

    def put(x: Tensor, y: Tensor, at: Tensor, y_at: Tensor) -> Tensor:
        images: Tensor = method.apply_makeup(x, y, landmarks=at, driver_landmarks=y_at).images
        return images

    def take(x: Tensor, at: Tensor) -> Tensor:
        images: Tensor = method.remove_makeup(x, landmarks=at).images
        return images

    applied = _in_batches(put, pairs.x, pairs.y, pairs.x_points, pairs.y_points)
    after = [*range(1, len(pairs)), 0]
    following = _in_batches(put, pairs.x, pairs.y[after], pairs.x_points, pairs.y_points[after])
    removed, back = (_in_batches(take, z, pairs.x_points) for z in (pairs.exact, applied))
    return System(applied, following, removed, back)


def baselines(pairs: Pairs) -> dict[str, System]:
    """Return the copy of x, and histogram matching of whole pictures and of each region."""
    everywhere = torch.ones_like(pairs.x[:, :1])
    after = [*range(1, len(pairs)), 0]
    y_masks = _in_batches(lambda a, p: region_masks(p, a.shape[-1], a), pairs.y, pairs.y_points)

    def by_region(x: Tensor, masks: Tensor, y: Tensor, theirs: Tensor) -> Tensor:
        result = x.clone()
        for region in pairs.regions:
            r = slice(REGIONS.index(region), REGIONS.index(region) + 1)
            result += masks[:, r] * (match_histogram(x, y, masks[:, r], theirs[:, r]) - x)
        return result

    found = {"copy": System(pairs.x, pairs.x)}
    whole, parts = [], []
    for order in (list(range(len(pairs))), after):
        y = pairs.y[order]
        whole.append(_in_batches(match_histogram, pairs.x, y, everywhere, everywhere))
        parts.append(_in_batches(by_region, pairs.x, pairs.masks, y, y_masks[order]))
    found["histogram"] = System(*whole)
    found["histogram by region"] = System(*parts)
    return found


@dataclass(frozen=True, eq=False)
class Measure:
    """Sums of pairs that a value follows from.

    Attributes:
        sums: ``(N, K)``, what each pair adds; NaN for pairs that do not count.
        statistic: ``(..., K)`` sums → ``(...)``.
    """

    sums: Values
    statistic: Statistic

    def value(self, rows: NDArray[Any] | None = None) -> float:
        """Return the value over all pairs, or those of a mask ``(N,)``; NaN if none counts."""
        counts = np.isfinite(self.sums).all(1) & (True if rows is None else rows)
        with np.errstate(all="ignore"):
            return float(self.statistic(self.sums[counts].sum(0))) if counts.any() else np.nan

    def interval(
        self, persons: NDArray[np.int64], seed: int, rows: NDArray[Any] | None = None
    ) -> list[float]:
        """Return the 95 % interval over whole persons."""
        counts = np.isfinite(self.sums).all(1) & (True if rows is None else rows)
        if not counts.any():
            return [np.nan, np.nan]
        with np.errstate(all="ignore"):
            return list(interval(self.sums[counts], persons[counts], self.statistic, seed))


def measure(pairs: Pairs, system: System) -> dict[str, Measure]:
    """Return the measures of a system that need no judge, by name."""
    found: dict[str, Measure] = {}
    where = [REGIONS.index(region) for region in pairs.regions]
    masks = pairs.masks[:, where]
    apart = _rows(colour_difference, system.images, pairs.exact, masks)
    mine, true = (_rows(mean_colour, z, masks) for z in (system.images, pairs.exact))
    averages = _ciede2000(mine, true)
    for k, region in enumerate(pairs.regions):
        found[f"ΔE to exact, {region}"] = mean(apart[:, k])
    for k, region in enumerate(pairs.regions):
        found[f"ΔE of mean colour, {region}"] = mean(averages[:, k])
    for region in ("lips", "eyes"):  # skin is mostly the face's own colour, which is to stay
        if region in pairs.regions:
            found[f"hue slope, {region}"] = _slope(pairs, system, REGIONS.index(region))
    if "skin" in pairs.regions:
        at = pairs.regions.index("skin")
        found["lightness L* beyond exact, skin"] = mean((mine - true)[:, at, 0])
    inside = pairs.masks.sum(1, keepdim=True) > 0
    change = ((system.images - pairs.x).abs().mean(1, keepdim=True) * 127.5).double()
    outside = (~inside).double()
    total = (change * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3)).clamp_min(1)
    found["change outside the mask, 1/255"] = mean(total.numpy())
    if system.removed is not None and system.back is not None:
        worn = _rows(colour_difference, pairs.exact, pairs.x, masks)
        left = _rows(colour_difference, system.removed, pairs.x, masks)
        for k, region in enumerate(pairs.regions):
            found[f"make-up left by removal %, {region}"] = share(left[:, k], worn[:, k])
        found["PSNR of F(G(x, y)), dB"] = mean(_psnr(system.back, pairs.x))
        every = masks.amax(1, keepdim=True)
        found["PSNR of F(G(x, y)) in the regions, dB"] = mean(_psnr(system.back, pairs.x, every))
    return found


def left_of_skin(method: Any, pairs: Pairs) -> dict[str, Measure]:
    """Return what removal leaves on the skin where one kind of make-up alone was worn."""
    found = {}
    for kind, other in (("blush", "foundation_opacity"), ("foundation", "blush_opacity")):
        worn = pairs.worn.only("skin")
        worn = replace(worn, **{other: torch.zeros_like(worn.blush_opacity)})
        made = _in_batches(
            lambda x, at, w: paint(x, at, w, ("skin",))[0], pairs.x, pairs.x_points, worn
        )
        removed = _in_batches(
            lambda x, at: method.remove_makeup(x, landmarks=at).images, made, pairs.x_points
        )
        skin = pairs.masks[:, [REGIONS.index("skin")]]
        left, whole = (_rows(colour_difference, z, pairs.x, skin)[:, 0] for z in (removed, made))
        found[f"make-up left by removal %, skin, {kind} alone"] = share(left, whole)
    return found


def exact_slopes(pairs: Pairs) -> dict[str, Measure]:
    """Return the hue slopes of the exact results: what following a reference perfectly gives."""
    truth = System(pairs.exact, pairs.exact_next)
    return {
        f"hue slope, {region}": _slope(pairs, truth, REGIONS.index(region))
        for region in ("lips", "eyes")
        if region in pairs.regions
    }


def mean(values: Values) -> Measure:
    """Return the measure that is the mean of ``(N,)``."""
    return Measure(np.stack([values, np.ones(len(values))], 1).astype(np.float64), mean_of)


def share(part: Values, whole: Values) -> Measure:
    """Return the measure that is the sum of ``part`` in % of that of ``whole``, ``(N,)`` each."""
    return Measure(np.stack([100 * part, whole], 1).astype(np.float64), mean_of)


def by_tone(pairs: Pairs, found: Measure, seed: int) -> dict[str, dict[str, Any]]:
    """Return a measure for each bin of skin tones that has pairs."""
    result = {}
    for k, name in enumerate(TONES):
        rows = pairs.tones == k
        if rows.any():
            result[name] = {
                "n": int(rows.sum()),
                "value": found.value(rows),
                "interval": found.interval(pairs.persons, seed, rows),
            }
    return result


def largest_gap(values: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return between which bins of ``by_tone`` a measure differs most, of those with 20 pairs."""
    enough = {k: v["value"] for k, v in values.items() if v["n"] >= LEAST_OF_TONE}
    enough = {k: v for k, v in enough.items() if np.isfinite(v)}
    if len(enough) < 2:
        return None
    low, high = (pick(enough, key=enough.__getitem__) for pick in (min, max))
    return {"gap": enough[high] - enough[low], "highest": high, "lowest": low}


def _slope(pairs: Pairs, system: System, region: int) -> Measure:
    r = slice(region, region + 1)
    first = _rows(mean_colour, pairs.y, pairs.y_cover[:, r])[:, 0]
    reference = np.stack([first, np.roll(first, -1, 0)], 1)
    output = np.concatenate(
        [
            _rows(mean_colour, system.images, pairs.cover[:, r]),
            _rows(mean_colour, system.following, pairs.cover_next[:, r]),
        ],
        1,
    )
    return Measure(hue_slope(reference, output)[0], mean_of)


def _ciede2000(a: Values, b: Values) -> Values:
    """Return ΔE2000 ``(...)`` of Lab colours ``(..., 3)``."""
    try:
        colour = import_module("skimage.color")
    except ImportError:
        raise MissingExtraError("scikit-image", "evaluate") from None
    return np.asarray(colour.deltaE_ciede2000(a, b), np.float64)


def _psnr(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Values:
    error = ((x - y) / 2).square().double()
    weight = torch.ones_like(error) if mask is None else mask.expand_as(error).double()
    mean = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-9)
    values: Values = (-10 * torch.log10(mean)).clamp(max=_MOST_DB).numpy()
    return values


def _mean(weight: Values, values: Values) -> Values:
    total = weight.sum((2, 3))
    with np.errstate(all="ignore"):
        found = (weight * values).sum((2, 3)) / total
    return np.where(total >= _LEAST_PIXELS, found, np.nan)


def _rows(function: Any, *given: Tensor) -> Values:
    """Return what a function gives for ``(N, ...)``, batch by batch."""
    parts = zip(*(torch.split(z, _BATCH) for z in given), strict=True)
    return np.concatenate([function(*part) for part in parts])


@torch.inference_mode()
def _in_batches(function: Any, *given: Any) -> Tensor:
    count = len(given[0])
    made: Sequence[Tensor] = [
        function(*(z[start : start + _BATCH] for z in given)) for start in range(0, count, _BATCH)
    ]
    return torch.cat(list(made))
