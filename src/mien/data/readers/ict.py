"""Rendered ICT-FaceKit heads: single faces, expression and make-up pairs, clips. Exact labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from mien.data.facs import UnitReader
from mien.data.readers import Reader, Record, register
from mien.faces.face import Array

# Order of the model's expression coefficients (`_L` and `_R` are the person's).
_SIDED = (
    "browDown browInnerUp browOuterUp cheekPuff cheekSquint eyeBlink eyeLookDown eyeLookIn "
    "eyeLookOut eyeLookUp eyeSquint eyeWide"
)
_OTHERS = (
    "jawForward jawLeft jawOpen jawRight mouthClose mouthDimple_L mouthDimple_R mouthFrown_L "
    "mouthFrown_R mouthFunnel mouthLeft mouthLowerDown_L mouthLowerDown_R mouthPress_L "
    "mouthPress_R mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower "
    "mouthShrugUpper mouthSmile_L mouthSmile_R mouthStretch_L mouthStretch_R mouthUpperUp_L "
    "mouthUpperUp_R noseSneer_L noseSneer_R"
)
_SHAPES = (*(f"{n}_{side}" for n in _SIDED.split() for side in "LR"), *_OTHERS.split())
_action_units = UnitReader(_SHAPES)
_ATTRIBUTES = (
    "expression_intensity light_azimuth light_elevation skin_tone hair_style hair_colour "
    "iris_colour beard lip_rgb lip_opacity eyeshadow_rgb eyeshadow_opacity blush_rgb blush_opacity "
    "lips_mask eyes_mask skin_mask"
)


class _Renders(Reader):
    licence = "MIT: ICT-FaceKit, Copyright (c) 2020 USC Institute for Creative Technologies"
    needs: ClassVar[str] = "image"

    def records(self) -> Iterator[Record]:
        """Yield the rows of ``labels.parquet``."""
        file = self.root / "labels.parquet"
        if not file.is_file():
            raise self.wrong("has no labels.parquet")
        table = pq.ParquetFile(file)
        if self.needs not in table.schema_arrow.names:
            raise self.wrong(f"has no column {self.needs!r} in labels.parquet")
        for batch in table.iter_batches(256):
            for row in batch.to_pylist():
                yield from self.of_row(row)

    def of_row(self, row: dict[str, Any]) -> Iterator[Record]:
        """Yield the pictures of a row."""
        raise NotImplementedError

    def record(
        self, row: dict[str, Any], picture: str, align: Array | None = None, **known: Any
    ) -> Record:
        """Make the record of ``row[picture]``; what the reader of a mode knows overrides."""
        points = "neutral_landmarks68" if picture == "neutral_image" else "landmarks68"
        labels = {
            "person": str(row["identity"]),
            "expression": row["expression"],
            "yaw": float(row["yaw"]),
            "pitch": float(row["pitch"]),
            "roll": float(row["roll"]),
            "action_units": _action_units(row["expression_coefficients"]),
            "makeup": bool(row["makeup"] or row["lipstick"]),
            "attributes": {k: str(row[k]) for k in _ATTRIBUTES.split() if row.get(k) is not None},
            "split": row["split"],
            **known,
        }
        return Record(
            row[picture],
            self.root / row[picture],
            labels=self.labels(**labels),
            landmarks=_points(row[points]),
            align=align,
            crop=True,
        )


@register
class IctFaces(_Renders):
    """Single faces."""

    name = "ict_faces"
    layout = "images/IDENTITY/FRAME.jpg and labels.parquet (mode `faces` of the renderer)"
    needs = "frame"

    def of_row(self, row: dict[str, Any]) -> Iterator[Record]:
        """Yield the face."""
        yield self.record(row, "image", frame=row["frame"])


@register
class IctClips(_Renders):
    """Smooth clips of a head."""

    name = "ict_clips"
    layout = "images/IDENTITY/FRAME.jpg and labels.parquet (`faces --same-identity-video`)"
    needs = "clip"

    def of_row(self, row: dict[str, Any]) -> Iterator[Record]:
        """Yield the frame."""
        yield self.record(row, "image", clip=str(row["clip"]), frame=row["frame"])


@register
class IctPairs(_Renders):
    """An expression and the neutral face of one head in one pose; both share a clip and a crop."""

    name = "ict_pairs"
    layout = (
        "images/IDENTITY/NAME_expression.jpg, NAME_neutral.jpg and labels.parquet (mode `pairs`)"
    )
    needs = "neutral_image"

    def of_row(self, row: dict[str, Any]) -> Iterator[Record]:
        """Yield the expression, then the neutral twin."""
        stem = row["image"].rpartition("/")[2].rpartition("_expression")[0]
        clip = f"{row['identity']}/{stem}"
        neutral = _points(row["neutral_landmarks68"])
        yield self.record(row, "image", neutral, clip=clip)
        rest = [0.0] * len(_SHAPES)
        row = {**row, "expression_coefficients": rest, "expression_intensity": None}
        yield self.record(row, "neutral_image", neutral, clip=clip, expression="neutral")


@register
class IctMakeup(_Renders):
    """One head bare and made up; both share a clip."""

    name = "ict_makeup"
    layout = "images/IDENTITY/FRAME_makeup.jpg, FRAME_bare.jpg and labels.parquet (mode `makeup`)"
    needs = "bare_image"

    def of_row(self, row: dict[str, Any]) -> Iterator[Record]:
        """Yield the made-up picture, then the bare one."""
        clip = f"{row['identity']}/{row['frame']}"
        yield self.record(row, "image", clip=clip, makeup=True)
        yield self.record(row, "bare_image", clip=clip, makeup=False)


def _points(flat: list[float]) -> Array:
    return np.array(flat, np.float32).reshape(68, 2)
