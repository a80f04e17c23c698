"""SimCLR, MoCo v2, BYOL and SimSiam: their losses by hand, and what moves when."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mien.files.errors import ConfigError
from mien.methods.base import config_from, method_class
from mien.methods.byol import BYOL, regression
from mien.methods.moco import MoCo, queue_contrast
from mien.methods.pcl.networks import Trunk
from mien.methods.simclr import SimCLR, nt_xent
from mien.methods.simsiam import SimSiam, spread
from mien.methods.two_views import follow, mlp
from mien.train.recipe import load_recipe

RIVALS = ("simclr", "moco", "byol", "simsiam")
PLAIN = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "sobel": 0.0}


def small(name: str, **settings):
    cls = method_class(name)
    torch.manual_seed(0)
    more = {"queue": 8} if name == "moco" else {}
    return cls(config_from(cls.Config, {"width": 4, **more, **settings})).train()


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator) * 2 - 1
    return F.interpolate(coarse, (64, 64), mode="bilinear")


def run_step(method, x=None, seed=0) -> dict[str, float]:
    (optimiser,) = method.optimisers(1e-2).values()

    def update(name, loss):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    torch.manual_seed(seed)
    return method.step({"image": images() if x is None else x}, update)


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in net.named_parameters()}


# --- what they share ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_the_trunk_is_that_of_pcl(name):
    own = {k: v.shape for k, v in small(name).trunk.state_dict().items()}
    assert own == {k: v.shape for k, v in Trunk(4).state_dict().items()}


def test_lengths_of_the_papers():
    def lengths(net):
        return [m.out_features for m in net.modules() if isinstance(m, nn.Linear)]

    assert lengths(SimCLR(SimCLR.Config()).projector) == [2048, 128]
    moco = MoCo(MoCo.Config(queue=4))
    assert lengths(moco.projector) == [2048, 128]
    byol = BYOL(BYOL.Config())
    assert lengths(byol.projector) == lengths(byol.predictor) == [4096, 256]
    simsiam = SimSiam(SimSiam.Config())
    assert lengths(simsiam.projector) == [2048] * 3
    assert lengths(simsiam.predictor) == [512, 2048]


def test_mlp_ends_without_activation():
    assert [type(m).__name__ for m in mlp(4, 3, 2)] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [type(m).__name__ for m in mlp(4, 3, 2, norm=False)] == ["Linear", "ReLU", "Linear"]


def test_views_are_pairs_of_one_image_in_the_unit_range():
    method = small("simclr", crop=(1.0, 1.0), mirror=0.5, views=PLAIN)
    x = torch.linspace(-1, 1, 3).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    first, second = method.two_views(x).chunk(2)
    torch.testing.assert_close(first, (x + 1) / 2)
    torch.testing.assert_close(second, first)
    changed = small("simclr").two_views(images(16))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed[:16] != changed[16:]).flatten(1).any(1).all()


def test_some_views_are_mirrored():
    ramp = torch.linspace(-1, 1, 64).expand(40, 3, 64, 64)
    views = small("simclr", crop=(0.9, 1.0), mirror=0.5, views=PLAIN).two_views(ramp)
    falls = views[..., 0].mean((1, 2)) > views[..., -1].mean((1, 2))
    assert 20 < int(falls.sum()) < 60
    views = small("simclr", crop=(0.9, 1.0), mirror=0.0, views=PLAIN).two_views(ramp)
    assert (views[..., 0].mean((1, 2)) < views[..., -1].mean((1, 2))).all()


@pytest.mark.parametrize("name", RIVALS)
def test_a_step_is_a_function_of_the_state_of_the_generator(name):
    first, again, other = (run_step(small(name), seed=s) for s in (0, 0, 1))
    assert first == again
    assert first["loss"] != other["loss"]


@pytest.mark.parametrize("name", RIVALS)
def test_the_code_is_the_trunk(name):
    method = small(name).eval()
    x = images(2)
    (values,) = method.encode(x).values()
    torch.testing.assert_close(values, method.trunk((x + 1) / 2).flatten(1))
    assert method.features(x, "trunk").equal(values)
    assert method.encode(torch.zeros(1, 3, 112, 112))["trunk"].shape == (1, 128)
    assert method.features(torch.zeros(1, 3, 100, 100)).shape == (1, 8 * 49)
    with pytest.raises(ConfigError, match="the code 'trunk' only"):
        method.features(x, "pose")


def test_impossible_sizes():
    with pytest.raises(ConfigError, match="multiple of 16"):
        small("byol", size=50)


def test_their_recipes_see_as_many_images_as_that_of_pcl():
    """Also the same pictures, steps, schedule and width: only the method differs."""
    pcl = load_recipe("pcl/laptop")
    for name in RIVALS:
        recipe = load_recipe(f"{name}/laptop")
        for key in ("tables", "size", "batch_size", "steps", "schedule", "warmup", "ema", "seed"):
            assert getattr(recipe, key) == getattr(pcl, key), (name, key)
        for key in ("width", "weights"):
            assert recipe.config[key] == pcl.config[key], (name, key)
        config_from(method_class(name).Config, recipe.config)


# --- each of them -------------------------------------------------------------------------------


def test_nt_xent_by_hand():
    torch.manual_seed(0)
    z = torch.randn(6, 5)
    total = 0.0
    for i in range(6):
        cosines = F.cosine_similarity(z[i][None], z, dim=1) / 0.5
        others = torch.tensor([j for j in range(6) if j != i])
        total += float(cosines[others].logsumexp(0) - cosines[(i + 3) % 6])
    assert nt_xent(z, 0.5).item() == pytest.approx(total / 6, rel=1e-5)
    equal = torch.ones(6, 5)
    assert nt_xent(equal, 0.5).item() == pytest.approx(math.log(5))


def test_queue_contrast_by_hand():
    torch.manual_seed(0)
    q, k, queue = (torch.randn(n, 5) for n in (3, 3, 4))
    k, queue = F.normalize(k, dim=1), F.normalize(queue, dim=1)
    total = 0.0
    for i in range(3):
        cosines = F.cosine_similarity(q[i][None], torch.cat([k[i][None], queue]), dim=1) / 0.2
        total += float(cosines.logsumexp(0) - cosines[0])
    assert queue_contrast(q, k, queue, 0.2).item() == pytest.approx(total / 3, rel=1e-5)


def test_contrasts_are_computed_in_full_precision():
    z, queue = torch.randn(6, 5), F.normalize(torch.randn(4, 5), dim=1)
    key = F.normalize(z, dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert nt_xent(z, 0.1).dtype == torch.float32
        mixed = nt_xent(z, 0.1), queue_contrast(z, key, queue, 0.1)
    assert mixed == (nt_xent(z, 0.1), queue_contrast(z, key, queue, 0.1))


def test_moco_compares_with_the_queue_and_moves_it_on():
    method = small("moco", momentum=0.5, queue=6)
    queue, before = method.queue.clone(), parameters(method.keys)
    run_step(method)
    changed = (method.queue != queue).any(1)
    assert changed.tolist() == [True] * 4 + [False] * 2
    assert int(method.place) == 4
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(6))
    second = method.queue.clone()
    moved = parameters(method.keys)
    run_step(method)
    changed = (method.queue != second).any(1)
    assert changed.tolist() == [True, True, False, False, True, True]  # round the end
    assert int(method.place) == 2
    assert all(v.equal(before[k]) for k, v in moved.items())  # equal to the online network so far
    assert any(not v.equal(moved[k]) for k, v in parameters(method.keys).items())


def test_moco_loss_of_equal_keys_is_the_logarithm_of_the_queue():
    method = small("moco", crop=(1.0, 1.0), mirror=0.0, views=PLAIN, queue=8)
    x = images(1).expand(4, -1, -1, -1)
    with torch.no_grad():
        key = F.normalize(method.keys((x[:1] + 1) / 2), dim=1)
    method.queue.copy_(key.expand(8, -1))
    assert run_step(method, x)["loss"] == pytest.approx(math.log(9), abs=1e-3)


def test_a_batch_larger_than_the_queue_leaves_its_last_keys():
    method = small("moco", queue=3)
    keys = F.normalize(torch.randn(5, method.queue.shape[1]), dim=1)
    method.enqueue(keys)
    assert method.queue.equal(keys[2:])


def test_following_is_a_moving_average():
    target, online = nn.Linear(2, 2), nn.Linear(2, 2)
    before = parameters(target)
    follow(target, online, 0.9)
    for name, value in target.named_parameters():
        expected = 0.9 * before[name] + 0.1 * dict(online.named_parameters())[name]
        torch.testing.assert_close(value, expected)


def test_byol_regression_by_hand():
    q, z = torch.randn(4, 6), torch.randn(4, 6)
    by_hand = (F.normalize(q, dim=1) - F.normalize(z, dim=1)).square().sum(1)
    one, other = by_hand.chunk(2)
    torch.testing.assert_close(regression(q, z), (one + other).mean())
    assert regression(q, 3 * q) < 1e-5


def test_byol_target_follows_after_the_update_and_gets_no_gradient():
    method = small("byol", momentum=0.75)
    target, trunk = parameters(method.target), parameters(method.trunk)
    run_step(method)
    assert all(p.grad is None for p in method.target.parameters())
    online = parameters(method.trunk)
    assert any(not v.equal(trunk[k]) for k, v in online.items())
    for name, value in parameters(method.target).items():
        if name.startswith("0."):
            expected = 0.75 * target[name] + 0.25 * online[name[2:]]
            torch.testing.assert_close(value, expected)


def test_byol_predicts_the_other_view(monkeypatch):
    method = small("byol")
    outputs = []
    monkeypatch.setattr("mien.methods.byol.regression", lambda q, z: outputs.append(z) or q.sum())
    views = []
    make = method.two_views
    monkeypatch.setattr(method, "two_views", lambda x: views.append(make(x)) or views[-1])
    run_step(method)
    first, second = outputs[0].chunk(2)
    torch.manual_seed(0)
    again = small("byol").target(views[0])  # same initial weights, same batch statistics
    torch.testing.assert_close(torch.cat([second, first]), again)


def test_simsiam_stops_the_gradient_and_shows_a_collapse():
    method = small("simsiam")
    scalars = run_step(method)
    assert -1 <= scalars["loss"] <= 1
    assert spread(torch.ones(8, 16)) < 1e-6
    assert spread(torch.randn(512, 64)) == pytest.approx(1.0, abs=0.05)


def test_simsiam_loss_by_hand(monkeypatch):
    method = small("simsiam").eval()  # no batch statistics: each row by itself
    views = torch.rand(4, 3, 64, 64)
    monkeypatch.setattr(method, "two_views", lambda x: views)
    losses = []
    method.step({"image": images(2)}, lambda name, loss: losses.append(loss))
    z1, z2 = (method.projector(method.represent(v)) for v in views.chunk(2))
    p1, p2 = method.predictor(z1), method.predictor(z2)

    def d(p, z):  # eq. 1: negative cosine
        return -(F.normalize(p, dim=1) * F.normalize(z.detach(), dim=1)).sum(1).mean()

    expected = d(p1, z2) / 2 + d(p2, z1) / 2
    torch.testing.assert_close(losses[0], expected)
    parameters_ = list(method.trunk.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(losses[0], parameters_), torch.autograd.grad(expected, parameters_)
    )
