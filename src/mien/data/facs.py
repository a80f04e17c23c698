"""Facial action units (FACS) and the ARKit expression shapes that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# The FACS reading that ICT-FaceKit gives of its shapes. A shape's sides and variants begin alike.
SHAPE_OF_UNIT: Mapping[str, str] = {
    "AU1": "browInnerUp",
    "AU2": "browOuterUp",
    "AU4": "browDown",
    "AU5": "eyeWide",
    "AU6": "cheekSquint",
    "AU7": "eyeSquint",
    "AU9": "noseSneer",
    "AU10": "mouthShrugUpper",
    "AU11": "mouthUpperUp",
    "AU12": "mouthSmile",
    "AU14": "mouthDimple",
    "AU15": "mouthFrown",
    "AU16": "mouthLowerDown",
    "AU17": "mouthShrugLower",
    "AU18": "mouthPucker",
    "AU20": "mouthStretch",
    "AU22": "mouthFunnel",
    "AU24": "mouthPress",
    "AU27": "jawOpen",
    "AU28": "mouthRoll",
    "AU29": "jawForward",
    "AU33": "cheekPuff",
    "AU45": "eyeBlink",
}
UNITS = tuple(SHAPE_OF_UNIT)

# The order in which MediaPipe's FaceLandmarker gives its 52 scores.
_MEDIAPIPE = (
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff "
    "cheekSquintLeft cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight "
    "eyeLookInLeft eyeLookInRight eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight "
    "eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft jawOpen jawRight "
    "mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel "
    "mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker "
    "mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight "
    "noseSneerLeft noseSneerRight"
)
MEDIAPIPE_SHAPES = tuple(_MEDIAPIPE.split())


class UnitReader:
    """Reads action units off the coefficients of expression shapes.

    Args:
        shapes: Names of the shapes, in the order of the coefficients.
    """

    def __init__(self, shapes: Sequence[str]) -> None:
        self.index = {
            unit: [i for i, shape in enumerate(shapes) if shape.startswith(name)]
            for unit, name in SHAPE_OF_UNIT.items()
        }

    def __call__(self, coefficients: Sequence[float]) -> dict[str, float]:
        """Return the units above zero, the stronger side each; empty for a neutral face."""
        values = {u: max((coefficients[i] for i in at), default=0) for u, at in self.index.items()}
        return {unit: float(value) for unit, value in values.items() if value > 0}
