"""Expression transfer by style codes, on tiny random generators."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.edit.photos import Editor
from mien.faces.face import Face, Image
from mien.files.errors import ConfigError, WeightsError
from mien.methods.base import Edit
from mien.methods.styletransfer import StyleTransfer
from mien.methods.styletransfer.inversion import Inverter, Settings, layer_mask, tuned
from mien.methods.styletransfer.masks import (
    EXPRESSION,
    Cost,
    Measured,
    all_masks,
    mix,
    programme,
    search,
)
from mien.methods.styletransfer.networks import distance, style_distance
from mien.methods.styletransfer.video import transfer_video

SMALL = StyleTransfer.Config(
    channel_base=512, channel_max=16, z_dim=16, w_dim=16, width=4, invert_steps=2, mapping_layers=2
)


@pytest.fixture(scope="module")
def method() -> StyleTransfer:
    torch.manual_seed(0)
    made = StyleTransfer(SMALL).eval()
    made.calibrate()
    return made


@pytest.fixture(scope="module")
def known(method: StyleTransfer) -> Tensor:
    return method.random_codes(3, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def faces(method: StyleTransfer, known: Tensor) -> Tensor:
    return method.inverter.draw(known)


def test_distances_are_of_each_picture_and_relative(faces: Tensor, method: StyleTransfer) -> None:
    found = method.features(faces)
    for measure in (distance, style_distance):
        assert measure(found, found).max() == 0
        crossed = measure([f[[1, 0]] for f in found], [f[:2] for f in found])
        assert (crossed > 0).all()
        alone = measure([f[1:2] for f in found], [f[:1] for f in found])
        torch.testing.assert_close(crossed[:1], alone)
    zero = [torch.zeros_like(f) for f in found]
    torch.testing.assert_close(distance(zero, found), torch.ones(len(faces)))


def test_the_descent_draws_the_face(faces: Tensor, method: StyleTransfer) -> None:
    found = method.invert(faces, Settings(60, 0.2, lambda_w=0, snapshots=4), "mean")
    mean = method.inverter.draw(method.inverter.mean_codes(3))
    made = method.inverter.draw(found.codes)
    assert ((made - faces).square().mean() < 0.3 * (mean - faces).square().mean()).all()
    assert (found.loss < 0.5 * found.start).all()
    assert [step for step, _ in found.snapshots] == [0, 7, 27, 60]
    torch.testing.assert_close(found.snapshots[0][1], mean)
    torch.testing.assert_close(found.snapshots[-1][1], made)
    assert found.picture(faces).shape == (3 * 64, 5 * 64, 3)


def test_faces_are_inverted_as_if_alone(faces: Tensor, method: StyleTransfer) -> None:
    """Faces that end early leave the batch; the others' codes, losses and moments stay theirs."""
    settings = Settings(40, 0.1, patience=3, progress=0.05, perceptual=0)
    mixed = torch.cat([faces, method.inverter.draw(method.inverter.mean_codes(1))])
    together = method.invert(mixed, settings, "mean")
    assert together.steps.unique().numel() > 1
    for i in range(len(mixed)):
        alone = method.invert(mixed[i : i + 1], settings, "mean")
        assert alone.steps == together.steps[i]
        torch.testing.assert_close(alone.loss[0], together.loss[i], rtol=1e-2, atol=1e-5)
        ended = together.history[:, i].isnan()
        assert ended.any() == (together.steps[i] < 40)


def test_a_strong_pull_keeps_codes_near_the_mean(faces: Tensor, method: StyleTransfer) -> None:
    def away(weight: float) -> float:
        codes = method.invert(faces, Settings(25, 0.1, perceptual=0, lambda_w=weight), "mean").codes
        return ((codes - method.g.w_avg) / method.w_std).square().mean().item()

    assert away(10.0) < 0.3 * away(0.0)


def test_inversion_works_where_no_gradient_is_recorded(
    faces: Tensor, method: StyleTransfer
) -> None:
    with torch.inference_mode():
        x = faces.clone()  # an inference tensor, as the editor's crops are
        edit = method.transfer_expression(x, x.flip(0))
    assert (edit.images - faces).abs().max() > 0


