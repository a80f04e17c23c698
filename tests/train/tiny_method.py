"""A method, a table and a recipe small enough for tests, and what their processes run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional as F

from mien.data.table import Row, TableWriter
from mien.files.errors import MienError
from mien.methods.base import Batch, Method, Sampler, Score, Update, register
from mien.train.loop import Job, Training, train
from mien.train.parallel import Parallel


@register("tiny")
class Tiny(Method):
    """Two networks, two optimisers, batch norm, noise: what can go wrong when resuming."""

    @dataclass(frozen=True)
    class Config:
        width: int = 4
        rate: float = 1.0
        explode_at: int = -1

    stages = ("main", "later")
    columns = ("image",)
    not_saved = ("frozen.",)
    config: Config
    best_at: ClassVar[int] = 12
    hook: ClassVar[Callable[[int], None]] = staticmethod(lambda step: None)

    def __init__(self, config: Config, stage: str = "main") -> None:
        super().__init__(config, stage)
        self.net = nn.Sequential(
            nn.Conv2d(3, config.width, 3, padding=1),
            nn.BatchNorm2d(config.width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(config.width, 3, 3, padding=1),
        )
        self.critic = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.LazyLinear(1))
        self.critic(torch.zeros(1, 3, 8, 8))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        if stage == "later":
            self.head = nn.Linear(3, 2)

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        rows = caches[0].select(split="train")

        def sample(step: int) -> Batch:
            assert not torch.is_autocast_enabled("cpu")  # pictures are drawn in float32
            rng = np.random.default_rng([seed, rank, step])
            x = caches[0].take(rng.choice(rows, batch_size)).float() / 127.5 - 1
            return {"image": x, "step": torch.tensor(step)}

        return sample

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        return {
            "net": optim.AdamW(self.net.parameters(), learning_rate, fused=True),
            "critic": optim.SGD(self.critic.parameters(), learning_rate * 0.5, momentum=0.9),
        }

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        x = batch["image"]
        type(self).hook(int(batch["step"]))
        y = self.net(x + 0.1 * torch.randn_like(x))
        loss = F.l1_loss(y, x) - 0.01 * self.critic(y).mean()
        if int(batch["step"]) == self.config.explode_at:
            loss = loss * float("nan")
        update("net", loss * self.config.rate)
        gap = self.critic(y.detach()).mean() - self.critic(x).mean()
        update("critic", gap.square())
        self.count += 1
        return {"loss": loss.item(), "gap": gap.item()}

    def measure(self, caches: list[Any]) -> Score:
        torch.rand(1)  # whatever is drawn here must not disturb the training
        return Score("off", float(abs(int(self.count) - self.best_at)))

    @torch.no_grad()
    def preview(self, batch: Batch) -> np.ndarray:
        y = self.net(batch["image"]).clamp(-1, 1)
        pair = torch.cat([batch["image"][0], y[0]], -1)
        return ((pair.permute(1, 2, 0) + 1) * 127.5).byte().numpy()


def write_table(folder: Path, faces: int = 12, size: int = 8) -> Path:
    """Write a table of random pictures with landmarks and pose."""
    rng = np.random.default_rng(0)
    with TableWriter(folder, crop="tight", size=size) as writer:
        for i in range(faces):
            picture = rng.integers(0, 256, (size, size, 3), np.uint8)
            points = rng.uniform(size * 0.2, size * 0.8, (68, 2)).astype(np.float32)
            writer.add(
                Row(
                    cv2.imencode(".png", picture)[1].tobytes(),
                    f"{i}.png",
                    dataset="random",
                    yaw=1.0,
                    pitch=2.0,
                    roll=3.0,
                    landmarks=points,
                    licence="CC0",
                )
            )
    return folder


def write_recipe(path: Path, table: Path, **changes: Any) -> Path:
    """Write a recipe of 20 steps for the tiny method."""
    import yaml

    values: dict[str, Any] = {
        "method": "tiny",
        "tables": [str(table)],
        "size": 8,
        "batch_size": 4,
        "steps": 20,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "warmup": 3,
        "ema": 0.9,
        "clip": 1.0,
        "seed": 7,
        "preview_every": 10,
        "checkpoint_every": 5,
        "log_every": 4,
    }
    path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
    return path


def train_tiny(recipe: Path, out: Path, resume: bool, largest_file: int = 0) -> None:
    """Train in a process of its own; files larger than ``largest_file`` bytes cannot be written."""
    if largest_file:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(recipe, out=out, resume=resume, accelerator="cpu", threads=1)
    except MienError as error:
        (recipe.parent / "error.txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)


def train_and_compare(parallel: Parallel, job: Job) -> dict[str, Any]:
    """Train in one of several processes; return what shows whether they agree."""
    training = Training(job, parallel)
    training.run()
    own = torch.cat([p.detach().flatten() for p in training.method.parameters()])
    first = own.clone()
    parallel.share([first])
    first_batch = training.sampler(0)["image"]
    other = first_batch.clone()
    parallel.share([other])

    # one gradient from both processes, one from the second only, one from neither
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimiser = optim.SGD(parameters, lr=1.0)
    loss = parameters[0].sum() * (parallel.rank + 1)
    if parallel.rank == 1:
        loss = loss + parameters[1].sum() * 3
    parallel.update(optimiser, loss, clip=0.0)
    return {
        "weights_differ": parallel.any(not torch.equal(own, first)),
        "batches_differ": parallel.any(not torch.equal(first_batch, other)),
        "moved": [p.tolist() for p in parameters],
        "untouched": parameters[2].grad is None,
    }
