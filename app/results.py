"""Finished runs as the pages show them: read from disk, so that every session sees the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import streamlit as st

from analysis.data import ImageSet, open_training
from analysis.evaluate import Agreement, Evaluation, agreement
from analysis.latency import Timing
from analysis.models import LoadedModel, architecture
from analysis.vit import Architecture
from app import session, words, work
from app.session import Choice
from pruning import kinds
from pruning import runs as folders
from pruning.inputs import image_sets
from pruning.job import Job
from pruning.recover import RecoverJob


@dataclass(frozen=True)
class Finished:
    """What a run produced, from its folder: figures at the first look, models whenever they are asked for.

    `before` is the dense model (the teacher of a recovery), `start` the smaller model before
    fine-tuning if there was any, `after` the result.
    """

    run: folders.Run

    @property
    def job(self) -> Job | RecoverJob:
        """What was asked for."""
        found: Any = self.run.job
        result: Job | RecoverJob = found
        return result

    @property
    def bundle(self) -> Path:
        """The folder of the smaller model."""
        return self.run.folder / folders.BUNDLE

    @property
    def dense(self) -> LoadedModel:
        """The model it began with; shared by all sessions, never to be changed."""
        return session.model(Choice(*self.origin))

    @property
    def origin(self) -> tuple[str, str | None]:
        """Name and weights of the dense model."""
        job = self.job
        named = (
            (job.teacher, job.teacher_weights) if isinstance(job, RecoverJob) else (job.model, job.weights)
        )
        return self._placed(named[0]), self._placed(named[1]) if named[1] else None

    @property
    def pruned(self) -> LoadedModel:
        """The smaller model; shared by all sessions, never to be changed."""
        return session.model(Choice(str(self.bundle)))

    @cached_property
    def arch(self) -> Architecture:
        """Architecture of the smaller model, without its weights."""
        return architecture(str(self.bundle))

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """The figures that lie in the bundle."""
        return folders.report(self.run) or {}

    @cached_property
    def _evaluations(self) -> dict[str, Evaluation | None]:
        return kinds.read_evaluations(self.run.folder)

    @property
    def before(self) -> Evaluation:
        """Accuracy of the dense model."""
        return self._evaluation("before")

    @property
    def start(self) -> Evaluation | None:
        """Accuracy between pruning and fine-tuning, if the run fine-tuned."""
        return self._evaluations["start"]

    @property
    def after(self) -> Evaluation:
        """Accuracy of the smaller model."""
        return self._evaluation("after")

    def _evaluation(self, when: str) -> Evaluation:
        found = self._evaluations[when]
        if found is None:
            raise ValueError(f"{self.run.folder / kinds.EVALUATIONS} is damaged: it has no {when!r}")
        return found

    @cached_property
    def agreement(self) -> Agreement:
        """How far both models predict the same on the test images."""
        return agreement(self.before, self.after)

    @property
    def seconds(self) -> float:
        """How long the work took."""
        return float(self.report.get("seconds", self.run.seconds))

    @property
    def when(self) -> str:
        """Before or after fine-tuning: said with every accuracy."""
        return "after fine-tuning" if self.report.get("fine_tuned") else "before fine-tuning"

    @property
    def data(self) -> str:
        """The images it was tested on."""
        job = self.job
        return self._placed((isinstance(job, RecoverJob) and job.test_data) or job.data)

    def is_like(self, other: Finished) -> bool:
        """Whether it began with the same dense model and tested on the same images."""
        try:
            mine, others = ((one.origin, one.data, one.before.labels) for one in (self, other))
        except ValueError:  # a damaged one is like no other
            return False
        return mine == others

    def tested(self) -> ImageSet:
        """The images it was tested on, in the order of the predictions."""
        return session.remember("tested", self.run.folder, self._open_tested, keep=4)

    def _open_tested(self) -> ImageSet:
        job, dense = self.job, self.dense
        if isinstance(job, Job):
            return image_sets(job, dense)[1]
        classes = dense.model.arch.num_classes
        _, test = open_training(job.data, dense.preprocess, classes, job.test_data)
        return test.sample(job.limit, job.seed) if job.limit else test

    def _placed(self, spec: str) -> str:
        """A relative path begins where the run was started, if that is where it leads to something."""
        there = Path(self.run.status.workdir or "") / spec
        return str(there) if "/" in spec and not Path(spec).exists() and there.exists() else spec


@dataclass
class Run:
    """A finished run, with what this session measured or built since. `number` counts all runs on disk."""

    number: int
    title: str
    outcome: Finished
    timings: dict[int, Timing] = field(default_factory=dict)
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
        if run.state == "done" and isinstance(run.job, Job | RecoverJob) and run.bundle is not None:
            key = str(run.folder)
            title = f"Run {number}: {words.job(run.job)}"
            if key not in kept or kept[key].title != title:
                kept[key] = Run(number, title, Finished(run))
            found.append(kept[key])
    return found
