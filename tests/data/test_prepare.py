import csv
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mien.data.prepare as module
from mien.data.cropping import Cropper, Settings
from mien.data.facs import MEDIAPIPE_SHAPES
from mien.data.prepare import prepare
from mien.data.procedural import Parameters, ProceduralFaces
from mien.data.readers import Record
from mien.data.table import Row, Table
from mien.faces.align import crop_to_photo, invert, transform_points
from mien.faces.face import Face
from mien.faces.image import decode_image, encode_image, write_image
from mien.faces.video import write_video
from mien.files.errors import ConfigError, MissingExtraError, TableError

FACES = ProceduralFaces(seed=1, size=160)


def run(sources, out, **options):
    return prepare(sources, out, progress=False, workers=options.pop("workers", 1), **options)


def rows(folder):
    return [row for part in Table(folder).parts for row in pq.read_table(part).to_pylist()]


def rejected(folder):
    with (folder / "rejected.csv").open(newline="") as file:
        return [(r["source"], r["reason"], r["detail"]) for r in csv.DictReader(file)]


def points_of(row):
    return np.array(row["landmarks"], np.float32).reshape(68, 2)


def draw(folder, count=6, quality=95):
    """Draw pictures named as UTKFace's, and their annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = []
    for i in range(count):
        parameters, _ = FACES.parameters(i, 2)
        image, points = FACES.draw(parameters, aligned=False)
        name = f"{20 + i}_{i % 2}_{i % 5}_2017.jpg.chip.jpg"
        write_image(folder / name, image, quality=quality)
        notes.append(
            {
                "file": name,
                "landmarks68": (points + 0.5).ravel().tolist(),
                "yaw": parameters.yaw,
                "pitch": parameters.pitch,
                "roll": parameters.roll,
            }
        )
    file = folder.parent / "notes.parquet"
    pq.write_table(pa.Table.from_pylist(notes), file)
    return file, [np.array(n["landmarks68"], np.float32).reshape(68, 2) - 0.5 for n in notes]


@pytest.fixture
def no_network(monkeypatch):
    def fail(self):
        raise AssertionError("something was searched for")

    monkeypatch.setattr(Cropper, "_landmarker", property(fail))
    monkeypatch.setattr(Cropper, "_finder", property(fail))


def fake_finder(monkeypatch, find):
    """Replace the search by ``find(image) -> list of (points, score)``."""

    def finder(images):
        return [
            [
                Face(
                    crop=image,
                    landmarks=points,
                    to_photo=np.eye(2, 3, dtype=np.float32),
                    box=np.concatenate([points.min(0), points.max(0)]),
                    score=score,
                    pose=(1.0, 2.0, 3.0),
                )
                for points, score in find(image)
            ]
            for image in images
        ]

    monkeypatch.setattr(Cropper, "_finder", property(lambda self: finder))


SHAPE = ProceduralFaces(size=100).landmarks(Parameters(), aligned=False)


# --- what the table holds -----------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("crop", ["tight", "ffhq", "whole"])
def test_annotated_pictures_are_cut_without_any_search(tmp_path, crop):
    notes, points = draw(tmp_path / "u")
    info = run(f"utkface:{tmp_path / 'u'}", tmp_path / "t", annotations=notes, crop=crop, size=80)
    assert (info["faces"], info["crop"], info["size"], info["rejected"]) == (6, crop, 80, {})
    for i, row in enumerate(rows(tmp_path / "t")):
        to_photo = np.array(row["to_photo"], np.float32).reshape(2, 3)
        if crop != "whole":
            assert np.allclose(to_photo, crop_to_photo(points[i], crop, 80), atol=1e-3)
        assert np.allclose(transform_points(points_of(row), to_photo), points[i], atol=0.02)
        assert decode_image(row["image"]).shape == (80, 80, 3)
        assert row["dataset"] == "utkface"
        assert dict(row["attributes"])["age"] == str(20 + i)
        assert np.isnan(row["score"]) if row["score"] is not None else True


@pytest.mark.usefixtures("no_network")
def test_blendshapes_of_annotations_become_action_units(tmp_path):
    notes, _ = draw(tmp_path / "u", 3)
    scores = [[0.0] * 52 for _ in range(3)]
    scores[1][MEDIAPIPE_SHAPES.index("mouthSmileRight")] = 0.75
    table = pq.read_table(notes)
    pq.write_table(table.append_column("blendshapes", pa.array(scores)), notes)
    run(f"utkface:{tmp_path / 'u'}", tmp_path / "t", annotations=notes)
    units = [dict(row["action_units"] or ()) for row in rows(tmp_path / "t")]
    assert units == [{}, {"AU12": 0.75}, {}]
    short = pa.array([[0.0] * 51] * 3)
    pq.write_table(table.append_column("blendshapes", short), notes)
    with pytest.raises(TableError, match="MediaPipe's 52 scores"):
        run(f"utkface:{tmp_path / 'u'}", tmp_path / "s", annotations=notes)


@pytest.mark.usefixtures("no_network")
def test_a_crop_shows_what_its_matrix_says(tmp_path):
    notes, points = draw(tmp_path / "u", 2)
    run(f"utkface:{tmp_path / 'u'}", tmp_path / "t", annotations=notes, size=96)
    for i, row in enumerate(rows(tmp_path / "t")):
        photo, _ = FACES.draw(FACES.parameters(i, 2)[0], aligned=False)
        to_photo = np.array(row["to_photo"], np.float64).reshape(2, 3)
        expected = cv2.warpAffine(
            photo, to_photo, (96, 96), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        difference = np.abs(decode_image(row["image"]).astype(int) - expected)
        assert difference[16:80, 16:80].mean() < 6
        assert np.isfinite(points[i]).all()


@pytest.mark.usefixtures("no_network")
def test_the_roll_is_that_of_the_crop(tmp_path):
    notes, _ = draw(tmp_path / "u")
    source = f"utkface:{tmp_path / 'u'}"
    run(source, tmp_path / "tight", annotations=notes)
    run(source, tmp_path / "whole", annotations=notes, crop="whole")
    for i, (tight, whole) in enumerate(
        zip(rows(tmp_path / "tight"), rows(tmp_path / "whole"), strict=True)
    ):
        drawn, _ = FACES.parameters(i, 2)
        assert whole["roll"] == pytest.approx(drawn.roll, abs=1e-3)
        assert tight["roll"] == pytest.approx(FACES.roll(drawn), abs=0.05)
        assert tight["yaw"] == whole["yaw"] == pytest.approx(drawn.yaw, abs=1e-3)


@pytest.mark.usefixtures("no_network")
def test_a_picture_that_is_its_own_crop_keeps_its_bytes(tmp_path):
    notes, _ = draw(tmp_path / "u", 3, quality=55)
    source = f"utkface:{tmp_path / 'u'}"
    run(source, tmp_path / "t", annotations=notes, crop="whole", size=160)
    for row in rows(tmp_path / "t"):
        assert row["image"] == (tmp_path / "u" / row["source"]).read_bytes()
        assert row["to_photo"] == [1, 0, 0, 0, 1, 0]
    run(source, tmp_path / "s", annotations=notes, crop="whole", size=159)
    assert all(decode_image(r["image"]).shape == (159, 159, 3) for r in rows(tmp_path / "s"))


@pytest.mark.usefixtures("no_network")
def test_expression_and_neutral_twin_share_one_frame(tmp_path):
    faces = ProceduralFaces(size=112)
    base, _ = faces.parameters(0, 0)
    happy = faces.parameters(1, 0)[0]
    (tmp_path / "i" / "images").mkdir(parents=True)
    marks = {}
    for name, parameters in (("fear_expression", happy), ("fear_neutral", base)):
        image, marks[name] = faces.draw(parameters)
        write_image(tmp_path / "i" / "images" / f"{name}.jpg", image)
    row = {
        "image": "images/fear_expression.jpg",
        "neutral_image": "images/fear_neutral.jpg",
        "identity": 400,
        "split": "train",
        "expression": "fear",
        "yaw": 1.0,
        "pitch": 2.0,
        "roll": 3.0,
        "expression_coefficients": [0.0] * 53,
        "landmarks68": (marks["fear_expression"] + 2).ravel().tolist(),
        "neutral_landmarks68": marks["fear_neutral"].ravel().tolist(),
        "makeup": False,
        "lipstick": False,
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "i" / "labels.parquet")
    run(f"ict_pairs:{tmp_path / 'i'}", tmp_path / "t")
    a, b = rows(tmp_path / "t")
    assert a["to_photo"] == b["to_photo"] == [1, 0, 0, 0, 1, 0]
    assert a["image"] == (tmp_path / "i" / "images" / "fear_expression.jpg").read_bytes()
    assert np.allclose(points_of(a), marks["fear_expression"] + 2, atol=1e-3)


def test_large_photos_are_searched_small_but_reported_in_their_own_pixels(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    image = cv2.resize(FACES.draw(Parameters(), aligned=False)[0], (400, 400))
    write_image(tmp_path / "p" / "a.jpg", image)
    seen = []

    def find(image):
        seen.append(image.shape)
        return [(SHAPE, 0.9)]  # in pixels of the picture of 100 px

    fake_finder(monkeypatch, find)
    run(tmp_path / "p", tmp_path / "t", max_side=100)
    assert seen == [(100, 100, 3)]
    (row,) = rows(tmp_path / "t")
    in_photo = transform_points(points_of(row), np.array(row["to_photo"]).reshape(2, 3))
    assert np.allclose(in_photo, (SHAPE + 0.5) * 4 - 0.5, atol=0.05)
    box = np.concatenate([SHAPE.min(0), SHAPE.max(0)])
    assert np.allclose(row["box"], (box + 0.5) * 4 - 0.5, atol=0.05)
    assert (row["yaw"], row["pitch"]) == (1, 2)


def test_whole_cuts_the_central_square(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    image = np.zeros((100, 160, 3), np.uint8)
    image[:, 30:130] = 255
    write_image(tmp_path / "p" / "a.png", image)
    fake_finder(monkeypatch, lambda image: [(SHAPE + np.array([30, 0]), 0.9)])
    run(tmp_path / "p", tmp_path / "t", crop="whole", size=50)
    (row,) = rows(tmp_path / "t")
    assert decode_image(row["image"]).min() > 250
    assert np.allclose(points_of(row), (SHAPE + 0.5) / 2 - 0.5, atol=0.01)


def test_a_drawn_portrait_is_found_by_the_default_detector(tmp_path):
    (tmp_path / "p").mkdir()
    portrait, points = ProceduralFaces(size=256).draw(Parameters(), aligned=False)
    write_image(tmp_path / "p" / "a.jpg", portrait)
    write_image(tmp_path / "p" / "b.jpg", np.full((200, 200, 3), 90, np.uint8))
    info = run(tmp_path / "p", tmp_path / "t")
    assert info["rejected"] == {"no face": 1}
    (row,) = rows(tmp_path / "t")
    found = transform_points(points_of(row), np.array(row["to_photo"]).reshape(2, 3))
    assert np.abs(found - points).mean() < 12
    assert row["score"] > 0.5
    assert abs(row["yaw"]) < 15


def test_crops_of_a_data_set_need_no_detector_and_are_never_lost(tmp_path, monkeypatch):
    def fail(self):
        raise AssertionError("a crop was searched")

    monkeypatch.setattr(Cropper, "_finder", property(fail))
    draw(tmp_path / "u", 2)
    write_image(tmp_path / "u" / "90_0_0_2.jpg.chip.jpg", np.full((64, 64, 3), 90, np.uint8))
    source = f"utkface:{tmp_path / 'u'}"
    assert run(source, tmp_path / "t", crop="whole")["faces"] == 3
    info = run(source, tmp_path / "s", crop="whole", min_score=0.5)
    assert info["rejected"] == {"score too low": 1}


# --- choices and rejections ---------------------------------------------------------------------


def _three_faces(image):
    return [(SHAPE * 2, 0.9), (SHAPE * 0.8 + 160, 0.8), (SHAPE + np.array([250, 0]), 0.2)]


@pytest.mark.parametrize(
    ("faces", "kept", "reasons"),
    [
        ("largest", ["a.jpg"], ["score too low", "several faces"]),
        ("central", ["a.jpg"], ["score too low", "several faces"]),
        ("all", ["a.jpg@0", "a.jpg@1"], ["score too low"]),
        ("only", [], ["score too low", "several faces"]),
    ],
)
def test_of_several_faces(tmp_path, monkeypatch, faces, kept, reasons):
    (tmp_path / "p").mkdir()
    write_image(tmp_path / "p" / "a.jpg", np.full((400, 400, 3), 128, np.uint8))
    write_image(tmp_path / "p" / "b.jpg", np.full((100, 100, 3), 90, np.uint8))
    fake_finder(monkeypatch, lambda im: _three_faces(im) if im.shape[0] == 400 else [(SHAPE, 0.9)])
    run(tmp_path / "p", tmp_path / "t", faces=faces, deduplicate=False)
    found = rows(tmp_path / "t")
    assert [r["source"] for r in found] == [*kept, "b.jpg"]
    assert [reason for _, reason, _ in rejected(tmp_path / "t")] == reasons
    if faces in ("largest", "central"):  # the smaller one sits in the middle
        assert (found[0]["box"][0] > 150) == (faces == "central")


def test_limits_reject_with_their_reason(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    for name in "abc":
        write_image(tmp_path / "p" / f"{name}.jpg", np.full((100, 100, 3), ord(name), np.uint8))
    sizes = iter((0.15, 1.0, 1.0))
    fake_finder(monkeypatch, lambda image: [(SHAPE * next(sizes), 0.9)])
    info = run(tmp_path / "p", tmp_path / "t", min_size=20, max_roll=90, deduplicate=False)
    assert info["rejected"] == {"too small": 1}
    ((source, _, detail),) = rejected(tmp_path / "t")
    assert source == "a.jpg"
    assert detail.endswith("px < 20")
    fake_finder(monkeypatch, lambda image: [(SHAPE, 0.9)])  # their pose is 1, 2, 3
    with pytest.raises(TableError, match=r"None of 3 pictures gave a face .*turned too far"):
        run(tmp_path / "p", tmp_path / "s", max_pitch=1.5)
    assert rejected(tmp_path / "s")[0][1:] == ("turned too far", "pitch 2°, more than 1.5°")
    assert (tmp_path / "s" / "rejected.jpg").is_file()


def test_damaged_pictures_are_listed_and_never_stop_a_run(tmp_path, monkeypatch):
    good, _ = FACES.draw(Parameters(), aligned=False)
    folder = tmp_path / "p"
    folder.mkdir()
    write_image(folder / "good.jpg", good)
    whole = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("I am no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "one.png").write_bytes(encode_image(np.zeros((1, 1, 3), np.uint8)))
    header = bytearray(encode_image(np.zeros((16, 16, 3), np.uint8)))
    header[16:24] = (30_000).to_bytes(4, "big") * 2  # declares 30,000 x 30,000
    header[29:33] = __import__("zlib").crc32(bytes(header[12:29])).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(bytes(header))
    (folder / "folder.jpg").mkdir()
    fake_finder(monkeypatch, lambda image: [(SHAPE * 1.6, 0.9)])
    info = run(folder, tmp_path / "t")
    assert info["faces"] == 1
    assert {(s, r) for s, r, _ in rejected(tmp_path / "t")} == {
        (name, "unreadable") for name in ("cut.jpg", "text.jpg", "empty.png", "one.png", "huge.png")
    }
    said = {s: d for s, _, d in rejected(tmp_path / "t")}
    assert "not a JPEG, PNG or WebP" in said["text.jpg"]
    assert "30000 x 30000" in said["huge.png"]


def test_a_folder_with_a_tenth_damaged_loses_nothing_else(tmp_path, monkeypatch):
    rng = random.Random(0)
    folder = tmp_path / "p"
    folder.mkdir()
    damaged = set(rng.sample(range(40), 4))
    for i in range(40):
        file = folder / f"{i:02d}.jpg"
        write_image(file, FACES.draw(FACES.parameters(i, 2)[0], aligned=False)[0])
        if i in damaged:
            data = bytearray(file.read_bytes())
            file.write_bytes(data[: rng.randrange(len(data) * 9 // 10)])
    fake_finder(monkeypatch, lambda image: [(SHAPE * 1.6, 0.9)])
    info = run(folder, tmp_path / "t", deduplicate=False)
    assert (info["faces"], info["rejected"]) == (36, {"unreadable": 4})
    names = {f"{i:02d}.jpg" for i in damaged}
    assert {s for s, _, _ in rejected(tmp_path / "t")} == names
    for name in names:
        (folder / name).unlink()
    run(folder, tmp_path / "u", deduplicate=False)
    assert rows(tmp_path / "t") == rows(tmp_path / "u")


def test_the_sheet_of_rejected_faces_is_bounded(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(12):
        write_image(folder / f"{i:02d}.jpg", np.full((40 + i, 60, 3), 20 * i, np.uint8))
    monkeypatch.setattr(module, "SHEET", 5)
    fake_finder(monkeypatch, lambda image: [] if image.shape[0] > 40 else [(SHAPE * 0.6, 0.9)])
    run(folder, tmp_path / "t")
    assert len(rejected(tmp_path / "t")) == 11
    sheet = cv2.imread(str(tmp_path / "t" / "rejected.jpg"))
    assert sheet.shape == (96 + 14, 5 * 96, 3)


def test_near_copies_are_left_out_and_named(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(3):
        parameters, _ = FACES.parameters(i, 2)
        image, _ = FACES.draw(parameters, aligned=False)
        write_image(folder / f"{i}.jpg", image)
        write_image(folder / f"{i}_again.jpg", image, quality=85)
    marks = {i: FACES.landmarks(FACES.parameters(i, 2)[0], aligned=False) for i in range(3)}
    looks = {i: FACES.draw(FACES.parameters(i, 2)[0], aligned=False)[0] for i in range(3)}

    def find(image):
        near = min(looks, key=lambda i: np.abs(looks[i].astype(int) - image).mean())
        return [(marks[near], 0.9)]

    fake_finder(monkeypatch, find)
    info = run(folder, tmp_path / "t")
    assert [r["source"] for r in rows(tmp_path / "t")] == ["0.jpg", "1.jpg", "2.jpg"]
    assert info["rejected"] == {"duplicate": 3}
    assert rejected(tmp_path / "t")[1] == ("1_again.jpg", "duplicate", "of 1.jpg")
    assert run(folder, tmp_path / "s", deduplicate=False)["faces"] == 6


@pytest.mark.usefixtures("no_network")
def test_official_splits_and_clips_keep_their_copies(tmp_path):
    notes, _ = draw(tmp_path / "u", 1)
    name = "20_0_0_2017.jpg.chip.jpg"
    twin = "20_0_0_2018.jpg.chip.jpg"
    (tmp_path / "u" / twin).write_bytes((tmp_path / "u" / name).read_bytes())
    note = pq.read_table(notes).to_pylist()[0]
    pq.write_table(pa.Table.from_pylist([note, {**note, "file": twin}]), notes)
    source = f"utkface:{tmp_path / 'u'}"
    assert run(source, tmp_path / "t", annotations=notes)["faces"] == 1
    splits = f"file,group,split\n{name},0,train\n{twin},0,train\n"
    (tmp_path / "u" / "splits.csv").write_text(splits)
    assert run(source, tmp_path / "s", annotations=notes)["faces"] == 2


@pytest.mark.usefixtures("no_network")
def test_sources_of_several_folders_stay_unique(tmp_path):
    info = run(["procedural:2", "procedural:1"], tmp_path / "t")
    assert info["faces"] == 48
    sources = [r["source"] for r in rows(tmp_path / "t")]
    assert sources[0] == "2/00000/0000"
    assert len(set(sources)) == 48


# --- one table whatever happens -----------------------------------------------------------------


def same_table(a, b):
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir())
    assert "table.json" in names
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_any_number_of_processes_gives_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK", 4)
    monkeypatch.setattr(module, "PART", 12)
    draw(tmp_path / "u", 4)
    (tmp_path / "u" / "21_0_0_9.jpg").write_text("damaged")
    sources = [f"utkface:{tmp_path / 'u'}", "procedural:2"]
    info = run(sources, tmp_path / "one")
    assert run(sources, tmp_path / "two", workers=2) == info
    same_table(tmp_path / "one", tmp_path / "two")
    assert len(Table(tmp_path / "one").parts) > 2


_CHILD = """
import sys, mien.data.prepare as p
p.TASK, p.PART = 8, 16
if __name__ == "__main__":
    source, out, workers = sys.argv[1:]
    options = {"detector": "crop", "min_score": 0.0, "every": 1, "progress": False}
    p.prepare(source, out, resume=True, workers=int(workers), **options)
