"""Local web app: photos, sliders and comparisons in a browser on this computer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.app.studio import Studio
    from mien.app.web import app, build

_HOME = {"Studio": "mien.app.studio", "app": "mien.app.web", "build": "mien.app.web"}

__all__ = ["Studio", "app", "build"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
