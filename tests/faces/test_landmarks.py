from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.faces.align import invert, transform_points
from mien.faces.find import Finder
from mien.faces.image import read_image
from mien.faces.landmarks import (
    FRAME,
    INPUT,
    LANDMARKS,
    Landmarker,
    LandmarkNet,
    landmark_frames,
    load_landmark_net,
    tight_landmarks,
    tight_points,
)
from mien.files.errors import WeightsError
from mien.files.weights import save_weights

ASSETS = Path(str(files("mien") / "assets"))
CARD = {"method": "landmarks", "config": {"width": 4}}


def saved(path, net: LandmarkNet, card=CARD):
    save_weights(path, {f"net.{k}": v for k, v in net.state_dict().items()}, card)
    return path


@pytest.fixture
def random_net() -> LandmarkNet:
    torch.manual_seed(0)
    net = LandmarkNet(width=4)
    for module in net.modules():  # an untrained net must not depend on its batch
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    with torch.no_grad():
        net.out.weight.mul_(0.1)
    return net.eval()


@pytest.fixture
def constant_net(shape68) -> LandmarkNet:
    """Answers every crop with one shape, score 1/2 and pose 9, 18, 0 degrees."""
    net = LandmarkNet(width=4)
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.zero_()
        net.out.bias[136:138] = torch.tensor([0.2, 0.4])
        net.mean_shape.copy_(torch.from_numpy(shape68 * 0.7))
    return net.eval()


class TestNet:
    def test_shapes(self, random_net):
        points, score, pose = random_net(torch.zeros(3, 3, INPUT, INPUT))
        assert points.shape == (3, 68, 2)
        assert score.shape == (3,)
        assert pose.shape == (3, 3)
        sizes = [f.shape[1:] for f in random_net.features(torch.zeros(1, 3, INPUT, INPUT))]
        assert sizes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


class TestFrames:
    def test_frame_is_the_upright_square_around_the_points(self, shape68):
        points = (shape68 * 40 + (100, 80)).astype(np.float32)
        (frame,) = landmark_frames(points[None])
        inside = transform_points(points, invert(frame))
        low, high = inside.min(0), inside.max(0)
        np.testing.assert_allclose((low + high) / 2, (INPUT - 1) / 2, atol=1e-3)
        assert (high - low).max() == pytest.approx(INPUT / FRAME, rel=1e-4)

    @pytest.mark.parametrize("degrees", [-170, -30, 15, 90])
    def test_frame_turns_with_the_face(self, shape68, degrees):
        turn = np.radians(degrees)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        upright = shape68 * 40
        frames = landmark_frames(np.stack([upright, upright @ rotation.T]).astype(np.float32))
        np.testing.assert_allclose(frames[1], rotation @ frames[0], atol=1e-3)


