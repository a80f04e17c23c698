"""Report cards: known changes give known measures."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mien.edit.chain import Chain, Step
from mien.edit.many import edit_photos
from mien.edit.report_card import (
    flow_picture,
    mask_in_photo,
    report_card,
    report_sheet,
    sharpness_ratio,
    write_report,
)
from mien.edit.sheets import PORTRAIT, portrait
from mien.faces.image import write_image
from mien.faces.provenance import read_provenance


@pytest.fixture
def face(toy_finder, photo):
    return toy_finder(1)([photo])[0][0]


def test_an_unedited_photo_passes(photo, face) -> None:
    card = report_card(photo, photo.copy(), face)
    assert card.identity == pytest.approx(1, abs=1e-5)
    assert (card.expression_change, card.pose_error, card.outside) == (0, 0, 0)
    assert card.sharpness == 1
    assert set(card.marks.values()) == {"pass"}


def test_blur_and_a_touched_background_are_seen(photo, face) -> None:
    blurred = cv2.GaussianBlur(photo, (0, 0), 2)
    assert sharpness_ratio(photo, blurred, face) < 0.2
    touched = photo.copy()
    touched[0, 0] += 9
    card = report_card(photo, touched, face)
    assert card.outside == 9
    assert card.marks == {"pose_error": "pass", "outside": "warn", "sharpness": "pass"}


def test_edits_keep_detail_and_background_of_a_large_portrait(toy_method, toy_finder) -> None:
    rng = np.random.default_rng(0)
    photo = np.clip(rng.normal(128, 25, (2000, 2000, 3)), 0, 255).astype(np.uint8)
    steps = [Step("neutralise", strength=0.4, method=toy_method)]
    chain = Chain([*steps, Step("mean-face", strength=0.3, method=toy_method)], finder=toy_finder())
    (face,) = chain.finder([photo])[0]
    edited = chain.apply(photo, [face])
    assert not np.array_equal(photo, edited)
    assert np.array_equal(
        photo[mask_in_photo(photo, face) == 0], edited[mask_in_photo(photo, face) == 0]
    )
    # Noise of a pixel is the worst case of resampling by a fraction of a pixel.
    assert sharpness_ratio(photo, edited, face) > 0.45


def test_sheet_and_measures_are_written(tmp_path, toy_method, photo, toy_finder) -> None:
    chain = Chain([Step("neutralise", method=toy_method)], finder=toy_finder(2))
    faces = chain.finder([photo])[0]
    edited, changes = chain.apply(photo, faces), chain.changes(faces)
    cards = write_report(tmp_path / "a-report", photo, edited, faces, changes, chain.record)
    told = json.loads((tmp_path / "a-report.json").read_text())
    assert [f["sharpness"] for f in told["faces"]] == [c.sharpness for c in cards]
    assert all(c.outside == 0 for c in cards)
    assert read_provenance(tmp_path / "a-report.png").state == "valid"


def test_flow_picture() -> None:
    assert (flow_picture(None, 8) == 255).all()
    flow = np.zeros((2, 4, 4))
    assert (flow_picture(flow, 8) == 255).all()
    flow[0] = 0.1
    assert (flow_picture(flow, 8)[4, 4] == (255, 0, 0)).all()


def test_what_lies_outside_of_the_photo_is_white_on_a_sheet(photo, face) -> None:
    moved = replace(face, to_photo=face.to_photo + np.float32([[0, 0, -1000], [0, 0, 0]]))
    assert (portrait(photo, moved) == 255).all()
    assert (portrait(photo, face) != 255).any()


def test_a_sheet_has_a_flow_where_something_moved(photo, face, toy_method, toy_finder) -> None:
    chain = Chain([Step("neutralise", method=toy_method)], finder=toy_finder(1))
    (change,) = chain.changes([face])
    wide = report_sheet(photo, photo, [face], [replace(change, flow=np.zeros((2, 4, 4)))])
    narrow = report_sheet(photo, photo, [face], [replace(change, flow=None)])
    assert (wide.shape[1], narrow.shape[1]) == (4 * PORTRAIT, 3 * PORTRAIT)


def test_a_folder_of_reports_has_a_summary(tmp_path, toy_method, photo, toy_finder) -> None:
    for name, picture in (("a", photo), ("b", photo[:, ::-1].copy())):
        write_image(tmp_path / "in" / f"{name}.png", picture)
    steps = [Step("mean-face", method=toy_method)]
    asked = {"out": tmp_path / "out", "finder": toy_finder(1), "report": True}
    done = edit_photos(tmp_path / "in", steps, **asked)
    assert done.report == tmp_path / "out" / "report.json"
    told = json.loads(done.report.read_text())
    cards = [
        json.loads(f.read_text())["faces"][0] for f in (tmp_path / "out").glob("*-report.json")
    ]
    assert (told["photos"], told["faces"]) == (2, 2)
    for measure in ("identity", "sharpness", "outside"):
        values = [card[measure] for card in cards]
        assert told["mean"][measure] == pytest.approx(np.mean(values))
        assert (told["least"][measure], told["most"][measure]) == (min(values), max(values))
    assert told["warn"]["outside"] == 0
    again = edit_photos(tmp_path / "in", steps, **asked)  # all were finished before
    assert len(again.finished) == 2
    assert json.loads(again.report.read_text()) == told
