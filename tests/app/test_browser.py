"""The web app in headless Chromium: upload, edit, download, and a photo without a face."""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

import pytest

from mien.app.studio import Studio
from mien.faces.image import encode_image
from mien.faces.provenance import read_provenance

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.filterwarnings("default")  # what Gradio says of its own parts
def test_browser(tmp_path, monkeypatch, photo, toy_method, toy_finder) -> None:
    from mien.app.web import build, launch

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    file = tmp_path / "photo.png"
    file.write_bytes(encode_image(photo))
    studio = Studio([toy_method], finder=toy_finder(2))
    blocks = build(studio)
    url = launch(blocks, prevent_thread_lock=True)
    try:
        with playwright.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(accept_downloads=True)
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            page.locator("input[type=file]").nth(0).set_input_files(file)
            page.locator("#faces img").nth(1).wait_for()
            slider = page.locator("input[type=range][aria-label*=neutralise]")
            slider.fill("1")
            page.get_by_role("button", name="Edit the photo").click()
            page.locator("img[src*='edited.png']").first.wait_for()
            with page.expect_download() as download:
                page.get_by_text("Download (signed)").click()
            download.value.save_as(tmp_path / "edited.png")
            found = read_provenance(tmp_path / "edited.png")
            assert found is not None
            assert (found.record.task, found.state) == ("neutralise 1", "valid")
            studio.editors["toy"].finder.count = 0
            page.reload()
            page.locator("input[type=file]").nth(0).set_input_files(file)
            page.get_by_text("holds no face").first.wait_for()
            browser.close()
    finally:
        blocks.close()
    hosts = {urlsplit(each).hostname for each in asked if each.startswith("http")}
    assert hosts == {"127.0.0.1"}, "something was asked of another computer"
