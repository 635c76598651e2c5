"""Take the README's screenshots: every page with the demo, 1280 pixels wide, in both themes.

    python benchmarks/screenshots.py [--pages Attention Prune] [--out assets/screenshots]

Light screenshots are named `PAGE.png`, dark ones `PAGE-dark.png`. The script starts its own server with an
empty folder of runs, and prunes one model first so that there is something to compare.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pages import MINUTE, browser, idle, server
from PIL import Image
from playwright.sync_api import Page
from results import ROOT

from analysis.models import load
from pruning.bundle import write_bundle
from pruning.cut import with_architecture, with_merges

PAGES = ("Model", "Attention", "Merged", "Heads", "Prune", "Recover", "Compare")
VIEWS = {
    "Model": "model",
    "Attention": "attention?image=7&block=2&head=0&from=patch+3%2C+4",  # an instructive example
    "Merged": "attention?image=7&block=4&model={merging}",
    "Heads": "heads?heads-block=2&heads-head=3&criterion=ablation",
}
READY = {
    "Model": ".st-key-samples img",
    "Attention": "img[alt^='Rollout']",
    "Merged": "img[alt^='Rollout']",
    "Heads": ".st-key-head-graph-plot .js-plotly-plot",
    "Prune": ".st-key-estimate",
    "Recover": ".st-key-recover",
    "Compare": ".st-key-table",
}
PART = {"Merged": ".st-key-merged"}  # of the page, where not all of it is shown
TOKENS = 8  # that each block of the merging model merges
TALLEST = {"Heads": 1690}  # height in pixels, 1420 for other pages; what is further down is cut off
COMMON = 64  # colours reserved for background, text and lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pages", nargs="+", default=PAGES, choices=PAGES, help="pages (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "screenshots")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as runs,
        browser() as page,
        server(Path(runs), threads=2) as (address, _),
    ):
        merging = merging_model(Path(runs) / "bundles") if "Merged" in given.pages else None
        if "Compare" in given.pages:
            prune(page, address)
        if "Heads" in given.pages:
            measure_heads(page, address)
        for name in given.pages:
            for theme in ("light", "dark"):
                file = given.out / (name.lower() + ("-dark" if theme == "dark" else "") + ".png")
                shoot(
                    page,
                    f"{address}/{VIEWS.get(name, name.lower()).format(merging=merging)}",
                    READY[name],
                    theme,
                    file,
                    TALLEST.get(name, 1420),
                    PART.get(name),
                )


def merging_model(folder: Path) -> Path:
    """The demo model with merged tokens, as a bundle."""
    demo = load("demo")
    model = with_architecture(demo.model, with_merges(demo.model.arch, TOKENS))
    return write_bundle(folder / "demo", model, demo.preprocess, name="demo", report={})


def prune(page: Page, address: str) -> None:
    """Start one run with the Prune page's default settings, and wait for its result."""
    page.goto(f"{address}/prune")
    page.locator(".st-key-prune button").click()
    page.locator(".st-key-latest-run").wait_for(timeout=20 * MINUTE)
    idle(page)


def measure_heads(page: Page, address: str) -> None:
    """Measure the heads by every criterion, on a few images."""
    page.goto(f"{address}/heads")
    page.locator(".st-key-measure button").first.click()
    page.locator(".st-key-heads-measured-on input").fill("32")
    page.keyboard.press("Enter")
    page.locator(".st-key-measure-heads button").click()
    page.locator(".st-key-heads-source").get_by_text("Measured on 32").wait_for(timeout=10 * MINUTE)
    idle(page)


def shoot(
    page: Page, address: str, ready: str, theme: str, file: Path, tallest: int, part: str | None = None
) -> None:
    """Save a screenshot of the whole page or one part of it, in few colours so that the file is small."""
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(address)
    page.locator(ready).last.wait_for()
    idle(page)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": min(height, tallest)})
    page.wait_for_timeout(1500)  # charts are redrawn at the new height
    idle(page)
    page.mouse.move(0, 0)
    taken = page.locator(part).screenshot() if part else page.screenshot()
    picture = Image.open(BytesIO(taken)).convert("RGB")
    in_few_colours(picture).save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size // 1000} kB", file=sys.stderr)


def in_few_colours(picture: Image.Image) -> Image.Image:
    """Reduce to 256 colours: the commonest unchanged, so that flat areas stay flat; gradients dithered."""
    counts: Any = picture.getcolors(picture.width * picture.height)
    counted = sorted(counts, reverse=True)
    flat = [channel for _, colour in counted[:COMMON] for channel in colour]
    others = picture.quantize(256 - COMMON, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((flat + others)[: 3 * 256])
    reduced = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # Pillow looks colours up on a coarse grid, on which white may be found as one of the colours beside it
    pixels, places = np.array(picture), np.array(reduced)
    for place, (_, colour) in enumerate(counted[:COMMON]):
        places[(pixels == colour).all(axis=-1)] = place
    exact = Image.fromarray(places)
    exact.putpalette(reduced.getpalette() or [])
    return exact


if __name__ == "__main__":
    main()
