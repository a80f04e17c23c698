"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton, ICML 2020 (arXiv 2002.05709), on PCL's trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.methods.base import Batch, Update, register
from mien.methods.two_views import TwoViews, mlp


@register("simclr")
class SimCLR(TwoViews):
    """Two views of an image attract each other and repel all other views of the batch."""

    @dataclass(frozen=True)
    class Config(TwoViews.Config):
        """Settings; lengths follow the paper's 2048-2048-128."""

        temperature: float = 0.1

    config: Config

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        self.projector = mlp(self.length, self.length, max(1, self.length // 16), norm=False)

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update by NT-Xent (eq. 1)."""
        z = self.projector(self.represent(self.two_views(batch["image"])))
        loss = nt_xent(z, self.config.temperature)
        update(self.name, loss)
        return {"loss": loss.item()}


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Eq. 1, mean over all views: rows i and B + i of ``(2B, D)`` are views of one image."""
    with torch.autocast(z.device.type, enabled=False):  # cosines over a small temperature
        z = F.normalize(z.float(), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return F.cross_entropy(logits, partner)
