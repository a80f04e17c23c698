import pytest
import torch
from torch import nn

from mien.nets import winograd
from mien.nets.winograd import Conv3x3


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Take Winograd's way for small tensors too."""
    monkeypatch.setattr(winograd, "_PLACES", 1)


def twins(cin=64, cout=96):
    torch.manual_seed(0)
    ours = Conv3x3(cin, cout)
    plain = nn.Conv2d(cin, cout, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("size", [(2, 2), (4, 8), (16, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_and_gradients_are_those_of_the_direct_way(size, layout):
    ours, plain = twins()
    x = torch.randn(3, 64, *size).contiguous(memory_format=layout)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(a), plain(b)
    assert y.grad_fn.name() == "_WinogradBackward"
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)
    dy = torch.randn_like(y)
    y.backward(dy)
    z.backward(dy)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cin", "cout", "size", "dtype"),
    [
        (8, 64, (4, 4), torch.float32),
        (64, 64, (5, 4), torch.float32),
        (64, 64, (4, 4), torch.float64),
    ],
)
def test_the_librarys_way_where_winograds_does_not_fit(cin, cout, size, dtype):
    net = Conv3x3(cin, cout).to(dtype)
    y = net(torch.randn(1, cin, *size, dtype=dtype))
    assert "Convolution" in y.grad_fn.name()


def test_frozen_filters_still_pass_gradients_on():
    ours, plain = twins()
    ours.requires_grad_(False)
    x = torch.randn(1, 64, 4, 4)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours(a).square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    assert ours.weight.grad is None


def test_a_few_places_take_the_librarys_way(monkeypatch):
    ours, _ = twins()
    monkeypatch.setattr(winograd, "_PLACES", 33)
    assert "Convolution" in ours(torch.randn(2, 64, 4, 4)).grad_fn.name()
    assert "Winograd" in ours(torch.randn(3, 64, 4, 4)).grad_fn.name()