"""


@pytest.mark.parametrize("kind", ["pictures", "video"])
def test_killed_at_any_instant_it_goes_on_to_the_same_table(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "TASK", 8)
    monkeypatch.setattr(module, "PART", 16)
    source = "procedural:6"
    options = {"detector": "crop", "min_score": 0.0, "every": 1}
    if kind == "video":
        pytest.importorskip("av")
        source = f"video:{tmp_path / 'clips'}"
        for clip in range(7):
            frames = (FACES.draw(FACES.parameters(clip, 2 + i)[0])[0] for i in range(16))
            write_video(tmp_path / "clips" / f"{clip}.mp4", frames, 25)
    run(source, tmp_path / "whole", **options)
    script = tmp_path / "child.py"
    script.write_text(_CHILD)
    out = tmp_path / "cut"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for parts, workers in ((1, 1), (3, 2)):
        command = [sys.executable, script, source, out, str(workers)]
        child = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while len(list(out.glob("part-*.parquet"))) < parts:
            assert child.poll() is None, "it finished before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.003)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (out / "table.json").exists()
    assert len(list(out.glob("part-*.parquet"))) < 6
    run(source, out, resume=True, **options)
    same_table(tmp_path / "whole", out)


def test_cut_between_part_and_note_or_between_note_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK", 4)
    monkeypatch.setattr(module, "PART", 8)
    run("procedural:2", tmp_path / "whole")
    for number, cut in enumerate(("atomic_path", "_count_rejected")):
        out = tmp_path / f"cut{number}"
        calls = 0
        real = getattr(module, cut)

        def stop(*args, real=real, cut=cut):
            nonlocal calls
            calls += 1
            if calls == (3 if cut == "atomic_path" else 1):
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(module, cut, stop)
            with pytest.raises(KeyboardInterrupt):
                run("procedural:2", out)
        (out / ".part-00009.parquet.x.tmp").write_bytes(b"left over")
        run("procedural:2", out, resume=True)
        same_table(tmp_path / "whole", out)


def test_cut_while_its_first_file_was_written(tmp_path):
    (tmp_path / "t" / ".progress").mkdir(parents=True)
    (tmp_path / "t" / ".prepare.json.abc.tmp").write_text("{")
    assert run("procedural:1", tmp_path / "t", resume=True)["faces"] == 16
    run("procedural:1", tmp_path / "u")
    same_table(tmp_path / "t", tmp_path / "u")


def test_duplicates_are_known_across_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK", 1)
    monkeypatch.setattr(module, "PART", 1)
    notes, _ = draw(tmp_path / "u", 2)
    folder = tmp_path / "u"
    first = next(iter(sorted(folder.iterdir())))
    (folder / "99_0_0_2017.jpg").write_bytes(first.read_bytes())
    note = pq.read_table(notes).to_pylist()
    pq.write_table(pa.Table.from_pylist([*note, {**note[0], "file": "99_0_0_2017.jpg"}]), notes)
    real = module.atomic_path

    def stop(target):
        if target.name == "000001.json":
            raise KeyboardInterrupt
        return real(target)

    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_path", stop)
        with pytest.raises(KeyboardInterrupt):
            run(f"utkface:{folder}", tmp_path / "t", annotations=notes)
    info = run(f"utkface:{folder}", tmp_path / "t", annotations=notes, resume=True)
    assert info["faces"] == 2
    assert info["rejected"] == {"duplicate": 1}


def test_a_finished_table_has_nothing_to_resume(tmp_path):
    info = run("procedural:1", tmp_path / "t")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "t").iterdir()}
    assert run("procedural:1", tmp_path / "t", resume=True) == info
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "t").iterdir()} == before


class _Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_picture_that_ends_its_process_is_rejected_alone(tmp_path):
    draw(tmp_path / "u", 3)
    files = sorted((tmp_path / "u").glob("*.jpg"))
    points = FACES.landmarks(Parameters(), aligned=False)
    records = [
        Record(f.name, f, labels=Row(b"", "", yaw=0.0, pitch=0.0, roll=0.0), landmarks=points)
        for f in files
    ]
    records[1].labels.attributes["bomb"] = _Bomb()
    tasks = [module._Task(0, records), module._Task(0, records[:1])]
    recipes = [("utkface", str(tmp_path / "u"), 5)]
    first, second = (o for _, o in module._work(iter(tasks), recipes, Settings(), 2))
    assert [r.source for r in first.rows] == [files[0].name, files[2].name]
    assert [(r.source, r.reason) for r in first.rejected] == [(files[1].name, "unreadable")]
    assert [r.source for r in second.rows] == [files[0].name]


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_CHILD.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run(
        [sys.executable, script, "procedural:6", tmp_path / "t", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "ConfigError: Other processes cannot be started; give workers=1" in done.stderr
    assert not (tmp_path / "t" / "table.json").exists()


def test_errors_come_out_of_a_process_as_they_went_in():
    error = MissingExtraError("av", "video")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (MissingExtraError, str(error))


def test_large_photos_are_held_in_smaller_numbers(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    for i in range(5):
        write_image(tmp_path / "p" / f"{i}.jpg", np.full((100, 100, 3), 40 * i, np.uint8))
    held = []

    def finder(images):
        held.append(len(images))
        return [[] for _ in images]

    monkeypatch.setattr(Cropper, "_finder", property(lambda self: finder))
    monkeypatch.setattr("mien.data.cropping._PIXELS", 20_000)
    with pytest.raises(TableError, match="None of 5 pictures"):
        run(tmp_path / "p", tmp_path / "t")
    assert held == [2, 2, 1]


# --- one sentence -------------------------------------------------------------------------------


def test_an_empty_folder(tmp_path):
    (tmp_path / "p").mkdir()
    with pytest.raises(TableError, match="holds no pictures; give a folder with photos"):
        run(tmp_path / "p", tmp_path / "t")
    assert not any((tmp_path / "t").iterdir())
    with pytest.raises(TableError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "t")


def test_no_face_at_all(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    write_image(tmp_path / "p" / "a.jpg", np.full((64, 64, 3), 9, np.uint8))
    fake_finder(monkeypatch, lambda image: [])
    with pytest.raises(
        TableError, match=r"None of 1 pictures gave a face .*no face.*rejected\.csv"
    ):
        run(tmp_path / "p", tmp_path / "t")
    assert not (tmp_path / "t" / "table.json").exists()
    assert rejected(tmp_path / "t") == [("a.jpg", "no face", "by dlib")]


def test_a_folder_in_use(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine.txt").write_text("keep")
    with pytest.raises(TableError, match="is not empty; give a new folder"):
        run("procedural:1", tmp_path / "t")
    with pytest.raises(TableError, match="was not begun by `mien prepare`"):
        run("procedural:1", tmp_path / "t", resume=True)
    assert (tmp_path / "t" / "mine.txt").read_text() == "keep"


def test_resume_with_other_settings_or_pictures(tmp_path, monkeypatch):
    notes, _ = draw(tmp_path / "u", 3)
    source = f"utkface:{tmp_path / 'u'}"
    monkeypatch.setattr(module, "TASK", 1)
    monkeypatch.setattr(module, "PART", 1)

    def stop(self, writer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "_close", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "t", annotations=notes)
    with pytest.raises(TableError, match="begun with size = 112, not 64"):
        run(source, tmp_path / "t", annotations=notes, size=64, resume=True)
    next(iter(sorted((tmp_path / "u").iterdir()))).unlink()
    with pytest.raises(TableError, match="pictures have changed"):
        run(source, tmp_path / "t", annotations=notes, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "tigt"}, "did you mean 'tight'"),
        ({"detector": "dlip"}, "did you mean 'dlib'"),
        ({"faces": "largst"}, "did you mean 'largest'"),
        ({"size": 4}, "16 to 2048"),
        ({"quality": 0}, "1 to 100"),
        ({"every": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_impossible_settings(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run("procedural:1", tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()


def test_unknown_readers_and_annotations(tmp_path):
    with pytest.raises(ConfigError, match="No reader 'utk'"):
        run("utk:somewhere", tmp_path / "t")
    with pytest.raises(ConfigError, match="belong to one source"):
        run(["procedural:1", "procedural:2"], tmp_path / "t", annotations="x.parquet")
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(TableError, match="is no annotation file"):
        run("procedural:1", tmp_path / "t", annotations=tmp_path / "x.parquet")
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(TableError, match="is no annotation file"):
        run("procedural:1", tmp_path / "s", annotations=tmp_path / "y.parquet")


@pytest.mark.parametrize("line", ["train_1.jpg", "train_1.jpg nine", "train_1.jpg 9"])
def test_a_damaged_list_of_a_data_set(tmp_path, line):
    labels = tmp_path / "r" / "basic" / "EmoLabel"
    labels.mkdir(parents=True)
    (labels / "list_patition_label.txt").write_text(line + "\n")
    with pytest.raises(TableError, match=r"r has a list that cannot be read .* rafdb expects: "):
        run(f"rafdb:{tmp_path / 'r'}", tmp_path / "t")
    assert not any((tmp_path / "t").iterdir())  # mend it and run the same command


def test_prepare_json_tells_how_the_table_was_made(tmp_path):
    run("procedural:1", tmp_path / "t", size=64)
    plan = json.loads((tmp_path / "t" / "prepare.json").read_text())
    assert plan["sources"] == ["procedural:1"]
    assert plan["size"] == 64
    assert np.allclose(invert(np.eye(2, 3)), np.eye(2, 3))
