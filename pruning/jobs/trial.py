"""A trial as a run: roughly what a pruning job would do to the accuracy, before anything is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from analysis.formats import Stored
from analysis.measure import Evaluation, require_same_images
from analysis.vit import Architecture, BlockWidths
from pruning.criteria import weights_id
from pruning.cut import Scores
from pruning.evaluation import EvaluationImages, evaluate_model
from pruning.jobs.evaluations import is_usual, require_whole
from pruning.jobs.inputs import Prepared
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import prepare_feasible, preview
from pruning.jobs.survey import kept_survey
from pruning.progress import Monitor

TRIAL = "trial.json"  # in a run folder: what was found


@dataclass(frozen=True)
class TrialJob(Stored):
    """The pruning job that is tried, on at most `images` of its test images; frozen, hashable, JSON.

    A budget is tried at the widths that were found for it, which are `blocks`; `skip_unread` says whether
    the smaller model leaves out the tokens that nothing reads. Without a budget the job itself gives both.

    Raises:
        ValueError: a value of another type, fewer than one image, a budget without widths, or widths
            without a budget.
    """

    INDENT: ClassVar[int | None] = 2

    pruning: Job
    images: int = 128
    blocks: tuple[BlockWidths, ...] | None = None
    skip_unread: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise ValueError(f"a job is tried on at least 1 image, got images {self.images!r}")
        budget = self.pruning.budget is not None
        if budget and self.blocks is None:
            raise ValueError("a budget is tried at the widths that were found for it: give `blocks`")
        if not budget and (self.blocks is not None or self.skip_unread):
            raise ValueError("`blocks` and `skip_unread` belong to a budget: `pruning` has none")

    @classmethod
    def of(cls, job: Job, target: Architecture) -> TrialJob:
        """The trial of a job which makes a model of the architecture `target`."""
        if job.budget is None:
            return cls(job)
        return cls(job, blocks=target.blocks, skip_unread=target.skip_unread)

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """With the pruning job as it is written today."""
        pruning = data.get("pruning")
        return data | {"pruning": Job.upgraded(pruning)} if isinstance(pruning, dict) else data

    @property
    def model(self) -> str:
        """The dense model."""
        return self.pruning.model

    @property
    def method(self) -> str:
        """The method that is tried."""
        return self.pruning.method

    def target(self, dense: Architecture) -> Architecture:
        """The architecture that is tried.

        Raises:
            ValueError: the widths, or those that the pruning job asks for, do not fit the model.
        """
        if self.blocks is None:
            return self.pruning.target(dense)
        if len(self.blocks) != dense.depth or not all(map(_is_within, self.blocks, dense.blocks)):
            raise ValueError("`blocks` must be as many as the model has, and none wider than its own")
        return replace(dense, blocks=self.blocks, skip_unread=self.skip_unread)

    def command(self) -> str:
        """The command line that makes the model itself, as no command only tries it."""
        return f"# there is no command for a trial; this makes the model itself:\n{self.pruning.command()}"


def _is_within(widths: BlockWidths, dense: BlockWidths) -> bool:
    """Whether a block is nowhere wider than the dense one."""
    pairs = zip(_of_weights(widths), _of_weights(dense), strict=True)
    return all(mine <= theirs for mine, theirs in pairs)


def _of_weights(widths: BlockWidths) -> tuple[int, int, int, int]:
    return widths.heads, widths.qk, widths.v, widths.mlp


@dataclass(frozen=True)
class Trial(Stored):
    """What a trial found: how the dense model and a rough smaller one did on the same few test images.

    `model` is the id of the dense model's weights.

    Raises:
        ValueError: a value of another type or out of its range, or other images for one than for the other.
    """

    model: str
    before: Evaluation
    after: Evaluation

    def __post_init__(self) -> None:
        super().__post_init__()
        for when in ("before", "after"):
            one: Evaluation = getattr(self, when)
            require_whole(when, one)
            if not is_usual(one):
                raise ValueError(f"`{when}` must have shares from 0 to 1, and classes by their number")
        require_same_images(self.before, self.after)


def run_trial(job: TrialJob, monitor: Monitor = Monitor()) -> Trial:
    """Make the smaller model in a rough way, and compare it with the dense one on a few test images.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        Cancelled: the monitor asked for an end.
    """
    run = prepare_feasible(job.pruning, monitor)
    target = job.target(run.dense.model.arch)
    tested = EvaluationImages.of(
        run.test.sample(min(job.images, len(run.test))),
        run.calibration.sample(min(2 * job.images, len(run.calibration))),
    )
    rough = replace(run.dense, model=preview(run, target, _scores(run)))
    before = evaluate_model(run.dense, tested, "Evaluating the dense model", monitor)
    after = evaluate_model(
        rough, tested, "Evaluating the estimate", monitor, dense=run.dense, reference=before
    )
    return Trial(weights_id(run.dense.model), before, after)


def _scores(run: Prepared) -> Scores | None:
    """What each part is worth, if the method ranks parts: the survey of a budget has it already."""
    kept = kept_survey(run) if run.job.budget else None
    return run.method.scores(run.task) if kept is None or kept.scores is None else kept.scores


def open_trial(folder: Path) -> Trial:
    """What a run left in its folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return Trial.read(folder / TRIAL)
