import cv2
import numpy as np
import pytest
import torch

from mien.data.cache import FaceCache
from mien.data.pairs import PairSampler, PairSettings, warp_points
from mien.data.procedural import Parameters, ProceduralFaces
from mien.data.table import Row, TableWriter
from mien.data.warp import warp
from mien.faces.image import encode_image
from mien.files.errors import TableError

SIZE = 32
STILL = PairSettings(mirror=0.0, scale=1.0, jitter=0.0)


def table(folder, rows):
    """A table whose picture i has the value 6 i on its left half, and 255 on its right."""
    with TableWriter(folder, crop="tight", size=SIZE) as writer:
        for i, known in enumerate(rows):
            image = np.full((SIZE, SIZE, 3), 255, np.uint8)
            image[:, : SIZE // 2] = 6 * i
            writer.add(Row(encode_image(image), f"{i}", **known))
    return FaceCache(folder, SIZE)


def clips(folder, persons=4, frames=3, **known):
    return table(
        folder,
        [{"person": str(p), "clip": "0", **known} for p in range(persons) for _ in range(frames)],
    )


def numbers(images):
    """Return which row each picture is of, mirrored or not."""
    half = images.shape[-1] // 2
    sides = torch.stack([images[:, 0, 5, : half - 4].mean(1), images[:, 0, 5, half + 4 :].mean(1)])
    return ((sides.amin(0) + 1) * 127.5 / 6).round().long().numpy()


def flipped(images):
    return (images[:, 0, 5, 2] > images[:, 0, 5, -3]).numpy()


def test_a_batch_is_a_function_of_seed_rank_and_step(tmp_path):
    cache = clips(tmp_path / "t")
    settings = PairSettings(code_gray=0.5, code_blur=0.5, degrees=5)
    one = PairSampler([cache], settings, 16, seed=1, rank=0)
    again = PairSampler([cache], settings, 16, seed=1, rank=0)
    again(9)  # what was drawn before does not matter
    a, b = one(4), again(4)
    named = {"image0", "image1", "anchor0", "anchor1", "code0", "code1", "flow", "known"}
    named |= {"rest0", "rest1"}
    assert set(a) == named
    assert all(torch.equal(a[k], b[k]) for k in a)
    for other in (
        one(5),
        PairSampler([cache], settings, 16, seed=2, rank=0)(4),
        PairSampler([cache], settings, 16, seed=1, rank=1)(4),
    ):
        assert not torch.equal(a["image0"], other["image0"])
    assert a["image0"].shape == (16, 3, SIZE, SIZE)
    assert a["image0"].abs().max() <= 1


def test_both_frames_are_of_one_clip_and_mostly_different(tmp_path):
    batch = PairSampler([clips(tmp_path / "t")], STILL, 300, seed=0, rank=0)(0)
    a, b = numbers(batch["image0"]), numbers(batch["image1"])
    assert (a // 3 == b // 3).all()
    assert (a != b).mean() > 0.8
    assert set(a.tolist()) == set(range(12))


def test_rows_of_other_splits_are_never_drawn(tmp_path):
    rows = [
        {"person": "a", "clip": "0", "split": s} for s in ("train", "val", "train", "test", "train")
    ]
    batch = PairSampler([table(tmp_path / "t", rows)], STILL, 100, seed=0, rank=0)(0)
    drawn = {*numbers(batch["image0"]).tolist(), *numbers(batch["image1"]).tolist()}
    assert drawn == {0, 2, 4}


def test_a_photo_without_a_clip_is_paired_with_its_mirror_image(tmp_path):
    batch = PairSampler([table(tmp_path / "t", [{}] * 6)], STILL, 50, seed=0, rank=0)(0)
    assert torch.equal(batch["image1"], batch["image0"].flip(-1))


def test_mirror_1_pairs_every_frame_with_itself(tmp_path):
    settings = PairSettings(mirror=1.0, scale=1.0, jitter=0.3)
    batch = PairSampler([clips(tmp_path / "t")], settings, 50, seed=0, rank=0)(0)
    assert torch.equal(batch["image1"], batch["image0"].flip(-1))
    assert 5 < flipped(batch["image0"]).sum() < 45  # the first frame is flipped at random


def test_tables_are_drawn_by_their_weights(tmp_path):
    caches = [clips(tmp_path / "a", 2, 2), table(tmp_path / "b", [{}] * 40)]
    equal = PairSampler(caches, STILL, 400, seed=0, rank=0)(0)
    share = (numbers(equal["image0"]) >= 4).mean()
    assert share == pytest.approx(0.5 * 36 / 40, abs=0.08)
    only = PairSettings(weights=(0.0, 1.0), mirror=0.0, scale=1.0, jitter=0.0)
    batch = PairSampler(caches, only, 40, seed=0, rank=0)(0)
    assert torch.equal(batch["image1"], batch["image0"].flip(-1))
    with pytest.raises(TableError, match="1 weights are given for 2 tables"):
        PairSampler(caches, PairSettings(weights=(1.0,)), 4, seed=0, rank=0)


def test_anchors_are_neutral_and_frontal_by_their_labels(tmp_path):
    pose = {"yaw": 1.0, "pitch": 2.0, "roll": 0.0}
    rows = [
        {"expression": "neutral", **pose},
        {"expression": "happy", **pose},
        {"expression": "neutral", **pose, "yaw": 30.0},
        {"expression": "neutral"},  # unknown pose
    ]
    batch = PairSampler([table(tmp_path / "t", rows)], STILL, 60, seed=0, rank=0)(0)
    expected = torch.from_numpy(numbers(batch["image0"]) == 0).float()
    assert torch.equal(batch["anchor0"], expected)
    assert torch.equal(batch["anchor1"], expected)  # mirror images keep it


def test_codes_are_the_same_pictures_more_strongly_changed(tmp_path):
    settings = PairSettings(mirror=0.0, scale=1.0, jitter=0.0, code_gray=1.0)
    cache = table(tmp_path / "t", [{}] * 4)
    batch = PairSampler([cache], settings, 8, seed=0, rank=0)(0)
    code = batch["code0"]
    assert torch.allclose(code[:, 0], code[:, 2], atol=1e-5)
    assert not torch.equal(code, batch["image0"])
    assert "code0" not in PairSampler([cache], STILL, 8, seed=0, rank=0)(0)


def _expression_pairs(folder):
    """Renders of one head: the mouth of the expression lies 3 pixels lower."""
    points = ProceduralFaces(size=SIZE).landmarks(Parameters())
    open_mouth = points.copy()
    open_mouth[48:68, 1] += 3
    rows = [
        {"landmarks": open_mouth, "expression": "surprise"},
        {"landmarks": points, "expression": "neutral"},
    ]
    known = {"dataset": "ict_pairs", "person": "1", "clip": "1/surprise"}
    return table(folder, [{**row, **known} for row in rows]), points


def test_expression_warps_change_single_photos_only(tmp_path):
    pairs, points = _expression_pairs(tmp_path / "p")
    single = table(tmp_path / "s", [{"landmarks": points}] * 4)
    settings = PairSettings(
        weights=(0.5, 0.5), mirror=0.0, scale=1.0, jitter=0.0, expression_warp=1.0
    )
    sampler = PairSampler([pairs, single], settings, 64, seed=0, rank=0)
    assert sampler.bank.shape == (1, 68, 2)
    assert np.allclose(sampler.bank[0, 48:, 1], 3)
    assert np.allclose(sampler.bank[0, :48], 0)
    batch = sampler(0)
    a, b = batch["image0"], batch["image1"]
    mirrored = (b == a.flip(-1)).flatten(1).all(1)
    # A warped photo is no mirror image; which of both frames is flipped is drawn for each.
    assert not mirrored.all()
    assert len(sampler(1)["image0"]) == 64


def test_expression_warps_need_expression_pairs(tmp_path):
    cache = table(tmp_path / "s", [{}] * 4)
    with pytest.raises(TableError, match="mien prepare ict_pairs:DIR"):
        PairSampler([cache], PairSettings(expression_warp=0.5), 4, seed=0, rank=0)


def _dot(x, y, size=65, width=2.0):
    axis = torch.arange(size, dtype=torch.float32)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))[None, None]


