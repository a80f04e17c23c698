"""Which photos show make-up: a guess from the colours of lips and lids against the face's own skin.

Nobody labelled the large photo sets for make-up. Lipstick makes lips redder, darker and stronger in
colour than the skin around them, shadow and liner make lids darker; both are differences within one
face, so light and skin tone mostly cancel. The guess says yes or no only where the signs are clear,
and leaves the rest open. It is a guess about a picture, not about a person; it knows no sex or age.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mien.data.cache import FaceCache
from mien.data.table import SCHEMA, Table, write_info
from mien.faces.colours import skin_colour, to_lab
from mien.faces.image import write_image
from mien.faces.regions import LEFT_EYE, RIGHT_EYE, curve, depth, face_frame, region_masks, soft
from mien.files.atomic import atomic_path, write_json
from mien.files.errors import ConfigError, TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNS = ("lip_red", "lip_dark", "lid_dark", "lash_dark", "lid_colour")
"""What is measured, in units of CIE Lab; more is more make-up."""
_WEIGHTS = (1.6, 0.3, 0.3, 0.5, 0.2)
_RED = 0.8  # spreads above the middle; dark eyes below a pale mouth are shade, not make-up
_BATCH = 256
_TURN = 25.0  # degrees of yaw; beyond, half of the face is guessed
_SHEET = 100  # faces of each kind on the sheets
_ROW = 20


@dataclass(frozen=True)
class MiningSettings:
    """How much make-up is clear.

    Attributes:
        made_up: Share of the faces that are called made up: those with the strongest signs.
        bare: Share of the faces that are called bare: those with the weakest.
    """

    made_up: float = 0.05
    bare: float = 0.3


def makeup_signs(images: Tensor, landmarks: Tensor) -> Tensor:
    """Measure the signs of make-up.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        landmarks: ``(B, 68, 2)`` in pixels.

    Returns:
        ``(B, 5)`` in the order of ``SIGNS``.
    """
    size = (images.shape[-2], images.shape[-1])
    lab, skin = to_lab(images), skin_colour(images, landmarks)
    masks = region_masks(landmarks, size)
    lips = _mean(lab, masks[:, :1] * (masks[:, :1] > 0.5)) - skin
    lids = _mean(lab, masks[:, 1:2]) - skin
    unit = face_frame(landmarks).unit[:, :, None, None]
    rings = [
        soft(0.05 * unit - depth(curve(landmarks[:, eye]), size).abs(), 0.05 * unit)
        for eye in (LEFT_EYE, RIGHT_EYE)
    ]
    lashes = _mean(lab, torch.maximum(*rings)) - skin
    # Dark skin has less room below it: differences count as shares of its lightness.
    room = (skin[:, 0] / 60).clamp(0.4, 1.3)
    return torch.stack(
        [
            lips[:, 1] - 0.3 * lips[:, 2].abs(),
            -lips[:, 0] / room,
            -lids[:, 0] / room,
            -lashes[:, 0] / room,
            lids[:, 1:].norm(dim=1),
        ],
        1,
    )


def makeup_score(signs: NDArray[Any]) -> NDArray[np.float64]:
    """Weigh signs ``(N, 5)`` into one score; 0 is the middle of the faces, NaN is unknown."""
    known = np.isfinite(signs).all(1)
    middle = np.median(signs[known], 0)
    spread = np.median(np.abs(signs[known] - middle), 0).clip(1e-3)
    standard = ((signs - middle) / spread / 1.4826).clip(-2.5, 2.5)
    pale = np.maximum(0, _RED - standard[:, 0])
    return np.asarray(standard @ np.array(_WEIGHTS) - pale, np.float64)


def shows_makeup(signs: Tensor) -> Tensor:
    """Guess of single faces, with nobody to compare with, whether any sign of make-up is clear.

    The limits were set by 52 photos of the make-up transfer set: of the 33 with make-up 32 pass, of
    the 19 without 5.

    Args:
        signs: ``(B, 5)`` of ``makeup_signs``.

    Returns:
        bool ``(B,)``.
    """
    red, _, lid, lash, colour = signs.unbind(1)
    return (red >= 17) | (red <= -12) | (lid >= 26) | (lash >= 33) | (colour >= 12)


def mine_makeup(
    folder: str | Path, out: str | Path, settings: MiningSettings | None = None
) -> dict[str, int]:
    """Copy a table with its column ``makeup`` filled by the guess; what it had stays.

    Beside the new table lie ``made_up.jpg`` and ``bare.jpg``, faces drawn at random from those that
    the guess is about: look at them before training on it.

    Args:
        folder: A finished table with landmarks.
        out: Folder of the new table.
        settings: How much make-up is clear.

    Returns:
        Counts of ``made_up``, ``bare`` and ``open`` faces.

    Raises:
        ConfigError: Shares that are not between 0 and 1, or together above 1.
        TableError: No landmarks, FER-2013, or ``out`` holds a table already.
    """
    s = settings or MiningSettings()
    if min(s.made_up, s.bare) < 0 or s.made_up + s.bare > 1:
        raise ConfigError("The shares of made-up and bare faces are at least 0 and at most 1.")
    table, target = Table(folder), Path(out)
    table.require(["landmarks"], "Mining make-up")
    if (target / "table.json").exists() or list(target.glob("part-*.parquet")):
        raise TableError(f"{target} already holds a table; give another folder with --out.")
    cache = FaceCache(folder, int(table.info["size"]))
    if (cache.dataset == "fer2013").any():
        raise TableError("FER-2013 is grey and may not be edited; make-up is not looked for.")
    score = _scores(cache)
    known = np.isfinite(score)
    guess = np.full(len(score), -1, np.int8)
    if known.any():
        high, low = np.quantile(score[known], [1 - s.made_up, s.bare])
        guess[known & (score >= high)] = 1
        guess[known & (score < low)] = 0
    guess = np.where(cache.makeup >= 0, cache.makeup, guess)
    target.mkdir(parents=True, exist_ok=True)
    start = 0
    for part in table.parts:
        content = pq.read_table(part)
        rows = guess[start : start + len(content)]
        start += len(content)
        column = pa.array([None if g < 0 else bool(g) for g in rows], pa.bool_())
        place = SCHEMA.get_field_index("makeup")
        content = content.set_column(place, SCHEMA.field("makeup"), column)
        with atomic_path(target / part.name) as temporary:
            pq.write_table(
                content,
                temporary,
                compression={n: "NONE" if n == "image" else "ZSTD" for n in SCHEMA.names},
            )
    for name, value in (("made_up", 1), ("bare", 0)):
        _write_sheet(target / f"{name}.jpg", cache, np.flatnonzero(guess == value))
    counts = {k: int((guess == v).sum()) for k, v in (("made_up", 1), ("bare", 0), ("open", -1))}
    write_json(target / "makeup.json", {"made_up": s.made_up, "bare": s.bare, "counts": counts})
    write_info(target, table.info["crop"], int(table.info["size"]))
    return counts


def _scores(cache: FaceCache) -> NDArray[np.float64]:
    """Return the scores of all faces; NaN if grey, turned aside or without landmarks."""
    from tqdm import tqdm

    usable = np.isfinite(cache.landmarks).all((1, 2))
    usable &= np.abs(np.nan_to_num(cache.pose[:, 0])) < _TURN
    rows = np.flatnonzero(usable)
    signs = np.full((len(cache), len(SIGNS)), np.nan)
    for start in tqdm(range(0, len(rows), _BATCH), desc="make-up", leave=False, disable=None):
        some = rows[start : start + _BATCH]
        images = cache.take(some)
        found = makeup_signs(
            images.float() / 127.5 - 1, torch.from_numpy(cache.landmarks[some])
        ).numpy()
        grey = (images.amax(1).int() - images.amin(1).int()).float().mean((1, 2)) < 6
        found[grey.numpy()] = np.nan
        signs[some] = found
    return makeup_score(signs) if np.isfinite(signs).any() else np.full(len(cache), np.nan)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)


def _write_sheet(file: Path, cache: FaceCache, rows: NDArray[np.int64]) -> None:
    chosen = np.random.default_rng(0).permutation(rows)[:_SHEET]
    if not len(chosen):
        return
    images = cache.images[chosen].transpose(0, 2, 3, 1)
    blank = np.zeros((-len(chosen) % _ROW, *images.shape[1:]), np.uint8)
    grid = np.concatenate([images, blank]).reshape(-1, _ROW, *images.shape[1:])
    lines, across, height, width, _ = grid.shape
    picture = grid.transpose(0, 2, 1, 3, 4).reshape(lines * height, across * width, 3)
    write_image(file, picture, quality=85)
