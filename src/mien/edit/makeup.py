"""Whether a face is fit for make-up, which of several references suits it, and references mixed.

Refused is what cannot go well: a profile. What is only guessed gives a warning: closed eyes,
glasses, a reference without make-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mien.data.makeup_mining import makeup_signs, shows_makeup
from mien.edit.inputs import face_of
from mien.edit.photos import crop_points, crops_to_tensor
from mien.edit.sources import photo_files
from mien.faces.colours import to_linear
from mien.faces.face import Face, Image
from mien.faces.find import Finder
from mien.faces.hindrances import CLOSED, GLASSES, UNIT, closed_eyes, glasses
from mien.faces.regions import face_frame, skin_samples
from mien.files.errors import ConfigError, FaceError, ImageError, MienError

MOST_YAW = 60.0  # degrees
# What weighs alike when references are chosen: so many degrees of turn, and such a difference of
# light (logarithms of 2 of the two cheeks' ratio, and of how bright the skin is).
_TURN, _SIDE, _BRIGHT = 15.0, 0.5, 1.5

Given = str | Path | Image | Face


def concerns(
    face: Face, regions: Mapping[str, float] | None = None, *, reference: bool = False
) -> list[str]:
    """Return warnings about a face that gets make-up, loses it, or gives it.

    Args:
        face: Of a photo.
        regions: Strength by region; a warning about eyes is left out where they have 0.
        reference: The face gives make-up.

    Raises:
        FaceError: It is turned aside by more than 60 degrees.
    """
    name = face.source or ("The reference" if reference else "The photo")
    if abs(face.pose[0]) > MOST_YAW:
        raise FaceError(
            f"{name} shows a face turned aside by {abs(face.pose[0]):.0f} degrees; make-up needs "
            f"one that is turned by {MOST_YAW:.0f} at most."
        )
    images, points = _sized(face)
    found = []
    if (regions or {}).get("eyes", 1.0) > 0:
        leave = "leave them out with --region eyes=0 if the result is wrong"
        if float(closed_eyes(images, points)) > CLOSED:
            found.append(f"{name}: the eyes look closed; {leave}.")
        if float(glasses(images, points)) > GLASSES:
            found.append(f"{name}: the face seems to wear glasses, which hide the lids; {leave}.")
    if reference and not bool(shows_makeup(makeup_signs(images, points))):
        found.append(
            f"{name} shows little make-up; what is put on may be hard to see. Give a reference "
            "that clearly wears some."
        )
    return found


def fit_faces(
    faces: Sequence[Face], regions: Mapping[str, float] | None = None, *, reference: bool = False
) -> tuple[list[Face], list[str]]:
    """Return the faces that are fit for make-up, and warnings about them and the others.

    Args:
        faces: One or more.
        regions: As for ``concerns``.
        reference: As for ``concerns``.

    Raises:
        FaceError: None is fit.
    """
    fit: list[Face] = []
    warnings: list[str] = []
    refused: list[FaceError] = []
    for face in faces:
        try:
            warnings += concerns(face, regions, reference=reference)
            fit.append(face)
        except FaceError as error:
            refused.append(error)
    if refused and not fit:
        raise refused[0]
    return fit, [*warnings, *(f"{error} It is left out." for error in refused)]


def read_references(
    given: Given | Sequence[Given],
    finder: Finder,
    which: str | int = "only",
    regions: Mapping[str, float] | None = None,
    *,
    reference: bool = True,
) -> tuple[list[Face], list[str]]:
    """Return the faces of references, and warnings; a folder stands for every picture in it.

    Of several, those that are not usable are left out with a warning.

    Args:
        given: One or more: path of a picture or a folder, pixels, or a face.
        finder: Finds the faces.
        which: As for ``mien.faces.find.choose``.
        regions: As for ``concerns``.
        reference: They give make-up; False: they get it.

    Raises:
        FaceError: No photo shows a face that is usable.
        ImageError: No photo can be read.
    """
    all_given = [given] if isinstance(given, (str, Path, np.ndarray, Face)) else given
    one_by_one: list[Given] = []
    for one in all_given:
        one_by_one += photo_files([one]) if isinstance(one, (str, Path)) else [one]
    found: list[Face] = []
    refused: list[MienError] = []
    warnings: list[str] = []
    for one in one_by_one:
        try:
            faces, said = fit_faces([face_of(one, finder, which)], regions, reference=reference)
            found += faces
            warnings += said
        except (FaceError, ImageError) as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found, [*warnings, *(f"{error} It is left out." for error in refused)]


def nearest_reference(face: Face, candidates: Sequence[Face]) -> Face:
    """Return the reference that is turned and lit most like a face.

    Args:
        face: Of a photo.
        candidates: One or more references.
    """
    if len(candidates) == 1:
        return candidates[0]
    own = _situation(face)
    apart = [float(np.abs(_situation(each) - own).sum()) for each in candidates]
    return candidates[int(np.argmin(apart))]


def check_shares(shares: Sequence[float] | None, count: int) -> None:
    """Check how much each of ``count`` references counts.

    Raises:
        ConfigError: Not one share each, one below 0, or all 0.
    """
    if shares is None:
        return
    if len(shares) != count:
        raise ConfigError(f"There are {count} references and {len(shares)} shares; give one each.")
    if min(shares) < 0 or not sum(shares) > 0:
        raise ConfigError("Every reference has a share of 0 or more, and one has some.")


def _situation(face: Face) -> np.ndarray:
    """Return turn and light of a face, each in its unit."""
    yaw, pitch, _ = np.nan_to_num(np.asarray(face.pose, np.float64))
    images, points = _sized(face)
    places = skin_samples(points)
    frame = face_frame(points)
    middle = ((frame.left_eye + frame.right_eye) / 2)[:, None]
    side = ((places - middle) * frame.right[:, None]).sum(-1)[0]
    size = torch.tensor([images.shape[-1], images.shape[-2]])
    grid = (places + 0.5) * 2 / size - 1
    seen = torch.nn.functional.grid_sample(images, grid[:, None], align_corners=False)
    light = to_linear(seen).mean(1)[0, 0].clamp_min(1e-3).log2()
    left, right = (light[chosen].mean() for chosen in (side < 0, side > 0))
    return np.array(
        [yaw / _TURN, pitch / _TURN, float(right - left) / _SIDE, float(light.median()) / _BRIGHT]
    )


def _sized(face: Face) -> tuple[Tensor, Tensor]:
    """Return the crop with the eyes as far apart as what is guessed from it was fitted at."""
    points = crop_points([face], len(face.crop))
    factor = UNIT / float(face_frame(points).unit)
    if factor < 1:
        side = max(2, round(len(face.crop) * factor))
        crop = cv2.resize(face.crop, (side, side), interpolation=cv2.INTER_AREA)
        return crops_to_tensor([np.asarray(crop, np.uint8)], side), crop_points([face], side)
    return crops_to_tensor([face.crop], len(face.crop)), points
