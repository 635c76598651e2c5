"""The runs that the app shows, and starting one.

They are read from their folders, so a refresh, a second tab and a restart of the server show the same
runs. The session only remembers which folders from elsewhere it has opened.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from app import share
from app.state import session, uploads
from pruning import runs
from pruning.jobs import RecoverJob, TrialJob, describe
from pruning.runs import Run

POLL = 2.0  # seconds after which an active run is read again
SENT = 0.05  # seconds until what was drawn has left for the browser: Streamlit sends every hundredth
RECENT = 600.0  # seconds during which a run that has ended is still news
FRESH = 3600.0  # seconds during which an upload is kept although no run refers to it
UPLOADED_MODEL = "model-folder"  # what a folder is called that was uploaded file by file
UPLOADS = ".uploads"  # folder beside the runs for uploaded files, as runs outlive the session

_starting = threading.Lock()  # of all sessions of this server


# ---- reading


def listed() -> list[Run]:
    """All runs, newest first, with those that were opened from other places."""
    found = [runs.read(run.folder) if run.active else run for run in _listed(runs.runs_root())]
    known = {run.folder for run in found}
    others = [runs.read(folder) for folder in _opened() if folder not in known]
    return sorted([*found, *others], key=lambda run: (run.status.created, run.name), reverse=True)


@st.cache_resource(ttl=POLL, max_entries=4, show_spinner=False)
def _listed(root: Path) -> list[Run]:
    """Reading a hundred runs takes a tenth of a second: too long for every movement of a slider."""
    return runs.list_runs(root)


@st.cache_resource(ttl=POLL, max_entries=4, show_spinner=False)
def _numbers(root: Path) -> dict[Path, int]:
    return runs.numbers(root)


def forget_listed() -> None:
    """Make the next `listed` read the folder of runs again, as one of them has just changed."""
    _listed.clear()
    _numbers.clear()


# ---- what a run is called, on every page


def number(run: Run) -> int | None:
    """The number of a run, which it keeps; None for a run from elsewhere."""
    if run.folder.parent != runs.runs_root():
        return None
    if run.folder not in _numbers(run.folder.parent):  # it has just been started
        _numbers.clear()
    return _numbers(run.folder.parent).get(run.folder)


def name(run: Run) -> str:
    """A short name, "run 3" or "run 3 · half the heads"; the name of the folder for a run from elsewhere."""
    return runs.label(number(run), run.note.name) or run.name


def words(run: Run) -> str:
    """What a run does, in a few words. A recovery says of which run."""
    job = run.job
    if isinstance(job, RecoverJob):
        of, _ = _source(run, job)
        counted = None if of is None else number(of)
        job = job if counted is None else replace(job, model=runs.label(counted, ""))
    return run.name if job is None else describe(job)


def command(run: Run, out: str | None = None) -> str:
    """What does the same as a run on the command line. A recovery takes its model from where it lies now."""
    job = run.job
    if isinstance(job, RecoverJob):
        _, moved = _source(run, job)
        job = job if moved is None else replace(job, model=str(moved))
    return "" if job is None else job.command() if out is None else job.command(out)


def _source(run: Run, job: RecoverJob) -> tuple[Run | None, Path | None]:
    """The run whose model a recovery trains further, and where that model lies if it was moved since.

    The folder of all runs can be moved or copied. Names of runs are drawn at random, so that one of the same
    name is the same run.
    """
    model = Path(run.status.workdir or "") / job.model
    known = listed()
    for inside in (model, model.parent):
        of = next((one for one in known if one.folder == inside), None) or next(
            (one for one in known if one.name == inside.name and number(one) is not None), None
        )
        if of is not None:
            return of, None if model.exists() else of.folder / model.relative_to(inside)
    return None, None


def title(run: Run) -> str:
    """The name of a run and what it does: "Run 3: SNP, pairs 50 %"."""
    called, does = name(run), words(run)
    return f"{called[0].upper()}{called[1:]}: {does}" if called != does else does


def open_folder(path: str) -> Run:
    """Have this session list a run folder from elsewhere.

    Raises:
        ValueError: there is no run in it.
    """
    if not path.strip():
        raise ValueError("Enter the path of a run folder.")
    found = runs.read(path.strip())
    if found.job is None:
        raise ValueError(str(found.problem))
    if found.folder not in _opened():
        _opened().append(found.folder)
    return found


def _opened() -> list[Path]:
    folders: list[Path] = st.session_state.setdefault("opened runs", [])
    return folders


def is_news(run: Run) -> bool:
    """Whether a run is active or ended a short time ago."""
    return run.active or (run.state != "interrupted" and run.since_heartbeat < RECENT)


# ---- drawing a part of the page again while something is at work


def polled(draw: Callable[..., None], *args: Any, every: float | None) -> None:
    """Draw a part of the page, and again every so many seconds; once, if `every` is None."""
    if every is not None:
        st.session_state["polls"] = True
    st.fragment(draw, run_every=every)(*args)


def let_polls_wait() -> None:
    """At the end of a pass over the whole page: wait until it is on its way, where parts are polled.

    A poll that was asked for during the pass follows it at once. Streamlit (1.67) then leaves out what the
    pass has drawn of that part and not sent yet, so the browser takes the part for one that is gone and
    removes it when the pass ends. It fails on the poll ("Cannot set a node at a delta path"), and draws
    nothing from then on. What the pass before has polled can be asked for as well.
    """
    now = st.session_state.pop("polls", False)
    if now or st.session_state.get("polled", False):
        time.sleep(SENT)
    st.session_state["polled"] = now


# ---- starting


def begin(job: Any) -> Run:
    """Start a run, or return the active run of the same job if there is one.

    Raises:
        ValueError: no kind of run takes such a job, it names files that visitors may not open, too many
            runs wait, or their uploads take up too much room.
        OutputError: the folder of runs cannot be written to.
    """
    share.require_allowed(job)
    with _starting:  # a second click, or the same in a second tab
        _sweep_uploads(runs.runs_root())
        job = lasting(job)
        same = (run for run in runs.list_runs() if run.active and run.job == job)
        found = next(same, None) or runs.start(job, most_waiting=share.most_waiting())
    forget_listed()
    return found


def resume(folder: Path) -> None:
    """Start a run again.

    Raises:
        ValueError: it cannot be, or visitors may not.
        OutputError: its folder cannot be written to.
    """
    share.require_own(folder)
    share.require_allowed(runs.read(folder).job)
    with _starting:
        runs.resume(folder, most_waiting=share.most_waiting())
    forget_listed()


def cancel(folder: Path) -> None:
    """Ask for the end of a run.

    Raises:
        ValueError: it is not at work, or visitors may not.
        OutputError: its folder cannot be written to.
    """
    share.require_own(folder)
    runs.cancel(folder)


# ---- what people say of a run, and deleting it


def annotate(folder: Path, **changes: Any) -> None:
    """Change the name, the text or the star of a run.

    Raises:
        ValueError: a name or text that is too long, or visitors may not.
        OutputError: its folder cannot be written to.
    """
    share.require_own(folder)
    runs.write_note(folder, replace(runs.read(folder).note, **changes))
    forget_listed()


def delete(folder: Path) -> Run:
    """Move a run to the trash.

    Raises:
        ValueError: it is at work, needed by a run at work or by what is loaded, or visitors may not.
        OutputError: the folder of runs cannot be written to.
    """
    share.require_own(folder)
    if folder.parent != runs.runs_root():
        raise ValueError("This run lies outside of the folder of runs: delete its folder yourself.")
    loaded = session.choice()
    if any(said and Path(said).is_relative_to(folder) for said in (loaded.model, loaded.weights)):
        raise ValueError("The model of this run is loaded: load another one before you delete the run.")
    with _starting:
        gone = runs.delete(folder)
    forget_listed()
    return gone


def restore(folder: Path) -> Run:
    """Take a run back from the trash.

    Raises:
        ValueError: it is not there, or another run has its name by now.
        OutputError: the folder of runs cannot be written to.
    """
    back = runs.restore(folder)
    forget_listed()
    return back


def forget(gone: list[Run]) -> None:
    """Delete runs in the trash for good, which visitors may not.

    Raises:
        ValueError: this server is shared.
        OutputError: the trash cannot be written to.
    """
    if share.is_shared():
        raise ValueError("Only who runs this server may delete runs for good.")
    for run in gone:
        runs.forget(run)
    forget_listed()


def lasting(job: Any, *, copy: bool = True) -> Any:
    """The job with paths at which its uploaded files outlive this session.

    The files are copied there if `copy`. Otherwise only the paths are changed, to compare with other jobs.
    """
    if isinstance(job, TrialJob):  # the job that is tried names the files
        return replace(job, pruning=lasting(job.pruning, copy=copy))
    places: dict[str, str] = {}
    for name in ("model", "data", "weights", "device"):
        path = Path(getattr(job, name, None) or "")
        if path.is_relative_to(uploads.workspace()):
            kept = runs.runs_root() / UPLOADS / path.relative_to(uploads.workspace())
            if copy and not kept.exists():
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                share.require_room(runs.runs_root() / UPLOADS, sum(file.stat().st_size for file in files))
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_name(f".{kept.name}.part")
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, partial)
                partial.replace(kept)
            places[name] = str(kept)
    return replace(job, **places)


# ---- paths of this server in what people read


_RUN = r"\d{8}-\d{6}-[0-9a-f]{6}-"  # how the name of a run's folder begins


def named(text: str) -> str:
    """A text, such as a log, that calls files among the runs by their names, without the folders above.

    So it does with runs that were moved here from elsewhere, whose log names the folder that they were in.
    """
    root = re.escape(str(runs.runs_root()))
    kept = rf"(?:{root}/{re.escape(UPLOADS)}|{re.escape(str(uploads.workspace()))})"
    uploaded = rf"{kept}/[0-9a-f]{{{uploads.DIGITS}}}/"
    elsewhere = rf"/[^\s'\"]*/(?={_RUN})"
    return re.sub(rf"{uploaded}|{root}/|{elsewhere}", "", text)


def uploads_named(command: str) -> tuple[str, tuple[str, ...]]:
    """A command that calls uploaded files by their names, as their folders go one day; and these names."""
    places = (uploads.workspace(), runs.runs_root() / UPLOADS)
    found: dict[str, str] = {}
    for word in shlex.split(command, comments=True):
        if any(Path(word).is_relative_to(place) for place in places):
            found[word] = Path(word).name if Path(word).is_file() else UPLOADED_MODEL
    for path, name in found.items():
        command = command.replace(shlex.quote(path), shlex.quote(name))
    return command, tuple(sorted(set(found.values())))


def _sweep_uploads(root: Path) -> None:
    """Delete uploads that no run refers to, unless they are so new that a run may be about to start."""
    kept = root / UPLOADS
    jobs = [run.job for run in (*runs.list_runs(root), *runs.deleted(root))] if kept.is_dir() else []
    if None in jobs:  # it cannot be known what a run refers to whose job cannot be read
        return
    texts = [job.to_json() for job in jobs if job]
    for file in [path for path in kept.rglob("*") if path.is_file()]:
        places = (json.dumps(str(place)) for place in (file, file.parent))  # a file, or a model's folder
        named = any(place in text for place in places for text in texts)
        if not named and time.time() - file.stat().st_mtime > FRESH:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # the folder is not empty
                file.parent.rmdir()
