"""Processes that are killed, that cannot write, or that train together."""

import multiprocessing
import random
import time

import pytest
from tiny_method import train_and_compare, train_tiny, write_recipe

from mien.files.errors import ConfigError
from mien.files.weights import mend_card
from mien.train.checkpoint import checkpoints, load_newest
from mien.train.loop import Job, train
from mien.train.parallel import launch
from mien.train.recipe import load_recipe


@pytest.fixture(scope="module")
def processes():
    """Children forked from a server that has imported everything: cheap, and free of threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mien.train.loop", "mien.methods", "lightning_fabric"])
    return context


def fail(text):
    raise AssertionError(text)


def test_kill_at_random_instants_loses_nothing(processes, table, tmp_path):
    recipe = write_recipe(tmp_path / "a.yaml", table, steps=40, checkpoint_every=1, measure_every=8)
    out = tmp_path / "out"
    instants = random.Random(4)
    reached = -1
    for _ in range(6):
        child = processes.Process(target=train_tiny, args=(recipe, out, True))
        child.start()
        while child.is_alive():  # until it has got further than the one before
            found = checkpoints(out / "checkpoints")
            if found and int(found[-1].name[5:]) > reached:
                break
            time.sleep(0.005)
        time.sleep(instants.uniform(0, 0.05))
        child.kill()
        child.join()
        newest = load_newest(out / "checkpoints", fail)  # whole, without falling back
        assert newest is not None
        assert newest.state["step"] >= reached
        reached = int(newest.state["step"])
        if (out / "best.safetensors").exists():  # whole, and never worse than what was measured
            told = mend_card(out / "best.safetensors")["best"]["value"]
            assert told <= abs(min(reached, 12) // 2 * 2 - 12)
    assert reached >= 5
    train(recipe, out=out, resume=True, accelerator="cpu", threads=1)
    whole = train(recipe, out=tmp_path / "whole", accelerator="cpu", threads=1)
    tensors = "checkpoints/step_00000040/tensors.safetensors"
    for name in (tensors, "best.safetensors", "best.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not list(out.rglob(".*"))


def test_disk_that_takes_no_more(processes, table, tmp_path):
    recipe = write_recipe(tmp_path / "a.yaml", table, steps=4, checkpoint_every=2)
    out = tmp_path / "out"
    train(recipe, out=out, accelerator="cpu", threads=1, overrides=["steps=2"])
    child = processes.Process(target=train_tiny, args=(recipe, out, True, 4096))
    child.start()
    child.join()
    assert child.exitcode == 1
    said = (tmp_path / "error.txt").read_text()
    assert said.startswith("CheckpointError: Cannot write into")
    assert "File too large" in said
    assert load_newest(out / "checkpoints", fail).state["step"] == 2


def test_two_processes_keep_equal_weights(table, tmp_path):
    file = write_recipe(tmp_path / "a.yaml", table, steps=6, preview_every=3, checkpoint_every=3)
    job = Job(load_recipe(file, processes=2), tmp_path / "two", "mien train a.yaml")
    found = launch(train_and_compare, job, devices=2, accelerator="cpu", precision="32-true")
    assert found == {
        "weights_differ": False,
        "batches_differ": True,
        "moved": [[-1.5, -1.5], [-1.5, -1.5], [0.0, 0.0]],
        "untouched": True,
    }
    one = train(file, out=tmp_path / "one", accelerator="cpu", threads=1)
    two = load_newest(tmp_path / "two" / "checkpoints", fail)
    alone = load_newest(one / "checkpoints", fail)
    assert two.state["step"] == alone.state["step"] == 6
    name = "weights/net.0.weight"
    assert not two.tensors[name].equal(alone.tensors[name])
    assert '"images": 48' in (tmp_path / "two" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_error_in_processes_is_one_sentence(table, tmp_path):
    file = write_recipe(tmp_path / "a.yaml", table, config={"explode_at": 3})
    job = Job(load_recipe(file, processes=2), tmp_path / "out", "mien train a.yaml")
    with pytest.raises(ConfigError, match="not a finite number at step 4"):
        # As the command would; the function's module tells the processes of the tiny method.
        launch(train_and_compare, job, devices=2, accelerator="cpu", precision="32-true")
