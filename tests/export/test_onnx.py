"""What an ONNX file gives is what torch gives; a file that does not is not written."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch

from mien.edit.tasks import task_names
from mien.evaluate.onnx_model import OnnxModel
from mien.export import export
from mien.export import onnx as module
from mien.faces.image import write_image
from mien.files.errors import ConfigError
from mien.files.weights import save_weights
from mien.methods import config_from, method_class, method_names
from mien.scale import embed_files

SMALL = {
    "facecycle": {"width": 4, "generator_width": 4, "blocks": 2, "perceptual": "none"},
    "ipgan": {"width": 4, "identity_dim": 16, "attribute_dim": 8, "identities": 8},
    "derl": {"width": 4, "local_width": 8},
    "landmarks": {"width": 4},
    "pcl": {"width": 4, "negatives": 3},
}
NAMES = [n for n in method_names() if n in SMALL]


def saved(folder, name: str) -> str:
    cls = method_class(name)
    values = SMALL[name]
    torch.manual_seed(0)
    method = cls(config_from(cls.Config, values), cls.stages[-1])
    file = folder / f"{name}.safetensors"
    tensors = {k: v.clone() for k, v in method.state_dict().items()}
    card = {"method": name, "config": values, "stage": cls.stages[-1], "licence": "CC0-1.0"}
    save_weights(file, tensors, card)
    return str(file)


@pytest.mark.parametrize("name", NAMES)
def test_everything_of_a_method_is_exported(tmp_path, name: str) -> None:
    weights = saved(tmp_path, name)
    for task in [None, *task_names(method_class(name))]:
        made = export(weights, tmp_path / "m.onnx", task)
        assert made.difference <= module.TOLERANCE
        notes = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
        assert notes["mien.method"] == name
        assert notes["mien.licence"] == "CC0-1.0"
        assert len(notes["mien.weights_sha256"]) == 64
        assert json.loads(notes["mien.codes"]) == (
            list(made.outputs) if task is None and name != "landmarks" else []
        )


def test_both_backends_write_the_same_codes(tmp_path, photo, toy_finder) -> None:
    weights = saved(tmp_path, "pcl")
    for number in range(3):
        write_image(tmp_path / "p" / f"{number}.png", np.roll(photo, 30 * number, 1))
    tables = []
    for backend in ("torch", "onnx"):
        out = tmp_path / f"{backend}.parquet"
        embed_files(weights, tmp_path / "p", out, backend=backend, finder=toy_finder(1, 64))
        tables.append(pq.read_table(out))
    assert tables[0].schema.names == tables[1].schema.names
    for name in tables[0].schema.names[7:]:
        a, b = (np.array(t.column(name).to_pylist()) for t in tables)
        assert np.abs(a - b).max() <= module.TOLERANCE
    with pytest.raises(ConfigError, match="torch or onnx"):
        embed_files(weights, tmp_path / "p", tmp_path / "x.parquet", backend="tpu")


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch) -> None:
    weights = saved(tmp_path, "pcl")
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="differs from torch"):
        export(weights, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_the_file_says_what_pictures_it_wants(tmp_path) -> None:
    export(saved(tmp_path, "pcl"), tmp_path / "m.onnx")
    model = OnnxModel(tmp_path / "m.onnx")
    assert model.size == 64
    assert model.codes == model.outputs


def test_wrong_orders(tmp_path) -> None:
    weights = saved(tmp_path, "pcl")
    with pytest.raises(ConfigError, match="onnx"):
        export(weights, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="No task"):
        export(weights, tmp_path / "m.onnx", "smile-more")
