"""Deleting runs: a run is moved to the trash first, from where it comes back as it was.

The trash is a folder beside the runs. What is deleted for good leaves its status there, so that the other
runs keep their numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.paths import is_file
from pruning.runs import folder as runs
from pruning.runs.claim import run_folder, writing_to
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run

TRASH = ".trash"


def numbers(root: Path | str | None = None) -> dict[Path, int]:
    """The number of each run of a folder, oldest first; deleted runs are counted, so that none changes."""
    place = runs.runs_root(root)
    found = [*runs.list_runs(place), *map(runs.read, runs.run_folders(place / TRASH))]
    found.sort(key=lambda run: (run.status.created, run.name))
    return {place / run.name: number for number, run in enumerate(found, 1)}


def deleted(root: Path | str | None = None) -> list[Run]:
    """The runs that can be restored, newest first."""
    return [run for run in runs.list_runs(runs.runs_root(root) / TRASH) if is_file(run.folder / runs.JOB)]


def delete(run: Run | Path | str) -> Run:
    """Move a run to the trash; returns it as it lies there.

    Raises:
        ValueError: it is at work, a run that is at work needs it, or there is no run in this folder.
        OutputError: the folder of runs cannot be written to.
    """
    folder = run_folder(run)
    found = runs.read(folder)
    if folder not in runs.run_folders(folder.parent):
        raise ValueError(f"{folder} is no run folder")
    _require_idle(found)
    trash = folder.parent / TRASH
    with writing_to(folder.parent), FileLock(folder / runs.LOCK) as lock:
        if not lock.take():
            raise ValueError(f"{found.name} is at work: cancel it first")
        trash.mkdir(exist_ok=True)
        to = trash / folder.name
        if to.exists():
            raise ValueError(f"a run of the name {folder.name} was deleted before: restore it first")
        folder.rename(to)
    return runs.read(to)


def restore(run: Run | Path | str) -> Run:
    """Move a deleted run back to the other runs.

    Raises:
        ValueError: it is not in the trash, or another run has its name by now.
        OutputError: the folder of runs cannot be written to.
    """
    folder = _in_trash(run)
    back = folder.parent.parent / folder.name
    if back.exists():
        raise ValueError(f"there is another run named {folder.name} by now")
    with writing_to(back.parent):
        folder.rename(back)
    return runs.read(back)


def forget(run: Run | Path | str) -> None:
    """Delete the files of a run in the trash for good. Its status stays, for the numbers of the others.

    Raises:
        ValueError: it is not in the trash.
        OutputError: the trash cannot be written to.
    """
    folder = _in_trash(run)
    with writing_to(folder.parent):
        (folder / runs.JOB).unlink(missing_ok=True)  # first: what is half gone cannot be restored
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != runs.STATUS:
                path.unlink()


def _in_trash(run: Run | Path | str) -> Path:
    folder = run_folder(run)
    if folder.parent.name != TRASH or not folder.is_dir():
        raise ValueError(f"{folder.name} is not among the deleted runs")
    return folder


def _require_idle(run: Run) -> None:
    """Refuse a run that is at work, or whose files a run at work reads."""
    if run.active:
        raise ValueError(f"{run.name} is {run.state}: cancel it before you delete it")
    for other in runs.list_runs(run.folder.parent):
        if other.active and any(path.is_relative_to(run.folder) for path in _named(other)):
            raise ValueError(f"{other.name} is {other.state} and needs the model of {run.name}")


def _named(run: Run) -> Iterator[Path]:
    """All that the job of a run says, taken for a path."""
    start = Path(run.status.workdir or "")
    for text in _texts({} if run.job is None else run.job.to_data()):
        yield start / text


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for one in data.values() if isinstance(data, dict) else data:
            yield from _texts(one)
