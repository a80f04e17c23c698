"""Statistics of batch normalisation for averaged weights."""

import pytest
import torch
from tiny_method import Tiny

from mien.train.loop import STATISTICS, train
from mien.train.statistics import refreshed_statistics


def batches(n: int = 50) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(8, 3, 8, 8, generator=generator) + 2, "step": torch.tensor(0)}
        for _ in range(n)
    ]


@pytest.fixture
def method() -> Tiny:
    torch.manual_seed(0)
    made = Tiny(Tiny.Config()).train()
    for _ in range(50):  # other pictures than those that follow
        made.net(torch.rand(8, 3, 8, 8))
    return made


def test_they_are_those_of_the_pictures_of_the_training(method) -> None:
    found = refreshed_statistics(method, batches(), seed=1)
    assert found.keys() == {"net.1.running_mean", "net.1.running_var"}
    x = torch.cat([b["image"] for b in batches()])
    with torch.no_grad():
        y = method.net[0](x + 0.1 * torch.randn_like(x))
    torch.testing.assert_close(found["net.1.running_mean"], y.mean((0, 2, 3)), atol=0.01, rtol=0)
    torch.testing.assert_close(found["net.1.running_var"], y.var((0, 2, 3)), atol=0, rtol=0.05)
    assert (found["net.1.running_mean"] - method.net[1].running_mean).abs().max() > 0.1


def test_the_method_stays_as_it_was(method) -> None:
    before = {k: v.clone() for k, v in method.state_dict().items()}
    for training in (True, False):
        method.train(training)
        first, again = (refreshed_statistics(method, batches(), seed=1) for _ in range(2))
        assert all(first[k].equal(again[k]) for k in first)
        assert method.training == training
        assert all(v.equal(before[k]) for k, v in method.state_dict().items())
        assert method.net[1].momentum == 0.1
    assert all(p.grad is None for p in method.parameters())


def test_without_batch_normalisation_nothing_is_run(method) -> None:
    method.net[1] = torch.nn.Identity()

    def none():
        raise AssertionError("a batch was drawn")
        yield

    assert refreshed_statistics(method, none(), seed=1) == {}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_runs_weights_hold_them_and_its_checkpoints_do_not(
    precision, recipe, tmp_path, monkeypatch
) -> None:
    from safetensors.torch import load_file

    asked = []
    monkeypatch.setattr(Tiny, "hook", staticmethod(asked.append))
    train(recipe, out=tmp_path / "out", accelerator="cpu", precision=precision)
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    kept = load_file(tmp_path / "out/checkpoints/step_00000020/tensors.safetensors")
    drawn = [step for step in asked if step >= STATISTICS]
    assert len(set(drawn)) == 8
    assert len(drawn) == 8 * 4  # steps 5, 10, 15, 20; previews share theirs
    assert not weights["net.1.running_mean"].equal(kept["weights/net.1.running_mean"])
    train(
        recipe, out=tmp_path / "out", accelerator="cpu", precision=precision, resume=True
    )  # nothing is left to do
    again = load_file(tmp_path / "out" / "weights.safetensors")
    assert all(v.equal(weights[k]) for k, v in again.items())


def test_frozen_networks_keep_theirs(method) -> None:
    frozen = torch.nn.BatchNorm2d(3)
    frozen.running_mean.fill_(7)
    method.frozen = frozen
    train = type(method).train

    def stay(mode: bool = True) -> Tiny:
        train(method, mode)
        frozen.eval()
        return method

    method.train = stay
    found = refreshed_statistics(method, batches(), seed=1)
    assert found.keys() == {"net.1.running_mean", "net.1.running_var"}
    assert frozen.running_mean.eq(7).all()
