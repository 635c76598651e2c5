"""Carrying out a pruning job: `prune`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from analysis.data import ImageSet, open_training
from analysis.measure import Evaluation
from analysis.models import LoadedModel
from analysis.outputs import FEATURES, task_of
from analysis.vit import Architecture, BlockWidths, ViT
from pruning.budget import Allocation
from pruning.bundle import rounded
from pruning.cut import (
    Scores,
    absent,
    kept_heads,
    merges_of,
    set_merges,
    unmerged,
    with_merges,
)
from pruning.evaluation import evaluate_model, is_of
from pruning.jobs.inputs import Prepared, load_dense, prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.prune_result import PruneResult
from pruning.jobs.recover import known_curves, unless_harmed
from pruning.jobs.solve_budget import solve_all, time_widths
from pruning.jobs.survey import surveyed
from pruning.methods import METHODS, Made, Task, require_narrowing
from pruning.progress import Progress, as_monitor, quiet
from pruning.training import read_recovery, recover

NOTHING = "nothing to remove: set a ratio above 0, or tokens to merge, or name a preset or a budget"
ROUGH_IMAGES = 64  # calibration images of a rough try
_NEAR = 1.1  # times the least predicted damage: what may turn out to be the best


def prune(
    job: Job,
    *,
    dense: LoadedModel | None = None,
    before: Evaluation | None = None,
    dtype: str | None = None,
    progress: Progress = quiet,
) -> PruneResult:
    """Score, select, cut and evaluate.

    The dense model and its evaluation `before` are reused where they are at hand. The smaller model is
    rounded to `dtype`, one of `DTYPES`, before it is evaluated; None keeps the precision of the dense
    model's file.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
    """
    began = time.perf_counter()
    run = prepare_feasible(job, progress, dense)
    allocation, scores = _allocated(run) if job.budget else (None, None)
    made = make_smaller(run, allocation.arch if allocation else None, scores)
    pruned = replace(run.dense, model=made.model, name=f"{run.dense.name}, {job.method}")
    pruned = rounded(pruned, dtype, run.monitor)
    if before is None or not is_of(before, run.dense, run.tested):
        before = evaluate_model(run.dense, run.tested, "Evaluating the dense model", run.monitor)
    after, start = _evaluated(run, pruned, "Evaluating the pruned model", before), None
    if job.recovery is not None:
        start, known = after, known_curves(before, after)
        recovered = rounded(_recover(run, pruned, known), dtype, run.monitor)
        after = _evaluated(run, recovered, "Evaluating the recovered model", before)
        pruned, after = unless_harmed((pruned, start), (recovered, after), run.monitor)
    seconds = time.perf_counter() - began
    heads = kept_heads(made.plan or made.heads, run.dense.model.arch, pruned.model.arch)
    tested = run.test.names_id()
    return PruneResult(
        job, run.dense, pruned, made.plan, before, after, seconds, allocation, start, heads, tested
    )


def prepare_feasible(job: Job, progress: Progress = quiet, dense: LoadedModel | None = None) -> Prepared:
    """Load what a job names, unless it is known before that the job cannot be carried out.

    Raises:
        ValueError: as `require_feasible` and `prepare`.
    """
    if job.removes_nothing:
        raise ValueError(NOTHING)  # before a model is loaded
    dense = dense or load_dense(job)
    require_feasible(job, dense)
    return prepare(job, as_monitor(progress), dense)


def require_embedding(job: Job, dense: Architecture, name: str) -> None:
    """Refuse to narrow the embedding of a model that is used for its features.

    Raises:
        ValueError: the job does.
    """
    if job.request(dense).ratios.embed and task_of(dense) == FEATURES:
        raise ValueError(
            f"{name} has no classifier: its embedding is what it gives, so it cannot be made narrower; "
            "set embed to 0"
        )


def require_feasible(job: Job, dense: LoadedModel) -> None:
    """Refuse a job of which it is known without reading an image that it cannot be carried out.

    Raises:
        ValueError: it removes nothing, asks of its method what that cannot do, or does not fit the model.
    """
    require_embedding(job, dense.model.arch, dense.name)
    if job.budget is not None:
        require_narrowing(METHODS[job.method])
    elif job.removes_nothing or job.target(dense.model.arch) == dense.model.arch:
        raise ValueError(NOTHING)


def _allocated(run: Prepared) -> tuple[Allocation, Scores | None]:
    """Widths, tokens and depth for the job's budget, and the scores that were measured on the way, if any.

    Of the candidates that are predicted to do the least damage the one is taken that does the least: each is
    made in a rough way and compared with the dense model on images that it was not made on.
    """
    begin = _merging_as_before(run)
    table = time_widths(run.job, begin, run.monitor)  # out of reach is said now, not after minutes
    found = surveyed(run)
    solved = solve_all(run.job, begin, found.sensitivities, run.monitor, table)
    return _confirmed(run, solved, found.scores), found.scores


def _merging_as_before(run: Prepared) -> Architecture:
    """What a budget begins with: the model without the heads that are locked to go, with its own merging."""
    arch, merges = run.task.start.model.arch, merges_of(run.dense.model.arch)
    return with_merges(arch, (*merges[:-1], 0) if arch.skip_unread else merges)


def _confirmed(run: Prepared, solved: Sequence[Allocation], scores: Scores | None) -> Allocation:
    near = [one for one in solved if one.loss <= _NEAR * solved[0].loss]
    if len(near) < 2:
        return solved[0]
    damages = []
    for number, one in enumerate(near):
        run.monitor.note(f"Candidate {number + 1} of {len(near)}: predicted damage {one.loss:.3f}.")
        damages.append(run.task.divergence(preview(run, one.arch, scores), ROUGH_IMAGES))
        run.monitor.note(f"Candidate {number + 1} of {len(near)}: measured damage {damages[-1]:.3f}.")
    return near[damages.index(min(damages))]


def make_smaller(run: Prepared, target: Architecture | None = None, scores: Scores | None = None) -> Made:
    """The smaller model, and how it was chosen. `target` and `scores` are reused where they are known.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    if target is None and run.job.budget is not None:
        allocation, scores = _allocated(run)
        target = allocation.arch
    target = target or run.job.target(run.dense.model.arch)
    task, plain = _begun(run.task, target)
    made = run.method.make(task, plain, _left(scores, task))
    # first the merging: a last block that merges cannot leave out unread tokens as well
    set_merges(made.model, merges_of(target))
    made.model.arch = replace(made.model.arch, skip_unread=target.skip_unread)
    return made


