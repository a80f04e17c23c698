"""Networks in pickles of NVIDIA's StyleGAN releases, read without executing anything in them.

Such a pickle holds Python source and asks for it to be run. Here the stream is only parsed: the
opcodes are those that ``pickletools`` lists, and our own small machine builds plain values from
them. A name that the stream asks for is looked up in ``_KNOWN``, where every entry is code of this
file that builds a container, a tensor, or an inert note of the arguments; any other is refused.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.files.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_MODULES = 10_000  # at most
_NETWORK = "torch_utils.persistence._reconstruct_persistent_obj"


@dataclass(eq=False)
class Note:
    """Something that would have been built by foreign code.

    Attributes:
        name: What the stream asked for, ``module.name``.
        arguments: What it would have been called with.
        state: What it would have been given afterwards.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A network of the file.

    Attributes:
        kind: Name of its class.
        arguments: Keyword arguments that it was made with.
        tensors: Parameters and buffers by dotted name.
    """

    kind: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read_network_pickle(path: str | Path) -> dict[str, StoredNetwork]:
    """Return the networks of a file by name, such as ``G_ema`` and ``D``.

    Raises:
        WeightsError: No such file, not such a file, or one that asks for anything else than
            networks, tensors and plain values.
    """
    path = Path(path)
    try:
        value = _Machine(path).run()
    except FileNotFoundError:
        raise WeightsError(f"No file {path}.") from None
    except (
        *(OSError, ValueError, TypeError, IndexError, KeyError, AttributeError),
        *(OverflowError, RuntimeError, MemoryError),
    ) as error:  # of a damaged stream
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path} is not a pickle of networks that can be read: {reason}"
        ) from None
    if isinstance(value, tuple) and value and isinstance(value[0], Note):
        raise WeightsError(
            f"{path} is a pickle of TensorFlow networks; convert it by NVIDIA's legacy.py first."
        )
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds a {type(value).__name__}, not networks by name.")
    found = {}
    for name, one in value.items():
        state = _state(one)
        if state is not None:
            notes = one.arguments[0] if one.name == _NETWORK else {}
            made_with = state.get("_init_kwargs")
            found[str(name)] = StoredNetwork(
                str(notes.get("class_name", "")),
                made_with if isinstance(made_with, dict) else {},
                _tensors(path, state),
            )
    if not found:
        raise WeightsError(f"{path} holds no network.")
    return found


def _state(value: Any) -> dict[str, Any] | None:
    """Return the attributes of a network or container of networks; None of anything else."""
    if not isinstance(value, Note):
        return None
    state = value.state
    if value.name == _NETWORK and value.arguments and isinstance(value.arguments[0], dict):
        state = value.arguments[0].get("state")
    return state if isinstance(state, dict) and "_parameters" in state else None


def _tensors(path: Path, network: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a network and of those in it by dotted name."""
    from torch import Tensor

    found: dict[str, Tensor] = {}
    left, seen = [("", network)], 0
    while left:
        start, state = left.pop()
        seen += 1
        if seen > _MODULES:  # a few that contain one another look like endlessly many
            raise WeightsError(f"{path} holds more than {_MODULES} networks within networks.")
        for group in ("_parameters", "_buffers"):
            own = state.get(group)
            for name, value in (own if isinstance(own, dict) else {}).items():
                if isinstance(value, Tensor):
                    found[f"{start}{name}"] = value
        inner = state.get("_modules")
        for name, value in (inner if isinstance(inner, dict) else {}).items():
            below = _state(value)
            if below is not None:
                left.append((f"{start}{name}.", below))
    return found


# What a stream may ask for. ----------------------------------------------------------------------


