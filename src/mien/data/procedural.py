"""Drawn faces with exact parameters: every test, example and tutorial runs with no data.

A face is 68 three-dimensional points that identity and expression move, turned by the pose,
projected, and drawn as a cartoon. Whatever is drawn follows from the parameters; nothing is random
but their choice.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.table import Row, TableWriter
from mien.faces.align import crop_to_photo, invert
from mien.faces.face import Array, Image
from mien.faces.image import encode_image
from mien.files.errors import ConfigError

Colour = tuple[float, float, float]  # RGB, 0 to 255
Points = NDArray[np.float64]

LICENCE = "Apache-2.0: drawn by mien"


@dataclass(frozen=True)
class Identity:
    """A person. Shapes run from -1 to 1, 0 being the mean."""

    face_width: float = 0.0
    face_length: float = 0.0
    jaw: float = 0.0  # pointed to square
    eye_distance: float = 0.0
    eye_size: float = 0.0
    eye_tilt: float = 0.0
    brow_height: float = 0.0
    brow_thickness: float = 0.0
    nose_length: float = 0.0
    nose_width: float = 0.0
    mouth_width: float = 0.0
    mouth_height: float = 0.0
    lip_thickness: float = 0.0
    hairline: float = 0.0
    hair_style: str = "short"  # short, long, bald
    skin: Colour = (224.0, 172.0, 137.0)
    hair: Colour = (60.0, 40.0, 28.0)
    iris: Colour = (92.0, 64.0, 40.0)


@dataclass(frozen=True)
class Expression:
    """What the face does. From 0 to 1 unless another range is given; all 0 is neutral."""

    smile: float = 0.0  # -1 (corners down) to 1
    mouth_open: float = 0.0
    pucker: float = 0.0
    brow_raise: float = 0.0
    brow_frown: float = 0.0
    eye_closure: float = 0.0  # -0.5 (wide) to 1


@dataclass(frozen=True)
class Makeup:
    """Colours and opacities (0: none) of what is worn."""

    lips: Colour = (170.0, 20.0, 50.0)
    lips_opacity: float = 0.0
    shadow: Colour = (70.0, 60.0, 130.0)
    shadow_opacity: float = 0.0
    blush: Colour = (225.0, 90.0, 100.0)
    blush_opacity: float = 0.0


@dataclass(frozen=True)
class Parameters:
    """Everything that is drawn.

    Attributes:
        identity: The person.
        expression: The expression.
        makeup: The make-up.
        yaw: Degrees, -45 to 45; positive: nose towards the image's right side.
        pitch: Degrees, -30 to 30; positive: looking up.
        roll: Degrees; positive: tilted clockwise.
        light_azimuth: Degrees; positive: light from the image's right.
        light_elevation: Degrees; positive: light from above.
        light_strength: 0 (even light) to 1.
        background: Its colour.
    """

    identity: Identity = field(default_factory=Identity)
    expression: Expression = field(default_factory=Expression)
    makeup: Makeup = field(default_factory=Makeup)
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    light_azimuth: float = 0.0
    light_elevation: float = 30.0
    light_strength: float = 0.4
    background: Colour = (150.0, 165.0, 180.0)


EXPRESSIONS = {
    "neutral": Expression(),
    "happy": Expression(smile=1.0, mouth_open=0.25, eye_closure=0.2),
    "sad": Expression(smile=-0.9, brow_raise=0.35, brow_frown=0.5, eye_closure=0.25),
    "surprise": Expression(mouth_open=0.9, brow_raise=1.0, eye_closure=-0.5),
    "anger": Expression(smile=-0.4, brow_frown=1.0, eye_closure=0.15, pucker=0.2),
    "kiss": Expression(pucker=1.0, brow_raise=0.2),
    "sleepy": Expression(eye_closure=0.85, mouth_open=0.1),
}
"""Named expressions at full intensity."""

_UNITS = {  # action unit: parameter, sign
    "AU12": ("smile", 1.0),
    "AU15": ("smile", -1.0),
    "AU18": ("pucker", 1.0),
    "AU2": ("brow_raise", 1.0),
    "AU4": ("brow_frown", 1.0),
    "AU27": ("mouth_open", 1.0),
    "AU43": ("eye_closure", 1.0),
    "AU5": ("eye_closure", -1.0),
}

_SKINS: tuple[Colour, ...] = (
    (246, 215, 190),
    (233, 190, 158),
    (214, 164, 126),
    (186, 132, 94),
    (150, 100, 68),
    (112, 72, 48),
    (78, 50, 36),
)
_HAIRS: tuple[Colour, ...] = (
    (34, 27, 24),
    (62, 42, 28),
    (104, 70, 42),
    (160, 118, 66),
    (206, 170, 108),
    (140, 66, 34),
    (165, 165, 165),
)
_IRISES: tuple[Colour, ...] = ((70, 46, 28), (104, 74, 40), (86, 120, 70), (84, 124, 160))
_LIPS: tuple[Colour, ...] = ((170, 20, 50), (200, 60, 90), (120, 20, 60), (190, 80, 60))
_SHADOWS: tuple[Colour, ...] = ((70, 60, 130), (50, 100, 110), (120, 70, 40), (110, 50, 110))


def _template() -> Points:
    """Return the mean face ``(68, 3)``: x right, y up, z to the viewer; its width is about 2."""
    turn = np.radians(np.linspace(-96, 96, 17))
    jaw = np.stack([np.sin(turn), -1.25 * np.cos(turn), 0.8 * np.cos(turn) - 0.6], 1)
    brow_x = np.array([-0.80, -0.66, -0.50, -0.34, -0.19])
    brow = np.stack([brow_x, [0.47, 0.57, 0.60, 0.57, 0.50], 0.62 - 0.5 * brow_x**2], 1)
    bridge = [[0, 0.26, 0.62], [0, 0.06, 0.72], [0, -0.13, 0.84], [0, -0.31, 0.95]]
    wing = [[-0.21, -0.40, 0.62], [-0.11, -0.44, 0.70], [0, -0.46, 0.75]]
    eye_x = np.array([-0.65, -0.54, -0.37, -0.25, -0.37, -0.54])
    eye_y = [0.25, 0.345, 0.345, 0.24, 0.18, 0.18]
    eye = np.stack([eye_x, eye_y, 0.55 - 0.5 * eye_x**2], 1)
    upper = [[-0.38, -0.78], [-0.22, -0.71], [-0.08, -0.675], [0, -0.69]]
    lower = [[-0.22, -0.885], [-0.09, -0.925], [0, -0.935]]
    inner = [[-0.32, -0.782], [-0.10, -0.770], [0, -0.772], [-0.10, -0.792], [0, -0.796]]
    mirror = np.array([-1, 1, 1])

    def lips(flat: list[list[float]]) -> Points:
        points = np.array(flat)
        return np.column_stack([points, 0.70 - 0.9 * points[:, 0] ** 2])

    top, low, mid = lips(upper), lips(lower), lips(inner)
    return np.concatenate(
        [
            jaw,
            brow,
            (brow * mirror)[::-1],
            bridge,
            wing,
            (np.array(wing) * mirror)[1::-1],
            eye,
            (eye * mirror)[[3, 2, 1, 0, 5, 4]],
            top,
            (top * mirror)[2::-1],
            (low * mirror)[:2],
            low[::-1],
            mid[:3],
            (mid * mirror)[[1, 0, 3]],
            mid[[4, 3]],
        ]
    )


_MEAN = _template()
_ARC = np.radians(np.linspace(168, 12, 13))  # of the hairline, left to right
_DISTANCE = 9.0  # of the camera, in the template's units
_FIXED = np.float32(16)  # OpenCV's drawing takes sixteenths of a pixel


class ProceduralFaces:
    """Draws faces.

    Args:
        seed: Which persons and pictures ``identity`` and ``parameters`` give.
        size: Side of the pictures in pixels.

    Raises:
        ConfigError: The pictures would be smaller than 16 pixels.
    """

    def __init__(self, seed: int = 0, size: int = 112) -> None:
        if size < 16:
            raise ConfigError(f"Drawn faces have at least 16 pixels a side, not {size}.")
        self.seed, self.size = seed, size

    def identity(self, person: int) -> Identity:
        """Return person number ``person``; the same for one seed."""
        rng = np.random.default_rng([self.seed, person])
        shapes = {f.name: float(rng.uniform(-1, 1)) for f in fields(Identity) if f.default == 0.0}

        def tint(colours: tuple[Colour, ...]) -> Colour:
            colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.9, 1.08)
            red, green, blue = (float(c) for c in colour.clip(0, 255))
            return red, green, blue

        return Identity(
            **shapes,
            hair_style=str(rng.choice(["short", "long", "bald"], p=[0.5, 0.4, 0.1])),
            skin=tint(_SKINS),
            hair=tint(_HAIRS),
            iris=tint(_IRISES),
        )

    def parameters(self, person: int, frame: int) -> tuple[Parameters, str]:
        """Return a picture of a person and the name of its expression.

        Frame 0 is neutral, frontal, softly lit and without make-up; the others vary everything but
        the identity. Background and light stay the same within a person's frames.
        """
        rng = np.random.default_rng([self.seed, person, 1])
        scene = Parameters(
            identity=self.identity(person),
            light_azimuth=float(rng.uniform(-70, 70)),
            light_elevation=float(rng.uniform(0, 60)),
            light_strength=float(rng.uniform(0.2, 0.8)),
            background=_colour(rng.uniform(40, 220, 3)),
        )
        if frame == 0:
            return replace(scene, light_azimuth=0.0, light_strength=0.3), "neutral"
        rng = np.random.default_rng([self.seed, person, 2, frame])
        name = str(rng.choice(list(EXPRESSIONS)))
        strength = float(rng.uniform(0.5, 1.0))
        full = asdict(EXPRESSIONS[name])
        return replace(
            scene,
            expression=Expression(**{k: v * strength for k, v in full.items()}),
            yaw=float(np.clip(rng.normal(0, 15), -45, 45)),
            pitch=float(np.clip(rng.normal(0, 7), -25, 25)),
            roll=float(np.clip(rng.normal(0, 6), -25, 25)),
        ), name

    def worn(self, person: int) -> Makeup:
        """Return a make-up that suits nobody in particular; the same for one seed."""
        rng = np.random.default_rng([self.seed, person, 3])
        return Makeup(
            lips=_LIPS[rng.integers(len(_LIPS))],
            lips_opacity=float(rng.uniform(0.5, 1)),
            shadow=_SHADOWS[rng.integers(len(_SHADOWS))],
            shadow_opacity=float(rng.uniform(0.4, 0.9)),
            blush_opacity=float(rng.uniform(0.2, 0.7)),
        )

    def landmarks(self, parameters: Parameters, aligned: bool = True) -> Array:
        """Return the 68 points ``(68, 2)`` of a picture in its pixels, without drawing it."""
        shape = _shape(parameters.identity, parameters.expression)
        view = _View(parameters, shape, self.size, aligned)
        return view.landmarks

    def roll(self, parameters: Parameters) -> float:
        """Return the roll that is left in the aligned picture, in degrees."""
        shape = _shape(parameters.identity, parameters.expression)
        return parameters.roll - _View(parameters, shape, self.size, True).turn

    def draw(self, parameters: Parameters, aligned: bool = True) -> tuple[Image, Array]:
        """Draw a face.

        Args:
            parameters: What to draw.
            aligned: In the frame of the crop ``tight`` (upright); otherwise head and neck in the
                middle of the picture, as in a portrait.

        Returns:
            uint8 ``(S, S, 3)`` RGB and its landmarks ``(68, 2)`` in pixels.
        """
        shape = _shape(parameters.identity, parameters.expression)
        view = _View(parameters, shape, self.size, aligned)
        image = np.empty((self.size, self.size, 3), np.uint8)
        image[:] = [round(c) for c in parameters.background]
        _draw_head(image, parameters, view)
        _draw_features(image, parameters, view)
        _shade(image, parameters, view)
        return image, view.landmarks


def write_table(
    out: str | Path,
    persons: int = 50,
    frames: int = 16,
    size: int = 112,
    *,
    seed: int = 0,
    quality: int = 95,
) -> dict[str, Any]:
    """Write a table of drawn faces: one clip a person, split by person (8 : 1 : 1).

    Returns:
        The content of ``table.json``.

    Raises:
        ConfigError: No persons or frames, or too small pictures.
    """
    if persons < 1 or frames < 1:
        raise ConfigError("A table of drawn faces needs at least one person and one frame.")
    faces = ProceduralFaces(seed, size)
    with TableWriter(out, crop="tight", size=size) as writer:
        for person in range(persons):
            for frame in range(frames):
                parameters, name = faces.parameters(person, frame)
                image, landmarks = faces.draw(parameters)
                row = label(parameters, name, person, frame)
                row.image = encode_image(image, "JPEG", quality=quality)
                row.source = f"{person:05d}/{frame:04d}"
                row.landmarks = landmarks
                row.roll = faces.roll(parameters)
                writer.add(row)
        return writer.close()


def label(parameters: Parameters, expression: str, person: int, frame: int) -> Row:
    """Return the labels of a picture; ``image`` and ``source`` are empty."""
    does = asdict(parameters.expression)
    units = {unit: sign * does[name] for unit, (name, sign) in _UNITS.items()}
    worn = parameters.makeup
    return Row(
        b"",
        "",
        dataset="procedural",
        person=str(person),
        clip="0",
        frame=frame,
        expression=expression,
        yaw=parameters.yaw,
        pitch=parameters.pitch,
        roll=parameters.roll,
        action_units={unit: value for unit, value in units.items() if value > 0},
        makeup=max(worn.lips_opacity, worn.shadow_opacity, worn.blush_opacity) > 0,
        attributes={
            "light_azimuth": f"{parameters.light_azimuth:.1f}",
            "light_elevation": f"{parameters.light_elevation:.1f}",
            "hair_style": parameters.identity.hair_style,
        },
        split=("val" if person % 10 == 8 else "test" if person % 10 == 9 else "train"),
        licence=LICENCE,
    )


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def _shape(who: Identity, does: Expression) -> Points:
    """Return the 68 points ``(68, 3)`` of a person with an expression, facing the camera."""
    p = _MEAN.copy()
    jaw = p[:17]
    side = jaw[:, 0].copy()
    square = np.sin(2 * np.abs(np.arcsin(side.clip(-1, 1))))  # 0 at chin and temples
    jaw[:, 0] *= 1 + 0.10 * who.face_width + 0.10 * who.jaw * square
    jaw[:, 1] *= 1 + 0.08 * who.face_length
    p[17:, 0] *= 1 + 0.04 * who.face_width

    for eye, way in ((slice(36, 42), -1.0), (slice(42, 48), 1.0)):
        centre = p[eye].mean(0)
        p[eye] = centre + (p[eye] - centre) * (1 + 0.22 * who.eye_size)
        p[eye, 1] += 0.12 * who.eye_tilt * way * (p[eye, 0] - centre[0]) * 2
        p[eye, 0] += 0.05 * way * who.eye_distance
    p[17:22, 0] -= 0.05 * who.eye_distance
    p[22:27, 0] += 0.05 * who.eye_distance
    p[17:27, 1] += 0.06 * who.brow_height
    p[28:36, 1] -= 0.06 * who.nose_length * np.linspace(0.3, 1.0, 8).clip(None, 0.9)
    p[31:36, 0] *= 1 + 0.3 * who.nose_width

    # The mouth: first the person's, then what it does.
    mouth = p[48:68]
    middle = -0.785
    mouth[:, 0] *= (1 + 0.16 * who.mouth_width) * (1 - 0.38 * does.pucker)
    mouth[:12, 1] = middle + (mouth[:12, 1] - middle) * (
        1 + 0.3 * who.lip_thickness + 0.35 * does.pucker
    )
    mouth[:, 2] += 0.12 * does.pucker
    corner = (np.abs(mouth[:, 0]) / np.abs(mouth[:, 0]).max()) ** 2
    up = 0.18 if does.smile > 0 else 0.13
    mouth[:, 1] += up * does.smile * corner
    mouth[:, 0] *= 1 + 0.2 * max(does.smile, 0.0)
    low = np.zeros(20)
    low[[7, 8, 9, 17, 18, 19]] = [0.86, 1.0, 0.86, 0.9, 1.0, 0.9]
    low[[0, 6, 12, 16]] = 0.25
    mouth[:, 1] -= 0.36 * does.mouth_open * low
    mouth[[2, 3, 4, 13, 14, 15], 1] += 0.04 * does.mouth_open
    mouth[:, 0] *= 1 - 0.12 * does.mouth_open
    mouth[:, 1] += 0.05 * who.mouth_height
    jaw[:, 1] -= 0.24 * does.mouth_open * (1 - side**2) ** 1.5

    p[17:27, 1] += 0.14 * does.brow_raise
    inner = np.array([0.0, 0.1, 0.35, 0.7, 1.0])
    for brow, share in ((slice(17, 22), inner), (slice(22, 27), inner[::-1])):
        p[brow, 1] -= 0.13 * does.brow_frown * share
        p[brow, 0] -= np.sign(p[brow, 0]) * 0.06 * does.brow_frown * share
    closed = does.eye_closure + 0.15 * max(does.smile, 0.0)
    for lid, under in (((37, 38), (41, 40)), ((43, 44), (47, 46))):
        for above, below in zip(lid, under, strict=True):
            gap = p[above, 1] - p[below, 1]
            p[above, 1] -= gap * min(max(closed, -0.5), 1.0)
    return p


class _View:
    """The camera: from the template's space to pixels."""

    def __init__(self, parameters: Parameters, shape: Points, size: int, aligned: bool) -> None:
        y, p, r = np.radians([parameters.yaw, parameters.pitch, parameters.roll])
        c, s = math.cos, math.sin
        about_y = np.array([[c(y), 0, s(y)], [0, 1, 0], [-s(y), 0, c(y)]])
        about_x = np.array([[1, 0, 0], [0, c(p), s(p)], [0, -s(p), c(p)]])
        about_z = np.array([[c(r), s(r), 0], [-s(r), c(r), 0], [0, 0, 1]])
        self.rotation = about_z @ about_y @ about_x
        self.shape, self.turn = shape, 0.0
        scale = 0.235 * size  # pixels a unit
        middle = (size - 1) / 2
        self.matrix = np.array([[scale, 0, middle], [0, scale, middle - 0.05 * size]])
        if aligned:
            to_photo = crop_to_photo(self(shape), "tight", size)
            back = invert(to_photo).astype(np.float64)
            linear = back[:, :2] @ self.matrix[:, :2]
            offset = back[:, :2] @ self.matrix[:, 2] + back[:, 2]
            self.matrix = np.column_stack([linear, offset])
            self.turn = math.degrees(math.atan2(to_photo[1, 0], to_photo[0, 0]))
        self.unit = math.hypot(*self.matrix[:, 0])  # pixels
        self.landmarks = self(shape).astype(np.float32)

    def __call__(self, points: Any) -> Points:
        """Project points ``(n, 3)`` to pixels ``(n, 2)``."""
        seen = np.asarray(points, np.float64) @ self.rotation.T
        flat = seen[:, :2] * (_DISTANCE / (_DISTANCE - seen[:, 2:])) * [1, -1]
        return np.asarray(flat @ self.matrix[:, :2].T + self.matrix[:, 2])


