"""BYOL: Bootstrap Your Own Latent. A New Approach to Self-Supervised Learning.

Grill et al., NeurIPS 2020 (arXiv 2006.07733), on PCL's trunk. The momentum of the target is
constant; in the paper it grows to 1 over the training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.methods.base import Batch, Update, register
from mien.methods.two_views import TwoViews, follow, mlp


@register("byol")
class BYOL(TwoViews):
    """The online network predicts what a slow copy of it, the target, says of the other view."""

    @dataclass(frozen=True)
    class Config(TwoViews.Config):
        """Settings; lengths follow the paper's 2048-4096-256."""

        momentum: float = 0.996  # τ

    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        hidden, out = 2 * self.length, max(1, self.length // 8)
        self.projector = mlp(self.length, hidden, out)
        self.predictor = mlp(out, hidden, out)
        self.target = copy.deepcopy(nn.Sequential(self.trunk, nn.Flatten(), self.projector))
        self.target.requires_grad_(False)

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update by eq. 2, both ways round; then the target follows (eq. 1)."""
        views = self.two_views(batch["image"])
        q = self.predictor(self.projector(self.represent(views)))
        with torch.no_grad():
            z = self.target(views)
        loss = regression(q, torch.cat(z.chunk(2)[::-1]))
        update(self.name, loss)
        online = nn.Sequential(self.trunk, nn.Flatten(), self.projector)
        follow(self.target, online, self.config.momentum)
        return {"loss": loss.item()}


def regression(q: Tensor, z: Tensor) -> Tensor:
    """Eq. 2: squared distance of normalised rows, 2 - 2 cos, summed over both ways round."""
    return 2 * (2 - 2 * F.cosine_similarity(q.float(), z.float(), dim=1)).mean()
