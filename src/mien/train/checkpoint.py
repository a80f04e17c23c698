"""Checkpoints: a folder with safetensors and JSON that is renamed into place when whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim

from mien.files.atomic import sha256, sync_folder
from mien.files.errors import CheckpointError

KEEP = 2
VERSION = 1
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    Attributes:
        tensors: Named tensors: ``weights/…``, ``ema/…``, ``optimiser/…``.
        state: JSON values: step, recipe, data, clock, metrics under way, optimisers' numbers.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors under ``name/`` without that prefix."""
        start = f"{name}/"
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into ``folder`` and remove all but the newest two.

    Returns:
        The checkpoint's own folder, ``folder/step_00001000``.

    Raises:
        CheckpointError: It cannot be written (full disk …); earlier ones are intact.
    """
    from safetensors.torch import save_file

    target = folder / _name(step)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=folder))
        try:
            save_file(checkpoint.tensors, temporary / _TENSORS)
            state = {
                **checkpoint.state,
                "version": VERSION,
                "step": step,
                "sha256": sha256(temporary / _TENSORS),
            }
            (temporary / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            for file in temporary.iterdir():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
            sync_folder(temporary)
            temporary.chmod(0o755)
            if target.exists():  # a damaged one, else this step would not have been run again
                _remove(target)
            temporary.rename(target)
            sync_folder(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in checkpoints(folder)[:-KEEP]:
            _remove(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.is_dir())


def load_newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest checkpoint that is whole.

    Args:
        folder: Folder of checkpoints.
        warn: Told about every damaged one.

    Returns:
        None if there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return _load(path)
        except CheckpointError as error:
            warn(str(error))
    if found:
        raise CheckpointError(
            f"All checkpoints in {folder} are damaged; train again into another folder."
        )
    return None


def clean(run: Path, after: int | None) -> None:
    """Remove what a killed process left half written, and checkpoints later than ``after``."""
    folder = run / "checkpoints"
    for path in folder.glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)
    # ".tmp…" is what safetensors writes before it renames.
    for path in [*run.glob(".*.tmp"), *run.glob("previews/.*.tmp"), *run.glob(".tmp*")]:
        path.unlink(missing_ok=True)
    for path in checkpoints(folder):
        if after is not None and path.name > _name(after):
            _remove(path)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write below ``path`` into a CheckpointError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(
            f"Cannot write into {path}: {reason}. Make room or mend the folder, then go on with "
            "--resume; earlier checkpoints are intact."
        ) from error


def pack_optimiser(optimiser: optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors and JSON values, both by ``index/key``."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = stored(value)
            else:
                values[f"{index}/{key}"] = value
    return tensors, values


def unpack_optimiser(
    optimiser: optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    """Give an optimiser the state that ``pack_optimiser`` took."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | values).items():
        index, _, key = name.partition("/")
        if isinstance(value, Tensor) and value.shape == parameters[int(index)].shape:
            # Fused kernels walk memory: the state must lie there in the parameter's order.
            value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def stored(value: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU that shares memory with nothing."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _load(path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or sha256(path / _TENSORS) != state.get("sha256"):
            raise CheckpointError(f"The checkpoint {path} is damaged; an older one is used.")
        tensors = load_file(path / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {path} is damaged ({error}); an older one is used."
        ) from None
    if state["version"] != VERSION:
        raise CheckpointError(
            f"The checkpoint {path} was written by another version of mien; an older one is used."
        )
    return Checkpoint(tensors, state)


def _remove(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that half of one is never taken for a whole."""
    hidden = path.with_name(f".{path.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
