"""Posed expressions in single photos, named by their files: BU-3DFE, JAFFE, KDEF.

None has a split: persons are parted by folds (``mien.data.folds``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image as Pillow

from mien.data.readers import Reader, Record, register
from mien.data.readers.folder import below, pictures
from mien.faces.face import Image
from mien.faces.image import IMAGE_SUFFIXES, LONGEST_SIDE, MAX_PIXELS
from mien.files.errors import ImageError

_BITMAPS = (".bmp", ".tif", ".tiff")
_EXPRESSIONS = {
    "AF": "fear",  # afraid
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "NE": "neutral",
    "SA": "sadness",
    "SU": "surprise",
}
_GENDERS = {"F": "female", "M": "male"}


class _Stills(Reader):
    """Photos whose names say everything, at any depth.

    Attributes:
        pattern: Matches the name of a photo without its suffix.
    """

    pattern: ClassVar[re.Pattern[str]]

    def records(self) -> Iterator[Record]:
        """Yield every picture, sorted by path."""
        found = False
        for path in pictures(self.root, IMAGE_SUFFIXES + _BITMAPS):
            match = self.pattern.match(path.stem)
            if match:
                found = True
                yield Record(below(path, self.root), path, labels=self.labels(**self.said(match)))
        if not found:
            raise self.wrong("holds no picture named so")

    def said(self, match: re.Match[str]) -> dict[str, object]:
        """Return the labels that a name gives."""
        raise NotImplementedError

    def photo(self, record: Record, max_side: int | None = None) -> tuple[Image, tuple[int, int]]:
        """Return the pixels of a photo; BMP and TIFF are read too.

        Raises:
            ImageError: They cannot be read.
        """
        if record.file.suffix.lower() not in _BITMAPS:
            return super().photo(record, max_side)
        try:
            with Pillow.open(record.file, formats=("BMP", "TIFF")) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS or max(width, height) > LONGEST_SIDE:
                    raise ImageError(
                        f"{record.file} declares {width} x {height} pixels; at most "
                        f"{MAX_PIXELS:,} in all are read. Shrink it first."
                    )
                image = np.asarray(picture.convert("RGB"), np.uint8)
        except ImageError:
            raise
        except Exception as error:  # decoders of hostile files raise anything
            raise ImageError(
                f"{record.file} is damaged or cut off ({error}); copy it again."
            ) from error
        share = (max_side or LONGEST_SIDE) / max(width, height)
        if share < 1:
            size = (max(1, round(width * share)), max(1, round(height * share)))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return image, (width, height)


@register
class Bu3dfe(_Stills):
    """BU-3DFE: 100 persons, six expressions in four levels, and neutral; the 2D photos.

    The level (0 neutral, 1 to 4) is the attribute ``intensity``; recognition is usually measured
    on 3 and 4. ``ethnicity`` is the set's own code. The textures of the 3D models (``_F3D``) are
    left out.
    """

    name = "bu3dfe"
    licence = "BU-3DFE: non-commercial research only"
    layout = "F0001/F0001_AN01WH_F2D.bmp (person, expression, level, ethnicity)"
    pattern = re.compile(r"(([FM])\d{4})_(AN|DI|FE|HA|NE|SA|SU)(0[0-4])([A-Z]{2})_F2D$")

    def said(self, match: re.Match[str]) -> dict[str, object]:
        """Return the labels of a name; the photos of a person were taken together."""
        person, gender, expression, level, ethnicity = match.groups()
        return {
            "person": person,
            "clip": "F2D",
            "expression": _EXPRESSIONS[expression],
            "attributes": {
                "intensity": str(int(level)),
                "ethnicity": ethnicity,
                "gender": _GENDERS[gender],
            },
        }


@register
class Jaffe(_Stills):
    """JAFFE: ten Japanese women, seven expressions, three or four photos of each.

    The photos of a person are taken to be of one sitting.
    """

    name = "jaffe"
    licence = "JAFFE: non-commercial scientific research only, no redistribution"
    layout = "KA.AN1.39.tiff (person, expression and its number, number of the picture)"
    pattern = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)(\d)\.(\d+)$")

    def said(self, match: re.Match[str]) -> dict[str, object]:
        """Return the labels of a name."""
        person, expression, _, number = match.groups()
        return {
            "person": person,
            "clip": "sitting",
            "expression": _EXPRESSIONS[expression],
            "attributes": {"number": number, "gender": "female"},
        }


@register
class Kdef(_Stills):
    """KDEF: 70 persons, seven expressions from five sides, in two sessions.

    A clip is a session seen from one side. "Full left profile" (FL) is read as a picture that shows
    the left side of the face, so the nose points to the image's left and yaw is negative; the set's
    description does not say it in degrees.
    """

    name = "kdef"
    licence = "KDEF: non-commercial research only"
    layout = "AF01/AF01AFS.JPG (session, gender, number, expression, angle)"
    pattern = re.compile(
        r"([AB])(([FM])\d{2})(AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)$", re.IGNORECASE
    )
    yaws: ClassVar[dict[str, float]] = {"FL": -90.0, "HL": -45.0, "S": 0.0, "HR": 45.0, "FR": 90.0}

    def said(self, match: re.Match[str]) -> dict[str, object]:
        """Return the labels of a name."""
        session, person, gender, expression, angle = (g.upper() for g in match.groups())
        return {
            "person": person,
            "clip": f"{session}/{angle}",
            "expression": _EXPRESSIONS[expression],
            "yaw": self.yaws[angle],
            "attributes": {"session": session, "angle": angle, "gender": _GENDERS[gender]},
        }