class TestLandmarker:
    def test_points_are_placed_in_the_second_pass_frame(
        self, constant_net, tmp_path, canvas, shape68
    ):
        find = Landmarker(saved(tmp_path / "net.safetensors", constant_net))
        box = np.array([[100, 50, 180, 130]], np.float32)
        (found,) = find([canvas(300, 200)], [box])
        # First pass: the shape in the square of 1.15 times the box; second: in the shape's frame.
        first = shape68 * 0.7 * 1.15 * 40 + (140, 90)
        (frame,) = landmark_frames(first[None].astype(np.float32))
        expected = transform_points(((shape68 * 0.7 + 1) * INPUT - 1) / 2, frame)
        np.testing.assert_allclose(found.points[0], expected, atol=0.01)
        assert found.score == pytest.approx([0.5])
        np.testing.assert_allclose(found.pose[0], [9, 18, 0], atol=1e-3)

    def test_roll_counts_the_turn_of_the_frame(self, constant_net, tmp_path, canvas):
        turn = np.radians(20)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        constant_net.mean_shape.copy_(
            torch.from_numpy(constant_net.mean_shape.numpy() @ rotation.T.astype(np.float32))
        )
        find = Landmarker(saved(tmp_path / "net.safetensors", constant_net))
        (found,) = find([canvas(300, 200)], [np.array([[100, 50, 180, 130]], np.float32)])
        assert found.pose[0, 2] == pytest.approx(20, abs=0.01)  # clockwise is positive

    def test_a_batch_equals_single_calls(self, random_net, tmp_path, smooth_photo):
        path = saved(tmp_path / "net.safetensors", random_net)
        photos = [smooth_photo(120, 90, 2.0, seed) for seed in range(3)]
        boxes = [
            np.array([[10, 10, 60, 60], [50, 20, 110, 80]], np.float32),
            np.zeros((0, 4), np.float32),
            np.array([[-20, -10, 50, 60]], np.float32),
        ]
        together = Landmarker(path, batch_size=2)(photos, boxes)
        assert [len(found.points) for found in together] == [2, 0, 1]
        for photo, box, found in zip(photos, boxes, together, strict=True):
            for i in range(len(box)):
                (alone,) = Landmarker(path)([photo], [box[i : i + 1]])
                np.testing.assert_allclose(alone.points[0], found.points[i], atol=1e-2)
                np.testing.assert_allclose(alone.score[0], found.score[i], atol=1e-4)

    def test_beyond_its_edges_a_photo_is_mirrored(self, random_net, tmp_path, canvas):
        """As in training: a border of another value would be an edge that no face has."""
        find = Landmarker(saved(tmp_path / "net.safetensors", random_net))
        image = np.full_like(canvas(60, 60), 90)
        half_outside = np.array([[30, 30, 90, 90]], np.float32)
        inside = np.array([[15, 15, 45, 45]], np.float32)
        (a,), (b,) = find([image], [half_outside]), find([image], [inside])
        np.testing.assert_allclose(a.score, b.score, atol=1e-4)

    def test_no_boxes_at_all(self, random_net, tmp_path, canvas):
        find = Landmarker(saved(tmp_path / "net.safetensors", random_net))
        assert find([], []) == []
        (found,) = find([canvas(20, 20)], [np.zeros((0, 4), np.float32)])
        assert found.points.shape == (0, 68, 2)
        assert found.score.shape == (0,)

    @pytest.mark.parametrize("factor", [0.25, 4.0])
    def test_points_scale_with_the_photo(self, random_net, tmp_path, smooth_photo, factor):
        import cv2

        find = Landmarker(saved(tmp_path / "net.safetensors", random_net))
        photo = smooth_photo(400, 400, blur=30)
        size = round(400 * factor)
        other = np.asarray(cv2.resize(photo, (size, size), interpolation=cv2.INTER_LINEAR))
        box = np.array([[100, 120, 300, 320]], np.float32)
        (a,), (b,) = find([photo], [box]), find([other], [(box + 0.5) * factor - 0.5])
        np.testing.assert_allclose(
            (b.points + 0.5) / factor - 0.5, a.points, atol=1.0 + 1.0 / factor
        )

    def test_weights_of_another_method(self, random_net, tmp_path):
        path = saved(tmp_path / "net.safetensors", random_net, {**CARD, "method": "facecycle"})
        with pytest.raises(WeightsError, match="'facecycle', not of 'landmarks'"):
            Landmarker(path)

    def test_damaged_weights(self, random_net, tmp_path):
        path = saved(tmp_path / "net.safetensors", random_net)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="SHA-256"):
            Landmarker(path)

    def test_missing_weights(self, tmp_path):
        with pytest.raises(WeightsError):
            Landmarker(tmp_path / "absent.safetensors")

    def test_card_without_its_fields(self, random_net, tmp_path):
        path = saved(tmp_path / "net.safetensors", random_net)
        card = path.with_suffix(".json")
        fields = json.loads(card.read_text())
        card.write_text(json.dumps({"sha256": fields["sha256"]}))
        with pytest.raises(WeightsError):
            Landmarker(path)


def test_one_pass_with_gradients_finds_what_two_passes_find():
    photos = [read_image(f) for f in sorted(ASSETS.glob("*_*.jpg"))]
    crops = [faces[0].crop for faces in Finder(size=64)(photos)]
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    x.requires_grad_()
    unit = tight_points(load_landmark_net(LANDMARKS), x)
    pixels = ((unit + 1) * 64 - 1) / 2
    apart = (pixels - tight_landmarks(x.detach())).norm(dim=2).mean(1)
    assert apart.max() < 0.03 * 64
    unit.sum().backward()
    assert (x.grad.flatten(1).abs().max(1).values > 0).all()
