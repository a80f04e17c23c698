"""An ONNX model of pictures, run by onnxruntime on batches of any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.faces.face import Array, Image
from mien.files.errors import ConfigError, MissingExtraError

PREPROCESSING = "mien.preprocessing"  # metadata: JSON with size, mean, std, channels and crop
CODES = "mien.codes"  # metadata: JSON list of the outputs that are codes, named by factor
_CHECKED = 3  # pictures in the batch that is compared with single ones
_TOLERANCE = 1e-5  # of the largest output


class OnnxModel:
    """A model with one input of four dimensions.

    Attributes:
        file: Its file.
        size: Side of the pictures that it wants; None where it takes any.
        outputs: Names of its outputs.
        metadata: What the file says about itself.
        preprocessing: Of the file's metadata, where ``mien export`` wrote it.
        codes: Outputs that are codes by factor, as ``mien export`` names them.

    Raises:
        ConfigError: No such file, or no such model.
        MissingExtraError: No onnxruntime.
    """

    def __init__(self, file: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx") from None

        self.file = file
        if not file.is_file():
            raise ConfigError(f"No ONNX file {file}; write onnx:PATH.")
        settings = onnxruntime.SessionOptions()
        # Threads that wait sleep: spinning would take the cores from whatever else runs here.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exception classes are not public
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{file} is not a usable ONNX model: {reason}") from None
        first = self._session.get_inputs()[0]
        shape = list(first.shape)
        if len(shape) != 4 or len(self._session.get_inputs()) != 1:
            raise ConfigError(f"{file} must have one input of four dimensions, not {shape}.")
        self._input = first.name
        self._last = shape[3] == 3 and shape[1] != 3  # (B, H, W, 3)
        side = shape[1] if self._last else shape[2]
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]
        self.metadata: dict[str, str] = dict(
            self._session.get_modelmeta().custom_metadata_map or {}
        )
        self.preprocessing: dict[str, Any] = _json(self.metadata.get(PREPROCESSING), {})
        self.codes = [n for n in _json(self.metadata.get(CODES), []) if n in self.outputs]
        self.size: int | None = (
            side if isinstance(side, int) else self.preprocessing.get("size", None)
        )
        self._fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0
        if self._fixed == 1 and (free := free_batch(file, settings)) is not None:
            self._session, self._fixed = free, 0

    def __call__(
        self, crops: Image, outputs: Sequence[str], mean: float, std: float, channels: str
    ) -> dict[str, Array]:
        """Run the model.

        Args:
            crops: uint8 ``(B, S, S, 3)`` RGB.
            outputs: Which of its outputs.
            mean: The model gets ``(pixel - mean) / std``.
            std: See ``mean``.
            channels: ``rgb`` or ``bgr``.

        Returns:
            Output → ``(B, D)``.
        """
        x = (crops[..., ::-1] if channels == "bgr" else crops).astype(np.float32)
        x = (x - np.float32(mean)) / np.float32(std)
        x = np.ascontiguousarray(x if self._last else x.transpose(0, 3, 1, 2))
        step = self._fixed or len(x)
        found: dict[str, list[Array]] = {name: [] for name in outputs}
        for start in range(0, len(x), step):
            part = x[start : start + step]
            if len(part) < step:
                part = np.concatenate([part, np.zeros((step - len(part), *x.shape[1:]), x.dtype)])
            values = self._session.run(list(outputs), {self._input: part})
            count = min(step, len(x) - start)
            for name, value in zip(outputs, values, strict=True):
                found[name].append(np.asarray(value)[:count].reshape(count, -1))
        return {name: np.concatenate(values) for name, values in found.items()}


def _json(text: str | None, empty: Any) -> Any:
    """Return what ``text`` holds, or ``empty`` where it is absent or of another kind."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return empty
    return value if isinstance(value, type(empty)) else empty


def free_batch(file: Path, options: Any) -> Any | None:
    """Return a session whose batch is of any size, or None where that is not possible exactly.

    The first dimension of input and outputs is named instead of 1, and a reshape to ``(1, ...)``
    keeps the first dimension of what it reshapes. Whether the model then treats every picture by
    itself is measured: a batch must give what its pictures give one by one.

    Args:
        file: A model that takes one picture at a time.
        options: ``onnxruntime.SessionOptions``.
    """
    try:
        import onnx
    except ImportError:
        return None
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    try:
        model = onnx.load(str(file))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        del model.graph.value_info[:]  # shapes of one picture
        _free_reshapes(model)
        free = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        single = onnxruntime.InferenceSession(str(file), options, providers=providers)
        entry = free.get_inputs()[0]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((_CHECKED, *entry.shape[1:])).astype(np.float32)
        batch = free.run(None, {entry.name: x})
        ones = [single.run(None, {entry.name: x[i : i + 1]}) for i in range(_CHECKED)]
    except Exception:  # neither package makes its exception classes public
        return None
    for k, values in enumerate(batch):
        expected = np.concatenate([one[k] for one in ones])
        allowed = _TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
        if values.shape != expected.shape or not np.abs(values - expected).max() <= allowed:
            return None
    return free


def _free_reshapes(model: Any) -> None:
    """Let reshapes to ``(1, ...)`` copy their first dimension (0 in ONNX) from their input."""
    from onnx import numpy_helper

    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    tensors = [t for t in model.graph.initializer if t.name in shapes]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            tensors += [a.t for a in node.attribute if a.name == "value"]
    for tensor in tensors:
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and len(shape) and shape[0] == 1:
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
