"""The training of StyleGAN2: growing, augmentation, lazy regularisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.evaluate.generator import evaluate_generator
from mien.files.errors import ConfigError, TableError
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


def test_the_second_discriminator_sees_features_and_the_encoder_stays() -> None:
    method = small(32, features="pcl")
    assert not [name for name in method.state_dict() if "trunk" in name]
    trunk = method._trunk[0]
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    fixed = method.d_features.across[0].weight.clone()
    steps = method.optimisers(1e-2)
    batch = {"image": torch.rand(8, 3, 32, 32) * 2 - 1}
    called: list[str] = []

    def update(name: str, loss: torch.Tensor) -> None:
        called.append(name)
        steps[name].zero_grad()
        loss.backward()
        steps[name].step()

    seen = [method.step(batch, update)["D_features"] for _ in range(15)]
    assert called[:3] == ["generator", "discriminator", "features"]
    assert sum(seen[-3:]) < sum(seen[:3])  # noise and drawn pictures are easy to tell apart
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())
    assert torch.equal(method.d_features.across[0].weight, fixed)


def test_features_reach_the_generator() -> None:
    method = small(32, features="pcl", features_weight=0.0)
    batch = {"image": torch.rand(4, 3, 32, 32) * 2 - 1}
    slopes = []
    for weight in (0.0, 1.0):
        object.__setattr__(method.config, "features_weight", weight)
        torch.manual_seed(0)
        got: dict[str, torch.Tensor] = {}

        def update(name: str, loss: torch.Tensor, got: dict[str, torch.Tensor] = got) -> None:
            if name == "generator":
                weights = method.g.mapping.parameters()
                got[name] = torch.autograd.grad(loss, next(iter(weights)), retain_graph=True)[0]

        method.step(batch, update)
        slopes.append(got["generator"])
    assert not torch.allclose(*slopes)


def test_features_are_those_of_pcl() -> None:
    with pytest.raises(ConfigError, match="not of pcl"):
        small(16, features="landmarks")


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


def test_kid_sees_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.methods.stylegan._MEASURED", 40)
    write_table(tmp_path, persons=60, frames=2, size=32)
    cache, method = FaceCache(tmp_path, 32), small(32).eval()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    far = method.measure([cache])
    assert (far.name, far.lower_is_better) == ("KID", True)
    assert method.measure([cache]) == far
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    photos = cache.take(cache.select("train")).float() / 127.5 - 1
    monkeypatch.setattr(method.g, "draw", lambda count: photos[:count])
    assert method.measure([cache]).value < far.value / 3
    cache.split[:] = "train"
    with pytest.raises(TableError, match="test split"):
        small(32).measure([cache])


def test_kid_is_that_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.methods.stylegan._MEASURED", 40)
    write_table(tmp_path, persons=60, frames=2, size=64)
    method = small(64).eval()
    report = evaluate_generator(
        [method], [tmp_path], images=40, features=["landmarks"], cache=False, progress=False
    )
    entry = report.rows["stylegan"]["KID landmarks, 1e-3 [95 %]"]
    told = method.measure([FaceCache(tmp_path, 64)]).value
    assert told == pytest.approx(entry["value"], rel=1e-2)
