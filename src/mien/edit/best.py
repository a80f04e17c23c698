"""Which weights do a task when none are named, and the measure that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mien import weights as shelf
from mien.edit.tasks import TASKS, task_names
from mien.files.errors import ConfigError, nearest
from mien.methods.base import method_class


@dataclass(frozen=True)
class Best:
    """A decision.

    Attributes:
        weights: Shipped name.
        measure: Name of the measure in the cards' results (``mien weights NAME``); empty where only
            one method can do the task or only one was measured.
        lower: Whether less of it is better.
        why: What else was weighed.
    """

    weights: str
    measure: str
    lower: bool
    why: str


BEST = {
    "neutralise": Best(
        "facecycle",
        "neutralise landmarks % eyes",
        True,
        "derl is called neutral more often (82.5 against 72.5 %, intervals overlap), but keeps "
        "less of the person and draws at 64 pixels what facecycle moves in the photo itself",
    ),
    "frontalise": Best("facecycle", "asymmetry of neutralised", True, "ipgan's is not measured"),
    "expression": Best(
        "facecycle",
        "transfer SSIM",
        False,
        "by landmarks styletransfer is level (1.88 against 1.90 % off, far inside the intervals); "
        "it takes seconds a face and draws at 64 pixels what facecycle moves in the photo itself",
    ),
    "pose": Best("pcl", "", True, "the only one"),
    "attributes": Best("ipgan", "", True, "the only one"),
    "identity": Best("ipgan", "source person at rank 1, %", False, "facecycle's is not measured"),
    "mean-face": Best("facecycle", "", True, "the only one"),
}


def able(task: str) -> list[str]:
    """Return the names of the shipped weights that can do a task.

    Raises:
        ConfigError: No such task.
    """
    if task not in TASKS:
        raise ConfigError(f"No task {task!r}{nearest(task, TASKS)}")
    return [name for name in shelf.shipped() if task in card_tasks(shelf.card(name))]


def card_tasks(card: Mapping[str, Any]) -> list[str]:
    """Return what weights can do, by their card: their method's tasks and its ``tasks``.

    Those are the tasks of these weights that not all weights of the method can do.
    """
    own = {*task_names(method_class(str(card["method"]))), *card.get("tasks", ())}
    return [task for task in TASKS if task in own]


def best(task: str) -> str:
    """Return the name of the weights that do a task when none are named.

    Raises:
        ConfigError: No such task, or no shipped weights can do it.
    """
    names = able(task)
    if task in BEST and BEST[task].weights in names:
        return BEST[task].weights
    if not names:
        raise ConfigError(
            f"No shipped weights can do {task!r}; name a weight file that can (--method FILE)."
        )
    return names[0]
