"""One run with a damaged file on every page that lists runs: a row says what is wrong, and all else works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.state import session_runs
from app.state.session import Choice
from pruning.cut.ratios import Ratios
from pruning.jobs.bench import BenchJob
from pruning.jobs.heads import HeadsJob
from pruning.jobs.prune_job import Job
from pruning.runs import folder as runs
from tests.support.app import carry_out, go, start, text
from tests.support.damage import DAMAGE, FILES

WAYS = ("missing", "noise", "absurd", "a folder")
EVERY = (*FILES, "timings.json", "heads.json")
# Two ways for each file, as a page takes a while; the readers themselves are tested with all ways.
CASES = [(file, WAYS[(place + other) % 4]) for place, file in enumerate(EVERY) for other in (0, 1)]


def is_noticed(file: str, way: str) -> bool:
    """Whether the run is damaged by that: some files may be missing, and the curves are read on their own."""
    if (
        file in ("metrics.jsonl", "bundle/report.json", "bundle/plan.json", "status.json")
        and way == "missing"
    ):
        return False
    return file != "metrics.jsonl" and (file, way) not in {
        ("status.json", "absurd"),
        ("timings.json", "absurd"),
    }


@pytest.fixture(scope="module")
def master(tiny_bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds; the names of their folders are those of the test."""
    root = tmp_path_factory.mktemp("master")
    jobs = {
        "good": Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(mlp=0.5), limit=6),
        "bad": Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(heads=(0.4, 0.0)), limit=6),
        "bench": BenchJob(((str(tiny_bundle), None), (str(root / "good" / "bundle"), None)), (1,)),
        "heads": HeadsJob(str(tiny_bundle), str(photos), None, 6),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PRUNESCOPE_RUNS", str(root / "made"))
        for name, job in jobs.items():
            run = carry_out(job)
            assert run.state == "done", run.sentence
            run.folder.rename(root / name)
    return root


@pytest.fixture
def root(master: Path) -> Path:
    shutil.copytree(master, runs.runs_root(), ignore=shutil.ignore_patterns("made"))
    session_runs.forget_listed()
    return runs.runs_root()


@pytest.fixture
def choice(tiny_bundle: Path, photos: Path) -> Choice:
    return Choice(str(tiny_bundle), data=str(photos), limit=6)


def rows(app: AppTest) -> str:
    """All tables of a page as text."""
    tables = [*app.table, *app.dataframe]
    return "\n".join(str(table.value.to_dict()) for table in tables).replace("\\", "")


@pytest.mark.parametrize(("file", "way"), CASES)
def test_a_damaged_run_is_a_row(root: Path, choice: Choice, file: str, way: str) -> None:
    folder = {"timings.json": "bench", "heads.json": "heads"}.get(file, "bad")
    DAMAGE[way](root / folder / file)
    name, noticed = Path(file).name, is_noticed(file, way)

    app = start("runs", choice)
    (table,) = [shown.value.set_index("Folder") for shown in app.dataframe if "Folder" in shown.value]
    assert set(table.index) >= {"good", "bench", "heads"} and table.loc["good", "State"] == "done"
    assert not noticed or name in table.loc[folder, "Progress"]
    app.selectbox(key="run").set_value(str(root / folder)).run()
    assert not app.exception and not (noticed and name not in text(app))
    assert file == "job.json" or any(code.value.startswith("python") for code in app.code)
    go(app, "recover")
    assert any("MLP 50 %" in option for option in app.selectbox(key="student").options) and not app.error

    go(app, "compare")
    assert len(app.table[0].value.columns) == 2 and not app.error
    said = noticed and folder != "heads" and file not in ("job.json", "status.json")
    assert not said or name in rows(app)

    go(app, "export")
    assert any("MLP 50 %" in option for option in app.selectbox(key="export-run").options)
    assert app.button(key="build") and not app.error

    go(app, "heads")
    assert app.selectbox(key="criterion").options and not app.error
    assert not (noticed and folder == "heads") or name in rows(app)

    go(app, "prune")
    assert app.button(key="prune") and app.button(key="load")
    assert len(app.error) <= 1 and all(name in error.value.replace("\\", "") for error in app.error)


def test_a_run_that_is_mended_is_whole_again(root: Path, choice: Choice) -> None:
    file = root / "bad" / "evaluations.json"
    content = file.read_bytes()
    app = start("compare", choice)
    assert len(app.multiselect(key="compare-runs").options) == 2 and not rows(app).count("evaluations")
    file.write_bytes(b"{}")
    assert len(app.run().multiselect(key="compare-runs").options) == 1 and rows(app).count("evaluations")
    file.write_bytes(content)
    assert len(app.run().multiselect(key="compare-runs").options) == 2 and not rows(app).count("evaluations")


def test_a_damaged_run_from_elsewhere_is_not_opened(root: Path, choice: Choice) -> None:
    elsewhere = (root / "bad").rename(root.parent / "elsewhere")
    (elsewhere / "bundle" / "plan.json").write_text("{}")
    app = start("compare", choice)
    app.text_input(key="compare-path").set_value(str(elsewhere)).run()
    app.button(key="compare-open-button").click().run()
    assert "plan.json" in app.error[0].value and len(app.table[0].value.columns) == 2 and not app.exception


def test_where_all_runs_are_damaged_a_page_says_so(root: Path, choice: Choice) -> None:
    for name in ("good", "bad"):
        (root / name / "bundle" / "preprocess.json").write_text("[]")
    app = start("compare", choice)
    for page in ("compare", "export"):
        go(app, page)
        assert page == "export" or "All finished runs are damaged" in text(app)  # the dense model remains
        assert rows(app).count("preprocess.json must be an object, got a list") == 2 and not app.error
