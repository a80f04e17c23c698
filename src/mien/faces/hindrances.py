"""What stands in the way of eye make-up: closed eyes, and glasses. Guesses, for warnings alone.

The shipped landmarks barely follow the lids, so closed eyes are told by what lies between them:
lids have neither the dark of a pupil nor the white beside it. Glasses are told by their bridge, a
dark band across the nose between the eyes; rimless ones are not seen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.faces.colours import skin_colour, to_lab
from mien.faces.regions import LEFT_EYE, RIGHT_EYE, curve, depth, face_frame

UNIT = 37.0
"""Pixels between the eyes' centres in a ``tight`` crop of 112 px, at which both were fitted."""
CLOSED = -3.4
"""Eyes above count as closed: 2 of 100 open ones do, and a third of the closed ones."""
GLASSES = 13.0
"""Faces above count as wearing glasses."""
# Spread of lightness, lowest chroma less the skin's, range of lightness between the lids: logistic
# regression on 3,000 photos of UTKFace whose lids were annotated.
_WEIGHTS = (0.672, 0.229, -0.327)
_EXTREME = 5  # pixels
_BRIDGE = (-0.20, 0.30)  # units below the middle between the eyes
_STEPS = 26


def closed_eyes(images: Tensor, landmarks: Tensor) -> Tensor:
    """Return how much the eyes look closed, ``(B,)``; ``CLOSED`` is where a warning is due.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1], with about ``UNIT`` pixels between the eyes.
        landmarks: ``(B, 68, 2)`` in pixels.
    """
    size = (images.shape[-2], images.shape[-1])
    lab = to_lab(images)
    chroma = lab[:, 1:].norm(dim=1, keepdim=True)
    skin = skin_colour(images, landmarks)[:, 1:].norm(dim=1)
    found = []
    for eye in (LEFT_EYE, RIGHT_EYE):
        inside = depth(curve(landmarks[:, eye]), size) > 0
        count = inside.sum((1, 2, 3)).clamp_min(1)

        def extreme(values: Tensor, largest: bool, inside: Tensor = inside) -> Tensor:
            """Return the mean of the five largest or smallest values between the lids."""
            worst = -1e3 if largest else 1e3
            kept = torch.where(inside, values, torch.full_like(values, worst)).flatten(1)
            return kept.topk(_EXTREME, largest=largest).values.mean(1)

        light = lab[:, :1]
        mean = (light * inside).sum((1, 2, 3)) / count
        apart = (light - mean[:, None, None, None]).square() * inside
        spread = (apart.sum((1, 2, 3)) / count).sqrt()
        pale = extreme(chroma, False) - skin
        found.append(torch.stack([spread, pale, extreme(light, True) - extreme(light, False)], 1))
    return torch.stack(found).mean(0) @ torch.tensor(_WEIGHTS).to(images)


def glasses(images: Tensor, landmarks: Tensor) -> Tensor:
    """Return how dark a band crosses the nose between the eyes, ``(B,)``, in L* of CIE Lab.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1], with about ``UNIT`` pixels between the eyes.
        landmarks: ``(B, 68, 2)`` in pixels.
    """
    height, width = images.shape[-2:]
    frame = face_frame(landmarks)
    middle = ((frame.left_eye + frame.right_eye) / 2)[:, None]
    right, down = ((frame.unit * axis)[:, None] for axis in (frame.right, frame.down))
    below = torch.linspace(*_BRIDGE, _STEPS).to(landmarks)[None, :, None]
    lines = torch.stack([middle + across * right + below * down for across in (-0.1, 0, 0.1)], 1)
    grid = (lines + 0.5) * 2 / torch.tensor([width, height]).to(lines) - 1
    light = F.grid_sample(to_lab(images)[:, :1], grid, padding_mode="border", align_corners=False)[
        :, 0
    ]
    # How much must be climbed out of the darkest place, whichever way one leaves it.
    above = torch.cummax(light, 2).values
    under = torch.cummax(light.flip(2), 2).values.flip(2)
    return (torch.minimum(above, under) - light).amax(2).amin(1)
