"""Finished runs as the pages show them: read from disk, so that every session sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from analysis.data.image_set import ImageSet
from analysis.models.load import LoadedModel
from app.parts import wording as words
from app.state import loaded as session
from app.state import memo
from app.state import runs as work
from app.state.loaded import Choice
from pruning.runs import finished


@dataclass(frozen=True)
class Finished(finished.Finished):
    """A finished run, with its models as all sessions share them: never to be changed."""

    @property
    def dense(self) -> LoadedModel:
        """The model it began with."""
        return session.model(Choice(*self.origin))

    @property
    def pruned(self) -> LoadedModel:
        """The smaller model."""
        return session.model(Choice(str(self.bundle)))

    def tested(self) -> ImageSet:
        """The images it was tested on, in the order of the predictions."""
        return memo.remember("tested", self.run.folder, lambda: self.open_tested(self.dense), keep=4)


@dataclass
class Run:
    """A finished run, with what this session built since. `number` counts all runs on disk."""

    number: int
    title: str
    outcome: Finished
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return str(self.outcome.run.folder)


def runs() -> list[Run]:
    """All finished runs on disk, oldest first."""
    kept: dict[str, Run] = st.session_state.setdefault("results", {})
    found = []
    for number, run in enumerate(reversed(work.listed()), 1):
        if finished.is_finished(run):
            key = str(run.folder)
            title = f"Run {number}: {words.job(run.job)}"
            if key not in kept or kept[key].title != title:
                kept[key] = Run(number, title, Finished(run))
            found.append(kept[key])
    return found
