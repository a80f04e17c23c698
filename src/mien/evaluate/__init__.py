"""Encoders, probes, verification, leakage, quality of pictures; reports and figures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AblationReport": "ablations",
    "ClassifierReport": "classifiers",
    "EditReport": "edits",
    "Encoder": "encoders",
    "FoldReport": "cross_validation",
    "GeneratorReport": "generator",
    "LandmarkReport": "landmarks",
    "LeakageReport": "leakage",
    "MakeupReport": "makeup",
    "Report": "report",
    "Reproduction": "publications",
    "Result": "task",
    "SwapReport": "identity_swaps",
    "TransferReport": "style_transfer",
    "ablate": "ablations",
    "by_yaw": "quality",
    "clear": "cache",
    "cross_validate": "cross_validation",
    "embed": "cache",
    "encoder": "encoders",
    "evaluate": "report",
    "evaluate_classifier": "classifiers",
    "evaluate_edits": "edits",
    "evaluate_generator": "generator",
    "evaluate_landmarks": "landmarks",
    "evaluate_leakage": "leakage",
    "evaluate_makeup": "makeup",
    "evaluate_swaps": "identity_swaps",
    "evaluate_transfer": "style_transfer",
    "l1": "quality",
    "landmark_change": "quality",
    "nme": "quality",
    "psnr": "quality",
    "reproduce": "publications",
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
