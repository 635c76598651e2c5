"""Surveys: what budgets are solved on, measured once for a model, images, method and options, and kept.

Measuring sensitivities takes minutes, solving a budget on them none. So the survey is a run of its
own (`SurveyJob`), and its result is kept under a key of all it depends on: budgets of every size, on
the command line and in the app, read it from there.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from analysis.formats import Checked, Stored
from analysis.models import Reading
from analysis.vit import Architecture
from pruning import cache
from pruning.budget import Budget, Sensitivities
from pruning.criteria import weights_id
from pruning.cut import Head, HeadLocks, Scores, format_heads
from pruning.files import replace_text
from pruning.jobs.inputs import Prepared, prepare
from pruning.jobs.prune_job import Job
from pruning.methods import METHODS, SURVEY_STEPS, Survey, require_narrowing
from pruning.options import Value
from pruning.progress import Monitor, OneStep
from pruning.seeding import fingerprint

SURVEY = "survey.json"  # in a run folder: what was measured
_KIND, _MEASURING = "surveys", "Measuring sensitivities"
_MEASURED_AS = 2  # raised when sensitivities are measured in another way, so that older ones are not taken


@dataclass(frozen=True)
class SurveyJob(Stored):
    """What a survey depends on: the fields of a pruning job that play a part before anything is cut.

    `images` are the calibration images that sensitivities are measured on, at most; `removed` the
    heads that are locked to go, without which the model is measured. With `skip_unread` only the pooled
    feature of a model without a classifier is to stay; for others it plays no part.

    Raises:
        ValueError: a value of another type, an unknown method or option, one that cannot narrow a single
            block, or no images.
    """

    VERSION: ClassVar[int] = 2
    INDENT: ClassVar[int | None] = 2

    model: str
    data: str
    method: str = "snp"
    weights: str | None = None
    options: tuple[tuple[str, Value], ...] = ()
    calibration: str | None = None
    images: int = Budget.images
    seed: int = 0
    removed: tuple[Head, ...] = ()
    reading: Reading = Reading()
    skip_unread: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "removed", HeadLocks(remove=self.removed).remove)
        _ = self.pruning_job  # checks the rest
        require_narrowing(METHODS[self.method])
        if self.images < 1:
            raise ValueError(f"images must be a whole number of at least 1, got {self.images!r}")

    @classmethod
    def of(cls, job: Job, dense: Architecture | None = None) -> SurveyJob:
        """The survey that a pruning job's budget is solved on; `dense` is the model's, where it is known.

        Raises:
            ValueError: its method cannot narrow a single block.
        """
        images = job.budget.images if job.budget else Budget.images
        lean = dense is not None and job.kept_output(dense) != dense
        return cls(
            job.model,
            job.data,
            job.method,
            job.weights,
            job.options,
            job.calibration,
            images,
            job.seed,
            job.locks.remove,
            job.reading,
            lean,
        )

    @property
    def pruning_job(self) -> Job:
        """A pruning job with the same model, images and method, and nothing to remove but locked heads."""
        return Job(
            self.model,
            self.data,
            self.method,
            self.weights,
            options=self.options,
            calibration=self.calibration,
            seed=self.seed,
            locks=HeadLocks(remove=self.removed),
            reading=self.reading,
            skip_unread=self.skip_unread,
        )

    def command(self) -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "survey", "--model", self.model, "--data", self.data]
        words += ["--method", self.method, *self.reading.words()]
        given = {
            "weights": self.weights,
            "calibration": self.calibration,
            "remove-heads": format_heads(self.removed),
            "seed": str(self.seed) if self.seed else None,
            "budget-images": str(self.images) if self.images != Budget.images else None,
        }
        for name, value in given.items():
            words += [f"--{name}", value] if value else []
        for name, number in self.options:
            words += ["--option", f"{name}={number}"]
        return shlex.join([*words, *(["--skip-unread"] if self.skip_unread else [])])


@dataclass(frozen=True)
class SurveyResult:
    """A survey, the key it is kept under, and how long it took; `reused` if it was kept before."""

    key: str
    survey: Survey
    reused: bool
    seconds: float

    def report(self) -> dict[str, Any]:
        """The figures, under the keys of the command line contract."""
        found = self.survey.sensitivities
        blocks = [asdict(curves) for curves in found.blocks]
        figures = {"key": self.key, "reused": self.reused, "images": found.images, "seconds": self.seconds}
        return figures | {"blocks": blocks}


def run_survey(job: SurveyJob, monitor: Monitor | None = None) -> SurveyResult:
    """Load the model and measure its sensitivities, unless they are kept already.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        Cancelled: the monitor asked for an end.
    """
    began = time.perf_counter()
    run = prepare(job.pruning_job, monitor)
    kept = kept_survey(run, job.images)
    found = kept or surveyed(run, job.images)
    return SurveyResult(survey_key(run, job.images), found, kept is not None, time.perf_counter() - began)


def surveyed(run: Prepared, images: int | None = None, scores: Scores | None = None) -> Survey:
    """The survey of a run's model: read if it is kept, measured and kept if not.

    Raises:
        ValueError: the method cannot narrow a single block, or there are too few images.
    """
    images = images or _images(run)
    found = kept_survey(run, images)
    if found is not None:
        run.monitor.note("Sensitivities were measured before and are reused.")
        return found
    task = replace(run.task, monitor=OneStep(run.monitor, _MEASURING, SURVEY_STEPS))
    found = run.method.survey(task, images, scores)
    try:
        cache.keep(_KIND, survey_key(run, images), _written(found))
    except OSError as error:  # the run goes on without
        run.monitor.note(f"The sensitivities could not be kept in {cache.cache_folder()}: {error}")
    return found


def kept_survey(run: Prepared, images: int | None = None) -> Survey | None:
    """The survey of a run's model if it was measured before; None if it was not, or is damaged."""
    file = cache.kept_file(_KIND, survey_key(run, images or _images(run)))
    try:
        found = read_survey(file) if file.exists() else None
    except (OSError, ValueError):  # it is measured again and replaced
        return None
    return found if found is not None and _fits(found, run.task.start.model.arch.depth) else None


