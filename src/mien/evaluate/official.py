"""The probes of the publications, as their code trains them, on cached embeddings.

They stand beside the closed-form and L-BFGS probes for comparison with published figures. Two
things differ from the publications, because the embeddings are computed once: FaceCycle augments
the training pictures of its expression probe, and PCL crops and zooms the test pictures of its pose
probe at random (the phases are swapped in its code); here neither is done.

Sources: the papers' repositories (FaceCycle ``14509c9``, PCL ``6e71d41``). FaceCycle calls its pose
regressor "linear regression" and publishes no code of it: the closed form stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from mien.faces.face import Array

PROTOCOLS = ("mien", "facecycle", "pcl")

Measure = Callable[[Array], float]  # predictions on the test pictures → higher is better


@dataclass(frozen=True)
class Recipe:
    """How a publication trains a linear layer.

    Attributes:
        words: In a sentence, for the report.
        optimiser: Which one.
        learning_rate: At the start.
        weight_decay: As the optimiser takes it.
        schedule: ``cosine`` to zero, a tenth every 80 epochs (``steps``), or ``constant``.
        batch_size: Pictures in a step.
        shuffle: Whether the training pictures are shuffled.
        batch_norm: Whether a BatchNorm1d stands before the linear layer.
        loss: What is minimised.
        best_test_epoch: Report the epoch that does best on test, not the last one.
        epochs: Passes over the training pictures.
    """

    words: str
    optimiser: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "steps", "constant"]
    batch_size: int
    shuffle: bool
    batch_norm: bool
    loss: Literal["classes", "labels", "numbers"]
    best_test_epoch: bool
    epochs: int = 300


EXPRESSION = {
    "facecycle": Recipe(
        words="SGD, learning rate 30, a tenth every 80 of 300 epochs, last epoch; raw features",
        optimiser="sgd",
        learning_rate=30.0,
        weight_decay=1e-4,
        schedule="steps",
        batch_size=256,
        shuffle=True,
        batch_norm=False,
        loss="classes",
        best_test_epoch=False,
    ),
    "pcl": Recipe(
        words="Adam, learning rate 0.01, cosine over 300 epochs, not shuffled, best test epoch; "
        "raw features",
        optimiser="adam",
        learning_rate=1e-2,
        weight_decay=0.0,
        schedule="cosine",
        batch_size=256,
        shuffle=False,
        batch_norm=False,
        loss="classes",
        best_test_epoch=True,
    ),
}
POSE = Recipe(
    words="BatchNorm and linear layer, AdamW, learning rate 0.001, L1, 300 epochs, best test epoch",
    optimiser="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    schedule="constant",
    batch_size=128,
    shuffle=True,
    batch_norm=True,
    loss="numbers",
    best_test_epoch=True,
)
# Learning rate and epochs are not in the code that could be found; the threshold is.
ACTION_UNITS = Recipe(
    words="BatchNorm and linear layer, Adam, cosine over 100 epochs, best test epoch, probability "
    "over 0.0005 counts as present",
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=0.0,
    schedule="cosine",
    batch_size=256,
    shuffle=True,
    batch_norm=True,
    loss="labels",
    best_test_epoch=True,
    epochs=100,
)
ACTION_UNIT_THRESHOLD = 0.0005


@dataclass(frozen=True, eq=False)
class Trained:
    """What a recipe gave.

    Attributes:
        predictions: ``(M, C)`` of the test pictures at the epoch that counts.
        epoch: That epoch, from 1.
        curve: Measure on test after every epoch.
    """

    predictions: Array
    epoch: int
    curve: list[float]


def train_recipe(
    recipe: Recipe,
    features: NDArray[Any],
    targets: NDArray[Any],
    test_features: NDArray[Any],
    measure: Measure,
    *,
    outputs: int,
    seed: int = 0,
    progress: bool = True,
) -> Trained:
    """Train the linear layer of a publication.

    Args:
        recipe: How.
        features: ``(N, D)``.
        targets: ``(N,)`` class numbers, ``(N, C)`` labels of 0, 1 and NaN, or ``(N, C)`` numbers.
        test_features: ``(M, D)``.
        measure: Of predictions on the test pictures, higher is better.
        outputs: Number of classes, labels or numbers C.
        seed: Seed of the initial weights and the order.
        progress: Show a progress bar.
    """
    x, z = (torch.from_numpy(f.astype(np.float32)) for f in (features, test_features))
    y = torch.from_numpy(targets if recipe.loss == "classes" else targets.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(x.shape[1], outputs)
        if recipe.optimiser == "sgd":
            nn.init.kaiming_uniform_(linear.weight)
        elif recipe.loss == "classes":
            nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        head = nn.Sequential(nn.BatchNorm1d(x.shape[1]), linear) if recipe.batch_norm else linear
        optimiser = _optimiser(recipe, head)
        scheduler = _schedule(recipe, optimiser)
        curve: list[float] = []
        kept, epoch = np.empty(0, np.float32), 0
        for number in tqdm(range(recipe.epochs), desc="epochs", disable=not progress, leave=False):
            head.train()
            order = torch.randperm(len(x)) if recipe.shuffle else torch.arange(len(x))
            for rows in torch.split(order, recipe.batch_size):
                if recipe.batch_norm and len(rows) == 1:
                    continue  # it has no variance
                optimiser.zero_grad()
                _loss(recipe, head(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            scheduler.step()
            head.eval()
            with torch.inference_mode():
                predictions = head(z).numpy().copy()
            curve.append(measure(predictions))
            if not recipe.best_test_epoch or curve[-1] == max(curve):
                kept, epoch = predictions, number + 1
    return Trained(kept, epoch, curve)


def _loss(recipe: Recipe, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if recipe.loss == "classes":
        return nn.functional.cross_entropy(out, target)
    if recipe.loss == "numbers":
        return nn.functional.l1_loss(out, target)
    known = ~target.isnan()
    return nn.functional.binary_cross_entropy_with_logits(out[known], target[known])


def _optimiser(recipe: Recipe, head: nn.Module) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(head.parameters(), rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(head.parameters(), rate, weight_decay=decay)


def _schedule(
    recipe: Recipe, optimiser: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    step = 80 if recipe.schedule == "steps" else recipe.epochs + 1
    return torch.optim.lr_scheduler.StepLR(optimiser, step, gamma=0.1)
