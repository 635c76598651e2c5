"""Bad paths in every field and in the address of the app: a sentence, and the page stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm  # noqa: F401  # before two threads of the app do
from streamlit.testing.v1 import AppTest

from app.state import comparison, session, session_runs
from app.state.session import Choice
from pruning.jobs.recover import RecoverJob
from pruning.runs.finished import FinishedRun
from pruning.runs.folder import Run
from pruning.runs.status import Status
from tests.support.app import MAIN, start
from tests.support.bad_paths import BAD_PATHS, bad_path

BAD = [name for name in BAD_PATHS if name not in ("nothing", "spaces", "not UTF-8")]  # fields hold UTF-8


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("parameter", ["model", "data", "weights"])
def test_the_address(parameter: str, name: str, tmp_path: Path) -> None:
    text, _ = bad_path(name, tmp_path)
    app = AppTest.from_file(MAIN, default_timeout=60)
    app.query_params |= {"model": "vit_tiny_patch16_224"} if parameter == "weights" else {}
    app.query_params[parameter] = text
    app.run()
    assert not app.exception
    assert "What the address asks for cannot be loaded" in app.warning[0].value
    assert app.session_state["choice"].model == "demo"


FIELDS = {
    "bundle-folder": {"model-source": "bundle"},
    "weights-path": {"model-source": "name", "weights-source": "path"},
    "data-path": {"image-source": "path"},
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_the_sidebar(field: str, tmp_path: Path) -> None:
    app = start()
    for key, value in FIELDS[field].items():
        app.selectbox(key=key).set_value(value).run()
    for name in BAD:
        app.text_input(key=field).set_value(bad_path(name, tmp_path)[0]).run()
        app.button(key="load").click().run()
        assert not app.exception and len(app.error) == 1, name
        assert app.session_state["choice"].model == "demo"


def test_the_field_of_a_run_folder(tmp_path: Path) -> None:
    app = start("runs", Choice(data=None))
    for name in BAD:
        app.text_input(key="run-path").set_value(bad_path(name, tmp_path)[0]).run()
        app.button(key="open-run").click().run()
        assert not app.exception and BAD_PATHS[name][1] in " ".join(one.value for one in app.error), name


@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_that_pages_open(name: str, tmp_path: Path) -> None:
    text, _ = bad_path(name, tmp_path)
    for opens in (comparison.open_path, session_runs.open_folder):
        with pytest.raises(ValueError, match=r"\w") as caught:
            opens(text)
        assert type(caught.value) is ValueError
    assert session._stamp(text) is None


@pytest.mark.parametrize("name", BAD_PATHS)
def test_bad_paths_in_the_job_of_a_run_are_left_as_they_are(name: str, tmp_path: Path) -> None:
    """A damaged run folder must not take the pages down that list it."""
    text, _ = bad_path(name, tmp_path)
    job = RecoverJob(model=text, teacher=text, data=text, test_data=text)
    run = Run(tmp_path, "recover", job, "done", Status("done", 0.0, 0.0, 0.0, workdir=text))
    assert FinishedRun(run).origin[:2] == (text, None)
    assert FinishedRun(run).plan is None
    assert session_runs.lasting(job) == job
