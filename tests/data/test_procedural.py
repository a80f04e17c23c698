import math
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mien.data.augment import MIRROR
from mien.data.cache import FaceCache
from mien.data.pairs import PairSampler, PairSettings
from mien.data.procedural import (
    EXPRESSIONS,
    Expression,
    Identity,
    Makeup,
    Parameters,
    ProceduralFaces,
    write_table,
)
from mien.data.table import Table
from mien.faces.align import crop_to_photo
from mien.files.errors import ConfigError

FACES = ProceduralFaces(seed=3, size=112)


def test_the_same_parameters_give_the_same_picture():
    parameters, _ = FACES.parameters(5, 7)
    again, _ = ProceduralFaces(seed=3, size=112).parameters(5, 7)
    assert parameters == again
    a, points = FACES.draw(parameters)
    b, _ = FACES.draw(again)
    assert np.array_equal(a, b)
    assert np.array_equal(points, FACES.landmarks(parameters))
    assert a.dtype == np.uint8
    assert a.shape == (112, 112, 3)
    assert points.dtype == np.float32
    assert points.shape == (68, 2)


def test_seeds_persons_and_frames_differ_and_a_person_stays_the_same():
    a, _ = FACES.parameters(0, 1)
    b, _ = FACES.parameters(0, 2)
    assert a.identity == b.identity
    assert a != b
    assert FACES.identity(1) != FACES.identity(2)
    assert ProceduralFaces(seed=4).identity(1) != FACES.identity(1)


def test_frame_0_is_neutral_and_frontal():
    parameters, name = FACES.parameters(3, 0)
    assert name == "neutral"
    assert parameters.expression == Expression()
    assert (parameters.yaw, parameters.pitch, parameters.roll) == (0, 0, 0)


def test_an_aligned_face_already_has_the_tight_frame():
    for frame in range(6):
        parameters, _ = FACES.parameters(2, frame)
        fit = crop_to_photo(FACES.landmarks(parameters), "tight", 112)
        assert np.allclose(fit, np.eye(2, 3), atol=1e-3)


def test_a_mean_frontal_face_is_symmetric():
    points = FACES.landmarks(Parameters(), aligned=False)
    mirrored = points[list(MIRROR)] * [-1, 1] + [111, 0]
    assert np.abs(points - mirrored).max() < 1e-3


def _roll_of(points):
    eyes = points[42:48].mean(0) - points[36:42].mean(0)
    return math.degrees(math.atan2(eyes[1], eyes[0]))


def test_signs_of_pose():
    straight = FACES.landmarks(Parameters(), aligned=False)

    def nose(**pose):
        points = FACES.landmarks(Parameters(**pose), aligned=False)
        return points[30] - points[:17].mean(0) - (straight[30] - straight[:17].mean(0))

    assert nose(yaw=20)[0] > 3  # to the image's right
    assert nose(pitch=15)[1] < -3  # up
    tilted = FACES.landmarks(Parameters(roll=12), aligned=False)
    assert _roll_of(tilted) == pytest.approx(12, abs=0.2)  # clockwise: y points down
    assert FACES.roll(Parameters(roll=12)) == pytest.approx(0, abs=0.6)  # the crop is upright


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("mouth_open", lambda p: p[66, 1] - p[62, 1]),
        ("smile", lambda p: p[66, 1] - (p[48, 1] + p[54, 1]) / 2),
        ("brow_raise", lambda p: p[36:48, 1].mean() - p[17:27, 1].mean()),
        ("brow_frown", lambda p: p[21, 1] + p[22, 1] - p[19, 1] - p[24, 1]),
        ("eye_closure", lambda p: p[37, 1] - p[41, 1]),
        ("pucker", lambda p: p[48, 0] - p[54, 0]),
    ],
)
def test_an_expression_moves_what_it_names_with_its_intensity(name, measure):
    values = [
        measure(FACES.landmarks(Parameters(expression=Expression(**{name: v})), aligned=False))
        for v in (0.0, 0.5, 1.0)
    ]
    assert values[0] + 0.5 < values[1] < values[2] - 0.5


def test_landmarks_are_where_things_are_drawn():
    white = Identity(skin=(255, 255, 255), hair_style="bald", hair=(0, 0, 0), iris=(0, 0, 255))
    plain = Parameters(
        identity=white,
        expression=Expression(mouth_open=1.0),
        light_strength=0.0,
        makeup=Makeup(lips=(255, 0, 0), lips_opacity=1.0),
    )
    big = ProceduralFaces(size=224)
    image, points = big.draw(plain)

    def at(point):
        x, y = point.round().astype(int)
        return image[y, x].astype(int)

    lip = at((points[57] + points[66]) / 2)
    assert lip[0] > 180
    assert lip[1] < 60
    assert at((points[62] + 3 * points[66]) / 4).sum() < 300  # the open mouth
    assert at(points[19]).sum() < 200  # a brow
    pupil = at(points[36:42].mean(0))
    assert pupil.sum() < 500
    skin = at((points[2] + points[31]) / 2)
    assert skin.min() > 200


def test_light_makeup_and_background_change_what_they_name():
    base = replace(FACES.parameters(1, 0)[0], light_strength=0.0)
    image, points = FACES.draw(base)
    inward = np.array([8, 0])
    left, right = points[2].round().astype(int) + inward, points[14].round().astype(int) - inward
    lit, _ = FACES.draw(replace(base, light_strength=0.8, light_azimuth=60, light_elevation=0))
    assert lit[right[1], right[0]].sum() > lit[left[1], left[0]].sum() + 30
    worn, _ = FACES.draw(replace(base, makeup=Makeup(lips_opacity=1.0)))
    changed = np.abs(worn.astype(int) - image).sum(2) > 0
    low, high = points[48:60].min(0) - 2, points[48:60].max(0) + 2
    y, x = np.nonzero(changed)
    assert changed.sum() > 20
    assert (x >= low[0]).all()
    assert (x <= high[0]).all()
    assert (y >= low[1]).all()
    assert (y <= high[1]).all()
    other, _ = FACES.draw(replace(base, background=(0, 0, 0)), aligned=False)
    assert other[0, 0].sum() == 0


def test_write_table_gives_clips_of_persons(tmp_path):
    info = write_table(tmp_path / "t", persons=10, frames=4, size=64)
    assert info["faces"] == 40
    assert info["splits"] == {"test": 4, "train": 32, "val": 4}
    cache = FaceCache(tmp_path / "t", 64)
    assert len(set(cache.clip.tolist())) == 10
    assert set(cache.expression.tolist()) <= set(EXPRESSIONS)
    assert np.isfinite(cache.pose).all()
    assert np.isfinite(cache.landmarks).all()
    assert np.abs(cache.pose[:, 2]).max() < 15  # what the crop shows, not the drawn roll
    batch = PairSampler([cache], PairSettings(mirror=0.0), 8, seed=0, rank=0)(0)
    assert batch["image0"].shape == (8, 3, 64, 64)
    units = Table(tmp_path / "t").column("action_units")
    assert units[0] is None
    assert any(u for u in units)


@pytest.mark.parametrize("wrong", [{"persons": 0}, {"frames": 0}, {"size": 4}])
def test_impossible_tables_are_one_sentence(tmp_path, wrong):
    with pytest.raises(ConfigError):
        write_table(tmp_path / "t", **wrong)


def test_drawing_is_fast():
    cv2.setNumThreads(1)
    parameters = [FACES.parameters(i, 1)[0] for i in range(60)]
    start = time.process_time()
    for each in parameters:
        FACES.draw(each)
    assert 60 / (time.process_time() - start) > 100  # 400 on one idle core
