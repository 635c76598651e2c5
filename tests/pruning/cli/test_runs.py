"""Runs from the command line, in processes of their own, some of which are killed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.models.load import load
from pruning.bundle.layout import EXPORTS, FILES, RECORDS, TRANSFORMERS_FILES, is_bundle
from pruning.bundle.write import zip_bundle
from pruning.cli.main import main
from pruning.export import export_formats
from pruning.jobs import registry
from pruning.jobs.evaluations import read_evaluations
from pruning.jobs.inputs import image_sets
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import launch, metrics, process
from tests.support.fake_runs import FAKE, FakeJob, FakeResult, folder_of, wait_for, write_status
from tests.support.models import ROOT

pytestmark = pytest.mark.usefixtures("fake_runs")

# ---- the command line


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path)
    assert main(["run", str(folder), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["state"] == "done" and done["run"] == str(folder) and done["images"] == 3
    assert is_bundle(Path(done["out"]))
    assert main(["runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["root"] == str(tmp_path / "runs")
    assert [run["state"] for run in listed["runs"]] == ["done"]
    assert listed["runs"][0]["job"] == json.loads(FakeJob().to_json())
    assert main(["runs", "--root", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.startswith("run                  done         done after")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "nowhere"], 2, "is no run folder: there is no such folder"),
        (["cancel", "nowhere"], 2, "is no run folder: there is no such folder"),
        (["run", "DONE"], 2, "is done"),
        (["resume", "DONE", "--detach"], 2, "is done"),
        (["cancel", "DONE"], 2, "is done; only a queued or running run"),
        (["run", "BAD"], 2, "the images are not there"),
        (["run", "BUG"], 1, "an unexpected error"),
        (["run", "DONE", "--lock-handle", "99999"], 2, "is not a lock on"),
        (["run", "BAD", "--at-once", "0"], 2, "at least 1 run"),
        (["prune", "--model", "m", "--data", "d", "--qk", ".5", "--out", "x", "--detach"], 2, "omit --out"),
        (["prune", "--model", "m", "--data", "d", "--qk", ".5"], 2, "--out DIR for the bundle, or --detach"),
        (
            ["prune", "--model", "m", "--data", "d", "--qk", ".5", "--run", "--at-once", "0"],
            2,
            "at least 1 run",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes(tmp_path, monkeypatch, capsys, words, code, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_status(folder_of(tmp_path, name="DONE"), state="done")
    folder_of(tmp_path, FakeJob(way="bad input"), "BAD")
    folder_of(tmp_path, FakeJob(way="bug"), "BUG")
    words = [str(tmp_path / "runs" / word) if word.isupper() else word for word in words]
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_cancelled_in_the_foreground(tmp_path: Path, monkeypatch, capsys) -> None:
    def stop(job: FakeJob, monitor: Monitor) -> FakeResult:
        raise Cancelled

    monkeypatch.setitem(registry.RUN_KINDS, "fake", replace(FAKE, execute=stop))
    folder = folder_of(tmp_path)
    assert main(["run", str(folder)]) == 1
    assert capsys.readouterr().err == "cancelled\n"
    assert runs.read(folder).state == "cancelled"


# ---- processes


def test_a_detached_run_outlives_the_command_that_started_it(tmp_path, tiny_data) -> None:
    model, data = tiny_data
    words = ["--model", model, "--data", data, "--method", "l1", "--mlp", "0.5", "--detach", "--json"]
    begun = subprocess.run(
        [sys.executable, "-m", "pruning", "prune", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(json.loads(begun.stdout)["run"])
    assert folder.parent == tmp_path / "runs" and folder.name.endswith("-prune-l1")
    assert runs.read(folder).state in ("queued", "running", "done")  # never as if its process were gone
    with pytest.raises(ValueError, match=r"is already running|is done"):
        process.execute(folder)
    done = wait_for(lambda: (run := runs.read(folder)).state not in ("queued", "running") and run)
    assert done.state == "done", runs.log(folder)
    report: Any = runs.report(done)
    assert report.params_after < report.params_before and report.method == "l1"
    assert done.status.workdir == str(tmp_path)
    assert str(done.bundle) in runs.log(folder)  # what the command prints


@pytest.mark.slow
@pytest.mark.usefixtures("start_fakes")
def test_cancelled_resumed_killed_and_resumed_again(tmp_path: Path) -> None:
    run = launch.start(FakeJob(600, pause=0.01))
    assert run.active and run.folder.parent == tmp_path / "runs"
    state = lambda: runs.read(run.folder).state
    wait_for(lambda: len(metrics.read_metrics(run.folder).points) > 5)
    assert state() == "running" and os.getsid(pid_of(run)) != os.getsid(0)
    asked = time.monotonic()
    launch.cancel(run)
    wait_for(lambda: state() == "cancelled")
    assert time.monotonic() - asked < 10
    first = len(metrics.read_metrics(run.folder).points)

    again = launch.resume(run)
    assert again.active
    with pytest.raises(ValueError, match="is already running"):
        launch.resume(run)
    wait_for(lambda: len(metrics.read_metrics(run.folder).points) > first + 5)
    pid = pid_of(run)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: state() == "interrupted")
    assert runs.read(run.folder).sentence.startswith("interrupted: its process is gone")
    wait_for(lambda: not exists(pid))  # no zombie stays

    assert main(["resume", str(run.folder), "--detach"]) == 0
    wait_for(lambda: state() == "done")
    assert metrics.read_metrics(run.folder).curve("loss")[0] == list(range(600))
    assert runs.read(run.folder).status.attempt == 3
    begins = [line.rpartition("from ")[2] for line in runs.log(run.folder).splitlines() if " from " in line]
    assert begins[0] == "0" and len(begins) == 3 and 0 < int(begins[1]) < int(begins[2])


def pid_of(run: runs.Run) -> int:
    pid = runs.read(run.folder).status.pid
    assert pid is not None
    return pid


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


@pytest.mark.usefixtures("start_fakes")
def test_a_run_cancelled_before_its_process_has_started_never_begins(tmp_path: Path) -> None:
    run = launch.start(FakeJob(100_000, pause=0.01))
    launch.cancel(run)
    wait_for(lambda: not runs.read(run.folder).active)
    assert runs.read(run.folder).state == "cancelled"
    assert not (run.folder / runs.BUNDLE).exists()


# ---- what a command writes into a folder of the user's choice


def test_what_out_names_is_a_bundle_and_a_finished_run(
    tmp_path: Path, tiny_data: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """`prune --out small`, then `report small`: also from elsewhere, and beside what a recovery left."""
    monkeypatch.chdir(tmp_path)
    model, data = f"./{tiny_data[0]}", f"./{tiny_data[1]}"
    words = ["prune", "--model", model, "--data", data, "--method", "l1", "--mlp", "0.5", "--json"]
    assert main([*words, "--out", "small"]) == 0
    figures = json.loads(capsys.readouterr().out)
    words = ["recover", "--model", "small", "--teacher", model, "--data", data, "--epochs", "1", "--json"]
    words += ["--recover-option", "batch=10", "--recover-option", "checkpoint_seconds=3600"]
    assert main([*words, "--out", ".better"]) == 0
    capsys.readouterr()

    found = runs.read("small")
    assert (found.state, found.problem, found.bundle) == ("done", None, tmp_path / "small")
    assert found.job is not None and found.job.method == "l1"
    # a difference of two times since 1970 is known to some tenths of a microsecond only
    assert found.seconds == pytest.approx(figures["seconds"], abs=1e-3)
    assert read_evaluations(found.folder).after.top1 == figures["top1_after"]
    assert [run.name for run in runs.list_runs(tmp_path)] == ["small"] and not found.resumable
    for again in (launch.resume, process.execute):
        with pytest.raises(ValueError, match=f"small is done: its result is in {tmp_path / 'small'}$"):
            again(found.folder)

    monkeypatch.chdir("images")
    for folders in (["../small"], ["../small", "../.better"]):
        assert main(["report", *folders, "--out", str(tmp_path / "r.html")]) == 0
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert "L1 magnitude, MLP 50 %" in page and ("Recovery of " in page) is (len(folders) > 1)
        assert str(tmp_path) not in page
    capsys.readouterr()


def test_what_names_places_does_not_travel(tmp_path: Path, tiny_data: tuple[str, str], capsys) -> None:
    """The bundle is as before: it loads, its zip holds no record of the run, and it can be replaced."""
    model, data = (str(tmp_path / name) for name in tiny_data)
    words = ["prune", "--model", model, "--data", data, "--method", "l1", "--mlp", "0.5"]
    assert main([*words, "--out", str(tmp_path / "small")]) == 0
    assert set(RECORDS) < {path.name for path in (tmp_path / "small").iterdir()}
    with zipfile.ZipFile(io.BytesIO(zip_bundle(tmp_path / "small"))) as archive:
        names = {Path(name).name for name in archive.namelist()}
        assert names == {*FILES} - {*EXPORTS} - {*TRANSFORMERS_FILES} and not names & {*RECORDS}
        assert all(str(tmp_path).encode() not in archive.read(name) for name in archive.namelist())
    shutil.copytree(tmp_path / "small", tmp_path / "copied")
    (tmp_path / "small").rename(tmp_path / "away")
    loaded = load(str(tmp_path / "copied"))
    export_formats(loaded, ["bundle"], tmp_path / "copied", overwrite=True)
    assert not set(RECORDS) & {path.name for path in (tmp_path / "copied").iterdir()}
    assert main([*words, "--out", str(tmp_path / "copied")]) == 2
    assert "already contains" in capsys.readouterr().err


def test_a_report_shows_the_images_that_were_tested_on(
    tmp_path: Path, tiny_data: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """An image that is gone, renamed or of another class since then is noticed; put back, all is well."""
    monkeypatch.chdir(tmp_path)
    words = ["prune", "--model", tiny_data[0], "--data", tiny_data[1], "--method", "l1", "--mlp", "0.5"]
    assert main([*words, "--out", "small"]) == 0
    job = runs.read("small").job
    assert job is not None
    tested = image_sets(job, load(tiny_data[0]))[1]
    file = tmp_path / tiny_data[1] / tested.item_name(0)
    elsewhere = tmp_path / "images" / ("c0" if file.parent.name == "c9" else "c9") / "x.png"
    for changed in (tmp_path / "away.png", file.with_name("zz.png"), elsewhere):
        file.rename(changed)
        capsys.readouterr()
        assert main(["report", "small", "--out", "report.html"]) == 2
        said = capsys.readouterr().err
        assert re.search(r"^error: the images in images have changed since small was tested on them", said), (
            said
        )
        assert not Path("report.html").exists()
        changed.rename(file)
    assert main(["report", "small", "--out", "report.html"]) == 0
