"""Exact invariants of the specification, at the paper's width, and what the edits promise."""

import pytest
import torch

from mien.data.warp import warp
from mien.files.errors import ConfigError, WeightsError
from mien.methods.base import config_from
from mien.methods.facecycle import FaceCycle
from mien.methods.facecycle.losses import dissimilarity, focus, gram, gram_loss, margin, symmetry
from mien.methods.facecycle.networks import (
    Encoder,
    FlowDecoder,
    Generator,
    Normaliser,
)
from mien.methods.facecycle.official import load_official
from mien.nets.blocks import LinearAttention, lrelu

SMALL = {"width": 8, "generator_width": 8, "blocks": 2, "perceptual": "none"}


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def small(stage: str, **settings) -> FaceCycle:
    torch.manual_seed(0)
    return FaceCycle(FaceCycle.Config(**{**SMALL, **settings}), stage)


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, n, 3, 64, 64, generator=generator) * 2 - 1
    anchor = torch.tensor([1.0, 0, 0, 1])[:n]
    return {"image0": images[0], "image1": images[1], "anchor0": anchor, "anchor1": 1 - anchor}


def trained_step(method: FaceCycle) -> dict[str, float]:
    optimisers = method.optimisers(1e-3)

    def update(name, loss):
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    return method.train().step(batch(), update)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (Encoder, 4_240_000),
        (FlowDecoder, 2_996_544),
        (Generator, 13_409_475),
        (Normaliser, 10_014_275),
    ],
)
def test_parameter_counts_of_the_paper(network, count):
    assert parameters(network()) == count


def test_shapes_of_the_paper():
    encoder = Encoder()
    x = torch.zeros(1, 3, 64, 64)
    shapes = [tuple(s.shape[1:]) for s in encoder.stage_outputs(x)]
    assert shapes == [(64, 32, 32), (128, 16, 16), (128, 8, 8), (256, 4, 4), (128, 4, 4)]
    assert encoder(x).shape == (1, 256)
    assert encoder.stage_features(torch.zeros(1, 3, 100, 100)).shape == (1, 6272)
    assert encoder.stage_features(torch.zeros(1, 3, 256, 256)).shape == (1, 32768)
    assert all(f.shape == (2, 2, 16, 16) for f in FlowDecoder()(torch.zeros(2, 256)))


def test_half_precision_spares_what_needs_more():
    """Flows, structure and pictures are single precision while convolutions are not."""
    torch.manual_seed(0)
    x, code = torch.rand(2, 3, 64, 64), torch.rand(2, 256)
    decoder = FlowDecoder(8)
    with torch.autocast("cpu", torch.bfloat16):
        flow, inverse = decoder(code)
        drawn = Generator(8, 1)(x, flow)
        moved = warp(x.bfloat16(), flow)
        unlike = dissimilarity(x, [x + 1e-3])[0]
        squares = gram(x.bfloat16())
    assert {v.dtype for v in (flow, inverse, drawn, moved, unlike, squares)} == {torch.float32}
    assert unlike == pytest.approx(dissimilarity(x, [x + 1e-3])[0].item(), rel=1e-4, abs=1e-6)
    assert not torch.equal(flow, flow.bfloat16().float())  # finer than half precision


def test_flows_of_a_step_with_g_are_single_precision_throughout():
    torch.manual_seed(0)
    method = FaceCycle(FaceCycle.Config(width=8, generator_width=8, blocks=1))
    x = torch.rand(2, 3, 64, 64)
    flow = method.motion_losses(x, x)[0]["flow"]
    with torch.autocast("cpu", torch.bfloat16):
        assert method.motion_losses(x, x)[0]["flow"] == flow


def test_flow_is_near_the_identity_at_the_start():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    flow, _ = FlowDecoder()(Encoder()(images))
    assert 0.0005 < flow.abs().mean() < 0.05  # 0.005 was measured on the published code


def test_attention_with_zero_weights_is_the_activation():
    attention = LinearAttention(8)
    for p in attention.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(attention(x), lrelu(x))


def test_symmetry_of_a_mirror_symmetric_image_is_zero():
    half = torch.rand(1, 3, 8, 4)
    assert symmetry(torch.cat([half, half.flip(-1)], -1)) == 0
    assert symmetry(torch.cat([half, half], -1)) > 0