def _fill(image: Image, points: Any, colour: Colour) -> None:
    fixed = np.round(np.asarray(points) * _FIXED).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, 4)


def _line(image: Image, points: Any, colour: Colour, width: float) -> None:
    fixed = np.round(np.asarray(points) * _FIXED).astype(np.int32)
    cv2.polylines(image, [fixed], False, colour, max(1, round(width)), cv2.LINE_AA, 4)


def _disc(image: Image, centre: Any, axes: tuple[float, float], turn: float, c: Colour) -> None:
    x, y = (round(float(v) * 16) for v in centre)
    size = (max(1, round(axes[0] * 16)), max(1, round(axes[1] * 16)))
    cv2.ellipse(image, (x, y), size, turn, 0, 360, c, -1, cv2.LINE_AA, 4)


def _smooth(points: Points, closed: bool = True) -> Points:
    """Return a curve through ``points`` with three more points between each two (Catmull-Rom)."""
    if closed:
        around = np.concatenate([points[-1:], points, points[:2]])
    else:
        around = np.concatenate([points[:1], points, points[-1:]])
    a, b, c, d = (around[i : len(around) - 3 + i] for i in range(4))
    curve = (_CURVE[:, :, None, None] * np.stack([a, b, c, d])[None]).sum(1)
    flat = curve.transpose(1, 0, 2).reshape(-1, points.shape[1])
    return np.asarray(flat if closed else np.concatenate([flat, points[-1:]]))


