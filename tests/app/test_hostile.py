"""Names that are Markdown and HTML, of classes, files, models and runs: every page shows them as they are."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analysis.measure.evaluate import Evaluation
from analysis.measure.speedup import compare
from analysis.models.preprocess import Preprocess
from app.state.session import Choice
from app.views.compare import charts
from app.views.compare.page import TABS
from app.wording import plain
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.report.comparison import Trade
from pruning.runs import folder as runs
from tests.support.app import PAGES, carry_out, photo, start
from tests.support.hostile import HOSTILE_FILE
from tests.support.models import TINY

CLASS = "![c](https://example.org/a.png) :red[c] $c$ <img src=c onerror=a>"
# What must not be there, unless a backslash or a joiner takes its meaning from it.
MARKUP = re.compile(
    r"!?(?<!\\)\[[xc](?!\\)\]|(?<!\\)<img|(?<!\\)\$[xc](?!\\)\$|:red(?!\[:material)|https://example|\n# x"
)
_FIELDS = "id alt url page options code_text source default value raw_value url_pathname"
NOT_MARKDOWN = set(_FIELDS.split())
NOT_READ = {"code", "html", "arrow_data_frame", "bidi_component", "plotly_chart", "navigation", "text_input"}
TIMING = compare((2.0,) * 30, (2.5,) * 30)
RESULT = Evaluation(0.5, 1.0, 0.1, 0.9, 2, 1.0, (0, 1), (0, 0), (0.5, 0.5))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with hostile names of its folder and its classes."""
    folder = tmp_path_factory.mktemp("hostile") / HOSTILE_FILE
    shutil.copytree(tiny_bundle, folder)
    file = folder / "preprocess.json"
    known = Preprocess.from_json(file.read_text())
    labels = [f"{name} {CLASS}" for name in known.labels]
    data = known.to_data() | {"labels": labels}
    file.write_text(Preprocess.from_data(data).to_json())
    return folder


@pytest.fixture(scope="module")
def images(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with hostile names of their folder and their files."""
    folder = tmp_path_factory.mktemp("images") / HOSTILE_FILE
    for number, place in enumerate(sorted(photos.iterdir())):  # a label may have a slash in it, a folder not
        for file in place.iterdir():
            to = folder / str(number) / f"{file.stem} {HOSTILE_FILE}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to)
    return folder


def texts(app: AppTest) -> Iterator[str]:
    """All that is on a page and is read as Markdown by the browser."""

    def of(node: Any) -> Iterator[str]:
        for child in getattr(node, "children", {}).values():
            yield from of(child)
        if node.type not in NOT_READ:
            yield from strings(getattr(node, "proto", None))
        if node.type == "arrow_table":
            table = node.value
            yield from map(str, [*table.columns, *table.index, *table.to_numpy().ravel()])

    yield from of(app._tree)


def strings(proto: Any) -> Iterator[str]:
    for field, value in proto.ListFields() if hasattr(proto, "ListFields") else ():
        if field.name in NOT_MARKDOWN:
            continue
        for one in value if field.is_repeated else [value]:
            if isinstance(one, str):
                yield one
            else:
                yield from strings(one)


@pytest.fixture(scope="module")
def hostile_run(bundle: Path, images: Path) -> Job:
    return Job(str(bundle), str(images), "l1", ratios=Ratios(mlp=0.5), limit=6)


def require_plain(app: AppTest) -> None:
    """Nothing on the page is more than text, but for what is ours."""
    assert not app.exception
    assert [text for text in texts(app) if MARKUP.search(text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_are_read_and_do_nothing(page: str, hostile_run: Job) -> None:
    done = carry_out(hostile_run)
    done.folder.rename(done.folder.with_name(HOSTILE_FILE))
    lost = runs.runs_root() / f"lost {HOSTILE_FILE}"
    lost.mkdir()
    (lost / runs.JOB).write_text('{"kind": "![x](https://example.org/a.png) :red[x] $x$"}')
    app = start(page, Choice(hostile_run.model, data=hostile_run.data, limit=6))
    require_plain(app)
    assert any(plain(HOSTILE_FILE) in text for text in texts(app))
    if page == "compare":
        for tab in TABS:
            app.session_state["compare-tab"] = tab
            require_plain(app.run())
    if page == "attention":
        app.segmented_control(key="view").set_value("several").run()
        require_plain(app)


def test_hostile_names_of_photos() -> None:
    app = start("attention", Choice(data=None))
    name = HOSTILE_FILE.replace("\n", " ")
    app.file_uploader(key="photo").set_value(
        [photo(f"{name}.png", "red"), (f"{name}2.png", b"", "image/png")]
    )
    require_plain(app.run())
    assert any(plain(name) in text for text in texts(app))


CHARTS: dict[str, Callable[[str], Any]] = {
    "devices": lambda name: charts.devices([name, "other"], [(name, 8, True, [1.0, None])]),
    "widths": lambda name: charts.widths([("dense", TINY), (name, TINY)]),
    "calibration": lambda name: charts.calibration([(name, 0.1, [])]),
    "confusion_change": lambda name: charts.confusion_change([[1, 2], [0, 1]], [name, "b"]),
    "mass_moved": lambda name: charts.mass_moved([(name, [(0, 0, 0.1, 0.2)])]),
    "latency": lambda name: charts.latency({1: [("dense", TIMING), (name, TIMING)]}),
    "pareto": lambda name: charts.pareto(
        [Trade(name, 1.0, RESULT)], [Trade(name, 1.0, RESULT)], {name}, "gmacs"
    ),
}


@pytest.mark.parametrize("chart", CHARTS)
def test_charts_show_hostile_names_as_they_are(chart: str) -> None:
    """Plotly knows links and other marks of HTML, formulas, and templates for what a pointer shows."""
    drawn = json.loads(
        CHARTS[chart](f"%{{name}} <a href='https://example.org'>x</a> {HOSTILE_FILE}").to_json()
    )
    text = json.dumps(drawn["data"], ensure_ascii=False) + json.dumps(drawn["layout"].get("annotations"))
    assert "&lt;a href=" in text
    assert [markup for markup in ("%{name}", "<a", "<img", "$x$", "\n") if markup in text] == []


def test_every_chart_that_is_told_names_is_tested() -> None:
    told = {
        name
        for name, chart in vars(charts).items()
        if inspect.isfunction(chart) and chart.__module__ == charts.__name__ and not name.startswith("_")
        if re.search(r"\bstr\b|Trade", " ".join(map(str, chart.__annotations__.values())))
    }
    assert told == set(CHARTS)
