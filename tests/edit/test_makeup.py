"""Make-up on photos: what is refused, what is warned of, and which reference is taken."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mien.cli.edits import _strengths
from mien.data.procedural import Makeup, Parameters, ProceduralFaces
from mien.edit.chain import Chain, Step
from mien.edit.makeup import concerns, fit_faces, nearest_reference, read_references
from mien.edit.makeup_sheet import CELL, write_makeup_sheet
from mien.edit.many import edit_photos
from mien.edit.photos import Editor, edit
from mien.faces.face import Face, Image
from mien.faces.find import face_from_landmarks
from mien.faces.hindrances import CLOSED, GLASSES, closed_eyes, glasses
from mien.faces.image import read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.errors import ConfigError, FaceError, ImageError
from mien.methods.base import Edit, Method

ARTIST = ProceduralFaces(size=112)
WORN = Makeup(lips_opacity=1.0, shadow_opacity=1.0)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Painter(Method):
    """Puts the mean colour of references on faces."""

    name = "painter"

    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 112

    def __init__(self) -> None:
        super().__init__(self.Config(), "main")

    def apply_makeup(
        self,
        images: Tensor,
        drivers: Tensor,
        strength: float = 1.0,
        *,
        landmarks: Tensor,
        driver_landmarks: Tensor,
        regions: Any = None,
        shares: Tensor | None = None,
    ) -> Edit:
        assert landmarks.shape[1:] == driver_landmarks.shape[1:] == (68, 2)
        colour = drivers.mean((2, 3), keepdim=True)
        if shares is not None:
            assert len(shares) == len(drivers) == len(driver_landmarks)
            colour = (colour * (shares / shares.sum())[:, None, None, None]).sum(0, keepdim=True)
        return Edit(torch.lerp(images, colour.expand_as(images), strength))

    def remove_makeup(
        self, images: Tensor, strength: float = 1.0, *, landmarks: Tensor, regions: Any = None
    ) -> Edit:
        return Edit(images * (1 - strength))


class PlanFinder:
    """Finds the face whose photo it was told of, by the photo's first pixel."""

    def __init__(self, *faces: Face) -> None:
        self.faces = {tuple(face.crop[0, 0].tolist()): face for face in faces}

    def __call__(self, images: Any, sources: Any = None) -> list[list[Face]]:
        names = sources or [""] * len(images)
        found = []
        for image, name in zip(images, names, strict=True):
            face = self.faces.get(tuple(image[0, 0].tolist()))
            found.append([] if face is None else [dataclasses.replace(face, source=name)])
        return found


def drawn(
    background: int = 150, makeup: Makeup | None = None, shade: float = 1.0, **changes: Any
) -> Face:
    """Draw a face in a photo of 112 px with a background of its own."""
    pose = (changes.pop("yaw", 0.0), changes.pop("pitch", 0.0), 0.0)
    scene = Parameters(
        ARTIST.identity(1), makeup=makeup or Makeup(), background=(background,) * 3,
        yaw=min(pose[0], 45.0), pitch=pose[1], **changes,
    )  # fmt: skip
    image, points = ARTIST.draw(scene)
    image = (image * shade).round().astype(np.uint8)
    image[0, 0] = background
    return face_from_landmarks(image, points, "tight", 112, pose=pose)


def photo_of(face: Face) -> Image:
    """Return a photo that ``PlanFinder`` knows."""
    photo = face.crop.copy()
    return photo


def finder(*faces: Face) -> Any:
    return PlanFinder(*faces)


def test_a_profile_is_refused_and_the_photo_left_alone(tmp_path: Path) -> None:
    good, side = drawn(150), drawn(90, yaw=72.0)
    look = drawn(200, WORN)
    for name, face in (("good", good), ("side", side), ("look", look)):
        write_image(tmp_path / "in" / f"{name}.png", photo_of(face))
    find = finder(good, side, look)
    step = Step("makeup", tmp_path / "in" / "look.png", method=Painter())
    done = edit_photos(
        [tmp_path / "in" / "good.png", tmp_path / "in" / "side.png"], [step],
        out=tmp_path / "out", finder=find,
    )  # fmt: skip
    assert [p.name for p in done.written] == ["good-makeup.png"]
    (reason,) = done.skipped.values()
    assert "72 degrees" in reason
    assert not (tmp_path / "out" / "side-makeup.png").exists()
    with pytest.raises(FaceError, match="at most"):
        Chain([Step("makeup", tmp_path / "in" / "side.png", method=Painter())], finder=find)
    with pytest.raises(FaceError, match="at most"):
        edit("remove-makeup", photo_of(side), weights=Painter(), finder=find)
    # Other edits know no such limit.
    assert Chain([Step("makeup", look, 0.0, Painter())], finder=find).fit([side])[0] == [side]


