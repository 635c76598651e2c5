"""Who can reach a server with options, and what it opens for them; the journey looks at `make app`."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from PIL import Image

from tests.support.browser import address_of, browsing, free_port, listening, serving, settle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_list_of_sockets_is_read_right() -> None:
    """A socket on every interface is found as one, so that the other test can fail."""
    with socket.socket() as every:
        every.bind(("0.0.0.0", 0))
        every.listen()
        assert listening(every.getsockname()[1]) == {"0.0.0.0"}


def test_share_listens_everywhere_and_opens_nothing_but_the_named_folders(tmp_path: Path) -> None:
    for place, labels in (("shared", ("circle", "ring")), ("private", ("circle", "passports"))):
        for label in labels:
            (tmp_path / place / label).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / place / label / f"{number}.png")
    port = free_port()
    words = ["--share", "--folder", str(tmp_path / "shared")]
    with serving(port, tmp_path / "runs", words) as process, browsing() as page:
        assert "0.0.0.0" in listening(port)
        for name in ("private", "missing"):
            page.goto(f"{address_of(process)}/?data={tmp_path / name}")
            page.get_by_text("is outside of the folders that may be opened here").wait_for()
            settle(page)
            assert "passports" not in page.inner_text("body")
        page.goto(f"{address_of(process)}/?data={tmp_path / 'shared'}")
        page.get_by_text("shared, 2 test images").wait_for()


def test_a_server_that_others_reach_without_share_opens_nothing(tmp_path: Path) -> None:
    with serving(free_port(), tmp_path / "runs", ["--server.address=0.0.0.0"]) as process, browsing() as page:
        page.goto(address_of(process))
        page.get_by_text("This server can be reached from other machines").wait_for()
        settle(page)
        assert page.locator(".st-key-source, .st-key-loaded").count() == 0
