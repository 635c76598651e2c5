"""Trying what is chosen on the Prune page: a run, which every session finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis.measure.cost import cost
from analysis.models.load import read_bundle
from app.state import session_runs, uploads
from app.state.session import Choice
from app.views.prune.page import NO_WIDTHS
from pruning.cut.ratios import Ratios
from pruning.files import save_json
from pruning.jobs.prune_job import Job
from pruning.jobs.trial import TRIAL, TrialJob, open_trial
from pruning.runs import folder as runs
from pruning.runs.status import Status
from tests.support.app import at_work, carry_out, go, only_run, own_widths, start, text


@pytest.fixture
def choice(tiny_bundle: Path, photos: Path) -> Choice:
    return Choice(str(tiny_bundle), data=str(photos), limit=6)


def half(choice: Choice) -> AppTest:
    return own_widths(start("prune", choice), "l1")


def test_a_trial_is_a_run_that_every_session_finds(choice: Choice) -> None:
    app = half(choice)
    assert "Trying it first takes roughly 1 min, as a run of its own." in text(app)
    assert "Stay on the page" not in text(app)
    app.button(key="try").click().run()
    run = only_run()
    found = open_trial(run.folder)
    assert run.kind == "trial" and run.state == "done" and found.before.images == 6
    assert "Run 1: Trial of L1 magnitude, pairs 50 %" in text(app)  # in the sidebar
    points = f"{100 * (found.after.top1 - found.before.top1):+.1f} points"
    app = half(choice)  # another session
    assert f"Rough estimate: **{points}** of top-1 before fine-tuning, on 6 test images" in text(app)
    app.slider(key="ratio-mlp").set_value(25).run()
    assert "Rough estimate" not in text(app)
    app.slider(key="ratio-mlp").set_value(0).run()
    assert "Rough estimate" in text(app)
    save_json(replace(found, model="other weights under the same name"), run.folder / TRIAL)
    assert "Rough estimate" not in text(app.run()) and not app.error and not app.exception


def test_it_is_shown_on_its_own_page_and_is_no_model(choice: Choice) -> None:
    carry_out(TrialJob(Job(choice.model, str(choice.data), "l1", ratios=Ratios(qk=0.5), limit=6)))
    app = start("runs", choice)
    assert "Rough estimate" in text(app) and app.code[-1].value.startswith("# there is no command")
    row = app.dataframe[0].value.iloc[0]
    assert (row["What"], row["State"]) == ("Trial of L1 magnitude, pairs 50 %", "done")
    for page in ("compare", "recover", "export"):
        go(app, page)
        assert "Trial of" not in str(app.main) and not app.error


def test_a_trial_at_work_is_shown_and_not_started_twice(choice: Choice) -> None:
    job = Job(choice.model, str(choice.data), "l1", ratios=Ratios(qk=0.5), limit=6)
    with at_work(TrialJob(job)) as run:
        app = half(choice)
        assert app.button(key="trial-panel-cancel") and "Rough estimate" not in text(app)
        app.button(key="try").click().run()
        assert only_run().folder == run.folder and not app.error and not app.exception


def test_the_last_one_tells_how_long_the_next_takes(choice: Choice) -> None:
    done = carry_out(TrialJob(Job(choice.model, str(choice.data), "l1", ratios=Ratios(mlp=0.5), limit=6)))
    status = Status.from_json((done.folder / runs.STATUS).read_text())
    (done.folder / runs.STATUS).write_text(replace(status, began=1000.0, ended=1212.0).to_json())
    session_runs.forget_listed()
    assert "Trying it first takes about 4 min" in text(half(choice))


def test_a_damaged_result_is_a_sentence(choice: Choice) -> None:
    app = half(choice)
    app.button(key="try").click().run()
    (only_run().folder / TRIAL).write_text("{}")
    app.run()
    assert "trial.json: `model` is missing" in app.error[0].value.replace("\\", "")
    assert "Rough estimate" not in text(app) and not app.exception
    go(app, "runs")
    assert app.dataframe[0].value.iloc[0]["State"] == "damaged" and not app.exception


def test_a_budget_is_tried_at_the_widths_on_the_page(choice: Choice) -> None:
    app = own_widths(start("prune", choice), "l2", "budget")
    app.button(key="try").click().run()
    assert any(info.value == NO_WIDTHS for info in app.info) and not runs.list_runs()
    app.button(key="survey").click().run()
    app.button(key="try").click().run()
    job = runs.list_runs()[0].job
    dense = read_bundle(Path(choice.model)).model.arch
    assert isinstance(job, TrialJob) and job.pruning.budget is not None
    assert f"{cost(job.target(dense)).params:,}" == app.metric[0].value
    assert "Rough estimate" in text(app) and "at other widths" not in text(app)
    narrower = tuple(replace(block, mlp=1) for block in dense.blocks)
    carry_out(replace(job, blocks=narrower))  # as if times had led elsewhere
    session_runs.forget_listed()
    assert "It was tried at other widths" in text(app.run()) and not app.exception


def test_without_images_or_anything_to_remove_it_says_so(choice: Choice) -> None:
    app = own_widths(start("prune", replace(choice, data=None)), "l1")
    app.button(key="try").click().run()
    assert any("needs images to test on" in info.value for info in app.info)
    app = half(choice)
    app.slider(key="ratio-qk").set_value(0).run()
    app.button(key="try").click().run()
    assert "nothing to remove" in app.error[0].value and not runs.list_runs()


def test_uploads_that_are_tried_outlive_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "workspace", lambda: tmp_path / "session")
    upload = tmp_path / "session" / "images" / "photos.zip"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"zip")
    job = TrialJob(Job("demo", str(upload), "l1", ratios=Ratios(qk=0.5)))
    kept = Path(session_runs.lasting(job).pruning.data)
    assert kept.is_relative_to(runs.runs_root()) and kept.read_bytes() == b"zip"
    assert session_runs.lasting(job, copy=False) == session_runs.lasting(job)
