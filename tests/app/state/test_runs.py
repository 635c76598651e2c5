"""Runs in the app: at work, come to their end or not, recovered, brought from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pruning.runs as runs_face
from app import wording
from app.state import session, session_runs, uploads
from app.state.session import Choice
from app.views import recovery_time
from pruning.cut.ratios import Ratios
from pruning.jobs import evaluations, registry
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.runs import folder as runs
from pruning.runs import metrics
from tests.support.app import (
    PAGES,
    SLOW,
    at_work,
    build,
    carry_out,
    go,
    only_run,
    own_widths,
    pruned,
    start,
    text,
)


def left_behind(job: Any = SLOW, **said: Any) -> runs.Run:
    """A run whose process is gone, or that ended as its status says."""
    with at_work(job) as run:
        pass
    (run.folder / runs.STATUS).write_text(replace(run.status, **said).to_json())
    session_runs.forget_listed()
    return runs.read(run.folder)


@pytest.mark.parametrize("page", PAGES)
def test_a_run_at_work_is_seen_on_every_page(page: str) -> None:
    with at_work():
        app = start(page)
        (shown, *others) = app.sidebar.get("progress")
        assert "Training 25%, about 5 min left" in shown.proto.text
        assert not others and not app.error


def test_a_run_at_work_is_watched_and_cancelled_on_the_prune_page() -> None:
    with at_work() as run:
        app = start("prune")
        assert "L1 magnitude, pairs 50 %" in text(app)
        app.button(key="latest-panel-cancel").click().run()
        assert (run.folder / runs.CANCEL).exists()
        assert app.button(key="latest-panel-cancel").disabled
        assert not app.error and not app.exception


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_a_run_without_result_leaves_the_last_one_in_sight(state: str) -> None:
    app = pruned()
    done = only_run()
    left_behind(state=state, created=time.time())
    app.run()
    assert app.button(key="latest-panel-resume")
    assert app.button(key="latest-run-compare") and session_runs.title(done) in text(app)
    recovered = carry_out(
        RecoverJob(
            str(done.bundle), "demo", "demo", options=(("epochs", 1), ("images", 8), ("batch", 8)), limit=10
        )
    )
    left_behind(recovered.job, state=state, created=time.time())
    app = go(app, "recover")
    assert app.button(key="run-panel-resume") and app.button(key="recovered-compare")
    assert f"The last that ended well is {session_runs.title(recovered)}" in text(app)
    assert not app.error and not app.exception


def test_a_run_of_another_model_is_named_and_not_taken_for_one_of_this(
    tiny_bundle: Path, photos: Path
) -> None:
    """Prune shows the loaded model's latest run; the sidebar says which other model a run is about."""
    with at_work():
        app = start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6))
        (shown,) = app.sidebar.get("progress")
        assert shown.proto.text.endswith("· demo")
        with pytest.raises(KeyError):
            app.button(key="latest-panel-cancel")
        app = start("prune")
        assert not app.sidebar.get("progress")[0].proto.text.endswith("demo")
        assert app.button(key="latest-panel-cancel")
        go(app, "runs")
        (table,) = [shown.value for shown in app.dataframe if "Folder" in shown.value]
        assert list(table["Model"]) == ["demo"]


def test_the_same_job_is_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    app = own_widths(start("prune", Choice(limit=10)), "l1")
    with at_work():
        app.button(key="prune").click().run()
        assert only_run().active
    app.button(key="prune").click().run()
    assert [run.state for run in runs.list_runs()] == ["done", "interrupted"]


def test_another_session_finds_what_was_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned()
    session_runs.forget_listed()  # as in a server started anew
    session._load.clear()
    app = start("compare", Choice(limit=10))
    assert app.multiselect(key="compare-runs").options == ["Run 1: L1 magnitude, pairs 50 %"]
    assert app.table[0].value.loc["Top-1", "run 1"] and not app.error
    assert app.table[0].value.loc["Measured", "run 1"] == "before fine-tuning"


