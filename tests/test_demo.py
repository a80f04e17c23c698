"""The demo's page: whole, self-contained, honest about what was edited."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.demo import MOST_FACES, demo
from mien.faces.image import read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.errors import FaceError, ImageError, WeightsError
from mien.methods.pcl import PCL


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def run(tmp_path, toy_method, toy_finder):
    def _run(photos=(), faces=1, identity=True):
        page = demo(
            photos,
            out=tmp_path / "demo",
            weights=toy_method,
            finder=toy_finder(faces),
            identity=identity,
            progress=False,
        )
        return page, page.read_text()

    return _run


def _pictures(html: str) -> list[tuple[str, bytes]]:
    found = re.findall(
        r"<img class='face' alt='([^']*)' src='data:image/\w+;base64,([^']*)'>", html
    )
    return [(alt, base64.b64decode(data)) for alt, data in found]


def test_shipped_pictures(run, tmp_path) -> None:
    page, html = run()
    assert page == tmp_path / "demo" / "index.html"
    assert {p.name for p in page.parent.iterdir()} == {"index.html", "apart.png", "identity.png"}
    assert "10.6084/m9.figshare.5047666.v5" in html
    assert "CC BY 4.0" in html
    # Nothing is fetched when the page is opened; links are for clicking.
    assert not re.findall(r"(?:src|href)='(?!data:)[^']*'", html.replace("<a href", ""))
    assert "<script" not in html
    assert "$" not in re.sub(r"base64,[^']*", "", html)
    assert html.count("<img") == html.count(" alt='")


def test_identity_is_shown_on_request_only(run) -> None:
    page, html = run(identity=False)
    assert {p.name for p in page.parent.iterdir()} == {"index.html", "apart.png"}
    assert "mien demo --identity" in html
    assert "Identities exchanged" not in html


def test_edited_pictures_say_so_and_others_do_not(run, tmp_path, photo) -> None:
    write_image(tmp_path / "me.png", photo)
    page, html = run([tmp_path / "me.png"])
    edited = 0
    for number, (alt, data) in enumerate(_pictures(html)):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(data)
        found = read_provenance(file)
        assert (found is not None) == alt.endswith("(edited)"), alt
        edited += found is not None
    assert edited == 3  # neutral, identity taken out, identity of the only face
    for name in ("apart.png", "identity.png"):
        assert read_provenance(page.parent / name).state == "valid"
        assert read_image(page.parent / name).std() > 0


def test_names_are_escaped(run, tmp_path, photo) -> None:
    write_image(tmp_path / "a<b>&'x.png", photo)
    _, html = run([tmp_path / "a<b>&'x.png"])
    assert "a<b>" not in html
    assert "a&lt;b&gt;&amp;" in html


def test_many_faces_are_cut_short_and_the_page_says_so(run, tmp_path, photo) -> None:
    write_image(tmp_path / "group.png", np.tile(photo, (1, 5, 1)))
    _, html = run([tmp_path / "group.png"], faces=MOST_FACES + 2)
    assert f"Of {MOST_FACES + 2} faces the page shows {MOST_FACES}" in html
    assert "group, face 1" in html


def test_bad_photos(run, tmp_path, photo) -> None:
    (tmp_path / "text.jpg").write_text("text")
    write_image(tmp_path / "good.png", photo)
    _, html = run([tmp_path / "text.jpg", tmp_path / "good.png"])
    assert "text.jpg is not a JPEG" in html
    with pytest.raises(FaceError, match="No face was found"):
        run([tmp_path / "good.png"], faces=0)
    with pytest.raises(FaceError, match="not a JPEG"):
        run([tmp_path / "text.jpg"])
    with pytest.raises(ImageError, match="does not exist"):
        run([tmp_path / "nowhere.jpg"])


def test_weights_that_can_do_only_a_part(run, toy_method, tmp_path, photo, monkeypatch) -> None:
    def refuse(images, drivers, strength):
        raise WeightsError("These weights hold the first stage only.")

    monkeypatch.setattr(toy_method, "swap_identity", refuse)
    write_image(tmp_path / "me.png", photo)
    page, html = run([tmp_path / "me.png"])
    assert "identity: These weights hold the first stage only." in html
    assert "Identities exchanged" not in html
    assert not (page.parent / "identity.png").exists()


def test_poses_are_exchanged_by_a_method_that_can(tmp_path, toy_finder) -> None:
    torch.manual_seed(0)
    method = PCL(PCL.Config(width=4)).eval()
    page = demo(
        out=tmp_path / "demo", weights=method, finder=toy_finder(1), progress=False, identity=True
    )
    assert {p.name for p in page.parent.iterdir()} == {"index.html", "apart.png", "pose.png"}
    html = page.read_text()
    assert "Poses exchanged" in html
    assert "with the pose of" in html
