"""The accuracy to expect of a budget, by what was measured of models that were cut in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analysis.measure import Evaluation, PairedChange, cost, paired_change
from analysis.outputs import CLASSIFY, task_of
from analysis.vit import Architecture
from app import wording
from app.parts import trial
from app.state import finished_runs, head_locks, memo, session_runs
from app.views.prune.curve.charts import Dot
from pruning.budget import KnownChange, expected_change, predicted_damage
from pruning.jobs import Job, TrialJob
from pruning.methods import Survey


@dataclass(frozen=True)
class Point:
    """A smaller model that a run or a `rough` trial tested: what it costs, and what it changed."""

    name: str
    gmacs: float
    damage: float
    before: Evaluation
    change: PairedChange
    rough: bool


@dataclass(frozen=True)
class Expected:
    """The accuracy of the dense model, and of what was tested, by predicted damage."""

    points: tuple[Point, ...]

    @property
    def dense(self) -> Evaluation:
        """The dense model's, on the most images that any of them was tested on."""
        return max((one.before for one in self.points), key=lambda found: found.images)

    @property
    def dots(self) -> list[Dot]:
        """What was tested, as the chart shows it: every change is one of the same dense accuracy."""
        found = ((one, one.change) for one in self.points)
        return [
            Dot(
                one.name,
                one.gmacs,
                self.dense.top1 + change.change,
                change.low - change.change,
                change.high - change.change,
                one.rough,
            )
            for one, change in found
        ]

    def top1(self, damage: float) -> float | None:
        """Top-1 at a predicted damage; None where nothing as damaged was tested."""
        tested = [KnownChange(one.damage, one.change.change, one.change.images) for one in self.points]
        change = expected_change(tested, damage)
        return None if change is None else max(0.0, self.dense.top1 + change)


def of_job(job: Job, dense: Architecture, found: Survey) -> Expected | None:
    """What is known for a job by its survey; None without a classifier, or if nothing like it was tested."""
    if task_of(dense) != CLASSIFY:
        return None
    points = tuple(_points(job, dense, found))
    return Expected(points) if points else None


def _points(job: Job, dense: Architecture, found: Survey) -> Iterator[Point]:
    wanted: Job = session_runs.lasting(job, copy=False)
    runs = {run.key: run for run in finished_runs.sound()}
    for run in session_runs.listed():
        result = runs.get(str(run.folder))
        if result is not None and isinstance(run.job, Job) and _is_like(run.job, wanted):
            arch, before, after = result.finished.arch, result.finished.before, result.finished.after
        elif isinstance(run.job, TrialJob) and _is_like(run.job.pruning, wanted):
            tried = trial.found_by(run)
            if tried is None or tried.model != head_locks.model_id():
                continue
            arch, before, after = run.job.target(dense), tried.before, tried.after
        else:
            continue
        damage = predicted_damage(dense, arch, found.sensitivities)
        if damage is not None:
            key = run.folder, finished_runs.stamp(run)
            change = memo.remember("tested change", key, lambda: paired_change(before, after))  # noqa: B023
            yield Point(session_runs.name(run), cost(arch).gmacs, damage, before, change, result is None)


def _is_like(other: Job, job: Job) -> bool:
    """Whether a job cuts the same model by the same method on the same images, and does nothing else."""
    alike = other.measured_alike() == job.measured_alike() and other.compensate == job.compensate
    return alike and not (other.trains or other.heads_by)


def words(known: Expected, damage: float) -> str:
    """What may be expected of a choice, in a sentence."""
    top1 = known.top1(damage)
    if top1 is None:
        return "No model with so much predicted damage has been tested yet: a run will tell its accuracy."
    dense = wording.percent(known.dense.top1)
    return f"Expect a top-1 of about **{wording.percent(top1)}** before fine-tuning (dense: {dense})."


def source(known: Expected) -> str:
    """What of the curve was measured and what was not, in words."""
    runs, trials = ([one for one in known.points if one.rough is rough] for rough in (False, True))
    told = [_counted(len(runs), "run")] if runs else []
    told += [_counted(len(trials), "rough trial")] if trials else []
    return (
        f"Dots are measured, by {wording.plain(' and '.join(told))}, with the 95 % interval of the change; "
        f"the dense model on {wording.count(known.dense.images)} images. The line between them is "
        "interpolated: top-1 falls in proportion to the predicted damage. It ends at the greatest damage "
        "that was tested, and all of it is before fine-tuning."
    )


def _counted(number: int, what: str) -> str:
    return f"{wording.count(number)} {what}{'' if number == 1 else 's'}"
