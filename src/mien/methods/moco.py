"""MoCo v2: Improved Baselines with Momentum Contrastive Learning.

Chen, Fan, Girshick, He, 2020 (arXiv 2003.04297); the queue is of He et al., CVPR 2020
(arXiv 1911.05722, algorithm 1). On PCL's trunk. Without normalisation it needs no shuffling; with
``norm: batch`` the statistics of a batch may give its keys away, and nothing shuffles them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.methods.base import Batch, Update, register
from mien.methods.pcl.losses import info_nce
from mien.methods.two_views import TwoViews, follow, mlp


@register("moco")
class MoCo(TwoViews):
    """A query finds its key, made by a slow copy of the network, among a queue of older keys."""

    @dataclass(frozen=True)
    class Config(TwoViews.Config):
        """Settings; lengths follow the paper's 2048-2048-128."""

        temperature: float = 0.2
        momentum: float = 0.999
        queue: int = 65536

    config: Config
    queue: Tensor
    place: Tensor

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        length = max(1, self.length // 16)
        self.projector = mlp(self.length, self.length, length, norm=False)
        self.keys = copy.deepcopy(nn.Sequential(self.trunk, nn.Flatten(), self.projector))
        self.keys.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, length), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))  # of the oldest key

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """One update by InfoNCE over one positive key and the queue, then the queue moves on."""
        view_q, view_k = self.two_views(batch["image"]).chunk(2)
        q = self.projector(self.represent(view_q))
        online = nn.Sequential(self.trunk, nn.Flatten(), self.projector)
        follow(self.keys, online, self.config.momentum)
        with torch.no_grad():
            k = F.normalize(self.keys(view_k).float(), dim=1)
        loss = queue_contrast(q, k, self.queue, self.config.temperature)
        update(self.name, loss)
        self.enqueue(k)
        return {"loss": loss.item()}

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by ``keys`` ``(B, D)``."""
        keys = keys[-len(self.queue) :]
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys
        self.place.copy_((self.place + len(keys)) % len(self.queue))


def queue_contrast(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries ``(B, D)`` over their keys ``(B, D)`` and a queue ``(K, D)`` of others.

    Keys and queue are normalised, queries are not.
    """
    with torch.autocast(q.device.type, enabled=False):  # cosines over a small temperature
        q = F.normalize(q.float(), dim=1)
        return info_nce((q * k).sum(1), q @ queue.T, temperature)
