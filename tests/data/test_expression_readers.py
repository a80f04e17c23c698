"""Readers of expression sets on miniature trees in the sets' official layouts."""

import numpy as np
import pytest
from PIL import Image as Pillow

from mien.data.cache import FaceCache
from mien.data.prepare import prepare
from mien.data.readers import reader, reader_names
from mien.faces.image import write_image
from mien.faces.video import write_video
from mien.files.errors import ImageError, TableError
from tests.data.trees import picture, text

SETS = ("bp4dplus", "bu3dfe", "ckplus_peaks", "jaffe", "kdef", "mmi", "oulu_casia")
SIX = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")


def read(name, root):
    records = list(reader(name, root).records())
    sources = [r.source for r in records]
    assert len(set(sources)) == len(sources)
    assert all((root / r.source) == r.file and r.file.is_file() for r in records)
    assert {r.labels.dataset for r in records} == {name}
    assert {r.labels.licence for r in records} == {reader(name, root).licence}
    assert not any(r.labels.split for r in records)
    return records


def expressions(records):
    return [r.labels.expression for r in records]


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_registered_and_says_what_it_expects(tmp_path, name):
    assert name in reader_names()
    text(tmp_path / "note.txt", "nothing of use")
    picture(tmp_path / "sub" / "other.jpg")
    assert reader(name, tmp_path).licence
    with pytest.raises(TableError, match=f"{name} expects: "):
        list(reader(name, tmp_path).records())
    with pytest.raises(TableError, match="does not exist"):
        reader(name, tmp_path / "nowhere")


def _ck(root, clip="001", frames=6, label="   5.0000000e+00\n", emotion="Emotion"):
    for i in range(1, frames + 1):
        name = f"S005_{clip}_{i:08d}.png"
        picture(root / "cohn-kanade-images" / "S005" / clip / name, (640, 490))
    stem = f"S005_{clip}_{frames:08d}"
    if label is not None:
        text(root / emotion / "S005" / clip / f"{stem}_emotion.txt", label)
    return stem


def test_ckplus(tmp_path):
    stem = _ck(tmp_path)
    _ck(tmp_path, "002", label=None)  # 266 of 593 sequences have no label
    points = "\n".join(f"  {i}.5e+00  {i + 1}.0e+00" for i in range(68))
    text(tmp_path / "Landmarks" / "S005" / "001" / f"{stem}_landmarks.txt", points)
    facs = "   6.0000000e+00   3.0000000e+00\n   1.2000000e+01   0.0\n"
    text(tmp_path / "FACS" / "S005" / "001" / f"{stem}_facs.txt", facs)
    records = read("ckplus_peaks", tmp_path)
    assert expressions(records) == ["neutral", "happiness", "happiness", "happiness"]
    assert [r.labels.frame for r in records] == [1, 4, 5, 6]
    assert {(r.labels.person, r.labels.clip) for r in records} == {("S005", "001")}
    assert [r.labels.action_units for r in records] == [{}, {}, {}, {"AU6": 3.0, "AU12": 1.0}]
    assert records[3].landmarks[67].tolist() == [67.5, 68]
    assert records[0].landmarks is None
    assert not any(r.crop for r in records)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "anger"),
        (2, "contempt"),
        (3, "disgust"),
        (4, "fear"),
        (5, "happiness"),
        (6, "sadness"),
        (7, "surprise"),
    ],
)
def test_ckplus_names_its_numbers(tmp_path, number, name):
    _ck(tmp_path, frames=2, label=f"{number}.0", emotion="Emotion_labels/Emotion")
    assert expressions(read("ckplus_peaks", tmp_path)) == ["neutral", name]


@pytest.mark.parametrize("label", ["happy", "", "0.0", "8.0", "-1", "nan", "inf"])
def test_ckplus_tells_a_wrong_label(tmp_path, label):
    stem = _ck(tmp_path, label=label)
    with pytest.raises(TableError, match=rf"{stem}_emotion\.txt does not hold a number from 1"):
        list(reader("ckplus_peaks", tmp_path).records())


def test_ckplus_without_labels_is_told(tmp_path):
    _ck(tmp_path, label=None)
    with pytest.raises(TableError, match="holds no sequence with an emotion label"):
        list(reader("ckplus_peaks", tmp_path).records())