def test_a_measured_baseline_is_that_of_the_run() -> None:
    app = pruned()
    go(app, "model")
    found = evaluations.read_evaluations(only_run().folder).before
    assert found is not None
    assert app.metric[3].value == wording.percent(found.top1)


def test_gohsp_is_tried_without_training(tiny_bundle: Path, photos: Path) -> None:
    app = start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6))
    app.selectbox(key="method").set_value("gohsp").run()
    for name, percent in (("qk", 0), ("v", 25)):
        app.slider(key=f"ratio-{name}").set_value(percent)
    app.run()
    app.button(key="try").click().run()
    assert "Rough estimate" in text(app) and not app.error and not app.exception


def test_recover_page_without_anything_to_recover_says_what_to_do() -> None:
    app = start("recover")
    assert "no smaller model to recover yet" in app.info[0].value
    assert "Nothing has been recovered yet" in text(app)
    go(app, "runs")
    assert "no runs yet" in app.info[0].value and not app.error


def test_a_recipe_fills_in_the_form(tiny_bundle: Path, photos: Path) -> None:
    carry_out(Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(mlp=0.5)))
    app = start("recover", Choice(str(tiny_bundle), data=str(photos), limit=6))
    assert "--recover-option" not in app.code[0].value
    app.selectbox(key="recipe").set_value("snp").run()
    command = app.code[0].value
    assert not app.exception
    assert app.number_input(key="recovery-snp-mixup").value == 0.8
    for word in ("epochs=300", "base_lr=0.00025", "mixup=0.8", "drop_path=0.1", "soft=0.0"):
        assert f"--recover-option {word}" in command
    app.selectbox(key="recipe").set_value("few-epochs").run()
    assert "--recover-option" not in app.code[0].value


def test_a_guess_of_a_recovery_holds_what_the_demo_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """29 ms of one processor for each training image, so 19 min for two epochs."""
    found = {"smaller": 0.0055, "demo": 0.0077}  # seconds of an image in a batch
    monkeypatch.setattr(session, "model", lambda choice: choice.model)
    monkeypatch.setattr("app.views.recovery_time.measured.image_seconds_in_batches", found.__getitem__)
    monkeypatch.setattr(recovery_time, "_images", lambda job, student: (20_000, 2_000))
    monkeypatch.setattr(session_runs, "lasting", lambda job, copy: job)
    said = recovery_time.words(RecoverJob("smaller", "demo", "demo", limit=200))
    assert said.startswith("Roughly 13 to 32 min for 40,000 images, a guess")


def test_recovery_from_form_to_comparison(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(mlp=0.5)))
    app = start("recover", Choice(str(tiny_bundle), data=str(photos), limit=6))
    app.number_input(key="recovery-epochs").set_value(1).run()
    app.number_input(key="recovery-ema").set_value(0.0).run()
    workers = app.number_input(key="recovery-workers")
    assert (workers.value, workers.placeholder) == (None, "automatic")
    command = app.code[0].value
    assert "--teacher" in command and "--recover-option epochs=1" in command
    app.button(key="recover").click().run()
    assert [e.value for e in app.error] == [] and not app.exception
    recovered, start_run = runs.list_runs()
    assert (recovered.kind, recovered.state) == ("recover", "done")
    assert recovered.job == RecoverJob(
        str(start_run.bundle), str(tiny_bundle), str(photos), options=(("epochs", 1), ("ema", 0.0)), limit=6
    )
    assert "Run 2: Recovery of run 1, 1 epoch" in text(app) and "By fine-tuning: " in text(app)
    go(app, "runs")
    assert app.selectbox(key="run").value == str(recovered.folder)
    assert list(app.dataframe[0].value["State"]) == ["done", "done"]
    go(app, "compare")
    assert app.table[0].value.loc["Measured", "run 2"] == "after fine-tuning"
    assert "(-" in app.table[0].value.loc["Parameters", "run 2"]
    go(app, "export")
    build(app, "bundle")
    assert not app.error and not app.exception


