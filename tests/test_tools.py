"""The scripts that prepare weights for the package."""

import dataclasses
import runpy
import sys
from pathlib import Path

import pytest
import torch

import mien.weights
from mien.files.weights import save_weights
from mien.methods.facecycle import FaceCycle

TOOLS = Path(__file__).parent.parent / "tools"


def write(file: Path, stage: str, seed: int) -> FaceCycle:
    torch.manual_seed(seed)
    config = FaceCycle.Config(width=8, generator_width=8, blocks=2, perceptual="none")
    method = FaceCycle(config, stage)
    method.mean_image += seed
    card = {"method": "facecycle", "stage": stage, "config": dataclasses.asdict(config)}
    save_weights(file, method.state_dict(), card)
    return method


def merge(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["merge_weights.py", *map(str, words)])
    runpy.run_path(str(TOOLS / "merge_weights.py"), run_name="__main__")


def test_networks_of_one_training_lie_over_those_of_another(tmp_path, monkeypatch):
    below, above = tmp_path / "below.safetensors", tmp_path / "above.safetensors"
    first, second = write(below, "identity", 1), write(above, "motion", 2)
    merge(monkeypatch, below, above, "--out", tmp_path / "merged")
    merged = mien.weights.load(tmp_path / "merged" / "weights.safetensors").state_dict()
    for name, value in merged.items():
        other = second if name.split(".")[0] in ("e_exp", "flow", "g") else first
        assert value.equal(other.state_dict()[name]), name
    assert not merged["mean_image"].equal(second.mean_image)


def test_weights_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys):
    below = tmp_path / "below.safetensors"
    write(below, "motion", 1)
    with pytest.raises(SystemExit):
        merge(monkeypatch, below, "landmarks", "--out", tmp_path / "merged")
    assert "holds no network that fits" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
