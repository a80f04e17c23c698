"""Encoders, linear probes, verification, quality of pictures and landmarks; reports and figures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "EditReport": "edits",
    "Encoder": "encoders",
    "LandmarkReport": "landmarks",
    "Report": "report",
    "Result": "task",
    "by_yaw": "quality",
    "clear": "cache",
    "embed": "cache",
    "encoder": "encoders",
    "evaluate": "report",
    "evaluate_edits": "edits",
    "evaluate_landmarks": "landmarks",
    "l1": "quality",
    "landmark_change": "quality",
    "nme": "quality",
    "psnr": "quality",
    "ssim": "quality",
    "symmetry": "quality",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"mien.evaluate.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