def test_ckplus_pairs_expression_and_neutral_in_a_table(tmp_path):
    rng = np.random.default_rng(0)
    _ck(tmp_path / "ck")
    _ck(tmp_path / "ck", "002", label="7.0")
    for path in (tmp_path / "ck").rglob("*.png"):
        write_image(path, rng.integers(0, 256, (64, 64, 3), np.uint8))
    points = "\n".join(f"{20 + 3 * (i % 9)} {20 + 3 * (i // 9)}" for i in range(68))
    for path in list((tmp_path / "ck").rglob("*.png")):
        clip = path.parent.name
        text(tmp_path / "ck" / "Landmarks" / "S005" / clip / f"{path.stem}_landmarks.txt", points)
    info = prepare(
        f"ckplus_peaks:{tmp_path / 'ck'}", tmp_path / "table", size=32, min_size=8, progress=False
    )
    assert info["faces"] == 8
    cache = FaceCache(tmp_path / "table", 32)
    assert len(set(cache.person.tolist())) == 1
    for clip in set(cache.clip.tolist()):
        shown = cache.expression[cache.clip == clip].tolist()
        assert shown.count("neutral") == 1
        assert len(shown) == 4
        assert len(set(shown)) == 2


def _oulu(base, frames=7, persons=("P001", "P080"), names=SIX):
    for person in persons:
        for name in names:
            for i in range(frames):
                picture(base / person / name / f"{i:03d}.jpeg", (32, 24))


def test_oulu_casia(tmp_path):
    _oulu(tmp_path / "OriginalImg" / "VL" / "Strong")
    _oulu(tmp_path / "OriginalImg" / "VL" / "Dark")
    _oulu(tmp_path / "OriginalImg" / "NI" / "Strong")
    _oulu(tmp_path / "PreProcess_Img" / "VL_Acropped" / "Strong")
    picture(tmp_path / "OriginalImg" / "VL" / "Strong" / "P001" / "Anger" / "thumb.jpeg")
    records = read("oulu_casia", tmp_path)
    assert len(records) == 2 * 6 * 4
    first = records[:4]
    assert expressions(first) == ["neutral", "anger", "anger", "anger"]
    assert [r.labels.frame for r in first] == [0, 4, 5, 6]
    assert first[1].source == "OriginalImg/VL/Strong/P001/Anger/004.jpeg"
    assert {(r.labels.person, r.labels.clip) for r in first} == {("P001", "VL/Strong/Anger")}
    assert first[0].labels.attributes == {"camera": "VL", "lighting": "Strong"}
    assert set(expressions(records)) == {"neutral", *(name.lower() for name in SIX)}
    assert {r.labels.person for r in records} == {"P001", "P080"}
    assert len({(r.labels.person, r.labels.clip) for r in records}) == 12
    assert not any(r.crop for r in records)


def test_oulu_casia_of_another_folder(tmp_path, monkeypatch):
    dark = tmp_path / "OriginalImg" / "NI" / "Dark"
    _oulu(dark, 2, ("P003",), ("Fear", "Boredom"))
    (frame, peak) = read("oulu_casia", dark)
    assert expressions([frame, peak]) == ["neutral", "fear"]
    assert frame.source == "P003/Fear/000.jpeg"
    assert frame.labels.attributes == {"camera": "NI", "lighting": "Dark"}
    monkeypatch.chdir(dark)
    assert [r.labels.clip for r in reader("oulu_casia", ".").records()] == ["NI/Dark/Fear"] * 2
    with pytest.raises(TableError, match="has no folder VL/Strong"):
        list(reader("oulu_casia", tmp_path).records())


def test_oulu_casia_cropped_pictures_are_crops(tmp_path):
    _oulu(tmp_path / "a" / "b" / "PreProcess_Img" / "VL_Acropped" / "Strong", 3, ("P001",))
    records = read("oulu_casia", tmp_path)
    assert all(r.crop for r in records)
    assert records[0].labels.attributes == {"camera": "VL", "lighting": "Strong"}


def _mmi(root, session, name, emotion, view="0", frames=21, suffix=".avi", tag="Metatag"):
    pytest.importorskip("av")
    folder = root / "Sessions" / str(session)
    folder.mkdir(parents=True)
    made = folder / "made.mp4"
    write_video(made, (np.full((32, 32, 3), 10 * i, np.uint8) for i in range(frames)), 25)
    made.rename(folder / f"{name}{suffix}")
    track = f'<session sessionId="{session}"><track type="Video" view="{view}"/></session>'
    text(folder / "session.xml", f'<?xml version="1.0"?>\n{track}')
    said = f'<{tag} Name="Emotion" Value="{emotion}" />' if emotion is not None else ""
    text(folder / f"{name}.xml", f'<x><{tag} Name="Mood" Value="9"/>\n{said}</x>')
    text(folder / f"{name}-oao_aucs.xml", '<x><ActionUnit Number="12"/></x>')
    return folder / f"{name}{suffix}"


