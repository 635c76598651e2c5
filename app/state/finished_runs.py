"""Finished runs as the pages show them, read from disk so that every session sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from analysis.data import ImageSet
from analysis.models import LoadedModel
from app import wording
from app.state import memo, session, session_runs
from app.state.session import Choice
from pruning.runs import FinishedRun, is_finished


@dataclass(frozen=True)
class OpenedRun(FinishedRun):
    """A finished run with its models, which all sessions share and none may change."""

    @property
    def dense(self) -> LoadedModel:
        """The model that the run began with."""
        return session.model(Choice(*self.origin))

    @property
    def pruned(self) -> LoadedModel:
        """The smaller model that the run made."""
        return session.model(Choice(str(self.bundle)))

    def tested(self) -> ImageSet:
        """The images that the models were tested on, in the order of the predictions."""
        return memo.remember("tested", self.run.folder, lambda: self.open_tested(self.dense), keep=4)


@dataclass
class NumberedRun:
    """A finished run, with the files that this session built from it. `number` counts all runs on disk."""

    number: int
    title: str
    finished: OpenedRun
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells the run from all others: its folder."""
        return str(self.finished.run.folder)


def numbered_runs() -> list[NumberedRun]:
    """All finished runs on disk, oldest first."""
    kept: dict[str, NumberedRun] = st.session_state.setdefault("numbered runs", {})
    found = []
    for number, run in enumerate(reversed(session_runs.listed()), 1):
        if is_finished(run):
            key = str(run.folder)
            title = f"Run {number}: {wording.describe(run.job)}"
            if key not in kept or kept[key].title != title:
                kept[key] = NumberedRun(number, title, OpenedRun(run))
            found.append(kept[key])
    return found
