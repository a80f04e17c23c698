"""Exact invariants of the specification, at the paper's width, and what each switch does."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.files.errors import ConfigError, WeightsError
from mien.methods.base import config_from
from mien.methods.pcl import PCL
from mien.methods.pcl.losses import (
    DynamicWeights,
    draw_mixing,
    dynamic_weights,
    face_contrast,
    info_nce,
    mirror_agreement,
    orthogonality,
    pose_contrast,
)
from mien.methods.pcl.method import mirror_rows
from mien.methods.pcl.networks import Backbone, Decoder, Trunk, head
from mien.methods.pcl.official import load_official

SMALL = {"width": 4, "pose_images": 2, "negatives": 3}


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def small(**settings) -> PCL:
    torch.manual_seed(0)
    return PCL(PCL.Config(**{**SMALL, **settings}))


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator) * 2 - 1
    return F.interpolate(coarse, (64, 64), mode="bilinear")


def batch() -> dict[str, torch.Tensor]:
    return {"decoder": images(3), "face": images(3, 2), "pose": images(2, 3)}


def run_step(method: PCL, values: dict[str, torch.Tensor] | None = None, seed: int = 0):
    """One step as the engine does it; returns scalars and what moved in each update."""
    optimisers = method.train().optimisers(1e-3)
    moved = []

    def update(name, loss):
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        before = {k: p.detach().clone() for k, p in method.named_parameters()}
        optimisers[name].step()
        changed = {k for k, p in method.named_parameters() if not p.equal(before[k])}
        moved.append({".".join(k.split(".")[: 2 if "backbone" in k else 1]) for k in changed})

    torch.manual_seed(seed)
    return method.step(values or batch(), update), moved


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, persons=4, frames=3, size=64)
    return FaceCache(folder, 64)


# --- networks -----------------------------------------------------------------------------------


def test_parameter_counts_of_the_paper():
    assert parameters(Backbone()) == 2_469_760
    assert parameters(head()) == 5_246_464
    assert parameters(Decoder()) == 4_300_035
    assert parameters(PCL(PCL.Config())) == 17_262_723


def test_shapes_of_the_paper():
    trunk = Trunk()
    assert trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 128, 4, 4)
    assert trunk(torch.zeros(1, 3, 100, 100)).flatten(1).shape == (1, 6272)
    assert trunk(torch.zeros(1, 3, 256, 256)).flatten(1).shape == (1, 32768)
    assert [z.shape for z in Backbone()(torch.zeros(2, 3, 64, 64))] == [(2, 2048)] * 3
    assert head()(torch.zeros(2, 2048)).shape == (2, 512)
    assert Decoder()(torch.zeros(2, 2048), torch.zeros(2, 2048)).shape == (2, 3, 64, 64)


def test_features_of_every_stage():
    trunk, x = Trunk(4), torch.rand(2, 3, 64, 64)
    outputs = list(trunk.stage_outputs(x))
    assert torch.equal(trunk.stage_features(x), trunk(x).flatten(1))
    assert torch.equal(trunk.stage_features(x, 4), trunk(x).flatten(1))
    assert [trunk.stage_features(x, k).shape[1] for k in (1, 2, 3)] == [4 * 64, 8 * 64, 8 * 64]
    blocks = outputs[0].unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5))
    assert torch.allclose(trunk.stage_features(x, 1), blocks.flatten(1), atol=1e-6)
    with pytest.raises(ConfigError, match="stages 1 to 4, no 5"):
        trunk.stage_features(x, 5)
    trunk.layer2_2.register_forward_hook(lambda *_: pytest.fail("a later stage was computed"))
    trunk.stage_features(x, 2)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_normalised_trunk(norm):
    """Every 3x3 and 7x7 convolution gets a layer of the kind; what it puts out is normalised."""
    torch.manual_seed(0)
    plain, net = Backbone(8), Backbone(8, norm)
    kind = nn.BatchNorm2d if norm == "batch" else nn.GroupNorm
    wide = [m for m in plain.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert sum(isinstance(m, kind) for m in net.modules()) == len(wide) == 18
    seen = []
    layer = net.trunk.layer3_1[0][1]
    layer.register_forward_hook(lambda module, given, out: seen.append(out))
    net(torch.rand(16, 3, 64, 64))
    dims = (0, 2, 3) if norm == "batch" else (2, 3)
    groups = seen[0] if norm == "batch" else seen[0].unflatten(1, (4, 8)).flatten(2, 3)
    assert groups.mean(dims).abs().max() < 1e-4
    assert (groups.var(dims, correction=0) - 1).abs().max() < 0.05
    weight = net.trunk.layer3_1[0][0].weight
    standard = weight.mean((1, 2, 3)).abs().max() < 1e-6
    assert standard == (norm == "group")


@pytest.mark.parametrize(("norm", "alike"), [("none", True), ("batch", False), ("group", False)])
def test_normalised_features_tell_pictures_apart(norm, alike):
    """Of fresh networks: how much of the trunk's end is the mean of all pictures."""
    torch.manual_seed(0)
    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        t = Trunk(16, norm)(F.interpolate(x, (64, 64))).flatten(1)
    share = t.mean(0).square().sum() / t.square().sum(1).mean()
    assert (share > 0.8) == alike, share


