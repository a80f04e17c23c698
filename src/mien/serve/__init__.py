"""REST service: limits, queue and doors of the methods; what is done stands in ``mien.edit``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.serve.rest import create_app
    from mien.serve.server import serve
    from mien.serve.service import Limits, Service

_HOME = {
    "Limits": "mien.serve.service",
    "Service": "mien.serve.service",
    "create_app": "mien.serve.rest",
    "serve": "mien.serve.server",
}

__all__ = ["Limits", "Service", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
