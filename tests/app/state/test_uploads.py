"""Photos that a user uploads: the same limits on every page, and the same photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.state import uploads
from app.state.session import Choice
from app.state.viewed_image import ViewedImage
from tests.support.app import go, photo, start, text

PAGES = ("attention", "heads")


@pytest.fixture
def choice(tiny_bundle: Path) -> Choice:
    """A small model and no images."""
    return Choice(str(tiny_bundle), data=None)


def kept(app: AppTest) -> list[ViewedImage]:
    return list(app.session_state["own photos"].values())


@pytest.mark.parametrize("page", PAGES)
def test_a_huge_photo_is_kept_shrunk(page: str, choice: Choice) -> None:
    app = start(page, choice)
    app.file_uploader[0].set_value([photo("huge.png", "red", (8000, 4000))]).run()
    assert not app.error and not app.exception
    (huge,) = kept(app)
    assert huge.image.size == (uploads.KEPT_SIDE, uploads.KEPT_SIDE // 2)
    app.file_uploader[0].set_value([photo("small.png", "red", (40, 30))]).run()
    (small,) = kept(app)
    assert (small.name, small.image.size) == ("small.png", (40, 30))  # never enlarged


@pytest.mark.parametrize("page", PAGES)
def test_too_many_photos_are_refused_in_a_sentence(page: str, choice: Choice) -> None:
    app = start(page, choice)
    many = [photo(f"{i}.png", "red") for i in range(uploads.MAX_PHOTOS + 1)]
    app.file_uploader[0].set_value(many).run()
    (error,) = app.error
    assert error.value == "At most 16 photos can be shown at once, but 17 were uploaded. Remove some of them."
    assert not app.exception
    app.file_uploader[0].set_value(many[1:]).run()
    assert not app.error and len(kept(app)) == uploads.MAX_PHOTOS


@pytest.mark.parametrize("page", PAGES)
def test_a_photo_that_cannot_be_read_does_not_hide_the_others(page: str, choice: Choice) -> None:
    app = start(page, choice)
    bad = ("bad.png", b"no picture", "image/png")
    app.file_uploader[0].set_value([photo("red.png", "red"), bad, photo("blue.png", "blue")]).run()
    (error,) = app.error
    assert error.value.startswith("bad.png is not an image") and not app.exception
    assert [one.name for one in kept(app) if isinstance(one, ViewedImage)] == ["red.png", "blue.png"]
    assert "red.png" in text(app)
    app.file_uploader[0].set_value([bad]).run()
    (error,) = app.error
    assert "bad.png" in error.value and "Upload" in app.info[0].value


def test_pages_share_the_photos(choice: Choice) -> None:
    app = start("attention", choice)
    app.file_uploader[0].set_value([photo("red.png", "red"), photo("blue.png", "blue")]).run()
    go(app, "heads")
    assert "2 photos" in text(app) and not app.info
    app.file_uploader[0].set_value([photo("green.png", "green")]).run()
    go(app, "attention")
    assert "green.png" in text(app) and not app.info
