"""A make-up artist: paints any photo with landmarks and knows exactly what it painted.

Lips, eye shadow, eyeliner, blush and foundation, each with colour, opacity and shape. Paint is
mixed in linear light and follows the face: a colour is shown under the light that falls on the face
and with the shading of the skin or lip below it, so wrinkles, pores and shadows stay. How a face
looks bare and made up with the same parameters is therefore known for photos, which no data set of
real make-up gives. It is synthetic: clean edges, one layout, no smears or glitter.

Nobody's skin is made lighter by design: the foundation's gain is drawn evenly to both sides, and
blush keeps the lightness of the skin that it lies on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mien.faces.colours import to_linear, to_srgb
from mien.faces.face import Array, Image
from mien.faces.image import check_image
from mien.faces.regions import (
    LEFT_EYE,
    REGIONS,
    RIGHT_EYE,
    Frame,
    brow_mask,
    curve,
    depth,
    eyeballs,
    face_frame,
    face_outline,
    lid_area,
    lip_mask,
    nearness,
    region_masks,
    skin_samples,
    soft,
)
from mien.files.errors import ConfigError, FaceError

Colours = Literal["train", "test"]

_PERIOD = 40.0  # degrees of hue; the last third of each is held out
_SHARE = {"train": (0.0, 0.66), "test": (0.70, 0.98)}
_ALBEDO = 0.30  # of the middle of all skins, linear
_LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class MakeupParameters:
    """What faces wear; tensors on one device, faces first.

    Colours ``(B, 3)`` are sRGB in [0, 1] in even light, everything else is ``(B,)``. Opacity 0 is
    not worn, 1 hides what is below. Lengths are in distances between the eyes.

    Attributes:
        lip_colour: Of both lips.
        lip_opacity: In [0, 1].
        lip_gloss: 0 (matte, highlights are dulled) to 1 (wet).
        shadow_colour: Of the eye shadow.
        shadow_opacity: At the lashes, where it is thickest.
        shadow_height: How far it reaches from the lashes (0) to the brow (1).
        liner_colour: Of the line along the upper lashes.
        liner_opacity: In [0, 1].
        liner_width: At its thickest; about 0.02 to 0.06.
        liner_wing: How far it goes on beyond the outer corner; 0 to 0.15.
        blush_colour: Its hue and saturation; lightness stays the skin's.
        blush_opacity: In the middle of the cheek.
        foundation_gain: ``(B, 3)``, factors of the skin's mean colour in linear light.
        foundation_opacity: How far skin is evened towards that colour.
    """

    lip_colour: Tensor
    lip_opacity: Tensor
    lip_gloss: Tensor
    shadow_colour: Tensor
    shadow_opacity: Tensor
    shadow_height: Tensor
    liner_colour: Tensor
    liner_opacity: Tensor
    liner_width: Tensor
    liner_wing: Tensor
    blush_colour: Tensor
    blush_opacity: Tensor
    foundation_gain: Tensor
    foundation_opacity: Tensor

    def __len__(self) -> int:
        return len(self.lip_opacity)

    def __getitem__(self, rows: Tensor | slice | list[int]) -> MakeupParameters:
        """Return the make-up of some faces."""
        return MakeupParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def only(self, *regions: str) -> MakeupParameters:
        """Return the make-up with nothing worn outside ``regions`` (of ``REGIONS``)."""
        unknown = set(regions) - set(REGIONS)
        if unknown:
            raise ConfigError(f"No region named {min(unknown)!r}; there are {', '.join(REGIONS)}.")
        bare = torch.zeros_like(self.lip_opacity)
        off: dict[str, Tensor] = {}
        for region, names in _OPACITIES.items():
            if region not in regions:
                off |= dict.fromkeys(names, bare)
        return replace(self, **off)


_OPACITIES = {
    "lips": ("lip_opacity",),
    "eyes": ("shadow_opacity", "liner_opacity"),
    "skin": ("blush_opacity", "foundation_opacity"),
}


def draw_parameters(
    batch: int, generator: torch.Generator, colours: Colours = "train", *, always: bool = False
) -> MakeupParameters:
    """Draw make-up at random.

    Hues lie on a circle of nine periods of 40 degrees. ``train`` takes the first 66 % of each,
    ``test`` the last third with a gap on either side: coral, pinkish red, violet, blue-green … that
    a network trained on the others has never seen.

    Args:
        batch: Number of faces.
        generator: Source of everything.
        colours: ``train`` or ``test``.
        always: Every face wears everything; otherwise each item is left out on some.

    Raises:
        ConfigError: No such set of colours.
    """
    if colours not in _SHARE:
        raise ConfigError(f"Colours are train or test, not {colours!r}.")

    def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def hue(middle: float, spread: float, any_: float) -> Tensor:
        """Draw hues in degrees about ``middle``, a share ``any_`` of them anywhere."""
        about = middle + spread * torch.randn(batch, generator=generator)
        free = uniform(0, 360)
        drawn = torch.where(uniform() < any_, free, about) % 360
        low, high = _SHARE[colours]
        start = torch.floor(drawn / _PERIOD) * _PERIOD
        return start + (low + (high - low) * (drawn - start) / _PERIOD) * _PERIOD

    def worn(share: float, low: float, high: float) -> Tensor:
        value, on = uniform(low, high), uniform() < share
        return value if always else torch.where(on, value, 0.0)

    earthy = uniform() < 0.4
    shadow = torch.where(
        earthy[:, None],
        _hsv(hue(22, 12, 0), uniform(0.3, 0.65), uniform(0.15, 0.6)),
        _hsv(hue(0, 0, 1), uniform(0.25, 0.8), uniform(0.15, 0.8)),
    )
    black = uniform() < 0.8
    liner = torch.where(
        black[:, None],
        _hsv(hue(20, 20, 0), uniform(0, 0.5), uniform(0.02, 0.16)),
        _hsv(hue(0, 0, 1), uniform(0.4, 0.9), uniform(0.15, 0.45)),
    )
    gain = 0.10 * torch.randn(batch, 1, generator=generator) + 0.05 * torch.randn(
        batch, 3, generator=generator
    )
    return MakeupParameters(
        lip_colour=_hsv(hue(352, 22, 0.15), uniform(0.35, 0.95), uniform(0.28, 0.92)),
        lip_opacity=worn(0.85, 0.4, 0.95),
        lip_gloss=uniform(),
        shadow_colour=shadow,
        shadow_opacity=worn(0.75, 0.3, 0.9),
        shadow_height=uniform(0.35, 0.85),
        liner_colour=liner,
        liner_opacity=worn(0.65, 0.6, 0.95),
        liner_width=uniform(0.02, 0.055),
        liner_wing=torch.where(uniform() < 0.5, uniform(0.04, 0.14), 0.0),
        blush_colour=_hsv(hue(354, 14, 0), uniform(0.4, 0.75), uniform(0.7, 0.95)),
        blush_opacity=worn(0.65, 0.1, 0.35),
        foundation_gain=gain.clamp(-0.3, 0.3).exp(),
        foundation_opacity=worn(0.65, 0.3, 0.8),
    )


def paint(
    images: Tensor,
    landmarks: Tensor,
    parameters: MakeupParameters,
    regions: tuple[str, ...] = REGIONS,
) -> tuple[Tensor, Tensor]:
    """Put make-up on faces.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1], of any size.
        landmarks: ``(B, 68, 2)`` in pixels.
        parameters: What each face gets.
        regions: Which regions to paint; leaving some out saves time.

    Returns:
        The made-up faces ``(B, 3, H, W)`` in [-1, 1], bit for bit the old ones where no paint is,
        and how opaque the paint is on lips, eyes and skin, ``(B, 3, H, W)`` in [0, 1].

    Raises:
        ConfigError: Images, landmarks and parameters are of different numbers.
    """
    if not len(images) == len(landmarks) == len(parameters):
        raise ConfigError(
            f"{len(images)} pictures, {len(landmarks)} sets of landmarks and {len(parameters)} of "
            "parameters do not belong together."
        )
    size = (images.shape[-2], images.shape[-1])
    frame = face_frame(landmarks)
    light = to_linear(images)
    lit = _illumination(light, landmarks)
    covers = {name: torch.zeros_like(images[:, :1]) for name in REGIONS}
    if "skin" in regions:
        light, covers["skin"] = _paint_skin(images, light, landmarks, frame, parameters)
    if "eyes" in regions:
        light, covers["eyes"] = _paint_eyes(light, landmarks, frame, lit, parameters, size)
    if "lips" in regions:
        light, covers["lips"] = _paint_lips(light, landmarks, frame, lit, parameters, size)
    cover = torch.cat([covers[name] for name in REGIONS], 1)
    painted = torch.where(cover.amax(1, keepdim=True) > 0, to_srgb(light), images)
    return painted, cover


def paint_photo(
    photo: Image, landmarks: Array, parameters: MakeupParameters
) -> tuple[Image, Array]:
    """Put make-up on one face of a photo, at the photo's resolution.

    Args:
        photo: uint8 ``(H, W, 3)`` RGB.
        landmarks: ``(68, 2)`` in photo pixels.
        parameters: Of one face.

    Returns:
        A new photo, and how opaque the paint is on lips, eyes and skin, float32 ``(H, W, 3)``.

    Raises:
        FaceError: The face lies outside the photo.
    """
    check_image(photo)
    points = torch.as_tensor(np.asarray(landmarks, np.float32))[None]
    outline = face_outline(points)[0].numpy()
    margin = 0.2 * float(face_frame(points).unit)
    low = np.floor(outline.min(0) - margin).clip(0, photo.shape[1::-1]).astype(int)
    high = np.ceil(outline.max(0) + margin).clip(0, photo.shape[1::-1]).astype(int)
    if (high - low).min() < 2:
        raise FaceError("The face lies outside the photo.")
    place = (slice(low[1], high[1]), slice(low[0], high[0]))
    part = torch.from_numpy(photo[place].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    painted, cover = paint(part, points - torch.from_numpy(low).float(), parameters)
    result, masks = photo.copy(), np.zeros(photo.shape, np.float32)
    result[place] = ((painted[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    masks[place] = cover[0].permute(1, 2, 0).numpy()
    return result, masks


def _paint_skin(
    images: Tensor, light: Tensor, landmarks: Tensor, frame: Frame, worn: MakeupParameters
) -> tuple[Tensor, Tensor]:
    """Even the skin with foundation, then tint the cheeks."""
    size = (images.shape[-2], images.shape[-1])
    skin = region_masks(landmarks, size, images)[:, 1:].sum(1, keepdim=True)  # lids too
    mean = _mean(light, skin)
    shade = _luminance(light) / _luminance(mean)
    base = _wide(worn.foundation_opacity) * skin
    target = mean * worn.foundation_gain[:, :, None, None] * shade.clamp(0, 3) ** 0.92
    light = torch.lerp(light, target, base)

    unit = frame.unit
    cover = torch.zeros_like(skin)
    for eye, wing, jaw, way in ((frame.left_eye, 31, 2, -1), (frame.right_eye, 35, 14, 1)):
        # The apple of the cheek, towards the ear.
        apple = 0.5 * eye + 0.5 * landmarks[:, wing] + 0.22 * unit * frame.down
        centre = 0.62 * apple + 0.38 * landmarks[:, jaw] + 0.02 * unit * frame.down
        out = way * frame.right - 0.45 * frame.down
        out = out / out.norm(dim=-1, keepdim=True)
        u, v = _along(centre, out, size)
        ring = (u / (0.48 * unit[:, :, None, None])) ** 2
        ring = ring + (v / (0.30 * unit[:, :, None, None])) ** 2
        cover = torch.maximum(cover, torch.exp(-1.6 * ring))
    blush = cover * skin * _wide(worn.blush_opacity)
    blush = torch.where(blush > 0.004, blush, 0.0)
    colour = _linear_colour(worn.blush_colour)
    # A film that filters the skin's own colour suits every skin; opaque pink is ashy on dark ones.
    flushed = light * colour
    flushed = flushed * (0.92 * _luminance(light) / _luminance(flushed))
    light = torch.lerp(light, flushed, blush)
    return light, torch.maximum(base, blush)


def _paint_eyes(
    light: Tensor,
    landmarks: Tensor,
    frame: Frame,
    lit: Tensor,
    worn: MakeupParameters,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Paint eye shadow, thickest at the lashes, then the line along them."""
    unit = frame.unit[:, :, None, None]
    free = (1 - eyeballs(landmarks, size)) * (1 - brow_mask(landmarks, size))
    shadow = torch.zeros_like(light[:, :1])
    line = torch.zeros_like(shadow)
    sides = ((LEFT_EYE, (36, 37, 38, 39), (37, 38), (18, 19, 20), -1.0),
             (RIGHT_EYE, (45, 44, 43, 42), (43, 44), (23, 24, 25), 1.0))  # fmt: skip
    for side, (eye, lashes, lid, brow, way) in enumerate(sides):
        ring = curve(landmarks[:, eye])
        gap = (landmarks[:, lid].mean(1) - landmarks[:, brow].mean(1)).norm(dim=-1)
        reach = (_wide(worn.shadow_height * gap)).clamp_min(1e-3)
        up = (-depth(ring, size)).clamp_min(0) / reach
        _, v = _along(landmarks[:, eye].mean(1), frame.right, size)
        under = soft(v - 0.04 * unit, 0.14 * unit)
        area = soft(depth(lid_area(landmarks, side), size), 0.14 * unit)
        shadow = torch.maximum(shadow, area * (1 - soft(up - 0.62, 0.9)) * (1 - 0.8 * under))

        upper = landmarks[:, lashes]
        out = way * frame.right - 0.55 * frame.down
        out = out / out.norm(dim=-1, keepdim=True)
        tip = upper[:, :1] + (worn.liner_wing[:, None] * frame.unit * out)[:, None]
        path = torch.cat([tip, curve(upper, closed=False)], 1)
        u, _ = _along(landmarks[:, eye].mean(1), way * frame.right, size)
        taper = 0.35 + 0.65 * soft(u + 0.02 * unit, 0.4 * unit)  # thin at the nose
        taper = taper * (1 - 0.6 * soft(u - 0.30 * unit, 0.16 * unit))  # and at the tip
        width = _wide(worn.liner_width) * unit * taper
        # A line thinner than a pixel covers a share of it.
        half = width / 2
        edge = half.clamp_min(0.5)
        line = torch.maximum(line, soft(nearness(path, size) + half, edge + 0.5))
    shadow = shadow * free * _wide(worn.shadow_opacity)
    light = _lay(light, worn.shadow_colour, lit, shadow, 0.85)
    line = line * _wide(worn.liner_opacity)
    target = _linear_colour(worn.liner_colour) * lit
    light = torch.lerp(light, target.expand_as(light), line)
    return light, torch.maximum(shadow, line)