def test_gram_is_divided_by_positions_only_and_blocks_meet_their_target():
    f = torch.rand(2, 3, 4, 5)
    by_hand = torch.einsum("bchw,bdhw->bcd", f, f) / 20
    torch.testing.assert_close(gram(f), by_hand)
    other = torch.rand(2, 3, 4, 5)
    expected = (gram(other) - by_hand).square().mean() / 2  # two blocks, one of them equal
    torch.testing.assert_close(gram_loss([torch.cat([f, other])], [f]), expected)


def test_margin_is_free_below_a_tenth_unless_official():
    m, n = torch.full((1, 3, 4, 4), 0.05), torch.zeros(1, 3, 4, 4)
    assert margin(m, n, official=False) == 0
    torch.testing.assert_close(margin(m, n, official=True), torch.tensor(-0.05))
    torch.testing.assert_close(margin(m + 0.25, n, official=False), torch.tensor(0.2))


def test_drawing_both_in_one_pass_equals_two_passes():
    g = Generator(8, 2).eval()
    x, flow = torch.rand(2, 3, 64, 64), torch.rand(2, 2, 16, 16) * 0.1
    n, a = g.decode_both(g.extract(x), flow)
    torch.testing.assert_close(n, g(x, flow))
    torch.testing.assert_close(a, g(x, None))


def test_losses_are_the_sum_of_the_specification():
    """L = L_pix + 0.01 L_perc + 5 L_ssim + 1.5 L_sym, computed here pass by pass (§1.4)."""
    from mien.data.warp import warp
    from mien.methods.facecycle.losses import l1
    from mien.nets.ssim import ssim

    method = small("motion").eval()  # no noise
    b = batch()
    x = method.normalise(torch.cat([b["image0"], b["image1"]]))

    def swap(t):
        return torch.cat([t[4:], t[:4]])

    f, f_inv = method.flow(method.e_exp(x))
    n, w = method.g(x, f), warp(x, f)
    r_dd, r_sd = warp(swap(w), f_inv), warp(swap(n), f_inv)
    r, a = method.g(swap(n), f_inv), method.g(x, None)

    def d(y):
        return 1 - ssim(method.denormalise(x) / 2 + 0.5, method.denormalise(y) / 2 + 0.5).mean()

    l_pix = l1(r, x) + l1(a, x) + l1(r_sd, x) + 1.5 * l1(r_dd, x)
    l_ssim = d(r) + d(a) + 1.5 * d(r_dd)
    l_sym = symmetry(n) + 0.5 * symmetry(w)
    losses, total = method.motion_losses(x, x)
    torch.testing.assert_close(losses["pix"], l_pix)
    torch.testing.assert_close(losses["ssim"], l_ssim)
    torch.testing.assert_close(losses["sym"], l_sym)
    torch.testing.assert_close(total, l_pix + 5 * l_ssim + 1.5 * l_sym)


def test_official_ssim_is_taken_of_normalised_images():
    fixed, official = small("motion").eval(), small("motion", ssim_space="official").eval()
    x = fixed.normalise(torch.cat([batch()["image0"], batch()["image1"]]))
    assert fixed.motion_losses(x, x)[0]["ssim"] != official.motion_losses(x, x)[0]["ssim"]


def test_motion_step_trains_its_networks():
    method = small("motion", anchor=1.0)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    first = trained_step(method)
    assert all(v == v for v in first.values())  # no NaN
    moved = {k.split(".")[0] for k, v in method.state_dict().items() if not v.equal(before[k])}
    assert moved == {"e_exp", "flow", "g"}


def test_warm_networks_may_learn_more_slowly_than_the_generator():
    """Adam's first step is as long as the learning rate, wherever a gradient is not tiny."""
    method = small("motion", flow_rate=0.1)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    trained_step(method)
    for name, longest in (("e_exp", 1e-4), ("flow", 1e-4), ("g", 1e-3)):
        moved = max(
            (v - before[k]).abs().max().item()
            for k, v in method.state_dict().items()
            if k.startswith(f"{name}.")
        )
        assert moved == pytest.approx(longest, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "still"),
    [({"code_rate": 0.0}, {"e_exp"}), ({"flow_rate": 0.0}, {"e_exp", "flow"})],
)
def test_networks_without_a_rate_stay(settings, still):
    method = small("motion", **settings)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    trained_step(method)
    moved = {k.split(".")[0] for k, v in method.state_dict().items() if not v.equal(before[k])}
    assert moved == {"e_exp", "flow", "g"} - still


