"""The main journey in a real Chromium, on the server that `make app` starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from PIL import Image

from analysis.data.scenes import CLASSES, render
from pruning.runs import folder as runs

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SHOTS = ROOT / "build" / "shots"
LOG = ROOT / "build" / "app.log"
SECONDS = 1000  # Playwright counts milliseconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@contextmanager
def serving(port: int, run_folders: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The app on a port of this machine, up and answering; gone at the end."""
    LOG.parent.mkdir(exist_ok=True)
    settings = {"STREAMLIT_SERVER_HEADLESS": "true", "STREAMLIT_SERVER_ADDRESS": "127.0.0.1"}
    settings["PRUNESCOPE_RUNS"] = str(run_folders)
    with LOG.open("w") as out:
        process = subprocess.Popen(
            ["make", "app", f"PORT={port}"],
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
    return f"http://127.0.0.1:{str(process.args[-1]).removeprefix('PORT=')}"  # type: ignore[index]


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


@pytest.fixture
def page(server: str) -> Iterator[Page]:
    with browsing() as page:
        page.goto(server)
        yield page


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
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert errors == []


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


def slide(page: Page, key: str, percent: int) -> None:
    """Move a slider by its keyboard, one percent a key."""
    thumb = page.locator(f".st-key-{key} input[type=range]")
    now = int(thumb.input_value())
    thumb.focus()
    for _ in range(abs(percent - now)):
        page.keyboard.press("ArrowRight" if percent > now else "ArrowLeft")
    settle(page)
    assert thumb.input_value() == str(percent)


def test_prune_compare_and_leave_with_a_model(page: Page, tmp_path: Path) -> None:
    open_page(page, "Model")
    page.get_by_text("2,721,226").wait_for()
    page.locator(".st-key-samples img").last.wait_for()
    shoot(page, "model")

    open_page(page, "Attention")
    page.get_by_label("Number, 0 to").fill("24")
    page.keyboard.press("Enter")
    page.get_by_text("star/test-00024").wait_for()
    page.locator(".st-key-head-grid").first.wait_for()  # while it reruns there are two
    settle(page)
    shoot(page, "attention")

    open_page(page, "Prune")
    page.locator(".st-key-estimate").wait_for()
    slide(page, "ratio-qk", 60)
    slide(page, "ratio-mlp", 30)
    page.locator(".st-key-estimate").get_by_text("1,925,902").wait_for()
    page.locator(".st-key-try button").first.click()  # the second is its help
    page.locator(".st-key-what-if").wait_for()
    page.locator(".st-key-prune button").click()
    page.locator(".st-key-latest-run").wait_for(timeout=180 * SECONDS)
    settle(page)
    shoot(page, "prune")

    open_page(page, "Compare")
    page.locator(".st-key-table").get_by_text("1,925,902").wait_for()
    table = page.locator(".st-key-table").inner_text()
    assert re.search(r"Top-1\s+[\d.]+\s%\s+[\d.]+\s%", table), table
    params = re.search(r"Parameters\s+([\d,]+)\s+([\d,]+)", table)
    assert params, table
    dense, small = (int(count.replace(",", "")) for count in params.groups())
    assert (dense, small) == (2_721_226, 1_925_902)
    shoot(page, "compare")

    open_page(page, "Export")
    page.locator(".st-key-build-bundle button").click()
    with page.expect_download() as download:
        page.locator(".st-key-download-bundle button").click()
    shoot(page, "export")
    packed = tmp_path / "bundle.zip"
    download.value.save_as(packed)
    check_bundle(packed, tmp_path / "elsewhere", small)


def check_bundle(packed: Path, folder: Path, params: int) -> None:
    """Load and run the downloaded bundle in a process that has neither this project nor timm."""
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    (bundle,) = folder.iterdir()
    right = 0
    for index in range(5):
        scene = render("test", index)
        Image.fromarray(scene.image).save(folder / f"{index}.png")
    script = (
        "import sys\n"
        "for name in ('timm', 'analysis', 'pruning', 'app', 'torchvision'): sys.modules[name] = None\n"
        "import json, torch\n"
        "from safetensors.torch import load_file\n"
        "from vit import Architecture, ViT\n"
        "model = ViT(Architecture.from_json(open('architecture.json').read())).eval()\n"
        "model.load_state_dict(load_file('model.safetensors'))\n"
        "import example\n"
        "print(json.dumps({'params': sum(p.numel() for p in model.parameters())}))\n"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, cwd=bundle, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["params"] == params
    for index in range(5):
        run = [sys.executable, "example.py", str(folder / f"{index}.png")]
        done = subprocess.run(run, cwd=bundle, capture_output=True, text=True, check=True)
        first = done.stdout.splitlines()[0]
        assert any(name in first for name in CLASSES), done.stdout
        right += CLASSES[index] in first
    assert right >= 2, "the pruned demo should still know some of five scenes"


@pytest.mark.slow
def test_a_run_outlives_refresh_and_tabs(page: Page, run_folders: Path) -> None:
    before = {run.folder for run in runs.list_runs(run_folders)}
    new = lambda: [run for run in runs.list_runs(run_folders) if run.folder not in before]

    open_page(page, "Prune")
    choose(page, "method", "L1 magnitude")
    page.locator(".st-key-prune button").dblclick()
    page.locator(".st-key-latest-panel").wait_for()
    page.locator(".st-key-activity").wait_for()
    shoot(page, "prune-running")
    page.reload()  # a new session, which knows nothing but what lies on disk
    page.locator(".st-key-latest-panel, .st-key-latest-run").first.wait_for()
    page.locator(".st-key-latest-run").wait_for(timeout=120 * SECONDS)
    (run,) = new()
    assert (run.state, run.status.attempt) == ("done", 1)

    open_page(page, "Recover")
    for key, value in (("epochs", "1"), ("batch", "8"), ("images", "16000")):
        if key == "images":
            page.locator(".st-key-recovery-more summary").click()
        page.locator(f".st-key-recovery-{key} input").fill(value)
        page.keyboard.press("Enter")
        settle(page)
    page.locator(".st-key-recovery-more summary").click()
    page.locator(".st-key-recover button").click()
    page.locator(".st-key-activity").get_by_text("Training").wait_for(timeout=120 * SECONDS)
    page.locator(".st-key-curves .js-plotly-plot").first.wait_for()
    shoot(page, "recover-running")
    assert page.context.browser
    second = page.context.browser.new_page()
    second.set_default_timeout(180 * SECONDS)  # the run at work leaves little of a small machine
    second.goto(page.url)
    second.locator(".st-key-run-panel").get_by_text("Training").wait_for()
    second.locator(".st-key-run-panel-cancel button").click()
    page.locator(".st-key-run-panel").get_by_text("cancelled").first.wait_for(timeout=120 * SECONDS)
    shoot(page, "recover-cancelled")
    assert [(found.state, found.status.attempt) for found in new()] == [("cancelled", 1), ("done", 1)]


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


def test_bad_photo_is_a_sentence(page: Page, tmp_path: Path) -> None:
    fake = tmp_path / "photo.jpg"
    fake.write_text("this is no picture")
    open_page(page, "Attention")
    page.get_by_text("Own photos", exact=True).click()
    page.locator(".st-key-photo input[type=file]").set_input_files(fake)
    alert = page.get_by_role("alert").first
    alert.wait_for()
    assert "photo.jpg" in alert.inner_text() and "Traceback" not in page.locator("body").inner_text()
    shoot(page, "bad-photo")


def test_narrow_and_dark_do_not_break(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto(f"{page.url.rstrip('/')}/prune")
    page.locator(".st-key-ratio-qk input[type=range]").wait_for(state="attached")
    settle(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 420
    shoot(page, "prune-narrow-dark")