def test_random_crops_of_the_face_contrast():
    """A switch of ours: crops may be larger than those of quadrants."""
    x = torch.linspace(-1, 1, 64).expand(8, 3, 64, 64).contiguous()
    plain = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "sobel": 0.0}
    ranges = {}
    for crops in ("quadrants", "random"):
        method = small(width=4, face_crops=crops, views=plain)
        views = method.face_views(x, torch.Generator().manual_seed(0))
        assert views.shape == (16, 3, 64, 64)
        ranges[crops] = views.flatten(1).amax(1) - views.flatten(1).amin(1)
    assert ranges["quadrants"].amax() < 0.4  # 24 of 64 pixels
    assert ranges["random"].amax() > 0.6
    with pytest.raises(ConfigError, match="face_crops has no value 'randm'"):
        small(face_crops="randm")


@pytest.mark.parametrize("size", [32, 64, 128])
def test_other_sizes(size):
    method = small(size=size).eval()
    x = torch.rand(2, 3, size, size) * 2 - 1
    assert method.encode(x)["pose"].shape == (2, 8 * (size // 16) ** 2)
    assert method.transfer_pose(x, x.flip(0)).images.shape == x.shape


def test_the_decoder_draws_the_direction_of_the_sum_of_the_codes():
    decoder = Decoder(4).eval()
    a, b = torch.randn(2, 128), torch.randn(2, 128)
    torch.testing.assert_close(decoder(a, b), decoder(b, a))
    torch.testing.assert_close(decoder(a, b), decoder(3 * a, 3 * b))
    assert not torch.allclose(decoder(a, b), decoder(a, -b))


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [False, True])
def test_orthogonality(official):
    torch.manual_seed(0)
    a, b = torch.randn(6, 10), torch.randn(6, 10)
    found = orthogonality(a, b, official)

    def directions(x):
        x = x - x.mean(0)
        return x / x.norm(dim=1, keepdim=True)

    product = directions(a).T @ directions(b)
    by_hand = product.square().mean() if official else product.square().sum() / 36
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(found, orthogonality(b, a, official))
    torch.testing.assert_close(found, orthogonality(7 * a, 0.1 * b, official), rtol=1e-4, atol=1e-6)
    constant = torch.full((6, 10), 0.5)
    assert orthogonality(a, constant, official) < 1e-8
    assert orthogonality(constant, b, official) < 1e-8
    assert 0 < found < ((6 / 10) ** 2 if official else 1)


def test_orthogonality_is_free_of_the_batch_unless_official():
    line = torch.zeros(64, 16)
    line[:, 0] = torch.linspace(-1, 1, 64)
    for n in (4, 16, 64):
        few = line[torch.linspace(0, 63, n).long()]
        torch.testing.assert_close(orthogonality(few, few), torch.tensor(1.0), rtol=1e-4, atol=0)
        bound = torch.tensor((n / 16) ** 2)
        torch.testing.assert_close(orthogonality(few, few, official=True), bound, rtol=1e-4, atol=0)


def test_orthogonality_takes_its_gradient_through_the_directions_only():
    """The norms are constants of the loss, as published."""
    a, b = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    orthogonality(a, b).backward()
    norm = (a - a.mean(0)).norm(dim=1, keepdim=True).detach() + 1e-6
    other = (b - b.mean(0)) / ((b - b.mean(0)).norm(dim=1, keepdim=True) + 1e-6)
    again = a.detach().clone().requires_grad_()
    (((again - again.mean(0)) / norm).T @ other).square().sum().div(25).backward()
    torch.testing.assert_close(a.grad, again.grad)


@pytest.mark.parametrize("n", [2, 5])
def test_equal_features_cost_the_logarithm_of_the_choices(n):
    v = torch.randn(1, 8).expand(2 * n, 8)
    mix, order = draw_mixing(2 * n, 2 * n - 2, 1.6, v)
    expected = torch.tensor(math.log(1 + 2 * n - 2))
    torch.testing.assert_close(face_contrast(v, 0.07, mix, order), expected)
    mix, order = draw_mixing(n, 100, 1.6, v)
    found = pose_contrast(v, v[:1].expand(n, 100, 8), 0.07, mix, order)
    torch.testing.assert_close(found, torch.tensor(math.log(101)))


def written_out(anchors, positives, negatives, mix, order, temperature):
    """The published order: mix vectors, then normalise, then compare; one anchor at a time."""
    losses = []
    for a, p, v, m in zip(anchors, positives, negatives, mix, strict=True):
        mixed = m[:, None] * v + (1 - m[:, None]) * v[order]
        cosines = F.cosine_similarity(a[None], torch.cat([p[None], mixed]), dim=1)
        losses.append(-(cosines / temperature).log_softmax(0)[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ordinary", [True, False])
def test_face_contrast_is_infonce_over_mixed_negatives(ordinary):
    torch.manual_seed(0)
    v = torch.randn(8, 5, requires_grad=True)
    mix, order = draw_mixing(8, 6, 1.6, v)
    if ordinary:  # λ = 1: no negative changes
        mix = torch.ones_like(mix)
    foreign = [[j for j in range(8) if j % 4 != i % 4] for i in range(8)]
    expected = written_out(v, v.roll(4, 0), v[torch.tensor(foreign)], mix, order, 0.07)
    found = face_contrast(v, 0.07, mix, order)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(loss, v)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
    if ordinary:  # and the usual form: softmax over all other rows
        logits = F.normalize(v, dim=1) @ F.normalize(v, dim=1).T / 0.07
        logits = logits.masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
        usual = F.cross_entropy(logits, torch.arange(8).roll(4))
        torch.testing.assert_close(found, usual)


@pytest.mark.parametrize("ordinary", [True, False])
def test_pose_contrast_is_infonce_over_mixed_mirror_images(ordinary):
    torch.manual_seed(0)
    q, v = torch.randn(6, 5, requires_grad=True), torch.randn(3, 7, 5)
    mix, order = draw_mixing(3, 7, 1.6, q)
    if ordinary:
        mix = torch.ones_like(mix)
    expected = written_out(q, q.roll(3, 0), v.repeat(2, 1, 1), mix.repeat(2, 1), order, 0.07)
    found = pose_contrast(q, v, 0.07, mix, order)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(loss, q)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_info_nce_without_negatives_is_zero():
    assert info_nce(torch.tensor([0.3, -1.0]), torch.zeros(2, 0), 0.07) == 0


def test_mixing_is_beta_with_one_permutation():
    torch.manual_seed(0)
    mix, order = draw_mixing(200, 100, 1.6, torch.zeros(1))
    assert sorted(order.tolist()) == list(range(100))
    assert mix.shape == (200, 100)
    assert mix.mean() == pytest.approx(0.5, abs=0.01)
    assert mix.var() == pytest.approx(1 / (4 * (2 * 1.6 + 1)), abs=0.002)


def test_losses_are_computed_in_full_precision():
    v = torch.randn(8, 16)
    mix, order = draw_mixing(8, 6, 1.6, v)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = face_contrast(v, 0.07, mix, order), orthogonality(v, v.flip(0))
    assert mixed[0] == face_contrast(v, 0.07, mix, order)
    assert mixed[1] == orthogonality(v, v.flip(0))


# --- dynamic weight average ---------------------------------------------------------------------


def test_dynamic_weights_sum_to_two_and_favour_the_loss_that_stays():
    w = dynamic_weights(torch.tensor([4.0, 2.0]), torch.tensor([4.0, 4.0]), 2.0)
    torch.testing.assert_close(w.sum(), torch.tensor(2.0))
    e = math.exp(0.5), math.exp(0.25)
    torch.testing.assert_close(w[0], torch.tensor(2 * e[0] / (e[0] + e[1])))
    same = dynamic_weights(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0]), 2.0)
    torch.testing.assert_close(same, torch.ones(2))
    zero = dynamic_weights(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), 2.0)
    assert zero.isfinite().all()


