"""What every method is: networks, losses, a step, codes and edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn, optim

from mien.faces.face import Image
from mien.files.errors import ConfigError, nearest

FACTORS = ("identity", "expression", "pose", "appearance", "trunk")  # trunk: nothing taken apart

Batch = dict[str, Tensor]
Codes = dict[str, Tensor]  # factor -> (B, D) float32
Update = Callable[[str, Tensor], None]  # (optimiser name, loss) -> zero_grad, backward, step
Sampler = Callable[[int], Batch]  # step number -> batch; a pure function of (seed, rank, step)

_METHODS: dict[str, type[Method]] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What an edit of a method returns.

    Attributes:
        images: Edited crops ``(B, 3, S, S)`` in [-1, 1].
        flow: Where the edit moved something: ``(B, 2, h, w)``, normalised units, the result samples
            the crop at *place + flow* (``mien.data.warp``). It lets a large photo be moved itself.
    """

    images: Tensor
    flow: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """How good a method is at a moment of its training.

    Attributes:
        name: What was measured, a word for the log.
        value: The number.
        lower_is_better: Whether less is better.
    """

    name: str
    value: float
    lower_is_better: bool = True


class Method(nn.Module):
    """A published method: ``Config``, ``stages``, ``step``, ``encode`` and its edits.

    A subclass is registered with ``@register("name")``. The engine calls, in this order,
    ``Method(config, stage)``, ``sampler``, ``optimisers`` and then ``step`` for every batch.
    Images are float32 ``(B, 3, H, W)``, RGB, in [-1, 1].
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Typed settings; an unknown key is an error."""

    name: ClassVar[str] = ""
    stages: ClassVar[tuple[str, ...]] = ("main",)
    columns: ClassVar[tuple[str, ...]] = ("image",)  # columns of the table that training needs
    not_saved: ClassVar[tuple[str, ...]] = ()  # prefixes of tensors that weight files leave out

    def __init__(self, config: Any, stage: str) -> None:
        super().__init__()
        if stage not in self.stages:
            raise ConfigError(f"{self.name} has no stage {stage!r}{nearest(stage, self.stages)}")
        self.config = config
        self.stage = stage

    @property
    def photo_crop(self) -> tuple[str, int]:
        """Name and side in pixels of the crops that edits and codes want of photos."""
        return "tight", int(getattr(self.config, "size", 64))

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Complete the tensors of an earlier stage that a training of this stage starts from."""
        return tensors

    def sampler(self, caches: list[Any], batch_size: int, seed: int, rank: int) -> Sampler:
        """Return a function from step number to batch.

        Args:
            caches: One ``mien.data.cache.FaceCache`` for each table of the recipe.
            batch_size: Images in a batch of this process.
            seed: Seed of the run.
            rank: Number of this process; each draws other images.
        """
        raise NotImplementedError

    def optimisers(self, learning_rate: float) -> dict[str, optim.Optimizer]:
        """Return the optimisers of this stage by the name that ``step`` updates them by."""
        raise NotImplementedError

    def step(self, batch: Batch, update: Update) -> dict[str, float]:
        """Compute the losses in the paper's order, call ``update`` for each optimiser.

        Returns:
            Named scalars for the log (already Python floats).
        """
        raise NotImplementedError

    def preview(self, batch: Batch) -> np.ndarray:
        """Return a uint8 ``(H, W, 3)`` RGB picture that tells whether training goes well."""
        raise NotImplementedError

    def measure(self, caches: list[Any]) -> Score:
        """Say how good the method is, by which a training keeps its best weights.

        It must not change the method, and gives the same for the same weights.

        Args:
            caches: The tables of the recipe, of which only what is never trained on may be used.
        """
        raise NotImplementedError

    def encode(self, images: Tensor) -> Codes:
        """Return the codes ``(B, D)`` of ``images`` ``(B, 3, H, W)`` in [-1, 1]."""
        raise NotImplementedError


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Register a method class under ``name``."""

    def add(cls: type[Method]) -> type[Method]:
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


def method_names() -> list[str]:
    """Return the names of all methods."""
    import mien.methods  # noqa: F401  (registers them)

    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """Return the class of method ``name``.

    Raises:
        ConfigError: No such method.
    """
    names = method_names()
    if name not in names:
        raise ConfigError(f"No method {name!r}{nearest(name, names)}")
    return _METHODS[name]


def config_from(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Build the dataclass ``cls`` from ``values``, checking names and types.

    Raises:
        ConfigError: An unknown key (with the nearest name) or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{cls.__qualname__} has no setting {key!r}{nearest(key, fields)}")
    defaults = cls()
    ready: dict[str, Any] = {}
    for key, value in values.items():
        default = getattr(defaults, key)
        if isinstance(default, bool) != isinstance(value, bool) and default is not None:
            raise ConfigError(f"{key} is {type(default).__name__}, not {value!r}")
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if default is not None and not isinstance(value, type(default)):
            raise ConfigError(f"{key} is {type(default).__name__}, not {value!r}")
        ready[key] = value
    return cls(**ready)


def picture_grid(rows: list[Tensor]) -> Image:
    """Lay rows of images ``(B, 3, H, W)`` in [-1, 1] under each other: uint8 ``(kH, BW, 3)``."""
    stacked = torch.stack(rows)
    k, b, _, h, w = stacked.shape
    picture = stacked.permute(0, 3, 1, 4, 2).reshape(k * h, b * w, 3)
    return np.asarray(((picture + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy())


def exchange(x: Tensor) -> Tensor:
    """Exchange the two halves of a batch, so that every row meets its partner."""
    return torch.cat(x.chunk(2)[::-1])
