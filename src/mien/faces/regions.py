"""Regions of make-up from 68 landmarks: soft masks of lips, eyes and skin, and crops of each.

Whole batches, any picture size, no loop over images. Lengths are in units of the face: one unit is
the distance between the centres of the eyes, measured so that it does not shrink in profile. Left
and right are the image's.

Labels of parsing maps are those of the make-up transfer set (MT) as PSGAN reads them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

REGIONS = ("lips", "eyes", "skin")
"""Channels of the masks. ``eyes`` is where eye make-up goes: no eyeballs, no brows."""
CROPS = ("lips", "left_eye", "right_eye", "skin")
"""Crops of a face. The right eye is mirrored onto the left, so that one network serves both."""

JAW = slice(0, 17)
LEFT_BROW, RIGHT_BROW = slice(17, 22), slice(22, 27)
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
OUTER_LIPS, INNER_LIPS = slice(48, 60), slice(60, 68)

_CURVE = 2  # pieces of a curve between two landmarks
_FINEST = (64, 256)  # larger sides are reached by enlarging: distances are smooth
_LIP_LABELS, _SKIN_LABELS, _NO_SHADOW = (7, 9), (1, 6), (2, 3, 4, 5, 10)


class Frame(NamedTuple):
    """Axes of a face in the picture.

    Attributes:
        unit: ``(B, 1)``, the distance between the centres of the eyes in pixels.
        right: ``(B, 2)``, of length 1, from the left eye to the right one.
        down: ``(B, 2)``, of length 1.
        left_eye: ``(B, 2)``, its centre.
        right_eye: ``(B, 2)``, its centre.
    """

    unit: Tensor
    right: Tensor
    down: Tensor
    left_eye: Tensor
    right_eye: Tensor


def face_frame(landmarks: Tensor) -> Frame:
    """Return the axes of faces with landmarks ``(B, 68, 2)`` in pixels."""
    left, right = landmarks[:, LEFT_EYE].mean(1), landmarks[:, RIGHT_EYE].mean(1)
    mouth = landmarks[:, [48, 54]].mean(1)
    across = right - left
    wide = across.norm(dim=-1, keepdim=True)
    tall = (mouth - (left + right) / 2).norm(dim=-1, keepdim=True)
    # Eyes move together as a head turns aside, as eyes and mouth do when it nods.
    unit = torch.maximum(wide, 0.92 * tall).clamp_min(1e-3)
    axis = across / wide.clamp_min(1e-3)
    return Frame(unit, axis, torch.stack([-axis[:, 1], axis[:, 0]], -1), left, right)


def curve(points: Tensor, closed: bool = True) -> Tensor:
    """Return a smooth curve through points (Catmull-Rom).

    Args:
        points: ``(B, K, 2)``.
        closed: Whether the last point leads back to the first one.

    Returns:
        ``(B, 2K, 2)``, or ``(B, 2K - 1, 2)`` if it is open.
    """
    if closed:
        around = torch.cat([points[:, -1:], points, points[:, :2]], 1)
    else:
        around = torch.cat([points[:, :1], points, points[:, -1:]], 1)
    a, b, c, d = (around[:, i : around.shape[1] - 3 + i, None] for i in range(4))
    t = (torch.arange(_CURVE, dtype=points.dtype, device=points.device) / _CURVE)[:, None]
    between = (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    ) / 2
    flat = between.flatten(1, 2)
    return flat if closed else torch.cat([flat, points[:, -1:]], 1)


def depth(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Return how deep every pixel lies in polygons.

    Args:
        corners: ``(B, K, 2)`` in pixels.
        size: Height and width of the picture.

    Returns:
        ``(B, 1, height, width)`` in pixels, below zero outside (even-odd rule).
    """
    return _on_grid(corners, size, closed=True)


