"""Whole trainings of the tiny method in this process."""

import errno
import json
import os
import signal

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from tiny_method import Tiny, write_recipe, write_table

from mien.faces.image import read_image
from mien.files.errors import CheckpointError, ConfigError, TableError, WeightsError
from mien.files.weights import load_weights
from mien.train.checkpoint import checkpoints
from mien.train.loop import train


def go(recipe, out, **options):
    return train(recipe, out=out, accelerator="cpu", threads=1, **options)


def lines(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows
    ]


def final(out, step=20):
    return (out / "checkpoints" / f"step_{step:08d}" / "tensors.safetensors").read_bytes()


def stop_at(step):
    """Return a hook that asks for the end as ``kill`` and Ctrl-C do, during ``step``."""
    return lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory, table):
    """A training of 20 steps without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    from mien.methods.base import _METHODS

    _METHODS["tiny"] = Tiny
    try:
        return go(write_recipe(folder / "tiny.yaml", table), folder / "out")
    finally:
        del _METHODS["tiny"]


def test_20_steps_are_10_and_resume_and_10_bit_for_bit(
    whole, recipe, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    torch.manual_seed(123)  # whatever the caller's generator is at
    monkeypatch.setattr(Tiny, "hook", staticmethod(stop_at(9)))
    go(recipe, out)
    assert checkpoints(out / "checkpoints")[-1].name == "step_00000010"
    said = capsys.readouterr().err
    assert "Stopped after step 10 of 20" in said
    assert f"--out {out} --resume" in said
    monkeypatch.setattr(Tiny, "hook", staticmethod(lambda step: None))
    torch.manual_seed(456)
    go(recipe, out, resume=True)

    assert final(out) == final(whole)
    saved = load_file(out / "checkpoints" / "step_00000020" / "tensors.safetensors")
    assert {name.split("/")[0] for name in saved} == {"weights", "ema", "optimiser"}
    assert (out / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()
    assert lines(out) == lines(whole)


def test_what_a_run_leaves(whole):
    names = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert names == {
        "weights.safetensors",
        "weights.json",
        "metrics.jsonl",
        "previews/step_00000010.png",
        "previews/step_00000020.png",
        *(
            f"checkpoints/step_{step:08d}/{file}"
            for step in (15, 20)
            for file in ("state.json", "tensors.safetensors")
        ),
    }
    tensors, card = load_weights(whole / "weights.safetensors")
    assert not [name for name in tensors if name.startswith("frozen.")]
    saved = load_file(whole / "checkpoints" / "step_00000020" / "tensors.safetensors")
    assert torch.equal(tensors["net.0.weight"], saved["ema/net.0.weight"])
    assert not torch.equal(tensors["net.0.weight"], saved["weights/net.0.weight"])
    assert int(tensors["count"]) == 20
    assert card["method"] == "tiny"
    assert card["stage"] == "main"
    assert card["config"] == {"width": 4, "rate": 1.0, "explode_at": -1}
    assert card["images_seen"] == 80
    assert card["data"][0]["faces"] == 12
    assert card["data"][0]["licences"] == {"CC0": 12}
    assert card["recipe"]["tables"] == ["faces"]
    assert read_image(whole / "previews" / "step_00000020.png", min_side=1).shape == (8, 16, 3)

    rows = lines(whole)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    assert [row["images"] for row in rows] == [16, 32, 48, 64, 80]
    assert rows[0]["learning_rate"] == pytest.approx(0.01)
    assert rows[-1]["learning_rate"] < 0.001
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_resume_of_a_finished_run_changes_nothing(whole, recipe, tmp_path):
    out = tmp_path / "out"
    go(recipe, out)
    (out / "weights.safetensors").unlink()  # as if killed between checkpoint and weights
    before = lines(out)
    go(recipe, out, resume=True)
    assert final(out) == final(whole)
    assert lines(out) == before
    load_weights(out / "weights.safetensors")


def test_damaged_newest_checkpoint(whole, recipe, tmp_path, capsys):
    out = tmp_path / "out"
    go(recipe, out)
    newest = out / "checkpoints" / "step_00000020" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    go(recipe, out, resume=True)
    said = capsys.readouterr().err
    assert "step_00000020 is damaged" in said
    assert "Goes on after step 15" in said
    assert final(out) == final(whole)
    assert lines(out) == lines(whole)


def test_resume_with_other_settings(whole, recipe, table, tmp_path):
    for overrides, key in (
        (["seed=8"], "seed"),
        (["config.width=5"], "config.width"),
        (["batch_size=2", "clip=0"], "batch_size"),
        (["stage=later"], "stage"),
    ):
        with pytest.raises(CheckpointError, match=rf"{key} \(was") as caught:
            go(recipe, whole, resume=True, overrides=overrides)
        assert "\n" not in str(caught.value)
    other = write_table(tmp_path / "other", faces=13)
    with pytest.raises(CheckpointError, match=r"tables \(was"):
        go(recipe, whole, resume=True, overrides={"tables": [str(other)]})
    with pytest.raises(CheckpointError, match="already holds a training"):
        go(recipe, whole)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="already holds a training"):
        go(recipe, tmp_path)


def test_resume_of_a_run_that_knew_fewer_settings(recipe, tmp_path):
    out = tmp_path / "out"
    go(recipe, out, overrides=["steps=2", "schedule=constant"])
    file = out / "checkpoints" / "step_00000002" / "state.json"
    state = json.loads(file.read_text())
    for key in ("config.rate", "warmup"):
        del state["recipe"][key]
    file.write_text(json.dumps(state))
    longer = ["steps=3", "schedule=constant", "warmup=0"]
    with pytest.raises(CheckpointError, match=r"config.rate \(was 1.0, is 2.0\)"):
        go(recipe, out, resume=True, overrides=[*longer, "config.rate=2"])
    go(recipe, out, resume=True, overrides=longer)
    assert json.loads((out / "weights.json").read_text())["steps"] == 3


def test_resume_may_be_longer_and_log_otherwise(recipe, tmp_path):
    out = tmp_path / "out"
    short = ["steps=4", "schedule=constant"]
    go(recipe, out, overrides=short, resume=True)  # nothing to resume: starts
    go(recipe, out, overrides=["steps=6", "log_every=1", "schedule=constant"], resume=True)
    assert [row["step"] for row in lines(out)] == [4, 5, 6]
    assert json.loads((out / "weights.json").read_text())["steps"] == 6


def test_dry_run_writes_nothing(recipe, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    go(recipe, tmp_path / "out", dry_run=True, overrides=["config.width=6"])
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "width: 6" in said
    assert "learning_rate: 0.01" in said
    assert "6 frozen" in said
    assert "images/s" in said
    assert "20 steps, 80 images" in said


def test_dry_run_counts_the_work(tmp_path, table, capsys):
    recipe = write_recipe(tmp_path / "a.yaml", table, config={"width": 256})
    go(recipe, tmp_path / "out", dry_run=True)
    words = capsys.readouterr().out.split("compute")[1].split()
    # two convolutions 3x3, 3 <-> 256 channels, 64 positions, forward and twice backward, but no
    # gradient for the image: (2 + 3) x 2 x 9 x 3 x 256 x 64 FLOP; the critic is small
    assert float(words[0]) * 1e9 == pytest.approx(5 * 2 * 9 * 3 * 256 * 64, rel=0.15)


def test_later_stage_starts_from_the_one_before(whole, recipe, tmp_path, capsys):
    overrides = ["stage=later", "steps=1", "learning_rate=1e-9", "ema=0"]
    out = go(recipe, tmp_path / "later", overrides=overrides, init_from=whole)
    assert "2 new ones (not in the file: head), 0 not used" in capsys.readouterr().err
    before, _ = load_weights(whole / "weights.safetensors")
    after, card = load_weights(out / "weights.safetensors")
    torch.testing.assert_close(after["net.0.weight"], before["net.0.weight"])
    assert "head.weight" in after
    assert card["stage"] == "later"
    assert "--init-from" in card["command"]
    go(recipe, out, overrides=overrides, init_from=tmp_path / "gone.safetensors", resume=True)


def test_start_from_weights_that_do_not_fit(whole, recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"is \(4,.*same config"):
        go(recipe, tmp_path / "a", init_from=whole, overrides=["config.width=5"])
    from mien.files.weights import save_weights

    save_weights(tmp_path / "other.safetensors", {"x": torch.zeros(2)}, {})
    with pytest.raises(ConfigError, match="no tensor of tiny"):
        go(recipe, tmp_path / "a", init_from=tmp_path / "other.safetensors")
    with pytest.raises(WeightsError):
        go(recipe, tmp_path / "a", init_from=tmp_path / "absent.safetensors")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["stage=man"], ConfigError, "did you mean 'main'"),
        (["method=tinny"], ConfigError, "did you mean 'tiny'"),
        (["config.widht=3"], ConfigError, "did you mean 'width'"),
        (["tables=[]"], ConfigError, "tables=FOLDER"),
        (["tables=nowhere"], TableError, "nowhere"),
        (["config.explode_at=3", "checkpoint_every=2"], ConfigError, "'net' is not a finite"),
    ],
)
def test_bad_settings_end_in_one_sentence(recipe, tmp_path, overrides, error, words):
    with pytest.raises(error, match=words) as caught:
        go(recipe, tmp_path / "out", overrides=overrides)
    assert "\n" not in str(caught.value)


def test_no_such_devices(recipe, tmp_path):
    with pytest.raises(ConfigError, match="devices is at least 1"):
        go(recipe, tmp_path / "out", devices=0)
    with pytest.raises(ConfigError, match="Cannot train on 1 x abacus"):
        train(recipe, out=tmp_path / "out", accelerator="abacus")


def test_full_disk_keeps_the_previous_checkpoint(whole, recipe, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = safetensors.torch.save_file

    def full(tensors, path, metadata=None):
        if "step_00000015" in str(path):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        go(recipe, out)
    assert [p.name[-2:] for p in (out / "checkpoints").iterdir()] in (["05", "10"], ["10", "05"])
    load_weights(out / "weights.safetensors")
    monkeypatch.setattr(safetensors.torch, "save_file", real)
    go(recipe, out, resume=True)
    assert final(out) == final(whole)


def test_clipping_bounds_the_update(tmp_path, table):
    recipe = write_recipe(
        tmp_path / "a.yaml", table, steps=1, ema=0, schedule="constant", warmup=0, preview_every=0
    )

    def moved(name, **overrides):
        out = go(recipe, tmp_path / name, overrides=overrides)
        first, last = (
            load_file(out / "checkpoints" / f"step_0000000{i}" / "tensors.safetensors")
            for i in (0, 1)
        )
        names = [n for n in last if n.startswith("weights/critic.")]
        return torch.cat([(last[n] - first[n]).flatten() for n in names]).norm().item()

    assert moved("free", clip=0) > 1e-4
    assert moved("clipped", clip=1e-3) == pytest.approx(0.005 * 1e-3, rel=0.05)


def test_mixed_precision_trains(recipe, tmp_path):
    out = go(recipe, tmp_path / "out", precision="bf16-mixed", overrides=["steps=2"])
    tensors, card = load_weights(out / "weights.safetensors")
    assert card["recipe"]["precision"] == "bf16-mixed"
    assert tensors["net.0.weight"].dtype == torch.float32
    full = go(recipe, tmp_path / "full", overrides=["steps=2"])
    assert lines(full)[0]["loss"] == pytest.approx(lines(out)[0]["loss"], rel=0.02)
    assert lines(full)[0]["loss"] != lines(out)[0]["loss"]


@pytest.mark.parametrize("units", [{"amx_bf16"}, {"avx512_bf16"}, set()])
def test_automatic_precision(recipe, tmp_path, monkeypatch, units):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))
    out = go(recipe, tmp_path / "out", precision="auto", overrides=["steps=1"])
    card = load_weights(out / "weights.safetensors")[1]
    assert card["recipe"]["precision"] == ("bf16-mixed" if units else "32-true")


def test_tensorboard(recipe, tmp_path):
    out = go(recipe, tmp_path / "out", overrides=["steps=1"], tensorboard=True)
    assert list((out / "tensorboard").glob("events.*"))


def test_method_without_a_preview(recipe, tmp_path, monkeypatch):
    from mien.methods.base import Method

    monkeypatch.setattr(Tiny, "preview", Method.preview)
    out = go(recipe, tmp_path / "out", overrides=["steps=2", "preview_every=1"])
    assert not (out / "previews").exists()


def test_previews_do_not_disturb_the_training(whole, recipe, tmp_path):
    out = go(recipe, tmp_path / "out", overrides=["preview_every=1", "log_every=4"])
    assert final(out) == final(whole)
    assert lines(out) == lines(whole)
    pictures = [read_image(p, min_side=1) for p in sorted((out / "previews").glob("*.png"))]
    assert len(pictures) == 20
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture[:, :8], pictures[0][:, :8])  # one fixed batch


def test_landmarks_train(tmp_path):
    table = write_table(tmp_path / "faces", faces=6, size=72)
    recipe = write_recipe(
        tmp_path / "a.yaml",
        table,
        method="landmarks",
        size=72,
        steps=2,
        batch_size=6,
        config={"width": 2},
    )
    out = go(recipe, tmp_path / "out")
    tensors, _ = load_weights(out / "weights.safetensors")
    assert tensors["net.mean_shape"].abs().sum() > 0
    assert lines(out)[0]["nme"] > 0
