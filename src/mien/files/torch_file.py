"""Checkpoint files of other projects (``torch.save``), read without executing code in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from mien.files.errors import WeightsError


def read_torch_file(path: str | Path, plain: Sequence[type] = ()) -> dict[str, Any]:
    """Read a dictionary of tensors and plain values.

    Args:
        path: The file.
        plain: Classes that only hold attributes and may be in the file too.

    Raises:
        WeightsError: No such file, not such a file, or it asks for anything but tensors.
    """
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(plain)):
            warnings.simplefilter(
                "ignore"
            )  # of other pickle protocols; what is unreadable is refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise WeightsError(
            f"{path} was refused: it holds something that is no tensor and could execute code. "
            "Ask its author for a safetensors file."
        ) from None
    except Exception as error:  # of a damaged stream the unpickler raises anything
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint that can be read: {error}"
        ) from None
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors.")
    return state
