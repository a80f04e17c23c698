"""Edited crops and flows back into the photo, at the photo's own resolution.

A model sees a small crop; the photo keeps its detail. ``paste`` and ``paste_change`` add the
enlarged *difference* of two crops to the photo, ``warp_photo`` moves the photo's own pixels by a
flow that was found in the crop. Nothing changes outside the mask.

Detail belongs to what it is the detail of: where an edit takes a structure away (the teeth of a
smile), the photo's detail goes with it, and grain as that of the rest of the face takes its place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.faces.align import invert, transform_points, warp
from mien.faces.face import Array, Face, Image
from mien.faces.image import check_image
from mien.files.errors import ConfigError, ImageError, nearest

BLENDS = ("feather", "poisson")
MASKS = ("ellipse", "hull", "crop")
_BROWS, _EYES = slice(17, 27), slice(36, 48)
_SWEEPS = 40  # of the membrane solver, on every level of its pyramid

# What an edit takes away (``_taken``). Sigma of the neighbourhood in sides of the crop; from which
# to which share of the face's contrast a change, and of the structure there a loss, begins to count
# and counts in full.
_NEAR = 0.03
_LARGE, _LOST = (0.25, 0.6), (0.4, 0.8)
_EDGES = 2.5  # standard deviations of the grain; more is an edge


def paste(
    photo: Image,
    face: Face,
    new: Image,
    *,
    blend: str = "feather",
    mask: str | Array = "ellipse",
    feather: float = 0.2,
    detail: bool = True,
) -> Image:
    """Put an edited crop back.

    Args:
        photo: uint8 ``(H, W, 3)`` RGB, the photo that ``face`` was found in.
        face: Where the crop sits; its own crop is what ``new`` was made from.
        new: uint8 ``(s, s, 3)``, the edited crop, of any size ``s``.
        blend: ``feather`` fades the change out towards the mask's edge; ``poisson`` keeps the
            crop's gradients and takes its colours from the rim of the mask.
        mask: See ``face_mask``, or a float32 ``(n, n)`` in [0, 1] over the crop, of any size.
        feather: Width of the mask's soft edge in sides of the crop.
        detail: Add the difference between ``new`` and the face's crop, so that what is finer than
            the crop survives but where its structure is gone; if False, replace the photo's pixels.

    Returns:
        A new photo; an unedited crop gives the same pixels.

    Raises:
        ConfigError: No such blend or mask.
        ImageError: ``photo`` or ``new`` is not a uint8 RGB picture, or ``new`` is not square.
    """
    _check_square(new)
    old = _resize(face.crop, len(new))
    return _blend(photo, face, old, new, blend, mask, feather, detail)


def paste_change(
    photo: Image,
    face: Face,
    old: Image,
    new: Image,
    *,
    blend: str = "feather",
    mask: str | Array = "ellipse",
    feather: float = 0.2,
) -> Image:
    """Add the difference of two crops, e.g. of a model's edit and its plain reconstruction.

    Args:
        photo: uint8 ``(H, W, 3)`` RGB.
        face: Where the crops sit.
        old: uint8 ``(s, s, 3)``.
        new: uint8 ``(s, s, 3)``.
        blend: As for ``paste``.
        mask: As for ``paste``.
        feather: As for ``paste``.

    Returns:
        A new photo.

    Raises:
        ConfigError: No such blend or mask.
        ImageError: Not uint8 RGB pictures, or the crops differ in shape or are not square.
    """
    _check_square(new)
    if old.shape != new.shape:
        raise ImageError(f"The crops differ in shape: {old.shape} and {new.shape}.")
    return _blend(photo, face, old, new, blend, mask, feather, detail=True)


def warp_photo(
    photo: Image,
    face: Face,
    flow: NDArray[Any],
    *,
    mask: str | Array = "crop",
    feather: float = 0.2,
) -> Image:
    """Apply a flow that was found in the crop to the photo itself.

    Args:
        photo: uint8 ``(H, W, 3)`` RGB.
        face: Where the crop sits.
        flow: ``(2, h, w)``, x and y in units of the crop as in ``mien.data.warp``: 2 is its whole
            side, and the result at a place shows what was at place + flow.
        mask: As for ``paste``; the flow is multiplied by it.
        feather: As for ``paste``.

    Returns:
        A new photo; a zero flow gives the same pixels.

    Raises:
        ConfigError: No such mask, or the flow has another shape.
        ImageError: ``photo`` is not a uint8 RGB picture.
    """
    check_image(photo)
    flow = np.asarray(flow, dtype=np.float32)
    if flow.ndim != 3 or len(flow) != 2:
        raise ConfigError(f"A flow has the shape (2, h, w), not {flow.shape}.")
    region = _region(photo, face)
    result = photo.copy()
    if region is None:
        return result
    last = len(face.crop) - 1
    # In photo pixels, on the flow's grid: its corners are the centres of the crop's corner pixels.
    shift = np.moveaxis(flow, 0, -1) @ (face.to_photo[:, :2].T * (last / 2))
    grid = np.diag([(flow.shape[2] - 1) / last, (flow.shape[1] - 1) / last])
    shift = warp(shift, grid @ region.to_crop, region.size, "replicate", enlarge="linear")
    shift *= _mask_on(region, face, mask, feather)[..., None]
    x, y = np.arange(region.size[0]), np.arange(region.size[1])
    places = np.stack(np.meshgrid(x + region.left, y + region.top), -1) + shift
    across, down = np.moveaxis(places.astype(np.float32), -1, 0)
    moved = cv2.remap(photo, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    result[region.rows, region.columns] = moved
    return result


def face_mask(
    face: Face, shape: str = "ellipse", feather: float = 0.2, size: int | None = None
) -> Array:
    """Make a soft mask over the crop, zero at its edge.

    Args:
        face: The face.
        shape: ``ellipse`` inscribed in the crop, ``hull`` of the landmarks with the forehead, or
            ``crop``, the whole square.
        feather: Width of the soft edge, which lies inside the shape, in sides of the crop.
        size: Side of the mask; the crop's if not given.

    Returns:
        float32 ``(size, size)`` in [0, 1].

    Raises:
        ConfigError: No such shape.
    """
    if shape not in MASKS:
        raise ConfigError(f"No mask named {shape!r}{nearest(shape, MASKS)}")
    n = size or len(face.crop)
    axis: NDArray[Any] = (np.arange(n) + 0.5) / n
    to_edge: NDArray[Any] = np.minimum(axis, 1 - axis) - 0.5 / n
    depth = np.minimum(to_edge[:, None], to_edge[None, :])  # in sides of the crop
    if shape == "ellipse":
        depth = 0.5 - 0.5 / n - np.hypot(axis[:, None] - 0.5, axis[None, :] - 0.5)
    elif shape == "hull":
        points = transform_points(face.landmarks, invert(face.to_photo))
        forehead = points[_BROWS] + 1.5 * (points[_BROWS].mean(0) - points[_EYES].mean(0))
        outline = (np.concatenate([points, forehead]) + 0.5) * n / len(face.crop) - 0.5
        filled = np.zeros((n, n), np.uint8)
        cv2.fillConvexPoly(filled, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
        inside = cv2.distanceTransform(filled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        depth = np.minimum(depth, np.asarray(inside) / n)
    t = np.clip(depth / max(feather, 1e-6), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


class _Region(NamedTuple):
    """The part of a photo that a crop covers."""

    left: int
    top: int
    size: tuple[int, int]  # width, height
    to_crop: NDArray[np.float64]  # (2, 3), region pixel → crop pixel

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.size[1])

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.size[0])


def _region(photo: Image, face: Face) -> _Region | None:
    far = len(face.crop) - 0.5
    corners = np.array([[-0.5, -0.5], [far, -0.5], [far, far], [-0.5, far]])
    corners = transform_points(corners, face.to_photo)
    low = np.clip(np.floor(corners.min(0)), 0, photo.shape[1::-1]).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, 0, photo.shape[1::-1]).astype(int)
    width, height = high - low
    if width <= 0 or height <= 0:
        return None
    to_crop = invert(face.to_photo).astype(np.float64)
    to_crop[:, 2] += to_crop[:, :2] @ low
    return _Region(int(low[0]), int(low[1]), (int(width), int(height)), to_crop)


def _blend(
    photo: Image,
    face: Face,
    old: Image,
    new: Image,
    blend: str,
    mask: str | Array,
    feather: float,
    detail: bool,
) -> Image:
    check_image(photo)
    if blend not in BLENDS:
        raise ConfigError(f"No blending named {blend!r}{nearest(blend, BLENDS)}")
    region = _region(photo, face)
    result = photo.copy()
    if region is None:
        return result
    before = photo[region.rows, region.columns].astype(np.float32)
    change = new.astype(np.float32) - old
    if blend == "poisson":
        mask = _mask_over(face, mask, feather, len(new))
        mask = (mask > 0.5).astype(np.float32)
        rim = membrane(change, mask > 0)
        change -= rim
    over = _mask_on(region, face, mask, feather)[..., None]
    if detail:
        change = _on(region, face, change)
        change += _regrain(region, face, before, old, new, over)
    else:
        change = _on(region, face, change + old) - before
    change *= over
    result[region.rows, region.columns] = np.clip(np.rint(before + change), 0, 255)
    return result


def _regrain(
    region: _Region, face: Face, before: Array, old: Image, new: Image, over: Array
) -> Array | float:
    """Return what takes the photo's detail away where its structure goes, and puts grain there.

    Args:
        region: Where the crop lies.
        face: The face.
        before: float32 ``(h, w, 3)``, the region of the photo.
        old: The crop before the edit.
        new: The crop after it.
        over: The mask on the region ``(h, w, 1)``.
    """
    taken = _taken(old.astype(np.float32), new.astype(np.float32))
    if not taken.any():
        return 0.0
    weight = _on(region, face, np.repeat(taken[..., None], 3, 2)).clip(0, 1)
    detail = before - _on(region, face, old.astype(np.float32))
    return weight * (_grain(detail, (over[..., 0] > 0.5) & (weight[..., 0] < 0.5)) - detail)


def _taken(old: Array, new: Array) -> Array:
    """Return where an edit takes structure away: ``(s, s)``, from 0 to 1.

    A change counts by its size, compared with the contrast of the face, and by how much of the
    local structure (the gradients) of ``old`` is not found in ``new``: a new colour or light is a
    large change that leaves the structure.
    """
    sigma = _NEAR * len(old)

    def near(values: Array) -> Array:
        return np.asarray(cv2.GaussianBlur(values.mean(2), (0, 0), sigma), np.float32)

    def step(values: Array, ends: tuple[float, float]) -> Array:
        t = np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)
        return np.asarray(t * t * (3 - 2 * t), np.float32)

    contrast = float(old.std((0, 1)).mean())
    large = np.asarray(np.sqrt(near(np.square(new - old))) / max(contrast, 1.0), np.float32)
    across, down = (
        [cv2.Sobel(x, cv2.CV_32F, *axis) for x in (old, new)] for axis in ((1, 0), (0, 1))
    )
    kept = near(across[0] * across[1] + down[0] * down[1])
    kept /= np.maximum(near(np.square(across[0]) + np.square(down[0])), 1.0)
    return step(large, _LARGE) * step(1 - kept, _LOST)


def _grain(detail: Array, where: NDArray[np.bool_]) -> Array:
    """Draw noise with the spectrum and the deviation of ``detail`` ``(h, w, 3)`` at some places.

    Random phases on the spectrum of a picture give its texture (Galerne, Gousseau, Morel, 2011);
    edges are cut off before.
    """
    if not where.any():
        return np.zeros_like(detail)
    spread = 1.4826 * np.median(np.abs(detail[where]), axis=0)  # robust standard deviation
    fine = np.clip(detail, -_EDGES * spread, _EDGES * spread) * where[..., None]
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, fine.shape[:2])
    spectrum = np.fft.fft2(fine, axes=(0, 1)) * np.exp(1j * phase)[..., None]
    noise = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return np.asarray(noise / np.maximum(noise.std((0, 1)), 1e-6) * spread, np.float32)


def membrane(values: NDArray[Any], inside: NDArray[np.bool_]) -> Array:
    """Fill a hole harmonically (Laplace's equation) from the values around it.

    Args:
        values: float32 ``(h, w, C)``; what lies inside the hole is ignored.
        inside: bool ``(h, w)``, the hole. Where it touches the array's edge the slope is zero.

    Returns:
        float32 ``(h, w, C)``; all zero if there is nothing around the hole.
    """
    known = (~inside).astype(np.float32)
    if not known.any():
        return np.zeros_like(values)
    if min(inside.shape) > 4 and inside.any():
        half = (inside.shape[1] // 2, inside.shape[0] // 2)
        weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
        total = cv2.resize(values * known[..., None], half, interpolation=cv2.INTER_AREA)
        coarse = total / np.maximum(weight, 1e-6)[..., None]
        start = cv2.resize(membrane(coarse, weight == 0), inside.shape[::-1])
    else:
        start = (values * known[..., None]).sum((0, 1)) / known.sum()
    field = np.where(inside[..., None], start, values).astype(np.float32)
    kernel = np.array([[1, 4, 1], [4, 0, 4], [1, 4, 1]], np.float32) / 20
    for _ in range(_SWEEPS):
        mean = cv2.filter2D(field, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        field = np.where(inside[..., None], mean, field)
    return field


def _mask_over(face: Face, mask: str | Array, feather: float, size: int) -> Array:
    """Return the mask over the crop; one that was given keeps its size."""
    if isinstance(mask, str):
        return face_mask(face, mask, feather, size)
    mask = np.asarray(mask, dtype=np.float32)
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ConfigError(f"A mask has the shape (n, n), not {mask.shape}.")
    return mask


def _mask_on(region: _Region, face: Face, mask: str | Array, feather: float) -> Array:
    """Return the mask at the photo's resolution, ``(height, width)``."""
    over = _mask_over(face, mask, feather, len(face.crop))
    return warp(over, _rescale(face, len(over)) @ _square(region.to_crop), region.size, "constant")


def _on(region: _Region, face: Face, values: Array) -> Array:
    """Bring values ``(s, s, 3)`` over the crop to the photo's resolution."""
    matrix = _rescale(face, len(values)) @ _square(region.to_crop)
    return warp(values, matrix, region.size, "replicate", enlarge="cubic")


def _rescale(face: Face, size: int) -> NDArray[np.float64]:
    """Return ``(2, 3)``: crop pixel → pixel of an array of another ``size`` over the crop."""
    share = size / len(face.crop)
    return np.array([[share, 0, (share - 1) / 2], [0, share, (share - 1) / 2]])


def _square(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.vstack([matrix, [0, 0, 1]])


def _resize(crop: Image, size: int) -> Image:
    if len(crop) == size:
        return crop
    how = cv2.INTER_AREA if size < len(crop) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (size, size), interpolation=how), dtype=np.uint8)


def _check_square(crop: Image) -> None:
    check_image(crop)
    if crop.shape[0] != crop.shape[1]:
        raise ImageError(f"A crop is square, this one has the shape {crop.shape}.")
