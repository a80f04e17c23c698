from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.labelled import ExpressionSampler
from mien.data.neutral_pairs import KINDS, NeutralPairSampler, NeutralPairSettings
from mien.data.procedural import write_table
from mien.files.errors import ConfigError, TableError, WeightsError
from mien.methods import config_from, method_class
from mien.methods.base import Method

SMALL: dict[str, Any] = {"width": 4, "local_width": 8, "expressions": ["happy", "neutral"]}


def build(stage: str = "classify", **changes: Any) -> Any:
    cls = method_class("derl")
    torch.manual_seed(0)
    return cls(config_from(cls.Config, SMALL | changes), stage)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=40, frames=8, size=64)
    return FaceCache(folder, 64)


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, count, 3, 64, 64, generator=generator) * 2 - 1
    return {
        "image": x,
        "neutral": y,
        "weight": torch.ones(count, 1, 64, 64),
        "keep": torch.zeros(count, 1, 64, 64),
        "paired": torch.ones(count),
    }


def losses_of(
    method: Method, data: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict]:
    found: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    scalars = method.step(data, lambda name, loss: found.update({name: loss}))
    return found, scalars


def test_layers_of_encoder_and_decoder_have_equal_sizes() -> None:
    for skips in (False, True):
        net = build("neutralise", skips=skips).g.eval()
        y, encoded, decoded = net.deposit(torch.rand(2, 3, 64, 64))
        assert y.shape == (2, 3, 64, 64)
        assert [e.shape for e in encoded] == [d.shape for d in decoded]
        assert [e.shape[-1] for e in encoded] == [32, 16, 8, 4]


def test_without_skips_nothing_passes_by_the_code() -> None:
    """The output depends on the input through the encoder's last layer alone."""
    for skips, passes in ((False, False), (True, True)):
        net = build("neutralise", skips=skips).g.eval()
        x = torch.rand(1, 3, 64, 64)
        net.down[-1].register_forward_hook(lambda m, i, o: torch.zeros_like(o))
        change = (net(x) - net(-x)).abs().max().item()
        assert (change > 1e-6) is passes


def test_losses_are_the_published_ones() -> None:
    method = build("neutralise").eval()
    data = batch()
    found, scalars = losses_of(method, data)
    x, target = data["image"], data["neutral"]
    y = method.g(x)
    real, fake = (method.d(torch.cat([x, z], 1)).sigmoid() for z in (target, y))
    l_d = -(real.log().mean() + (1 - fake).log().mean())
    torch.testing.assert_close(found["discriminator"], l_d, rtol=1e-4, atol=1e-5)
    l_g = -fake.log().mean() + 100 * (target - y).abs().mean()
    torch.testing.assert_close(found["generator"], l_g, rtol=1e-4, atol=1e-4)
    assert scalars["L1"] == pytest.approx((target - y).abs().mean().item(), rel=1e-4)


