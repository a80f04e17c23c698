"""Face detectors by name.

A detector is a callable: a list of uint8 ``(H, W, 3)`` RGB photos → one float32 ``(n, 5)`` array a
photo: left, top, right, bottom in its pixels, and the detector's own score. ``dlib`` (the default)
and ``crop`` need nothing but this package.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from mien.faces.detectors.base import Detector
from mien.files.errors import ConfigError, nearest

_DETECTORS = {
    "dlib": "dlib_hog:DlibHog",
    "crop": "whole:Whole",
    "yunet": "yunet:YuNet",
    "scrfd": "scrfd:Scrfd",
    "mediapipe": "mediapipe_:MediaPipe",
    "insightface": "insightface_:InsightFace",
    "uniface": "uniface_:UniFace",
}


def detector_names() -> tuple[str, ...]:
    """Return the names that ``detector`` knows."""
    return tuple(_DETECTORS)


def detector(name: str = "dlib", **options: Any) -> Detector:
    """Make a detector.

    Args:
        name: One of ``detector_names()``; those that need a model file take its path after a
            colon, e.g. ``yunet:face_detection_yunet_2023mar.onnx``.
        options: Arguments of the detector's class.

    Raises:
        ConfigError: No such detector, option or model file, or its package is not installed.
        MissingExtraError: An extra of this package is not installed.
    """
    name, _, path = name.partition(":")
    if name not in _DETECTORS:
        raise ConfigError(f"No detector named {name!r}{nearest(name, _DETECTORS)}")
    module, _, kind = _DETECTORS[name].partition(":")
    make = getattr(import_module(f"{__name__}.{module}"), kind)
    if path:
        options["model"] = path
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"The detector {name!r} has no {option!r}{nearest(option, known)}")
    made: Detector = make(**options)
    return made
