"""The scripts that prepare weights for the package."""

import dataclasses
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mien.weights
from mien.data.procedural import write_table
from mien.files.weights import save_weights
from mien.methods.facecycle import FaceCycle
from mien.methods.ipgan import IPGAN
from mien.train.loop import train

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


def test_a_network_that_only_training_needs_stays_at_home(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    config = IPGAN.Config(width=4, size=32, identity_dim=16, attribute_dim=8)
    method = IPGAN(config).eval()
    card = {"method": "ipgan", "stage": "synthesise", "config": dataclasses.asdict(config)}
    save_weights(tmp_path / "run" / "weights.safetensors", method.state_dict(), card)
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr("mien.files.weights.SHIPPED", tmp_path / "shelf")
    words = [tmp_path / "run", "small", "--licence", "free", "--without"]
    monkeypatch.setattr(sys, "argv", ["ship_weights.py", *map(str, words), "d"])
    runpy.run_path(str(TOOLS / "ship_weights.py"), run_name="__main__")
    file = tmp_path / "shelf" / "small.safetensors"
    assert not any(name.startswith("d.") for name in load_file(file))
    loaded = mien.weights.load(file)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    for name, code in method.encode(x).items():
        assert loaded.encode(x)[name].equal(code)
    assert loaded.swap_identity(x, x.flip(0)).images.equal(
        method.swap_identity(x, x.flip(0)).images
    )

    write_table(tmp_path / "faces", persons=10, frames=2, size=32)
    recipe = {**card, "tables": [str(tmp_path / "faces")], "size": 32, "batch_size": 4, "steps": 1}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    train(tmp_path / "r.yaml", out=tmp_path / "on", init_from=file, threads=1)
    assert "(not in the file: d)" in "".join(capsys.readouterr())

    monkeypatch.setattr(sys, "argv", ["ship_weights.py", *map(str, words), "x"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS / "ship_weights.py"), run_name="__main__")
    assert "hold no network x" in capsys.readouterr().err
