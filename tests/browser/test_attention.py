"""The Attention page in a real Chromium: browsed, clicked, refreshed, as a gallery, narrow and dark."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from analysis.models.preprocess import Preprocess
from pruning.bundle.write import write_bundle
from tests.support.browser import choose, open_page, settle, shoot
from tests.support.models import TINY, random_vit

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHOTO = ".st-key-patches .picture"
GRID = ".st-key-head-grid .picture"
# Notes from now on, with every frame that is drawn, how far down the photo stands.
WATCH = """() => {
  window.places = new Set();
  const look = () => {
    window.places.add(document.querySelector(".st-key-patches").getBoundingClientRect().y);
    requestAnimationFrame(look);
  };
  look();
}"""


def click_at(page: Page, pictured: str, x: float, y: float, said: str) -> None:
    """Click a point of a picture, by fractions of it; the pointer is there first, and told where it is."""
    place = page.locator(pictured)
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    place.locator(".said").get_by_text(said, exact=True).wait_for()
    page.mouse.down()
    page.mouse.up()


def framed(page: Page, pictured: str, columns: int, rows: int) -> tuple[int, int]:
    """Column and row of the framed cell."""
    box = page.locator(pictured).bounding_box()
    frame = page.locator(f"{pictured} .chosen").bounding_box()
    assert box and frame
    middle = frame["x"] + frame["width"] / 2 - box["x"], frame["y"] + frame["height"] / 2 - box["y"]
    return int(middle[0] / box["width"] * columns), int(middle[1] / box["height"] * rows)


def picture(page: Page, alt: str) -> Locator:
    return page.locator(f"img[alt='{alt}']").first


def test_browse_click_refresh_and_share(page: Page) -> None:
    open_page(page, "Attention")
    page.locator(GRID).wait_for()
    page.locator(".st-key-image-next button").first.click()  # the second is its help
    page.get_by_text("triangle/test-00001").wait_for()
    settle(page)

    click_at(page, PHOTO, 5.5 / 8, 2.5 / 8, "row 2, column 5")
    assert framed(page, PHOTO, 8, 8) == (5, 2)  # before the server answers
    picture(page, "where patch 2, 5 looks in block 3, head 0").wait_for()
    picture(page, "who looks at patch 2, 5 in block 3, head 0").wait_for()
    picture(page, "Rollout from patch 2, 5").wait_for()
    settle(page)
    assert page.locator(".st-key-from input").input_value() == "patch 2, 5"
    assert "from=patch+2%2C+5" in page.url
    assert page.get_by_text("Attention from patch 2, 5,").count() == 1
    assert framed(page, PHOTO, 8, 8) == (5, 2)
    click_at(page, GRID, 1.5 / 6, 4.5 / 6, "block 1, head 4")
    picture(page, "where patch 2, 5 looks in block 1, head 4").wait_for()
    settle(page)
    assert framed(page, GRID, 6, 6) == (1, 4)

    page.locator(".st-key-block input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    shown = picture(page, "where patch 2, 5 looks in block 2, head 4")
    shown.wait_for()
    settle(page)
    assert {"image=1", "block=2", "head=4", "from=patch+2%2C+5"} <= set(page.url.partition("?")[2].split("&"))

    before = shown.get_attribute("src")
    page.reload()
    again = picture(page, "where patch 2, 5 looks in block 2, head 4")
    again.wait_for()
    page.get_by_text("triangle/test-00001").wait_for()
    assert before and again.get_attribute("src") == before
    assert page.locator(".st-key-from input").input_value() == "patch 2, 5"
    page.locator(f"{PHOTO} .chosen").wait_for()
    assert framed(page, PHOTO, 8, 8) == (5, 2)
    shoot(page, "attention-patch")

    page.locator(".st-key-files button").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Block 2, head 4: where it looks").click()
    file = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert (file.format, file.mode, file.size) == ("PNG", "RGB", (1024, 1024))


def test_patches_are_chosen_by_keys(page: Page) -> None:
    open_page(page, "Attention")
    photo = page.locator(PHOTO)
    page.locator(".st-key-from input").focus()
    for _ in range(9):  # helps and buttons lie between
        page.keyboard.press("Tab")
        if photo.evaluate("picture => picture.matches(':focus-visible')"):
            break
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    photo.locator(".said").get_by_text("row 1, column 0", exact=True).wait_for()
    page.evaluate(WATCH)
    page.keyboard.press("Enter")
    picture(page, "where patch 1, 0 looks in block 3, head 0").wait_for()
    settle(page)
    assert len(page.evaluate("[...window.places]")) == 1  # a click finds the patch that was under the pointer
    assert framed(page, PHOTO, 8, 8) == (0, 1)
    page.keyboard.press("ArrowRight")  # the run took nothing from under the fingers
    photo.locator(".said").get_by_text("row 1, column 1", exact=True).wait_for()


def test_a_refresh_keeps_the_model_and_images(page: Page, tmp_path: Path) -> None:
    model = random_vit(replace(TINY, num_classes=2))
    bundle = write_bundle(tmp_path / "own", model, Preprocess(TINY.image_size), name="own", report={})
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (24, 16), colour).save(tmp_path / "photos" / name / f"{number}.png")
    page.locator(".st-key-source summary").click()
    choose(page, "model-source", "Bundle")
    choose(page, "image-source", "Folder or zip")
    for key, path in (("bundle-folder", bundle), ("data-path", tmp_path / "photos")):
        page.locator(f".st-key-{key} input").fill(str(path))
        page.keyboard.press("Enter")
        settle(page)
    page.locator(".st-key-load button").click()
    page.locator(".st-key-take-classes button").click()  # as the model does not name its two classes
    loaded = page.locator(".st-key-loaded").get_by_text("own", exact=True)
    loaded.wait_for()
    open_page(page, "Attention")  # leads to another address, which says it too
    picture(page, "where the class token looks in block 1, head 0").wait_for()
    settle(page)
    before = page.locator(".st-key-loaded").inner_text()
    assert "model=" in page.url and "data=" in page.url
    page.reload()
    loaded.wait_for()
    picture(page, "where the class token looks in block 1, head 0").wait_for()
    assert page.locator(".st-key-loaded").inner_text() == before
    page.locator(".st-key-source summary").click()
    assert page.locator(".st-key-bundle-folder input").input_value() == str(bundle)


def test_a_gallery_and_class_relevance_in_the_dark(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(
        f"{page.url.rstrip('/')}/attention?view=Gallery&gallery=Through+all+blocks&through=Class+relevance"
    )
    page.locator(".st-key-gallery-pictures img").nth(11).wait_for()
    settle(page)
    shoot(page, "attention-gallery-dark")
    page.locator(".st-key-open-2 button").first.click()
    picture(page, "Class relevance for square, read at the class token").wait_for()
    settle(page)
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert max(int(part) for part in background[4:-1].split(",")) < 64
    shoot(page, "attention-dark")


def test_a_phone_sees_all_of_it(page: Page) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto(f"{page.url.rstrip('/')}/attention")
    page.locator(GRID).wait_for()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    main = "document.querySelector('[data-testid=stMain]')"
    assert page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
    shoot(page, "attention-phone")
    click_at(page, PHOTO, 0.5 / 8, 0.5 / 8, "row 0, column 0")
    picture(page, "where patch 0, 0 looks in block 3, head 0").wait_for()
