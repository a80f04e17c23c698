"""The public API and the command line are what tests/api.json says; changes are deliberate.

To renew the file: ``python tests/test_api.py``
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import typer

FILE = Path(__file__).with_name("api.json")
RENEW = "If the change is meant, run `python tests/test_api.py` and note it in CHANGELOG.md."


def api() -> dict[str, Any]:
    """Return names, signatures and flags."""
    import mien
    import mien.edit
    import mien.evaluate
    import mien.methods
    from mien.cli import app

    verbs = [name for name in mien.__all__ if not name.startswith("_")]
    commands = [command.callback for command in app.registered_commands]
    return {
        "mien": {name: str(inspect.signature(getattr(mien, name))) for name in verbs},
        "mien.edit": sorted(mien.edit.__all__),
        "mien.evaluate": sorted(mien.evaluate.__all__),
        "mien.methods": sorted(mien.methods.__all__),
        "command line": {f.__name__: parameters(f) for f in commands},
    }


def parameters(command: Callable[..., Any]) -> dict[str, str]:
    """Return flag (or argument) → type and default of a command."""
    found = {}
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if hints[name] is typer.Context:  # not for users
            continue
        kind, info = typing.get_args(hints[name])[:2]
        given = [info.default, *(info.param_decls or ())]  # the first stands in its place
        flags = [f for f in given if isinstance(f, str)] or ["--" + name.replace("_", "-")]
        if isinstance(info, typer.models.ArgumentInfo):
            flags = [name.upper()]
        default = parameter.default
        value = "required" if default is inspect.Parameter.empty else f"default {default}"
        found[" ".join(flags)] = f"{plain(kind)}, {value}"
    return found


def plain(kind: Any) -> str:
    """Name a type alike on every version of Python."""
    inner = [t for t in typing.get_args(kind) if t is not type(None)]
    if typing.get_origin(kind) is list:
        return f"list of {plain(inner[0])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(member.value for member in kind)
    return plain(inner[0]) if inner else str(kind.__name__)


def test_api_is_the_snapshot() -> None:
    known = json.loads(FILE.read_text())
    now = json.loads(json.dumps(api()))
    for part in sorted(known.keys() | now.keys()):
        assert now.get(part) == known.get(part), f"{part} has changed. {RENEW}"


def test_verbs_are_functions_however_they_are_reached() -> None:
    import mien
    from mien.edit.photos import edit
    from mien.train import loop

    assert inspect.signature(mien.edit) == inspect.signature(edit)
    assert inspect.signature(mien.train) == inspect.signature(loop.train)
    assert mien.train.loop is loop  # the package stays a package
    assert mien.__version__
    assert set(mien.__all__) <= set(dir(mien))


if __name__ == "__main__":
    FILE.write_text(json.dumps(api(), indent=1, sort_keys=True) + "\n")
