"""Randomness that is a function of where a training stands."""

from __future__ import annotations

import numpy as np
import torch


def seed_torch(seed: int, rank: int, step: int) -> None:
    """Make torch's global generators a function of (seed, rank, step)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))