def _storage(data: Any) -> Any:
    """Return the storage that ``torch.save`` wrote into bytes, by the reader that runs no code."""
    import torch

    if not isinstance(data, bytes):
        raise ValueError("a storage is no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the storages' old kind
        try:
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # of a damaged stream the unpickler raises anything
            raise ValueError(f"a storage cannot be read: {error}") from None


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Return a tensor that is a part of a storage."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not isinstance(storage, torch.storage.TypedStorage):
            raise ValueError("a tensor lies on no storage")
        whole = storage._untyped_storage
        empty = torch.empty(0, dtype=storage.dtype)
        end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min([offset, end, *size, *stride], default=0) < 0:
            raise ValueError("a tensor lies outside of its storage")
        # PyTorch would let the storage grow, and a stride of 0 would fill any memory.
        room = whole.nbytes() // empty.element_size()
        if 0 not in size and max(end + 1, math.prod(size)) > room:
            raise ValueError("a tensor lies outside of its storage")
        return empty.set_(whole, offset, tuple(size), tuple(stride)).clone()


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _text(data: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that old protocols write as text."""
    if encoding != "latin1":
        raise ValueError(f"bytes are encoded by {encoding!r}")
    return data.encode("latin1")


def _noted(name: str) -> Callable[..., Note]:
    return lambda *arguments: Note(name, arguments)


_KNOWN: dict[str, Callable[..., Any]] = {
    _NETWORK: _noted(_NETWORK),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "_codecs.encode": _text,
    **{f"{b}.{t.__name__}": t for b in ("builtins", "__builtin__") for t in (dict, list, set)},
    **{f"{b}.slice": lambda *_: None for b in ("builtins", "__builtin__")},
    **{
        name: lambda *items: dict(*items)
        for name in ("collections.OrderedDict", "dnnlib.util.EasyDict")
    },
    **{
        name: _noted(name)
        for name in (
            "dnnlib.tflib.network.Network",  # an old network by TensorFlow, only recognised
            "numpy.dtype",
            "numpy.ndarray",
            *(
                f"torch.nn.modules.container.{n}"
                for n in ("Sequential", "ModuleList", "ModuleDict")
            ),
            *(
                f"numpy.{core}.multiarray.{n}"
                for core in ("core", "_core")
                for n in ("scalar", "_reconstruct")
            ),
        )
    },
}


@dataclass(frozen=True)
class _Name:
    """A name that the stream asked for, and what stands for it."""

    name: str
    make: Callable[..., Any]


class _Machine:
    """Runs the opcodes of one pickle on a stack of plain values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the stream builds."""
        with self.path.open("rb") as stream:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._do(opcode.name, argument)
        raise ValueError("it ends too early")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _MAKERS:
            stack.append(_MAKERS[name](self._marked()))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = f"{stack[-2]} {stack[-1]}"
                del stack[-2:]
            stack.append(self._known(str(argument).replace(" ", ".", 1)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            called = stack.pop()
            if not isinstance(called, _Name) or not isinstance(arguments, tuple):
                raise WeightsError(f"{self.path} was refused: it calls what is no known name.")
            stack.append(called.make(*arguments))
        elif name == "BUILD":
            self._build(stack.pop())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            own = stack[-1]
            if isinstance(own, set):
                own.update(items)
            elif isinstance(own, list):
                own.extend(items)
            else:
                raise ValueError("items are added to no list")
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked()
            if not isinstance(stack[-1], dict):
                raise ValueError("items are set in no dictionary")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name not in ("PROTO", "FRAME"):
            raise WeightsError(f"{self.path} was refused: networks have no use for {name}.")

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _known(self, name: str) -> _Name:
        if name not in _KNOWN:
            raise WeightsError(
                f"{self.path} was refused: it asks for {name}, which no network needs and which "
                "could execute code. Get the file from its authors, or a safetensors file."
            )
        return _Name(name, _KNOWN[name])

    def _build(self, state: Any) -> None:
        """Give the top of the stack its state."""
        own = self.stack[-1]
        if isinstance(own, Note):
            own.state = state
        # Of dictionaries all that matters are their items.


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": frozenset,
    "DICT": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}
