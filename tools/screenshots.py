"""Photograph the web app for the docs: needs the extra ``app``, playwright and Chromium.

python tools/screenshots.py --chromium /usr/bin/chromium --out docs/images
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import mien
from mien.app.studio import Studio
from mien.app.web import build, launch

ASSETS = Path(mien.__file__).parent / "assets"


def main() -> None:
    """Upload a photo and a driver, move sliders, edit, compare; write ``app*.jpg``."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--table", help="table whose faces may be shown; no map without one")
    options = parser.parse_args()
    page_of = build(Studio(["facecycle", "derl"]))
    url = launch(page_of, prevent_thread_lock=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto(url)
        files = page.locator("input[type=file]")
        files.nth(0).set_input_files(ASSETS / "030_smiling.jpg")
        page.locator("#faces img").first.wait_for(timeout=30_000)
        slider = page.locator("input[type=range][aria-label*=neutralise]")
        slider.fill("1")
        page.get_by_role("button", name="Edit the photo").click()
        page.locator("img[src*='edited.png']").first.wait_for(timeout=30_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=options.out / "app.jpg", full_page=True, quality=85)
        page.get_by_role("tab", name="Compare methods").click()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.wait_for_timeout(6000)
        page.screenshot(path=options.out / "app-compare.jpg", full_page=True, quality=85)
        page.get_by_role("tab", name="Report card").click()
        page.get_by_role("button", name="Measure what the edit did").click()
        page.wait_for_timeout(8000)
        page.screenshot(path=options.out / "app-report.jpg", full_page=True, quality=85)
        if options.table:
            page.get_by_role("tab", name="Explore a table").click()
            page.get_by_label("Folder of a table of faces").first.fill(options.table)
            page.get_by_role("button", name="Draw the map").click()
            page.locator(".mien-map circle").first.wait_for(timeout=120_000)
            page.locator(".mien-map circle").nth(7).hover(force=True)
            page.screenshot(path=options.out / "app-explore.jpg", full_page=True, quality=85)
        browser.close()
    page_of.close()


if __name__ == "__main__":
    main()
