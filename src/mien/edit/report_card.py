"""What an edit did to a face, measured in the photo: a report card and a sheet.

The judge of identity is an encoder that had no part in the edit, where the shipped ones allow it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.edit.photos import Change
from mien.edit.sheets import labelled, portrait
from mien.evaluate.encoders import encoder
from mien.evaluate.judges import directions
from mien.evaluate.quality import NO_JAW, nme
from mien.faces.align import invert, warp, warp_crop
from mien.faces.face import Array, Face, Image
from mien.faces.landmarks import Landmarker
from mien.faces.provenance import EditRecord, write_edited
from mien.files.atomic import write_json

SHARPNESS, POSE = 0.8, 5.0  # least ratio; most degrees
_JUDGES = ("pcl", "facecycle")  # the first that had no part in the edit
_AMPLIFY = 4  # of the difference on the sheet
_JUDGED = 112  # px of the crops that the judge sees


@dataclass(frozen=True)
class ReportCard:
    """Measures of one edited face.

    Attributes:
        identity: Cosine of the embeddings before and after, in [-1, 1].
        judge: The encoder that gave it.
        expression_change: Mean shift of the landmarks without the jaw, % of the eye distance.
        pose_error: Largest of yaw, pitch and roll after the edit from what was wanted, in degrees.
        outside: Largest change of a pixel outside the mask, in grey levels.
        sharpness: Laplacian variance inside the mask, after the edit over before.
        marks: Measure → ``pass`` or ``warn``; identity and expression have none, as no limit for
            them was measured.
    """

    identity: float
    judge: str
    expression_change: float
    pose_error: float
    outside: float
    sharpness: float
    marks: dict[str, str]


def report_card(
    photo: Image,
    edited: Image,
    face: Face,
    weights: str = "",
    wanted_pose: tuple[float, float, float] | None = None,
    others: tuple[Face, ...] = (),
) -> ReportCard:
    """Measure the edit of a face.

    Args:
        photo: uint8 ``(H, W, 3)`` RGB.
        edited: The same after the edit.
        face: The face, as it was found in ``photo``.
        weights: Names of the weights that edited it, joined by ``+``.
        wanted_pose: Yaw, pitch, roll that the edit aimed at; as before if not given.
        others: Other faces of the photo that were edited too: their masks count as inside.
    """
    spec = next((j for j in _JUDGES if j not in weights.split("+")), _JUDGES[0])
    crops = [_crop(image, face, _JUDGED) for image in (photo, edited)]
    before, after = directions(encoder(spec, "identity"), np.stack(crops))
    marks = Landmarker()([photo, edited], [face.box[None]] * 2)
    points = [m.points for m in marks]
    aim = marks[0].pose[0] if wanted_pose is None else np.asarray(wanted_pose)
    pose_error = float(np.abs(marks[1].pose[0] - aim).max())
    inside = np.max([mask_in_photo(photo, f) for f in (face, *others)], axis=0)
    change = np.abs(edited.astype(np.int16) - photo)[inside == 0]
    outside = float(change.max(initial=0))
    sharp = sharpness_ratio(photo, edited, face)
    return ReportCard(
        float(before @ after),
        spec,
        100 * float(nme(points[1], points[0], NO_JAW)[0]),
        pose_error,
        outside,
        sharp,
        {
            "pose_error": _mark(pose_error <= POSE),
            "outside": _mark(outside == 0),
            "sharpness": _mark(sharp >= SHARPNESS),
        },
    )


def sharpness_ratio(photo: Image, edited: Image, face: Face) -> float:
    """Return the Laplacian variance inside the mask after the edit over that before."""
    inside = mask_in_photo(photo, face) > 0.5
    before, after = (
        float(cv2.Laplacian(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.CV_64F)[inside].var())
        for x in (photo, edited)
    )
    return after / max(before, 1e-12)


def mask_in_photo(photo: Image, face: Face) -> Array:
    """Return where the photo may change, float32 ``(H, W)``: the square of the crop is 1.

    What moves fades over the whole crop, what is drawn over the face and its rim.
    """
    wide = np.ones(face.crop.shape[:2], np.float32)
    height, width = photo.shape[:2]
    return np.asarray(warp(wide, invert(face.to_photo), (width, height), "constant"), np.float32)


def write_report(
    path: str | Path,
    photo: Image,
    edited: Image,
    faces: list[Face],
    changes: list[Change],
    record: EditRecord,
    original: bytes | None = None,
    wanted: Sequence[tuple[float, float, float] | None] | None = None,
) -> list[ReportCard]:
    """Write ``PATH.png``, a sheet with a row a face, and ``PATH.json``, the measures.

    Args:
        path: Without a suffix.
        photo: The photo.
        edited: The photo after the edit.
        faces: The faces that were edited.
        changes: What was done to each.
        record: What the sheet says about the edit.
        original: File content of the photo.
        wanted: Yaw, pitch, roll that the edit of each face aimed at; None: as before.
    """
    others = {id(f): tuple(g for g in faces if g is not f) for f in faces}
    aims = [None] * len(faces) if wanted is None else list(wanted)
    cards = [
        report_card(photo, edited, f, record.weights, aim, others[id(f)])
        for f, aim in zip(faces, aims, strict=True)
    ]
    write_edited(f"{path}.png", report_sheet(photo, edited, faces, changes), record, original)
    told: dict[str, Any] = {"edit": asdict(record), "faces": [asdict(c) for c in cards]}
    write_json(f"{path}.json", told)
    return cards


def write_summary(path: str | Path, reports: Sequence[Path]) -> dict[str, Any]:
    """Write what the reports of many photos say together, as JSON.

    Args:
        path: The summary.
        reports: Files that ``write_report`` wrote, ``.json``, of one edit.

    Returns:
        The content: ``edit``, the numbers of ``photos`` and ``faces``, ``mean``, ``least`` and
        ``most`` of each measure, and how many faces have a warning by measure, ``warn``.
    """
    told = [json.loads(report.read_text(encoding="utf-8")) for report in reports]
    faces = [face for each in told for face in each["faces"]]
    measures = [name for name, value in faces[0].items() if isinstance(value, float)]
    columns = {name: np.array([face[name] for face in faces]) for name in measures}
    summary = {
        "edit": told[0]["edit"],
        "photos": len(told),
        "faces": len(faces),
        **{
            name: {measure: float(f(column)) for measure, column in columns.items()}
            for name, f in (("mean", np.mean), ("least", np.min), ("most", np.max))
        },
        "warn": {
            mark: sum(face["marks"][mark] == "warn" for face in faces) for mark in faces[0]["marks"]
        },
    }
    write_json(path, summary)
    return summary


def report_sheet(
    photo: Image, edited: Image, faces: Sequence[Face], changes: Sequence[Change]
) -> Image:
    """Return a row a face, uint8 ``(H, W, 3)``: before, after, their difference and the flow.

    The flow is left out where no face was moved by one.

    Args:
        photo: The photo.
        edited: The photo after the edit.
        faces: The faces that were edited, at least one.
        changes: What was done to each.
    """
    rows, flows = [], any(change.flow is not None for change in changes)
    for face, change in zip(faces, changes, strict=True):
        before, after = portrait(photo, face), portrait(edited, face)
        difference = 128 + _AMPLIFY * (after.astype(np.int16) - before)
        pictures = [before, after, np.clip(difference, 0, 255).astype(np.uint8)]
        labels = ["before", "after", f"difference x {_AMPLIFY}"]
        if flows:
            pictures.append(flow_picture(change.flow, len(before)))
            labels.append("flow")
        rows.append(labelled(pictures, labels))
    return np.concatenate(rows)


def flow_picture(flow: NDArray[Any] | None, side: int) -> Image:
    """Draw a flow ``(2, h, w)``: its direction as hue, its length (1 at 5 % of the crop) as depth.

    White is where nothing moves.
    """
    if flow is None:
        return np.full((side, side, 3), 255, np.uint8)
    x, y = (cv2.resize(np.asarray(f, np.float32), (side, side)) for f in flow)
    hsv = np.empty((side, side, 3), np.uint8)
    hsv[..., 0] = (np.degrees(np.arctan2(y, x)) % 360) / 2
    hsv[..., 1] = np.clip(np.hypot(x, y) / 0.1, 0, 1) * 255
    hsv[..., 2] = 255
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _crop(photo: Image, face: Face, size: int) -> Image:
    scale = len(face.crop) / size
    grow = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    return warp_crop(photo, np.asarray(face.to_photo @ grow, np.float32), size)


def _mark(good: bool) -> str:
    return "pass" if good else "warn"