def test_unknown_starts_and_settings_are_errors(faces: Tensor, method: StyleTransfer) -> None:
    with pytest.raises(ConfigError, match="starts from"):
        method.invert(faces, Settings(1), "middle")
    with pytest.raises(ConfigError):
        Settings(-1)
    with pytest.raises(ConfigError, match="layers 0 to 9"):
        layer_mask((10,), 10)
    with pytest.raises(ConfigError, match="did you mean 'pixels'"):
        Cost(expression="pixel")


def test_tuning_moves_a_copy(faces: Tensor, method: StyleTransfer) -> None:
    codes = method.inverter.mean_codes(3)
    before = {k: v.clone() for k, v in method.g.state_dict().items()}
    network = tuned(method.inverter, faces, codes, steps=6, learning_rate=1e-2)
    plain = method.g.synthesis(codes, noise="const")
    better = network(codes, noise="const")
    assert (better - faces).square().mean() < 0.97 * (plain - faces).square().mean()
    assert all(torch.equal(v, before[k]) for k, v in method.g.state_dict().items())


def test_mixing_exchanges_layers(known: Tensor) -> None:
    a, b = known[:1], known[1:2]
    mask = layer_mask((3, 4), 10)
    whole = mix(a, b, mask)
    assert torch.equal(whole[:, 3:5], b[:, 3:5])
    assert torch.equal(whole[:, [0, 9]], a[:, [0, 9]])
    torch.testing.assert_close(mix(a, b, mask, 0.5)[:, 3], (a + b)[:, 3] / 2)


@pytest.mark.parametrize("expression", EXPRESSION)
def test_costs_of_the_all_copy_masks(
    expression: str, faces: Tensor, known: Tensor, method: StyleTransfer
) -> None:
    """With the true codes, a copy of the source costs w_E, and one of the driver w_A."""
    cost = Cost("features", expression, 2.0, 3.0)
    measured = Measured(method.inverter, faces[:2], faces[1:], (known[:2], known[1:]), cost)
    ends = np.array([[False] * 10, [True] * 10])
    np.testing.assert_allclose(measured(ends), [[3.0, 3.0], [2.0, 2.0]], rtol=1e-3)


def small_inverter(method: StyleTransfer) -> Inverter:
    """An inverter whose generator has 4 layers: pictures of 8 px."""
    torch.manual_seed(0)
    tiny = StyleTransfer(replace(SMALL, size=8, expression_layers=(1,)))
    return Inverter(tiny.g.eval(), tiny.w_std, method.features)


def test_the_search_tries_all_and_the_programme_finds_the_same(method: StyleTransfer) -> None:
    inverter = small_inverter(method)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    codes = inverter.generator.spread(inverter.generator.mapping(z)).detach().chunk(2)
    source, driver = (inverter.draw(c) for c in codes)
    measured = Measured(inverter, source, driver, (codes[0], codes[1]))
    ranking = search(measured)
    assert len(ranking.masks) == 16
    assert (np.diff(ranking.costs) >= 0).all()
    brute = {
        layers: measured(np.isin(np.arange(4), layers)[None]).mean()
        for n in range(5)
        for layers in itertools.combinations(range(4), n)
    }
    assert ranking.best == min(brute, key=lambda k: brute[k])
    assert ranking.costs[0] == pytest.approx(min(brute.values()))
    assert ranking.place(ranking.best) == 1
    assert ranking.rows(3)[1][0] == "1"
    assert ranking.picture().std() > 0
    solved = programme(measured)
    assert solved.costs[0] <= np.quantile(ranking.costs, 0.25)
    few = programme(measured, most=1, count=3)
    assert all(m.sum() <= 1 or m.all() for m in few.masks)


def test_the_programme_is_exact_for_costs_of_pairs() -> None:
    """Where the cost is a sum over layers and pairs, its first mask is the true optimum."""
    rng = np.random.default_rng(0)
    single, double = rng.normal(size=6), np.triu(rng.normal(size=(6, 6)), 1)

    class Known:
        layers = 6

        def __call__(self, masks: np.ndarray, title: str = "") -> np.ndarray:
            b = masks.astype(float)
            return (b @ single + np.einsum("mi,ij,mj->m", b, double, b))[:, None]

    known = Known()
    masks = all_masks(6)
    best = masks[known(masks)[:, 0].argmin()]
    solved = programme(known, count=4)  # type: ignore[arg-type]
    assert (solved.masks[0] == best).all()
    true = np.sort(known(masks)[:, 0])
    np.testing.assert_allclose(solved.costs[:4], true[:4])


