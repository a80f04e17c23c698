"""Losses by hand, what masks forbid, edits of whole pictures, codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.faces.regions import REGIONS, region_masks
from mien.files.errors import ConfigError
from mien.methods import config_from, method_class
from mien.methods.pairedcyclegan.losses import (
    histogram_loss,
    l_i,
    l_r,
    l_s,
    masked_l1,
    match_histogram,
)
from mien.methods.pairedcyclegan.networks import Generator, StyleDiscriminator

SMALL: dict[str, Any] = {"width": 4, "discriminator_width": 4, "blocks": 2, "size": 16}


def build(**changes: Any) -> Any:
    cls = method_class("pairedcyclegan")
    torch.manual_seed(0)
    return cls(config_from(cls.Config, SMALL | changes)).eval()


def batch(count: int = 3, size: int = 16) -> dict[str, Tensor]:
    """Crops of all regions at random, each with the middle half as its mask."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    mask = torch.zeros(count, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    for region in REGIONS:
        for name in ("bare", "reference", "warped", "target", "removed"):
            x = torch.rand(count, 3, size, size, generator=generator)
            found[f"{region}_{name}"] = x * 1.6 - 0.8
        found[f"{region}_bare_mask"] = mask
        found[f"{region}_reference_mask"] = mask
        found[f"{region}_known"] = torch.ones(count)
        found[f"{region}_known_bare"] = torch.ones(count)
    return found


def losses_of(method: Any, data: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    found: dict[str, Tensor] = {}
    scalars = method.step(data, lambda name, loss: found.update({name: loss}))
    return found, scalars


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """Two drawn faces in [-1, 1] and their landmarks."""
    folder = tmp_path_factory.mktemp("faces")
    write_table(folder, persons=2, frames=1, size=112)
    cache = FaceCache(folder, 112)
    return cache.take(np.arange(2)).float() / 127.5 - 1, torch.from_numpy(cache.landmarks)


# Losses ------------------------------------------------------------------------------------------


def test_the_paper_s_losses_by_hand() -> None:
    x = torch.tensor([0.0, 0.5, -0.5, 1.0]).view(1, 1, 2, 2)
    y = torch.tensor([0.5, 0.5, 0.0, 0.0]).view(1, 1, 2, 2)
    for loss in (l_i, l_s, l_r):
        assert loss(x, y).item() == pytest.approx((0.5 + 0 + 0.5 + 1) / 4)


def test_masked_l1_by_hand() -> None:
    a, b = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    b[1] = 3
    mask = torch.zeros(2, 1, 2, 2)
    mask[..., 0] = 1
    b[..., 1] = 99  # outside the mask
    assert masked_l1(a, b, mask).item() == pytest.approx((1 + 3) / 2)
    assert masked_l1(a, b, mask, torch.tensor([0.0, 1.0])).item() == pytest.approx(3)
    assert masked_l1(a, b, mask, torch.zeros(2)).item() == 0


def test_histograms_are_matched_in_the_masks_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 16, 16, generator=generator) - 0.9
    y = torch.rand(1, 3, 24, 24, generator=generator) * 0.5 + 0.3
    mask, y_mask = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 24, 24)
    mask[..., :8], y_mask[..., 12:] = 1, 1
    y[..., :12] = -1  # not in the mask: no part of what is matched
    matched = match_histogram(x, y, mask, y_mask)
    found, wanted = (
        z[:, :, part].flatten(2).quantile(torch.tensor([0.1, 0.5, 0.9]), dim=2)
        for z, part in ((matched[..., :8], slice(None)), (y[..., 12:], slice(None)))
    )
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    order = x[0, 0, :, :8].flatten().argsort()
    assert (matched[0, 0, :, :8].flatten()[order].diff() >= 0).all(), "a monotonous curve"
    by_hand = ((x - matched).abs() * mask).mean()
    torch.testing.assert_close(histogram_loss(x, y, mask, y_mask), by_hand)
    empty = match_histogram(x, y, torch.zeros_like(mask), y_mask)
    assert torch.equal(empty, x), "an empty mask changes nothing"


def test_histogram_loss_lets_gradients_through_the_picture_alone() -> None:
    x = (torch.rand(1, 3, 8, 8) - 0.5).requires_grad_()
    y = torch.rand(1, 3, 8, 8).requires_grad_()
    ones = torch.ones(1, 1, 8, 8)
    histogram_loss(x, y, ones, ones).backward()
    assert x.grad is not None
    assert x.grad.abs().max().item() == pytest.approx(1 / x.numel())  # that of a fixed target
    assert y.grad is None


