import sys

import numpy as np
import pytest
import torch

from mien.evaluate.encoders import encoder
from mien.evaluate.fer2013 import EXPRESSIONS
from mien.evaluate.judges import (
    NEUTRAL,
    directions,
    fit_expression_judge,
    judge_of,
    landmark_judge,
    pictures,
    rank,
    short_name,
    wilson,
)
from mien.evaluate.kernel_distance import kernel_distance
from mien.evaluate.sheets import blank, write_sheet
from mien.faces.image import read_image
from mien.files.errors import ConfigError


def test_a_judge_is_not_what_it_judges():
    for spec in ("facecycle", "facecycle@identity", "facecycle@identity,size=64"):
        with pytest.raises(ConfigError, match="is the network that is judged"):
            judge_of(spec, "facecycle")
    assert judge_of("hog", "facecycle").name == "hog"
    assert short_name(judge_of("hog,cell=4", "facecycle")) == "hog,cell=4"


def test_a_name_holds_no_folders():
    def reads(crops):
        return crops.reshape(len(crops), -1)

    reads.__name__ = "dlib:/home/somebody/net.dat"
    assert short_name(encoder(reads)) == "dlib:net.dat"


def test_pictures_are_bytes_and_directions_have_length_one():
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert pictures(images)[0, :, :, 0].tolist() == [[0, 0], [128, 255]]
    crops = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    values = directions(encoder("pixels,size=16"), crops)
    assert np.linalg.norm(values, axis=1) == pytest.approx(1)


def test_ranks_in_a_gallery():
    gallery = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0, 0, 0], [0.6, 0.8, 0, 0]], np.float32)
    ranks = rank(queries, gallery, np.array([0, 0]))
    assert ranks.first.tolist() == [True, False]
    assert ranks.own == pytest.approx([1, 0.6])
    assert ranks.margin == pytest.approx([1, -0.2])
    with pytest.raises(ConfigError, match="one person"):
        rank(queries, gallery[:1], np.array([0, 0]))


def test_the_interval_of_a_share_is_not_empty_at_its_ends():
    # Wilson (1927): 0 of n has the upper end z² / (n + z²).
    assert wilson(0.0, 20) == pytest.approx((0, 1.96**2 / (20 + 1.96**2)), abs=1e-4)
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)


def test_the_expression_judge_reads_fer2013(fer_folder):
    data = fer_folder.parent
    judge = fit_expression_judge("hog,size=48", data, align=False, progress=False)
    assert judge.about["accuracy"] > 0.8
    assert judge.about["align"] is False
    # What it judges may be larger and in colour: it is seen grey and at 48 px.
    from tests.evaluate.conftest import fer_picture

    rng = np.random.default_rng(5)
    small = np.stack([fer_picture(label, rng) for label in range(7) for _ in range(4)])
    large = small.repeat(2, 1).repeat(2, 2)[..., None].repeat(3, 3)
    seen = judge(large)
    assert (seen == np.arange(7).repeat(4)).mean() > 0.8
    assert EXPRESSIONS[NEUTRAL] == "neutral"


def test_a_judge_of_expressions_needs_its_data():
    with pytest.raises(ConfigError, match="--data"):
        fit_expression_judge("hog", None)


def test_landmark_judges():
    name, ours = landmark_judge()
    assert "shipped" in name
    assert ours(torch.zeros(2, 3, 64, 64)).shape == (2, 68, 2)
    with pytest.raises(ConfigError, match="No judge of landmarks 'mediapipe'"):
        landmark_judge("mediapipe")
    with pytest.raises(ConfigError, match="shape_predictor_68_face_landmarks"):
        landmark_judge("dlib:nowhere.dat")


def test_dlib_measures_in_pixels_of_the_crop(tmp_path, monkeypatch):
    import dlib

    class Predictor:
        def __init__(self, file):
            self.file = file

        def __call__(self, image, box):
            class Shape:
                @staticmethod
                def parts():  # the corner pixels of the enlarged crop, and its box
                    ends = [(0, 0), (len(image) - 1,) * 2, (box.left(), box.top())]
                    return [dlib.point(*ends[min(k, 2)]) for k in range(68)]

            return Shape

    monkeypatch.setattr(dlib, "shape_predictor", Predictor)
    file = tmp_path / "shape_predictor.dat"
    file.write_bytes(b"trees")
    name, judge = landmark_judge(f"dlib:{file}")
    assert name == "dlib:shape_predictor.dat, on the crops"
    (points,) = judge(torch.zeros(1, 3, 60, 60))
    # the outer corners of a crop are half a pixel beyond its corner pixels
    assert points[0].tolist() == pytest.approx([-1 / 3] * 2)
    assert points[1].tolist() == pytest.approx([59 + 1 / 3] * 2)
    assert points[2].tolist() == pytest.approx([(18.5) / 3 - 0.5, (27.5) / 3 - 0.5])


def test_a_broken_predictor_is_named(tmp_path):
    (tmp_path / "broken.dat").write_bytes(b"no trees")
    with pytest.raises(ConfigError, match="not a shape predictor"):
        landmark_judge(f"dlib:{tmp_path / 'broken.dat'}")


def test_equal_distributions_are_near_and_others_far():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 8))
    value, (low, high) = kernel_distance(x, y)
    assert low < 0 < high
    assert abs(value) < 0.05
    far, ends = kernel_distance(x + 1, y)
    assert far > 1
    assert ends[0] > high


def test_the_kernel_distance_has_no_bias():
    rng = np.random.default_rng(1)
    few = [kernel_distance(*rng.normal(size=(2, 10, 4)), repeats=2)[0] for _ in range(400)]
    error = np.std(few) / len(few) ** 0.5
    assert abs(np.mean(few)) < 3 * error


def test_pictures_that_are_drawn_together_widen_the_interval():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 6)).repeat(5, 0), rng.normal(size=(200, 6))
    alone = kernel_distance(x, y)[1]
    together = kernel_distance(x, y, np.arange(40).repeat(5))[1]
    assert np.ptp(together) > 1.3 * np.ptp(alone)
    with pytest.raises(ConfigError, match="at least two"):
        kernel_distance(x[:1], y)


def test_a_sheet_says_that_it_was_edited(tmp_path):
    from mien.edit import read_provenance

    rows = [torch.zeros(3, 3, 16, 16), torch.ones(3, 3, 16, 16) * 2]
    write_sheet(tmp_path / "s.png", [torch.cat([blank(r), r]) for r in rows], "identity", "pcl")
    picture = read_image(tmp_path / "s.png")
    assert picture.shape == (32, 64, 3)
    assert (picture[:, :16] == 255).all()
    found = read_provenance(tmp_path / "s.png")
    assert found is not None
    assert (found.record.task, found.record.weights) == ("identity", "pcl")
    assert len(found.record.weights_sha256) == 64
    assert "torch" in sys.modules
