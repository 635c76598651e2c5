"""Runs seen through a real browser: what a killed server leaves behind, the next one shows."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruning.runs import folder as runs
from tests.support.browser import (
    SECONDS,
    address_of,
    browsing,
    end,
    free_port,
    open_page,
    own_widths,
    serving,
    shoot,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_run_outlives_its_server(tmp_path: Path) -> None:
    """The server dies at once and another takes its place: one run, which never stopped."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    port = free_port()
    with browsing() as page:
        with serving(port, tmp_path) as server:
            page.goto(address_of(server))
            open_page(page, "Prune")
            own_widths(page, "GOHSP (from a paper)")  # one pass over 20,000 scenes: it outlasts this test
            page.locator(".st-key-prune button").click()
            page.locator(".st-key-activity").get_by_text("Training").wait_for(timeout=120 * SECONDS)
            end(server, signal.SIGKILL)
        (run,) = runs.list_runs(tmp_path)
        assert run.state == "running" and run.status.attempt == 1
        with serving(port, tmp_path) as server:
            page.goto(address_of(server))  # a new session on a new server
            open_page(page, "Runs")
            page.locator(".st-key-activity").get_by_text("Training").wait_for()
            page.locator(".st-key-run-panel").get_by_text("Training").wait_for()
            shoot(page, "after-the-server")
            _cancel(page, run.folder)
            ended = page.locator(".st-key-run-panel").get_by_text("cancelled").first
            with contextlib.suppress(PlaywrightTimeout):  # a page that is no longer drawn is loaded anew
                ended.wait_for(timeout=20 * SECONDS)
            if not ended.is_visible():
                page.goto(address_of(server))
                open_page(page, "Runs")
            ended.wait_for()
    (found,) = runs.list_runs(tmp_path)
    assert (found.state, found.status.attempt, found.status.pid) == ("cancelled", 1, run.status.pid)
    assert list((found.folder / "checkpoint").glob("*.pt"))


def _cancel(page: Page, folder: Path) -> None:
    """Press Cancel, again where it was drawn anew under the pointer, and wait until the run has ended."""
    button = page.locator(".st-key-run-panel-cancel button")
    for _ in range(5):
        if not (folder / runs.CANCEL).exists():
            button.click()
            page.wait_for_timeout(4 * SECONDS)
    assert (folder / runs.CANCEL).exists(), "the button has asked for nothing"
    for _ in range(120):
        if not runs.read(folder).active:
            return
        time.sleep(1)
    raise AssertionError(f"asked to end, the run goes on: {runs.read(folder).sentence}")
