"""How long the app's pages take, and how much memory the server uses, with a real browser and server.

    python benchmarks/pages.py --write

DeiT-Tiny has its real weights; DeiT-Base and others have random ones. All see the real photos. A page counts
as complete when its last image is there and the server is idle. Each time is the median of several.
Needs Chromium, and Playwright from requirements-dev.txt.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from playwright.sync_api import Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from results import ROOT, data_folder, deit_tiny, parser, report, table

from analysis.data import open_data
from analysis.models import LoadedModel, architecture, load
from analysis.vit import ViT
from pruning.bundle import write_bundle

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RANDOM = ("deit_small_patch16_224", "deit_base_patch16_224", "vit_base_patch32_224")
PAGES = ("Start", "Model", "Attention", "Heads", "Prune", "Recover", "Runs", "Compare", "Export")
ROUNDS = 5  # through all pages
REPEATS = 9  # of each click
STARTS = 3  # of the server
SOME = 10  # images viewed with every further model
KEPT = (
    "The server keeps the 6 models and 8 image sets used last, shared by all sessions. Each session keeps "
    "queries and keys of the photos viewed last (128 MB, at least one photo), gradients of 2, 32 crops and "
    "256 small maps."
)
MINUTE = 60_000  # Playwright counts milliseconds


@dataclass(frozen=True)
class Place:
    """The folders of the bundles, the photos, and the photos' names in order."""

    bundles: dict[str, Path]
    photos: Path
    names: list[str]


def prepare(folder: Path) -> Place:
    """Write bundles of DeiT-Tiny and of random models, all for the same photos."""
    job = deit_tiny()
    tiny = load(job.model, Path(job.weights or ""))
    bundles = {"deit_tiny_patch16_224": bundle(folder, "deit_tiny_patch16_224", tiny)}
    for name in RANDOM:
        model = ViT(architecture(name)).eval()
        model.init_weights()
        bundles[name] = bundle(folder, name, replace(tiny, model=model))
    photos = data_folder() / "imagenet-val-650.zip"
    found = open_data(photos, tiny.preprocess, 1000, "test")
    return Place(bundles, photos, [found.item_name(i) for i in range(len(found))])


def bundle(folder: Path, name: str, loaded: LoadedModel) -> Path:
    return write_bundle(folder / name, loaded.model, loaded.preprocess, name=name, report={})


@contextmanager
def server(runs: Path, threads: int) -> Iterator[tuple[str, int]]:
    """Start the app as `make app` does; gives its address and process id as soon as it responds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"STREAMLIT_SERVER_HEADLESS": "true"}
    settings |= {"PRUNESCOPE_RUNS": str(runs), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "app", "--server.port", str(port)]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            address = f"http://localhost:{port}"
            wait_until_up(f"{address}/_stcore/health", process)
            yield address, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.02)
    sys.exit("the server did not start")


@contextmanager
def browser() -> Iterator[Page]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(5 * MINUTE)
        yield page
        chromium.close()


def idle(page: Page) -> None:
    """Wait until the server is idle."""
    busy = "[data-testid=stStatusWidget], [data-testid=stSkeleton]"
    page.wait_for_function(f"!document.querySelector('{busy}')")


def first_page(runs: Path, threads: int) -> tuple[float, float]:
    """Seconds until the server responds, and from then opening the address until the page is complete."""
    with browser() as page:
        started = time.perf_counter()
        with server(runs, threads) as (address, _):
            began = time.perf_counter()
            page.goto(address)
            page.locator(".st-key-start-scenes img").last.wait_for()
            idle(page)
            return began - started, time.perf_counter() - began


def choose(page: Page, model: Path, photos: Path) -> None:
    """Load a bundle and the photos with the sidebar's form."""
    if not page.locator(".st-key-model-source input").is_visible():
        page.locator(".st-key-source summary").click()
    for key, option in (("model-source", "Bundle"), ("image-source", "Folder or zip")):
        pick(page, key, option)
        idle(page)
    for key, value in (("bundle-folder", model), ("data-path", photos)):
        page.locator(f".st-key-{key} input").fill(str(value))
        page.keyboard.press("Enter")
        idle(page)
    page.locator(".st-key-load button").click()
    page.locator(".st-key-loaded").get_by_text(model.name, exact=True).wait_for()
    page.wait_for_timeout(500)
    idle(page)


def pick(page: Page, key: str, option: str) -> None:
    """Open a list and click an option; open it again if a late update of the page has closed it."""
    offered = page.get_by_role("option", name=option, exact=True)
    for _ in range(5):
        page.locator(f".st-key-{key} input").click()
        try:
            offered.click(timeout=3000)
        except PlaywrightTimeout:
            continue
        return
    sys.exit(f"the list of {key} does not offer {option}")


def show(page: Page, number: int, name: str) -> None:
    """Go to a photo by its number, and wait until the whole page shows it."""
    box = page.get_by_label("Number, 0 to")
    box.fill(str(number))
    page.keyboard.press("Enter")
    arrived(page, name)


def step(page: Page, name: str) -> float:
    """Seconds from a click on Next until the page of the next photo is complete."""
    before = page.locator("img[alt^='Rollout']").first.get_attribute("src")
    began = time.perf_counter()
    page.locator(".st-key-image-next button").first.click()
    arrived(page, name)
    page.wait_for_function(
        "before => document.querySelector(\"img[alt^='Rollout']\").getAttribute('src') !== before", arg=before
    )
    idle(page)
    return time.perf_counter() - began