def test_of_several_faces_those_that_are_fit_are_edited() -> None:
    good, side = drawn(150), drawn(90, yaw=72.0)
    fit, warnings = fit_faces([good, side])
    assert fit == [good]
    assert "72 degrees" in warnings[-1]
    assert warnings[-1].endswith("It is left out.")
    with pytest.raises(FaceError, match="72 degrees"):
        fit_faces([side])


def test_a_reference_without_make_up_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.edit import makeup

    bare, worn = drawn(150), drawn(90, WORN)
    # What drawings look like says little of photos: only bare ones have a light first pixel here.
    monkeypatch.setattr(
        makeup,
        "shows_makeup",
        lambda signs: torch.tensor([signs.item() < 0]),
    )
    monkeypatch.setattr(makeup, "makeup_signs", lambda images, at: images[0, 0, 0, 0])
    assert any("little make-up" in said for said in concerns(bare, reference=True))
    assert not any("little make-up" in said for said in concerns(worn, reference=True))
    assert not any("little make-up" in said for said in concerns(bare))
    find = finder(bare, worn)
    for name, face in (("bare", bare), ("worn", worn)):
        write_image(tmp_path / f"{name}.png", photo_of(face))
    (done,) = edit("makeup", tmp_path / "worn.png", tmp_path / "bare.png",
                   weights=Painter(), finder=find)  # fmt: skip
    assert any("bare.png shows little make-up" in said for said in done.warnings)


def test_a_reference_without_a_face_is_refused() -> None:
    empty = np.full((112, 112, 3), 7, np.uint8)
    with pytest.raises(FaceError, match="no face"):
        Chain([Step("makeup", empty, method=Painter())], finder=finder())


def test_eyes_that_get_nothing_are_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.edit import makeup

    face = drawn(150)
    monkeypatch.setattr(makeup, "closed_eyes", lambda *a: torch.tensor([CLOSED + 1]))
    monkeypatch.setattr(makeup, "glasses", lambda *a: torch.tensor([GLASSES + 1]))
    said = concerns(face)
    assert len(said) == 2
    assert "closed" in said[0]
    assert "glasses" in said[1]
    assert concerns(face, {"eyes": 0.0}) == []


def test_closed_lids_look_more_closed_than_open_eyes() -> None:
    face = drawn(150)
    points = torch.from_numpy(face.landmarks)[None]
    lids = face.crop.copy()
    skin = tuple(int(v) for v in face.crop[tuple(face.landmarks[29].round().astype(int)[::-1])])
    for eye in (slice(36, 42), slice(42, 48)):
        cv2.fillPoly(lids, [cv2.convexHull(face.landmarks[eye].round().astype(np.int32))], skin)
        cv2.polylines(lids, [face.landmarks[eye].round().astype(np.int32)[:4]], False, (40, 30, 30))
    opened, closed = (
        closed_eyes(torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1, points).item()
        for x in (face.crop, lids)
    )
    assert opened < CLOSED
    assert closed > opened + 1


def test_a_bridge_across_the_nose_looks_like_glasses() -> None:
    face = drawn(150)
    points = torch.from_numpy(face.landmarks)[None]
    crop = face.crop.copy()
    middle = face.landmarks[36:48].mean(0).round().astype(int)
    x = [torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1]
    crop[middle[1] + 1 : middle[1] + 4, middle[0] - 9 : middle[0] + 10] = 30
    x.append(torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1)
    plain, worn = (glasses(each, points).item() for each in x)
    assert plain < GLASSES < worn


def test_the_reference_that_is_turned_and_lit_alike_is_taken() -> None:
    turned, straight = drawn(60, WORN, yaw=30.0), drawn(90, WORN)
    assert nearest_reference(drawn(150, yaw=25.0), [straight, turned]) is turned
    assert nearest_reference(drawn(150, yaw=2.0), [turned, straight]) is straight
    dark = drawn(120, WORN, shade=0.3)
    assert nearest_reference(drawn(150, shade=0.35), [straight, dark]) is dark
    assert nearest_reference(drawn(150), [dark, straight]) is straight
    left, right = (
        drawn(b, WORN, light_azimuth=a, light_strength=1.0) for b, a in ((60, -70.0), (90, 70.0))
    )
    face = drawn(150, light_azimuth=60.0, light_strength=1.0)
    assert nearest_reference(face, [left, right]) is right


