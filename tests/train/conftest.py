"""The tiny method of the engine's tests, known only while they run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_method import Tiny, write_recipe, write_table

from mien.methods.base import _METHODS

_METHODS.pop("tiny")


@pytest.fixture(autouse=True)
def _tiny_method(monkeypatch):
    monkeypatch.setitem(_METHODS, "tiny", Tiny)


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("tables") / "faces")


@pytest.fixture
def recipe(tmp_path, table):
    return write_recipe(tmp_path / "tiny.yaml", table)