def test_each_update_moves_its_own_network() -> None:
    method = build("neutralise")
    moved: dict[str, set[str]] = {}

    def update(name: str, loss: torch.Tensor) -> None:
        method.zero_grad()
        loss.backward()
        moved[name] = {
            n[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()
        }

    method.step(batch(), update)
    assert moved == {"discriminator": {"d"}, "generator": {"g"}}


def test_focus_weighs_what_differs() -> None:
    data = batch()
    data["neutral"] = data["image"].clone()
    data["neutral"][..., :8, :8] = -data["image"][..., :8, :8]
    plain, focused = (
        losses_of(build("neutralise", focus=f).eval(), data)[1]["L1"] for f in (0.0, 20.0)
    )
    assert focused > plain
    data["weight"] *= 0.5  # not an exact pair: no focus
    plain, focused = (
        losses_of(build("neutralise", focus=f).eval(), data)[1]["L1"] for f in (0.0, 20.0)
    )
    assert focused == pytest.approx(plain)


def test_a_face_without_a_twin_shows_no_condition_to_d() -> None:
    method = build("neutralise").eval()
    data = batch()
    data["paired"][:] = 0
    data["weight"][:] = 0
    found, scalars = losses_of(method, data)
    y = method.g(data["image"])
    none = torch.zeros_like(y)
    real = method.d(torch.cat([none, data["neutral"]], 1)).sigmoid()
    fake = method.d(torch.cat([none, y], 1)).sigmoid()
    expected = -(real.log().mean() + (1 - fake).log().mean())
    torch.testing.assert_close(found["discriminator"], expected, rtol=1e-4, atol=1e-5)
    assert scalars["L1"] == 0


def test_the_generator_stays_frozen(cache: FaceCache) -> None:
    method = build().train()
    assert not method.g.training
    old = {k: v.clone() for k, v in method.g.state_dict().items()}
    sample = method.sampler([cache], 8, 0, 0)
    optimiser = method.optimisers(1e-2)["classifier"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for step in range(3):
        method.step(sample(step), update)
    assert all(torch.equal(v, old[k]) for k, v in method.g.state_dict().items())
    assert all(p.grad is None for p in method.g.parameters())
    thawed = build(frozen=False).train()
    assert thawed.g.training
    optimiser = thawed.optimisers(1e-2)["classifier"]
    thawed.step(sample(0), update)
    assert any(not torch.equal(v, old[k]) for k, v in thawed.g.state_dict().items())


def test_five_cross_entropies() -> None:
    method = build().eval()
    data = {"image": batch()["image"], "label": torch.tensor([0, 1, 1, 0])}
    found, scalars = losses_of(method, data)
    each = [
        -p[range(4), data["label"]].log().mean() for p in method.classifiers(data["image"]).values()
    ]
    each = [*each[1:], each[0]]  # the fused one last
    total = 0.25 * sum(each[:4]) + each[4]
    torch.testing.assert_close(found["classifier"], total, rtol=1e-4, atol=1e-5)
    for k, loss in enumerate(each):
        assert scalars[f"loss{k + 1}"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("residue", ["layers", "encoder", "decoder", "difference", "pixels"])
def test_every_residue_can_be_classified(residue: str) -> None:
    method = build(residue=residue).eval()
    x = batch()["image"]
    p = method.expressions(x)
    assert p.shape == (4, 2)
    torch.testing.assert_close(p.sum(1), torch.ones(4))
    assert method.features(x).shape[0] == 4
    assert method.encode(x)["expression"].shape == (4, 32)


def test_groups_of_features_join() -> None:
    method = build().eval()
    x = batch()["image"]
    parts = [method.features(x, stage=k) for k in range(1, 5)]
    assert torch.equal(torch.cat(parts, 1), method.features(x))
    for wrong in ({"stage": 5}, {"code": "identity"}):
        with pytest.raises(ConfigError):
            method.features(x, **wrong)


def test_residue_maps_show_where_g_changes_a_face() -> None:
    method = build("neutralise").eval()
    x = batch()["image"]
    maps = method.residue_maps(x)
    assert maps.shape == (4, 4, 64, 64)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert maps.amax((2, 3)).min() > 0.5
    method.g.forward = method.g.deposit = lambda v: (v, [v], [v])  # a G that changes nothing
    assert method.residue_maps(x).max() == 0


def test_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        build(residue="layer")
    with pytest.raises(ConfigError, match="multiple of 16"):
        build(size=40)
    with pytest.raises(WeightsError, match="no classifier"):
        build("neutralise").expressions(batch()["image"])


# Samplers ----------------------------------------------------------------------------------------


def sampler(cache: FaceCache, **kinds: float) -> NeutralPairSampler:
    shares: dict[str, Any] = dict.fromkeys(KINDS, 0.0) | kinds
    calm = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "grain": 0.0, "degrees": 0.0, "scale": 1.0}
    settings = NeutralPairSettings(**shares, **calm, shift=0.0)
    return NeutralPairSampler([cache], settings, 6, 0, 0)


def test_pairs_of_clips_share_person_and_clip(cache: FaceCache) -> None:
    draw = sampler(cache, clip=1.0)
    for a, b in draw.clips:
        assert cache.clip[a] == cache.clip[b]
        assert cache.expression[b] == "neutral"
        assert cache.expression[a] != "neutral"
    data = draw(0)
    pictures = cache.take(np.arange(len(cache))).float() / 127.5 - 1

    def row_of(x: torch.Tensor) -> int:
        both = torch.cat([pictures, pictures.flip(-1)])
        return int((both - x).abs().mean((1, 2, 3)).argmin()) % len(cache)

    for x, y in zip(data["image"], data["neutral"], strict=True):
        assert (row_of(x), row_of(y)) in {tuple(pair) for pair in draw.clips.tolist()}
    assert data["weight"].eq(1).all()
    assert data["keep"].eq(0).all()
    assert data["paired"].eq(1).all()


def test_same_faces_stay(cache: FaceCache) -> None:
    data = sampler(cache, same=1.0)(3)
    torch.testing.assert_close(data["image"], data["neutral"])


def test_batches_are_functions_of_the_step(cache: FaceCache) -> None:
    settings = NeutralPairSettings(clip=0.5, same=0.5)
    first, again = (NeutralPairSampler([cache], settings, 6, 0, 0) for _ in range(2))
    for key, value in first(5).items():
        assert torch.equal(value, again(5)[key])
    assert not torch.equal(first(5)["image"], first(6)["image"])
    other = NeutralPairSampler([cache], settings, 6, 0, 1)
    assert not torch.equal(first(5)["image"], other(5)["image"])


def test_missing_pairs_are_an_error_that_says_what_to_prepare(cache: FaceCache) -> None:
    with pytest.raises(TableError, match="annotations"):
        sampler(cache, alone=1.0)
    with pytest.raises(TableError, match="at least 0"):
        sampler(cache)


def test_an_epoch_shows_every_labelled_picture_once(cache: FaceCache) -> None:
    names = ("happy", "neutral")
    draw = ExpressionSampler([cache], names, 7, 0, 0, augment=False)
    rows = cache.select("train")
    expected = [names.index(str(e)) for e in cache.expression[rows] if e in names]
    seen = [draw(step)["label"] for step in range(7)]  # 7 times as many as there are: 7 epochs
    draw = ExpressionSampler([cache], names, len(expected), 0, 0, augment=False)
    for epoch in range(2):
        assert sorted(draw(epoch)["label"].tolist()) == sorted(expected)
    assert torch.cat(seen).tolist() == torch.cat([draw(0)["label"], draw(1)["label"]])[:49].tolist()
    with pytest.raises(TableError, match="bored"):
        ExpressionSampler([cache], ("smile", "bored"), 7, 0, 0)
