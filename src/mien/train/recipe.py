"""Recipes: one YAML file describes one training; the command line may override any of its keys."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mien.files.errors import ConfigError, nearest
from mien.methods.base import config_from

# The recipes of the repository travel inside the wheel; in a checkout they lie at its root.
FOLDERS = (
    Path(__file__).resolve().parents[1] / "recipes",
    Path(__file__).resolve().parents[3] / "recipes",
)
ABLATIONS = "ablations"  # beside recipes: what to leave out of them, no recipe itself
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")

Overrides = Mapping[str, Any] | Iterable[str]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training computes.

    Attributes:
        method: Name of the method.
        stage: Stage of the method; its first one if empty.
        tables: Folders of tables of faces.
        size: Side of the images in pixels.
        batch_size: Images in a batch of each process.
        steps: Length of the training; give this or ``images``.
        images: Length of the training in images over all processes.
        learning_rate: Handed to the method's optimisers.
        schedule: ``constant``, ``cosine`` (to 0 at the last step), or a list of (step, factor):
            from that step on the learning rate is multiplied by that factor.
        warmup: Steps over which the learning rate grows linearly from 0.
        ema: Decay of the moving average of the weights; 0 turns it off.
        clip: Largest norm of the gradient of one optimiser; 0 turns clipping off.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto``: ``bf16-mixed`` where the
            device multiplies matrices of it faster, else ``32-true``.
        seed: Seed of weights, batches and noise.
        preview_every: Steps between preview pictures; 0 turns them off.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps that one line of metrics averages.
        measure_every: Images (of all processes) between measurements of the method, after which its
            best weights are kept as ``best.safetensors``; 0 turns them off.
        config: Settings of the method's ``Config``.
    """

    method: str = ""
    stage: str = ""
    tables: tuple[str, ...] = ()
    size: int = 64
    batch_size: int = 32
    steps: int = 0
    images: int = 0
    learning_rate: float = 1e-4
    schedule: str | tuple[tuple[int, float], ...] = "constant"
    warmup: int = 0
    ema: float = 0.0
    clip: float = 0.0
    precision: str = "32-true"
    seed: int = 0
    preview_every: int = 1000
    checkpoint_every: int = 1000
    log_every: int = 50
    measure_every: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    def factor(self, step: int) -> float:
        """Return what the learning rate of ``step`` (from 0) is multiplied by."""
        scale = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            scale *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        elif not isinstance(self.schedule, str):
            scale *= next((f for at, f in reversed(self.schedule) if step >= at), 1.0)
        return scale

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, ready for JSON and YAML."""
        values = dataclasses.asdict(self)
        values["tables"] = list(self.tables)
        if not isinstance(self.schedule, str):
            values["schedule"] = [list(pair) for pair in self.schedule]
        return values


def recipe_names() -> list[str]:
    """Return the short names of all recipes, such as ``pcl/laptop``."""
    names = {
        file.relative_to(folder).with_suffix("").as_posix()
        for folder in FOLDERS
        for file in folder.glob("*/*.yaml")
        if file.stem != ABLATIONS
    }
    return sorted(names)


def ablation_files() -> list[Path]:
    """Return the lists of ablations, one a method, ``METHOD/ablations.yaml``."""
    return sorted(file for folder in FOLDERS for file in folder.glob(f"*/{ABLATIONS}.yaml"))


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe given by path or by short name (``pcl/laptop``).

    Raises:
        ConfigError: No such file and no such recipe.
    """
    for folder in (Path(), *FOLDERS):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    names = recipe_names()
    hint = nearest(str(name), names) if names else ""
    raise ConfigError(f"No recipe {str(name)!r}: neither a file nor a recipe of this package{hint}")


def load_recipe(recipe: str | Path, overrides: Overrides = (), *, processes: int = 1) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        recipe: Path or short name.
        overrides: ``{"key": value}`` or ``["key=value"]``; values of strings are YAML, and a dotted
            key reaches into ``config``, e.g. ``config.width=32``.
        processes: Number of processes, by which a length in images is turned into steps.

    Raises:
        ConfigError: Not a recipe, an unknown key (with the nearest name) or an impossible value.
    """
    values = parse_yaml(find_recipe(recipe))
    for key, value in override_pairs(overrides):
        _put(values, key, value)
    return _checked(values, processes)


def parse_yaml(file: Path) -> dict[str, Any]:
    """Read a file of lines ``key: value``.

    Raises:
        ConfigError: It is not such a file.
    """
    try:
        values = _parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recipe {file} cannot be read: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"The recipe {file} must hold lines 'key: value'.")
    return values


def override_pairs(overrides: Overrides) -> list[tuple[str, Any]]:
    """Return overrides as (dotted key, value) pairs.

    Raises:
        ConfigError: A string without ``=`` or with a value that is not YAML.
    """
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"{text!r} is no override; write key=value, e.g. batch_size=16.")
        try:
            pairs.append((key.strip(), _parse(value)))
        except yaml.YAMLError:
            raise ConfigError(f"The value of the override {text!r} is not YAML.") from None
    return pairs


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-4`` is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506  (_Loader is a SafeLoader)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key} cannot be set: {part} holds no settings of its own.")
        values = inner
    values[last] = value


def _checked(values: dict[str, Any], processes: int) -> Recipe:
    schedule = _schedule(values.get("schedule", "constant"))
    plain = {key: value for key, value in values.items() if key != "schedule"}
    if isinstance(plain.get("tables"), str):
        plain["tables"] = [plain["tables"]]
    recipe: Recipe = dataclasses.replace(config_from(Recipe, plain), schedule=schedule)
    if not recipe.method:
        raise ConfigError("The recipe names no method; add a line such as 'method: facecycle'.")
    if not all(isinstance(table, str) for table in recipe.tables):
        raise ConfigError("tables is a list of folders.")
    if (recipe.steps > 0) == (recipe.images > 0):
        raise ConfigError("Give the length of the training by one of steps and images.")
    for key in ("size", "batch_size", "checkpoint_every", "log_every"):
        if getattr(recipe, key) < 1:
            raise ConfigError(f"{key} is at least 1, not {getattr(recipe, key)}.")
    for key in ("steps", "images", "warmup", "clip", "preview_every", "measure_every", "seed"):
        if getattr(recipe, key) < 0:
            raise ConfigError(f"{key} cannot be negative.")
    if not 0 <= recipe.ema < 1:
        raise ConfigError(f"ema is a decay from 0 (off) to below 1, not {recipe.ema}.")
    if not 0 < recipe.learning_rate < math.inf:
        raise ConfigError(f"learning_rate is above 0, not {recipe.learning_rate}.")
    if recipe.precision not in PRECISIONS:
        raise ConfigError(
            f"No precision {recipe.precision!r}{nearest(recipe.precision, PRECISIONS)}"
        )
    if recipe.images:
        steps = math.ceil(recipe.images / (recipe.batch_size * processes))
        recipe = dataclasses.replace(recipe, steps=steps, images=0)
    return recipe


def _schedule(value: Any) -> str | tuple[tuple[int, float], ...]:
    names = ("constant", "cosine")
    if isinstance(value, str):
        if value not in names:
            raise ConfigError(f"No schedule {value!r}{nearest(value, names)}")
        return value
    try:
        pairs = tuple((int(step), float(factor)) for step, factor in value)
    except (TypeError, ValueError):
        raise ConfigError(
            "schedule is constant, cosine or a list of [step, factor], e.g. [[10000, 0.1]]."
        ) from None
    if list(pairs) != sorted(pairs):
        raise ConfigError("The steps of the schedule must grow.")
    return pairs