def test_dynamic_weights_start_with_the_third_epoch_and_compare_epoch_means():
    dynamic = DynamicWeights(epoch=2, temperature=2.0)
    epochs = [([6.0, 3.0], [2.0, 1.0]), ([2.0, 2.0], [2.0, 0.0]), ([1.0, 1.0], [1.0, 1.0])]
    for first, second in epochs[:2]:
        assert dynamic.weights.equal(torch.ones(2))
        dynamic.add(torch.tensor(first))
        dynamic.add(torch.tensor(second))
    expected = dynamic_weights(torch.tensor([2.0, 1.0]), torch.tensor([4.0, 2.0]), 2.0)
    torch.testing.assert_close(dynamic.weights, expected)
    dynamic.add(torch.tensor(epochs[2][0]))
    torch.testing.assert_close(dynamic.weights, expected)  # within an epoch they stay
    copy = DynamicWeights(epoch=2, temperature=2.0)  # resuming within the epoch
    copy.load_state_dict(dynamic.state_dict())
    for d in (dynamic, copy):
        d.add(torch.tensor(epochs[2][1]))
    expected = dynamic_weights(torch.ones(2), torch.tensor([2.0, 1.0]), 2.0)
    torch.testing.assert_close(copy.weights, expected)
    assert dynamic.weights.equal(copy.weights)


