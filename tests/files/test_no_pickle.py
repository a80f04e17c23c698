"""No pickle is executed anywhere: the source holds no way to, and a malicious file is tried."""

from __future__ import annotations

import ast
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mien import weights
from mien.evaluate.encoders import encoder
from mien.files.errors import MienError, WeightsError
from mien.files.torch_file import read_torch_file

ROOT = Path(__file__).resolve().parents[2]
FILES = [f for part in ("src", "tools", "benchmarks") for f in sorted((ROOT / part).rglob("*.py"))]
SAFE = re.compile(r"Safe|_Loader")  # the loader of recipes derives from SafeLoader
EXECUTES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def dangers(code: str) -> list[str]:
    """Return what in ``code`` could execute a file that it reads."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in EXECUTES]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in EXECUTES:
            found += [a.name for a in node.names if not a.name.endswith("Error")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            keys = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            call = ast.unparse(node.func)
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
            unsafe = {
                "torch.load": keys.get("weights_only") is not True,
                "np.load": keys.get("allow_pickle") is True,
                "yaml.load": not SAFE.search(loader),
                "yaml.unsafe_load": True,
                "torch.hub.load": True,
            }
            found += [call] if unsafe.get(call) else []
    return found


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_the_source_has_no_way_to(file: Path) -> None:
    assert dangers(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert dangers(code)


class Malicious:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_malicious_file_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    attack = pickle.dumps({"model": Malicious(mark)})
    torch.save({"model": Malicious(mark)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(attack)
    np.save(tmp_path / "c.npy", np.array([Malicious(mark)], object), allow_pickle=True)
    (tmp_path / "d.safetensors").write_bytes(attack)
    (tmp_path / "d.json").write_text('{"method": "pcl", "sha256": "0"}')
    (tmp_path / "e.onnx").write_bytes(attack)
    for name in ("a.pth", "b.pth", "c.npy"):
        with pytest.raises(WeightsError):
            read_torch_file(tmp_path / name)
    with pytest.raises(MienError):
        weights.load(tmp_path / "d.safetensors")
    with pytest.raises(MienError):
        encoder(f"onnx:{tmp_path / 'e.onnx'}")
    assert not mark.exists()
    pickle.loads(attack)  # the attack works where pickles are executed
    assert mark.exists()


@pytest.mark.parametrize("head", [b"RIFF\xdc\0\0\0WEBP", b"\x80\x02", b"PK\x03\x04", b""])
def test_a_file_of_another_kind_is_one_plain_error(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(head + bytes(range(200)))
    with pytest.raises(WeightsError):
        read_torch_file(tmp_path / "x.pth")
