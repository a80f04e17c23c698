from __future__ import annotations

import pytest
import torch

from mien.files.errors import ConfigError
from mien.nets.adversarial import (
    KINDS,
    PatchDiscriminator,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_side_is_rewarded_for_its_own_end(kind: str) -> None:
    low, high = torch.full((4, 1), -1.0), torch.full((4, 1), 1.0)
    assert discriminator_loss(high, low, kind) < discriminator_loss(low, high, kind)
    assert generator_loss(high, kind) < generator_loss(low, kind)


def test_logistic_loss_is_the_published_one() -> None:
    real, fake = torch.randn(16), torch.randn(16)
    published = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(discriminator_loss(real, fake), published)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log().mean())


def test_unknown_kind() -> None:
    for loss in (lambda: discriminator_loss(torch.ones(1), torch.ones(1), "hing"),
                 lambda: generator_loss(torch.ones(1), "hing")):  # fmt: skip
        with pytest.raises(ConfigError, match="did you mean 'hinge'"):
            loss()


def test_r1_of_a_linear_discriminator_is_half_the_squared_weight() -> None:
    weight = torch.randn(3 * 4 * 4, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = r1_penalty(x.flatten(1) @ weight, x)
    torch.testing.assert_close(penalty, weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_patches() -> None:
    net = PatchDiscriminator(6, 8).eval()
    x = torch.randn(2, 6, 64, 64)
    logits = net(x)
    assert logits.shape == (2, 1, 6, 6)  # as pix2pix: 64 → 32 → 16 → 8 → 7 → 6
    torch.testing.assert_close(net(x[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    y = x.clone()
    y[..., 50:, :] = 0
    changed = (net(y) - logits).abs()[0, 0].amax(1)
    assert changed[0] < 1e-6, "a patch sees 70 pixels at most"
    assert changed[-1] > 1e-3
