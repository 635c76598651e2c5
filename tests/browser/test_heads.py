"""Heads in a real Chromium: measured in the background, one clicked in the graph, locked, and obeyed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analysis.measure.cost import cost
from analysis.models.load import load
from pruning.cut.head_locks import HeadLocks
from pruning.jobs.heads import HeadsJob, open_reading
from pruning.jobs.prune_job import Job
from pruning.runs import folder as runs
from tests.support.browser import SECONDS, open_page, own_widths, settle, shoot, slide

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Where a circle of the graph is on the screen, and the head it stands for.
CIRCLES = """() => {
  const plot = [...document.querySelectorAll('.st-key-head-graph-plot .js-plotly-plot')].at(-1);
  const heads = plot.data.length - 1, box = plot.getBoundingClientRect(), layout = plot._fullLayout;
  return plot.data[heads].x.map((x, i) => ({
    head: [...plot.data[heads].customdata[i]].slice(0, 2),
    x: box.left + layout.xaxis._offset + layout.xaxis.d2p(x),
    y: box.top + layout.yaxis._offset + layout.yaxis.d2p(plot.data[heads].y[i]),
    size: plot.data[heads].marker.size[i],
  }));
}"""


def shown_head(page: Page) -> tuple[int, int]:
    return tuple(  # type: ignore[return-value]
        int(page.locator(f".st-key-heads-{name} input").input_value()) for name in ("block", "head")
    )


def click_in_graph(page: Page) -> tuple[int, int]:
    """Click the circle that stands most by itself and is not chosen yet; the head it stands for."""
    page.locator(".st-key-head-graph-plot").scroll_into_view_if_needed()
    settle(page)
    circles = page.evaluate(CIRCLES)
    chosen = shown_head(page)

    def room(one: dict[str, float]) -> float:
        others = (other for other in circles if other is not one)
        return min((one["x"] - o["x"]) ** 2 + (one["y"] - o["y"]) ** 2 for o in others)

    best = max((one for one in circles if tuple(one["head"]) != chosen), key=room)
    page.mouse.click(best["x"], best["y"])
    block, head = best["head"]
    page.get_by_role("heading", name=f"Block {block}, head {head}").wait_for()
    settle(page)
    return block, head


def test_a_head_locked_in_the_graph_is_gone_after_pruning(page: Page, run_folders: Path) -> None:
    open_page(page, "Heads")
    page.locator(".st-key-heads-source").get_by_text("A quick look").wait_for()
    page.locator(".st-key-measure button").first.click()
    page.locator(".st-key-heads-measured-on input").fill("4")
    page.keyboard.press("Enter")
    page.locator(".st-key-measure-heads button").click()
    page.locator(".st-key-heads-source").get_by_text("Measured on 4").wait_for(timeout=120 * SECONDS)
    (measured,) = [run for run in runs.list_runs(run_folders) if isinstance(run.job, HeadsJob)]
    found = open_reading(measured.folder)
    settle(page)
    page.keyboard.press("Escape")

    block, head = click_in_graph(page)
    assert shown_head(page) == (block, head)
    place = 6 * block + head
    shown = page.locator(".st-key-head-numbers").inner_text()
    value = re.search(r"Integrated gradients\s+(\S+)", shown)
    assert value and float(value[1]) == pytest.approx(found.values["integrated"][place], rel=6e-3)
    page.locator(".st-key-head-what-if button").first.click()
    page.locator(".st-key-head-outcome").wait_for()
    page.get_by_role("radio", name="Remove").click()
    page.locator(".st-key-decided").get_by_text(f"1 head to remove ({block}.{head})").wait_for()
    settle(page)
    shoot(page, "heads")

    page.reload()  # a new session, which the address tells what was shown and locked
    page.get_by_role("heading", name=f"Block {block}, head {head}").wait_for()
    page.locator(".st-key-decided").get_by_text(f"1 head to remove ({block}.{head})").wait_for()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

    open_page(page, "Prune")
    own_widths(page, "SNP (from a paper)")
    slide(page, "ratio-qk", 0)
    dense = load("demo").model.arch
    left = cost(HeadLocks(remove=((block, head),)).left(dense)).params
    page.locator(".st-key-estimate").get_by_text(f"{left:,}").wait_for()
    page.locator(".st-key-locked").get_by_text(f"({block}.{head})").wait_for()
    page.locator(".st-key-prune button").click()
    page.locator(".st-key-latest-run").wait_for(timeout=180 * SECONDS)
    (run,) = [run for run in runs.list_runs(run_folders) if isinstance(run.job, Job)]
    assert run.bundle is not None
    plan = json.loads((run.bundle / "plan.json").read_text())
    kept = [heads for heads in range(6) if heads != head]
    assert [each["heads"] for each in plan["blocks"]] == [
        kept if index == block else list(range(6)) for index in range(6)
    ]


def test_heads_in_the_dark_and_on_a_phone(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    open_page(page, "Heads")
    page.locator(".st-key-head-graph-plot .js-plotly-plot").first.wait_for()
    settle(page)
    shoot(page, "heads-dark")
    page.set_viewport_size({"width": 420, "height": 900})
    page.reload()
    page.locator(".st-key-head-graph-plot .js-plotly-plot").first.wait_for()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    for grid in page.locator(".st-key-importance .picture, .st-key-all-importance .picture").all():
        box = grid.bounding_box()  # all of it is seen at once
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 420 and box["width"] > 150
    page.locator(".st-key-importance .picture").click(position={"x": 20, "y": 20})
    page.get_by_role("heading", name="Block 0, head 0").wait_for()
    shoot(page, "heads-narrow-dark")
