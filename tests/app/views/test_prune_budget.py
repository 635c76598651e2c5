"""Budgets on the Prune page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analysis.measure.cost import cost
from analysis.models.load import read_bundle
from analysis.vit import Architecture
from app.state.session import Choice
from pruning.budget.allocate import Allocation
from pruning.budget.curves import Sensitivities
from pruning.jobs.prune_job import Job
from pruning.jobs.survey import SurveyJob
from pruning.runs import folder as runs
from tests.support.app import at_work, newest_run, start, text
from tests.support.devices import made_up, price


def budgeted(tiny_bundle: Path, photos: Path) -> AppTest:
    """The Prune page in budget mode, sensitivities measured."""
    app = start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6))
    app.selectbox(key="method").set_value("l2").run()
    app.pills(key="mode").set_value("budget").run()
    app.segmented_control(key="align-budget").set_value(1).run()
    assert "how sensitive the model is" in text(app) and not app.metric
    return app.button(key="survey").click().run()


def test_a_budget_is_solved_once_sensitivities_are_measured(tiny_bundle: Path, photos: Path) -> None:
    app = budgeted(tiny_bundle, photos)
    assert not app.error and "how sensitive the model is" not in text(app)
    dense = read_bundle(tiny_bundle).model.arch
    params = cost(dense).params
    app.segmented_control(key="budget-kind").set_value("params").run()
    asked = round(0.9 * params / 1e6, 4)
    app.number_input(key=f"budget-params-{params}").set_value(asked).run()  # nothing to measure again
    assert "Predicted damage, lower is better" in text(app)
    shown = int(app.metric[0].value.replace(",", ""))
    assert 0.98 * 1e6 * asked <= shown <= 1e6 * asked
    app.button(key="prune").click().run()
    assert not app.error and not app.exception
    bundle = newest_run().bundle
    assert bundle is not None and cost(read_bundle(bundle).model.arch).params == shown
    assert "Run 2: L2 magnitude, budget" in text(app)
    assert f"--budget-params {asked * 1e6:.0f}" in app.code[0].value
    assert "Predicted damage, lower is better" not in text(app) and "Expect a top-1 of about" in text(app)
    app.number_input(key=f"budget-params-{params}").set_value(round(0.6 * params / 1e6, 4)).run()
    assert "No model with so much predicted damage has been tested yet" in text(app)
    app.segmented_control(key="curve").set_value("Predicted damage").run()
    assert "Predicted damage, lower is better" in text(app) and "Dots are measured" not in text(app)
    app.selectbox(key="method").set_value("l1").run()  # of which nothing was tested
    assert "Dots are measured" not in text(app) and not app.exception


def test_another_session_and_another_server_find_what_was_measured(tiny_bundle: Path, photos: Path) -> None:
    budgeted(tiny_bundle, photos)
    assert [run.kind for run in runs.list_runs()] == ["survey"]
    app = start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6))  # nothing in its session
    app.selectbox(key="method").set_value("l2").run()
    app.pills(key="mode").set_value("budget").run()
    app.segmented_control(key="align-budget").set_value(1).run()
    assert app.metric and "how sensitive the model is" not in text(app)
    app.button(key="prune").click().run()
    done = newest_run()
    assert done.kind == "prune" and done.state == "done"
    assert "Sensitivities were measured before and are reused." in runs.log(done.folder)


def test_a_survey_at_work_is_shown_and_not_started_twice(tiny_bundle: Path, photos: Path) -> None:
    app = start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6))
    app.selectbox(key="method").set_value("l2").run()
    app.pills(key="mode").set_value("budget").run()
    with at_work(SurveyJob(str(tiny_bundle), str(photos), "l2")):
        app.run()
        assert "Budgets can be solved once this run has ended." in text(app)
        assert not [button for button in app.button if button.key == "survey"]
    assert not app.exception


def test_a_budget_in_ms_is_timed(tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[float] = []

    def found(
        job: Job, dense: Architecture, found: Sensitivities, progress: Any = None, table: Any = None
    ) -> Any:
        assert job.budget is not None
        assert table is None if job.budget.kind == "gmacs" else table.batch == job.budget.batch
        timed.append(job.budget.asked)
        return Allocation(dense, job.budget, 0.99 * job.budget.asked, 0.0)

    monkeypatch.setattr("app.views.prune.budget.solve", found)
    app = budgeted(tiny_bundle, photos)
    app.segmented_control(key="budget-kind").set_value("ms").run()
    app.segmented_control(key="budget-batch").set_value(8).run()
    assert "Budget: 10 ms. These widths take **9.9 ms** (measured)." in text(app)
    before = len(timed)
    app.run()
    assert len(timed) == before  # remembered


def test_budgets_out_of_reach_are_one_sentence_and_methods_without_do_not_offer_them(
    tiny_bundle: Path, photos: Path
) -> None:
    app = budgeted(tiny_bundle, photos)
    dense = cost(read_bundle(tiny_bundle).model.arch)
    app.number_input(key=f"budget-gmacs-{dense.params}").set_value(2 * dense.gmacs).run()
    assert "A budget for this model must be from" in app.error[0].value
    app.selectbox(key="method").set_value("ablation").run()
    assert not app.error and app.pills(key="mode").options == ["Sliders", "Per block"]
    assert [slider.label for slider in app.slider] == ["Whole heads", "Tokens merged in each block"]
    assert not app.exception


def test_a_budget_without_images_says_where_to_choose_them() -> None:
    app = start("prune", Choice(data=None))
    app.pills(key="mode").set_value("budget").run()
    assert "sidebar" in app.info[0].value


def test_a_budget_is_solved_on_an_uploaded_device(tiny_bundle: Path, photos: Path) -> None:
    app = budgeted(tiny_bundle, photos)
    app.segmented_control(key="budget-kind").set_value("ms").run()
    app.selectbox(key="budget-device").set_value("device").run()
    assert "Upload the device.json" in app.info[0].value
    dense = read_bundle(tiny_bundle).model.arch
    table = made_up(dense, price())
    latencies = table.table(dense, 1)
    between = 0.7 * latencies.model + 0.3 * latencies.lowest(dense)
    app.number_input(key="budget-ms").set_value(between)
    app.file_uploader[-1].set_value([("device.json", table.to_json().encode(), "application/json")]).run()
    assert not [one.value for one in app.error] and not app.exception
    assert "(predicted for board)" in text(app) and " --device " in app.code[0].value
    app.file_uploader[-1].set_value([("bad.json", b"{", "application/json")]).run()
    assert "bad.json is not JSON" in app.error[0].value and not app.exception
