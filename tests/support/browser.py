"""The app in a real Chromium: started, driven, looked at."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.models import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SHOTS = ROOT / "build" / "shots"
LOG = ROOT / "build" / "app.log"
LISTENS = "0A"  # the state of a socket in /proc/net/tcp
SECONDS = 1000  # Playwright counts milliseconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cache_beside(run_folders: Path) -> Path:
    """Where a server with these runs keeps surveys."""
    return run_folders.with_name(f"{run_folders.name}-cache")


@contextmanager
def serving(
    port: int, run_folders: Path, options: Sequence[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The app on a port of this machine, up and answering; gone at the end.

    `make app` starts it, or `python -m app` with these options.
    """
    command = ["make", "app", f"PORT={port}"]
    if options is not None:
        command = [sys.executable, "-m", "app", *options, f"--server.port={port}"]
    LOG.parent.mkdir(exist_ok=True)
    settings = {"STREAMLIT_SERVER_HEADLESS": "true", "PRUNESCOPE_RUNS": str(run_folders)}
    settings["PRUNESCOPE_CACHE"] = str(cache_beside(run_folders))
    with LOG.open("w") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_until_up(f"{address_of(process)}/_stcore/health", process)
        yield process
    finally:
        if process.poll() is None:
            end(process, signal.SIGTERM)


def address_of(process: subprocess.Popen[bytes]) -> str:
    """Where a server answers."""
    return f"http://localhost:{str(process.args[-1]).rpartition('=')[2]}"  # type: ignore[index]


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


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """End a server and what make started for it."""
    os.killpg(process.pid, how)
    process.wait(20)


def wait_until_up(address: str, process: subprocess.Popen[bytes], seconds: int = 120) -> None:
    for _ in range(seconds * 2):
        assert process.poll() is None, "the server stopped: see build/app.log"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("the server did not come up")


@contextmanager
def browsing() -> Iterator[Page]:
    """A page of a real browser, in which no script may fail."""
    if CHROMIUM is None:
        if os.environ.get("PRUNESCOPE_REQUIRE_BROWSER"):
            pytest.fail("no Chromium found, and this run must not skip the browser tests")
        pytest.skip("no Chromium found: install Debian's chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page.set_default_timeout(60 * SECONDS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(f"{error.name}: {error}\n{error.stack}"))
        yield page
        browser.close()
    assert not errors, "\n".join(errors)


def shoot(page: Page, name: str) -> None:
    """A picture of the whole page, for people to look at (build/shots)."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    assert size
    page.mouse.move(0, 0)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": height})  # the page scrolls inside
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}.png")
    page.set_viewport_size(size)


def open_page(page: Page, name: str) -> None:
    page.locator("[data-testid=stSidebarNav]").get_by_text(name, exact=True).click()
    page.get_by_role("heading", name=name).first.wait_for()
    settle(page)
    assert page.locator("[data-testid=stException], [data-testid=stAlertContentError]").count() == 0


def settle(page: Page) -> None:
    """Wait until Streamlit has nothing left to run; twice, as a script may ask for the next one."""
    idle = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    busy = "[data-testid=stStatusWidget], [data-testid=stSkeleton]"
    for _ in range(2):
        page.wait_for_function(f"{idle} && !document.querySelector('{busy}')")
        page.wait_for_timeout(200)


def slide(page: Page, key: str, percent: int, step: int = 1) -> None:
    """Move a slider by its keyboard, so many percent a key."""
    thumb = page.locator(f".st-key-{key} input[type=range]")
    now = int(thumb.input_value())
    thumb.focus()
    for _ in range(abs(percent - now) // step):
        page.keyboard.press("ArrowRight" if percent > now else "ArrowLeft")
    settle(page)
    assert thumb.input_value() == str(percent)


def own_widths(page: Page, method: str) -> None:
    """On the Prune page: a method, and sliders in place of the one question."""
    more = page.locator(".st-key-more")
    if not more.locator("[data-testid=stSelectbox]").first.is_visible():
        more.locator("summary").first.click()
    choose(page, "method", method)
    sliders = more.get_by_role("radio", name="Sliders").or_(more.get_by_role("button", name="Sliders"))
    sliders.first.click()
    page.locator(".st-key-ratio-qk").wait_for()
    settle(page)


def choose(page: Page, key: str, option: str) -> None:
    """Pick an option of a select box."""
    pick(page, key, option)
    settle(page)


def pick(page: Page, key: str, option: str, exact: bool = True) -> None:
    """Open a list and click an option; opened again where the page, arriving late, has closed it."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    offered = page.get_by_role("option", name=option, exact=exact)
    for _ in range(5):
        page.locator(f".st-key-{key} input").click()
        try:
            offered.click(timeout=5 * SECONDS)
        except PlaywrightTimeout:
            continue
        return
    raise AssertionError(f"{key} does not offer {option}")
