"""The command line: verbs to functions, no logic. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
import warnings

# Imported in the order in which `mien --help` lists their commands.
from mien.cli import edits, evaluation, experiments, serving, training, weights
from mien.cli.root import app
from mien.files.errors import MienError

__all__ = [
    "app",
    "edits",
    "evaluation",
    "experiments",
    "main",
    "serving",
    "training",
    "weights",
]


def main() -> None:
    """Run the command line: an error that a user can mend is one sentence and exit status 2."""
    warnings.formatwarning = lambda message, *_, **__: f"mien: {message}\n"
    try:
        app()
    except MienError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


def _fail(message: str) -> None:
    sentence = " ".join(message.split())
    print(f"mien: {sentence}{'' if sentence.endswith(('.', '?')) else '.'}", file=sys.stderr)
    raise SystemExit(2) from None
