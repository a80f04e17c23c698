"""Trainings that a measurement starts by itself: each in a folder, done once, gone on with if cut.

Beside the run lies ``measured.json``: what was asked for and, once measured, what came out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.data.table import Table
from mien.files.atomic import sha256, write_json
from mien.files.errors import ConfigError
from mien.files.weights import read_card
from mien.train.log import say
from mien.train.loop import train, weights_file
from mien.train.recipe import Recipe, load_recipe

_FILE = "measured.json"
_START = "init_from"
_FREE = ("checkpoint_every", "log_every", "preview_every")  # change nothing that is computed


def trained(
    folder: Path,
    recipe: str,
    settings: Mapping[str, Any],
    start: str | Path | None = None,
    *,
    threads: int = 0,
    accelerator: str = "auto",
) -> dict[str, Any] | None:
    """Train, go on with or skip what is finished.

    Args:
        folder: Of the run.
        recipe: Name or file.
        settings: That replace the recipe's.
        start: Weights to start from.
        threads: CPU threads; 0: all.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns:
        What is known of the run (see ``keep``); None where a signal stopped the training.

    Raises:
        ConfigError: The folder holds a training with other settings.
    """
    wanted = load_recipe(recipe, settings)
    state = _state(folder, wanted, start)
    if not _finished(folder, wanted):
        say(f"{folder.name}: {wanted.steps} steps in {folder}")
        train(
            recipe,
            overrides=settings,
            out=folder,
            resume=True,
            init_from=start,
            threads=threads,
            accelerator=accelerator,
        )
    if not _finished(folder, wanted):
        say(f"Stopped in {folder.name!r}; the same command goes on.")
        return None
    return state


def keep(folder: Path, state: dict[str, Any]) -> None:
    """Write down what is known of a run."""
    write_json(folder / _FILE, state)


def table_mark(table: str | Path) -> dict[str, str]:
    """Return name and fingerprint of a table."""
    return {"table": Path(table).name, "fingerprint": str(Table(table).info["fingerprint"])}


def _state(folder: Path, recipe: Recipe, start: str | Path | None) -> dict[str, Any]:
    told = {k: v for k, v in recipe.as_dict().items() if k not in _FREE}
    told["tables"] = [table_mark(t)["fingerprint"] for t in recipe.tables]
    told[_START] = sha256(weights_file(start)) if start is not None else None
    asked = json.loads(json.dumps(told))
    file = folder / _FILE
    if file.is_file():
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        differ = [key for key in asked if state["asked"].get(key) != asked[key]]
        if differ:
            raise ConfigError(
                f"{folder} holds a training with other settings ({', '.join(differ)}): give the "
                "same ones, or another --out."
            )
        return state
    if (folder / "weights.safetensors").exists():
        raise ConfigError(f"{folder} holds a training that is not part of this; change --out.")
    state = {"asked": asked}
    keep(folder, state)
    return state


def _finished(folder: Path, recipe: Recipe) -> bool:
    file = folder / "weights.safetensors"
    return file.is_file() and int(read_card(file)["steps"]) >= recipe.steps