@pytest.mark.parametrize(
    ("stage", "settings", "betas"),
    [
        ("motion", {}, (0.5, 0.999)),
        ("motion", {"direct_only": True}, (0.9, 0.999)),
        ("identity", {}, (0.5, 0.9)),
        ("identity", {"direct_only": True}, (0.9, 0.999)),
    ],
)
def test_momenta_of_the_stages(stage, settings, betas):
    assert small(stage, **settings).optimisers(1e-3)[stage].param_groups[0]["betas"] == betas


def test_focus_weighs_the_features_and_keeps_the_mean():
    weight = focus(torch.zeros(1, 2, 16, 16))
    assert weight.shape == (1, 1, 16, 16)
    assert weight.mean() == pytest.approx(1.0, abs=1e-5)
    assert weight[0, 0, 12, 8] > 5 * weight[0, 0, 0, 0]  # the mouth and a corner
    assert weight[0, 0].flip(-1).allclose(weight[0, 0], atol=1e-5)


def test_identity_step_moves_only_its_networks_and_the_mean_face():
    method = small("identity")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    trained_step(method)
    moved = {k.split(".")[0] for k, v in method.state_dict().items() if not v.equal(before[k])}
    assert moved == {"e_id", "n", "mean_image"}
    assert all(
        p.grad is None for net in (method.e_exp, method.flow, method.g) for p in net.parameters()
    )


def test_the_warm_up_of_the_identity_needs_no_generator(monkeypatch):
    method = small("identity", direct_only=True)
    monkeypatch.setattr(method.g, "forward", lambda *_: pytest.fail("G was asked"))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    first = trained_step(method)
    assert first["loss"] > 0
    moved = {k.split(".")[0] for k, v in method.state_dict().items() if not v.equal(before[k])}
    assert moved == {"e_id", "n", "mean_image"}
    assert method.preview(batch()).shape[1] == 4 * 64  # no generator either


def test_mean_face_of_a_batch_is_the_same_for_every_row(monkeypatch):
    method = small("identity").eval()
    seen = {}
    draw = method.n.forward

    def spy(x, direction, code):
        seen[direction] = x
        return draw(x, direction, code)

    monkeypatch.setattr(method.n, "forward", spy)
    x = method.normalise(torch.cat([batch()["image0"], batch()["image1"]]))
    method.identity_losses(x, x)
    assert seen["denorm"].shape == x.shape
    assert seen["renorm"].shape == x[:1].shape
    torch.testing.assert_close(
        seen["renorm"][0], draw(seen["denorm"], "denorm", method.e_id(x)).mean(0)
    )
    assert not seen["denorm"][0].equal(seen["denorm"][1])


def test_encoders_see_the_augmented_picture_only():
    method = small("motion").eval()
    b = batch()
    x = method.normalise(torch.cat([b["image0"], b["image1"]]))
    same, other = method.motion_losses(x, x)[1], method.motion_losses(x, -x)[1]
    assert same != other


@pytest.mark.parametrize(
    "edit", ["neutralise", "frontalise", "transfer_expression", "swap_identity", "to_mean_face"]
)
def test_edits_are_deterministic_and_grow_from_the_image_itself(edit):
    method = small("identity").eval()
    x, y = batch()["image0"], batch()["image1"]
    needs_driver = edit in ("transfer_expression", "swap_identity")
    arguments = (x, y) if needs_driver else (x,)
    run = getattr(method, edit)
    torch.testing.assert_close(run(*arguments, strength=0.0).images, x, atol=1e-5, rtol=0)
    whole, again = run(*arguments, strength=1.0), run(*arguments, strength=1.0)
    assert whole.images.equal(again.images)
    assert whole.images.abs().max() <= 1
    changes = [(run(*arguments, strength=s).images - x).abs().mean() for s in (0.1, 1.0)]
    assert changes[0] < changes[1]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        run(*arguments, strength=1.5)