def _catmull_rom() -> NDArray[np.float64]:
    t = np.arange(4) / 4
    weights = [
        -(t**3) + 2 * t**2 - t,
        3 * t**3 - 5 * t**2 + 2,
        -3 * t**3 + 4 * t**2 + t,
        t**3 - t**2,
    ]
    return np.stack(weights, 1) / 2


_CURVE = _catmull_rom()  # (4, 4)


def _draw_head(image: Image, parameters: Parameters, view: _View) -> None:
    """Draw hair, neck, ears and the bare face."""
    who, p = parameters.identity, view.shape
    shade = _mix(who.skin, (60, 30, 30), 0.22)
    width = p[16, 0]
    chin = p[8, 1]
    skull = view([[0, 0.42, -0.35]])[0]
    tilt = parameters.roll - view.turn
    bald = who.hair_style == "bald"
    if who.hair_style == "long":
        fall = [
            [-1.18 * width, 0.5, -0.5],
            [-1.25 * width, -0.6, -0.5],
            [-1.15 * width, -1.7, -0.5],
            [1.15 * width, -1.7, -0.5],
            [1.25 * width, -0.6, -0.5],
            [1.18 * width, 0.5, -0.5],
        ]
        _fill(image, view(fall), _mix(who.hair, (0, 0, 0), 0.25))
    neck = [[-0.55, -0.6, -0.6], [-0.6, -2.1, -0.7], [0.6, -2.1, -0.7], [0.55, -0.6, -0.6]]
    _fill(image, view(neck), shade)
    cloth = [[-2.6, -3.6, -0.8], [-1.6, -2.05, -0.8], [0, -1.85, -0.5]]
    cloth += [[-x, y, z] for x, y, z in cloth[1::-1]]
    _fill(image, view(cloth), _mix(who.iris, (40, 60, 120), 0.6))

    size = (1.13 * width * view.unit, 1.12 * view.unit)
    _disc(image, skull, size, tilt, who.skin if bald else who.hair)
    for way in (-1, 1):
        ear = view([[way * 1.03 * width, 0.05, -0.55]])[0]
        turned = abs(math.cos(math.radians(parameters.yaw - way * 65)))
        _disc(image, ear, (0.16 * turned * view.unit, 0.26 * view.unit), tilt, shade)

    height = 0.58 + 0.12 * who.hairline
    arc = np.stack(
        [np.cos(_ARC) * 0.97 * width, 0.30 + height * np.sin(_ARC), 0.55 * np.sin(_ARC) - 0.42], 1
    )
    cheek = [[-0.99 * width, 0.1, -0.5], [0.99 * width, 0.1, -0.5]]
    outline = view(np.concatenate([p[:17], arc, cheek]))
    hull = cv2.convexHull(outline.astype(np.float32))[:, 0]
    _fill(image, _smooth(hull.astype(np.float64)), who.skin)
    if who.hair_style == "short":  # a fringe
        top = arc[2:-2] + np.array([0, 0.10, 0.05])
        fringe = arc[2:-2] - np.array([0, 0.10, -0.05]) * (1 - np.cos(_ARC[2:-2, None]) ** 2)
        _fill(image, view(np.concatenate([top, fringe[::-1]])), who.hair)
    _line(
        image,
        view([[-0.18, chin + 0.2, 0.2], [0, chin + 0.17, 0.22], [0.18, chin + 0.2, 0.2]]),
        _mix(who.skin, (60, 30, 30), 0.1),
        0.02 * view.unit,
    )


