"""Statistics of batch normalisation that belong to averaged weights.

The running statistics are those of the weights as they moved through the training; an average of
weights has others, and where features vary little beside their mean (PCL's decoder), the
difference makes nonsense of everything behind. As ``torch.optim.swa_utils.update_bn``, but with the
pictures that the training shows, whatever a method makes of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mien.train.seed import seed_torch

if TYPE_CHECKING:
    from mien.methods.base import Batch, Method


@torch.no_grad()
def refreshed_statistics(method: Method, batches: Iterable[Batch], seed: int) -> dict[str, Tensor]:
    """Return the running means and variances that ``method`` has for its weights as they are.

    The method itself is left as it was.

    Args:
        method: Its steps are run without an update.
        batches: Of its sampler; all count the same.
        seed: Of what the steps draw.

    Returns:
        Name in the state of the method → tensor, for every layer that trains; empty without one.
    """
    training = method.training
    method.train()
    # Those of frozen networks, which a method keeps in evaluation mode, stay what they are.
    layers = {n: m for n, m in method.named_modules() if isinstance(m, _BatchNorm) and m.training}
    if not layers:
        method.train(training)
        return {}
    before = {name: value.clone() for name, value in method.state_dict().items()}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all that follow
    for number, batch in enumerate(batches):
        seed_torch(seed, 0, number)
        method.step(batch, lambda name, loss: None)
    found = {
        f"{name}.{kind}": getattr(layer, kind).clone()
        for name, layer in layers.items()
        for kind in ("running_mean", "running_var")
    }
    for name, layer in layers.items():
        layer.momentum = momenta[name]
    method.load_state_dict(before)
    method.train(training)
    return found