def test_too_many_masks_are_refused() -> None:
    assert len(np.unique(all_masks(5), axis=0)) == 32
    with pytest.raises(ConfigError, match="integer programme"):
        all_masks(18)


def test_relative_transfer_of_a_neutral_driver_changes_nothing(
    faces: Tensor, method: StyleTransfer
) -> None:
    x, driver = faces[:1], faces[1:2]
    same = method.transfer_expression(x, driver, neutral=driver)
    torch.testing.assert_close(same.images, x, atol=2e-2, rtol=0)
    moved = method.transfer_expression(x, driver, neutral=faces[2:3])
    assert (moved.images - x).abs().mean() > 1e-3


def test_drawn_carries_the_whole_picture(faces: Tensor, method: StyleTransfer) -> None:
    whole = StyleTransfer(replace(SMALL, carry="drawn", invert_steps=0)).eval()
    whole.load_state_dict(method.state_dict())
    edit = whole.transfer_expression(faces[:1], faces[1:2], layers=tuple(range(10)))
    torch.testing.assert_close(edit.images, whole.reconstruct(faces[1:2]), atol=1e-4, rtol=1e-4)


def test_joint_layers_listen_to_their_own_face(faces: Tensor, method: StyleTransfer) -> None:
    start = method.inverter.mean_codes(1)
    one = Settings(3, 0.1)
    x, a, b = (faces[i : i + 1] for i in range(3))
    first = method.inverter.joint(x, a, (3, 4), start, replace(one, steps=1))
    other = method.inverter.joint(x, b, (3, 4), start, replace(one, steps=1))
    torch.testing.assert_close(first[:, :3], other[:, :3])
    assert not torch.equal(first[:, 3:5], other[:, 3:5])


def test_codes_are_groups_of_layers(faces: Tensor, method: StyleTransfer) -> None:
    with torch.inference_mode():
        codes = method.encode(faces)
        whole = (method.codes(faces) - method.g.w_avg) / method.w_std
    assert codes["expression"].shape == (3, 2 * 16)
    assert codes["appearance"].shape == (3, 8 * 16)
    torch.testing.assert_close(codes["expression"], whole[:, 3:5].flatten(1), atol=1e-4, rtol=1e-4)


def test_adopts_a_generator(method: StyleTransfer) -> None:
    torch.manual_seed(5)
    other = StyleTransfer(SMALL)
    tensors = {f"g_ema.{k}": v for k, v in other.g.state_dict().items()}
    tensors |= {f"g.{k}": torch.zeros_like(v) for k, v in other.g.state_dict().items()}
    fresh = StyleTransfer(SMALL)
    adopted = fresh.adopt(tensors)
    assert torch.equal(adopted["g.mapping.layers.0.weight"], other.g.mapping.layers[0].weight)
    w = other.g.mapping(torch.randn(4000, 16))
    torch.testing.assert_close(adopted["w_std"], w.std(0), rtol=0.15, atol=1e-3)
    with pytest.raises(WeightsError, match="no generator"):
        fresh.adopt({"d.x": torch.zeros(1)})
    with pytest.raises(WeightsError, match="other sizes"):
        StyleTransfer(replace(SMALL, w_dim=8)).adopt(tensors)


def test_random_codes_mix_two_styles_at_one_layer(method: StyleTransfer) -> None:
    codes = method.random_codes(200, torch.Generator().manual_seed(0))
    changes = (codes[:, 1:] != codes[:, :-1]).any(2).sum(1)
    assert changes.max() == 1
    assert 0.35 < changes.float().mean() < 0.65


