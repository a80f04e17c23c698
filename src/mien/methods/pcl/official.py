"""Checkpoints of the official PCL release."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mien.files.errors import WeightsError
from mien.files.torch_file import read_torch_file
from mien.methods.pcl.method import PCL

# Our networks by the names that the release gives them, which come after its own "module.".
_NAMES = {"encoder": "backbone", "exp_fc": "mlp_f", "pose_fc": "mlp_p", "decoder": "decoder"}


def load_official(path: str | Path) -> PCL:
    """Load a checkpoint of the official pre-training, in evaluation mode.

    The release defines the same layers in the same order under other names. No code in the file is
    executed.

    Raises:
        WeightsError: The file cannot be read safely or lacks one of the networks.
    """
    method = PCL(
        PCL.Config(
            pose_negatives="official",
            batch_norm="official",
            output="official",
            noise_range="official",
            orthogonality_form="official",
            unused="official",
        )
    )
    state = read_torch_file(path)
    state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no tensors of PCL.")
    for theirs, ours in _NAMES.items():
        own = method.get_submodule(ours).state_dict()
        found = _under(theirs, state)
        if [t.shape for t in found] != [t.shape for t in own.values()]:
            raise WeightsError(f"{path} holds no network {theirs!r} of the shape of PCL's {ours}.")
        method.get_submodule(ours).load_state_dict(dict(zip(own, found, strict=True)))
    return method.eval()


def _under(name: str, state: dict[str, object]) -> list[Tensor]:
    """Return the tensors of a network, in the order of the file."""
    return [
        value
        for key, value in state.items()
        if key.removeprefix("module.").startswith(f"{name}.") and isinstance(value, torch.Tensor)
    ]