def preview(run: Prepared, target: Architecture, scores: Scores | None = None) -> ViT:
    """A model that predicts what the job would make: masked, or made on few images and without training.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    task, plain = _begun(run.task.quick(ROUGH_IMAGES), target)
    scores = _left(scores, task)
    dense = task.dense.model.arch
    heads = [tuple(widths.heads for widths in arch.blocks) for arch in (dense, plain)]
    if target.merges and (plain.embed_dim < dense.embed_dim or heads[0] != heads[1]):
        # tokens merge by the stream and by what the class token attends to, which a mask leaves as they are
        small = run.method.make(task, plain, scores).model
    else:
        small = run.method.preview(task, plain, scores)
    set_merges(small, merges_of(target))
    return small


def _left(scores: Scores | None, task: Task) -> Scores | None:
    """The scores without those of halves of blocks that the task's model has lost."""
    if scores is None or task.whole is None:
        return scores
    blocks = task.dense.model.arch.blocks

    def of(name: str, there: Callable[[BlockWidths], int]) -> tuple[Tensor, ...]:
        pairs = zip(getattr(scores, name), blocks, strict=True)
        return tuple(one if there(widths) else one[:0, ...] for one, widths in pairs)

    attention: dict[str, Any] = {name: of(name, lambda widths: widths.heads) for name in ("qk", "v", "heads")}
    return replace(scores, **attention, mlp=of("mlp", lambda widths: widths.mlp))


def _begun(task: Task, target: Architecture) -> tuple[Task, Architecture]:
    """What a method is given for a target: a task without the halves of blocks that go, and the widths.

    Merging and unread tokens are not the method's concern: weights are made as if no token were merged, and
    for the last block as the dense model computes it.
    """
    dense = task.dense.model.arch
    gone = absent(dense, target)
    plain = replace(unmerged(target), skip_unread=dense.skip_unread)
    return (task.shallower(gone) if gone else task), plain


def _evaluated(run: Prepared, loaded: LoadedModel, what: str, before: Evaluation) -> Evaluation:
    return evaluate_model(loaded, run.tested, what, run.monitor, dense=run.dense, reference=before)


def _recover(run: Prepared, pruned: LoadedModel, known: Mapping[str, float]) -> LoadedModel:
    job, dense = run.job, run.dense
    settings = read_recovery(job.recovery or ())
    return recover(pruned, dense, _to_learn_from(run), run.test, settings, job.seed, run.monitor, known)


def _to_learn_from(run: Prepared) -> ImageSet:
    job, classes = run.job, run.dense.model.arch.num_classes
    other = job.data if job.calibration else None
    return open_training(job.calibration or job.data, run.dense.preprocess, classes, other)[0]
