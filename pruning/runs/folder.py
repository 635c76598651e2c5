"""Reads run folders, for the app and `python -m pruning runs`. Nothing here writes.

A run folder holds `job.json`, `status.json`, `metrics.jsonl`, `log.txt`, TensorBoard's files,
checkpoints until it is done, and then `bundle/` or the result of its kind of run. The folder that a
command writes with `--out` is one as well: a bundle together with the files of a finished run. It may have
been copied only in part, come from another machine, or be being written at this moment: reading it gives a
`Run`, whatever it holds.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.paths import absolute, is_file, is_folder, open_regular, user_path
from pruning.bundle import JOB_FILE, STATUS_FILE, Report, is_bundle
from pruning.jobs import read_report, registry
from pruning.runs.file_lock import is_held
from pruning.runs.status import ACTIVE, NOTE, RunNote, Status, this_host
from pruning.wording import duration

JOB, STATUS, LOG, LOCK, CANCEL = JOB_FILE, STATUS_FILE, "log.txt", "lock", "cancel"
BUNDLE = registry.BUNDLE
NO_NOTE = RunNote()
STALE = 60.0  # seconds without a heartbeat after which that is reported


@dataclass(frozen=True)
class Run:
    """A run folder as it is now. `problem` says in one sentence what could not be read.

    `note` is what people say of it.

    `state` is that of the status file, or `interrupted` if the file says queued or running but the process
    is gone. It is `failed` if the status cannot be read.
    """

    folder: Path
    kind: str | None
    job: Any | None
    state: str
    status: Status
    problem: str | None = None
    note: RunNote = NO_NOTE

    @property
    def name(self) -> str:
        """The folder's name, which sorts by time."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Kind and method, or the folder's name if the job cannot be read."""
        return self.name if self.job is None else registry.words(self.job)

    @property
    def active(self) -> bool:
        """Whether its process is alive: the run can be cancelled, and cannot be resumed."""
        return self.state in ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether it can be restarted."""
        return self.job is not None and not self.active and self.state != "done"

    @property
    def since_heartbeat(self) -> float:
        """Seconds since the last heartbeat."""
        return max(time.time() - self.status.beat, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of work since the run was last started or resumed."""
        end = time.time() if self.active else self.status.ended or self.status.beat
        return max(end - (self.status.began or end), 0.0)

    @property
    def bundle(self) -> Path | None:
        """The bundle of the smaller model, once it is complete: inside the folder, or the folder itself."""
        return next((place for place in (self.folder / BUNDLE, self.folder) if is_bundle(place)), None)

    @property
    def error(self) -> str | None:
        """Why the run could not be read or failed, in one sentence."""
        return self.problem or self.status.error

    @property
    def sentence(self) -> str:
        """State and progress as a text for people."""
        silent = duration(self.since_heartbeat)
        if self.active and self.status.waiting:
            return "Waiting for another run to finish"
        if self.active:
            stale = f", no heartbeat for {silent}" if self.since_heartbeat > STALE else ""
            return _progress_text(self.status) + stale
        if self.error:
            return self.error
        if self.state == "interrupted" and self.status.began is None:
            return "interrupted while it was queued"
        if self.state == "interrupted":
            return f"interrupted: its process is gone, last heartbeat {silent} ago"
        return f"{self.state} after {duration(self.seconds)}"

    def to_json(self) -> str:
        """Serialise as one JSON object."""
        return json.dumps(self.as_dict()) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values; `state` is the run's own, not that of the status file."""
        return asdict(self.status) | {
            "name": self.name,
            "folder": str(self.folder),
            "kind": self.kind,
            "job": None if self.job is None else self.job.to_data(),
            "title": self.title,
            "state": self.state,
            "sentence": self.sentence,
            "silence": self.since_heartbeat,
            "seconds": self.seconds,
            "error": self.error,
            "bundle": None if self.bundle is None else str(self.bundle),
        }


def runs_root(root: Path | str | None = None) -> Path:
    """The folder that holds the run folders: `root`, else $PRUNESCOPE_RUNS, else ./runs.

    Raises:
        ValueError: no folder can have this path.
    """
    if root:
        return absolute(user_path(root, "the folder of runs"))
    return absolute(user_path(os.environ.get("PRUNESCOPE_RUNS") or "runs", "$PRUNESCOPE_RUNS"))


def list_runs(root: Path | str | None = None) -> list[Run]:
    """All runs of a folder, newest first; other files and folders are ignored.

    Raises:
        ValueError: `root` is a file.
    """
    folder = runs_root(root)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder of runs")
    found = [read(path) for path in run_folders(folder)]
    return sorted(found, key=lambda run: (run.status.created, run.name), reverse=True)


def run_folders(root: Path) -> list[Path]:
    """The run folders inside a folder, in no order; none if it cannot be read."""
    try:
        inside = [path for path in root.iterdir() if not path.name.startswith(".")]
    except OSError:  # no runs yet
        return []
    return [path for path in inside if any(is_file(path / name) for name in (JOB, STATUS))]


def read(folder: Path | str) -> Run:
    """Read a run folder as it is now, whatever lies in it.

    Raises:
        ValueError: `folder` is text that no path can be.
    """
    folder = absolute(user_path(folder, "the run folder") if isinstance(folder, str) else folder)
    kind, job, unknown = _read_job(folder / JOB)
    note, illegible = _read_note(folder)
    status, unread = _read_status(folder)
    state = status.state
    if status.state in ACTIVE and not alive(folder, status):
        status, unread = _read_status(folder)  # it may have ended since the first read
        state = "interrupted" if status.state in ACTIVE else status.state
    return Run(folder, kind, job, state, status, unknown or unread or illegible, note)


def read_status(folder: Path) -> Status:
    """The last status that a run wrote, without checking whether its process is alive."""
    return _read_status(folder)[0]


def alive(folder: Path, status: Status) -> bool:
    """Whether the process of a run is alive: it holds the lock, here or on a machine that shares the disk.

    Some shared disks do not share locks between machines: a recent heartbeat from another machine counts too.
    A run that waits for its turn has no process; it is alive as long as the dispatcher that will start it.
    """
    if is_held(folder / LOCK):
        return True
    beat = status.beat
    if status.waiting:
        dispatcher = dispatcher_lock(folder.parent, status)
        if is_held(dispatcher):
            return True
        beat = _modified(dispatcher)
    elsewhere = (status.pid is not None or status.waiting) and status.host != this_host()
    return elsewhere and is_recent(beat)


def is_recent(beat: float) -> bool:
    """Whether a heartbeat is a sign of life; one from the future, of a clock that is wrong, is none."""
    return abs(time.time() - beat) < STALE


def dispatcher_lock(root: Path, status: Status) -> Path:
    """The file that the dispatcher of a waiting run locks while it lives (see queue/dispatch.py)."""
    return root / f".{status.host}-{status.device}-queue{status.limits}.lock"


def report(run: Run) -> Report | None:
    """The report of a finished run with the figures before and after; None until then.

    Raises:
        ValueError: it is damaged.
    """
    return None if run.bundle is None else read_report(run.bundle)


def log(folder: Path, lines: int = 50) -> str:
    """The last lines of a run's log, empty if there is none; reads the end of the file only."""
    try:
        with open_regular(folder / LOG) as stream:
            most = 400 * lines
            stream.seek(max(stream.seek(0, os.SEEK_END) - most, 0))
            return "\n".join(stream.read(most).decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _progress_text(status: Status) -> str:
    if status.state == "queued":
        return status.what or "waiting to start"
    left = "" if status.remaining is None else f", about {duration(status.remaining)} left"
    return f"{status.what or 'starting'} {status.share:.0%}{left}"


def _read_job(file: Path) -> tuple[str | None, Any | None, str | None]:
    if not is_folder(file.parent):
        return (
            None,
            None,
            f"{file.parent} is no run folder: there is no such folder (`python -m pruning runs` lists all)",
        )
    if not os.path.lexists(file):
        return None, None, f"{file.parent} is no run folder, or an incomplete copy: it has no {file.name}"
    try:
        return *registry.read_job(file), None
    except ValueError as error:
        return None, None, str(error)


def _read_status(folder: Path) -> tuple[Status, str | None]:
    """The status; if it cannot be read, a placeholder and a sentence that says why."""
    try:
        found = Status.find(folder / STATUS)
    except ValueError as error:
        return _placeholder(folder, "failed"), str(error)
    return found or _placeholder(folder, "interrupted"), None


def _read_note(folder: Path) -> tuple[RunNote, str | None]:
    """What is said of a run; if that cannot be read, nothing and a sentence that says why."""
    try:
        return RunNote.find(folder / NOTE) or NO_NOTE, None
    except ValueError as error:
        return NO_NOTE, str(error)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _placeholder(folder: Path, state: str) -> Status:
    try:
        when = folder.stat().st_mtime
    except OSError:
        when = 0.0
    return Status(state, when, when, when)
