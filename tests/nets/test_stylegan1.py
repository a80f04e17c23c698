"""StyleGAN1's synthesis against the published description, written the slow and direct way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.files.errors import ConfigError
from mien.nets.stylegan import Generator

SMALL = {"channel_base": 128, "channel_max": 8, "z_dim": 12, "w_dim": 12, "mapping_layers": 3}


def generator() -> Generator:
    """A small one in which biases, noise and styles count."""
    torch.manual_seed(0)
    g = Generator(32, architecture="adain", **SMALL).eval()
    with torch.no_grad():
        for name, parameter in g.named_parameters():
            if "bias" in name or "strength" in name or "const" in name:
                parameter += 0.5 * torch.randn_like(parameter)
    return g


def convolved(x: Tensor, weight: Tensor, gain: float) -> Tensor:
    """Every output pixel by itself, with the run-time factor gain / sqrt(fan in)."""
    count, cin, k, _ = weight.shape
    padded = F.pad(x, (k // 2,) * 4)
    weight = weight * gain / math.sqrt(cin * k * k)
    h, w = x.shape[1:]
    y = torch.zeros(count, h, w)
    for row in range(h):
        for column in range(w):
            patch = padded[:, row : row + k, column : column + k]
            y[:, row, column] = (weight * patch).sum((1, 2, 3))
    return y


def published(g: Generator, z: Tensor) -> Tensor:
    """One picture ``(3, 32, 32)`` of one z."""
    w = z / (z.square().mean() + 1e-8).sqrt()
    for layer in g.mapping.layers:
        rate = 0.01
        w = layer.weight * rate * math.sqrt(2) / math.sqrt(len(w)) @ w + layer.bias * rate * 2**0.5
        w = torch.where(w > 0, w, 0.2 * w)
    s = g.synthesis
    x = s.const
    for i, layer in enumerate(s.layers):
        if i:
            if i % 2 == 0:
                x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
            x = convolved(x, s.convs[i - 1].weight, math.sqrt(2))
            if i % 2 == 0:
                soft = torch.zeros_like(x)
                padded = F.pad(x, (1, 1, 1, 1))
                for a, p in ((0, 1), (1, 2), (2, 1)):
                    for b, q in ((0, 1), (1, 2), (2, 1)):
                        part = padded[:, a : a + x.shape[1], b : b + x.shape[2]]
                        soft += part * p * q / 16
                x = soft
        x = x + layer.noise * layer.noise_strength[:, None, None] + layer.bias[:, None, None]
        x = torch.where(x > 0, x, 0.2 * x)
        rows = []
        style = layer.style.weight / math.sqrt(len(w)) @ w + layer.style.bias
        count = len(x)
        for c in range(count):
            deviation = (x[c].var(unbiased=False) + 1e-8).sqrt()
            rows.append((x[c] - x[c].mean()) / deviation * (style[c] + 1) + style[count + c])
        x = torch.stack(rows)
    return convolved(x, s.torgb.weight, 1.0) + s.torgb.bias[:, None, None]


def test_synthesis_is_the_published_one() -> None:
    g = generator()
    z = torch.randn(2, 12)
    with torch.no_grad():
        expected = torch.stack([published(g, one) for one in z])
        assert expected.std() > 0.1
        assert (g(z, noise="const") - expected).abs().max() < 1e-4


def test_every_layer_has_its_style() -> None:
    g = generator()
    assert g.num_ws == 8
    ws = g.spread(g.mapping(torch.randn(1, 12))).clone()
    before = g.synthesis(ws, "const")
    for layer in range(g.num_ws):
        other = ws.clone()
        other[:, layer] += 1
        assert (g.synthesis(other, "const") - before).abs().max() > 1e-4
    assert not torch.equal(g.synthesis(ws, "random"), before)
    with pytest.raises(ConfigError, match="8 styles"):
        g.synthesis(ws[:, :4])
    with pytest.raises(ConfigError, match="const"):
        g.synthesis(ws, "constant")


def test_path_length_has_a_second_derivative() -> None:
    g = generator()
    ws = g.spread(g.mapping(torch.randn(2, 12)))
    image = g.synthesis(ws)
    (slope,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), ws, create_graph=True)
    slope.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for name, p in g.named_parameters()
        if name.endswith("style.weight")
    )