def test_that_a_recovery_was_not_taken_is_said(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = str(tiny_bundle), str(photos)
    pruned = carry_out(Job(model, data, "l1", ratios=Ratios(mlp=0.5), limit=6))
    monkeypatch.setattr(
        sys.modules["pruning.jobs.recover"], "unless_harmed", lambda start, recovered, monitor: start
    )
    carry_out(RecoverJob(str(pruned.bundle), model, data, options=(("epochs", 1),), limit=6))
    said = text(start("recover", Choice(model, data=data, limit=6)))
    assert "this is the model from before it" in said and "By fine-tuning: " not in said


def test_a_teacher_of_other_classes_is_one_sentence(tiny_bundle: Path, photos: Path) -> None:
    done = carry_out(Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(mlp=0.5)))
    app = start("recover", Choice(str(tiny_bundle), data=str(photos), limit=6))
    app.text_input(key=f"teacher of {done.bundle}").set_value("demo").run()
    app.button(key="recover").click().run()
    assert "must have the same classes" in app.error[0].value
    assert only_run().kind == "prune"


def test_a_recovery_at_work_shows_its_curves(tiny_bundle: Path) -> None:
    with at_work(RecoverJob("gone", str(tiny_bundle), "demo")) as run:
        points = [metrics.Point("Training", step, 0.0, 1, {"loss": 1 / (step + 1)}) for step in range(3)]
        (run.folder / metrics.METRICS).write_text("".join(point.to_json() + "\n" for point in points))
        (run.folder / runs.LOG).write_text("going on after 3 steps\n")
        app = start("recover")
        assert len(app.get("plotly_chart")) == 1
        assert any("going on after 3 steps" in block.value for block in app.code)
        go(app, "runs")
        assert len(app.get("plotly_chart")) == 1
        assert any("going on after 3 steps" in block.value for block in app.code)
        assert any(f"cancel {run.folder}" in block.value for block in app.code)
        assert not app.error and not app.exception


