"""Starts processes that outlive this one and take over a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from pruning.files import OutputError
from pruning.runs import folder as runs
from pruning.runs.claim import working_directory
from pruning.runs.file_lock import FileLock

# -P: import nothing from the working directory. The package is a part of another where it is installed.
COMMAND = (sys.executable, "-P", "-m", __name__.partition(".runs.")[0])
_PROJECT = Path(__file__).resolve().parents[__name__.count(".")]


def spawn_run(folder: Path, lock: FileLock) -> None:
    """Start the process of a run; it takes over the lock of the run's folder.

    Raises:
        OutputError: it could not be started.
    """
    place = working_directory(runs.read_status(folder))
    try:
        with (folder / runs.LOG).open("ab") as log:
            _spawn(["run", str(folder)], lock, place, log)
    except OSError as error:
        raise OutputError(f"the run in {folder} could not be started: {error.strerror or error}") from error


def spawn_dispatcher(root: Path, lock: FileLock) -> None:
    """Start the process that starts the waiting runs of `root` in turn; it takes over the lock.

    Raises:
        OutputError: it could not be started.
    """
    try:
        with Path(os.devnull).open("ab") as nowhere:  # what goes wrong is in the status of the run concerned
            _spawn(["run", str(root), "--queue"], lock, root, nowhere)
    except OSError as error:
        raise OutputError(f"the queue of {root} could not be started: {error.strerror or error}") from error


def _spawn(words: list[str], lock: FileLock, place: Path, log: IO[bytes]) -> None:
    """Start a process of this project in a new session."""
    paths = [str(_PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    process = subprocess.Popen(
        [*COMMAND, *words, "--lock-handle", str(lock.handle())],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        start_new_session=True,
        pass_fds=(lock.handle(),),
    )
    # without a wait, the process would remain as a zombie until this one ends
    threading.Thread(target=process.wait, name=f"wait for {words[1]}", daemon=True).start()