def test_the_encoder_learns_known_codes(method: StyleTransfer, faces: Tensor) -> None:
    torch.manual_seed(0)
    learner = StyleTransfer(replace(SMALL, width=8))
    learner.adopt({f"g.{k}": v for k, v in method.g.state_dict().items()})
    learner.train()
    assert not learner.g.training
    optimiser = learner.optimisers(3e-3)["encoder"]

    def update(name: str, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    learn = learner.step
    seen = [learn({"real": faces}, update)["loss"] for _ in range(12)]
    assert np.mean(seen[-3:]) < 0.9 * np.mean(seen[:3])


def test_neutralise_needs_directions_and_takes_them_out(
    method: StyleTransfer, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not hasattr(method, "neutralise")
    able = StyleTransfer(replace(SMALL, invert_steps=0)).eval()
    able.load_state_dict(method.state_dict())
    direction = torch.nn.functional.normalize(torch.randn(160), dim=0).view(10, 16)
    able.neutral_directions[0] = direction
    able.neutral_mean.copy_(able.g.w_avg.expand(10, -1))
    edit = able.neutralise
    torch.testing.assert_close(edit(faces, 0.0).images, faces, atol=1e-6, rtol=0)
    seen: list[Tensor] = []

    def keep(x: Tensor, source: Tensor, mixed: Tensor, strength: float) -> Edit:
        seen.append(mixed)
        return Edit(x)

    monkeypatch.setattr(able, "carried", keep)
    edit(faces)
    relative = (seen[0] - able.g.w_avg) / able.w_std
    assert (relative * direction).sum((1, 2)).abs().max() < 1e-3


def test_directions_take_over_the_drivers_share_and_leave_the_rest(
    method: StyleTransfer, faces: Tensor
) -> None:
    able = StyleTransfer(replace(SMALL, invert_steps=0, transfer="directions")).eval()
    able.load_state_dict(method.state_dict())
    with pytest.raises(ConfigError, match="no directions"):
        able.transfer_expression(faces, faces.flip(0))
    direction = torch.nn.functional.normalize(torch.randn(160), dim=0).view(10, 16)
    able.neutral_directions[0] = direction
    still = able.transfer_expression(faces, faces.flip(0), 0.0).images
    torch.testing.assert_close(still, faces, atol=1e-6, rtol=0)
    assert not torch.equal(able.transfer_expression(faces, faces.flip(0)).images, faces)
    source, target = torch.randn(2, 3, 10, 16).unbind()
    moved, apart = (
        (codes - source) / able.w_std for codes in (able.directed(source, target), target)
    )
    along = (apart * direction).sum((1, 2), keepdim=True)
    torch.testing.assert_close(moved, along * direction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        able.directed(source, target, 0.5), source + 0.5 * moved * able.w_std
    )
    with pytest.raises(ConfigError, match="transfer is one of"):
        StyleTransfer(replace(SMALL, transfer="magic"))


def test_video_starts_from_the_frame_before(method: StyleTransfer, faces: Tensor) -> None:
    still = itertools.repeat(faces[0])
    frames = [faces[1], faces[1], faces[1]]
    edits = list(transfer_video(method, still, frames, later=3))
    assert [e.images.shape for e in edits] == [(1, 3, 64, 64)] * 3
    lone = [e.images for e in transfer_video(method, still, frames, later=0, smoothing=0.9)]
    assert torch.equal(lone[0], lone[2])
    with pytest.raises(ConfigError, match="smoothing"):
        next(transfer_video(method, still, frames, smoothing=1.0))


def test_nothing_changes_outside_the_mask(
    method: StyleTransfer, toy_finder: Any, photo: Image
) -> None:
    """The editor, which records no gradients, carries the change into the photo."""
    vivid = StyleTransfer(SMALL)
    vivid.load_state_dict(method.state_dict())
    vivid.e.base.weight.data.mul_(100)  # untrained, it gives all faces nearly one code
    editor = Editor(vivid, finder=toy_finder(1))
    found = editor.find(photo)
    driver = replace(found[0], crop=found[0].crop[::-1].copy())
    edited = editor.apply("expression", photo, found, driver)
    reach = paste_mask(found[0], photo)
    assert (edited != photo).any()
    assert np.array_equal(edited[~reach], photo[~reach])


def paste_mask(face: Face, photo: Image) -> np.ndarray:
    """Return where a photo may change: bool ``(H, W)``, the square of the crop."""
    side = len(face.crop)
    x0, y0 = np.floor(face.to_photo @ [-1, -1, 1]).astype(int)
    x1, y1 = np.ceil(face.to_photo @ [side, side, 1]).astype(int)
    reach = np.zeros(photo.shape[:2], bool)
    reach[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    assert not reach.all()
    return reach
