"""The best weights of a training, not the last."""

import json

import pytest
import torch
from tiny_method import Tiny

from mien.files.errors import CheckpointError, ConfigError, WeightsError
from mien.files.weights import card_path, load_weights, mend_card, save_weights
from mien.methods.base import Method, Score
from mien.train.best import Best
from mien.train.loop import train


def go(recipe, out, **options):
    overrides = ["measure_every=16", "preview_every=0"]
    return train(recipe, out=out, accelerator="cpu", threads=1, overrides=overrides, **options)


def test_the_best_is_kept_and_survives_a_stop(recipe, tmp_path, monkeypatch):
    whole = go(recipe, tmp_path / "whole")
    tensors, card = load_weights(whole / "best.safetensors")
    assert int(tensors["count"]) == 12
    assert card["best"] == {"measure": "off", "value": 0.0}
    assert (card["steps"], card["images_seen"], card["method"]) == (12, 48, "tiny")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    told = [(r["step"], r["off"], r["best off"]) for r in rows if "off" in r]
    assert told == [(0, 12, 12), (4, 8, 8), (8, 4, 4), (12, 0, 0), (16, 4, 0), (20, 8, 0)]

    def full(step):
        if step == 14:
            raise CheckpointError("no room")

    out = tmp_path / "out"
    monkeypatch.setattr(Tiny, "hook", staticmethod(full))
    with pytest.raises(CheckpointError):  # the newest checkpoint is of step 10
        go(recipe, out)
    assert int(load_weights(out / "best.safetensors")[0]["count"]) == 12
    card_path(out / "best.safetensors").write_text("{}")  # as if killed between the two files
    monkeypatch.setattr(Tiny, "hook", staticmethod(lambda step: None))
    go(recipe, out, resume=True)
    names = ("best.safetensors", "best.json", "weights.safetensors")
    for name in (*names, "checkpoints/step_00000020/tensors.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name

    plain = train(recipe, out=tmp_path / "plain", accelerator="cpu", threads=1)
    assert not (plain / "best.safetensors").exists()
    last = [folder / "weights.safetensors" for folder in (plain, whole)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(load_weights(file)[0].values() for file in last), strict=True)
    )


def test_the_averaged_weights_are_measured(recipe, tmp_path, monkeypatch):
    seen = []

    def measure(self, caches):
        assert not self.training
        assert len(caches[0]) == 12
        seen.append(self.net[0].weight.detach().clone())
        return Score("high", float(len(seen)), lower_is_better=False)

    monkeypatch.setattr(Tiny, "measure", measure)
    out = go(recipe, tmp_path / "out")
    kept, average = (load_weights(out / f"{n}.safetensors")[0] for n in ("best", "weights"))
    assert torch.equal(seen[-1], kept["net.0.weight"])
    assert torch.equal(seen[-1], average["net.0.weight"])


def test_methods_that_measure_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Tiny, "measure", Method.measure)
    with pytest.raises(ConfigError, match="measures nothing"):
        go(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_the_best(tmp_path, value):
    best = Best(tmp_path / "best.safetensors")
    assert not best.beaten_by(Score("x", value))
    best.keep(Score("x", 1.0), {"a": torch.ones(1)}, {})
    assert not best.beaten_by(Score("x", value))
    assert not best.beaten_by(Score("x", 1.0))
    assert best.beaten_by(Score("x", 0.9))
    assert best.beaten_by(Score("x", 1.1, lower_is_better=False))


def test_mending(tmp_path):
    file = tmp_path / "best.safetensors"
    old = Best(file)
    old.keep(Score("x", 2.0), {"a": torch.zeros(1)}, {"method": "m"})
    stale = card_path(file).read_bytes()
    old.keep(Score("x", 1.0), {"a": torch.ones(1)}, {"method": "m"})
    for damage in (stale, b"{", None):
        card_path(file).unlink()
        if damage is not None:
            card_path(file).write_bytes(damage)
        again = Best(file)
        again.resume()
        assert again.value == 1.0
        assert load_weights(file)[1] == mend_card(file)
    save_weights(file, {"a": torch.ones(1)}, {})
    with pytest.raises(WeightsError):
        Best(file).resume()
