"""Checkpoints of the official FaceCycle release.

The release names its tensors otherwise than we do, but defines the same layers in the same order:
each of its networks is recognised by the sequence of its tensors' shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.files.errors import WeightsError
from mien.files.torch_file import read_torch_file
from mien.methods.facecycle.method import FaceCycle


def load_official(motion: str | Path, identity: str | Path | None = None) -> FaceCycle:
    """Load the official stage-1 and, if given, stage-2 checkpoint, in evaluation mode.

    Args:
        motion: Holds E_exp, FlowDec and G.
        identity: Holds E_id and N. Without it the result has the stage ``motion`` only.

    Raises:
        WeightsError: A file cannot be read safely or lacks one of the networks.
    """
    config = FaceCycle.Config(
        margin="official", ssim_space="official", mean_face="official", perceptual="none"
    )
    method = FaceCycle(config, "identity" if identity else "motion")
    _fill(Path(motion), {"E_exp": method.e_exp, "FlowDec": method.flow, "G": method.g})
    if identity:
        _fill(Path(identity), {"E_id": method.e_id, "N": method.n})
    return method.eval()


def _fill(path: Path, networks: dict[str, nn.Module]) -> None:
    groups = list(_groups(read_torch_file(path)))
    for name, network in networks.items():
        own = network.state_dict()
        shapes = [tuple(t.shape) for t in own.values()]
        for group in groups:
            if [tuple(t.shape) for t in group] == shapes:
                network.load_state_dict(dict(zip(own, group, strict=True)))
                break
        else:
            raise WeightsError(f"{path} holds no network of the shape of FaceCycle's {name}.")


def _groups(state: dict[str, Any]) -> Iterator[list[Tensor]]:
    """Yield every dictionary of tensors, at any depth, in the order of its keys."""
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    if tensors:
        yield tensors
    for value in state.values():
        if isinstance(value, dict):
            yield from _groups(value)
