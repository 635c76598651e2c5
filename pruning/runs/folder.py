"""Reads run folders: what the app and `python -m pruning runs` show. Nothing here writes.

A run folder holds `job.json`, `status.json`, `metrics.jsonl`, `log.txt`, TensorBoard's files,
checkpoints until it is done, and then `bundle/` or what else its kind leaves. The folder that a command
writes to by `--out` is one as well: a bundle, and beside its files those of a finished run. It may have
been half copied, come from another machine, or be written to this very moment: reading it gives a `Run`,
whatever it holds.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.bundle import JOB_FILE, STATUS_FILE, Report, is_bundle
from pruning.jobs import read_report, registry
from pruning.runs.file_lock import is_held
from pruning.runs.status import ACTIVE, Status, this_host
from pruning.wording import duration

JOB, STATUS, LOG, LOCK, CANCEL = JOB_FILE, STATUS_FILE, "log.txt", "lock", "cancel"
BUNDLE = registry.BUNDLE
STALE = 60.0  # seconds without a sign of life after which that is said


@dataclass(frozen=True)
class Run:
    """A run folder as it is now. `problem` says in one sentence what of it cannot be read.

    `state` is the status' own, or `interrupted` where that says queued or running and the process is
    gone; a run whose status cannot be read has `failed`.
    """

    folder: Path
    kind: str | None
    job: Any | None
    state: str
    status: Status
    problem: str | None = None

    @property
    def name(self) -> str:
        """The folder's name, which sorts by time."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Kind and method, or the folder's name where the job cannot be read."""
        return self.name if self.job is None else registry.words(self.job)

    @property
    def active(self) -> bool:
        """Whether its process lives: it can be cancelled, and cannot be resumed."""
        return self.state in ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether it can be started again."""
        return self.job is not None and not self.active and self.state != "done"

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return max(time.time() - self.status.beat, 0.0)

    @property
    def seconds(self) -> float:
        """How long it has been at work since it was started or resumed last."""
        end = time.time() if self.active else self.status.ended or self.status.beat
        return max(end - (self.status.began or end), 0.0)

    @property
    def bundle(self) -> Path | None:
        """The smaller model, as soon as it is complete: inside the folder, or the folder itself."""
        return next((place for place in (self.folder / BUNDLE, self.folder) if is_bundle(place)), None)

    @property
    def error(self) -> str | None:
        """Why it cannot be read or why it failed, one sentence."""
        return self.problem or self.status.error

    @property
    def sentence(self) -> str:
        """Where it stands, for people."""
        quiet = f", no sign of life for {duration(self.silence)}" if self.silence > STALE else ""
        if self.active:
            return _doing(self.status) + quiet
        if self.error:
            return self.error
        if self.state == "interrupted" and self.status.began is None:
            return "interrupted before its turn came"
        if self.state == "interrupted":
            return f"interrupted: its process is gone, last seen {duration(self.silence)} ago"
        return f"{self.state} after {duration(self.seconds)}"

    def to_json(self) -> str:
        """All of it as a JSON object."""
        return json.dumps(self.as_dict()) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it; `state` is the one that counts."""
        return asdict(self.status) | {
            "name": self.name,
            "folder": str(self.folder),
            "kind": self.kind,
            "job": None if self.job is None else self.job.to_data(),
            "title": self.title,
            "state": self.state,
            "sentence": self.sentence,
            "silence": self.silence,
            "seconds": self.seconds,
            "error": self.error,
            "bundle": None if self.bundle is None else str(self.bundle),
        }


def runs_root(root: Path | str | None = None) -> Path:
    """The folder that holds the run folders: `root`, else $PRUNESCOPE_RUNS, else ./runs."""
    return Path(root or os.environ.get("PRUNESCOPE_RUNS") or "runs").expanduser().resolve()


def list_runs(root: Path | str | None = None) -> list[Run]:
    """All runs of a folder, the newest first; whatever else lies there is left out.

    Raises:
        ValueError: `root` is a file.
    """
    folder = runs_root(root)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder of runs")
    found = [read(path) for path in _run_folders(folder)]
    return sorted(found, key=lambda run: (run.status.created, run.name), reverse=True)


def _run_folders(root: Path) -> list[Path]:
    try:
        inside = [path for path in root.iterdir() if not path.name.startswith(".")]
    except OSError:  # none yet
        return []
    return [path for path in inside if (path / JOB).is_file() or (path / STATUS).is_file()]


def read(folder: Path | str) -> Run:
    """A run folder as it is now; never fails."""
    folder = Path(folder).expanduser().resolve()
    kind, job, unknown = _read_job(folder / JOB)
    status, unread = _read_status(folder)
    if status.state in ACTIVE and not alive(folder, status):
        status, unread = _read_status(folder)  # it may have come to its end just now
        state = "interrupted" if status.state in ACTIVE else status.state
        return Run(folder, kind, job, state, status, unknown or unread)
    return Run(folder, kind, job, status.state, status, unknown or unread)


def read_status(folder: Path) -> Status:
    """What a run said of itself last; whether its process lives is another question."""
    return _read_status(folder)[0]


def alive(folder: Path, status: Status) -> bool:
    """Whether the process of a run lives: it holds the lock, here or on a machine that shares the disk.

    Some shared disks keep locks to each machine: then a sign of life from another one counts.
    """
    if is_held(folder / LOCK):
        return True
    elsewhere = status.pid is not None and status.host != this_host()
    return elsewhere and time.time() - status.beat < STALE


def report(run: Run) -> Report | None:
    """The figures before and after of a finished run, None before.

    Raises:
        ValueError: they are damaged.
    """
    return None if run.bundle is None else read_report(run.bundle)


def log(folder: Path, lines: int = 50) -> str:
    """The end of a run's log; empty where there is none. Reads no more than the end."""
    try:
        with (folder / LOG).open("rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - 400 * lines, 0))
            return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _doing(status: Status) -> str:
    if status.state == "queued":
        return status.what or "waiting to start"
    left = "" if status.remaining is None else f", about {duration(status.remaining)} left"
    return f"{status.what or 'starting'} {status.share:.0%}{left}"


def _read_job(file: Path) -> tuple[str | None, Any | None, str | None]:
    if not file.exists():
        return None, None, f"{file.parent} holds no run, or one not copied whole: it has no {file.name}"
    try:
        return *registry.read_job(file), None
    except ValueError as error:
        return None, None, str(error)


def _read_status(folder: Path) -> tuple[Status, str | None]:
    """The status and, where it cannot be read, a sentence beside a stand-in."""
    try:
        found = Status.find(folder / STATUS)
    except ValueError as error:
        return _stand_in(folder, "failed"), str(error)
    return found or _stand_in(folder, "interrupted"), None


def _stand_in(folder: Path, state: str) -> Status:
    try:
        when = folder.stat().st_mtime
    except OSError:
        when = 0.0
    return Status(state, when, when, when)
