"""Every reader on a miniature tree in the set's official layout."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data.readers import STRETCH, reader, reader_names
from mien.data.readers.lfw import pairs
from mien.faces.video import write_video
from mien.files.errors import ConfigError, ImageError, MissingExtraError, TableError
from tests.data.trees import picture, text

_NAMES = (
    "300w_lp aflw2000 biwi bp4d bp4dplus bu3dfe celeba ck_plus ckplus_peaks disfa fer2013 "
    "ict_clips ict_faces ict_makeup ict_pairs jaffe kdef lfw london makeup mmi omi oulu_casia "
    "pose_npz rafdb utkface voxceleb"
)
DATA_SETS = _NAMES.split()
OWN = ("folder", "persons", "video", "procedural", "webdataset", "huggingface")


def read(name, root):
    records = list(reader(name, root).records())
    sources = [r.source for r in records]
    assert len(set(sources)) == len(sources)
    assert all(r.labels.dataset == name for r in records)
    return records


def test_every_reader_of_the_list_is_registered():
    assert set(reader_names()) == {*DATA_SETS, *OWN}


def test_an_unknown_reader_is_told_the_nearest():
    with pytest.raises(ConfigError, match="No reader 'utkfaces', did you mean 'utkface'"):
        reader("utkfaces", ".")


@pytest.mark.parametrize("name", [*DATA_SETS, "webdataset", "huggingface"])
def test_a_folder_of_another_layout_is_one_sentence(tmp_path, name):
    text(tmp_path / "note.txt", "nothing of use")
    with pytest.raises(TableError, match=f"{name} expects: "):
        list(reader(name, tmp_path).records())


@pytest.mark.parametrize("name", [*DATA_SETS, "folder", "webdataset", "huggingface"])
def test_a_missing_folder_is_one_sentence(tmp_path, name):
    with pytest.raises(TableError, match="does not exist"):
        reader(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", [n for n in DATA_SETS if n != "pose_npz"])
def test_every_set_states_its_terms(tmp_path, name):
    assert reader(name, tmp_path).licence


def test_folder_takes_pictures_at_any_depth_and_leaves_the_rest(tmp_path):
    picture(tmp_path / "b.jpg")
    picture(tmp_path / "sub" / "deep" / "a.PNG".lower())
    picture(tmp_path / ".hidden" / "c.jpg")
    text(tmp_path / "notes.txt", "x")
    records = read("folder", tmp_path)
    assert [r.source for r in records] == ["b.jpg", "sub/deep/a.png"]
    assert not any(r.crop or r.labels.person for r in records)
    assert [r.source for r in read("folder", tmp_path / "b.jpg")] == ["b.jpg"]
    assert [r.labels.person for r in read("persons", tmp_path)] == ["", "sub/deep"]


def test_photo_returns_pixels_and_the_true_size(tmp_path):
    picture(tmp_path / "a.jpg", (200, 100))
    source = reader("folder", tmp_path)
    (record,) = source.records()
    image, size = source.photo(record, max_side=50)
    assert image.shape == (25, 50, 3)
    assert size == (200, 100)


def _video(path, frames):
    pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((32, 32, 3), 8 * i % 250, np.uint8) for i in range(frames)), 25)


def test_video_yields_every_nth_frame_of_a_clip(tmp_path):
    _video(tmp_path / "x" / "a.mp4", 12)
    text(tmp_path / "CLIPS.csv", "file,person,licence\nx/a.mp4,anna,CC BY\n")
    source = reader("video", tmp_path)
    source.every = 5
    (stretch,) = source.records()
    assert (stretch.frames, stretch.index) == (3, 0)
    frames = list(source.frames(stretch))
    assert [r.source for r, _ in frames] == [f"x/a.mp4#{i}" for i in (0, 5, 10)]
    assert [r.labels.frame for r, _ in frames] == [0, 5, 10]
    assert {(r.labels.clip, r.labels.person, r.labels.licence) for r, _ in frames} == {
        ("x/a.mp4", "anna", "CC BY")
    }
    assert abs(int(frames[1][1].mean()) - 40) < 6


def test_a_long_video_is_cut_into_stretches_that_cover_it_once(tmp_path, monkeypatch):
    _video(tmp_path / "a.mp4", 23)
    monkeypatch.setattr("mien.data.readers.STRETCH", 4)
    source = reader("video", tmp_path)
    source.every = 2
    stretches = list(source.records())
    assert [s.index for s in stretches] == [0, 8, 16]
    found = [r.index for s in stretches for r, _ in source.frames(s)]
    assert found == list(range(0, 23, 2))
    assert STRETCH > 4


def test_a_damaged_video_is_listed_and_told_when_it_is_read(tmp_path):
    pytest.importorskip("av")
    text(tmp_path / "a.mp4", "no video")
    source = reader("video", tmp_path)
    (record,) = source.records()
    with pytest.raises(ImageError):
        list(source.frames(record))


def test_utkface(tmp_path):
    a, b, c = (
        "25_1_2_2017.jpg.chip.jpg",
        "61_0_3_2017.jpg.chip.jpg",
        "30_0_2017.jpg.chip.jpg",  # some names lack the race
    )
    for name in (a, b, c, "other.jpg"):
        picture(tmp_path / name)
    text(tmp_path / "splits.csv", f"file,group,split\n{a},7,val\n")
    text(tmp_path / "conflicting_labels.csv", f"file,other\n{b},x\n")
    by = {r.source: r for r in read("utkface", tmp_path)}
    assert set(by) == {a, b, c}
    assert by[a].crop
    said = {"age": "25", "gender": "female", "race": "Asian", "group": "7"}
    assert by[a].labels.attributes == said
    assert by[a].labels.split == "val"
    assert by[b].labels.attributes == {}
    assert by[c].labels.attributes == {"age": "30", "gender": "male"}


def _lfw(root, size=112):
    for name, count in (("Anna_B", 2), ("Carl_D", 1), ("Eve_F", 1)):
        for i in range(count):
            picture(root / name / f"{name}_{i + 1:04d}.jpg", (size, size))


def test_lfw(tmp_path):
    _lfw(tmp_path)
    text(tmp_path / "labels.csv", "file,name,emotion\nAnna_B/Anna_B_0002.jpg,Anna_B,happiness\n")
    text(tmp_path / "folds.csv", "name,fold\nAnna_B,7\nCarl_D,8\nEve_F,10\n")
    records = read("lfw", tmp_path)
    assert [r.labels.person for r in records] == ["Anna_B", "Anna_B", "Carl_D", "Eve_F"]
    assert [r.labels.split for r in records] == ["train", "train", "val", "test"]
    assert [r.labels.expression for r in records] == ["", "happiness", "", ""]
    assert all(r.crop for r in records)


def test_lfw_as_published_is_no_crop_and_has_no_split(tmp_path):
    _lfw(tmp_path, 250)
    records = read("lfw", tmp_path)
    assert not any(r.crop or r.labels.split for r in records)


def test_lfw_keeps_the_listed_persons_whatever_the_folds_say(tmp_path):
    for name in ("Aaron_Eckhart", "Adam_Kennedy", "Anna_B"):
        picture(tmp_path / name / f"{name}_0001.jpg", (112, 112))
    text(tmp_path / "folds.csv", "name,fold\nAaron_Eckhart,1\n")
    found = {r.labels.person: r.labels.split for r in read("lfw", tmp_path)}
    assert found == {"Aaron_Eckhart": "val", "Adam_Kennedy": "test", "Anna_B": ""}


def test_lfw_pairs(tmp_path):
    lines = ["2\t1", "Anna_B\t1\t2", "Anna_B\t1\tCarl_D\t1", "Carl_D\t1\t1", "Eve_F\t1\tAnna_B\t2"]
    text(tmp_path / "pairs.txt", "\n".join(lines) + "\n")
    assert pairs(tmp_path) == [
        (1, "Anna_B/Anna_B_0001.jpg", "Anna_B/Anna_B_0002.jpg", True),
        (1, "Anna_B/Anna_B_0001.jpg", "Carl_D/Carl_D_0001.jpg", False),
        (2, "Carl_D/Carl_D_0001.jpg", "Carl_D/Carl_D_0001.jpg", True),
        (2, "Eve_F/Eve_F_0001.jpg", "Anna_B/Anna_B_0002.jpg", False),
    ]
    text(tmp_path / "pairs.txt", "\n".join(lines[:-1]))
    with pytest.raises(TableError, match="holds 3 pairs, not 4"):
        pairs(tmp_path)
    text(tmp_path / "pairs.txt", "hello\nworld")
    with pytest.raises(TableError, match="not LFW's list"):
        pairs(tmp_path)
    with pytest.raises(TableError, match="cannot be read"):
        pairs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "splits", [("train", "validation", "test"), ("Training", "PublicTest", "PrivateTest")]
)
def test_fer2013_folders(tmp_path, splits):
    for split in splits:
        picture(tmp_path / split / "happy" / f"{split}_1.jpg", (48, 48))
    picture(tmp_path / "other" / "happy" / "x.jpg")
    found = {(r.labels.split, r.labels.expression) for r in read("fer2013", tmp_path)}
    assert found == {("train", "happy"), ("val", "happy"), ("test", "happy")}


def test_fer2013_csv(tmp_path):
    rng = np.random.default_rng(0)
    greys = rng.integers(0, 256, (3, 48 * 48))
    rows = [
        f"{emotion},{' '.join(map(str, grey))},{usage}"
        for emotion, grey, usage in zip(
            (0, 6, 4), greys, ("Training", "PublicTest", "PrivateTest"), strict=True
        )
    ]
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage\n" + "\n".join([*rows, "3,1 2,Training"]))
    source = reader("fer2013", tmp_path)
    records = list(source.records())
    assert [(r.labels.expression, r.labels.split) for r in records[:3]] == [
        ("angry", "train"),
        ("neutral", "val"),
        ("sad", "test"),
    ]
    for i in (2, 0, 1):
        image, size = source.photo(records[i])
        assert size == (48, 48)
        assert np.array_equal(image[:, :, 1].ravel(), greys[i])
    with pytest.raises(ImageError, match="48 x 48"):
        source.photo(records[3])


def test_london(tmp_path):
    for name in ("001_neutral", "001_smiling", "002_03", "002_08", "cover"):
        picture(tmp_path / f"{name}.jpg")
    text(tmp_path / "persons.csv", "id,age,gender,ethnicity\n001,24,female,\n")
    records = read("london", tmp_path)
    assert [(r.labels.person, r.labels.expression) for r in records] == [
        ("001", "neutral"),
        ("001", "smiling"),
        ("002", "neutral"),
        ("002", "smiling"),
    ]
    assert records[0].labels.attributes == {"age": "24", "gender": "female"}
    assert {r.labels.split for r in records} == {"test"}


def test_omi(tmp_path):
    for i in (2, 10, 1):
        picture(tmp_path / f"{i}.jpg")
    text(tmp_path / "attribute_means.csv", "stimulus,smart,age\n2,55.5,31\n")
    records = read("omi", tmp_path)
    assert [(r.source, r.labels.split) for r in records] == [
        ("1.jpg", "train"),
        ("2.jpg", "train"),
        ("10.jpg", "test"),
    ]
    assert records[1].labels.attributes == {"smart": "55.5", "age": "31"}


def _ict(root, **columns):
    expression = np.zeros(53, np.float32)
    expression[45] = 0.6  # mouthSmile_L
    row = {
        "image": "images/400/a.jpg",
        "identity": 400,
        "split": "train",
        "expression": "happiness",
        "expression_intensity": 0.7,
        "yaw": 10.0,
        "pitch": -5.0,
        "roll": 1.0,
        "expression_coefficients": expression.tolist(),
        "landmarks68": np.arange(136.0).tolist(),
        "makeup": False,
        "lipstick": True,
        "hair_style": "buzz",
        **columns,
    }
    pq.write_table(pa.Table.from_pylist([row]), root / "labels.parquet")
    return row


def test_ict_faces(tmp_path):
    _ict(tmp_path, frame=3)
    (record,) = read("ict_faces", tmp_path)
    labels = record.labels
    assert (labels.person, labels.frame, labels.split, labels.clip) == ("400", 3, "train", "")
    assert (labels.yaw, labels.pitch, labels.roll) == (10, -5, 1)
    assert labels.action_units == {"AU12": pytest.approx(0.6)}
    assert labels.makeup is True
    assert labels.attributes == {"expression_intensity": "0.7", "hair_style": "buzz"}
    assert record.crop
    assert record.landmarks[1].tolist() == [2, 3]
    assert record.file == tmp_path / "images/400/a.jpg"


def test_ict_clips(tmp_path):
    _ict(tmp_path, frame=3, clip=1, time=0.3)
    (record,) = read("ict_clips", tmp_path)
    assert (record.labels.person, record.labels.clip, record.labels.frame) == ("400", "1", 3)


def test_ict_pairs_share_clip_and_crop(tmp_path):
    neutral = np.arange(136.0) + 1000
    _ict(
        tmp_path,
        image="images/400/fear_2_expression.jpg",
        neutral_image="images/400/fear_2_neutral.jpg",
        neutral_landmarks68=neutral.tolist(),
    )
    a, b = read("ict_pairs", tmp_path)
    assert a.labels.clip == b.labels.clip == "400/fear_2"
    assert (a.labels.expression, b.labels.expression) == ("happiness", "neutral")
    assert a.labels.action_units
    assert not b.labels.action_units
    assert np.array_equal(a.align, b.landmarks)
    assert np.array_equal(b.align, b.landmarks)
    assert a.landmarks[0, 0] == 0
    assert b.source == "images/400/fear_2_neutral.jpg"


def test_ict_makeup(tmp_path):
    _ict(tmp_path, frame=2, image="images/400/02_makeup.jpg", bare_image="images/400/02_bare.jpg")
    a, b = read("ict_makeup", tmp_path)
    assert (a.labels.makeup, b.labels.makeup) == (True, False)
    assert a.labels.clip == b.labels.clip == "400/2"
    assert np.array_equal(a.landmarks, b.landmarks)


def test_a_mode_of_the_renderer_is_not_taken_for_another(tmp_path):
    _ict(tmp_path, frame=3)
    with pytest.raises(TableError, match="no column 'neutral_image'"):
        list(reader("ict_pairs", tmp_path).records())


def test_makeup_as_published(tmp_path):
    for kind in ("makeup", "non-makeup"):
        for i in (1, 2):
            picture(tmp_path / "images" / kind / f"{i}.png")
        picture(tmp_path / "segs" / kind / "1.png")
        text(tmp_path / f"{kind}_test.txt", f"{kind}/2.png\n")
    records = read("makeup", tmp_path)
    assert [(r.labels.makeup, r.labels.split) for r in records] == [
        (True, "train"),
        (True, "test"),
        (False, "train"),
        (False, "test"),
    ]
    assert records[0].labels.attributes == {"mask": "segs/makeup/1.png"}
    assert records[1].labels.attributes == {}


def test_makeup_as_loose_photos_keeps_the_terms_of_each(tmp_path):
    picture(tmp_path / "makeup" / "a.jpg")
    picture(tmp_path / "seg" / "a.png")
    text(
        tmp_path / "FILES.csv", "file,class,seg,source,terms\nmakeup/a.jpg,makeup,seg/a.png,,demo\n"
    )
    (record,) = read("makeup", tmp_path)
    labels = record.labels
    assert (labels.licence, labels.split, labels.attributes["mask"]) == (
        "demo",
        "test",
        "seg/a.png",
    )


def _celeba(root):
    for i in (1, 2):
        picture(root / "Img" / "img_align_celeba" / f"{i:06d}.jpg", (178, 218))
    anno = root / "Anno"
    text(
        anno / "list_attr_celeba.txt",
        "2\nHeavy_Makeup Smiling\n000001.jpg  1 -1\n000002.jpg -1  1\n",
    )
    five = "69 109 106 113 77 142 73 152 108 154"
    text(
        anno / "list_landmarks_align_celeba.txt",
        f"2\nlefteye_x …\n000001.jpg {five}\n000002.jpg {five}\n",
    )
    text(anno / "identity_CelebA.txt", "000001.jpg 2880\n000002.jpg 2937\n")
    text(root / "Eval" / "list_eval_partition.txt", "000001.jpg 0\n000002.jpg 2\n")


def test_celeba(tmp_path):
    _celeba(tmp_path)
    a, b = read("celeba", tmp_path)
    assert (a.labels.person, a.labels.split, a.labels.makeup) == ("2880", "train", True)
    assert (b.labels.person, b.labels.split, b.labels.makeup) == ("2937", "test", False)
    assert b.labels.attributes == {"Heavy_Makeup": "-1", "Smiling": "1"}
    left, top, right, bottom = a.labels.box
    assert 20 < left < 60 < 120 < right < 160
    assert 70 < top < 105 < 160 < bottom < 200


def test_celeba_lists_that_do_not_fit_are_told(tmp_path):
    _celeba(tmp_path)
    text(tmp_path / "Anno" / "identity_CelebA.txt", "000002.jpg 2937\n000001.jpg 2880\n")
    with pytest.raises(TableError, match=r"differ at 000001\.jpg"):
        list(reader("celeba", tmp_path).records())


def test_rafdb(tmp_path):
    text(tmp_path / "basic/EmoLabel/list_patition_label.txt", "train_1.jpg 5\ntest_1.jpg 7\n")
    picture(tmp_path / "basic/Image/aligned/train_1_aligned.jpg", (100, 100))
    picture(tmp_path / "basic/Image/original/test_1.jpg", (300, 300))
    a, b = read("rafdb", tmp_path)
    assert (a.labels.expression, a.labels.split, a.crop) == ("sadness", "train", True)
    assert (b.labels.expression, b.labels.split, b.crop) == ("neutral", "test", False)


@pytest.mark.parametrize(
    ("path", "person", "clip", "split", "frame"),
    [
        ("A.J._Buckley/1.6/1zcIwhmdeo4/0000375.jpg", "A.J._Buckley", "1.6/1zcIwhmdeo4", "", 375),
        ("id10001/1.6/1zcI/00002/0000001.jpg", "id10001", "1.6/1zcI/00002", "", 1),
        ("dev/mp4/id00012/21Ux/00001/0042.jpg", "id00012", "21Ux/00001", "train", 42),
        ("unzippedFaces/Eve/1.6/x/0000001.jpg", "Eve", "1.6/x", "", 1),
    ],
)
def test_voxceleb_frames(tmp_path, path, person, clip, split, frame):
    picture(tmp_path / path)
    (record,) = read("voxceleb", tmp_path)
    labels = record.labels
    assert (labels.person, labels.clip, labels.split, labels.frame) == (person, clip, split, frame)


def test_voxceleb_clips(tmp_path):
    _video(tmp_path / "test/mp4/id00017/5MkX/00001.mp4", 6)
    source = reader("voxceleb", tmp_path)
    (stretch,) = source.records()
    assert (stretch.labels.person, stretch.labels.clip) == ("id00017", "5MkX/00001")
    assert stretch.labels.split == "test"
    assert [r.labels.frame for r, _ in source.frames(stretch)] == [0, 5]


def test_300w_lp(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    picture(tmp_path / "AFW" / "AFW_134212_1_3.jpg", (450, 450))
    points = np.stack([np.arange(68), 2 * np.arange(68)]) + 1.0  # from 1, as MATLAB counts
    pose = np.array([[0.1, -0.5, 0.2, 0, 0, 0, 1]])  # pitch, yaw, roll
    savemat(tmp_path / "AFW" / "AFW_134212_1_3.mat", {"Pose_Para": pose, "pt2d": points})
    picture(tmp_path / "AFW_Flip" / "AFW_134212_1_3.jpg")
    (record,) = read("300w_lp", tmp_path)
    labels = record.labels
    assert labels.pitch == pytest.approx(math.degrees(0.1))
    assert labels.yaw == pytest.approx(math.degrees(0.5))  # theirs to the left is our minus
    assert labels.roll == pytest.approx(math.degrees(0.2))
    assert labels.clip == "AFW/AFW_134212_1"
    assert record.landmarks[5].tolist() == [5, 10]


def test_aflw2000(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    picture(tmp_path / "image00002.jpg", (450, 450))
    pose = np.array([[0.0, 0.5, 0.0, 0, 0, 0, 1]])
    shape = np.tile(np.arange(68.0) + 1, (3, 1))
    savemat(tmp_path / "image00002.mat", {"Pose_Para": pose, "pt3d_68": shape})
    (record,) = read("aflw2000", tmp_path)
    assert record.labels.yaw == pytest.approx(-math.degrees(0.5))
    assert record.landmarks[67].tolist() == [67, 67]
    (tmp_path / "image00002.mat").write_bytes(b"no matrix")
    with pytest.raises(TableError, match=r"image00002\.mat is no MATLAB file"):
        list(reader("aflw2000", tmp_path).records())


def test_mat_files_without_scipy_name_the_extra(tmp_path, monkeypatch):
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.mat").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"mien\[evaluate\]"):
        list(reader("aflw2000", tmp_path).records())


def test_pose_npz(tmp_path):
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, :, :, 0] = 200  # blue
    np.savez(tmp_path / "AFLW2000.npz", image=images, pose=np.array([[1.0, 2, 3], [30, -20, 10]]))
    source = reader("pose_npz", tmp_path)
    _, record = source.records()
    labels = record.labels
    assert (labels.yaw, labels.pitch, labels.roll) == (-30, -20, 10)
    image, size = source.photo(record)
    assert size == (64, 64)
    assert image[0, 0].tolist() == [0, 0, 200]
    np.savez(tmp_path / "AFLW2000.npz", other=1)
    with pytest.raises(TableError, match="no array 'pose'"):
        list(reader("pose_npz", tmp_path).records())


def _about(axis, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


@pytest.mark.parametrize(
    ("axis", "degrees", "expected"),
    # The Kinect's axes: x right, y down, z away from the camera.
    [("y", 30, (-30, 0, 0)), ("x", 20, (0, -20, 0)), ("z", 10, (0, 0, 10))],
)
def test_biwi(tmp_path, axis, degrees, expected):
    folder = tmp_path / "hpdb" / "21"
    picture(folder / "frame_00003_rgb.png", (640, 480))
    lines = [" ".join(f"{v:.6f}" for v in row) for row in _about(axis, degrees)]
    text(folder / "frame_00003_pose.txt", "\n".join(lines) + "\n\n1.0 2.0 900.0\n")
    (record,) = read("biwi", tmp_path)
    labels = record.labels
    assert (labels.yaw, labels.pitch, labels.roll) == pytest.approx(expected, abs=1e-3)
    assert (labels.person, labels.clip, labels.frame) == ("03", "21", 3)


def test_disfa(tmp_path):
    _video(tmp_path / "Video_LeftCamera" / "x.mp4", 8)
    path = tmp_path / "Video_LeftCamera" / "LeftVideoSN001_comp.avi"
    (tmp_path / "Video_LeftCamera" / "x.mp4").rename(path)
    lines = "\n".join(f"{i + 1},{i % 6}" for i in range(8))
    text(tmp_path / "ActionUnit_Labels" / "SN001" / "SN001_au12.txt", lines)
    source = reader("disfa", tmp_path)
    (stretch,) = source.records()
    assert (stretch.labels.person, stretch.labels.clip) == ("SN001", "LeftVideoSN001_comp")
    units = [r.labels.action_units for r, _ in source.frames(stretch)]
    assert units == [{"AU12": 0.0}, {"AU12": 5.0}]  # frames 0 and 5, counted from 1 in the file
    text(tmp_path / "ActionUnit_Labels" / "SN001" / "SN001_au1.txt", "one,two")
    with pytest.raises(TableError, match=r"SN001_au1\.txt does not hold"):
        list(source.frames(stretch))


def test_bp4d(tmp_path):
    for frame in (100, 101, 102):
        picture(tmp_path / "Sequences" / "F001" / "T1" / f"{frame}.jpg")
    coding = tmp_path / "AUCoding"
    text(coding / "AU_OCC" / "F001_T1.csv", "0,1,6,12\n100,0,1,9\n101,1,1,0\n999,1,1,1\n")
    text(coding / "AU-INT" / "AU06" / "F001_T1_AU06.csv", "100,3\n101,9\n")
    a, b = read("bp4d", tmp_path)
    assert (a.labels.person, a.labels.clip, a.labels.frame) == ("F001", "T1", 100)
    assert a.labels.action_units == {"AU1": 0.0, "AU6": 3.0}
    assert b.labels.action_units == {"AU1": 1.0, "AU6": 1.0, "AU12": 0.0}


def test_ck_plus(tmp_path):
    for i in (1, 2, 3):
        picture(tmp_path / "cohn-kanade-images/S005/001" / f"S005_001_{i:08d}.png", (640, 490))
    stem = "S005_001_00000003"
    text(tmp_path / "Emotion/S005/001" / f"{stem}_emotion.txt", "   3.0000000e+00\n")
    facs = "   9.0000000e+00   4.0000000e+00\n   1.7000000e+01   0.0\n"
    text(tmp_path / "FACS/S005/001" / f"{stem}_facs.txt", facs)
    points = "\n".join(f"  {i}.0e+00  {i + 1}.0e+00" for i in range(68))
    text(tmp_path / "Landmarks/S005/001" / f"{stem}_landmarks.txt", points)
    records = read("ck_plus", tmp_path)
    assert [r.labels.expression for r in records] == ["neutral", "", "disgust"]
    assert [r.labels.frame for r in records] == [1, 2, 3]
    assert {(r.labels.person, r.labels.clip) for r in records} == {("S005", "001")}
    assert records[2].labels.action_units == {"AU9": 4.0, "AU17": 1.0}
    assert records[2].landmarks[67].tolist() == [67, 68]
    assert records[0].landmarks is None


def test_procedural_draws_what_it_lists():
    source = reader("procedural", "2")
    records = list(source.records())
    assert len({r.labels.person for r in records}) == 2
    image, size = source.photo(records[5])
    assert image.shape == (size[1], size[0], 3)
    assert np.isfinite(records[5].landmarks).all()
    for wrong in ("0", "many", "-1"):
        with pytest.raises(ConfigError, match="number of persons"):
            reader("procedural", wrong)