def _centre(image):
    axis = torch.arange(image.shape[-1], dtype=torch.float32)
    weight = image[0, 0] / image.sum()
    return float((weight.sum(0) * axis).sum()), float((weight.sum(1) * axis).sum())


def test_warp_points_moves_a_dot_where_it_is_asked_and_keeps_the_rest():
    points = torch.tensor([[[32.0, 32.0], [16.0, 16.0]]])
    shift = torch.tensor([[[4.0, -3.0], [0.0, 0.0]]])
    moved = warp_points(_dot(32, 32), points, shift)
    assert _centre(moved) == pytest.approx((36, 29), abs=0.6)
    kept = warp_points(_dot(16, 16), points, shift)
    assert _centre(kept) == pytest.approx((16, 16), abs=0.3)


def test_warp_points_leaves_the_border_and_does_nothing_for_no_shift():
    x = torch.rand(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[32.0, 32.0]], [[30.0, 40.0]]])
    same = warp_points(x, points, torch.zeros(2, 1, 2))
    assert torch.allclose(same, x, atol=1e-4)
    moved = warp_points(x, points, torch.full((2, 1, 2), 3.0))
    for edge in (moved[..., 0] - x[..., 0], moved[..., -1, :] - x[..., -1, :]):
        assert edge.abs().mean() < 0.02
    assert (moved - x)[..., 25:40, 25:40].abs().mean() > 0.1


