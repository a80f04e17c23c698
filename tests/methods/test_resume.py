"""PCL and its rivals keep all their state in weights and optimisers: resuming is exact."""

from pathlib import Path

import pytest
import torch
import yaml

from mien.data.procedural import write_table
from mien.files.weights import load_weights
from mien.train.loop import train

CONFIGS = {
    "pcl": {"width": 4, "pose_images": 2, "negatives": 3, "epoch": 1},
    "moco": {"width": 4, "queue": 7},
    "byol": {"width": 4},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, persons=4, frames=2, size=64)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_and_two_more_are_four(name, table, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    values = {
        "method": name,
        "tables": [str(table)],
        "batch_size": 6,
        "steps": 4,
        "learning_rate": 1e-3,
        "preview_every": 0,
        "checkpoint_every": 2,
        "log_every": 2,
        "config": CONFIGS[name],
    }
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    settings = {"accelerator": "cpu", "threads": 1}
    train(recipe, out=tmp_path / "whole", **settings)
    train(recipe, out=tmp_path / "parts", overrides={"steps": 2}, **settings)
    train(recipe, out=tmp_path / "parts", resume=True, **settings)
    whole, parts = (
        load_weights(tmp_path / k / "weights.safetensors")[0] for k in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(v, parts[k]) for k, v in whole.items())
    if name == "pcl":  # the balance is part of that state
        assert (whole["dynamic.weights"] - 1).abs().max() > 1e-6
