from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mien.faces.align import crop_to_photo, warp_crop
from mien.faces.find import Finder, choose, extent, face_from_landmarks
from mien.files.errors import ConfigError, FaceError


def fixed(*boxes: list[tuple[float, ...]]):
    """A detector that finds given boxes, whatever the photos show."""
    return lambda images: [np.array(b, np.float32).reshape(-1, 5) for b in boxes]


class TestFinder:
    def test_finds_a_drawn_face(self, dlib_detector, draw_face, canvas, template_landmarker):
        photo = draw_face(canvas(300, 320), 140, 160, 120)
        find = Finder(dlib_detector, landmarker=template_landmarker(), size=64)
        ((face,), none) = find([photo, canvas(50, 60)], ["a.jpg", "b.jpg"])
        assert none == []
        assert face.source == "a.jpg"
        assert face.crop.shape == (64, 64, 3)
        assert face.crop_name == "tight"
        assert face.score == 1
        assert face.pose == (1, 2, 3)
        assert abs((face.box[0] + face.box[2]) / 2 - 140) < 12
        np.testing.assert_array_equal(face.to_photo, crop_to_photo(face.landmarks, "tight", 64))
        np.testing.assert_array_equal(face.crop, warp_crop(photo, face.to_photo, 64))

    def test_largest_first_and_low_scores_dropped(self, canvas, template_landmarker):
        boxes = [(0, 0, 20, 20, 3), (30, 0, 90, 60, 2), (0, 50, 40, 90, 1), (50, 50, 99, 99, 0.5)]
        scores = [0.9, 0.6, 0.7, 0.4]
        find = Finder(fixed(boxes), landmarker=template_landmarker(scores))
        (faces,) = find([canvas(100, 100)])
        assert [face.box[0] for face in faces] == [30, 0, 0]
        assert [extent(face) for face in faces] == sorted(map(extent, faces), reverse=True)
        assert [round(face.score, 1) for face in faces] == [0.6, 0.7, 0.9]
        assert faces[0].source == ""

    def test_min_score_zero_keeps_all(self, canvas, template_landmarker):
        find = Finder(
            fixed([(0, 0, 20, 20, 1)]), landmarker=template_landmarker([0.0]), min_score=0
        )
        assert len(find([canvas(100, 100)])[0]) == 1

    def test_a_score_that_is_no_number_is_no_face(self, canvas, template_landmarker):
        find = Finder(fixed([(0, 0, 20, 20, 1)]), landmarker=template_landmarker([np.nan]))
        assert find([canvas(100, 100)]) == [[]]

    def test_two_boxes_on_one_face_are_one_face(self, canvas, template_landmarker):
        boxes = [(10, 10, 60, 60, 1), (12, 11, 63, 62, 2), (50, 50, 99, 99, 1)]
        find = Finder(fixed(boxes), landmarker=template_landmarker([0.8, 0.9, 0.7]))
        (faces,) = find([canvas(100, 100)])
        assert [round(face.score, 1) for face in faces] == [0.9, 0.7]

    def test_points_that_coincide_are_no_face(self, canvas, template_landmarker):
        boxes = [(30, 30, 30, 30, 1), (10, 10, 60, 60, 1)]
        find = Finder(fixed(boxes), landmarker=template_landmarker())
        (faces,) = find([canvas(100, 100)])
        assert len(faces) == 1

    def test_landmarks_come_in_one_call_for_all_photos(self, canvas, template_landmarker):
        calls = []
        inner = template_landmarker()

        def landmarker(images, boxes):
            calls.append([len(b) for b in boxes])
            return inner(images, boxes)

        find = Finder(fixed([(0, 0, 9, 9, 1)], [], [(0, 0, 9, 9, 1)]), landmarker=landmarker)
        assert [len(f) for f in find([canvas(20, 20)] * 3)] == [1, 0, 1]
        assert calls == [[1, 0, 1]]

    def test_a_face_half_outside_the_photo(self, canvas, template_landmarker):
        find = Finder(fixed([(-30, -30, 40, 40, 1)]), landmarker=template_landmarker())
        ((face,),) = find([canvas(60, 60)])
        assert face.crop.shape == (112, 112, 3)

    def test_no_photos(self, template_landmarker):
        assert Finder(landmarker=template_landmarker())([]) == []

    def test_ffhq_crop(self, canvas, template_landmarker):
        find = Finder("crop", crop="ffhq", size=32, landmarker=template_landmarker())
        ((face,),) = find([canvas(100, 100)])
        assert face.crop_name == "ffhq"
        np.testing.assert_array_equal(face.to_photo, crop_to_photo(face.landmarks, "ffhq", 32))

    def test_unknown_names(self, template_landmarker):
        with pytest.raises(ConfigError, match="did you mean 'dlib'"):
            Finder("dilb", landmarker=template_landmarker())
        with pytest.raises(ConfigError, match="did you mean 'ffhq'"):
            Finder(crop="fhq", landmarker=template_landmarker())


