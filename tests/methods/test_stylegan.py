"""The training of StyleGAN2: growing, augmentation, lazy regularisation."""

from __future__ import annotations

import pytest
import torch

from mien.files.errors import ConfigError
from mien.methods.stylegan import StyleGAN, augment
from mien.nets.stylegan import downsample, upsample


def small(size: int, **settings: object) -> StyleGAN:
    torch.manual_seed(size)
    config = StyleGAN.Config(
        size=size, channel_base=256, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2, **settings
    )
    return StyleGAN(config)


def test_growing_begins_with_the_smaller_networks() -> None:
    half, full = small(16), small(32, fade=100)
    full.load_state_dict(full.adopt(half.state_dict()), strict=False)
    z = torch.randn(4, 8)
    torch.testing.assert_close(full.g(z, noise="const"), upsample(half.g(z, noise="const")))
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(full.d(x, 0.0), half.d(downsample(x)))


def test_equal_sizes_are_taken_over_whole() -> None:
    state = small(16).state_dict()
    assert small(16).adopt(state) is state


def test_augmentation() -> None:
    torch.manual_seed(0)
    x = torch.rand(32, 3, 16, 16) * 2 - 1
    assert torch.equal(augment(x, torch.zeros(())), x)
    y = augment(x, torch.full((), 0.3))
    same = (y == x).flatten(1).all(1).sum().item()
    assert 1 <= same <= 25  # 0.7³ of them have none of the three
    x.requires_grad_()
    (slope,) = torch.autograd.grad(augment(x, torch.ones(())).sum(), x)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_probability_follows_the_discriminator() -> None:
    method = small(16, augment="adaptive")
    for sign, change in ((0.9, 1), (0.2, -1)):
        before = method.p.clone().fill_(0.5)
        method.p.copy_(before)
        for step in range(4):
            method._adjust(sign, step, 50)
        assert method.p.item() - 0.5 == pytest.approx(change * 4 * 50 / 500_000, rel=1e-3)


def test_lazy_terms_are_computed_at_their_steps_only() -> None:
    method = small(16, r1_every=3, path_every=2)
    batch = {"image": torch.rand(4, 3, 16, 16) * 2 - 1}
    seen = [method.step(batch, lambda name, loss: None) for _ in range(4)]
    assert ["R1" in s for s in seen] == [True, False, False, True]
    assert ["path" in s for s in seen] == [True, False, True, False]
    groups = method.optimisers(1.0)["generator"].param_groups[0]
    assert groups["lr"] == pytest.approx(2 / 3)
    assert groups["betas"] == pytest.approx((0.0, 0.99 ** (2 / 3)))


def test_mixing_changes_later_layers_only() -> None:
    method = small(32, mixing=1.0)
    ws = method.styles(64)
    differ = (ws != ws[:, :1]).any(2)  # (B, L): another style than the first layer's
    assert differ[:, -1].all()
    assert (differ.long().diff(dim=1) >= 0).all()  # once another, always another
    assert differ.sum(1).unique().numel() > 3


def test_other_architectures_cannot_grow() -> None:
    with pytest.raises(ConfigError, match="skip"):
        small(32, architecture="resnet").adopt(small(16, architecture="resnet").state_dict())
