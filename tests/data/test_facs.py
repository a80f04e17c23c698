import pytest

from mien.data.facs import MEDIAPIPE_SHAPES, SHAPE_OF_UNIT, UNITS, UnitReader


def test_every_unit_has_a_shape_among_mediapipes():
    assert len(MEDIAPIPE_SHAPES) == 52
    assert len(set(MEDIAPIPE_SHAPES)) == 52
    reader = UnitReader(MEDIAPIPE_SHAPES)
    assert set(reader.index) == set(UNITS)
    for unit, index in reader.index.items():
        assert index, unit
        assert all(MEDIAPIPE_SHAPES[i].startswith(SHAPE_OF_UNIT[unit]) for i in index)


def test_the_stronger_side_counts_and_zeros_are_left_out():
    scores = [0.0] * 52
    scores[MEDIAPIPE_SHAPES.index("mouthSmileLeft")] = 0.2
    scores[MEDIAPIPE_SHAPES.index("mouthSmileRight")] = 0.7
    scores[MEDIAPIPE_SHAPES.index("jawOpen")] = 0.4
    scores[MEDIAPIPE_SHAPES.index("eyeLookDownLeft")] = 0.9  # gaze is no unit
    assert UnitReader(MEDIAPIPE_SHAPES)(scores) == pytest.approx({"AU12": 0.7, "AU27": 0.4})


def test_a_shape_that_is_missing_counts_as_zero():
    assert UnitReader(["mouthSmile_L"])([0.5]) == {"AU12": 0.5}