def _fits(survey: Survey, depth: int) -> bool:
    """Whether a survey has as many blocks as the model: a file can be edited."""
    scores = survey.scores
    counts = [len(survey.sensitivities.blocks)]
    counts += [] if scores is None else [len(scores.qk), len(scores.v), len(scores.mlp), len(scores.heads)]
    return set(counts) == {depth}


def survey_key(run: Prepared, images: int) -> str:
    """A name for all that a survey depends on: weights, images, method and options."""
    return fingerprint(
        _MEASURED_AS,
        weights_id(run.task.start.model),
        run.calibration.fingerprint(),
        run.dense.preprocess,
        run.job.method,
        run.job.method_options,
        run.job.seed,
        images,
    )


def _images(run: Prepared) -> int:
    return run.job.budget.images if run.job.budget else Budget.images


def save_survey(result: SurveyResult, file: Path) -> None:
    """Write it into a run folder; the file appears at once.

    Raises:
        OSError: it could not be written.
    """
    replace_text(file, _written(result.survey))


# ---- on disk


@dataclass(frozen=True)
class _Scores(Checked):
    """`Scores` as lists of numbers."""

    qk: tuple[tuple[tuple[float, ...], ...], ...]
    v: tuple[tuple[tuple[float, ...], ...], ...]
    mlp: tuple[tuple[float, ...], ...]
    heads: tuple[tuple[float, ...], ...]
    embed: tuple[float, ...]


@dataclass(frozen=True)
class _File(Stored):
    """What is kept of a survey."""

    sensitivities: Sensitivities
    scores: _Scores | None


def _written(survey: Survey) -> str:
    return _File(survey.sensitivities, _as_lists(survey.scores)).to_json()


def read_survey(file: Path) -> Survey:
    """What `save_survey` wrote, or what was kept.

    Raises:
        ValueError: it is not there, or damaged.
    """
    found = _File.read(file)
    return Survey(found.sensitivities, None if found.scores is None else _as_scores(found.scores))


def _as_lists(scores: Scores | None) -> _Scores | None:
    if scores is None:
        return None
    rows: dict[str, Any] = {name: [block.tolist() for block in getattr(scores, name)] for name in _PER_BLOCK}
    return _Scores(**rows, embed=tuple(scores.embed.tolist()))


def _as_scores(lists: _Scores) -> Scores:
    def tensors(blocks: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(block, dtype=torch.float64) for block in blocks)

    rows: dict[str, Any] = {name: tensors(getattr(lists, name)) for name in _PER_BLOCK}
    return Scores(**rows, embed=torch.tensor(lists.embed, dtype=torch.float64))


_PER_BLOCK = ("qk", "v", "mlp", "heads")
