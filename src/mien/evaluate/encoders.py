"""Anything that turns face crops into vectors, under one name: ``encoder(spec)``.

Specs (options are appended as ``,name=value``):

- ``NAME`` or ``FILE.safetensors``: shipped or own weights. ``@expression``, ``@identity`` … pick a
  code, ``@features`` the convolutional features of the factor that the task asks for,
  ``@identity-features`` those of another; ``+`` joins several. Options ``size`` and ``stage``
  (features of an earlier stage of the network, from 1).
- ``untrained:NAME``: the same networks freshly initialised. Options ``size``, ``stage``,
  ``seed``.
- ``hog`` (``size``, ``cell``), ``lbp`` (``size``, ``patch``), ``pixels`` (``size``).
- ``onnx:FILE``: an ONNX model, which gets ``(pixel - mean) / std``. Options ``size``, ``mean``
  and ``std`` (127.5), ``channels`` (rgb or bgr), ``output``; the defaults of
  a file of ``mien export`` are in it. A model for one picture at a time gets
  whole batches where that gives the same.
- ``dlib:FILE``: dlib's face recognition network. Option ``size``.

Every spec takes ``pca=N``: the linear probe works on the first N principal components of its
training pictures.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mien.evaluate.descriptors import grey, hog, lbp
from mien.evaluate.onnx_model import OnnxModel
from mien.faces.align import warp
from mien.faces.face import Array, Image
from mien.files.atomic import sha256
from mien.files.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method

_OPTION = re.compile(r"^(.*),([a-z]+)=([^,]*)$")
_FEATURES = "features"
_PREFIXES = ("onnx:", "dlib:", "untrained:")
# A chip of dlib (150 px, padding 0.25) → ``tight`` crop of 112 px. Measured: the mean of what dlib
# makes of the 68 landmarks of crops, whose scale varies by 3 % and whose place by 1.7 px.
_CHIP = 150
_CHIP_TO_TIGHT = np.array([[0.669, 0.0, 6.46], [0.0, 0.669, 22.0]])
_DESCRIPTORS = 1  # raised when a descriptor's numbers change, so that no cache is stale


@dataclass(frozen=True, eq=False)
class Encoder:
    """A callable from uint8 crops ``(B, S, S, 3)`` RGB to float32 ``(B, D)``.

    Attributes:
        name: The spec it was built from.
        key: Content hash that identifies it for the cache; empty: never cached.
        input_size: Side S that it wants.
        function: The work; anything ``(B, S, S, 3)`` → ``(B, D)``.
        pca: Principal components that a probe fits on its training pictures; 0: none.
        seen: Words that its card calls the data of its weights by (``datasets``), those of earlier
            stages included.
        images_seen: Images that its training saw, those of earlier stages included; 0: none known.
    """

    name: str
    key: str
    input_size: int
    function: Callable[[Image], Any]
    pca: int = 0
    seen: tuple[str, ...] = ()
    images_seen: int = 0

    def __call__(self, crops: Image) -> Array:
        """Embed one batch.

        Raises:
            ConfigError: What came out is not one finite vector a crop.
        """
        out = np.asarray(self.function(crops), np.float32)
        if out.ndim != 2 or len(out) != len(crops):
            raise ConfigError(
                f"The encoder {self.name} returned {out.shape} for {len(crops)} crops; "
                "it must return one vector each."
            )
        if not np.isfinite(out).all():
            raise ConfigError(f"The encoder {self.name} returned values that are not finite.")
        return out


def encoder(spec: str | Encoder | Callable[[Image], Any], factor: str = "expression") -> Encoder:
    """Build an encoder.

    Args:
        spec: See the module's text; or a callable from uint8 ``(B, S, S, 3)`` to ``(B, D)``, with S
            its attribute ``input_size`` (64 if it has none).
        factor: Factor that the task is about, where the spec leaves it open.

    Raises:
        ConfigError: Unknown option, code or value.
        WeightsError: No such weights.
        MissingExtraError: ONNX without onnxruntime.
    """
    if isinstance(spec, Encoder):
        return spec
    if not isinstance(spec, str):
        name = getattr(spec, "__name__", type(spec).__name__)
        return Encoder(name, "", int(getattr(spec, "input_size", 64)), spec)
    options = _Options(spec)
    pca = options.integer("pca", 256 if options.head == "pixels" else 0, low=0)
    if options.head in _HAND_MADE:
        made = _HAND_MADE[options.head](options)
    elif options.head.startswith("onnx:"):
        made = _onnx(options)
    elif options.head.startswith("dlib:"):
        made = _dlib(options)
    else:
        made = _weights(options, factor)
    options.check_all_used()
    return replace(made, name=spec, pca=pca)


def is_weights(spec: str) -> bool:
    """Tell whether a spec is the bare name or file of weights, without a code or option."""
    options = _Options(spec)
    made_here = options.head in _HAND_MADE or options.head.startswith(_PREFIXES)
    return not (made_here or options.values or "@" in options.head)


def code_sizes(spec: str) -> dict[str, int]:
    """Return code → length of the weights that a spec names whole; none for any other encoder.

    Raises:
        WeightsError: No such weights.
    """
    head = _Options(spec).head
    if head in _HAND_MADE or head.startswith(("onnx:", "dlib:")) or "@" in head:
        return {}
    from mien import weights

    method = weights.build(weights.card(head.removeprefix("untrained:")))
    native = int(getattr(method.config, "size", 64))
    with torch.inference_mode():
        try:
            codes = method.encode(torch.zeros(1, 3, native, native))
        except NotImplementedError:
            return {}
    return {name: code.flatten(1).shape[1] for name, code in codes.items()}


def with_code(spec: str, name: str) -> str:
    """Return the spec of a code of weights (or of several, joined by ``+``), its options kept."""
    head = _Options(spec).head
    return f"{head}@{name}{spec.removeprefix(head)}"


class _Options:
    """``head,name=value,…`` taken apart."""

    def __init__(self, spec: str) -> None:
        self.spec, self.head = spec, spec
        self.values: dict[str, str] = {}
        self.known: set[str] = set()
        while match := _OPTION.match(self.head):
            self.head = match[1]
            self.values.setdefault(match[2], match[3])

    def text(self, name: str, default: str) -> str:
        self.known.add(name)
        return self.values.get(name, default)

    def integer(self, name: str, default: int, low: int = 1, high: int = 4096) -> int:
        value = self.number(name, default)
        if value != int(value) or not low <= value <= high:
            raise ConfigError(f"{name} in {self.spec} must be a whole number from {low} to {high}.")
        return int(value)

    def number(self, name: str, default: float) -> float:
        text = self.text(name, str(default))
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{name} in {self.spec} is a number, not {text!r}.") from None

    def check_all_used(self) -> None:
        for name in self.values:
            if name not in self.known:
                raise ConfigError(f"{self.spec} has no option {name!r}{nearest(name, self.known)}")


def _hog(options: _Options) -> Encoder:
    cell = options.integer("cell", 8, low=2)
    size = options.integer("size", 64, low=2 * cell)
    key = f"hog/{cell}/{_DESCRIPTORS}"
    return Encoder("hog", key, size, lambda crops: hog(crops, cell))


def _lbp(options: _Options) -> Encoder:
    size = options.integer("size", 64, low=8)
    patch = options.integer("patch", size // 4 if size < 100 else size // 5, low=4, high=size)
    key = f"lbp/{patch}/{_DESCRIPTORS}"
    return Encoder("lbp", key, size, lambda crops: lbp(crops, patch))


def _pixels(options: _Options) -> Encoder:
    size = options.integer("size", 48, low=4)
    key = f"pixels/{_DESCRIPTORS}"
    return Encoder("pixels", key, size, lambda crops: grey(crops).flatten(1).numpy() / 255)


_HAND_MADE = {"hog": _hog, "lbp": _lbp, "pixels": _pixels}


def _weights(options: _Options, factor: str) -> Encoder:
    from mien import weights

    name, _, which = options.head.partition("@")
    if name.startswith("untrained:"):
        card = weights.card(name.removeprefix("untrained:"))
        seed = options.integer("seed", 0, low=0, high=2**31)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method = weights.build(card)
        seen: tuple[str, ...] = ()
        budget = 0
    else:
        card = weights.card(name)
        method = weights.load(name)
        stages = [card, *card.get("earlier_stages", [])]
        seen = datasets([stage.get("data") for stage in stages])
        budget = sum(int(stage.get("images_seen", 0)) for stage in stages)
    native = int(getattr(method.config, "size", 64))
    size = options.integer("size", native, low=16)
    method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = _parts(method, which, factor, native, options.spec)
    stage = options.integer("stage", 0, low=0)
    if stage and not all(part.endswith(_FEATURES) for part in parts):
        raise ConfigError(f"stage is an option of features, and {options.spec} is a code.")
    if stage and "stage" not in inspect.signature(getattr(method, _FEATURES)).parameters:
        raise ConfigError(f"{method.name} has features of one stage; leave stage out.")

    def run(crops: Image) -> Array:
        images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            out = _codes(method, images.float().div_(127.5).sub_(1.0), parts, stage)
        return out.float().numpy()

    key = _method_key(method, parts, stage)
    return Encoder(name, key, size, run, seen=seen, images_seen=budget)


def _parts(method: Method, which: str, factor: str, native: int, spec: str) -> tuple[str, ...]:
    """Return what to compute, e.g. ``("expression-features",)``, checked against the method."""
    with torch.inference_mode():
        try:
            factors = list(method.encode(torch.zeros(1, 3, native, native)))
        except NotImplementedError:
            factors = []
    has_features = callable(getattr(method, _FEATURES, None))
    own = factor if factor in factors else (factors or [factor])[0]
    choices = [*factors]
    if has_features:
        choices += [f"{f}-{_FEATURES}" for f in factors or [own]]
    if not choices:
        raise ConfigError(f"The method {method.name} of {spec} has no codes to evaluate.")
    if not which:
        which = f"{own}-{_FEATURES}" if has_features else own
    parts = tuple(f"{own}-{_FEATURES}" if p == _FEATURES else p for p in which.split("+"))
    for part in parts:
        if part not in choices:
            raise ConfigError(f"{spec} asks for {part!r}{nearest(part, choices)}")
    return parts


def _codes(method: Any, images: Tensor, parts: tuple[str, ...], stage: int) -> Tensor:
    """Return the concatenated codes and features ``(B, D)``."""
    out = []
    codes = None
    for part in parts:
        factor = part.removesuffix(f"-{_FEATURES}")
        if factor == part:
            codes = codes or method.encode(images)
            out.append(codes[factor])
            continue
        out.append(method.features(images, factor, **({"stage": stage} if stage else {})))
    return torch.cat([o.flatten(1) for o in out], 1)


def _method_key(method: Method, parts: tuple[str, ...], stage: int) -> str:
    """Return a hash over class, configuration, parts and every tensor."""
    digest = hashlib.sha256(repr((method.name, method.config, method.stage, parts, stage)).encode())
    for name, value in sorted(method.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def datasets(value: Any) -> tuple[str, ...]:
    """Return the words, in lower case, that the ``data`` field of a card calls data sets by.

    The field is a name, a list of names, or a list of mappings: ``dataset``, ``name`` and ``table``
    are names, ``datasets`` and ``licences`` map names to counts; ``lfw_tight`` names ``lfw``.
    """
    if isinstance(value, str):
        return tuple(sorted(set(re.findall(r"[a-z0-9]+", value.lower()))))
    if isinstance(value, dict):
        value = [
            *(value[k] for k in ("dataset", "name", "table") if k in value),
            *(name for k in ("datasets", "licences") for name in value.get(k, ())),
        ]
    if isinstance(value, list):
        return tuple(sorted({word for item in value for word in datasets(item)}))
    return ()


def onnx_codes(spec: str) -> tuple[Encoder, Callable[[Image], dict[str, Array]]]:
    """Return an ``onnx:`` encoder and what computes all codes that its file names, in one run.

    A file of ``mien export`` names its codes by factor; of any other, the output that the spec
    asks for (by default the first) is called ``embedding``.

    Raises:
        ConfigError: As for ``encoder``.
    """
    options = _Options(spec)
    options.integer("pca", 0, low=0)
    model, arguments, output, made = _onnx_parts(options)
    options.check_all_used()
    names = {n: n for n in model.codes} if "output" not in options.values else {}
    names = names or {output: "embedding"}

    def run(crops: Image) -> dict[str, Array]:
        return {names[k]: v for k, v in model(crops, list(names), *arguments).items()}

    return replace(made, name=spec), run


def _onnx(options: _Options) -> Encoder:
    return _onnx_parts(options)[3]


def _onnx_parts(
    options: _Options,
) -> tuple[OnnxModel, tuple[float, float, str], str, Encoder]:
    """Return the model, how it gets its pictures, its output and the encoder of that."""
    model = OnnxModel(Path(options.head.removeprefix("onnx:")))
    own = model.preprocessing
    size = options.integer("size", model.size or 112)
    mean = options.number("mean", own.get("mean", 127.5))
    std = options.number("std", own.get("std", 127.5))
    if std == 0:
        raise ConfigError(f"std in {options.spec} must not be 0.")
    channels = options.text("channels", own.get("channels", "rgb"))
    if channels not in ("rgb", "bgr"):
        raise ConfigError(f"channels in {options.spec} is rgb or bgr, not {channels!r}.")
    output = options.text("output", model.outputs[0])
    if output not in model.outputs:
        raise ConfigError(f"{model.file} has no output {output!r}{nearest(output, model.outputs)}")

    def run(crops: Image) -> Array:
        return model(crops, [output], mean, std, channels)[output]

    recipe = json.dumps([sha256(model.file), mean, std, channels, output])
    key = hashlib.sha256(recipe.encode()).hexdigest()
    return model, (mean, std, channels), output, Encoder("onnx", key, size, run)


def dlib_chips(crops: Image) -> Image:
    """Cut the chips that dlib's face recognition takes out of ``tight`` crops.

    Args:
        crops: uint8 ``(B, S, S, 3)``.

    Returns:
        uint8 ``(B, 150, 150, 3)``. A chip reaches over the lower edge of the crop by a tenth of its
            side; what lies there, the chin's lower end, is unknown and is the crop's mirror image.
    """
    share = crops.shape[1] / 112
    matrix = _CHIP_TO_TIGHT * share
    matrix[:, 2] += (share - 1) / 2  # an integer is the centre of a pixel
    return np.stack([warp(crop, matrix, (_CHIP, _CHIP), "reflect", enlarge="cubic")
                     for crop in crops])  # fmt: skip


def _dlib(options: _Options) -> Encoder:
    """Return dlib's 128 numbers of a face; chips are cut as ``dlib_chips`` says."""
    import dlib

    file = Path(options.head.removeprefix("dlib:"))
    if not file.is_file():
        raise ConfigError(
            f"No file {file}; write dlib:PATH of dlib_face_recognition_resnet_model_v1.dat, which "
            "http://dlib.net/files/ and the package face_recognition_models on PyPI hold."
        )
    try:
        network = dlib.face_recognition_model_v1(str(file))
    except Exception as error:  # dlib's serialization_error is not exported
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file} is not dlib's face recognition network: {reason}") from None

    def run(crops: Image) -> Array:
        return np.array(network.compute_face_descriptor(list(dlib_chips(crops))), np.float32)

    key = hashlib.sha256(f"{sha256(file)}/{_CHIP_TO_TIGHT.tolist()}".encode()).hexdigest()
    return Encoder("dlib", key, options.integer("size", 112, low=16), run)
