"""Who can reach the server, and what it opens for them: `make app`, and `--share`."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.support.browser import address_of, browsing, free_port, serving, settle

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LISTENS = "0A"  # the state of a socket in /proc/net/tcp


def listening(port: int) -> set[str]:
    """Addresses on which any process listens on this port, as the kernel lists them."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTENS and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(str(ipaddress.ip_address(b"".join(words))))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are listed there on Linux only")
def test_it_listens_on_loopback_alone(server: str) -> None:
    port = urlsplit(server).port
    assert port is not None
    found = listening(port)
    assert found and all(ipaddress.ip_address(address).is_loopback for address in found), found


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
