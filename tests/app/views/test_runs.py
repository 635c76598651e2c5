"""The Runs page: names, notes, stars, filters, and deleting with a way back. No run is carried out here."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import share
from app.state import session_runs
from app.state.session import Choice
from app.views.runs import table
from pruning import runs as runs_face
from pruning.cut.ratios import Ratios
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.runs import folder as runs
from pruning.runs.status import RunNote, Status
from tests.support.app import at_work, go, start, text

NOW = time.time()


def ended(name: str, job: Any, state: str = "cancelled", age: float = 0.0) -> Path:
    folder = runs.runs_root() / name
    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(registry.pack(job))
    status = Status(state, NOW - age, NOW - age, NOW, began=NOW - 60, ended=NOW)
    (folder / runs.STATUS).write_text(status.to_json())
    session_runs.forget_listed()
    return folder


@pytest.fixture
def three() -> list[Path]:
    half = Job("demo", "demo", "l1", ratios=Ratios(qk=0.5), limit=10)
    first = ended("first", half, age=30)
    second = ended("second", replace(half, method="l2"), "failed", age=20)
    third = ended("third", RecoverJob(str(first / "bundle"), "demo", "demo"), age=10)
    return [first, second, third]


def listed(app: AppTest) -> list[str]:
    return [] if not app.dataframe else list(app.dataframe[0].value["Run"])


def test_a_run_is_named_noted_and_starred_where_it_lies(three: list[Path]) -> None:
    first, second, _ = three
    app = start("runs", Choice(limit=10))
    app.selectbox(key="run").set_value(str(first)).run()
    app.text_input(key=f"name of {first}").set_value("  half *the* keys ").run()
    app.text_area(key=f"note of {first}").set_value("for the camera").run()
    app.button(key="run-star").click().run()
    assert runs.read(first).note == RunNote("half *the* keys", "for the camera", True)
    assert "Run 1 · half *the* keys: L1 magnitude, pairs 50 %" in app.selectbox(key="run").options
    assert "for the camera" in text(app) and app.button(key="run-star").label == "Starred"
    rows = app.dataframe[0].value.set_index("Run")
    assert list(rows.loc["run 1", ["★", "Name", "Note"]]) == ["★", "half *the* keys", "for the camera"]
    assert rows.loc["run 3", "What"] == "Recovery of run 1, 2 epochs"
    app.button(key="run-star").click().run()
    assert not runs.read(first).note.star and runs.read(second).note == RunNote()
    assert not app.error and not app.exception


def test_a_recovery_finds_its_run_where_all_of_them_were_moved(three: list[Path]) -> None:
    first, _, third = three
    job = RecoverJob(f"/where/it/was/{first.name}/bundle", "demo", "demo")
    (third / runs.JOB).write_text(registry.pack(job))
    app = start("runs", Choice(limit=10))
    app.selectbox(key="run").set_value(str(third)).run()
    assert app.dataframe[0].value.set_index("Run").loc["run 3", "What"] == "Recovery of run 1, 2 epochs"
    assert any(str(first / "bundle") in code.value for code in app.code)
    assert not any("/where/it/was" in code.value for code in app.code)
    other = replace(job, model="/where/it/was/another/bundle")
    (third / runs.JOB).write_text(registry.pack(other))
    session_runs.forget_listed()
    app.run()
    assert app.dataframe[0].value.set_index("Run").loc["run 3", "What"] == "Recovery of another, 2 epochs"


def test_a_recovery_finds_its_run_where_all_of_them_were_copied(three: list[Path], tmp_path: Path) -> None:
    first, _, third = three
    still_there = tmp_path / "earlier" / first.name / "bundle"
    still_there.mkdir(parents=True)
    (third / runs.JOB).write_text(registry.pack(RecoverJob(str(still_there), "demo", "demo")))
    app = start("runs", Choice(limit=10))
    app.selectbox(key="run").set_value(str(third)).run()
    assert app.dataframe[0].value.set_index("Run").loc["run 3", "What"] == "Recovery of run 1, 2 epochs"
    assert any(str(still_there) in code.value for code in app.code)


def test_a_deleted_run_is_taken_back_and_no_run_changes_its_number(three: list[Path]) -> None:
    first, second, _ = three
    app = start("runs", Choice(limit=10))
    app.selectbox(key="run").set_value(str(first)).run()
    app.button(key="run-delete").click().run()
    assert not first.exists() and listed(app) == ["run 3", "run 2"]
    assert "Run 1: L1 magnitude, pairs 50 %" in text(app) and "was deleted" in text(app)
    app.button(key="undo-delete").click().run()
    assert first.exists() and listed(app) == ["run 3", "run 2", "run 1"]
    assert app.selectbox(key="run").value == str(first) and "was deleted" not in text(app)
    app.button(key="run-delete").click().run()
    app.selectbox(key="run").set_value(str(second)).run()
    app.button(key="run-delete").click().run()
    assert listed(app) == ["run 3"]
    app.button(key="empty-trash").click().run()  # not the one that was just deleted
    assert [run.name for run in runs_face.deleted()] == ["second"]
    app.button(key="undo-delete").click().run()
    assert listed(app) == ["run 3", "run 2"] and not app.error and not app.exception


def test_a_run_at_work_is_not_deleted(three: list[Path]) -> None:
    with at_work() as run:
        app = start("runs", Choice(limit=10))
        app.selectbox(key="run").set_value(str(run.folder)).run()
        assert app.button(key="run-delete").disabled
        with pytest.raises(ValueError, match="is running"):
            session_runs.delete(run.folder)
    assert run.folder.exists()


def test_what_is_loaded_or_lies_elsewhere_is_not_deleted(three: list[Path], tmp_path: Path) -> None:
    elsewhere = three[1].rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside of the folder of runs"):
        session_runs.delete(elsewhere)
    assert elsewhere.exists()
    app = start("runs", Choice(limit=10))
    app.selectbox(key="run").set_value(str(three[0])).run()
    app.session_state["choice"] = Choice(weights=str(three[0] / "bundle" / "model.safetensors"), limit=10)
    app.button(key="run-delete").click()
    app.run()
    assert three[0].exists()


def test_visitors_delete_nothing_for_good(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    gone = runs_face.delete(three[0])
    monkeypatch.setattr(share, "is_shared", lambda: True)
    with pytest.raises(ValueError, match="Only who runs this server"):
        session_runs.forget([gone])
    assert (gone.folder / runs.JOB).exists()


def test_filters_leave_what_was_asked_for(three: list[Path]) -> None:
    first, second, third = (runs.read(folder) for folder in three)
    starred = replace(first, note=RunNote("keys", "for the camera", True))
    kinds = {which: [table.is_of(run, which) for run in (starred, second, third)] for which in table.STATES}
    assert kinds == {
        "starred": [True, False, False],
        "active": [False, False, False],
        "failed": [True, True, True],
    }
    app = start("runs", Choice(limit=10))
    for words, expected in {
        "l1": ["run 1"],
        "MAGNITUDE 50": ["run 2", "run 1"],
        "failed l2": ["run 2"],
        "recovery": ["run 3"],
        "nothing like it": [],
    }.items():
        app.text_input(key="runs-words").set_value(words).run()
        assert listed(app) == expected, words
    assert "No run is like that" in text(app) and not app.error


def test_a_link_to_a_run_opens_it(three: list[Path]) -> None:
    app = start("", Choice(limit=10))
    app.query_params["run"] = "second"
    go(app, "runs")
    assert app.selectbox(key="run").value == str(three[1]) and "failed" in text(app)
    assert app.query_params["run"] == "second"
