from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mien.faces.detectors import detector, detector_names
from mien.faces.detectors.base import one_per_face, shrink, to_boxes
from mien.files.errors import ConfigError, MissingExtraError


def assert_box(box: np.ndarray, x: float, y: float, side: float, tolerance: float = 0.15) -> None:
    """Compare a box with the face drawn at (x, y)."""
    assert (box[0] + box[2]) / 2 == pytest.approx(x, abs=tolerance * side)
    assert (box[1] + box[3]) / 2 == pytest.approx(y + 0.08 * side, abs=tolerance * side)
    assert box[2] - box[0] == pytest.approx(side, rel=0.25)


class TestNames:
    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(ConfigError, match="did you mean 'dlib'"):
            detector("dlip")

    def test_unknown_option_suggests_the_nearest(self):
        with pytest.raises(ConfigError, match="did you mean 'threshold'"):
            detector("dlib", treshold=1)

    def test_a_path_is_refused_where_no_model_is_read(self):
        with pytest.raises(ConfigError, match="no 'model'"):
            detector("dlib:some.onnx")

    def test_every_name_is_known_or_says_what_is_missing(self):
        for name in detector_names():
            if name in ("dlib", "crop"):
                assert detector(name)([]) == []
            else:
                with pytest.raises(ConfigError, match=name):
                    detector(name)


class TestDlib:
    @pytest.mark.parametrize(
        ("width", "height", "x", "y", "side"),
        [
            (300, 320, 150, 160, 120),
            (300, 320, 110.5, 190.25, 100),
            (1800, 1200, 1000, 500, 600),  # shrunk first
            (120, 130, 60, 70, 95),  # fills the picture
            (90, 90, 45, 45, 50),  # smaller than the window: second pass
            (1000, 700, 700, 300, 85),  # too small once shrunk: second pass
        ],
    )
    def test_finds_a_face_in_photo_pixels(
        self, dlib_detector, draw_face, canvas, width, height, x, y, side
    ):
        photo = draw_face(canvas(width, height), x, y, side)
        (found,) = dlib_detector([photo])
        assert found.shape == (1, 5)
        assert found.dtype == np.float32
        assert_box(found[0], x, y, side)

    def test_finds_two_faces_best_first(self, dlib_detector, draw_face, canvas):
        photo = draw_face(draw_face(canvas(400, 300), 120, 150, 110), 290, 150, 100)
        (found,) = dlib_detector([photo])
        assert len(found) == 2
        assert found[0, 4] >= found[1, 4]
        by_x = found[np.argsort(found[:, 0])]
        assert_box(by_x[0], 120, 150, 110)
        assert_box(by_x[1], 290, 150, 100)

    def test_finds_a_face_cut_by_the_edge_of_a_crop(self, dlib_detector, draw_face, canvas):
        photo = draw_face(canvas(300, 300), 150, 150, 120)[100:225, 85:215]
        (found,) = dlib_detector([photo])
        assert len(found) == 1
        assert_box(found[0], 65, 50, 120)

    def test_several_photos_keep_their_order(self, dlib_detector, draw_face, canvas):
        plain = canvas(200, 160)
        face = draw_face(canvas(300, 300), 150, 150, 120)
        assert [len(f) for f in dlib_detector([plain, face, plain])] == [0, 1, 0]

    @pytest.mark.parametrize("size", [(16, 16), (20, 3000), (1, 1), (81, 81)])
    def test_odd_sizes_hold_no_face(self, dlib_detector, canvas, size):
        (found,) = dlib_detector([canvas(*size)])
        assert found.shape == (0, 5)

    def test_the_threshold_counts(self, draw_face, canvas):
        photo = draw_face(canvas(300, 320), 150, 160, 120)
        strict = detector("dlib", threshold=9.0, fine_threshold=9.0)
        assert len(strict([photo])[0]) == 0


class TestCrop:
    def test_the_box_lies_in_the_lower_middle(self, canvas):
        (found,) = detector("crop")([canvas(112, 112)])
        left, top, right, bottom, score = found[0]
        assert (left + right) / 2 == pytest.approx(55.5)
        assert (top + bottom) / 2 == pytest.approx(0.6 * 112 - 0.5)
        assert [right - left, bottom - top] == pytest.approx([0.95 * 112] * 2)
        assert score == 1

    def test_size_and_centre_can_be_set_and_follow_the_shorter_side(self, canvas):
        (found,) = detector("crop", size=0.5, centre=(0.5, 0.5))([canvas(200, 100)])
        np.testing.assert_allclose(found[0, :4], [74.5, 24.5, 124.5, 74.5])