def test_mmi(tmp_path):
    _mmi(tmp_path, 1767, "S031-001", 4, view="2")
    _mmi(tmp_path, 9, "S002-005", 6, tag="Metadata")
    _mmi(tmp_path, 10, "S002-006", 8)  # bored
    _mmi(tmp_path, 11, "S002-007", 1, view="1")  # from the side
    _mmi(tmp_path, 12, "S002-008", None)
    one, two = read("mmi", tmp_path)
    assert (one.labels.person, one.labels.clip) == ("S002", "S002-005")
    assert (two.labels.person, two.labels.clip) == ("S031", "S031-001")
    assert one.labels.attributes == {"session": "9", "view": "frontal"}
    assert two.labels.attributes == {"session": "1767", "view": "both"}
    assert expressions([one, two]) == ["surprise", "happiness"]
    source = reader("mmi", tmp_path)
    frames = list(source.frames(two))
    own = [record for record, _ in frames]
    assert expressions(own) == ["neutral", "happiness", "happiness", "happiness"]
    assert [r.labels.frame for r in own] == [r.index for r in own] == [0, 9, 10, 11]
    assert own[1].source == "Sessions/1767/S031-001.avi#9"
    assert {(r.labels.person, r.labels.clip) for r in own} == {("S031", "S031-001")}
    assert not any(r.frames for r in own)
    assert [abs(int(image.mean()) - 10 * r.index) < 6 for r, image in frames] == [True] * 4
    assert two.frames == len(frames)


def test_mmi_reads_the_sessions_folder_itself_and_a_label_in_the_session(tmp_path):
    video = _mmi(tmp_path, 1, "S001-100", None)
    tags = '<x><track view="0"/><Metatag Value="2" Name="Emotion"/></x>'
    text(video.with_name("session.xml"), tags)
    (record,) = read("mmi", tmp_path / "Sessions")
    assert record.source == "1/S001-100.avi"
    assert record.labels.expression == "disgust"


def test_mmi_tells_what_it_cannot_read(tmp_path):
    video = _mmi(tmp_path, 1, "S001-100", 1, frames=3)
    source = reader("mmi", tmp_path)
    (record,) = source.records()
    with pytest.raises(ImageError, match="has 3 frames by its header"):
        list(source.frames(record))
    video.rename(video.with_suffix(".mpeg"))
    video.with_suffix(".mpeg").write_bytes(b"\x00\x00\x01\xba" + bytes(64))
    (record,) = source.records()
    with pytest.raises(ImageError, match="convert it first"):
        list(source.frames(record))
    text(video.with_suffix(".xml"), '<x><Metatag Name="Emotion" Value="joy"/></x>')
    with pytest.raises(TableError, match=r"S001-100\.xml gives the emotion 'joy'"):
        list(source.records())


def test_mmi_of_four_frames_takes_them_all(tmp_path):
    _mmi(tmp_path, 1, "S001-100", 3, frames=4)
    source = reader("mmi", tmp_path)
    (record,) = source.records()
    assert [r.index for r, _ in source.frames(record)] == [0, 1, 2, 3]


def test_bu3dfe(tmp_path):
    for name in ("NE00WH", "AN01WH", "DI02WH", "FE03WH", "HA04WH", "SA01WH", "SU01WH"):
        picture(tmp_path / "F0001" / f"F0001_{name}_F2D.bmp", (48, 40))
        picture(tmp_path / "F0001" / f"F0001_{name}_F3D.bmp")
    picture(tmp_path / "M0044" / "M0044_HA03AE_F2D.bmp")
    picture(tmp_path / "M0044" / "M0044_HA05AE_F2D.bmp")  # no such level
    records = read("bu3dfe", tmp_path)
    assert {r.labels.expression: r.labels.attributes["intensity"] for r in records[:7]} == {
        "anger": "1",
        "disgust": "2",
        "fear": "3",
        "happiness": "4",
        "neutral": "0",
        "sadness": "1",
        "surprise": "1",
    }
    assert {(r.labels.person, r.labels.clip) for r in records[:7]} == {("F0001", "F2D")}
    (last,) = records[7:]
    assert (last.labels.person, last.labels.expression) == ("M0044", "happiness")
    said = {"intensity": "3", "ethnicity": "AE", "gender": "male"}
    assert last.labels.attributes == said


def test_a_bitmap_is_read_whole_or_told(tmp_path):
    file = tmp_path / "F0001" / "F0001_AN01WH_F2D.bmp"
    picture(file, (48, 40))
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[:20, :, 0] = 200
    Pillow.fromarray(pixels).save(file)
    source = reader("bu3dfe", tmp_path)
    (record,) = source.records()
    image, size = source.photo(record)
    assert np.array_equal(image, pixels)
    assert size == (48, 40)
    small, size = source.photo(record, max_side=24)
    assert small.shape == (20, 24, 3)
    assert size == (48, 40)
    assert small[2, 2].tolist() == [200, 0, 0]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="is damaged or cut off"):
        source.photo(record)
    file.write_bytes(data[:18] + (50_000).to_bytes(4, "little") + data[22:])  # its width
    with pytest.raises(ImageError, match="declares 50000 x 40 pixels"):
        source.photo(record)
    Pillow.new("RGB", (20, 20)).save(file, format="GIF")
    with pytest.raises(ImageError, match="is damaged"):
        source.photo(record)


