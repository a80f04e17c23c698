"""Encoders and feed-forward edits as ONNX, compared with torch before the file is there."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mien import weights as shelf
from mien.edit.tasks import find_task
from mien.evaluate.onnx_model import CODES, PREPROCESSING
from mien.files.atomic import atomic_path
from mien.files.errors import ConfigError, MissingExtraError
from mien.methods.landmarks import LandmarkTraining

if TYPE_CHECKING:
    from mien.methods.base import Method

TOLERANCE = 1e-4
_OPSET = 17  # the first in which sampling by a flow and layer normalisation are both nodes
_BATCHES = (2, 1, 5)  # the first is traced, all are compared


@dataclass(frozen=True)
class Exported:
    """An ONNX file.

    Attributes:
        path: Where it is.
        outputs: Names of its outputs.
        difference: Largest absolute difference from torch that was measured.
    """

    path: Path
    outputs: tuple[str, ...]
    difference: float


def export(weights: str | Path, out: str | Path, task: str | None = None) -> Exported:
    """Write the encoder or an edit of a method as ONNX, for any number of pictures at a time.

    The file's inputs are float32 ``(B, 3, S, S)`` RGB in [-1, 1] (``images``, and ``drivers`` for
    an edit that needs them). An encoder gives ``(B, D)`` by factor, the landmark network what
    ``mien.faces.landmarks.LandmarkNet`` does (``points``, ``score``, ``pose``); an edit gives
    ``edited`` ``(B, 3, S, S)`` at full strength and, where something moves, ``flow``. The metadata
    says from which method and weights it is, their licence, and what pictures it wants.

    Args:
        weights: Shipped name or ``.safetensors`` file.
        out: File to write, ``*.onnx``.
        task: Edit to export (``mien.edit.tasks``); None: the encoder.

    Raises:
        ConfigError: ``out`` has another ending, the method has no codes or no such edit, it cannot
            be written as ONNX, or the file does not give what torch gives to 1e-4.
        WeightsError: No such weights, or a damaged file.
        MissingExtraError: No onnx or onnxruntime.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise ConfigError(f"The file is ONNX: name {out} *.onnx.")
    try:
        import onnx
        import onnxruntime  # noqa: F401  (the comparison needs it)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "onnx") from None
    card = shelf.card(weights)
    method = shelf.load(weights)
    size = int(getattr(method.config, "size", 64))
    network = _Encoder(method) if task is None else _Edit(method, task)
    count = 1 if task is None else network.inputs
    generator = torch.Generator().manual_seed(0)
    inputs = [
        tuple(torch.rand(b, 3, size, size, generator=generator) * 2 - 1 for _ in range(count))
        for b in _BATCHES
    ]
    with torch.inference_mode():
        try:
            expected = [network(*x) for x in inputs]
        except NotImplementedError:
            raise ConfigError(f"The method {method.name} has no codes to export.") from None
    names = network.names
    codes = () if task or isinstance(method, LandmarkTraining) else names
    with atomic_path(out) as temporary:
        _trace(network, inputs[0], temporary, ("images", "drivers")[:count], names)
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(
            model,
            {
                "mien.method": method.name,
                "mien.task": task or "encode",
                "mien.weights": Path(weights).stem,
                "mien.weights_sha256": str(card["sha256"]),
                "mien.licence": str(card.get("licence", "not stated")),
                CODES: json.dumps([n for n in names if n in codes]),
                PREPROCESSING: json.dumps(
                    {"size": size, "crop": "tight", "mean": 127.5, "std": 127.5, "channels": "rgb"}
                ),
            },
        )
        onnx.checker.check_model(model)
        temporary.write_bytes(model.SerializeToString())
        difference = _compare(temporary, inputs, expected)
    return Exported(out, names, difference)


class _Encoder(nn.Module):
    """``encode`` with its codes as a tuple, whose order ``names`` tells after a first call."""

    inputs = 1

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.names: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.method, LandmarkTraining):
            self.names = ("points", "score", "pose")
            return tuple(self.method.net(images))
        codes = self.method.encode(images)
        self.names = tuple(codes)
        return tuple(code.flatten(1) for code in codes.values())


class _Edit(nn.Module):
    """An edit at full strength with its images and flow as a tuple."""

    def __init__(self, method: Method, task: str) -> None:
        super().__init__()
        found = find_task(task, method)
        self.method = method
        self.inputs = 2 if found.driver else 1
        self.names: tuple[str, ...] = ()
        self._edit: Callable[..., Any] = getattr(method, found.function)

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        edit = self._edit(*images, strength=1.0)
        self.names = ("edited",) if edit.flow is None else ("edited", "flow")
        return (edit.images,) if edit.flow is None else (edit.images, edit.flow)


def _trace(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing warns of, the comparison finds
        try:
            torch.onnx.export(
                network,
                inputs,
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(input_names),
                output_names=list(names),
                dynamic_axes={name: {0: "batch"} for name in (*input_names, *names)},
            )
        except Exception as error:  # the exporter raises anything for a node it has no name for
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"This network cannot be written as ONNX: {reason}") from None


def _compare(
    path: Path, inputs: list[tuple[Tensor, ...]], expected: list[tuple[Tensor, ...]]
) -> float:
    """Return the largest difference between the file and torch, over batches of several sizes.

    Raises:
        ConfigError: It is larger than ``TOLERANCE``.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entries = [entry.name for entry in session.get_inputs()]
        worst = 0.0
        for x, wanted in zip(inputs, expected, strict=True):
            found = session.run(None, dict(zip(entries, (v.numpy() for v in x), strict=True)))
            for a, b in zip(found, wanted, strict=True):
                if a.shape != tuple(b.shape):
                    raise ConfigError(
                        f"The ONNX file gives {a.shape} where torch gives {tuple(b.shape)}."
                    )
                worst = max(worst, float(np.abs(a - b.numpy()).max()))
    except ConfigError:
        raise
    except Exception as error:  # onnxruntime's own exception classes are not public
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"The ONNX file does not run: {reason}") from None
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"The ONNX file differs from torch by {worst:.1e}, more than {TOLERANCE:.0e}; it was "
            "not written."
        )
    return worst
