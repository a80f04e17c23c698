"""Imports go down the floors of docs/architecture.md only, those inside functions included."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "mien"


def floors() -> list[str]:
    """Return the floors from top to bottom, as the table of the document lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Floors")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(?:mien/)?(\w+)(?:/|\.py)` ", table, re.MULTILINE)
    return ["mien" if name == "__init__" else name for name in names]


def floor_of(module: str) -> str:
    """``mien.faces.image`` → ``faces``; ``mien`` itself is the top floor."""
    return module.split(".")[1] if "." in module else "mien"


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, modules: set[str]) -> set[str]:
    """Return the modules of this package that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else str(node.module))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return {name for name in found if name.partition(".")[0] == "mien"}


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(file) for file in FILES}


def test_the_document_names_every_floor() -> None:
    assert {floor_of(module) for module in MODULES} == set(floors())


@pytest.mark.parametrize("file", FILES, ids=[module_of(file) for file in FILES])
def test_imports_go_down(file: Path) -> None:
    order = floors()
    here = order.index(floor_of(module_of(file)))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    up = [name for name in imports(tree, MODULES) if order.index(floor_of(name)) < here]
    assert not up, f"{module_of(file)} imports from a higher floor: {', '.join(up)}"


def test_every_way_of_importing_is_seen() -> None:
    code = """
import mien.cli
from mien import weights, __version__
def f():
    from mien.edit.photos import edit
    import_module("mien.demo")
    import numpy
"""
    assert imports(ast.parse(code), MODULES) == {
        "mien.cli",
        "mien.weights",
        "mien",
        "mien.edit.photos",
        "mien.demo",
    }