def _paint_lips(
    light: Tensor,
    landmarks: Tensor,
    frame: Frame,
    lit: Tensor,
    worn: MakeupParameters,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Paint both lips; gloss sharpens the highlights that are there and adds one below."""
    cover = lip_mask(landmarks, size) * _wide(worn.lip_opacity)
    gloss = _wide(worn.lip_gloss)
    light = _lay(light, worn.lip_colour, lit, cover, 0.65 + 0.5 * gloss)
    low = (landmarks[:, 57] + landmarks[:, 66]) / 2
    wide = (landmarks[:, 54] - landmarks[:, 48]).norm(dim=-1)
    tall = (landmarks[:, 57] - landmarks[:, 66]).norm(dim=-1)
    axis = landmarks[:, 54] - landmarks[:, 48]
    u, v = _along(low, axis / axis.norm(dim=-1, keepdim=True).clamp_min(1e-3), size)
    spot = torch.exp(
        -((u / _wide(0.2 * wide).clamp_min(0.7)) ** 2)
        - ((v / _wide(0.28 * tall).clamp_min(0.7)) ** 2)
    )
    light = light + 0.22 * gloss.square() * spot * cover * lit
    return light, cover


def _lay(
    light: Tensor, colour: Tensor, lit: Tensor, cover: Tensor, contrast: Tensor | float
) -> Tensor:
    """Lay opaque paint on what ``cover`` covers, with the shading that is there.

    ``contrast`` is the power of the shading: below 1 it is dulled.
    """
    shade = _luminance(light) / _luminance(_mean(light, cover))
    target = _linear_colour(colour) * lit * shade.clamp(0.02, 4) ** contrast
    return torch.lerp(light, target, cover)


def _illumination(light: Tensor, landmarks: Tensor) -> Tensor:
    """Estimate how strongly each face is lit, ``(B, 1, 1, 1)``; 1 is usual.

    A dark face may be dark of skin or in the dark: half of the logarithm counts as light.
    """
    height, width = light.shape[-2:]
    scale = torch.tensor([width, height]).to(landmarks)
    grid = ((skin_samples(landmarks) + 0.5) * 2 / scale - 1)[:, None]
    seen = torch.nn.functional.grid_sample(light, grid, padding_mode="border", align_corners=False)
    middle = _luminance(seen).flatten(1).median(1).values
    return (middle / _ALBEDO).sqrt().clamp(0.35, 1.25)[:, None, None, None]


def _mean(light: Tensor, weight: Tensor) -> Tensor:
    """Return mean colours ``(B, 3, 1, 1)`` under a weight ``(B, 1, H, W)``; never black."""
    total = weight.sum((2, 3), keepdim=True)
    return ((light * weight).sum((2, 3), keepdim=True) / total.clamp_min(1e-6)).clamp_min(1e-3)


def _along(centre: Tensor, axis: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return coordinates of all pixels along ``axis`` ``(B, 2)`` and a right angle on from it."""
    y = torch.arange(size[0]).to(centre).view(1, 1, -1, 1) - _wide(centre[:, 1])
    x = torch.arange(size[1]).to(centre).view(1, 1, 1, -1) - _wide(centre[:, 0])
    ax, ay = _wide(axis[:, 0]), _wide(axis[:, 1])
    return x * ax + y * ay, y * ax - x * ay


def _wide(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _luminance(light: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA).to(light)[None, :, None, None]
    return (light * weights).sum(1, keepdim=True).clamp_min(1e-4)


def _linear_colour(colour: Tensor) -> Tensor:
    """Take sRGB colours ``(B, 3)`` in [0, 1] to linear light ``(B, 3, 1, 1)``."""
    return to_linear(colour[:, :, None, None] * 2 - 1)


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB ``(B, 3)`` in [0, 1] of hue in degrees, saturation and value in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] / 60) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)