def test_known_flow_joins_the_frames(tmp_path):
    """Frame 1 is frame 0 sampled at place + flow wherever ``known`` says so."""
    pairs, points = _expression_pairs(tmp_path / "p")
    faces = ProceduralFaces(size=SIZE)
    with TableWriter(tmp_path / "s", crop="tight", size=SIZE) as writer:
        picture = cv2.GaussianBlur(faces.draw(Parameters())[0], (5, 5), 1.5)
        writer.add(Row(encode_image(picture), "0", landmarks=points))
    single = FaceCache(tmp_path / "s", SIZE)
    settings = PairSettings(
        (0.2, 0.8), mirror=0.0, expression_warp=1.0, degrees=10, scale=1.1, shift=0.03, jitter=0.0
    )
    batch = PairSampler([pairs, single], settings, 32, seed=0, rank=0)(3)
    known = batch["known"] > 0
    assert known.sum() > 10
    inside = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    warped = warp(batch["image0"], batch["flow"])
    joined = (warped - batch["image1"])[known][inside].abs().mean()
    apart = (batch["image0"] - batch["image1"])[known][inside].abs().mean()
    assert joined < 0.25 * apart


def test_resting_faces_are_found_by_landmarks_and_their_neutral_face_is_known(tmp_path):
    """A frontal face with a closed narrow mouth is an anchor; ``rest`` undoes our augmentation."""
    faces = ProceduralFaces(size=SIZE)
    closed = faces.landmarks(Parameters())
    closed[60:68, 1] = closed[62, 1]  # inner lips touch
    wide = closed.copy()
    wide[48, 0] -= 3
    wide[54, 0] += 3
    picture = cv2.GaussianBlur(faces.draw(Parameters())[0], (5, 5), 1.5)
    frontal = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}
    with TableWriter(tmp_path / "t", crop="tight", size=SIZE) as writer:
        writer.add(Row(encode_image(picture), "rest", landmarks=closed, **frontal))
        for i in range(3):
            writer.add(Row(encode_image(picture), f"wide{i}", landmarks=wide, **frontal))
        turned = {**frontal, "yaw": 30.0}
        writer.add(Row(encode_image(picture), "turned", landmarks=closed, **turned))
    cache = FaceCache(tmp_path / "t", SIZE)
    settings = PairSettings(mirror=1.0, degrees=10, scale=1.1, shift=0.03, jitter=0.0, resting=0.5)
    sampler = PairSampler([cache], settings, 64, seed=0, rank=0)
    assert sampler.anchors[0].tolist() == [True, False, False, False, False]
    batch = sampler(0)
    assert 0.4 < batch["anchor0"].mean() < 0.8
    still = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    for side in "01":
        anchor = batch[f"anchor{side}"] > 0
        back = warp(batch[f"image{side}"], batch[f"rest{side}"])[anchor]
        inside = (slice(None), slice(None), slice(6, -6), slice(6, -6))
        true = torch.where(
            ((back - still).abs().mean((1, 2, 3)) < (back.flip(-1) - still).abs().mean((1, 2, 3)))[
                :, None, None, None
            ],
            still,
            still.flip(-1),
        )
        before = (batch[f"image{side}"][anchor] - true)[inside].abs().mean()
        assert (back - true)[inside].abs().mean() < 0.4 * before