class TestBase:
    def test_boxes_come_best_first(self):
        boxes = to_boxes([(0, 0, 1, 1, 0.2), (1, 1, 2, 2, 0.9)])
        np.testing.assert_allclose(boxes[:, 4], [0.9, 0.2])
        assert to_boxes([]).shape == (0, 5)

    def test_overlapping_boxes_are_one_face(self):
        boxes = to_boxes([(0, 0, 10, 10, 0.5), (1, 0, 11, 10, 0.9), (40, 0, 50, 10, 0.3)])
        kept = one_per_face(boxes)
        np.testing.assert_allclose(kept[:, 4], [0.9, 0.3])
        assert one_per_face(to_boxes([])).shape == (0, 5)

    def test_shrinking_never_enlarges(self, canvas):
        small, share = shrink(canvas(100, 50), 200)
        assert small.shape == (50, 100, 3)
        assert share == 1
        small, share = shrink(canvas(100, 50), 20)
        assert small.shape == (10, 20, 3)
        assert share == 0.2


class TestYuNet:
    def test_needs_a_file(self, tmp_path):
        with pytest.raises(ConfigError, match=r"yunet:PATH\.onnx"):
            detector("yunet")
        with pytest.raises(ConfigError, match="no file"):
            detector(f"yunet:{tmp_path / 'absent.onnx'}")

    def test_another_file_is_refused(self, tmp_path):
        path = tmp_path / "text.onnx"
        path.write_text("not a model")
        with pytest.raises(ConfigError, match="not a YuNet model"):
            detector(f"yunet:{path}")

    def test_boxes_return_to_the_photo(self, tmp_path, monkeypatch, canvas):
        seen: dict[str, Any] = {}

        class Net:
            def setInputSize(self, size: tuple[int, int]) -> None:
                seen["size"] = tuple(size)

            def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
                seen["pixel"] = image[0, 0].tolist()
                if image.shape[0] < 100:
                    return 0, None
                return 1, np.array([[10, 20, 30, 40, *[0] * 10, 0.75]], np.float32)

        path = tmp_path / "net.onnx"
        path.touch()
        maker = SimpleNamespace(create=lambda *a: Net())
        monkeypatch.setattr(cv2, "FaceDetectorYN", maker)
        find = detector(f"yunet:{path}", side=200)
        found, none = find([canvas(400, 300), canvas(90, 60)])
        np.testing.assert_allclose(found, [[19.5, 39.5, 79.5, 119.5, 0.75]])
        assert none.shape == (0, 5)
        assert seen["size"] == (90, 60)
        assert seen["pixel"] == [160, 140, 120]  # BGR