# --- the step -----------------------------------------------------------------------------------


def test_three_updates_in_the_order_of_the_paper_each_of_its_own_networks():
    scalars, moved = run_step(small())
    trunk = {"backbone.trunk"}
    assert moved == [
        trunk | {"backbone.face", "backbone.pose", "decoder"},
        trunk | {"backbone.face", "mlp_f"},
        trunk | {"backbone.pose", "mlp_p"},
    ]
    assert all(math.isfinite(v) for v in scalars.values())
    assert set(scalars) == {"rec", "orth", "agree", "face", "pose", "w_face"}


def test_official_updates_move_what_they_do_not_use():
    _, moved = run_step(small(unused="official"))
    everything = set().union(*moved)
    assert moved == [everything] * 3  # weight decay and momentum


def test_a_step_is_a_function_of_the_state_of_the_generator():
    first, again, other = (run_step(small(), seed=s)[0] for s in (0, 0, 1))
    assert first == again
    assert first["pose"] != other["pose"]
    assert first["rec"] != other["rec"]


def test_the_two_contrasts_are_weighted_and_their_means_remembered(monkeypatch):
    method = small(epoch=1)
    method.dynamic.weights.copy_(torch.tensor([0.5, 1.5]))
    seen = []
    monkeypatch.setattr(method, "_update", lambda update, loss: seen.append(loss.item()))
    torch.manual_seed(0)
    scalars = method.train().step(batch(), lambda name, loss: None)
    assert seen == pytest.approx(
        [scalars["rec"] + scalars["orth"], 0.5 * scalars["face"], 1.5 * scalars["pose"]]
    )
    assert method.dynamic.means[0].tolist() == pytest.approx([scalars["face"], scalars["pose"]])