def test_total_is_the_published_sum() -> None:
    method = build()
    data = batch()
    applied, removed, losses = method.generator_losses("lips", data)
    nets = method.nets("lips")
    x, y = data["lips_bare"], data["lips_reference"]
    mask = data["lips_bare_mask"]
    torch.testing.assert_close(applied, nets.apply_to(x, y, mask, mask))
    torch.testing.assert_close(removed, nets.remove_from(y, mask), rtol=1e-4, atol=1e-5)
    l_g = F.softplus(-nets.d_y(applied)).mean()
    l_f = F.softplus(-nets.d_x(removed)).mean()
    l_p = F.softplus(-nets.d_s(torch.cat([y, applied], 1))).mean()
    cycle = (nets.remove_from(applied, mask) - x).abs().mean()
    swap = (nets.apply_to(removed, applied, mask, mask) - y).abs().mean()
    size = (applied - x).abs().mean()
    by_hand = 0.1 * (l_g + l_f + l_p) + cycle + swap + 0.1 * size
    torch.testing.assert_close(losses["loss"], by_hand, rtol=1e-3, atol=1e-4)


def test_d_s_is_shown_pairs() -> None:
    """The discriminators' loss by hand, with W(x, y), the exact result and a wrong partner."""
    data = batch()
    x, y = data["lips_bare"], data["lips_reference"]
    applied, removed = data["lips_warped"].flip(0), data["lips_removed"].flip(0)
    for changes, same in (
        ({}, data["lips_warped"]),
        ({"style_pairs": "exact"}, data["lips_target"]),
    ):
        method = build(**changes)
        nets = method.nets("lips")

        def said(d: Any, real: Tensor, fake: Tensor) -> Tensor:
            return F.softplus(-d(real)).mean() + F.softplus(d(fake)).mean()

        by_hand = said(nets.d_y, y, applied) + said(nets.d_x, x, removed)
        by_hand = by_hand + said(nets.d_s, torch.cat([y, same], 1), torch.cat([y, applied], 1))
        found = method.discriminator_losses("lips", data, applied, removed)
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
    plain, wrong = (
        build(mismatched=m).discriminator_losses("lips", data, applied, removed)
        for m in (False, True)
    )
    assert (plain - wrong).abs() > 1e-4


def test_an_unknown_truth_counts_for_nothing() -> None:
    method, data = build(supervised=5.0), batch()
    known = method.generator_losses("lips", data)[2]
    assert known["exact"] > 0
    data["lips_known"][:] = 0
    data["lips_known_bare"][:] = 0
    unknown = method.generator_losses("lips", data)[2]
    assert unknown["exact"] == 0
    torch.testing.assert_close(unknown["loss"], known["loss"] - 5 * known["exact"])


def test_later_methods_terms_are_off_and_can_be_turned_on() -> None:
    data = batch()
    plain = build().generator_losses("lips", data)[2]
    assert set(plain) == {"G", "F", "I", "S", "R", "P", "loss"}
    for option in ("histogram", "pseudo", "unchanged"):
        more = build(**{option: 2.0}).generator_losses("lips", data)[2]
        torch.testing.assert_close(more["loss"], plain["loss"] + 2 * more[option])
    skin = build(histogram=2.0).generator_losses("skin", data)[2]
    bare = build().generator_losses("skin", data)[2]
    torch.testing.assert_close(skin["loss"], bare["loss"] + 0.2 * skin["histogram"])
    without = build(style_discriminator=0.0).generator_losses("lips", data)[2]
    assert "P" not in without


def test_the_adversarial_weight_rises_in_a_line() -> None:
    method = build(adversarial_steps=100)
    for step, weight in ((0, 0.1), (50, 0.3), (100, 0.5), (1000, 0.5)):
        method.steps.fill_(step)
        assert method.adversarial_weight() == pytest.approx(weight)
    before = int(method.steps)
    losses_of(method, batch())
    assert int(method.steps) == before + 1


def test_each_update_moves_its_own_networks() -> None:
    method = build()
    moved: dict[str, set[str]] = {}

    def update(name: str, loss: Tensor) -> None:
        method.zero_grad()
        loss.backward()
        moved[name] = {
            n.split(".")[2]
            for n, p in method.named_parameters()
            if p.grad is not None and p.grad.any()
        }

    method.step(batch(), update)
    assert moved == {"generator": {"g", "f"}, "discriminator": {"d_x", "d_y", "d_s"}}


