"""The training of a style-based generator."""

from __future__ import annotations

import pytest
import torch

from mien.files.errors import ConfigError
from mien.methods.stylegan import StyleGAN, augment

SMALL = {"channel_base": 256, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}


def made(size: int, **settings) -> StyleGAN:
    torch.manual_seed(size)
    return StyleGAN(StyleGAN.Config(size=size, **SMALL, **settings)).eval()


def test_a_grown_generator_begins_with_the_pictures_of_the_smaller_one() -> None:
    small, grown = made(16), made(32)
    adopted = grown.adopt(small.state_dict())
    grown.load_state_dict(adopted, strict=False)
    pictures = small.draw(4)
    bigger = torch.nn.functional.avg_pool2d(grown.draw(4), 2)
    assert torch.nn.functional.mse_loss(bigger, pictures) < 0.05 * pictures.var()
    assert torch.equal(grown.d.from_rgb_half.weight, small.d.from_rgb.weight)
    assert not any(name.startswith("d.from_rgb.") for name in adopted)


def test_weights_of_the_same_size_are_taken_as_they_are() -> None:
    tensors = made(16).state_dict()
    assert made(16).adopt(tensors) is tensors


def test_augmentation_is_differentiable_and_off_at_p_0() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 3, 16, 16).mul(2).sub(1).requires_grad_()
    assert torch.equal(augment(x, torch.tensor(0.0)), x)
    changed = augment(x, torch.tensor(1.0))
    assert ((changed - x).abs().amax((1, 2, 3)) > 0).all()
    (gradient,) = torch.autograd.grad(changed.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()
    half = (augment(x, torch.tensor(0.3)) - x).abs().amax((1, 2, 3)) > 0
    assert 0.3 < half.float().mean() < 0.95  # three chances of 0.3 leave 0.34 alone


def test_p_rises_while_the_discriminator_is_too_sure() -> None:
    method = made(16, augment="adaptive")
    for step in range(4):
        method._adjust(1.0, step, 1000)
    assert method.p == pytest.approx(0.008)
    for step in range(4, 8):
        method._adjust(0.1, step, 1000)
    assert method.p == pytest.approx(0.0)


def test_styles_are_mixed_and_the_mean_style_follows() -> None:
    method = made(16, mixing=1.0)
    ws = method.styles(32)
    assert ws.shape == (32, 6, 8)
    assert (ws[:, 0] != ws[:, -1]).any(1).all()
    assert method.g.w_avg.abs().sum() > 0
    alone = made(16, mixing=0.0).styles(4)
    assert torch.equal(alone[:, 0], alone[:, -1])


def test_path_length_has_a_gradient_and_remembers_its_mean() -> None:
    method = made(16)
    penalty = method.path_penalty(4)
    penalty.backward()
    assert method.path_mean > 0
    assert method.g.synthesis.blocks["8"].conv0.weight.grad.abs().sum() > 0


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adaptive'"):
        made(16, augment="adaptiv")
    with pytest.raises(ConfigError, match="set size and config"):
        made(16).sampler([type("Cache", (), {"size": 32})()], 4, 0, 0)
