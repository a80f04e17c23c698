"""Tasks on whole photos, codes of their faces, and provenance of what was edited."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.edit.codes import Embedded, embed
    from mien.edit.photos import Edited, Editor, edit
    from mien.edit.provenance import EditRecord, Provenance, read_provenance, write_edited
    from mien.edit.tasks import TASKS, Task, task_names

_HOME = {
    "TASKS": "tasks",
    "EditRecord": "provenance",
    "Edited": "photos",
    "Editor": "photos",
    "Embedded": "codes",
    "Provenance": "provenance",
    "Task": "tasks",
    "edit": "photos",
    "embed": "codes",
    "read_provenance": "provenance",
    "task_names": "tasks",
    "write_edited": "provenance",
}

__all__ = [
    "TASKS",
    "EditRecord",
    "Edited",
    "Editor",
    "Embedded",
    "Provenance",
    "Task",
    "edit",
    "embed",
    "read_provenance",
    "task_names",
    "write_edited",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