@pytest.mark.parametrize("state", ["interrupted", "cancelled", "failed"])
def test_what_has_not_come_to_its_end_is_resumed(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {} if state == "interrupted" else {"state": state, "ended": time.time()}
    run = left_behind(error="the disk was full" if state == "failed" else None, **said)
    app = start("runs")
    assert app.dataframe[0].value["State"].tolist() == [state]
    assert ("the disk was full" in text(app)) == (state == "failed")
    resumed: list[Path] = []
    monkeypatch.setattr(runs_face, "resume", lambda folder, most_waiting: resumed.append(folder))
    app.button(key="run-panel-resume").click().run()
    assert resumed == [run.folder]
    assert not app.exception


def test_a_damaged_run_is_one_sentence() -> None:
    run = left_behind()
    (run.folder / runs.JOB).write_text("{")
    app = start("runs")
    assert "job.json is not JSON" in app.error[0].value
    assert not app.exception and "run-panel-resume" not in [button.key for button in app.button]
    for page in ("prune", "compare", "export"):
        go(app, page)
        assert not app.error


def test_lost_predictions_are_one_sentence() -> None:
    pruned()
    (only_run().folder / evaluations.EVALUATIONS).unlink()
    app = start("compare", Choice(limit=10))
    assert "evaluations.json cannot be read" in app.table[0].value.to_string()
    assert "All finished runs are damaged" in app.info[0].value
    assert not app.error and not app.exception


def test_a_run_from_elsewhere_is_opened_by_its_folder(tmp_path: Path) -> None:
    pruned()
    elsewhere = only_run().folder.rename(tmp_path / "brought")
    session_runs.forget_listed()
    app = start("runs", Choice(limit=10))
    app.text_input(key="run-path").set_value(str(tmp_path)).run()
    app.button(key="open-run").click().run()
    assert "is no run folder" in app.error[0].value
    app.text_input(key="run-path").set_value(str(elsewhere)).run()
    app.button(key="open-run").click().run()
    assert app.selectbox(key="run").value == str(elsewhere)
    go(app, "compare")
    assert app.multiselect(key="compare-runs").value == [str(elsewhere)]
    assert not app.error and not app.exception


def test_files_of_a_session_are_kept_for_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.memo.st.session_state", {})
    upload = uploads.workspace() / "abc" / "images.zip"
    upload.parent.mkdir()
    upload.write_bytes(b"zip")
    job = session_runs.lasting(replace(SLOW, data=str(upload)))
    assert Path(job.data).read_bytes() == b"zip"
    assert not Path(job.data).is_relative_to(uploads.workspace())
    assert not runs.list_runs()
    assert session_runs.lasting(job) == job


def test_files_are_called_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.memo.st.session_state", {})
    root, digits = runs.runs_root(), "0123456789abcdef"
    written = (
        f"run {root}/one\nout {root}/one/bundle\ndata {root}/{session_runs.UPLOADS}/{digits}/my scenes.zip"
    )
    assert session_runs.named(written) == "run one\nout one/bundle\ndata my scenes.zip"
    moved = "20260102-030405-0a1b2c-prune-l1"
    assert session_runs.named(f"model /srv/old/runs/{moved}/bundle") == f"model {moved}/bundle"
    zipped, folder = uploads.workspace() / digits / "my scenes.zip", uploads.workspace() / digits[::-1]
    for place in (zipped.parent, folder):
        place.mkdir()
    zipped.write_bytes(b"zip")
    job = Job(str(folder), str(zipped), "l1", ratios=Ratios(qk=0.5))
    shown, names = session_runs.uploads_named(f"{job.command('a')}\n\n{job.command('b')}")
    assert shown.count("--model model-folder --data 'my scenes.zip'") == 2
    assert "/" not in shown and names == ("model-folder", "my scenes.zip")
    assert session_runs.uploads_named(SLOW.command()) == (SLOW.command(), ())


def test_uploads_go_when_no_run_refers_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(runs_face, "start", lambda job, most_waiting: started.append(job))
    root = runs.runs_root()
    kept, dropped, fresh = (root / session_runs.UPLOADS / name / "images.zip" for name in ("a", "b", "c"))
    for file in (kept, dropped, fresh):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"zip")
    old = time.time() - 2 * session_runs.FRESH
    for file in (kept, dropped):
        os.utime(file, (old, old))
    (root / "one").mkdir()
    (root / "one" / runs.JOB).write_text(registry.pack(replace(SLOW, data=str(kept))))
    (root / "two").mkdir()
    (root / "two" / runs.JOB).write_text("torn")  # nobody knows what it refers to
    session_runs.begin(SLOW)
    assert kept.exists() and dropped.exists() and fresh.exists()
    shutil.rmtree(root / "two")
    session_runs.begin(SLOW)
    assert kept.exists() and not dropped.parent.exists() and fresh.exists()
    assert started == [SLOW, SLOW]


def test_evaluations_come_back_as_they_were(tmp_path: Path) -> None:
    done = carry_out(SLOW)
    found = evaluations.read_evaluations(done.folder)
    report = json.loads((done.folder / runs.BUNDLE / "report.json").read_text())
    assert found.start is None
    assert (found.before.top1, found.after.top1) == (report["top1_before"], report["top1_after"])
    assert found.after.images == len(found.after.predictions) == 10
    (done.folder / evaluations.EVALUATIONS).write_text('{"before": {}}')
    with pytest.raises(ValueError, match=r"evaluations\.json: `before.top1` is missing"):
        evaluations.read_evaluations(done.folder)


def test_runs_are_numbered_and_the_newest_is_shown() -> None:
    app = pruned()
    app.slider(key="ratio-heads").set_value(50).run()
    app.button(key="prune").click().run()
    go(app, "export")
    second, first = (str(run.folder) for run in runs.list_runs())
    assert app.selectbox(key="export-run").value == second
    assert app.selectbox(key="export-run").options[0].startswith("Run 2: ")
    app.selectbox(key="export-run").set_value(first).run()
    go(app, "compare")
    assert app.multiselect(key="compare-runs").value == [second]
    go(app, "export")
    assert app.selectbox(key="export-run").value == first
