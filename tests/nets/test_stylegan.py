"""StyleGAN2's networks against the published formulas, written the slow and direct way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.files.errors import ConfigError
from mien.nets.stylegan import Discriminator, Generator, StyledConv, ToRGB, downsample, upsample

SMALL = {"channel_base": 256, "channel_max": 16, "z_dim": 12, "w_dim": 12, "mapping_layers": 2}


def generator(architecture: str = "skip", size: int = 32) -> Generator:
    """A small one in which biases, noise and mean style count."""
    torch.manual_seed(0)
    g = Generator(size, architecture=architecture, **SMALL).eval()
    with torch.no_grad():
        for name, parameter in g.named_parameters():
            if "bias" in name or "strength" in name:
                parameter += 0.3 * torch.randn_like(parameter)
        g.w_avg.normal_()
    return g.requires_grad_(requires_grad=True)


# The published way: a kernel for each picture, zeros inserted one by one, no factor moved.


def filtered(x: Tensor, pad: tuple[int, int, int, int], gain: float) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64 * gain
    padded = F.pad(x, pad).flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel[None, None])[:, 0].unflatten(0, x.shape[:2])


def inserted(x: Tensor) -> Tensor:
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return wide


def linear(layer: torch.nn.Module, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    mul = layer.lr_mul
    return x @ (weight * mul / math.sqrt(weight.shape[1])).T + bias * mul


def styled(layer: StyledConv, x: Tensor, w: Tensor) -> Tensor:
    s = linear(layer.style, w)
    rows = []
    for picture, style in zip(x, s, strict=True):
        kernel = layer.weight * style[None, :, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            y = F.conv_transpose2d(picture[None], kernel.transpose(0, 1), stride=2)
            y = filtered(y, (1, 1, 1, 1), 4)
        else:
            y = F.conv2d(picture[None], kernel, padding=1)
        rows.append(y)
    y = torch.cat(rows) + layer.noise * layer.noise_strength + layer.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


def colours(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    s = linear(layer.style, w) / math.sqrt(x.shape[1])
    return F.conv2d(x * s[:, :, None, None], layer.weight, layer.bias)


def published(g: Generator, z: Tensor) -> Tensor:
    """Architecture ``skip``; every convolution has its style by the published order."""
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in g.mapping.layers:
        w = F.leaky_relu(linear(layer, w), 0.2) * math.sqrt(2)
    blocks = g.synthesis.blocks
    x = blocks["4"].const.expand(len(z), -1, -1, -1)
    x = styled(blocks["4"].conv1, x, w)
    image = colours(blocks["4"].torgb, x, w)
    for size in ("8", "16", "32"):
        block = blocks[size]
        x = styled(block.conv1, styled(block.conv0, x, w), w)
        image = filtered(inserted(image), (2, 1, 2, 1), 4) + colours(block.torgb, x, w)
    return image


def test_generator_is_the_published_one() -> None:
    g = generator()
    z = torch.randn(3, 12)
    expected = published(g, z)
    assert expected.std() > 0.1
    assert (g(z, noise="const") - expected).abs().max() < 1e-4


def test_every_layer_has_its_style() -> None:
    """Changing style i changes what the published order says, and the picture."""
    g = generator()
    assert g.num_ws == 8
    ws = g.spread(g.mapping(torch.randn(1, 12))).clone()
    before = g.synthesis(ws, "const")
    for layer in range(g.num_ws):
        other = ws.clone()
        other[:, layer] += 1
        assert (g.synthesis(other, "const") - before).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="8 styles"):
        g.synthesis(ws[:, :4])
    with pytest.raises(ConfigError, match="const"):
        g.synthesis(ws, "constant")


def test_up_and_down() -> None:
    x = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(upsample(x), filtered(inserted(x), (2, 1, 2, 1), 4))
    torch.testing.assert_close(downsample(x), filtered(x, (1, 1, 1, 1), 1)[:, :, ::2, ::2])


def test_truncation() -> None:
    g = generator()
    w = g.mapping(torch.randn(2, 12))
    ws = g.spread(w)
    torch.testing.assert_close(g.truncate(w, 1.0), w)
    torch.testing.assert_close(g.truncate(w, 0.0), g.w_avg.expand_as(w))
    part = g.truncate(ws, 0.5, layers=3)
    torch.testing.assert_close(part[:, :3], (ws[:, :3] + g.w_avg) / 2)
    torch.testing.assert_close(part[:, 3:], ws[:, 3:])


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_path_length_has_a_second_derivative(architecture: str) -> None:
    g = generator(architecture, 16)
    ws = g.spread(g.mapping(torch.randn(2, 12)))
    image = g.synthesis(ws)
    assert image.shape == (2, 3, 16, 16)
    (slope,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), ws, create_graph=True)
    slope.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for name, p in g.named_parameters()
        if name.endswith("weight")
    )


def test_r1_is_a_derivative() -> None:
    """The gradient of R1 by the weights agrees with a finite difference."""
    torch.manual_seed(1)
    d = Discriminator(16, 128, 8).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)

    def r1() -> Tensor:
        y = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(d(y).sum(), y, create_graph=True)
        return slope.square().sum()

    r1().backward()
    weight = d.blocks["16"].conv1.weight
    told = weight.grad[1, 2, 0, 1].item()
    with torch.no_grad():
        weight[1, 2, 0, 1] += 1e-5
    above = r1().item()
    with torch.no_grad():
        weight[1, 2, 0, 1] -= 2e-5
    assert told == pytest.approx((above - r1().item()) / 2e-5, rel=1e-3)


def test_discriminator_fades_from_the_smaller_one() -> None:
    small, large = Discriminator(16, 128, 8), Discriminator(32, 128, 8)
    state = {k: v for k, v in small.state_dict().items() if not k.startswith("from_rgb")}
    for part in ("weight", "bias"):
        state[f"from_rgb_half.{part}"] = small.state_dict()[f"from_rgb.{part}"]
    missing, unexpected = large.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(large(x, 0.0), small(downsample(x)))
    assert not torch.allclose(large(x, 0.5), large(x, 1.0))


def test_deviation_needs_whole_groups() -> None:
    d = Discriminator(16, 128, 8)
    with pytest.raises(ConfigError, match="multiple of 4"):
        d(torch.zeros(6, 3, 16, 16))
    assert d(torch.zeros(3, 3, 16, 16)).shape == (3,)
