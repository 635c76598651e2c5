"""A finished run as data: its job, its models and their accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.data import ImageSet, open_training
from analysis.measure import CLASSES, NEIGHBOURS, Agreement, Evaluation, agreement
from analysis.models import LoadedModel, Named, architecture, require_bundle
from analysis.outputs import CLASSIFY, task_of
from analysis.paths import is_there
from analysis.vit import Architecture
from pruning.bundle import EVALUATIONS_FILE, PLAN_FILE, Report
from pruning.cut import Indices, Plan
from pruning.evaluation import EvaluationImages
from pruning.jobs import (
    BenchJob,
    HeadsJob,
    Job,
    RecoverJob,
    TrialJob,
    evaluations,
    image_sets,
    open_reading,
    open_trial,
    read_report,
    read_timings,
    registry,
)
from pruning.runs import folder as runs

Heads = tuple[Indices | None, ...]  # of each block


@dataclass(frozen=True)
class FinishedRun:
    """What a run produced, read from its folder on demand. A file that is damaged raises ValueError then.

    Files can be damaged at any time, and a run that many pages list must not take them down. So whoever shows
    several runs asks for `problem` first, or for `model_problem` where the model is all that matters.

    `before` is the accuracy of the dense model (the teacher of a recovery), `start` that of the smaller
    model before fine-tuning, if there was any, and `after` that of the result.
    """

    run: runs.Run

    @property
    def job(self) -> Job | RecoverJob:
        """The job that was carried out."""
        found: Any = self.run.job
        result: Job | RecoverJob = found
        return result

    @property
    def bundle(self) -> Path:
        """The folder of the smaller model."""
        return self.run.bundle or self.run.folder / runs.BUNDLE

    @property
    def origin(self) -> Named:
        """The dense model."""
        job = self.job
        name, weights = (
            (job.teacher, job.teacher_weights) if isinstance(job, RecoverJob) else (job.model, job.weights)
        )
        return Named(self._placed(name), self._placed(weights) if weights else None, job.reading)

    @cached_property
    def model_problem(self) -> str | None:
        """What is wrong with the smaller model, in one sentence; the values of its weights are not read."""
        return _problem(lambda: require_bundle(self.bundle))

    @cached_property
    def problem(self) -> str | None:
        """What is wrong with the first damaged file of the result, in one sentence; None if all are sound.

        A run of any other kind has a result in one file.
        """
        if not isinstance(self.run.job, Job | RecoverJob):
            return _problem(lambda: _read_result(self.run))
        return self.model_problem or _problem(
            lambda: (self.arch, self.plan, self.heads, self.report, self._evaluations)
        )

    @cached_property
    def arch(self) -> Architecture:
        """Architecture of the smaller model, without its weights."""
        return architecture(str(self.bundle))

    @cached_property
    def plan(self) -> Plan | None:
        """What was kept of the dense model, also for a fine-tuned bundle; None if that is not known.

        Raises:
            ValueError: the plan is damaged.
        """
        return next((plan for place in self._bundles if (plan := read_plan(place)) is not None), None)

    @cached_property
    def heads(self) -> Heads | None:
        """Which heads of the dense model stay in each block, from the report; None if that is not known.

        Raises:
            ValueError: the report is damaged.
        """
        reports = (read_report(place) for place in self._bundles)
        return next((report.heads for report in reports if report and report.heads is not None), None)

    @property
    def _bundles(self) -> list[Path]:
        """The bundle, and for a recovery the one it was fine-tuned from."""
        job = self.job
        return [self.bundle, *([Path(self._placed(job.model))] if isinstance(job, RecoverJob) else [])]

    @cached_property
    def report(self) -> Report:
        """The figures in the bundle."""
        return runs.report(self.run) or Report()

    @cached_property
    def _evaluations(self) -> evaluations.Evaluations:
        found = evaluations.read_evaluations(self.run.folder)
        for one in (found.before, found.start, found.after):
            if one is not None and not _is_usual(one, self.arch):
                known = f"classes of the {self.arch.num_classes} that the model tells apart"
                known = known if task_of(self.arch) == CLASSIFY else "the neighbours of images"
                raise ValueError(
                    f"{self.run.folder / EVALUATIONS_FILE} must have shares from 0 to 1 and {known}"
                )
        return found

    @property
    def before(self) -> Evaluation:
        """Accuracy of the dense model."""
        return self._evaluations.before

    @property
    def start(self) -> Evaluation | None:
        """Accuracy between pruning and fine-tuning, if the run fine-tuned."""
        return self._evaluations.start

    @property
    def after(self) -> Evaluation:
        """Accuracy of the smaller model."""
        return self._evaluations.after

    @cached_property
    def agreement(self) -> Agreement:
        """How far the predictions of both models agree on the test images."""
        return agreement(self.before, self.after)

    @property
    def seconds(self) -> float:
        """How many seconds the work took."""
        return self.run.seconds if self.report.seconds is None else self.report.seconds

    @property
    def when(self) -> str:
        """Whether the accuracy is "before fine-tuning" or "after fine-tuning"; shown with every accuracy."""
        return self.report.stage

    @property
    def data(self) -> str:
        """The test images, as the command line takes them."""
        job = self.job
        return self._placed((isinstance(job, RecoverJob) and job.test_data) or job.data)

    def is_like(self, other: FinishedRun) -> bool:
        """Whether both runs have the same dense model and the same test images."""
        try:
            mine, others = ((one.origin, one.data, one.before.labels) for one in (self, other))
        except ValueError:  # a damaged run is like no other
            return False
        return mine == others

    def open_tested(self, dense: LoadedModel) -> ImageSet:
        """Open the test images, in the order of the predictions.

        Raises:
            ValueError: they can no longer be read, or are no longer those that were tested on.
        """
        found = self._open(dense)[1]
        known = self._evaluations.images_id
        labels = tuple(found.label(i) for i in range(len(found)))
        if self.before.measure == NEIGHBOURS:  # whose labels are numbers of images
            labels = self.before.labels if len(found) == self.before.images else ()
        if labels != self.before.labels or known not in (None, found.names_id()):
            raise ValueError(
                f"the images in {found.name} have changed since {self.run.name} was tested on them "
                f"({self.before.images} then, {len(found)} now): put the former ones back, or do the run "
                "again"
            )
        return found

    def with_gallery(self, tested: ImageSet, dense: LoadedModel) -> EvaluationImages:
        """The test images with those that features find their neighbours in, as the run had them.

        Raises:
            ValueError: the images of the gallery cannot be read.
        """
        return EvaluationImages.of(tested, self._open(dense)[0])

    def _open(self, dense: LoadedModel) -> tuple[ImageSet, ImageSet]:
        """The images that the run calibrated or trained on, and the test images."""
        job = replace(self.job, data=self._placed(self.job.data))
        if isinstance(job, Job):
            job = replace(job, calibration=job.calibration and self._placed(job.calibration))
            return image_sets(job, dense)
        classes = dense.model.arch.num_classes
        images, test = open_training(
            job.data, dense.preprocess, classes, job.test_data and self._placed(job.test_data)
        )
        return images, test.sample(job.limit, job.seed) if job.limit else test

    def _placed(self, spec: str) -> str:
        """Resolve a relative path against the folder where the run was started, if it exists there."""
        there = Path(self.run.status.workdir or "") / spec
        moved = "/" in spec and not is_there(Path(spec)) and is_there(there)
        return str(there) if moved else spec


def is_finished(run: runs.Run) -> bool:
    """Whether a run is done and has produced a smaller model."""
    return run.state == "done" and isinstance(run.job, Job | RecoverJob) and run.bundle is not None


def flaw(run: runs.Run) -> str | None:
    """What is wrong with the result of a run that says it is done, in one sentence; None for other runs."""
    return FinishedRun(run).problem if run.state == "done" and run.job is not None else None


def _read_result(run: runs.Run) -> None:
    """Read the file that a run leaves which makes no model."""
    if isinstance(run.job, BenchJob):
        read_timings(run.folder)
    elif isinstance(run.job, HeadsJob):
        open_reading(run.folder)
    elif isinstance(run.job, TrialJob):
        open_trial(run.folder)
    elif run.kind is not None and not registry.RUN_KINDS[run.kind].is_complete(run.folder):
        raise ValueError(f"{run.folder} has no {registry.RUN_KINDS[run.kind].output}, though it is done")


def _problem(read: Callable[[], Any]) -> str | None:
    """What reading a result says is wrong with it. This is where errors of damaged runs end."""
    try:
        read()
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _is_usual(result: Evaluation, arch: Architecture) -> bool:
    """Whether a model of this architecture can have done like this on at least one image."""
    if (result.measure == CLASSES) != (task_of(arch) == CLASSIFY):
        return False
    return evaluations.is_usual(result, arch.num_classes or evaluations.MOST_NUMBER)


def read_plan(bundle: Path) -> Plan | None:
    """The plan in a bundle, None if there is none.

    Raises:
        ValueError: it is damaged.
    """
    return Plan.find(bundle / PLAN_FILE)
