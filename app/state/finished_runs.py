"""Finished runs as the pages show them, read from disk so that every session sees the same ones."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from analysis.data import ImageSet
from analysis.models import LoadedModel, Named
from app.state import memo, session, session_runs
from app.state.session import Choice
from pruning.jobs import registry
from pruning.runs import NOTE, FinishedRun, Run, is_finished
from pruning.wording import base_name


@dataclass(frozen=True)
class OpenedRun(FinishedRun):
    """A finished run with its models, which all sessions share and none may change."""

    @property
    def dense(self) -> LoadedModel:
        """The model that the run began with."""
        return session.model(Choice.of(self.origin))

    @property
    def pruned(self) -> LoadedModel:
        """The smaller model that the run made."""
        return session.model(Choice(str(self.bundle)))

    def tested(self) -> ImageSet:
        """The images that the models were tested on, in the order of the predictions."""
        return memo.remember("tested", self.run.folder, lambda: self.open_tested(self.dense), keep=4)


@dataclass
class NumberedRun:
    """A finished run, with the files that this session built from it.

    `name` is what it is called everywhere, `number` that in names of files, and `does` what it does in words.
    """

    name: str
    number: str
    does: str
    title: str
    finished: OpenedRun
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells the run from all others: its folder."""
        return str(self.finished.run.folder)


def with_model() -> list[NumberedRun]:
    """The finished runs on disk whose smaller model can be loaded, oldest first."""
    return [run for run in _numbered() if run.finished.model_problem is None]


def is_of_loaded(run: NumberedRun) -> bool:
    """Whether a run's dense model is the one that is loaded now."""
    loaded: Choice = session_runs.lasting(session.choice(), copy=False)
    return run.finished.origin == loaded.named


def title(run: NumberedRun) -> str:
    """What a run is called among runs of all models: with its dense model if that is not the loaded one."""
    return run.title if is_of_loaded(run) else f"{run.title} · {base_name(run.finished.origin[0])}"


def sound() -> list[NumberedRun]:
    """The finished runs on disk of which no file is damaged, oldest first."""
    return [run for run in _numbered() if run.finished.problem is None]


def _numbered() -> list[NumberedRun]:
    kept: dict[str, NumberedRun] = st.session_state.setdefault("numbered runs", {})
    found = []
    for run in reversed(session_runs.listed()):
        if is_finished(run):
            key, finished = str(run.folder), opened(run)
            same = key in kept and kept[key].finished is finished
            kept[key] = NumberedRun(*_called(run), finished, kept[key].files if same else {})
            found.append(kept[key])
    return found


def _called(run: Run) -> tuple[str, str, str, str]:
    """Name, number or folder, what it does, and title."""
    number, does = session_runs.number(run), session_runs.words(run)
    return session_runs.name(run), str(number or run.name), does, session_runs.title(run)


# ---- files that this session has built


def report_name(format: str) -> str:
    """The key of an int8 file's figures among the files built."""
    return f"{format} report"


def loaded_files(loaded: LoadedModel) -> dict[str, Path]:
    """The files built from the loaded model, as it was loaded."""
    kept: tuple[LoadedModel, dict[str, Path]] | None = st.session_state.get("dense files")
    if kept is None or kept[0] is not loaded:
        kept = st.session_state["dense files"] = loaded, {}
    return kept[1]


def dense_files(origin: Named) -> dict[str, Path]:
    """The files built from a dense model, if that is the loaded one."""
    kept = st.session_state.get("dense files")
    return kept[1] if kept is not None and origin == session.choice().named else {}


# ---- damaged runs


def flaw(run: Run) -> str | None:
    """What is wrong with the result of a run that says it is done, in one sentence; None for other runs."""
    return opened(run).problem if run.state == "done" and run.job is not None else None


def damaged(*jobs: type) -> dict[str, str]:
    """The titles of the runs of these kinds whose result is damaged, oldest first, and what is wrong."""
    known = reversed(session_runs.listed())
    found = {session_runs.title(run): flaw(run) for run in known if isinstance(run.job, jobs)}
    return {title: said for title, said in found.items() if said is not None}


def opened(run: Run) -> OpenedRun:
    """A run whose files all sessions read once, and again where one has changed on disk."""
    kept, now = _kept(), stamp(run)
    found = kept.get(run.folder)
    if found is None or found[0] != now:
        found = kept[run.folder] = (now, OpenedRun(run))
    return found[1]


@st.cache_resource(show_spinner=False)
def _kept() -> dict[Path, tuple[object, OpenedRun]]:
    return {}


def stamp(run: Run) -> tuple[object, ...]:
    """What changes whenever a file of a run does, for caches of what was read from it; not with its note."""
    found: list[object] = [run.state]
    for place in (run.folder, run.folder / registry.BUNDLE):
        try:
            with os.scandir(place) as entries:
                stats = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except OSError:  # no bundle, or a folder that is being moved
            continue
        found += [
            (name, one.st_mode, one.st_size, one.st_mtime_ns)
            for name, one in sorted(stats.items())
            if name.strip(".") not in (NOTE, f"{NOTE}.part")
        ]
    return tuple(found)