def test_a_step_is_determined_by_its_batch() -> None:
    first, second = (losses_of(build(), batch())[1] for _ in range(2))
    assert first == second


# Networks ----------------------------------------------------------------------------------------


def silence(method: Any) -> None:
    """Make G and F draw nothing."""
    for name in method.config.regions:
        for net in (method.nets(name).g, method.nets(name).f):
            torch.nn.init.zeros_(net.out.weight)
            torch.nn.init.zeros_(net.out.bias)


def test_identity_networks_close_both_circles() -> None:
    method = build(masked=True, guide=True)
    silence(method)
    losses = method.generator_losses("eyes", batch())[2]
    assert losses["I"] == losses["R"] == 0
    data = batch()
    _, _, losses = method.generator_losses("eyes", data)
    assert losses["S"] == 0  # G(F(y), G(x, y)) = F(y) = y


@pytest.mark.parametrize("fold", [1, 2])
def test_shapes_and_range_of_a_residual(fold: int) -> None:
    torch.manual_seed(0)
    net = Generator(2, 3, 4, 2, fold, False, "reflect")
    x, y = 9 * torch.rand(2, 2, 3, 16, 16)
    delta = net(x, y)
    assert delta.shape == (2, 3, 16, 16)
    assert delta.abs().max() < 1
    assert not torch.equal(delta, net(x, x)), "the reference counts"


def test_folded_pixels_start_alike() -> None:
    torch.manual_seed(0)
    delta = Generator(1, 3, 4, 2, 2, False, "zeros")(torch.rand(1, 3, 16, 16))
    torch.testing.assert_close(delta[..., ::2, ::2], delta[..., 1::2, 1::2])


def test_masked_residuals_stay_inside() -> None:
    method, data = build(masked=True), batch()
    nets = method.nets("lips")
    x, y, mask = data["lips_bare"], data["lips_reference"], data["lips_bare_mask"]
    for made, old in (
        (nets.apply_to(x, y, mask, mask), x),
        (nets.remove_from(y, mask), y),
    ):
        outside = (mask == 0).expand_as(made)
        assert torch.equal(made[outside], old[outside])
        assert not torch.equal(made, old)
    open_ = build().nets("lips")
    made = open_.apply_to(x, y, mask, mask)
    outside = (mask == 0).expand_as(made)
    assert not torch.equal(made[outside], x[outside])


def test_what_lies_outside_the_mask_is_not_judged() -> None:
    method, data = build(masked=True), batch()
    nets, mask = method.nets("lips"), data["lips_bare_mask"]
    other = data["lips_bare"] + (1 - mask)
    assert torch.equal(nets.judged(data["lips_bare"], mask), nets.judged(other, mask))