def test_a_gain_moves_further():
    plain, stronger = small("motion").eval(), small("motion", edit_gain=1.5).eval()
    x, driver = batch()["image0"], batch()["image1"]
    assert stronger.neutralise(x).flow.equal(1.5 * plain.neutralise(x).flow)
    moved, further = (m.transfer_expression(x, driver).flow for m in (plain, stronger))
    torch.testing.assert_close(further, 1.5 * moved, rtol=0, atol=0.2 * moved.abs().max().item())


def test_neutralising_fully_is_the_published_formula_by_switch():
    method = small("identity", edit_detail="official").eval()
    x = method.normalise(batch()["image0"])
    published = method.denormalise(method.g(x, method.flow(method.e_exp(x))[0])).clamp(-1, 1)
    found = method.neutralise(batch()["image0"]).images
    torch.testing.assert_close(found, published, atol=1e-5, rtol=0)


def test_an_edit_keeps_the_detail_that_the_generator_blurs():
    """With a G that draws nothing, the edit is the image moved by the flow, as sharp as it was."""
    from mien.data.warp import warp

    method = small("motion").eval()
    for p in method.g.parameters():
        torch.nn.init.zeros_(p)
    x = batch()["image0"]
    edit = method.neutralise(x)
    inside = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(edit.images[inside], warp(x, edit.flow)[inside], atol=1e-4, rtol=0)


def test_a_known_flow_costs_nothing_where_the_way_over_the_neutral_face_is_that_flow():
    from mien.methods.facecycle.method import _flow_error

    f = torch.full((4, 2, 16, 16), 0.02)
    f[2:] = 0.06
    back = -f
    flow = torch.full((2, 2, 16, 16), -0.04)  # out of frame 1 by -0.06, into frame 0 by 0.02
    assert _flow_error(f, back, flow, torch.ones(2)) < 1e-6
    assert _flow_error(f, back, flow + 0.5, torch.tensor([1.0, 0.0])) > 0.49
    assert _flow_error(f, back, flow + 0.5, torch.zeros(2)) == 0


def test_a_large_picture_is_encoded_at_the_size_of_the_network():
    method = small("identity").eval()
    codes = method.encode(torch.rand(2, 3, 112, 112) * 2 - 1)
    assert {k: tuple(v.shape) for k, v in codes.items()} == {
        "expression": (2, 256), "identity": (2, 256)}  # fmt: skip
    assert method.features(torch.zeros(1, 3, 100, 100), "identity").shape == (1, 2 * 8 * 49)


def test_what_the_first_stage_lacks_is_said():
    method = small("motion").eval()
    assert set(method.encode(batch()["image0"])) == {"expression"}
    with pytest.raises(WeightsError, match="no identity code"):
        method.swap_identity(batch()["image0"], batch()["image1"])
    with pytest.raises(ConfigError, match="expression"):
        method.features(batch()["image0"], "identity")


def test_official_noise_keeps_the_edit_random():
    method = small("motion", eval_noise="official").eval()
    x = batch()["image0"]
    assert not method.neutralise(x).images.equal(method.neutralise(x).images)


def test_unknown_settings_are_errors():
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        config_from(FaceCycle.Config, {"widht": 8})
    with pytest.raises(ConfigError, match="margin"):
        small("motion", margin="no")


def test_official_checkpoints_load_under_other_names(tmp_path):
    torch.manual_seed(3)
    source = FaceCycle(FaceCycle.Config(perceptual="none"), "identity")

    def renamed(net):
        return {f"module.layer{i}.w": v for i, v in enumerate(net.state_dict().values())}

    torch.save(
        {
            "epoch": 19,
            "exp": renamed(source.e_exp),
            "flow": renamed(source.flow),
            "gen": renamed(source.g),
        },
        tmp_path / "motion.tar",
    )
    torch.save({"id": renamed(source.e_id), "norm": renamed(source.n)}, tmp_path / "identity.tar")
    loaded = load_official(tmp_path / "motion.tar", tmp_path / "identity.tar")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    source.eval()
    for code, value in source.encode(x).items():
        torch.testing.assert_close(loaded.encode(x)[code], value)
    torch.testing.assert_close(loaded.neutralise(x).images, source.neutralise(x).images)
    with pytest.raises(WeightsError, match="FlowDec"):
        load_official(tmp_path / "identity.tar")
