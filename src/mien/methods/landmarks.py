"""Training of the landmark network (``mien.faces.landmarks``). Ours, not a paper's.

Direct regression of 68 points, head pose and a face score from a 64 px square. Every sample is a
random similarity of a stored picture; a share of the squares misses the face and teaches the score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, optim
from torch.nn import functional as F

from mien.data.augment import color_jitter, grayscale, lower_resolution, mirror_points, noise
from mien.faces.landmarks import ANGLE, FRAME, INPUT, LandmarkNet
from mien.methods.base import Batch, Method, Sampler, Update, register
from mien.nets.perceptual import pooled

JAW = slice(0, 17)


@register("landmarks")
class LandmarkTraining(Method):
    """Points by L1 over the outer eye distance, pose by L1, score by cross-entropy."""

    @dataclass(frozen=True)
    class Config:
        """Settings of the landmark network's training."""

        width: int = 24
        degrees: float = 35.0  # largest turn
        scale: float = 1.4  # largest enlargement, and the inverse of the smallest
        shift: float = 0.14  # largest shift, in sides of the square
        upright: float = 0.5  # share of samples with small turn, scale and shift (the second pass)
        negatives: float = 0.15  # share of squares without a face
        shuffled: float = 0.3  # of those, the share that is a face in shuffled blocks
        truncated: float = 0.3  # share of pictures cut close to the face, as some data sets are
        weights: tuple[float, ...] = ()  # draws per table, equal if empty
        no_jaw: tuple[str, ...] = ("ict_faces",)  # data sets whose jaw line is another curve
        pose_weight: float = 0.1
        score_weight: float = 0.1

    stages = ("main",)
    columns = ("image", "landmarks", "yaw")
    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        self.net = LandmarkNet(config.width)

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Draw squares from the training split of the caches."""
        c = self.config
        rows = [cache.select(split="train") for cache in caches]
        share = np.array(c.weights or [1.0] * len(caches), np.float64)
        share /= share.sum()
        self.net.mean_shape.copy_(torch.from_numpy(_mean_shape(caches[0], rows[0])))

        def sample(step: int) -> Batch:
            rng = np.random.default_rng([seed, rank, step])
            generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            table = rng.choice(len(caches), batch_size, p=share)
            images, points, pose, jaw = [], [], [], []
            for t, cache in enumerate(caches):
                n = int((table == t).sum())
                index = np.sort(rng.choice(rows[t], n))
                images.append(cache.take(index))
                points.append(cache.landmarks[index])
                pose.append(cache.pose[index])
                jaw.append(~np.isin(cache.dataset[index], c.no_jaw))
            x = torch.cat(images).float().div_(127.5).sub_(1.0)
            return self._squares(
                x, np.concatenate(points), np.concatenate(pose), np.concatenate(jaw), rng, generator
            )

        return sample

    def _squares(
        self,
        x: Tensor,
        points: np.ndarray,
        pose: np.ndarray,
        jaw: np.ndarray,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Batch:
        """Cut random squares ``(B, 3, 64, 64)`` out of pictures ``(B, 3, S, S)``."""
        c, n, size = self.config, len(x), x.shape[-1]
        calm = np.where(rng.random(n) < c.upright, 0.2, 1.0)
        turn = np.radians(c.degrees) * rng.uniform(-1, 1, n) * calm
        scale = c.scale ** (rng.uniform(-1, 1, n) * calm)
        shift = c.shift * rng.uniform(-1, 1, (n, 2)) * calm[:, None]
        miss = rng.random(n) < c.negatives
        far = rng.uniform(0.7, 1.2, n) * 0.9
        way = rng.uniform(0, 2 * np.pi, n)
        missed = np.stack([np.cos(way), np.sin(way)], -1) * far[:, None]
        shuffle = miss & (rng.random(n) < c.shuffled)
        zoom = rng.random(n) < 0.4  # of the misses these are too near or too far instead
        shift = np.where((miss & ~shuffle)[:, None], np.where(zoom[:, None], 0, missed), shift)
        scale = np.where(miss & ~shuffle & zoom, np.where(rng.random(n) < 0.5, 0.25, 4.0), scale)

        low, high = points.min(1), points.max(1)
        side = (high - low).max(1) * FRAME * scale
        centre = (low + high) / 2 + shift * side[:, None]
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
        linear = linear * (side / 2)[:, None, None]  # unit square → picture pixels
        inside = np.linalg.solve(linear, (points - centre[:, None]).transpose(0, 2, 1))
        target = inside.transpose(0, 2, 1)

        # grid_sample's units (align_corners=False): -1 and 1 are the picture's outer edges
        theta = np.concatenate([linear, (centre + 0.5 - size / 2)[..., None]], -1) * (2 / size)
        grid = F.affine_grid(torch.from_numpy(theta).float(), [n, 3, INPUT, INPUT], False)
        # Beyond the picture's edges (some are moved to the face) it is mirrored, as in use.
        margin = rng.uniform(-0.08, 0.2, (2, n, 2)) * (high - low)[None]
        edges = np.stack([low - margin[0], high + margin[1]]) * 2 / size - 1
        cut = (rng.random(n) < c.truncated)[None, :, None]
        edges = np.where(cut, np.clip(edges, -1, 1), np.array([-1.0, 1.0])[:, None, None])
        first, last = torch.from_numpy(edges).float()[:, :, None, None]
        place = (grid - first) % (2 * (last - first))
        grid = first + torch.minimum(place, 2 * (last - first) - place)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

        x = torch.where(torch.from_numpy(shuffle)[:, None, None, None], _shuffle(x, rng), x)
        flip = rng.random(n) < 0.5
        x = torch.where(torch.from_numpy(flip)[:, None, None, None], x.flip(-1), x)
        mirrored = mirror_points(torch.from_numpy(target).float(), width=1)  # about 0: units
        tensor = torch.where(
            torch.from_numpy(flip)[:, None, None], mirrored, torch.from_numpy(target).float()
        )
        sign = np.where(flip, -1.0, 1.0)
        angles = np.stack(
            [pose[:, 0] * sign, pose[:, 1], (pose[:, 2] - np.degrees(turn)) * sign], -1
        )
        x = color_jitter(x, generator, 0.4, 0.4, 0.4, 0.05, p=0.8)
        x = grayscale(x, generator, p=0.15)
        x = lower_resolution(x, generator, (0.35, 1.0), p=0.3)
        x = noise(x, generator, sigma=(0.0, 0.05), p=0.3)
        return {
            "image": x,
            "points": tensor,
            "pose": torch.from_numpy(angles / ANGLE).float(),
            "face": torch.from_numpy(~miss).float(),
            "jaw": torch.from_numpy(jaw).float(),
        }

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """One AdamW over the network."""
        return {
            "net": optim.AdamW(self.net.parameters(), learning_rate, weight_decay=1e-3, fused=True)
        }

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update; squares without a face count for the score only."""
        points, logit, pose = self.net(batch["image"])
        face, target = batch["face"], batch["points"]
        eyes = (target[:, 36] - target[:, 45]).norm(dim=-1).clamp_min(0.1)
        weight = torch.ones(len(face), 68, device=face.device)
        weight[:, JAW] = batch["jaw"][:, None]
        weight = weight * face[:, None]
        distance = (points - target).abs().sum(-1) / eyes[:, None]
        l_points = (distance * weight).sum() / weight.sum()
        known = face[:, None] * batch["pose"].isfinite()
        l_pose = ((pose - batch["pose"].nan_to_num()).abs() * known).sum() / known.sum()
        l_score = F.binary_cross_entropy_with_logits(logit, face)
        loss = l_points + self.config.pose_weight * l_pose + self.config.score_weight * l_score
        update("net", loss)
        with torch.no_grad():
            error = ((points - target).norm(dim=-1) / eyes[:, None] * weight).sum() / weight.sum()
        return {
            "loss": loss.item(),
            "nme": error.item(),
            "pose_deg": l_pose.item() * ANGLE,
            "score": l_score.item(),
        }

    def features(self, images: Tensor, factor: str) -> Tensor:
        """Return features ``(B, D)`` of crops ``(B, 3, S, S)``, the same for every factor."""
        return pooled(self.net.features(images))

    @torch.no_grad()
    def preview(self, batch: Batch) -> np.ndarray:
        """Draw predicted points (green) over true ones (red)."""
        points, logit, _ = self.net(batch["image"])
        tiles = []
        n = min(32, len(points))
        for image, found, true, score in zip(
            batch["image"][:n], points[:n], batch["points"][:n], logit[:n], strict=True
        ):
            picture = ((image.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
            picture = cv2.resize(picture, (192, 192), interpolation=cv2.INTER_LINEAR)
            for where, colour in ((true, (255, 0, 0)), (found, (0, 255, 0))):
                for x, y in ((where + 1) * 96).clamp(-1, 500).int().tolist():
                    cv2.circle(picture, (x, y), 1, colour, -1)
            text = f"{1 / (1 + math.exp(-score.item())):.2f}"
            cv2.putText(picture, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0))
            tiles.append(picture)
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
        rows = [np.concatenate(tiles[i : i + 8], 1) for i in range(0, len(tiles), 8)]
        return np.concatenate(rows, 0)


def _shuffle(x: Tensor, rng: np.random.Generator, blocks: int = 4) -> Tensor:
    """Cut pictures ``(B, C, S, S)`` into ``blocks``² squares and lay them in another order."""
    b, c, size, _ = x.shape
    side = size // blocks
    order = torch.from_numpy(rng.permutation(blocks * blocks))
    cut = x.reshape(b, c, blocks, side, blocks, side).permute(0, 1, 2, 4, 3, 5)
    cut = cut.reshape(b, c, blocks * blocks, side, side)[:, :, order]
    cut = cut.reshape(b, c, blocks, blocks, side, side).permute(0, 1, 2, 4, 3, 5)
    return cut.reshape(b, c, size, size)


def _mean_shape(cache: Any, rows: np.ndarray) -> np.ndarray:
    """Return the mean of the points ``(68, 2)`` in units of the unshifted square."""
    points = cache.landmarks[rows[:4096]]
    low, high = points.min(1), points.max(1)
    side = (high - low).max(1)[:, None, None] * FRAME / 2
    return np.asarray(((points - (low + high)[:, None] / 2) / side).mean(0), np.float32)
