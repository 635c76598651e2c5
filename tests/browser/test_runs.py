"""Runs seen through a real browser: while they work, and what a killed server leaves to the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
    wait_until_up,
)
from tests.support.models import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_run_outlives_its_server(tmp_path: Path) -> None:
    """The server dies at once and another takes its place: one run, which never stopped."""
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
            page.locator(".st-key-run-panel").get_by_text("cancelled").first.wait_for()
    (found,) = runs.list_runs(tmp_path)
    assert (found.state, found.status.attempt, found.status.pid) == ("cancelled", 1, run.status.pid)
    assert list((found.folder / "checkpoint").glob("*.pt"))


POLLED = """
import time
import streamlit as st
from app.state import session_runs

state = st.session_state
passes = state["passes"] = state.get("passes", 0) + 1
time.sleep(0.15)  # polls that are asked for meanwhile follow this pass at once
state["drawn"] = time.monotonic()

def part(number):
    if number == 0 and time.monotonic() - state["drawn"] > 0.5:
        st.rerun()
    with st.container(border=True), st.container(horizontal=True):
        st.write("part", number)
        st.write("of pass", passes)

for number in range(6):
    session_runs.polled(part, number, every=0.3)
    st.write("between")
st.write("pass", passes, "is drawn")
session_runs.let_polls_wait()
"""


def test_a_page_goes_on_being_drawn_while_its_parts_are_polled(tmp_path: Path) -> None:
    """Streamlit's own order of things ends in a page that stays as it is, within a few of these passes."""
    (tmp_path / "polled.py").write_text(POLLED)
    port = free_port()
    words = ["streamlit", "run", "polled.py", f"--server.port={port}", "--server.address=localhost"]
    words += ["--server.headless=true", "--browser.gatherUsageStats=false"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, start_new_session=True
    )
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", server)
        with browsing() as page:  # in which no script may fail
            page.goto(f"http://localhost:{port}")
            page.get_by_text("pass 12 is drawn").wait_for()
    finally:
        end(server, signal.SIGTERM)


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
