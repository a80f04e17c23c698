"""The benchmark's load, for seconds: no answer but 200 and 503, memory flat."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_load() -> None:
    spec = importlib.util.spec_from_file_location("serve_benchmark", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.measure(clients=100, seconds=3)
    (run,) = found["rounds"]
    assert set(run["answers"]) == {"200", "503"}
    assert run["answers"]["200"] > 10
    memory = run["memory_mib"]
    assert memory["last third"] < 1.2 * memory["middle third"]
