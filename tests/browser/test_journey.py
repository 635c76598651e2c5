"""The main journey in a real Chromium, on the server that `make app` starts."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image

from analysis.data.scenes import CLASSES, render
from analysis.measure.cost import cost
from analysis.models.preprocess import Preprocess
from analysis.vit import Architecture, BlockWidths
from pruning import cache
from pruning.budget.allocate import Budget
from pruning.bundle.write import write_bundle
from pruning.jobs import survey
from pruning.jobs.inputs import prepare
from pruning.jobs.prune_job import Job
from pruning.methods import Survey
from pruning.runs import folder as runs
from tests.support.browser import (
    SECONDS,
    cache_beside,
    listening,
    open_page,
    own_widths,
    settle,
    shoot,
    slide,
)
from tests.support.budgets import DEIT_TINY, synthetic
from tests.support.models import TINY, random_vit

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


CLICKS = """() => {
  window.clicked = [];
  const name = (node) => node.closest("summary") ? "an expander" : node.closest("button")?.innerText ?? "";
  const note = (event) => event.isTrusted && window.clicked.push(name(event.target));
  document.addEventListener("click", note, true);
}"""


def leave_with_a_smaller_file(page: Page, model: Path, images: Path, said: str) -> Architecture:
    """What a new user does: drops two files, answers one question, presses one button, downloads the file.

    `said` is what the page must have recognised in the model. No expander is opened, and with the files and
    the answer it is at most eight steps.
    """
    page.evaluate(CLICKS)
    page.locator(".st-key-start-model input[type=file]").set_input_files(model)
    page.locator(".st-key-start-images input[type=file]").set_input_files(images)
    page.locator(".st-key-start-facts").get_by_text(said).wait_for()
    page.locator(".st-key-own-shrink button").click()
    page.get_by_role("heading", name="How much smaller?").wait_for()
    settle(page)
    slide(page, "smaller-gmacs", 30, step=5)
    assert "smaller-gmacs=30" in page.url
    page.locator(".st-key-prune button").click()
    page.locator(".st-key-latest-run").wait_for(timeout=240 * SECONDS)
    settle(page)
    with page.expect_download() as download:
        page.locator(".st-key-download-latest button").click()
    clicked = page.evaluate("window.clicked")
    assert "an expander" not in clicked and len(clicked) + len(["two files", "dropped", "an answer"]) <= 8, (
        clicked
    )
    with zipfile.ZipFile(download.value.path()) as archive:
        (written,) = [name for name in archive.namelist() if name.endswith("architecture.json")]
        return Architecture.from_json(archive.read(written).decode())


def test_a_new_user_leaves_with_a_smaller_deit(
    page: Page, run_folders: Path, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, photos = real_data / "deit_tiny_patch16_224.safetensors", few_photos(real_data, tmp_path)
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(cache_beside(run_folders)))
    keep_sensitivities(weights, photos)
    small = leave_with_a_smaller_file(page, weights, photos, "12 blocks × 3 heads")
    shoot(page, "new-user")
    assert 0.8 < cost(small).gmacs <= 0.7 * 1.254
    (run,) = (run for run in runs.list_runs(run_folders) if run.job and run.job.weights)
    assert "Sensitivities were measured before" in runs.log(run.folder)


def keep_sensitivities(weights: Path, photos: Path) -> None:
    """Keep, where the page finds them, sensitivities by formula: to measure those of DeiT-Tiny takes minutes.

    The journey with a phone measures those of its smaller model.
    """
    job = Job(
        "deit_tiny_patch16_224",
        str(photos),
        "spectral",
        weights=str(weights),
        budget=Budget(gmacs=0.9),
        options=(("images", 6),),  # three quarters of the calibration images
    )
    key = survey.survey_key(prepare(job), Budget.images)
    cache.keep(survey._KIND, key, survey._written(Survey(synthetic(DEIT_TINY))))


def few_photos(real_data: Path, folder: Path) -> Path:
    """A zip of two photos of each of eight classes."""
    with (
        zipfile.ZipFile(real_data / "imagenette-val.zip") as photos,
        zipfile.ZipFile(folder / "few.zip", "w") as few,
    ):
        by_class: dict[str, list[str]] = {}
        for name in sorted(photos.namelist()):
            by_class.setdefault(name.partition("/")[0], []).append(name)
        for names in list(by_class.values())[:8]:
            for name in names[:2]:
                few.writestr(name, photos.read(name))
    return folder / "few.zip"


def test_a_new_user_with_a_phone_does_so_too(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    small = leave_with_a_smaller_file(page, *dropped(tmp_path), "2 blocks × 3 heads")
    assert 0.6 * cost(DROPPED).gmacs < cost(small).gmacs <= 0.7 * cost(DROPPED).gmacs
    shoot(page, "new-user-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


DROPPED = replace(
    TINY, image_size=(32, 32), num_classes=2, blocks=(BlockWidths(3, 16, 16, 64), BlockWidths(3, 16, 16, 64))
)


def dropped(folder: Path) -> tuple[Path, Path]:
    """Zips of a bundle and of scenes of the demo in class folders."""
    preprocess = Preprocess(DROPPED.image_size, labels=CLASSES[:2])
    write_bundle(folder / "own", random_vit(DROPPED), preprocess, name="own", report={})
    for index in range(100):
        scene = render("test", index)
        if scene.label < 2:
            place = folder / "photos" / CLASSES[scene.label] / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(place)
    packed = [shutil.make_archive(str(folder / name), "zip", folder / name) for name in ("own", "photos")]
    return Path(packed[0]), Path(packed[1])


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

    page.goto(f"{page.url.partition('/attention')[0]}/prune?method=snp&mode=sliders")
    page.locator(".st-key-estimate").wait_for()
    settle(page)
    slide(page, "ratio-qk", 60)
    drag_and_read(page, "ratio-mlp")
    slide(page, "ratio-mlp", 30)
    page.locator(".st-key-estimate").get_by_text("1,925,902").wait_for()
    page.locator(".st-key-following").get_by_text("1.93 M parameters (−29.2 %)").wait_for()
    page.locator(".st-key-try button").first.click()  # the second is its help
    page.locator(".st-key-rough-estimate").wait_for(timeout=180 * SECONDS)
    page.locator(".st-key-prune button").click()
    page.locator(".st-key-latest-run").wait_for(timeout=180 * SECONDS)
    settle(page)
    shoot(page, "prune")

    page.locator(".st-key-latest-run-compare button").click()  # while sliders have values in the address
    page.get_by_role("heading", name="Compare").first.wait_for()
    settle(page)
    assert page.locator("[data-testid=stException]").count() == 0 and "ratio-" not in page.url
    page.locator(".st-key-table").get_by_text("1,925,902").wait_for()
    table = page.locator(".st-key-table").inner_text()
    assert re.search(r"Top-1\s+[\d.]+\s%\s+[\d.]+\s%", table), table
    params = re.search(r"Parameters\s+([\d,]+)\s+([\d,]+)", table)
    assert params, table
    dense, small = (int(count.replace(",", "")) for count in params.groups())
    assert (dense, small) == (2_721_226, 1_925_902)
    shoot(page, "compare")

    open_page(page, "Export")
    page.locator(".st-key-build button").click()
    with page.expect_download() as download:
        page.locator(".st-key-download-bundle button").click()
    shoot(page, "export")
    packed = tmp_path / "bundle.zip"
    download.value.save_as(packed)
    check_bundle(packed, tmp_path / "elsewhere", small)


def drag_and_read(page: Page, key: str) -> None:
    """While a slider is dragged, the page says what it comes to, before the server hears of it."""
    thumb = page.locator(f".st-key-{key} input[type=range]")
    thumb.scroll_into_view_if_needed()
    box = thumb.bounding_box()
    assert box
    said, served = page.locator(".st-key-following .following"), page.locator(".st-key-estimate")
    before = said.inner_text(), served.inner_text()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.wait_for_timeout(200)
    assert int(thumb.input_value()) > 10
    assert said.inner_text() != before[0] and served.inner_text() == before[1]
    page.mouse.up()
    settle(page)


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
    own_widths(page, "L1 magnitude (from a paper)")
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
    page.goto(f"{page.url.rstrip('/')}/prune?mode=sliders")
    page.locator(".st-key-ratio-qk input[type=range]").wait_for(state="attached")
    settle(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 420
    shoot(page, "prune-narrow-dark")


def test_a_page_opened_by_its_address_asks_for_nothing_that_is_not_there(server: str, page: Page) -> None:
    answers: list[tuple[int, str]] = []
    page.on("response", lambda response: answers.append((response.status, response.url)))
    page.goto(f"{server}/attention?image=7")
    page.locator("img[alt^='Rollout']").last.wait_for()
    settle(page)
    assert urlsplit(page.url).path == "/attention"
    assert len(answers) > 1 and [told for told in answers if told[0] >= 400] == []


def test_the_back_button_leads_to_the_page_before(server: str, page: Page) -> None:
    page.goto(f"{server}/model")
    settle(page)
    open_page(page, "Heads")
    page.locator(".st-key-heads-block input").fill("2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/heads?heads-block=2*")
    settle(page)
    page.go_back()
    page.get_by_role("heading", name="Model").first.wait_for()
    settle(page)
    assert urlsplit(page.url).path == "/model"
    page.go_forward()
    page.get_by_role("heading", name="Heads").first.wait_for()
    page.get_by_role("heading", name="Block 2, head 0").wait_for()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are listed there on Linux only")
def test_it_listens_on_loopback_alone(server: str) -> None:
    port = urlsplit(server).port
    assert port is not None
    found = listening(port)
    assert found and all(ipaddress.ip_address(address).is_loopback for address in found), found
