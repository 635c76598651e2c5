"""A server as a user starts it, and a page of a real browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import LOG, address_of, browsing, end, free_port, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its runs."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def server(run_folders: Path) -> Iterator[str]:
    """The app as a user starts it; its address."""
    with serving(free_port(), run_folders) as process:
        yield address_of(process)
        end(process, signal.SIGTERM)
    assert "Traceback" not in LOG.read_text()


@pytest.fixture
def page(server: str) -> Iterator[Page]:
    with browsing() as page:
        page.goto(server)
        yield page
