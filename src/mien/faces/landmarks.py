"""68 landmarks, face score and head pose of boxes, by a small network trained in this project.

``mien train recipes/landmarks/laptop.yaml`` trains it (``mien.methods.landmarks``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mien.faces.face import Array, Image
from mien.files.errors import WeightsError
from mien.files.weights import SHIPPED, load_weights

LANDMARKS = SHIPPED / "landmarks.safetensors"
INPUT = 64  # pixels a side
FRAME = 1.35  # side of the network's square over the larger side of the landmarks' bounding box
ANGLE = 45.0  # degrees that the pose output 1 stands for


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks of the n boxes of one image.

    Attributes:
        points: float32 ``(n, 68, 2)``, iBUG order, pixels of the image.
        score: float32 ``(n,)``, probability in [0, 1] that the box holds a face.
        pose: float32 ``(n, 3)``, yaw, pitch, roll in degrees (signs as in ``Face.pose``).
    """

    points: Array
    score: Array
    pose: Array


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


def _down(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
        _Residual(cout),
    )


class LandmarkNet(nn.Module):
    """Square crop ``(B, 3, 64, 64)`` in [-1, 1] → points, score and pose.

    Args:
        width: Channels of the first stage; the others are multiples of it.
    """

    mean_shape: Tensor

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.stage1 = _down(3, w)  # 32
        self.stage2 = nn.Sequential(_down(w, 2 * w), _Residual(2 * w))  # 16
        self.stage3 = nn.Sequential(_down(2 * w, 4 * w), _Residual(4 * w))  # 8
        self.stage4 = _down(4 * w, 6 * w)  # 4
        self.hidden = nn.Linear(6 * w * 16, 256)
        self.out = nn.Linear(256, 68 * 2 + 3 + 1)
        self.register_buffer("mean_shape", torch.zeros(68, 2))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the first three stages: 1/2, 1/4 and 1/8 of the resolution."""
        f1 = self.stage1(x)
        f2 = self.stage2(f1)
        return [f1, f2, self.stage3(f2)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return points ``(B, 68, 2)``, score logits ``(B,)`` and pose ``(B, 3)``.

        Points are in units of the crop: -1 and 1 are the outer edges of its first and last pixel.
        Pose is in degrees divided by ``ANGLE``.
        """
        h = self.stage4(self.features(x)[-1]).flatten(1)
        out = self.out(F.relu(self.hidden(h)))
        points = self.mean_shape + out[:, :136].view(-1, 68, 2)
        return points, out[:, 139], out[:, 136:139]


def _fuse(net: nn.Module) -> None:
    """Fold every normalisation into the convolution before it (evaluation only, equal outputs)."""
    names = [name for name, _ in net.named_children()]
    for before, name in itertools.pairwise(names):
        conv, norm = getattr(net, before), getattr(net, name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(net, before, fuse_conv_bn_eval(conv, norm))
            setattr(net, name, nn.Identity())
    for child in net.children():
        _fuse(child)


@lru_cache(maxsize=4)
def load_landmark_net(path: Path) -> LandmarkNet:
    """Read the landmark network's weights (once a process), ready for inference."""
    tensors, card = load_weights(path)
    if card.get("method") != "landmarks":
        raise WeightsError(f"{path} holds weights of {card.get('method')!r}, not of 'landmarks'.")
    net = LandmarkNet(width=int(card["config"]["width"]))
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items()})
    _fuse(net.eval())
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Landmarker:
    """Landmarks of boxes, all boxes of a list of images in one batch.

    The first pass looks at the upright square around each box, the second at the square that the
    first pass's points give, turned upright; the second pass's points are returned.

    Args:
        weights: A weight file; the shipped one if not given.
    """

    def __init__(self, weights: Path | None = None, batch_size: int = 64) -> None:
        self.net = load_landmark_net(weights or LANDMARKS)
        self.batch_size = batch_size

    def __call__(self, images: list[Image], boxes: list[NDArray[np.float32]]) -> list[Landmarks]:
        """Find the landmarks.

        Args:
            images: uint8 ``(H, W, 3)`` RGB each.
            boxes: One ``(n, 4)`` array an image: left, top, right, bottom in its pixels.

        Returns:
            One ``Landmarks`` an image.
        """
        owner = np.repeat(np.arange(len(images)), [len(b) for b in boxes])
        points = np.zeros((len(owner), 68, 2), np.float32)
        score = np.zeros(len(owner), np.float32)
        pose = np.zeros((len(owner), 3), np.float32)
        if len(owner):
            flat = np.concatenate([np.asarray(b, np.float32).reshape(-1, 4) for b in boxes])
            for start in range(0, len(owner), self.batch_size):
                part = slice(start, start + self.batch_size)
                pictures = [images[i] for i in owner[part]]
                rough = self._pass(pictures, _box_frames(flat[part]))
                fine = self._pass(pictures, landmark_frames(rough.points))
                points[part], score[part], pose[part] = fine.points, fine.score, fine.pose
        return [
            Landmarks(points[owner == i], score[owner == i], pose[owner == i])
            for i in range(len(images))
        ]

    @torch.inference_mode()
    def _pass(self, images: list[Image], frames: NDArray[np.float32]) -> Landmarks:
        """Run the network on the square ``frames`` ``(n, 2, 3)``, crop pixel → image pixel."""
        crops = np.stack([_sample(image, m) for image, m in zip(images, frames, strict=True)])
        x = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        unit, logit, pose = self.net(x.contiguous(memory_format=torch.channels_last))
        pixels = ((unit.numpy() + 1) * INPUT - 1) / 2
        points = np.einsum("nij,npj->npi", frames[:, :, :2], pixels) + frames[:, None, :, 2]
        angles = pose.numpy() * ANGLE
        # The frame is turned with the face: its turn is the part of the roll the network can't see.
        angles[:, 2] += np.degrees(np.arctan2(frames[:, 1, 0], frames[:, 0, 0]))
        return Landmarks(points.astype(np.float32), logit.sigmoid().numpy(), angles)


