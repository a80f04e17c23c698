"""Edits of whole photos: what changes, what must not, and every way of asking wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.edit.photos import Editor, edit, edit_each
from mien.edit.tasks import TASKS, task_names
from mien.faces.image import read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.errors import ConfigError, FaceError, ImageError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_method_can_do_what_it_has_functions_for(toy_method) -> None:
    assert task_names(toy_method) == ["neutralise", "identity", "mean-face"]
    assert len({t.function for t in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize("task", ["neutralise", "identity", "mean-face"])
def test_strength_zero_gives_the_photo_back(toy_method, toy_finder, photo, task) -> None:
    driver = photo[::-1].copy() if TASKS[task].driver else None
    (found,) = edit(task, photo, driver, strength=0, weights=toy_method, finder=toy_finder(1))
    assert np.array_equal(found.image, photo)
    assert found.image is not photo


@pytest.mark.parametrize("task", ["neutralise", "mean-face"])
def test_edits_grow_with_strength_and_stay_near_the_face(
    toy_method, toy_finder, photo, task
) -> None:
    change = []
    for strength in (0.3, 0.6, 1.0):
        before = photo.copy()
        (found,) = edit(task, photo, strength=strength, weights=toy_method, finder=toy_finder(1))
        assert np.array_equal(photo, before)  # the input is left alone
        assert found.image.shape == photo.shape
        assert np.array_equal(found.image[:, :20], photo[:, :20])
        change.append(np.abs(found.image.astype(int) - photo).mean())
    assert 0 < change[0] < change[1] < change[2]


def test_edits_are_deterministic(toy_method, toy_finder, photo) -> None:
    editor = Editor(toy_method, finder=toy_finder(1))
    faces = editor.find(photo)
    first = editor.apply("neutralise", photo, faces)
    assert np.array_equal(first, editor.apply("neutralise", photo, faces))


def test_flow_moves_the_pixels_of_the_photo_itself(toy_method, toy_finder) -> None:
    """A one pixel line, far finer than the crop, is moved and stays sharp."""
    photo = np.full((600, 600, 3), 128, np.uint8)
    photo[:, 300] = 255
    editor = Editor(toy_method, finder=toy_finder(1))
    (face,) = editor.find(photo)
    image = editor.apply("neutralise", photo, [face])
    shift = 0.2 * (editor.size - 1) / 2 * np.hypot(*face.to_photo[:, 0])
    row = image[300, :, 0].astype(int)
    peak = int(np.argmax(row))
    assert abs(peak - (300 + shift)) <= 1.5
    assert row[peak] - np.median(row[peak - 12 : peak + 12]) > 50


def test_the_driver_decides(toy_method, toy_finder, photo) -> None:
    dark, light = np.zeros_like(photo), np.full_like(photo, 255)
    args = {"weights": toy_method, "finder": toy_finder(1)}
    (a,), (b,) = edit("identity", photo, dark, **args), edit("identity", photo, light, **args)
    assert a.image[80, 100].mean() < photo[70:90, 90:110].mean() < b.image[80, 100].mean()


def test_several_faces_need_a_choice(toy_method, toy_finder, photo) -> None:
    args = {"weights": toy_method, "finder": toy_finder(2)}
    with pytest.raises(FaceError, match="2 faces; choose one"):
        edit("neutralise", photo, **args)
    (one,) = edit("neutralise", photo, face=1, **args)
    (both,) = edit("neutralise", photo, face="all", **args)
    assert len(one.faces) == 1
    assert len(both.faces) == 2
    assert np.array_equal(one.image[:, :60], photo[:, :60])
    assert not np.array_equal(both.image[:, :60], photo[:, :60])
    with pytest.raises(FaceError, match="choose one"):
        edit("identity", photo, photo, face="all", **args)
    edit("identity", photo, photo, face="all", driver_face="largest", **args)


@pytest.mark.parametrize("which", ["only", "largest", "all", 0])
def test_no_face_is_an_error(toy_method, toy_finder, photo, which) -> None:
    with pytest.raises(FaceError, match="holds no face"):
        edit("neutralise", photo, weights=toy_method, finder=toy_finder(0), face=which)


@pytest.mark.parametrize(
    ("task", "driver", "strength", "message"),
    [
        ("neutralize", False, 1.0, "did you mean 'neutralise'"),
        ("frontalise", False, 1.0, "cannot do 'frontalise'; it can: neutralise"),
        ("identity", False, 1.0, "needs a driver"),
        ("neutralise", True, 1.0, "takes no driver"),
        ("neutralise", False, 1.5, "from 0"),
        ("neutralise", False, -0.1, "from 0"),
        ("neutralise", False, float("nan"), "from 0"),
    ],
)
def test_wrong_orders(toy_method, toy_finder, photo, task, driver, strength, message) -> None:
    with pytest.raises(ConfigError, match=message):
        edit(
            task,
            photo,
            photo if driver else None,
            strength=strength,
            weights=toy_method,
            finder=toy_finder(1),
        )


def test_files_are_written_with_their_record(tmp_path, toy_method, toy_finder, photo) -> None:
    folder = tmp_path / "photos"
    write_image(folder / "a.png", photo)
    write_image(folder / "b" / "a.png", photo)
    write_image(folder / "c.JPG", photo)
    (folder / "notes.txt").write_text("not a picture")
    found = edit(
        "neutralise",
        folder,
        out=tmp_path / "out",
        strength=0.5,
        weights=toy_method,
        finder=toy_finder(1),
    )
    names = [f.path.name for f in found]
    assert names == ["a-neutralise.png", "a-neutralise-2.png", "c-neutralise.jpg"]
    for each in found:
        provenance = read_provenance(each.path)
        assert provenance is not None
        assert provenance.state == "valid"
        assert (provenance.record.task, provenance.record.strength) == ("neutralise", 0.5)
        assert provenance.record.weights == "toy"
    assert np.array_equal(read_image(found[0].path), found[0].image)


def test_one_photo_to_one_file(tmp_path, toy_method, toy_finder, photo) -> None:
    args = {"weights": toy_method, "finder": toy_finder(1)}
    source = tmp_path / "a.png"
    write_image(source, photo)
    (found,) = edit("neutralise", source, out=tmp_path / "calm.webp", **args)
    assert found.path == tmp_path / "calm.webp"
    with pytest.raises(ConfigError, match="one of the photos"):
        edit("neutralise", source, out=source, **args)
    assert np.array_equal(read_image(source), photo)
    with pytest.raises(ConfigError, match="name a folder"):
        edit("neutralise", [source, photo], out=tmp_path / "calm.png", **args)


def test_a_bad_photo_does_not_cost_the_others(tmp_path, toy_method, toy_finder, photo) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / name, photo)
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(ImageError, match="1 of 3 photos were not edited"):
        edit(
            "neutralise",
            sorted(tmp_path.glob("*.png")),
            out=tmp_path / "out",
            weights=toy_method,
            finder=toy_finder(1),
        )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a-neutralise.png",
        "c-neutralise.png",
    ]


def test_a_folder_with_a_tenth_damaged_loses_nothing_else(
    tmp_path, toy_method, toy_finder, photo
) -> None:
    for number in range(20):
        write_image(tmp_path / "in" / f"{number:02d}.png", np.roll(photo, number, 1))
    for number, keep in ((3, 0), (12, 0.7)):
        file = tmp_path / "in" / f"{number:02d}.png"
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])
    args = {"weights": toy_method, "finder": toy_finder(1)}
    with pytest.raises(ImageError, match="2 of 20 photos were not edited"):
        edit("neutralise", tmp_path / "in", out=tmp_path / "out", **args)
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == [f"{i:02d}-neutralise.png" for i in range(20) if i not in (3, 12)]
    for number in (0, 19):
        alone = edit("neutralise", tmp_path / "in" / f"{number:02d}.png", **args)[0].image
        kept = read_image(tmp_path / "out" / f"{number:02d}-neutralise.png")
        assert np.array_equal(kept, alone)


def test_sources_that_are_none(tmp_path, toy_method, toy_finder) -> None:
    args = {"weights": toy_method, "finder": toy_finder(1)}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no pictures"):
        edit("neutralise", tmp_path / "empty", **args)
    with pytest.raises(ImageError, match="does not exist"):
        edit("neutralise", tmp_path / "nowhere.jpg", **args)
    with pytest.raises(ImageError, match="at least one picture"):
        edit("neutralise", [], **args)


def test_photos_are_edited_one_at_a_time(tmp_path, toy_method, toy_finder, photo) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, photo)
    work = edit_each(
        "neutralise",
        [tmp_path / "a.png", tmp_path / "b.png"],
        out=tmp_path / "out",
        weights=toy_method,
        finder=toy_finder(1),
    )
    next(work)
    assert toy_method.calls == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a-neutralise.png"]


def test_the_whole_mouth_is_edited_at_full_strength(toy_method, toy_finder) -> None:
    """A tight crop ends at the chin; the mask must not fade inside the lips."""
    photo = np.full((300, 300, 3), 60, np.uint8)
    (found,) = edit("mean-face", photo, weights=toy_method, finder=toy_finder(1))
    for x, y in found.faces[0].landmarks[48:].round().astype(int):
        assert abs(int(found.image[y, x, 0]) - 127) <= 2


def test_what_was_edited_is_printed_in_a_line_without_its_pixels(
    toy_method, toy_finder, photo
) -> None:
    (found,) = edit("neutralise", photo, weights=toy_method, finder=toy_finder(1))
    assert not any(f"{name}=" in repr(found) for name in ("image", "photo", "crop", "landmarks"))
    assert len(repr(found)) < 500
    assert "task='neutralise'" in repr(found)
