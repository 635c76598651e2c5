"""Run folders with pipes, devices and absurd values in them: a sentence, and no waiting for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.bundle.layout import EVALUATIONS_FILE, PLAN_FILE, REPORT_FILE
from pruning.cli.main import main
from pruning.jobs.evaluations import read_evaluations
from pruning.runs import folder as runs
from pruning.runs import launch, metrics, process
from pruning.runs.file_lock import is_held
from pruning.runs.finished import read_plan
from pruning.runs.queue.turns import queued_runs
from pruning.runs.status import Status
from pruning.training.checkpoint import load_checkpoint
from tests.support.bad_paths import NOT_FILES
from tests.support.fake_runs import FakeJob, folder_of, write_status

pytestmark = pytest.mark.usefixtures("fake_runs", "nothing_hangs")
KINDS = [kind for kind in NOT_FILES if kind != "a folder"]


@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_job_and_a_status_that_are_no_files(tmp_path: Path, kind: str, capsys) -> None:
    folder = folder_of(tmp_path)
    NOT_FILES[kind](folder / runs.STATUS)
    found = runs.read(folder)
    assert found.state == "failed" and f"it is {kind}, not a regular file" in found.sentence
    assert [run.folder for run in runs.list_runs()] == [folder]
    other = folder_of(tmp_path, name="other")
    (other / runs.JOB).unlink()
    NOT_FILES[kind](other / runs.JOB)
    write_status(other, state="queued")
    assert f"it is {kind}, not a regular file" in str(runs.read(other).problem)
    assert main(["runs", "--root", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.count("not a regular file") == 2
    for refused in (launch.resume, process.execute):
        with pytest.raises(ValueError, match="not a regular file"):
            refused(other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", [runs.LOG, metrics.METRICS, ".reserve", runs.LOCK, runs.CANCEL, "tensorboard"]
)
def test_a_run_with_anything_else_in_its_folder_is_not_continued(
    tmp_path: Path, kind: str, name: str
) -> None:
    folder = folder_of(tmp_path)
    NOT_FILES[kind](folder / name)
    found = runs.read(folder)
    assert found.state == "interrupted" and not is_held(folder / runs.LOCK)
    assert runs.log(folder) == "" and metrics.read_metrics(folder) == metrics.Metrics()
    for refused in (launch.resume, process.execute):
        with pytest.raises(ValueError, match=f"{name} is neither a file nor a folder: remove it"):
            refused(folder)


@pytest.mark.parametrize("kind", NOT_FILES)
def test_files_of_a_result_that_are_no_files(tmp_path: Path, kind: str) -> None:
    """A plan that is a folder was once taken for no plan at all."""
    for name, read in ((PLAN_FILE, read_plan), (EVALUATIONS_FILE, read_evaluations)):
        NOT_FILES[kind](tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read: it is {kind}"):
            read(tmp_path)
    NOT_FILES[kind](tmp_path / "last.pt")
    with pytest.raises(OSError, match=f"it is {kind}"):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / REPORT_FILE).symlink_to("nowhere")
    bundle = runs.Run(tmp_path, None, None, "done", Status("done", 0.0, 0.0, 0.0))
    assert bundle.bundle is None


def test_a_plan_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).symlink_to("nowhere")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_plan(tmp_path)


@pytest.mark.parametrize("at_once", [0, -1])
def test_a_run_that_allows_none_at_once_does_not_wait(tmp_path: Path, at_once: int) -> None:
    with pytest.raises(ValueError, match=f"`at_once` must be at least 1, got {at_once}"):
        Status("queued", 0.0, 0.0, 0.0, at_once=at_once)
    folder = folder_of(tmp_path, FakeJob(steps=1))
    write_status(folder, state="queued")
    text = (folder / runs.STATUS).read_text()
    (folder / runs.STATUS).write_text(text.replace('"at_once": 1', f'"at_once": {at_once}'))
    found = runs.read(folder)
    assert found.state == "failed" and f"`at_once` must be at least 1, got {at_once}" in found.sentence
    assert queued_runs(folder.parent) == []
    assert process.execute(folder).state == "done"  # with the usual number instead
