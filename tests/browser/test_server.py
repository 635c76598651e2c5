"""The server that `make app` starts can be reached from this machine alone."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

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
