"""What can be done to a face. Which of it a method can do is read off its functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mien.files.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mien.methods.base import Method


@dataclass(frozen=True)
class Task:
    """One edit.

    Attributes:
        name: How ``mien edit NAME`` calls it.
        function: Name of the method's function that does it.
        driver: Whether a second face (the driver) says how.
        summary: What happens to the face, in plain words.
        landmarks: Whether the function takes landmarks, ``landmarks`` and with a driver
            ``driver_landmarks``.
        several: Whether several drivers may be given: one is chosen for each face, or they are
            mixed.
    """

    name: str
    function: str
    driver: bool
    summary: str
    landmarks: bool = False
    several: bool = False


TASKS = {
    task.name: task
    for task in (
        Task("neutralise", "neutralise", False, "remove the expression"),
        Task("frontalise", "frontalise", False, "turn the head to the camera"),
        Task("expression", "transfer_expression", True, "put on the driver's expression"),
        Task("pose", "transfer_pose", True, "draw the face with the driver's head pose"),
        Task(
            "attributes",
            "transfer_attributes",
            True,
            "draw the face with the driver's pose, expression, light and background",
        ),
        Task("identity", "swap_identity", True, "put on the driver's identity"),
        Task("makeup", "apply_makeup", True, "put on the driver's make-up", True, True),
        Task("remove-makeup", "remove_makeup", False, "take make-up off", True),
        Task("mean-face", "to_mean_face", False, "take the identity out"),
    )
}


def task_names(method: Method | type[Method]) -> list[str]:
    """Return the names of the tasks that a method (or a class of methods) can do."""
    return [t.name for t in TASKS.values() if callable(getattr(method, t.function, None))]


def find_task(name: str, method: Method) -> Task:
    """Return the task ``name``.

    Raises:
        ConfigError: No such task, or the method cannot do it.
    """
    if name not in TASKS:
        raise ConfigError(f"No task {name!r}{nearest(name, TASKS)}")
    able = task_names(method)
    if name not in able:
        can = f"it can: {', '.join(able)}" if able else "it edits nothing"
        raise ConfigError(f"The method {method.name} cannot do {name!r}; {can}.")
    return TASKS[name]