def _guided_table(folder, n=240):
    """Faces that smile: a mouth grows half as wide again at full strength."""
    faces = ProceduralFaces(size=SIZE)
    rest = faces.landmarks(Parameters())
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(faces.draw(Parameters())[0], (5, 5), 1.5)
    with TableWriter(folder, crop="tight", size=SIZE) as writer:
        for i in range(n):
            smile = float(rng.uniform(0, 1)) * (i % 2)
            points = rest.copy()
            points[48:68, 0] += 0.5 * (rest[48:68, 0] - rest[48:68, 0].mean()) * max(smile - 0.1, 0)
            pose = dict(zip(("yaw", "pitch", "roll"), rng.normal(0, 5, 3).tolist(), strict=True))
            row = Row(encode_image(picture), f"{i}", landmarks=points, **pose)
            row.action_units = {"AU12": smile} if smile else {}
            writer.add(row)
    return FaceCache(folder, SIZE), rest


def test_guidance_leads_to_the_neutral_landmarks(tmp_path):
    cache, rest = _guided_table(tmp_path / "t")
    settings = PairSettings(mirror=0.0, scale=1.0, jitter=0.0, guided=True)
    sampler = PairSampler([cache], settings, 48, seed=0, rank=0)
    assert np.abs(sampler.neutral[0] - rest).max() < 0.6
    batch = sampler(0)
    assert bool((batch["anchor0"] == 1).all())
    # At the resting mouth's corner the neutral face samples the smiling one farther outside.
    unit = 2 / (SIZE - 1)
    corner = torch.from_numpy(rest[54] * unit - 1).float().view(1, 1, 1, 2)
    flow = torch.nn.functional.grid_sample(
        batch["rest0"], corner.expand(48, 1, 1, 2), align_corners=True
    )[:, 0, 0, 0]
    widest = 0.5 * 0.9 * float(rest[54, 0] - rest[48:68, 0].mean()) * unit
    assert 0.5 * widest < flow.max() < 1.2 * widest  # smooth flows fall short at a corner
    assert flow.min() > -0.1 * widest


def test_guidance_goes_back_through_an_expression_warp(tmp_path):
    """The neutral face of the warped picture is that of the picture it was made from."""
    pairs, _ = _expression_pairs(tmp_path / "p")
    single, _ = _guided_table(tmp_path / "s")
    settings = PairSettings(
        (0.0, 1.0), mirror=0.0, scale=1.0, jitter=0.0, expression_warp=1.0, guided=True
    )
    batch = PairSampler([pairs, single], settings, 32, seed=0, rank=0)(1)
    assert bool((batch["known"] == 1).all())
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    apart = (batch["image0"] - batch["image1"])[inside].abs().mean()
    rest0, rest1 = (warp(batch[f"image{i}"], batch[f"rest{i}"]) for i in "01")
    assert (rest0 - rest1)[inside].abs().mean() < 0.35 * apart


def test_guidance_needs_action_units(tmp_path):
    with pytest.raises(TableError, match="--annotations"):
        PairSampler([table(tmp_path / "t", [{}])], PairSettings(guided=True), 4, seed=0, rank=0)