def scrfd_file(path: Path) -> Path:
    """Write a network with SCRFD's outputs that finds bright red on the finest grid.

    Its score is the mean of red over a cell, its box one cell around the cell's corner; the
    other strides find nothing.
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    side, anchors = 64, 2
    weight = np.zeros((anchors, 3, 8, 8), np.float32)
    weight[:, 0] = 1 / 64
    constants = {"weight": weight, "column": np.array([-1, 1], np.int64)}
    outputs = []
    for stride in (8, 16, 32):
        n = (side // stride) ** 2 * anchors
        outputs.append((f"score_{stride}", (n, 1)))
        if stride > 8:
            constants[f"score_{stride}"] = np.zeros((n, 1), np.float32)
        constants[f"bbox_{stride}"] = np.ones((n, 4), np.float32)
        constants[f"kps_{stride}"] = np.zeros((n, 10), np.float32)
    for kind, width in (("bbox", 4), ("kps", 10)):
        outputs += [(f"{kind}_{s}", ((side // s) ** 2 * anchors, width)) for s in (8, 16, 32)]
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["mean"], strides=[8, 8]),
        helper.make_node("Transpose", ["mean"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "column"], ["score_8"]),
    ]
    for name, _ in outputs:
        if name in constants:
            tensor = numpy_helper.from_array(constants.pop(name))
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
    graph = helper.make_graph(
        nodes,
        "scrfd",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


class TestScrfd:
    def test_boxes_return_to_the_photo(self, tmp_path):
        pytest.importorskip("onnxruntime")
        photo = np.zeros((96, 128, 3), np.uint8)  # shrunk by 2 to 64 x 48
        photo[32:48, 80:96] = (255, 0, 0)
        photo[0:16, 0:16] = (0, 0, 255)  # not red
        find = detector(f"scrfd:{scrfd_file(tmp_path / 'net.onnx')}", side=64)
        found, none = find([photo, np.zeros_like(photo)])
        # Cell (5, 2) of stride 8: its corner at (40, 16), a cell to each side.
        np.testing.assert_allclose(found[:, :4], [[63.5, 15.5, 95.5, 47.5]])
        assert found[0, 4] == pytest.approx(127.5 / 128)
        assert none.shape == (0, 5)

    def test_another_file_is_refused(self, tmp_path):
        pytest.importorskip("onnxruntime")
        path = tmp_path / "text.onnx"
        path.write_text("not a model")
        with pytest.raises(ConfigError, match="cannot be read as an ONNX model"):
            detector(f"scrfd:{path}")

    def test_says_which_extra_is_missing(self, tmp_path, monkeypatch):
        path = tmp_path / "net.onnx"
        path.touch()
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r"mien\[evaluate\]"):
            detector(f"scrfd:{path}")


class TestOptionalPackages:
    @pytest.mark.parametrize("name", ["insightface", "uniface", "mediapipe"])
    def test_absent_package_is_named(self, name, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.app", None)
        path = tmp_path / "model.tflite"
        path.touch()
        with pytest.raises(ConfigError, match=f"pip install {name}"):
            detector(f"{name}:{path}" if name == "mediapipe" else name)

    def test_insightface(self, monkeypatch, canvas, capsys):
        class FaceAnalysis:
            def __init__(self, name: str, allowed_modules: list[str]) -> None:
                print("chatter")
                assert allowed_modules == ["detection"]

            def prepare(self, ctx_id: int, det_thresh: float, det_size: tuple[int, int]) -> None:
                assert (ctx_id, det_thresh, det_size) == (-1, 0.3, (320, 320))

            def get(self, image: np.ndarray) -> list[SimpleNamespace]:
                assert image[0, 0].tolist() == [160, 140, 120]
                box = np.array([1.5, 2.5, 11.5, 22.5], np.float32)
                return [SimpleNamespace(bbox=box, det_score=np.float32(0.75))]

        monkeypatch.setitem(
            sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FaceAnalysis)
        )
        monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
        (found,) = detector("insightface", side=320, threshold=0.3)([canvas(50, 40)])
        np.testing.assert_allclose(found, [[1, 2, 11, 22, 0.75]])
        assert capsys.readouterr().out == ""

    def test_uniface(self, monkeypatch, canvas):
        class RetinaFace:
            def detect(self, image: np.ndarray) -> list[SimpleNamespace]:
                assert image[0, 0].tolist() == [160, 140, 120]
                return [
                    SimpleNamespace(bbox=[0.5, 0.5, 4.5, 5.5], confidence=0.6),
                    SimpleNamespace(bbox=[1.5, 2.5, 11.5, 22.5], confidence=0.9),
                ]

        monkeypatch.setitem(sys.modules, "uniface", SimpleNamespace(RetinaFace=RetinaFace))
        (found,) = detector("uniface")([canvas(50, 40)])
        np.testing.assert_allclose(found, [[1, 2, 11, 22, 0.9], [0, 0, 4, 5, 0.6]])

    def test_mediapipe(self, monkeypatch, canvas, tmp_path):
        class FaceDetector:
            @classmethod
            def create_from_options(cls, options: SimpleNamespace) -> FaceDetector:
                if "bad" in options.base_options.model_asset_path:
                    raise RuntimeError("no model in it")
                assert options.min_detection_confidence == 0.4
                return cls()

            def detect(self, image: SimpleNamespace) -> SimpleNamespace:
                assert image.image_format == "srgb"
                assert image.data.flags.c_contiguous
                box = SimpleNamespace(origin_x=10, origin_y=20, width=30, height=40)
                found = SimpleNamespace(bounding_box=box, categories=[SimpleNamespace(score=0.5)])
                return SimpleNamespace(detections=[found])

        vision = SimpleNamespace(FaceDetector=FaceDetector, FaceDetectorOptions=SimpleNamespace)
        mediapipe = SimpleNamespace(
            Image=SimpleNamespace,
            ImageFormat=SimpleNamespace(SRGB="srgb"),
            tasks=SimpleNamespace(BaseOptions=SimpleNamespace, vision=vision),
        )
        monkeypatch.setitem(sys.modules, "mediapipe", mediapipe)
        for name in ("good.tflite", "bad.tflite"):
            (tmp_path / name).touch()
        find = detector(f"mediapipe:{tmp_path / 'good.tflite'}", threshold=0.4)
        (found,) = find([canvas(100, 80)[:, ::-1]])
        np.testing.assert_allclose(found, [[9.5, 19.5, 39.5, 59.5, 0.5]])
        with pytest.raises(ConfigError, match="not a MediaPipe face detector"):
            detector(f"mediapipe:{tmp_path / 'bad.tflite'}")