class TestKnownLandmarks:
    def test_equals_what_the_finder_makes(
        self, dlib_detector, draw_face, canvas, template_landmarker
    ):
        photo = draw_face(canvas(300, 320), 150, 160, 120)
        ((found,),) = Finder(dlib_detector, landmarker=template_landmarker())([photo])
        known = face_from_landmarks(photo, found.landmarks, source="a")
        np.testing.assert_array_equal(known.crop, found.crop)
        assert known.source == "a"
        assert known.score == 1
        assert np.isnan(known.pose).all()
        np.testing.assert_array_equal(known.box[:2], found.landmarks.min(0))

    def test_keeps_its_own_copy(self, canvas, shape68):
        points = (shape68 * 20 + 40).astype(np.float32)
        face = face_from_landmarks(canvas(80, 80), points)
        points[:] = 0
        assert face.landmarks.min() > 0

    def test_bad_landmarks(self, canvas):
        with pytest.raises(FaceError):
            face_from_landmarks(canvas(80, 80), np.zeros((68, 2)))
        with pytest.raises(ConfigError):
            face_from_landmarks(canvas(80, 80), np.zeros((68, 2)), "round")


class TestChoose:
    @pytest.fixture
    def faces(self, canvas, shape68):
        photo = canvas(400, 200)
        places = [(60, 60, 50), (210, 90, 30), (330, 150, 20)]
        return [
            face_from_landmarks(photo, shape68 * s + (x, y), source="group.jpg")
            for x, y, s in places
        ]

    def test_no_face(self):
        with pytest.raises(FaceError, match=r"me\.jpg holds no face"):
            choose([], source="me.jpg")
        with pytest.raises(FaceError, match="The photo holds no face"):
            choose([], "largest")

    def test_several_without_a_choice(self, faces):
        with pytest.raises(
            FaceError, match=r"group\.jpg holds 3 faces; choose one: .*from 0.*to 2"
        ):
            choose(faces)

    def test_the_only_one(self, faces):
        assert choose(faces[1:2]) is faces[1]

    def test_choices(self, faces):
        assert choose(faces, "largest") is faces[0]
        assert choose(faces, "central", shape=(200, 400, 3)) is faces[1]
        assert choose(faces, 2) is faces[2]
        assert choose(faces, "1") is faces[1]

    @pytest.mark.parametrize("number", [3, -1, "7"])
    def test_no_such_number(self, faces, number):
        with pytest.raises(FaceError, match=r"no face number .* 0 .* to 2"):
            choose(faces, number)

    def test_unknown_choice(self, faces):
        with pytest.raises(ConfigError, match="smallest"):
            choose(faces, "smallest")
        with pytest.raises(ConfigError, match="shape"):
            choose(faces, "central")

    def test_the_source_of_the_faces_names_the_photo(self, faces):
        unnamed = [dataclasses.replace(face, source="") for face in faces]
        with pytest.raises(FaceError, match="The photo holds 3 faces"):
            choose(unnamed)