def _draw_features(image: Image, parameters: Parameters, view: _View) -> None:
    """Draw cheeks, brows, eyes, nose and mouth, with make-up."""
    who, worn, p, at = parameters.identity, parameters.makeup, view.shape, view.landmarks
    u = view.unit
    tilt = parameters.roll - view.turn
    dark = _mix(who.skin, (50, 20, 20), 0.35)
    for way in (-1, 1):
        cheek = view([[way * 0.55, -0.32, 0.35]])[0]
        seen = max(0.25, math.cos(math.radians(parameters.yaw + way * 35)))
        for k in range(3):
            share = 0.05 + 0.30 * worn.blush_opacity * (k + 1) / 3
            axes = (0.28 * (1 - 0.25 * k) * seen * u, 0.20 * (1 - 0.25 * k) * u)
            _disc(image, cheek, axes, tilt, _mix(who.skin, worn.blush, share))

    for eye, brow in ((range(36, 42), range(17, 22)), (range(42, 48), range(22, 27))):
        ring = p[list(eye)]
        lid = np.concatenate([ring[:4], ring[3:0:-1] + np.array([0, 0.13, 0])])
        lid[4:, 1] = np.minimum(lid[4:, 1], p[list(brow), 1].mean() - 0.03)
        shadow = _mix(_mix(who.skin, dark, 0.25), worn.shadow, worn.shadow_opacity)
        _fill(image, _smooth(view(lid)), shadow)
        _draw_eye(image, view(ring), who, u)
        thick = 0.055 * (1 + 0.45 * who.brow_thickness)
        arch = p[list(brow)]
        taper = np.array([0.5, 0.9, 1.0, 1.0, 0.8])[:, None] * [0, thick, 0]
        taper = taper if brow[0] == 17 else taper[::-1]
        band = np.concatenate([arch + taper, (arch - taper)[::-1]])
        _fill(image, _smooth(view(band)), _mix(who.hair, (30, 20, 20), 0.3))

    bridge = 0.5 * (p[27] + p[28])
    away = -1 if parameters.light_azimuth > 0 else 1
    wing = p[35] if away > 0 else p[31]
    side = view([bridge, p[29] + [away * 0.10, 0, -0.1], wing, p[33], p[30]])
    _fill(image, side, _mix(who.skin, dark, 0.35))
    _disc(image, at[30], (0.085 * u, 0.075 * u), tilt, _mix(who.skin, (255, 255, 255), 0.12))
    _line(image, _smooth(view(p[31:36]), closed=False), dark, 0.035 * u)
    for nostril in (32, 34):
        _disc(image, at[nostril], (0.045 * u, 0.03 * u), tilt, _mix(dark, (0, 0, 0), 0.5))

    lip = _mix(_mix(who.skin, (190, 70, 80), 0.45), worn.lips, worn.lips_opacity)
    outer, inner = at[48:60].astype(np.float64), at[60:68].astype(np.float64)
    _fill(image, _smooth(outer), lip)
    upper = np.concatenate([outer[:7], inner[4::-1]])
    _fill(image, upper, _mix(lip, (0, 0, 0), 0.15))
    _fill(image, _smooth(inner), (70, 25, 30))
    gap = float(np.hypot(*(inner[2] - inner[6])))
    if gap > 0.05 * u:
        teeth = np.concatenate([inner[:5], inner[3:0:-1] + (inner[6] - inner[2]) * 0.3])
        _fill(image, teeth, (240, 236, 228))
    _line(
        image,
        np.concatenate([outer[:1], inner[:5], outer[6:7]]),
        _mix(lip, (0, 0, 0), 0.5),
        0.02 * u,
    )


