"""In a real Chromium, with two runs: the Compare page, its report, and every page under axe-core.

axe-core (MPL-2.0) comes with axe-playwright-python. One test uses it; the app has nothing of it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.state import session_runs
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.runs import folder as runs
from pruning.runs import launch, process
from tests.support.browser import SECONDS, choose, pick, settle, shoot

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]


READY = {  # of every page, what arrives last
    "": ".st-key-start-demo img",
    "model": ".st-key-samples img",
    "attention": "img[alt^='Rollout']",
    "heads": ".st-key-head-graph-plot .js-plotly-plot",
    "prune?mode=sliders&method=snp": ".st-key-latest-run",
    "prune": ".st-key-latest-run",
    "recover": ".st-key-recover",
    "runs": ".st-key-run-panel",
    "compare": ".st-key-table",
    "export": ".st-key-build button",
}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def two(run_folders: Path) -> list[runs.Run]:
    """Two finished runs on the demo, one of which lost half of its heads. To be asked for before `page`."""
    found = [
        finished(Job("demo", "demo", "l2", ratios=ratios, limit=40), run_folders)
        for ratios in (Ratios(qk=0.8, v=0.3, mlp=0.75), Ratios(heads=0.5))
    ]
    time.sleep(session_runs.POLL)  # for so long a server goes by what it has listed before
    return found


def finished(job: Job, root: Path) -> runs.Run:
    folder, lock = launch._create(job, root, 1)
    lock.close()
    return process.execute(folder)


def test_compare_two_runs_and_take_the_report_along(two: list[runs.Run], page: Page, tmp_path: Path) -> None:
    page.goto(f"{page.url.rstrip('/')}/compare")
    page.locator(".st-key-table").wait_for()
    calm(page)
    pick(page, "compare-runs", "Run 1: L2 magnitude", exact=False)
    page.keyboard.press("Escape")
    page.locator(".st-key-table").get_by_text("run 1", exact=True).wait_for()
    calm(page)
    page.get_by_role("tab", name="Maps").click()
    calm(page)
    choose(page, "compare-fuse", "max")
    page.locator(".st-key-compare-image-next button").first.click()  # the second is its help
    page.wait_for_url("**image=1*")
    line = page.locator(".st-key-tab-maps .wipe input").first
    line.focus()
    page.keyboard.press("End")  # as a drag to the right
    assert line.evaluate("slider => slider.parentElement.style.getPropertyValue('--at')") == "100%"
    page.locator(".st-key-preserved-run-1 .js-plotly-plot").first.wait_for()
    calm(page)
    shoot(page, "compare-maps")
    assert page.locator(".st-key-compare-block input").input_value() == "3"
    click_cell(page, "preserved-run-2", block=5, head=2)
    page.wait_for_url("**head=5.2*")
    calm(page)
    assert page.locator(".st-key-compare-block input").input_value() == "5"

    page.get_by_role("tab", name="Predictions").click()
    page.locator(".st-key-compare-flips-of").wait_for()
    calm(page)
    page.locator(".st-key-compare-flips-of").get_by_text("run 1", exact=True).click()
    page.locator(".st-key-flips img").first.wait_for()
    calm(page)
    before = page.locator(".st-key-table").inner_text()
    shoot(page, "compare-predictions")
    page.reload()  # a new session, which knows the address alone
    page.locator(".st-key-flips img").first.wait_for()
    calm(page)
    assert page.locator(".st-key-table").inner_text() == before
    page.get_by_role("tab", name="Maps").click()
    page.locator(".st-key-preserved-run-1 .js-plotly-plot").first.wait_for()
    calm(page)
    keys = ("image", "block", "head", "fuse")
    values = [page.locator(f".st-key-compare-{key} input").input_value() for key in keys]
    assert values == ["1", "5", "2", "max"]

    page.get_by_role("tab", name="Report").click()
    calm(page)
    page.locator(".st-key-make-report button").click()
    page.locator(".st-key-download-report button").wait_for(timeout=180 * SECONDS)
    with page.expect_download() as download:
        page.locator(".st-key-download-report button").click()
    saved = tmp_path / "report.html"
    download.value.save_as(saved)
    assert saved.stat().st_size < 5e6
    open_offline(page, saved)


def calm(page: Page) -> None:
    """Wait until the page is of one piece: nothing runs, and nothing of an earlier run is left."""
    settle(page)
    page.wait_for_function("!document.querySelector('[data-stale=true]')")


def click_cell(page: Page, key: str, block: int, head: int) -> None:
    """Click a head in the grid of preservation, where Plotly says it is."""
    page.locator(f".st-key-{key} .js-plotly-plot").first.scroll_into_view_if_needed()
    place = page.evaluate(
        """([key, block, head]) => {
            const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
            return [
                box.left + xaxis._offset + xaxis.l2p(block), box.top + yaxis._offset + yaxis.l2p(head)
            ];
        }""",
        [key, block, head],
    )
    page.mouse.move(place[0] - 3, place[1])  # the pointer is there first, as people's are
    page.mouse.click(*place)


def open_offline(page: Page, file: Path) -> None:
    """The report as a colleague opens it: from a file, without a network, in both themes."""
    assert page.context.browser
    context = page.context.browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
    reader = context.new_page()
    troubles: list[str] = []
    reader.on("console", lambda message: troubles.append(message.text))
    reader.on("pageerror", lambda error: troubles.append(str(error)))
    reader.on("requestfailed", lambda request: troubles.append(request.url[:100]))
    for theme in ("light", "dark"):
        reader.emulate_media(color_scheme=theme)
        reader.goto(file.as_uri())
        reader.get_by_role("heading", name="demo and run").wait_for()
        reader.screenshot(path=file.with_suffix(f".{theme}.png"), full_page=True)
    assert reader.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert reader.locator("svg").count() == 3 and reader.locator("img").count() > 10
    assert reader.evaluate("document.documentElement.scrollWidth") <= 1000
    reader.set_viewport_size({"width": 420, "height": 900})
    assert reader.evaluate("document.documentElement.scrollWidth") <= 420
    assert troubles == []


def test_phone_width_and_dark_do_not_break(two: list[runs.Run], page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 420, "height": 900})
    names = "&".join(f"runs={run.name}" for run in two)
    for tab in ("Maps", "Widths"):
        page.goto(f"{page.url.split('/compare')[0].rstrip('/')}/compare?{names}&compare-tab={tab}")
        page.locator(f".st-key-tab-{tab.lower()} .js-plotly-plot").first.wait_for(timeout=90 * SECONDS)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
    shoot(page, "compare-narrow-dark")


def test_axe_finds_nothing_serious_on_any_page(two: list[runs.Run], page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def look(page_name: str, theme: str, **rules: list[str]) -> list[str]:
        settle(page)
        response = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response
        return [f"{page_name or 'start'}, {theme}: {fault}" for fault in faults(response)]

    home, found = page.url.rstrip("/"), []
    for name, ready in READY.items():
        page.emulate_media(color_scheme="light")
        page.goto(f"{home}/{name}")
        page.locator(ready).last.wait_for()
        found += look(name, "light")
        page.emulate_media(color_scheme="dark")  # which differs in its colours alone
        found += look(name, "dark", runOnly=["color-contrast"])
    assert not found, "\n".join(found)


def faults(response: dict[str, Any]) -> list[str]:
    """What axe-core objects to and calls serious or critical, one line for each element."""
    return [
        f"{one['id']} at {' '.join(map(str, node['target']))}: {node['failureSummary']!r}"
        for one in response["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