def test_style_codes_are_of_the_picture() -> None:
    torch.manual_seed(0)
    net = StyleDiscriminator(6, 4, 2).eval()
    y = torch.rand(3, 3, 32, 32)
    codes = net.embed(y)
    assert codes.shape[0] == 3
    torch.testing.assert_close(codes[1:2], net.embed(y[1:2]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(codes[0], codes[1])


# Edits and codes ---------------------------------------------------------------------------------


def test_edits_change_the_regions_alone(face: tuple[Tensor, Tensor]) -> None:
    x, points = face
    method = build(masked=True)
    at = {"landmarks": points, "driver_landmarks": points.flip(0)}
    made = method.apply_makeup(x, x.flip(0), **at).images
    masks = region_masks(points, 112, x)
    outside = (masks.sum(1, keepdim=True) == 0).expand_as(x)
    assert torch.equal(made[outside], x[outside])
    assert (made - x).abs().max() > 0.001
    lips = method.apply_makeup(x, x.flip(0), regions={"eyes": 0.0, "skin": 0.0}, **at).images
    changed = (lips != x).any(1)
    assert changed.any()
    assert not (changed & (masks[:, 0] == 0)).any()
    none = method.apply_makeup(x, x.flip(0), regions=dict.fromkeys(REGIONS, 0.0), **at).images
    assert torch.equal(none, x)


def test_half_the_strength_is_half_the_change(face: tuple[Tensor, Tensor]) -> None:
    x, points = (z[:1] for z in face)
    method = build(masked=True)
    x = x * 0.2  # away from the ends of the range
    for edit in (
        lambda **o: method.remove_makeup(x, landmarks=points, **o).images,
        lambda **o: (
            method.apply_makeup(
                x, x.flip(-1), landmarks=points, driver_landmarks=points, **o
            ).images
        ),
    ):
        whole, half = edit() - x, edit(strength=0.5) - x
        torch.testing.assert_close(half, whole / 2, atol=1e-5, rtol=1e-4)
        lips = edit(regions={"lips": 0.5, "eyes": 0.0, "skin": 0.0}) - x
        only = edit(regions={"lips": 1.0, "eyes": 0.0, "skin": 0.0}) - x
        torch.testing.assert_close(lips, only / 2, atol=1e-5, rtol=1e-4)


def test_fine_detail_stays_at_any_size(face: tuple[Tensor, Tensor]) -> None:
    """The residual is enlarged, not the picture: texture finer than a crop's pixel is kept."""
    x, points = face
    big = F.interpolate(x, (448, 448), mode="bilinear") * 0.5
    torch.manual_seed(0)
    big = big + 0.2 * (torch.randint(0, 2, big.shape).float() - 0.5)
    at = (points + 0.5) * 4 - 0.5
    made = build(masked=True).remove_makeup(big, landmarks=at).images
    fine = [z - F.avg_pool2d(z, 3, 1, 1) for z in (big, made)]
    assert (fine[0] - fine[1]).abs().mean() < 0.1 * fine[0].abs().mean()
    assert (made - big).abs().max() > 0.01


def test_references_are_mixed_by_shares(face: tuple[Tensor, Tensor]) -> None:
    x, points = face
    method = build(masked=True)
    one = x[:1] * 0.5

    def put(**options: Any) -> Tensor:
        result: Tensor = method.apply_makeup(one, landmarks=points[:1], **options).images
        return result

    a, b = (put(drivers=x[k : k + 1], driver_landmarks=points[k : k + 1]) for k in range(2))
    mixed = put(drivers=x, driver_landmarks=points, shares=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(mixed, 0.75 * a + 0.25 * b, atol=1e-5, rtol=1e-4)
    for wrong in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ConfigError, match="share"):
            put(drivers=x, driver_landmarks=points, shares=torch.tensor(wrong))


def test_codes_by_region(face: tuple[Tensor, Tensor]) -> None:
    x, points = face
    method = build(size=32)
    codes = method.region_codes(x, points)
    assert list(codes) == list(REGIONS)
    assert all(len(values) == 2 and values.isfinite().all() for values in codes.values())
    whole = method.encode(x)["appearance"]
    assert whole.shape[1] == sum(values.shape[1] for values in codes.values())


def test_a_mirrored_face_is_the_same_face(face: tuple[Tensor, Tensor]) -> None:
    """Both eyes share a network: what a mirrored picture gets is the mirror image."""
    from mien.data.augment import mirror_points

    x, points = face
    method = build(masked=True, regions=("eyes",))
    made = method.remove_makeup(x, landmarks=points).images
    mirrored = method.remove_makeup(x.flip(-1), landmarks=mirror_points(points, 112)).images
    change = (made - x).abs().mean()
    assert (mirrored.flip(-1) - made).abs().mean() < 0.05 * change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gan": "hinges"}, "did you mean 'hinge'"),
        ({"style_pairs": "exakt"}, "did you mean 'exact'"),
        ({"regions": ("lips", "lips")}, "once"),
        ({"regions": ("lip",)}, "did you mean 'lips'"),
        ({"size": 17, "fold": 2}, "multiple of 2"),
        ({"blocks": 6}, "at least 33"),
        ({"region_weights": (1.0,)}, "region_weights"),
        ({"width": 0}, "width is at least 1"),
    ],
)
def test_settings_without_meaning(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(**changes)


def test_wrong_regions_and_strengths(face: tuple[Tensor, Tensor]) -> None:
    x, points = face
    with pytest.raises(ConfigError, match="did you mean 'lips'"):
        build().remove_makeup(x, landmarks=points, regions={"lipz": 1.0})
    with pytest.raises(ConfigError, match="between 0 and 1"):
        build().remove_makeup(x, landmarks=points, regions={"lips": 1.5})
    with pytest.raises(ConfigError, match="setting of the method"):
        build(pairs={"size": 32}).sampler([], 4, 0, 0)
