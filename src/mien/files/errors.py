"""Errors that end in one plain sentence on the command line, never in a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MienError(Exception):
    """Base of every error that a user can mend; its text says what to do."""


class ImageError(MienError):
    """A picture or video cannot be read: wrong format, too large, corrupt."""


class FaceError(MienError):
    """No face, or several faces and none chosen."""


class TableError(MienError):
    """A table of faces lacks a column or file, or has another format."""


class ConfigError(MienError):
    """A recipe, override or configuration holds an unknown or impossible value."""


class WeightsError(MienError):
    """A weight file is damaged, has a wrong hash or belongs to another method."""


class CheckpointError(MienError):
    """A checkpoint cannot be written, read or resumed from."""


class LicenceError(MienError):
    """Terms of weights or data forbid what they shall be used for."""


class MissingExtraError(MienError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package {package!r}: pip install -c constraints.txt 'mien[{extra}]'"
        )
        self._made_of = (package, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        # It must reach the parent of a worker process whole.
        return MissingExtraError, self._made_of


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest of ``choices``, or all of them."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {close[0]!r}?" if close else f"; choose from: {', '.join(names)}"
