import errno

import pytest
import safetensors.torch
import torch
from torch import nn, optim

from mien.files.errors import CheckpointError
from mien.train.checkpoint import (
    Checkpoint,
    checkpoints,
    clean,
    load_newest,
    pack_optimiser,
    save_checkpoint,
    stored,
    unpack_optimiser,
)


def at(step):
    return Checkpoint({"weights/a": torch.full((3,), float(step))}, {"note": f"of {step}"})


def quiet(text):
    raise AssertionError(text)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_round_trip_keeps_the_newest_two(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, at(step))
    assert names(tmp_path) == ["step_00000002", "step_00000010"]
    found = load_newest(tmp_path, quiet)
    assert found.state["step"] == 10
    assert found.state["note"] == "of 10"
    assert found.part("weights")["a"].tolist() == [10, 10, 10]
    assert load_newest(tmp_path / "absent", quiet) is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one bit": lambda p: flip(p / "tensors.safetensors"),
    "cut off": lambda p: (p / "tensors.safetensors").write_bytes(b"abc"),
    "no tensors": lambda p: (p / "tensors.safetensors").unlink(),
    "no state": lambda p: (p / "state.json").unlink(),
    "half a state": lambda p: (p / "state.json").write_text('{"step": 1'),
    "another state": lambda p: (p / "state.json").write_text("[]"),
    "binary state": lambda p: (p / "state.json").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_falls_back_to_the_older_one(tmp_path, damage):
    save_checkpoint(tmp_path, 1, at(1))
    DAMAGE[damage](save_checkpoint(tmp_path, 2, at(2)))
    warnings = []
    assert load_newest(tmp_path, warnings.append).state["step"] == 1
    assert len(warnings) == 1
    assert "step_00000002" in warnings[0]


def test_all_damaged_is_an_error(tmp_path):
    DAMAGE["one bit"](save_checkpoint(tmp_path, 1, at(1)))
    with pytest.raises(CheckpointError, match="All checkpoints"):
        load_newest(tmp_path, lambda text: None)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_keeps_the_previous_one(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path, 1, at(1))

    def full(tensors, path):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save_checkpoint(tmp_path, 2, at(2))
    assert "--resume" in str(caught.value)
    assert names(tmp_path) == ["step_00000001"]
    assert load_newest(tmp_path, quiet).state["step"] == 1


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_checkpoint(tmp_path / "file" / "checkpoints", 1, at(1))


def test_clean_removes_halves_and_what_is_later(tmp_path):
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 1, at(1))
    save_checkpoint(folder, 2, at(2))
    (folder / ".step_00000003.abc").mkdir()
    (tmp_path / ".weights.safetensors.x.tmp").write_text("")
    clean(tmp_path, 1)
    assert [p.name for p in checkpoints(folder)] == ["step_00000001"]
    assert names(folder) == ["step_00000001"]
    assert names(tmp_path) == ["checkpoints"]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, 0.1, momentum=0.9),
        lambda p: optim.AdamW(p, 0.1, fused=True),
        lambda p: optim.Adam(p, 0.1, amsgrad=True),
        lambda p: optim.RMSprop(p, 0.1, centered=True),
    ],
)
def test_optimiser_goes_on_where_it_stopped(make):
    def run(steps, net, optimiser, start=0):
        for step in range(start, steps):
            optimiser.zero_grad(set_to_none=True)
            torch.manual_seed(step)
            net(torch.randn(2, 3, 8, 8)).square().mean().backward()
            optimiser.step()

    def fresh():
        torch.manual_seed(0)
        net = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        return net, make(net.parameters())

    whole, optimiser = fresh()
    run(6, whole, optimiser)

    first, optimiser = fresh()
    run(3, first, optimiser)
    tensors, values = pack_optimiser(optimiser)
    weights = {k: stored(v) for k, v in first.state_dict().items()}
    again, optimiser = fresh()
    again.load_state_dict(weights)
    unpack_optimiser(optimiser, tensors, values)
    run(6, again, optimiser, start=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
