"""Names, notes and stars of runs, and deleting runs: nothing that is at work or needed is ever touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.files import OutputError
from pruning.jobs import registry
from pruning.jobs.recover import RecoverJob
from pruning.runs import folder as runs
from pruning.runs import launch, output, trash
from pruning.runs.file_lock import FileLock
from pruning.runs.status import NOTE, RunNote, label
from tests.support.fake_runs import folder_of, names, write_status

pytestmark = pytest.mark.usefixtures("fake_runs")


def done(tmp_path: Path, name: str, created: float = 1.0) -> Path:
    folder = folder_of(tmp_path, name=name)
    write_status(folder, state="done", created=created)
    return folder


def test_a_note_is_kept_beside_the_files_of_a_run_that_has_none(tmp_path: Path) -> None:
    folder = done(tmp_path, "a")
    before = names(folder)
    assert runs.read(folder).note == RunNote() and runs.read(folder).problem is None
    said = RunNote("half the heads", "for the camera\nsecond line", True)
    output.write_note(folder, said)
    assert runs.read(folder).note == said and names(folder) == sorted([*before, "note.json"])
    assert label(3, "") == "run 3" and label(3, "tiny") == "run 3 · tiny"
    assert label(None, "tiny") == "tiny"
    (folder / NOTE).write_text('{"version": 1, "name": 3}')
    found = runs.read(folder)
    assert "note.json: `name` must be text" in str(found.problem)
    assert (found.state, found.note) == ("done", RunNote())
    output.write_note(folder, said)
    assert runs.read(folder).problem is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a\nb"}, "`name` must be one line"),
        ({"name": "a" * 81}, "`name` must have at most 80"),
        ({"text": "a" * 4001}, "`text` must have at most 4,000"),
    ],
)
def test_a_note_that_no_page_could_show_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunNote(**wrong)


def test_a_deleted_run_comes_back_as_it_was_and_no_number_changes(tmp_path: Path) -> None:
    a, b, c = (done(tmp_path, name, when) for name, when in (("a", 3.0), ("b", 2.0), ("c", 1.0)))
    (b / "bundle").mkdir()
    (b / "bundle" / "plan.json").write_text("kept")
    known = trash.numbers(a.parent)
    assert known == {c: 1, b: 2, a: 3}
    gone = trash.delete(b)
    assert [run.name for run in runs.list_runs(a.parent)] == ["a", "c"]
    assert trash.numbers(a.parent) == known and trash.deleted(a.parent) == [gone]
    assert trash.restore(gone).folder == b and (b / "bundle" / "plan.json").read_text() == "kept"
    gone = trash.delete(b)
    trash.forget(gone)
    assert names(gone.folder) == ["status.json"] and trash.deleted(a.parent) == []
    assert trash.numbers(a.parent) == known


def test_a_run_at_work_is_not_deleted(tmp_path: Path) -> None:
    folder = done(tmp_path, "a")
    write_status(folder, state="running")
    with FileLock(folder / runs.LOCK) as lock:
        assert lock.take()
        with pytest.raises(ValueError, match="a is running: cancel it before"):
            trash.delete(folder)
        write_status(folder, state="done")  # its process has not ended yet
        with pytest.raises(ValueError, match="a is at work"):
            trash.delete(folder)
    assert trash.delete(folder).state == "done"


def test_a_run_that_another_one_at_work_reads_is_not_deleted(tmp_path: Path) -> None:
    teacher, near, other = (done(tmp_path, name) for name in ("a", "a-2", "b"))
    job = RecoverJob(f"runs/{teacher.name}/bundle", "demo", "demo")
    (other / runs.JOB).write_text(registry.pack(job))
    write_status(other, state="running", workdir=str(tmp_path))
    with FileLock(other / runs.LOCK) as lock:
        assert lock.take()
        with pytest.raises(ValueError, match="b is running and needs the model of a"):
            trash.delete(teacher)
        trash.delete(near)
    trash.delete(teacher)


def test_only_runs_are_deleted_and_only_deleted_ones_restored(tmp_path: Path) -> None:
    folder = done(tmp_path, "a")
    (tmp_path / "photos").mkdir()
    for act, place, message in (
        (trash.delete, tmp_path / "photos", "is no run folder"),
        (trash.delete, tmp_path / "nowhere", "is no run folder"),
        (trash.restore, folder, "not among the deleted runs"),
        (trash.forget, folder, "not among the deleted runs"),
        (trash.forget, folder.parent / trash.TRASH / "x", "not among the deleted runs"),
    ):
        with pytest.raises(ValueError, match=message):
            act(place)
    gone = trash.delete(folder)
    done(tmp_path, "a")
    with pytest.raises(ValueError, match="another run named a"):
        trash.restore(gone)
    with pytest.raises(ValueError, match="was deleted before"):
        trash.delete(folder)
    with pytest.raises(ValueError, match="no run folder"):
        launch.resume(tmp_path / "runs" / "b")
    assert (folder / runs.JOB).exists()


def test_a_full_or_read_only_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = done(tmp_path, "a")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="could not be written to"):
        trash.delete(folder)
    monkeypatch.setattr(output, "replace_text", refuse)
    with pytest.raises(OutputError, match="could not be written to"):
        output.write_note(folder, RunNote("a"))
    assert runs.read(folder).state == "done"