def arrived(page: Page, name: str) -> None:
    page.get_by_text(name).first.wait_for()
    page.locator("img[alt^='Rollout']").first.wait_for()
    idle(page)


def click(page: Page, row: int, column: int, rows: int) -> float:
    """Seconds from a click on a patch until the maps of what it attends to and what attends to it."""
    picture = page.locator(".st-key-patches .picture")
    box = picture.bounding_box()
    if box is None:
        sys.exit("the photo is not on the page")
    picture.hover(  # waits until the photo stops moving
        position={"x": (column + 0.5) * box["width"] / rows, "y": (row + 0.5) * box["height"] / rows}
    )
    page.locator(".st-key-patches .said").get_by_text(f"row {row}, column {column}", exact=True).wait_for()
    began = time.perf_counter()
    page.mouse.down()
    page.mouse.up()
    for what in (f"where patch {row}, {column} looks", f"who looks at patch {row}, {column} "):
        page.wait_for_function(
            "alt => [...document.querySelectorAll('img')].some(e => e.alt.startsWith(alt) && e.complete)",
            arg=what,
        )
    seconds = time.perf_counter() - began
    idle(page)
    return seconds


def open_attention(page: Page) -> None:
    """Open the Attention page, or draw it anew, until it is still: what is typed before may be lost."""
    page.locator("[data-testid=stSidebarNav]").get_by_text("Attention", exact=True).click()
    page.get_by_role("heading", name="Attention").first.wait_for()
    page.wait_for_timeout(500)
    page.wait_for_function(STILL)
    idle(page)


def look(page: Page, place: Place, name: str) -> tuple[float, float]:
    """Median seconds for a new photo and for a click on a patch."""
    choose(page, place.bundles[name], place.photos)
    open_attention(page)
    show(page, 0, place.names[0])
    steps = [step(page, place.names[number]) for number in range(1, REPEATS + 1)]
    clicks = [click(page, 2 + number, 3 + number, 14) for number in range(REPEATS)]
    return statistics.median(steps), statistics.median(clicks)


def switches(page: Page) -> dict[str, float]:
    """Median seconds from a click in the sidebar until that page is complete, after one round through all."""
    seconds: dict[str, list[float]] = {name: [] for name in PAGES}
    for number in range(ROUNDS + 1):
        for name in PAGES:
            began = time.perf_counter()
            page.locator("[data-testid=stSidebarNav]").get_by_text(name, exact=True).click()
            heading = "smaller" if name == "Start" else name
            page.get_by_role("heading", name=heading).first.wait_for()
            idle(page)
            page.wait_for_function(f"{STILL} && [...document.images].every(image => image.complete)")
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


STILL = (
    "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning' "
    "&& !document.querySelector('[data-stale=true]')"
)


def resident(process: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def browse(page: Page, place: Place, process: int, images: int) -> list[list[str]]:
    """Memory while images and models are viewed; several rounds of models show whether it keeps growing."""
    rows = []

    def note(what: str) -> None:
        rows.append([what, f"{resident(process):,.0f}"])

    first, *others = place.bundles
    choose(page, place.bundles[first], place.photos)
    open_attention(page)
    for number in range(images):
        show(page, number, place.names[number])
        if number + 1 in (1, images // 4, images // 2, images):
            note(f"{first}, {number + 1} images")
    for count in (1, 2, 3):
        for name in (*others, first):
            choose(page, place.bundles[name], place.photos)
            for number in range(SOME):
                show(page, number, place.names[number])
        note(f"all {len(place.bundles) + 1} models, round {count}")
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=200, help="images viewed to measure memory")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        place, runs = prepare(Path(folder)), Path(folder) / "runs"
        starts = [first_page(runs, given.threads) for _ in range(STARTS)]
        up, opened = (statistics.median(seconds) for seconds in zip(*starts, strict=True))
        rows = [["server start, until it responds", f"{up:.2f}", ""]]
        rows.append(["first page after the start", f"{opened:.2f}", "2"])
        with browser() as page, server(runs, given.threads) as (address, process):
            page.goto(address)
            page.locator(".st-key-start-scenes img").last.wait_for()
            idle(page)
            started = resident(process)
            for name, photo in (("deit_tiny_patch16_224", "1.5"), ("deit_base_patch16_224", "4")):
                new, patch = look(page, place, name)
                rows.append([f"new photo, {name}", f"{new:.2f}", photo])
                rows.append([f"click on a patch, {name}", f"{patch:.2f}", "0.3"])
                if name == "deit_tiny_patch16_224":
                    rows += [
                        [f"to {to}, {name}", f"{took:.2f}", "1.5"] for to, took in switches(page).items()
                    ]
        with browser() as page, server(runs, given.threads) as (address, process):
            page.goto(address)
            page.locator(".st-key-start-scenes img").last.wait_for()
            idle(page)
            memory = [
                ["the demo's first page", f"{started:,.0f}"],
                *browse(page, place, process, given.images),
            ]
    waits = table(["action", "seconds", "target"], rows)
    report("Pages", f"{waits}\n\n{table(['viewed', 'server, MB'], memory)}\n\n{KEPT}", given.write)


if __name__ == "__main__":
    main()
