"""The losses in closed form, who is updated by which of them, and what each switch does."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from mien.data.cache import FaceCache
from mien.data.procedural import write_table
from mien.faces.landmarks import LANDMARKS, load_landmark_net
from mien.files.errors import ConfigError, WeightsError
from mien.files.weights import load_weights
from mien.methods.ipgan import IPGAN
from mien.methods.ipgan.losses import distillation, l_gc, l_gd, l_gr, l_i, l_kl, l_lm
from mien.methods.ipgan.networks import (
    Discriminator,
    Generator,
    Recogniser,
    level_widths,
    sphere,
)
from mien.train.loop import train
from mien.train.statistics import refreshed_statistics

SMALL = {"width": 4, "size": 32, "identity_dim": 16, "attribute_dim": 8, "identities": 6}
SIZE = 32


def small(stage: str = "synthesise", **settings) -> IPGAN:
    torch.manual_seed(0)
    return IPGAN(IPGAN.Config(**{**SMALL, **settings}), stage).train()


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator) * 2 - 1
    return F.interpolate(coarse, (SIZE, SIZE), mode="bilinear")


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    return {
        "source": images(n, 1),
        "attributes": images(n, 2),
        "label": torch.arange(n) % 3 - 1,
        "same": (torch.arange(n) % 2).float(),
    }


def run_steps(method: IPGAN, values=None, count: int = 1) -> list[tuple[str, set[str]]]:
    """Run steps as the engine does it; return each update and the networks that it moved."""
    optimisers = method.optimisers(1e-2)
    moved = []

    def update(name, loss):
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        before = {k: p.detach().clone() for k, p in method.named_parameters()}
        optimisers[name].step()
        changed = {k for k, p in method.named_parameters() if not p.equal(before[k])}
        moved.append((name, {k.split(".")[0] for k in changed}))

    torch.manual_seed(0)
    for _ in range(count):
        method.step(values or batch(), update)
    return moved


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_table(folder, persons=5, frames=3, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def cache(table) -> FaceCache:
    return FaceCache(table, SIZE)


# --- networks -----------------------------------------------------------------------------------


def test_levels():
    assert level_widths(32, 64) == [32, 64, 128, 256]
    assert level_widths(32, 128) == [32, 64, 128, 256, 256]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes(size):
    method = small(size=size).eval()
    x = torch.rand(2, 3, size, size) * 2 - 1
    codes = method.encode(x)
    assert codes["identity"].shape == (2, 16)
    assert codes["appearance"].shape == (2, 8)
    drawn = method.g(codes["identity"], codes["appearance"])
    assert drawn.shape == x.shape
    feature, logit = method.d(x)
    assert feature.shape == (2, level_widths(4, size)[-1])
    assert logit.shape == (2,)


def test_identity_codes_have_mean_square_one():
    code = Recogniser(4, SIZE, 16)(images())
    torch.testing.assert_close(code.square().mean(1), torch.ones(4))
    torch.testing.assert_close(sphere(3 * code), code)


def test_the_recogniser_of_stage_one_is_that_of_stage_two():
    first, second = small("recognise"), small()
    first.i(images(8))  # moves the statistics
    state = {k: v for k, v in first.state_dict().items() if k.startswith("i.")}
    second.load_state_dict(state, strict=False)
    code = first.eval().encode(images())["identity"]
    torch.testing.assert_close(second.encode(images())["identity"], code)
    torch.testing.assert_close(second.eval().encode(images())["identity"], code)


@pytest.mark.parametrize(("inject", "reaches"), [("input", False), ("every", True)])
def test_where_z_enters(inject, reaches):
    """With the bottom maps cut off, z reaches the picture by the levels or not at all."""
    torch.manual_seed(0)
    g = Generator(4, SIZE, 6, 1, inject).eval()
    nn.init.zeros_(g.start.weight)
    one, two = (g(torch.randn(2, 4), torch.randn(2, 2)) for _ in range(2))
    assert torch.allclose(one, two) != reaches


def test_depth_is_the_number_of_convolutions_of_a_level():
    count = [sum(isinstance(m, nn.Conv2d) for m in small(depth=n).g.modules()) for n in (1, 2)]
    assert count == [3 + 1, 6 + 1]


def test_the_logit_of_a_picture_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    d = Discriminator(4, SIZE).eval()
    x = images()
    for whole, alone in zip(d(x), d(x[:1]), strict=True):
        torch.testing.assert_close(whole[:1], alone)


# --- losses -------------------------------------------------------------------------------------


def test_l_i_is_the_mean_over_labelled_rows():
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    label = torch.tensor([2, -1, 0, -1])
    by_hand = -(logits[0].log_softmax(0)[2] + logits[2].log_softmax(0)[0]) / 2
    torch.testing.assert_close(l_i(logits, label), by_hand)
    assert l_i(logits, torch.full((4,), -1)) == 0


def test_l_gr_weighs_other_pairs_by_lambda():
    x = torch.zeros(2, 3, 4, 4)
    drawn = torch.stack([x[0] + 1, x[0] + 2])  # squared errors 1 and 4
    for same, expected in (((1, 1), 5.0), ((1, 0), 1.4), ((0, 1), 4.1), ((0, 0), 0.5)):
        found = l_gr(drawn, x, torch.tensor(same).float(), 0.1)
        assert found.item() == pytest.approx(expected / 2 / 2)


def test_l_gr_gradients_of_the_two_kinds_have_the_ratio_lambda():
    drawn = torch.randn(1, 3, 4, 4).repeat(2, 1, 1, 1).requires_grad_()
    l_gr(drawn, torch.zeros(2, 3, 4, 4), torch.tensor([1.0, 0.0]), 0.1).backward()
    torch.testing.assert_close(drawn.grad[1], 0.1 * drawn.grad[0])
    assert drawn.grad[0].abs().max() > 0


def test_l_kl_is_the_divergence_from_the_normal_distribution():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 5)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0, 1)).mean()
    torch.testing.assert_close(l_kl(mean, log_variance), expected)
    assert l_kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_feature_losses():
    drawn = torch.tensor([[1.0, 2.0]], requires_grad=True)
    other = torch.tensor([[3.0, -1.0]], requires_grad=True)
    for loss in (l_gd, l_gc):
        found = loss(drawn, other)
        assert found.item() == pytest.approx((4 + 9) / 2 / 2)
        found.backward()
        assert other.grad is None, "a constant"
    assert l_gd(drawn, other, "relative").item() == pytest.approx((4 + 9) / 2 / 2 / 5)
    torch.testing.assert_close(
        l_gd(7 * drawn, 7 * other, "relative"), l_gd(drawn, other, "relative")
    )


def test_l_gc_of_codes_is_one_minus_their_cosine():
    torch.manual_seed(0)
    a, b = sphere(torch.randn(3, 16)), sphere(torch.randn(3, 16))
    torch.testing.assert_close(l_gc(a, b), (1 - F.cosine_similarity(a, b)).mean())


def test_l_lm_is_the_mean_distance_of_landmarks():
    drawn = torch.zeros(1, 2, 2, requires_grad=True)
    other = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]], requires_grad=True)
    found = l_lm(drawn, other)
    assert found.item() == pytest.approx((5 + 1) / 2)
    found.backward()
    assert other.grad is None, "a constant"
    equal = l_lm(drawn, torch.zeros(1, 2, 2))
    equal.backward()
    assert drawn.grad.isfinite().all(), "a root at 0 has no slope"


def test_distillation_leaves_out_unknown_rows():
    teacher = torch.tensor([[1.0, 0.0], [float("nan")] * 2, [0.0, 2.0]])
    predicted = torch.tensor([[3.0, 0.0], [1.0, 1.0], [1.0, 0.0]], requires_grad=True)
    found = distillation(predicted, teacher)
    assert found.item() == pytest.approx((0 + 1) / 2)
    found.backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad[1].abs().max() == 0
    assert distillation(predicted, torch.full((3, 2), float("nan"))) == 0


# --- who learns from what -----------------------------------------------------------------------


def test_updates_and_what_they_move():
    assert run_steps(small("recognise")) == [("identity", {"i", "persons"})]
    assert run_steps(small()) == [("generator", {"a", "g"}), ("discriminator", {"d"})]
    assert run_steps(small(train_identity=True, adversarial=0.1)) == [
        ("generator", {"a", "g"}),
        ("discriminator", {"d"}),
        ("identity", {"i", "persons"}),
    ]


def test_the_recogniser_stays_bit_for_bit():
    """Its weights and the statistics of its normalisation, over steps and in averaged weights."""
    method = small()
    for name, buffer in method.i.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_()
    before = {k: v.clone() for k, v in method.i.state_dict().items()}
    assert not any(p.requires_grad for p in method.i.parameters())
    code = method.encode(images())["identity"]
    run_steps(method, count=3)
    found = refreshed_statistics(method, [batch(), batch()], seed=0)
    assert found
    assert not any(name.startswith("i.") for name in found)
    assert all(v.equal(before[k]) for k, v in method.i.state_dict().items())
    assert method.encode(images())["identity"].equal(code)


def test_statistics_stay_where_the_recogniser_learns():
    method = small(train_identity=True)
    before = {k: v.clone() for k, v in method.i.named_buffers()}
    run_steps(method, count=2)
    assert all(v.equal(before[k]) for k, v in method.i.named_buffers())


def test_l_gc_moves_g_through_c_but_not_c():
    method = small(train_identity=True)
    x_s, x_a, same = (batch()[k] for k in ("source", "attributes", "same"))
    _, losses = method.generator_losses(x_s, x_a, same)
    losses["gc"].backward()
    assert all(p.grad is None for p in [*method.i.parameters(), *method.d.parameters()])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.g.end.parameters())
    assert all(p.requires_grad for p in [*method.i.parameters(), *method.d.parameters()])


def test_kl_moves_a_alone():
    method = small()
    _, losses = method.generator_losses(images(), images(4, 2), torch.ones(4))
    losses["kl"].backward()
    moved = {k.split(".")[0] for k, p in method.named_parameters() if p.grad is not None}
    assert moved == {"a"}


def test_the_total_is_the_weighted_sum():
    weights = {
        "reconstruction": 2.0,
        "kl": 0.3,
        "discriminator_feature": 0.5,
        "classifier_feature": 0.7,
        "adversarial": 0.11,
    }
    _, found = small(**weights).generator_losses(images(), images(4, 2), torch.ones(4))
    parts = zip(weights.values(), ("gr", "kl", "gd", "gc", "adv"), strict=True)
    torch.testing.assert_close(found["loss"], sum(w * found[name] for w, name in parts))
    _, plain = small(adversarial=0.0).generator_losses(images(), images(4, 2), torch.ones(4))
    assert "adv" not in plain


def test_l_lm_counts_where_it_is_asked_for_and_its_network_stays():
    net = load_landmark_net(LANDMARKS)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    method = small(landmarks=3.0)
    _, found = method.generator_losses(images(), images(4, 2), torch.ones(4))
    c = method.config
    weights = {"gr": c.reconstruction, "kl": c.kl, "gd": c.discriminator_feature,
               "gc": c.classifier_feature, "lm": 3.0}  # fmt: skip
    torch.testing.assert_close(found["loss"], sum(w * found[k] for k, w in weights.items()))
    found["lm"].backward()
    assert any(p.grad.abs().max() > 0 for p in method.g.parameters())
    assert all(p.grad is None for p in net.parameters())
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())
    assert not any("landmark" in name for name in method.state_dict())


def test_lambda_reaches_the_step():
    """The same pair in both roles: its L_GR differs by λ."""
    values = []
    for same in (1.0, 0.0):
        torch.manual_seed(1)
        method = small(lambda_different=0.25)
        _, losses = method.generator_losses(images(), images(4, 2), torch.full((4,), same))
        values.append(losses["gr"])
    torch.testing.assert_close(values[1], 0.25 * values[0])


def test_unknown_persons_give_no_l_i():
    method = small("recognise")
    values = batch() | {"label": torch.full((4,), -1)}
    seen = []
    method.step(values, lambda name, loss: seen.append(loss))
    assert seen[0] == 0
    seen[0].backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(g.abs().max() == 0 for g in grads)
    moved = run_steps(small(), values)
    assert moved == [("generator", {"a", "g"}), ("discriminator", {"d"})], "all but L_I"


def test_kl_grows_over_its_warm_up():
    method = small(kl_warmup=4)
    strengths = []
    for _ in range(6):
        strengths.append(method.kl_strength())
        run_steps(method)
    assert strengths == [0, 0.25, 0.5, 0.75, 1, 1]
    assert small().kl_strength() == 1


def test_r1_is_the_gradient_of_the_discriminator():
    plain, method = small(gan="hinge"), small(gan="hinge", r1=2.0)
    x, fake = images(), images(4, 2)
    for net in (plain, method):
        net.d.eval()  # no power iteration between the calls
    penalty = method.discriminator_loss(x, fake) - plain.discriminator_loss(x, fake)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method.d(y)[1].sum(), y)
    expected = 2.0 * gradient.square().flatten(1).sum(1).mean() / 2
    torch.testing.assert_close(penalty, expected, rtol=1e-3, atol=1e-6)
    method.train()
    refreshed_statistics(method, [batch()], seed=0)  # runs where nothing records gradients


def test_a_teacher_trains_the_recogniser_where_nobody_is_known():
    method = small("recognise", identities=0, teacher=("a.parquet",), teacher_dim=3)
    values = batch() | {"teacher": torch.randn(4, 3)}
    assert run_steps(method, values) == [("identity", {"i", "teacher"})]


def test_recognition_learns():
    method = small("recognise").train()
    values = {"source": images(6), "label": torch.arange(6)}
    optimiser = method.optimisers(3e-3)["identity"]
    losses = []

    def update(name, loss):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    for _ in range(15):
        method.step(values, update)
    assert losses[-1] < losses[0] / 4


# --- sampling -----------------------------------------------------------------------------------


def test_persons_must_fit(cache):
    with pytest.raises(ConfigError, match=r"identities is 3.*set config\.identities=5"):
        small("recognise", identities=3).sampler([cache], 4, 0, 0)
    small("recognise", identities=5).sampler([cache], 4, 0, 0)
    small(identities=3).sampler([cache], 4, 0, 0)  # no softmax there
    with pytest.raises(ConfigError, match="nothing to learn from"):
        small("recognise", identities=0).sampler([cache], 4, 0, 0)
    with pytest.raises(ConfigError, match=r"set size and config\.size"):
        small("recognise", size=64).sampler([cache], 4, 0, 0)
    with pytest.raises(ConfigError, match="2 teacher files are given for 1 tables"):
        small("recognise", teacher=("a", "b")).sampler([cache], 4, 0, 0)


def test_teacher_files_reach_the_batch(cache, tmp_path):
    source = cache.table.column("source")
    vectors = np.arange(2 * len(source), dtype=np.float32).reshape(-1, 2)
    pq.write_table(pa.table({"source": source, "embedding": list(vectors)}), tmp_path / "e.parquet")
    settings = {"teacher": (str(tmp_path / "e.parquet"),), "teacher_dim": 2}
    values = small("recognise", **settings).sampler([cache], 6, 0, 0)(0)
    assert values["teacher"].isfinite().all()
    assert "teacher" not in small(**settings).sampler([cache], 6, 0, 0)(0)


@pytest.mark.parametrize("mode", ["same_image", "same_person"])
def test_recon_mode(cache, mode):
    values = small(recon_mode=mode, same_share=1.0).sampler([cache], 12, 0, 0)(0)
    assert values["same"].all()
    assert values["source"].equal(values["attributes"]) == (mode == "same_image")


def test_only_recognition_augments(cache):
    for stage, augment, still in (("recognise", 0.0, True), ("recognise", 1.0, False)):
        values = small(stage, augment=augment, same_share=1.0).sampler([cache], 8, 0, 0)(0)
        assert values["source"].equal(values["attributes"]) == still
    values = small(augment=1.0, same_share=1.0).sampler([cache], 8, 0, 0)(0)
    assert values["source"].equal(values["attributes"])


# --- edits --------------------------------------------------------------------------------------


def edited(method: IPGAN, name: str, strength: float = 1.0) -> torch.Tensor:
    inputs = [images()] if name == "frontalise" else [images(), images(4, 2)]
    return getattr(method, name)(*inputs, strength).images


def test_edits_at_full_strength_are_what_g_draws():
    method = small().eval()
    mine, theirs = (method.encode(images(4, seed)) for seed in (1, 2))
    mirror = method.encode(images().flip(-1))
    swapped = method.g(theirs["identity"], mine["appearance"])
    torch.testing.assert_close(edited(method, "swap_identity"), swapped)
    driven = method.g(mine["identity"], theirs["appearance"])
    torch.testing.assert_close(edited(method, "transfer_attributes"), driven)
    between = (mine["appearance"] + mirror["appearance"]) / 2
    frontal = method.g(mine["identity"], between)
    torch.testing.assert_close(edited(method, "frontalise"), frontal)


@pytest.mark.parametrize("name", ["swap_identity", "transfer_attributes"])
def test_one_driver_serves_all(name):
    method = small().eval()
    function = getattr(method, name)
    one = images(1, 2)
    found = function(images(), one).images
    torch.testing.assert_close(found, function(images(), one.expand(4, 3, SIZE, SIZE)).images)


def test_interpolation_and_new_attributes():
    method = small().eval()
    own = method.encode(images())
    path = method.interpolate_attributes(images(), images(), images(4, 2), 3)
    assert path.shape == (4, 3, 3, SIZE, SIZE)
    torch.testing.assert_close(path[:, 0], method.g(own["identity"], own["appearance"]))
    torch.testing.assert_close(path[:, 2], edited(method, "transfer_attributes"))
    assert not torch.allclose(path[:, 1], path[:, 0])

    drawn = method.generate(images(), 2, seed=3)
    assert drawn.shape == (4, 2, 3, SIZE, SIZE)
    assert drawn.equal(method.generate(images(), 2, seed=3))
    assert not drawn.equal(method.generate(images(), 2, seed=4))
    assert not torch.allclose(drawn[:, 0], drawn[:, 1])
    with pytest.raises(ConfigError, match="at least 2 steps"):
        method.interpolate_attributes(images(), images(), images(), 1)
    with pytest.raises(ConfigError, match="At least 1 picture"):
        method.generate(images(), 0)


def test_stage_recognise_draws_nothing():
    method = small("recognise").eval()
    assert method.encode(images()).keys() == {"identity"}
    for name in ("swap_identity", "transfer_attributes", "frontalise"):
        with pytest.raises(WeightsError, match="recognise"):
            edited(method, name)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"size": 48}, "size has no value '48'"),
        ({"inject": "evry"}, "did you mean 'every'"),
        ({"recon_mode": "same"}, "recon_mode has no value"),
        ({"gan": "hing"}, "did you mean 'hinge'"),
        ({"gd_form": "plan"}, "did you mean 'plain'"),
        ({"depth": 0}, "depth is at least 1"),
        ({"same_share": 1.5}, "same_share is a share"),
        ({"kl_warmup": -1}, "cannot be negative"),
    ],
)
def test_settings_without_meaning(setting, words):
    with pytest.raises(ConfigError, match=words):
        small(**setting)


# --- training -----------------------------------------------------------------------------------


def test_two_steps_and_two_more_are_four(table, tmp_path):
    """From the weights of the first stage; the warm-up of L_KL is part of the state."""
    values = {
        "method": "ipgan",
        "tables": [str(table)],
        "size": SIZE,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "ema": 0.9,
        "preview_every": 0,
        "checkpoint_every": 2,
        "config": SMALL | {"kl_warmup": 3},
    }

    def run(out, stage, steps, **how):
        recipe = tmp_path / f"{stage}.yaml"
        recipe.write_text(yaml.safe_dump(values | {"stage": stage, "steps": steps}))
        train(recipe, out=tmp_path / out, accelerator="cpu", threads=1, **how)
        return load_weights(tmp_path / out / "weights.safetensors")[0]

    first = run("first", "recognise", 1)
    start = {"init_from": tmp_path / "first"}
    whole = run("whole", "synthesise", 4, **start)
    run("parts", "synthesise", 2, **start)
    parts = run("parts", "synthesise", 4, resume=True, **start)
    assert whole.keys() == parts.keys()
    assert all(v.equal(parts[k]) for k, v in whole.items())
    assert whole["steps"] == 4
    assert all(v.equal(first[k]) for k, v in whole.items() if k.startswith("i."))


def test_new_attributes_follow_the_codes_of_training() -> None:
    torch.manual_seed(0)
    method = small(prior="fitted")
    wanted = torch.randn(4096, 8) @ torch.randn(8, 8) + 3
    for _ in range(800):
        method._fit_prior(wanted[torch.randint(4096, (64,))])
    drawn = method.draw_attributes(4096, seed=1)
    torch.testing.assert_close(drawn.mean(0), wanted.mean(0), atol=0.5, rtol=0.1)
    torch.testing.assert_close(drawn.T.cov(), wanted.T.cov(), atol=2.5, rtol=0.2)
    assert torch.equal(drawn, method.draw_attributes(4096, seed=1))
    with torch.autocast("cpu", torch.bfloat16):
        method.generator_losses(*(batch()[k] for k in ("source", "attributes", "same")))
    assert small().draw_attributes(4096).std() == pytest.approx(1, abs=0.03)