def nearness(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return minus the distance of every pixel to open lines.

    Args:
        points: ``(B, K, 2)`` in pixels.
        size: Height and width of the picture.

    Returns:
        ``(B, 1, height, width)`` in pixels, zero on the line.
    """
    return _on_grid(points, size, closed=False)


def soft(level: Tensor, width: Tensor | float) -> Tensor:
    """Return 0 to 1 as ``level`` rises from ``-width / 2`` to ``width / 2`` (smoothstep)."""
    t = (level / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def region_masks(
    landmarks: Tensor, size: int | tuple[int, int], images: Tensor | None = None
) -> Tensor:
    """Return soft masks of lips, eyes and skin.

    Args:
        landmarks: ``(B, 68, 2)`` in pixels.
        size: Side, or height and width, of the pictures.
        images: ``(B, 3, H, W)`` in [-1, 1]: skin is what looks like the cheeks, so hair, glasses
            and what lies before the face fade out of its mask. By geometry alone if None.

    Returns:
        ``(B, 3, H, W)`` in [0, 1] in the order of ``REGIONS``; sums are at most 1.
    """
    shape = (size, size) if isinstance(size, int) else size
    frame = face_frame(landmarks)
    rim = 0.06 * frame.unit[:, :, None, None]
    lips = lip_mask(landmarks, shape)
    balls = eyeballs(landmarks, shape)
    brows = brow_mask(landmarks, shape)
    lids = [soft(depth(lid_area(landmarks, side), shape), 2 * rim) for side in (0, 1)]
    eyes = torch.maximum(*lids) * (1 - balls) * (1 - brows)
    mouth = soft(depth(curve(landmarks[:, OUTER_LIPS]), shape) + rim / 2, rim)
    face = soft(depth(face_outline(landmarks), shape) - 1.5 * rim, 3 * rim)
    skin = face * (1 - mouth) * (1 - balls) * (1 - brows) * (1 - eyes)
    if images is not None:
        skin = skin * skin_likeness(images, landmarks)
    return torch.cat([lips, eyes, skin], 1)


def lip_mask(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``(B, 1, H, W)``, 1 on both lips, 0 on what shows between them."""
    rim = 0.03 * face_frame(landmarks).unit[:, :, None, None]
    outer = soft(depth(curve(landmarks[:, OUTER_LIPS]), size), 2 * rim)
    inner = soft(depth(curve(landmarks[:, INNER_LIPS]), size) - 0.3 * rim, rim)
    return outer * (1 - inner)


def eyeballs(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``(B, 1, H, W)``, 1 between the lids of both eyes."""
    rim = 0.03 * face_frame(landmarks).unit[:, :, None, None]
    left, right = (
        soft(depth(curve(landmarks[:, eye]), size) + rim / 2, rim) for eye in (LEFT_EYE, RIGHT_EYE)
    )
    return torch.maximum(left, right)


def brow_mask(landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``(B, 1, H, W)``, 1 on both brows."""
    unit = face_frame(landmarks).unit[:, :, None, None]
    left, right = (
        nearness(curve(landmarks[:, brow], closed=False), size) for brow in (LEFT_BROW, RIGHT_BROW)
    )
    return soft(torch.maximum(left, right) + 0.09 * unit, 0.06 * unit)


def face_outline(landmarks: Tensor) -> Tensor:
    """Return the polygon ``(B, 30, 2)`` of jaw, temples and the part of the forehead below hair."""
    frame = face_frame(landmarks)
    brows = landmarks[:, 17:27].flip(1)
    bow = torch.sin(torch.linspace(0.15, 0.85, 10) * math.pi).to(landmarks)[None, :, None]
    forehead = brows - 0.55 * bow * (frame.unit * frame.down)[:, None]
    ends = landmarks[:, [16, 0]] - 0.15 * (frame.unit * frame.down)[:, None]
    return torch.cat([landmarks[:, JAW], ends[:, :1], forehead, ends[:, 1:]], 1)


def skin_likeness(images: Tensor, landmarks: Tensor) -> Tensor:
    """Return how much each pixel is coloured like the cheeks and nose of its face.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        landmarks: ``(B, 68, 2)`` in pixels.

    Returns:
        ``(B, 1, H, W)`` in [0, 1].
    """
    seen = colours_at(images, skin_samples(landmarks))  # (B, n, 3)
    middle = seen.median(1).values
    spread = (seen - middle[:, None]).abs().median(1).values
    # Light changes more than colour; a floor keeps shading and blush inside.
    floor = torch.tensor([0.16, 0.05, 0.05]).to(images)
    away = (_opponent(images) - middle[:, :, None, None]) / (
        torch.maximum(1.5 * spread, floor)[:, :, None, None]
    )
    distance = away.square().sum(1, keepdim=True).sqrt()
    return 1 - soft(distance - 3.0, 2.0)


def skin_samples(landmarks: Tensor) -> Tensor:
    """Return ``(B, 25, 2)``: places on cheeks and nose that show bare skin in most poses."""
    t = torch.linspace(0.25, 0.75, 4).to(landmarks)[None, :, None]
    lines = [
        landmarks[:, a : a + 1] * (1 - t) + landmarks[:, b : b + 1] * t
        for a, b in ((2, 31), (14, 35), (3, 31), (13, 35), (1, 29), (15, 29))
    ]
    return torch.cat([*lines, landmarks[:, 29:30]], 1)


def colours_at(images: Tensor, points: Tensor) -> Tensor:
    """Return opponent colours ``(B, n, 3)`` (light, red, yellow) at ``points`` ``(B, n, 2)``."""
    height, width = images.shape[-2:]
    scale = torch.tensor([width, height]).to(points)
    grid = (points + 0.5) * 2 / scale - 1
    seen = F.grid_sample(images, grid[:, None], padding_mode="border", align_corners=False)
    return _opponent(seen)[:, :, 0].mT


def parsing_masks(labels: Tensor, landmarks: Tensor) -> Tensor:
    """Return masks where a parsing map says what each pixel is.

    Args:
        labels: ``(B, H, W)`` integers: 1 face, 2 and 3 brows, 4 and 5 eyes, 6 nose, 7 upper lip,
            8 teeth, 9 lower lip, 10 hair.
        landmarks: ``(B, 68, 2)`` in pixels; they bound the eyes, which have no label of lids.

    Returns:
        ``(B, 3, H, W)`` in [0, 1], as ``region_masks``.
    """
    height, width = labels.shape[-2:]
    frame = face_frame(landmarks)
    rim = 0.12 * frame.unit[:, :, None, None]

    def among(names: tuple[int, ...]) -> Tensor:
        return torch.isin(labels, torch.tensor(names).to(labels))[:, None].to(landmarks.dtype)

    area = [soft(depth(lid_area(landmarks, side), (height, width)), rim) for side in (0, 1)]
    eyes = torch.maximum(*area) * (1 - among(_NO_SHADOW)) * among(_SKIN_LABELS)
    return torch.cat([among(_LIP_LABELS), eyes, among(_SKIN_LABELS) * (1 - eyes)], 1)


def crop_matrices(landmarks: Tensor, size: int = 64) -> Tensor:
    """Return where the crops of faces lie: upright squares around lips, either eye and the face.

    Args:
        landmarks: ``(B, 68, 2)`` in photo pixels.
        size: Side of the crops in pixels.

    Returns:
        ``(B, 4, 2, 3)`` in the order of ``CROPS``: crop pixels to photo pixels. That of the right
        eye mirrors, so that its crop shows a left eye.
    """
    frame = face_frame(landmarks)
    unit, right, down = frame.unit, frame.right, frame.down

    def box(points: Tensor, across: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centre ``(B, 2)`` and the larger side ``(B, 1)`` of the box of points."""
        x = (points * across[:, None]).sum(-1)
        y = (points * below[:, None]).sum(-1)
        low = torch.stack([x.amin(1), y.amin(1)], 1)
        high = torch.stack([x.amax(1), y.amax(1)], 1)
        middle = (low + high) / 2
        centre = middle[:, :1] * across + middle[:, 1:] * below
        return centre, (high - low).amax(1, keepdim=True)

    mouth = landmarks[:, 54] - landmarks[:, 48]
    lip_right = mouth / mouth.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    lip_down = torch.stack([-lip_right[:, 1], lip_right[:, 0]], -1)
    lips, lip_side = box(landmarks[:, OUTER_LIPS], lip_right, lip_down)
    face, face_side = box(face_outline(landmarks), right, down)
    eye_side = 1.05 * unit
    up, out = -0.10 * unit * down, 0.06 * unit * right
    squares = [
        (lips, 1.4 * torch.maximum(lip_side, 0.7 * unit), lip_right, lip_down),
        (frame.left_eye + up - out, eye_side, right, down),
        (frame.right_eye + up + out, eye_side, -right, down),
        (face, 1.06 * face_side, right, down),
    ]
    matrices = []
    for centre, side, across, below in squares:
        linear = torch.stack([across, below], -1) * (side / size)[:, :, None]
        offset = centre - linear.sum(-1) * ((size - 1) / 2)
        matrices.append(torch.cat([linear, offset[:, :, None]], 2))
    return torch.stack(matrices, 1)


def cut(images: Tensor, matrices: Tensor, size: int = 64) -> Tensor:
    """Cut crops out of pictures, without aliasing where they shrink.

    Args:
        images: ``(B, C, H, W)``, or masks.
        matrices: ``(B, 2, 3)``, crop pixels to picture pixels.
        size: Side of the crops in pixels.

    Returns:
        ``(B, C, size, size)``; beyond the picture its border is repeated.
    """
    height, width = images.shape[-2:]
    shrink = float(matrices[:, :, 0].norm(dim=-1).amax()) if len(matrices) else 1.0
    fine = min(max(math.ceil(shrink - 0.25), 1), 8)
    line = (torch.arange(size * fine, dtype=matrices.dtype, device=matrices.device) + 0.5) / fine
    pixels = torch.stack(torch.meshgrid(line - 0.5, line - 0.5, indexing="xy"), -1)
    where = pixels.view(1, -1, 2) @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
    grid = (where + 0.5) * 2 / torch.tensor([width, height]).to(where) - 1
    grid = grid.view(-1, size * fine, size * fine, 2)
    crops = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(crops, fine) if fine > 1 else crops


def to_crop_points(points: Tensor, matrices: Tensor) -> Tensor:
    """Take points ``(B, K, 2)`` of pictures to crops with ``matrices`` ``(B, 2, 3)``."""
    moved: Tensor = torch.linalg.solve(matrices[:, :, :2], (points - matrices[:, None, :, 2]).mT)
    return moved.mT


def lid_area(landmarks: Tensor, side: int) -> Tensor:
    """Return the polygon ``(B, 9, 2)`` around the left (0) or right (1) eye, up to its brow."""
    frame = face_frame(landmarks)
    unit = frame.unit[:, None]
    out = (-frame.right if side == 0 else frame.right)[:, None] * unit
    down = frame.down[:, None] * unit
    # From the outer corner over the upper lid to the inner one, and back below.
    ring = [36, 37, 38, 39, 40, 41] if side == 0 else [45, 44, 43, 42, 47, 46]
    brow = landmarks[:, [17, 18, 19, 20, 21] if side == 0 else [26, 25, 24, 23, 22]]
    eye = landmarks[:, ring]
    lid = torch.stack([eye[:, 0], (eye[:, 0] + eye[:, 1]) / 2, eye[:, 1], eye[:, 2], eye[:, 3]], 1)
    above = lid + 0.72 * (brow - lid)
    below = eye[:, [4, 5]] + 0.12 * down
    return torch.cat(
        [
            eye[:, :1] + 0.14 * out - 0.02 * down,
            above[:, :4] + 0.04 * out,
            above[:, 4:] + 0.06 * out,
            eye[:, 3:4] - 0.05 * out,
            below,
            eye[:, :1] + 0.05 * out + 0.06 * down,
        ],
        1,
    )


def _opponent(images: Tensor) -> Tensor:
    """Return light, red-green and yellow-blue of images ``(B, 3, H, W)``, each about [-1, 1]."""
    red, green, blue = images.unbind(1)
    return torch.stack(
        [0.3 * red + 0.6 * green + 0.1 * blue, (red - green) / 2, (red + green) / 4 - blue / 2], 1
    )


def _on_grid(points: Tensor, size: tuple[int, int], closed: bool) -> Tensor:
    """Return distances to a line of points over a picture, coarse where it is large."""
    longest = max(size)
    # The inside of a polygon bears it better than a thin line.
    finest = min(max(longest / 2, _FINEST[0]), _FINEST[1]) if closed else _FINEST[1]
    share = min(1.0, finest / longest)
    height, width = (max(2, round(side * share)) for side in size)
    y = (torch.arange(height).to(points) + 0.5) * (size[0] / height) - 0.5
    x = (torch.arange(width).to(points) + 0.5) * (size[1] / width) - 0.5
    x, y = x.view(1, 1, -1), y.view(1, -1, 1)
    near = points.new_full((len(points), height, width), torch.inf)
    inside = torch.zeros_like(near, dtype=torch.bool)
    ends = points.roll(-1, 1)
    for k in range(points.shape[1] - (0 if closed else 1)):  # a segment at a time: little memory
        (ax, ay), (bx, by) = (p[:, k, :, None, None].unbind(1) for p in (points, ends))
        dx, dy = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * dx + py * dy) / (dx * dx + dy * dy).clamp_min(1e-9)).clamp_(0, 1)
        near = torch.minimum(near, (px - along * dx).square_() + (py - along * dy).square_())
        if closed:
            crosses = (ay > y) != (by > y)
            at = ax + py * (dx / torch.where(dy == 0, torch.ones_like(dy), dy))
            inside ^= crosses & (x < at)
    away = near.sqrt_()
    found = (torch.where(inside, away, -away) if closed else -away)[:, None]
    if (height, width) == tuple(size):
        return found
    return F.interpolate(found, size, mode="bilinear", align_corners=False)
