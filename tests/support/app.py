"""The app without a browser: started on any page, its runs over at once, and a model and photos to load."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from streamlit import config
from streamlit.testing.v1 import AppTest

from analysis.models.load import load
from analysis.vit import Architecture, ViT
from app.state import session_runs
from app.state.session import Choice
from pruning.bundle.write import write_bundle
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.runs import folder as runs
from pruning.runs import launch, process
from pruning.runs.status import Status

MAIN = str(Path(__file__).parents[2] / "app" / "main.py")
config._main_script_path = MAIN  # as `streamlit run` sets it: the settings lie beside the script
config.get_config_options(force_reparse=True)
PAGES = ("", "model", "attention", "heads", "prune", "recover", "runs", "compare", "export")


def carry_out(job: Any, most_waiting: int = 100) -> runs.Run:
    """`runs.start` in this process: the run is over when it returns."""
    folder, lock = launch._create(job, runs.runs_root(), 1)
    lock.close()
    with suppress(ValueError, process.RunFailed):
        process.execute(folder)
    return runs.read(folder)


SLOW = Job("demo", "demo", "l1", ratios=Ratios(qk=0.5), limit=10)


@contextmanager
def at_work(job: Any = SLOW, **said: Any) -> Iterator[runs.Run]:
    """A run that a process, this one, seems to be busy with."""
    folder, lock = launch._create(job, runs.runs_root(), 1)
    with lock:
        now = time.time()
        told: dict[str, Any] = {
            "what": "Training",
            "share": 0.25,
            "remaining": 300.0,
            "began": now - 100,
        } | said
        status = Status("running", now - 100, now - 100, now, host="here", **(told | said))
        (folder / runs.STATUS).write_text(status.to_json())
        session_runs.forget_listed()
        yield runs.read(folder)


def newest_run() -> runs.Run:
    return runs.list_runs()[0]


def only_run() -> runs.Run:
    (run,) = runs.list_runs()
    return run


def start(page: str = "model", choice: Choice | None = None) -> AppTest:
    """The app on one of its pages, with few test images."""
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.session_state["choice"] = choice or Choice(limit=20)
    app.run()
    return go(app, page)


def go(app: AppTest, page: str) -> AppTest:
    """Change the page; AppTest's own way knows pages that are files only."""
    hashes = {info["url_pathname"]: found for found, info in app._registered_pages.items()}
    app._page_hash = hashes[page]
    app.run()
    assert not app.exception
    return app


def elements(app: AppTest, kind: str) -> Sequence[Any]:
    """All of a kind, also of those that `AppTest` has no attribute for."""
    return app.get(kind)


def text(app: AppTest) -> str:
    kinds = ("header", "subheader", "markdown", "caption", "info", "error", "metric")
    return "\n".join(str(element.value) for kind in kinds for element in elements(app, kind))


def bundle(arch: Architecture, folder: Path, seed: int) -> Path:
    """A bundle with random weights for the classes of `photos`."""
    torch.manual_seed(seed)
    model = ViT(arch)
    model.init_weights()
    preprocess = replace(load("demo").preprocess, image_size=arch.image_size, labels=("cat", "dog", "emu"))
    return write_bundle(folder, model.eval(), preprocess, name=folder.name, report={})


def photo(name: str, colour: str, size: tuple[int, int] = (90, 60)) -> tuple[str, bytes, str]:
    """A photo of one colour, as a file uploader takes it."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, format="PNG")
    return name, content.getvalue(), "image/png"


def own_widths(app: AppTest, method: str = "snp", mode: str = "sliders") -> AppTest:
    """The Prune page with widths of one's own instead of its question."""
    app.selectbox(key="method").set_value(method).run()
    return app.pills(key="mode").set_value(mode).run()


def build(app: AppTest, *formats: str) -> AppTest:
    """Tick these formats on the Export page, and no others, and build them."""
    for box in app.checkbox:
        key = str(box.key)
        name = key.removeprefix("export-pick-")
        if name != key and box.value != (name in formats):
            app.checkbox(key=key).set_value(name in formats).run()
    return app.button(key="build").click().run()


def pruned() -> AppTest:
    app = own_widths(start("prune", Choice(limit=10)), "l1")
    return app.button(key="prune").click().run()
