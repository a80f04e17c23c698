import pytest
import torch
from torch import nn

from mien.train.ema import Ema


def test_follows_the_definition():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    ema = Ema(net, 0.5)
    expected = net.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            net.weight += torch.randn_like(net.weight)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    torch.testing.assert_close(ema.average["weight"], expected)


def test_applied_for_a_while_even_after_an_error():
    net = nn.Linear(2, 2)
    ema = Ema(net, 0.9)
    with torch.no_grad():
        net.weight.fill_(1.0)
    ema.average["weight"].fill_(2.0)

    def look():
        with ema.applied():
            assert (net.weight == 2).all()
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        look()
    assert (net.weight == 1).all()
    assert (ema.average["weight"] == 2).all()


def test_leaves_frozen_tensors_and_buffers_out():
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2))
    assert set(Ema(net, 0.9).average) == {"1.weight", "1.bias"}