def test_decoder_losses_are_the_sum_of_the_specification():
    """L_rec and L_orth computed here pass by pass, without noise and batch statistics."""
    method = small(noise=0.0).eval()
    x = images(3)
    s, f = (x + 1) / 2, (x.flip(-1) + 1) / 2
    _, zf_s, zp_s = method.backbone(s)
    _, zf_f, zp_f = method.backbone(f)

    def error(z_f, z_p, target):
        return ((method.decoder(z_f, z_p) + 1) / 2 - target).abs().mean()

    rec = error(zf_f, zp_s, s) + error(zf_s, zp_f, f) + error(zf_s, zp_s, s) + error(zf_f, zp_f, f)
    l_rec, l_orth, l_agree = method.decoder_losses(x)
    torch.testing.assert_close(l_rec, rec)
    torch.testing.assert_close(l_orth, orthogonality(zf_s, zp_s) + orthogonality(zf_f, zp_f))
    spread = torch.cat([zf_s, zf_f]).var(0, correction=0).mean()
    torch.testing.assert_close(l_agree, (zf_s - zf_f).square().mean() / (2 * spread + 1e-6))
    official = small(noise=0.0, orthogonality_form="official", output="official").eval()
    l_rec, l_orth, _ = official.decoder_losses(x)
    torch.testing.assert_close(
        l_orth, orthogonality(zf_s, zp_s, True) + orthogonality(zf_f, zp_f, True)
    )
    worst = (method.decoder(zf_s, zp_s) - s).abs().mean()  # tanh against [0, 1]
    assert l_rec > 2 * worst
    assert l_rec != rec


def test_agreement_is_0_for_equal_codes_1_for_unrelated_ones_and_counts_mirror_images_alone():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 30, generator=generator)
    yes = torch.ones(400, dtype=torch.bool)
    assert mirror_agreement(a, a, yes) == 0
    assert mirror_agreement(a, b, yes).item() == pytest.approx(1, abs=0.05)
    half = yes.clone()
    half[200:] = False
    b[:200] = a[:200]
    assert mirror_agreement(a, b, half) == 0
    assert mirror_agreement(a, b, ~yes) == 0


def test_agreement_alone_makes_the_face_aware_codes_of_mirror_images_alike():
    method = small(noise=0.0, agreement=1.0, reconstruction=0.0, orthogonality=0.0)
    x = images(6)
    optimiser = torch.optim.Adam(method.backbone.parameters(), 1e-3)
    seen = []
    for _ in range(12):
        _, _, l_agree = method.decoder_losses(x)
        optimiser.zero_grad()
        l_agree.backward()
        optimiser.step()
        seen.append(l_agree.item())
    assert seen[-1] < 0.7 * seen[0]


def test_a_symmetric_face_aware_code_is_that_of_the_mirror_image():
    x = images(3)
    plain, method = small().eval(), small(symmetric=True).eval()
    codes, mirrored = method.encode(x), method.encode(x.flip(-1))
    torch.testing.assert_close(codes["identity"], mirrored["identity"])
    assert not torch.allclose(codes["pose"], mirrored["pose"], atol=1e-3)
    own = plain.encode(x)
    assert not torch.allclose(own["identity"], plain.encode(x.flip(-1))["identity"], atol=1e-3)
    torch.testing.assert_close(codes["pose"], own["pose"])
    torch.testing.assert_close(codes["trunk"], own["trunk"])
    turned = method.transfer_pose(x, x.flip(-1)).images
    assert turned.shape == x.shape