_MARGIN = 0.06  # of a ``tight`` crop that lies around the face's box


def tight_landmarks(images: Tensor) -> Tensor:
    """Measure landmarks ``(B, 68, 2)`` of ``tight`` crops, in their pixels.

    Args:
        images: ``(B, 3, S, S)`` in [-1, 1].
    """
    side = images.shape[-1]
    box = np.array([[_MARGIN * side] * 2 + [(1 - _MARGIN) * side] * 2], np.float32)
    pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
    crops = list(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy()))
    found = Landmarker()(crops, [box] * len(crops))
    points = np.concatenate([f.points for f in found]) if found else np.zeros((0, 68, 2))
    return torch.from_numpy(points.astype(np.float32)).to(images.device)


def tight_points(net: LandmarkNet, images: Tensor) -> Tensor:
    """Measure landmarks of ``tight`` crops in one pass through which gradients go.

    ``tight_landmarks`` looks twice and is more exact on turned faces.

    Args:
        net: Of ``load_landmark_net``; moved to the images' device, its weights get no gradients.
        images: ``(B, 3, S, S)`` in [-1, 1].

    Returns:
        ``(B, 68, 2)`` in units of the crop: its outer edges are -1 and 1.
    """
    side = images.shape[-1]
    rim = round(side * (FRAME * (1 - 2 * _MARGIN) - 1) / 2)  # mirrored, as beyond a photo
    x = F.pad(images.float(), (rim,) * 4, mode="reflect")
    x = F.interpolate(x, (INPUT, INPUT), mode="bilinear", antialias=True)
    x = x.contiguous(memory_format=torch.channels_last)
    points: Tensor = net.to(x.device).requires_grad_(False)(x)[0]
    return points * (side + 2 * rim) / side


def _sample(image: Image, to_image: NDArray[np.float32]) -> Image:
    """Cut the ``INPUT`` px square that ``to_image`` names, averaging when it shrinks much.

    Beyond its edges the image is mirrored.
    """
    shrink = float(np.hypot(to_image[0, 0], to_image[1, 0]))
    if shrink > 2:  # bilinear sampling alone would alias
        factor = 1 / shrink
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        scale = np.array([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]])
        to_image = to_image * scale[:, None]
        to_image[:, 2] += (scale - 1) / 2
        image = np.asarray(small, dtype=np.uint8)
    return np.asarray(
        cv2.warpAffine(
            image,
            to_image.astype(np.float64),
            (INPUT, INPUT),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,  # as in training
        )
    )


def _frames(centre: NDArray[Any], side: NDArray[Any], turn: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``(n, 2, 3)`` crop pixel → image pixel for squares turned by ``turn`` radians."""
    c, s = np.cos(turn) * side / INPUT, np.sin(turn) * side / INPUT
    linear = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    middle = np.full(2, (INPUT - 1) / 2)
    shift = centre - linear @ middle
    return np.concatenate([linear, shift[..., None]], -1).astype(np.float32)


def _box_frames(boxes: Array) -> NDArray[np.float32]:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = np.maximum(*(boxes[:, 2:] - boxes[:, :2]).T) * 1.15
    return _frames(centre, np.maximum(side, 4), np.zeros(len(boxes)))


def landmark_frames(points: Array) -> NDArray[np.float32]:
    """Return the upright squares ``(n, 2, 3)`` around landmarks ``(n, 68, 2)``."""
    eyes = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    turn = np.arctan2(eyes[:, 1], eyes[:, 0])
    c, s = np.cos(turn), np.sin(turn)
    back = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)  # image → upright
    upright = np.einsum("nij,npj->npi", back, points)
    low, high = upright.min(1), upright.max(1)
    centre = np.einsum("nji,nj->ni", back, (low + high) / 2)
    side = np.maximum((high - low).max(1) * FRAME, 4)
    return _frames(centre, side, turn)
