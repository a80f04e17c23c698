"""Tasks on whole photos, codes of their faces, and provenance of what was edited."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.edit.best import BEST, best
    from mien.edit.chain import Chain, Step
    from mien.edit.codes import Embedded, embed
    from mien.edit.many import Done, compare, edit_photos
    from mien.edit.photos import Edited, Editor, edit
    from mien.edit.tasks import TASKS, Task, task_names
    from mien.edit.video import DoneVideos, EditedVideo, edit_video, edit_videos
    from mien.faces.provenance import EditRecord, Provenance, read_provenance, write_edited

_HOME = {
    "BEST": "mien.edit.best",
    "Chain": "mien.edit.chain",
    "Done": "mien.edit.many",
    "DoneVideos": "mien.edit.video",
    "Step": "mien.edit.chain",
    "best": "mien.edit.best",
    "compare": "mien.edit.many",
    "edit_photos": "mien.edit.many",
    "TASKS": "mien.edit.tasks",
    "EditRecord": "mien.faces.provenance",
    "Edited": "mien.edit.photos",
    "EditedVideo": "mien.edit.video",
    "Editor": "mien.edit.photos",
    "Embedded": "mien.edit.codes",
    "Provenance": "mien.faces.provenance",
    "Task": "mien.edit.tasks",
    "edit": "mien.edit.photos",
    "edit_video": "mien.edit.video",
    "edit_videos": "mien.edit.video",
    "embed": "mien.edit.codes",
    "read_provenance": "mien.faces.provenance",
    "task_names": "mien.edit.tasks",
    "write_edited": "mien.faces.provenance",
}

__all__ = [
    "BEST",
    "TASKS",
    "Chain",
    "Done",
    "DoneVideos",
    "EditRecord",
    "Edited",
    "EditedVideo",
    "Editor",
    "Embedded",
    "Provenance",
    "Step",
    "Task",
    "best",
    "compare",
    "edit",
    "edit_photos",
    "edit_video",
    "edit_videos",
    "embed",
    "read_provenance",
    "task_names",
    "write_edited",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