@pytest.mark.parametrize("noise_range", ["clipped", "official"])
def test_the_encoder_sees_noise_and_the_target_does_not(noise_range, monkeypatch):
    method = small(noise_range=noise_range, noise=0.4)
    seen = []
    encode = method.backbone.forward
    monkeypatch.setattr(method.backbone, "forward", lambda x: seen.append(x) or encode(x))
    grey = torch.zeros(2, 3, 64, 64)
    method.decoder_losses(grey)
    (noisy,) = seen
    assert noisy.shape == (4, 3, 64, 64)
    inside = noisy[(noisy > 0.01) & (noisy < 0.99)]
    assert inside.std() > 0.2
    if noise_range == "clipped":
        assert noisy.min() == 0
        assert noisy.max() == 1
    else:
        assert (noisy - 0.5).std() == pytest.approx(0.4, rel=0.03)
    monkeypatch.setattr(method, "_draw", lambda z_f, z_p: torch.full((len(z_f), 3, 64, 64), 0.5))
    assert method.decoder_losses(grey)[0] == 0  # the target is the grey without noise


def test_a_face_is_seen_as_two_crops_of_different_quadrants(monkeypatch):
    method = small(views={"jitter": 0.0, "gray": 0.0, "blur": 0.0, "sobel": 0.0})
    seen = []
    encode = method.backbone.face_code
    monkeypatch.setattr(method.backbone, "face_code", lambda x: seen.append(x) or encode(x))
    quadrants = torch.zeros(2, 3, 64, 64)
    for i in range(4):
        quadrants[..., 32 * (i // 2) :, 32 * (i % 2) :] = i / 2 - 1
    method.face_loss(quadrants, torch.Generator().manual_seed(0))
    first, second = seen[0].chunk(2)
    for crops in (first, second):
        assert crops.flatten(1).std(1).max() < 1e-6  # each inside one quadrant
    assert (first.mean((1, 2, 3)) != second.mean((1, 2, 3))).all()


def test_negatives_of_a_pose_are_views_of_its_own_mirror_image(monkeypatch):
    method = small(views={"jitter": 0.0, "gray": 0.0, "blur": 0.0, "sobel": 0.0})
    seen = []
    encode = method.backbone.pose_code
    monkeypatch.setattr(method.backbone, "pose_code", lambda x: seen.append(x) or encode(x))
    x = images(2)
    method.pose_loss(x, torch.Generator().manual_seed(0))
    views, mirrors = seen[0].split([4, 6])
    torch.testing.assert_close(views * 2 - 1, x.repeat(2, 1, 1, 1))
    rows = mirror_rows(mirrors.flatten(1), 2, "own") * 2 - 1
    expected = x.flip(-1).flatten(1)[:, None].expand(2, 3, -1)
    torch.testing.assert_close(rows, expected)


def test_official_rows_hold_mirror_images_of_the_whole_batch():
    labels = torch.arange(10.0).repeat(100)[:, None]  # view by view
    own, official = (mirror_rows(labels, 10, w)[..., 0] for w in ("own", "official"))
    assert own.equal(torch.arange(10.0)[:, None].expand(10, 100))
    assert all(row.unique().numel() == 10 for row in official)  # ten views of each image
    assert official.shape == (10, 100)


@pytest.mark.parametrize("face_crops", ["random", "quadrants"])
def test_other_frames_of_a_clip_join_in(face_crops, monkeypatch):
    still = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "sobel": 0.0}
    method = small(clips=True, noise=0.0, negatives=4, views=still, face_crops=face_crops).eval()
    x, y = images(3), images(3, 2)

    s, f = (x + 1) / 2, (y + 1) / 2
    (_, zf_s, zp_s), (_, zf_f, zp_f) = method.backbone(s), method.backbone(f)
    pairs = [(zf_f, zp_s, s), (zf_s, zp_f, f), (zf_s, zp_s, s), (zf_f, zp_f, f)]
    rec = sum(((method.decoder(a, b) + 1) / 2 - t).abs().mean() for a, b, t in pairs)
    torch.testing.assert_close(method.decoder_losses(x, y)[0], rec)

    dark, bright = torch.full_like(x, -1), torch.full_like(x, 1)
    views = method.face_views(dark, torch.Generator().manual_seed(0), bright)
    assert views[:3].max() < 1e-6
    assert views[3:].min() > 1 - 1e-6

    partners = images(6, 3)
    views = method.pose_views(x, torch.Generator().manual_seed(0), partners) * 2 - 1
    expected = [x.repeat(2, 1, 1, 1), x.flip(-1).repeat(2, 1, 1, 1), partners]
    torch.testing.assert_close(views, torch.cat(expected))


def test_clips_are_drawn_with_partners_and_change_all_three_steps(cache):
    cache.clip[:] = cache.person  # frames of a person are a clip
    method = small(clips=True, pose_weights=(1.0,))
    drawn = method.sampler([cache], 9, 0, 0)(0)
    assert {k: len(v) for k, v in drawn.items()} == {
        "decoder": 3, "decoder_partners": 3, "pose": 2, "pose_partners": 2,
        "face": 4, "face_partners": 4}  # fmt: skip
    with_partners, _ = run_step(method, drawn)
    for part in ("decoder", "face", "pose"):
        without = {k: v for k, v in drawn.items() if k != f"{part}_partners"}
        scalars, _ = run_step(small(clips=True), without)
        name = "rec" if part == "decoder" else part
        assert scalars[name] != with_partners[name]


@pytest.mark.parametrize(("batch_norm", "calls"), [("joint", 1), ("official", 2)])
def test_batch_statistics_are_joint_unless_official(batch_norm, calls, monkeypatch):
    method = small(batch_norm=batch_norm).train()
    seen = {"head": [], "decoder": []}
    mlp, draw = method.mlp_p.forward, method.decoder.forward
    monkeypatch.setattr(method.mlp_p, "forward", lambda z: seen["head"].append(len(z)) or mlp(z))
    monkeypatch.setattr(
        method.decoder, "forward", lambda f, p: seen["decoder"].append(len(f)) or draw(f, p)
    )
    method.pose_loss(images(2), torch.Generator().manual_seed(0))
    method.decoder_losses(images(3))
    assert seen["head"] == ([10] if calls == 1 else [4, 6])
    assert seen["decoder"] == ([12] if calls == 1 else [3] * 4)


def test_separate_calls_draw_the_same_pairs_as_one():
    x = images(3)
    losses = [
        small(batch_norm=b, noise=0.0).eval().decoder_losses(x) for b in ("joint", "official")
    ]
    torch.testing.assert_close(*losses)


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_is_shared_by_the_three_steps(cache):
    shapes = {k: len(v) for k, v in small().sampler([cache], 9, 0, 0)(0).items()}
    assert shapes == {"decoder": 3, "face": 4, "pose": 2}
    paper = PCL.Config()
    method = small(pose_images=paper.pose_images)
    assert {k: len(v) for k, v in method.sampler([cache], 522, 0, 0)(0).items()} == {
        "decoder": 256, "face": 256, "pose": 10}  # fmt: skip


def test_parts_can_be_left_out(cache):
    method = small(decoder=False, pose_images=0)
    drawn = method.sampler([cache], 4, 0, 0)(0)
    assert {k: len(v) for k, v in drawn.items()} == {"face": 4}
    scalars, moved = run_step(method, drawn)
    assert set(scalars) == {"face"}
    assert len(moved) == 1
    assert method.preview(drawn).std() > 0
    with pytest.raises(WeightsError, match="draw nothing"):
        method.transfer_pose(images(1), images(1))
    assert small(decoder=False).sampler([cache], 6, 0, 0)(0).keys() == {"pose", "face"}


def test_too_small_a_batch_is_an_error(cache):
    with pytest.raises(ConfigError, match="batch_size 4 leaves 2"):
        small().sampler([cache], 4, 0, 0)


# --- codes and edits ----------------------------------------------------------------------------


def test_codes_are_those_of_the_branches_and_of_the_trunk():
    method = small().eval()
    x = images(2)
    codes = method.encode(x)
    t, z_f, z_p = method.backbone((x + 1) / 2)
    assert codes["identity"].equal(z_f)
    assert codes["pose"].equal(z_p)
    assert codes["trunk"].equal(t)
    assert method.encode(torch.zeros(1, 3, 112, 112))["pose"].shape == (1, 128)
    for code in codes:
        assert method.features(x, code).equal(t)
    assert method.features(torch.zeros(1, 3, 100, 100)).shape == (1, 8 * 49)
    with pytest.raises(ConfigError, match="did you mean 'pose'"):
        method.features(x, "poze")


def test_a_pose_is_taken_from_the_driver_and_nothing_else(monkeypatch):
    method = small().eval()
    x, y = images(2), images(2, 5)
    _, z_f, own = method.backbone((x + 1) / 2)
    z_p = method.backbone.pose_code((y + 1) / 2)
    seen = []
    draw = method.decoder.forward
    monkeypatch.setattr(method.decoder, "forward", lambda *z: seen.append(z) or draw(*z))
    found = method.transfer_pose(x, y).images
    torch.testing.assert_close(seen[0], (z_f, z_p))
    torch.testing.assert_close(found, draw(z_f, z_p), atol=1e-5, rtol=0)
    method.transfer_pose(x, y[:1], strength=0.25)  # one driver for all, part of the way
    torch.testing.assert_close(seen[1], (z_f, 0.75 * own + 0.25 * z_p[:1]))


# --- settings and files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": "tanh"},
        {"size": 48},
        {"epoch": 0},
        {"negatives": 0},
        {"views": {"blurr": 1.0}},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(ConfigError):
        PCL(config_from(PCL.Config, {**SMALL, **wrong}))


def official_state(source: PCL) -> dict[str, torch.Tensor]:
    """The tensors of ``source`` as the release names its layers (indices are invented)."""
    theirs = {"backbone": "encoder", "mlp_f": "exp_fc", "mlp_p": "pose_fc", "decoder": "decoder"}
    state = {}
    for ours, name in theirs.items():
        for i, (key, value) in enumerate(source.get_submodule(ours).state_dict().items()):
            state[f"module.{name}.layer{i}.{key.split('.')[-1]}"] = value
    return state


def test_official_checkpoints_load_under_other_names(tmp_path):
    torch.manual_seed(3)
    source = PCL(PCL.Config(output="official"))
    source.train().decoder_losses(images(2))  # running statistics that are not the default
    state = official_state(source)
    torch.save({"epoch": 801, "state_dict": state}, tmp_path / "best.pth")
    loaded = load_official(tmp_path / "best.pth")
    assert not loaded.training
    x = images(2)
    for code, value in source.eval().encode(x).items():
        torch.testing.assert_close(loaded.encode(x)[code], value)
    torch.testing.assert_close(
        loaded.transfer_pose(x, x.flip(0)).images, source.transfer_pose(x, x.flip(0)).images
    )
    torch.testing.assert_close(loaded.mlp_p.state_dict(), source.mlp_p.state_dict())
    few = {k: v for k, v in state.items() if "pose_fc" not in k}
    torch.save({"state_dict": few}, tmp_path / "few.pth")
    with pytest.raises(WeightsError, match="pose_fc"):
        load_official(tmp_path / "few.pth")


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_with_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {}, "more": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="could execute code"):
        load_official(tmp_path / "bad.pth")
    assert "executed" not in capsys.readouterr().out
