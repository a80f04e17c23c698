"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen, He, CVPR 2021 (arXiv 2011.10566, algorithm 1), on PCL's trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.methods.base import Batch, Update, register
from mien.methods.two_views import TwoViews, mlp


@register("simsiam")
class SimSiam(TwoViews):
    """Each view predicts the other one, through which no gradient flows."""

    @dataclass(frozen=True)
    class Config(TwoViews.Config):
        """Settings; lengths follow the paper's 2048-2048-2048-2048 and 2048-512-2048."""

    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        d = self.length
        self.projector = nn.Sequential(mlp(d, d, d, d), nn.BatchNorm1d(d, affine=False))
        self.predictor = mlp(d, d // 4, d)

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update by eq. 4, the mean of both ways round."""
        z = self.projector(self.represent(self.two_views(batch["image"])))
        p = self.predictor(z)
        z = z.detach()
        loss = -F.cosine_similarity(p.float(), torch.cat(z.chunk(2)[::-1]).float(), dim=1).mean()
        update(self.name, loss)
        return {"loss": loss.item(), "spread": spread(z)}


def spread(z: Tensor) -> float:
    """Mean deviation of normalised outputs times √D: 1 if they fill the sphere, 0 if collapsed."""
    return float(F.normalize(z.float(), dim=1).std(0).mean() * z.shape[1] ** 0.5)