def test_a_folder_of_references_serves_each_face_its_own(tmp_path: Path) -> None:
    faces = [drawn(150, yaw=-28.0), drawn(160, yaw=28.0)]
    looks = [drawn(60, WORN, yaw=-25.0), drawn(90, WORN, yaw=25.0)]
    for k, look in enumerate(looks):
        write_image(tmp_path / "looks" / f"{k}.png", photo_of(look))
    find = finder(*faces, *looks)
    method = Painter()
    chain = Chain([Step("makeup", tmp_path / "looks", method=method)], finder=find)
    assert len(chain.references[0]) == 2
    made = chain.changes(faces)
    for face, look, change in zip(faces, looks, made, strict=True):
        (expected,) = Editor(method, finder=find).generate("makeup", [face], [look])
        assert np.array_equal(change.new, expected.new)
    assert not np.array_equal(made[0].new, made[1].new)
    # The editor and the chain choose alike.
    (done,) = edit("makeup", photo_of(faces[1]), tmp_path / "looks", weights=method, finder=find)
    assert np.array_equal(done.image, chain.apply(photo_of(faces[1]), [done.faces[0]]))


def test_references_are_mixed_by_their_shares() -> None:
    face, looks = drawn(150), [drawn(60, WORN), drawn(230, WORN, shade=0.4)]
    method = Painter()

    def mixed(*shares: float) -> Image:
        step = Step("makeup", looks, method=method, shares=shares)
        return Chain([step], finder=finder()).changes([face])[0].new

    one, other, half = mixed(1, 0), mixed(0, 1), mixed(2, 2)
    (alone,) = Editor(method, finder=finder()).generate("makeup", [face], looks[:1])
    assert np.array_equal(one, alone.new)
    assert not np.array_equal(one, other)
    middle = (one.astype(float) + other) / 2
    assert np.abs(half - middle).max() <= 1
    (done,) = edit("makeup", photo_of(face), [photo_of(look) for look in looks],
                   weights=method, finder=finder(face, *looks), shares=(1, 0))  # fmt: skip
    (same,) = edit("makeup", photo_of(face), photo_of(looks[0]),
                   weights=method, finder=finder(face, *looks))  # fmt: skip
    assert np.array_equal(done.image, same.image)


def test_wrong_orders(toy_method: Any, toy_finder: Any) -> None:
    looks = [drawn(60, WORN), drawn(90, WORN)]
    with pytest.raises(ConfigError, match="2 references and 1 shares"):
        Chain([Step("makeup", looks, method=Painter(), shares=(1.0,))], finder=finder())
    with pytest.raises(ConfigError, match="one has some"):
        Chain([Step("makeup", looks, method=Painter(), shares=(0.0, 0.0))], finder=finder())
    with pytest.raises(ConfigError, match="one driver, not 2"):
        Chain([Step("identity", looks, method=toy_method)], finder=toy_finder(1))
    with pytest.raises(ConfigError, match="leave the shares out"):
        Chain([Step("neutralise", method=toy_method, shares=(1.0,))], finder=toy_finder(1))


def test_unusable_references_of_several_are_left_out(tmp_path: Path) -> None:
    look, side = drawn(60, WORN), drawn(90, WORN, yaw=80.0)
    for name, face in (("look", look), ("side", side)):
        write_image(tmp_path / f"{name}.png", photo_of(face))
    (tmp_path / "broken.png").write_text("text")
    found, warnings = read_references(tmp_path, finder(look, side))
    assert len(found) == 1
    assert sum("It is left out" in said for said in warnings) == 2
    (tmp_path / "look.png").unlink()
    with pytest.raises((FaceError, ImageError)):
        read_references(tmp_path, finder(look, side))


def test_a_sheet_of_all_references_on_all_photos(tmp_path: Path) -> None:
    faces = [drawn(150), drawn(160, yaw=10.0)]
    looks = [drawn(60, WORN), drawn(90, WORN), drawn(100, yaw=70.0)]
    for k, face in enumerate((*faces, *looks)):
        write_image(tmp_path / ("photos" if k < 2 else "looks") / f"{k}.png", photo_of(face))
    said = write_makeup_sheet(
        [tmp_path / "photos"], [tmp_path / "looks"], out=tmp_path / "sheet.png",
        weights=Painter(), finder=finder(*faces, *looks),
    )  # fmt: skip
    sheet = read_image(tmp_path / "sheet.png")
    assert sheet.shape == (3 * CELL, 3 * CELL, 3)  # the profile is left out
    assert any("70 degrees" in one for one in said)
    record = read_provenance(tmp_path / "sheet.png")
    assert record is not None
    assert record.record.task == "makeup"
    with pytest.raises(ConfigError, match="--reference"):
        write_makeup_sheet([tmp_path / "photos"], [], out=tmp_path / "x.png", weights=Painter(),
                           finder=finder(*faces))  # fmt: skip


def test_regions_are_read_from_the_command_line() -> None:
    assert _strengths(["lips=0.5", "eyes=0"]) == {"lips": 0.5, "eyes": 0.0}
    with pytest.raises(ConfigError, match="NAME=STRENGTH"):
        _strengths(["lips"])