def test_jaffe(tmp_path):
    codes = ("AN1", "DI1", "FE1", "HA2", "NE1", "SA1", "SU3")
    for number, code in enumerate(codes, 39):
        file = tmp_path / "jaffe" / f"KA.{code}.{number}.tiff"
        picture(file)
        Pillow.new("L", (256, 256), 7).save(file)
    picture(tmp_path / "jaffe" / "YM.NE3.51.tiff")
    text(tmp_path / "jaffe" / "README", "about the set")
    records = read("jaffe", tmp_path)
    names = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    assert expressions(records) == [*names, "neutral"]
    assert [r.labels.person for r in records] == ["KA"] * 7 + ["YM"]
    assert len({r.labels.clip for r in records[:7]}) == 1
    assert records[3].labels.attributes == {"number": "42", "gender": "female"}
    image, size = reader("jaffe", tmp_path).photo(records[0])
    assert image.shape == (256, 256, 3)
    assert size == (256, 256)
    assert set(image.ravel().tolist()) == {7}


def test_kdef(tmp_path):
    for code in ("AF", "AN", "DI", "HA", "NE", "SA", "SU"):
        picture(tmp_path / "AF01" / f"AF01{code}S.JPG", (56, 76))
    for angle in ("FL", "HL", "HR", "FR"):
        picture(tmp_path / "BM35" / f"BM35SA{angle}.JPG", (56, 76))
    picture(tmp_path / "BM35" / "BM35NEHL.JPG")
    picture(tmp_path / "BM35" / "BM35XXS.JPG")
    records = read("kdef", tmp_path)
    names = ["fear", "anger", "disgust", "happiness", "neutral", "sadness", "surprise"]
    assert expressions(records[:7]) == names
    assert {(r.labels.person, r.labels.clip) for r in records[:7]} == {("F01", "A/S")}
    assert {r.labels.yaw for r in records[:7]} == {0.0}
    by = {r.file.stem[4:]: r.labels for r in records[7:]}
    # yaw > 0: the nose points to the image's right.
    yaws = {"SAFL": -90.0, "SAHL": -45.0, "NEHL": -45.0, "SAHR": 45.0, "SAFR": 90.0}
    assert {name: labels.yaw for name, labels in by.items()} == yaws
    assert {labels.person for labels in by.values()} == {"M35"}
    assert by["SAHL"].clip == by["NEHL"].clip == "B/HL"
    assert len({labels.clip for labels in by.values()}) == 4
    assert by["SAFR"].attributes == {"session": "B", "angle": "FR", "gender": "male"}
    image, size = reader("kdef", tmp_path).photo(records[0])
    assert image.shape == (76, 56, 3)
    assert size == (56, 76)


def test_bp4dplus(tmp_path):
    for task in ("T1", "T2", "T8"):
        for frame in ("0100", "0101"):
            picture(tmp_path / "2D+3D" / "F001" / task / f"{frame}.jpg")
    coding = tmp_path / "AUCoding"
    text(coding / "AU_OCC" / "F001_T1.csv", "0,1,6,12\n100,0,1,9\n101,1,1,0\n999,1,1,1\n")
    text(coding / "AU_OCC" / "F001_T8.csv", "0,4,7\n101,1,0\n")
    text(coding / "AU_INT" / "AU06" / "F001_T1_AU06.csv", "100,3\n101,9\n")
    a, b, c = read("bp4dplus", tmp_path)
    assert expressions([a, b, c]) == ["happiness", "happiness", "pain"]
    assert {r.labels.person for r in (a, b, c)} == {"F001"}
    assert [r.labels.clip for r in (a, b, c)] == ["T1", "T1", "T8"]
    assert [r.labels.frame for r in (a, b, c)] == [100, 101, 101]
    assert a.labels.action_units == {"AU1": 0.0, "AU6": 3.0}
    assert b.labels.action_units == {"AU1": 1.0, "AU6": 1.0, "AU12": 0.0}
    assert c.labels.action_units == {"AU4": 1.0, "AU7": 0.0}
    assert c.labels.attributes == {"task": "T8"}
    text(coding / "AU_INT" / "AU06" / "F001_T1_AU06.csv", "one,two")
    with pytest.raises(TableError, match=r"F001_T1_AU06\.csv does not hold"):
        list(reader("bp4dplus", tmp_path).records())