def _draw_eye(image: Image, ring: Points, who: Identity, unit: float) -> None:
    """Draw an eye in its ring of six points, the iris cut by the lids."""
    low = np.floor(ring.min(0)).astype(int) - 3
    high = np.ceil(ring.max(0)).astype(int) + 4
    low, high = low.clip(0), np.minimum(high, image.shape[1::-1])
    if (high - low).min() < 2:
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    inside = ring - low
    curve = _smooth(inside)
    open_eye = np.empty_like(part)
    open_eye[:] = (244, 240, 238)
    centre = inside[[0, 3]].mean(0) * 0.5 + inside[[1, 2, 4, 5]].mean(0) * 0.5
    wide = float(np.hypot(*(inside[3] - inside[0])))
    iris = (0.27 * wide, 0.125 * unit * (1 + 0.22 * who.eye_size))
    _disc(open_eye, centre, iris, 0, _mix(who.iris, (0, 0, 0), 0.35))
    _disc(open_eye, centre, (iris[0] * 0.8, iris[1] * 0.8), 0, who.iris)
    _disc(open_eye, centre, (iris[0] * 0.42, iris[1] * 0.42), 0, (12, 10, 10))
    _disc(open_eye, centre - 0.035 * unit, (0.03 * unit,) * 2, 0, (255, 255, 255))
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(curve * _FIXED).astype(np.int32)], 255, cv2.LINE_AA, 4)
    share = mask[:, :, None] * np.float32(1 / 255)
    part[:] = np.round(open_eye * share + part * (1 - share))
    _line(image, _smooth(ring[:4], closed=False), (30, 20, 20), 0.045 * unit)
    _line(image, _smooth(ring[[3, 4, 5, 0]], closed=False), _mix(who.skin, (40, 10, 10), 0.5), 1)


def _shade(image: Image, parameters: Parameters, view: _View) -> None:
    """Light the head as if it were an ellipsoid."""
    strength = parameters.light_strength
    if strength <= 0:
        return
    size = image.shape[0]
    cells = 16
    pixel = (np.arange(cells) + 0.5) * size / cells - 0.5
    centre = view([[0, -0.1, -0.3]])[0]
    x = (pixel - centre[0]) / (1.2 * view.unit)
    y = -(pixel - centre[1]) / (1.5 * view.unit)
    away = x[None] ** 2 + y[:, None] ** 2
    depth = np.sqrt(np.maximum(1 - away, 0.0))
    a, e = math.radians(parameters.light_azimuth), math.radians(parameters.light_elevation)
    light = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    facing = x[None] * light[0] + y[:, None] * light[1] + depth * light[2]
    lit = 1 + strength * (1.1 * np.maximum(facing, 0) - 0.72)
    lit = np.where(away < 1, lit, 1 + (lit - 1) * np.exp(-9 * (away - 1)))
    gain = cv2.resize(lit.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(image, cv2.merge([gain] * 3), dst=image, dtype=cv2.CV_8U)
