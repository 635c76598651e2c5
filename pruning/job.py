"""A pruning run as data (`Job`), and the one function that carries it out (`prune`)."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.cost import cost
from analysis.data import ImageSet, batches, open_data, open_training
from analysis.evaluate import Agreement, Batches, Evaluation, agreement, evaluate
from analysis.models import LoadedModel, load
from analysis.vit import Architecture, ViT
from pruning.budget import Allocation, Budget, allocate, require_reachable
from pruning.criteria import Criterion
from pruning.distill import option_words, read_recovery, recover
from pruning.gohsp import Lesson
from pruning.latency_budget import LatencyTable, allocate_latency, measure_table
from pruning.methods import METHODS, Projection, Trained
from pruning.monitor import as_monitor
from pruning.options import Options, Value, parse_option
from pruning.plan import Plan
from pruning.selection import Ratios, Scores, preset_ratios, select, shrink
from pruning.sensitivity import STRUCTURES, Sensitivities, measure_sensitivities, narrow_by_scores
from pruning.surgery import cut

Progress = Callable[[str, float], None]  # what is being done, and the share of it done, 0 to 1
BATCH = 32
CURVE_IMAGES = 500  # held-out images that a training measures itself on after an epoch


def _quiet(what: str, share: float) -> None:
    """Progress nobody asked for."""


@dataclass(frozen=True)
class Job:
    """Everything a pruning run depends on; frozen, hashable, to and from JSON.

    `model`, `weights` and `data` are what the command line takes. Ratios are given, or named by
    a published `preset`, or widths are found for a `budget`. `options` are pairs of the method's
    own options. Importance is measured on the calibration part of `data` and accuracy on its test
    part, unless `calibration` names another image set to measure importance on; then accuracy is
    measured on all of `data`.
    `limit` caps the test images. With `recovery`, pairs of `Recovery`'s options, the pruned model is
    fine-tuned with the dense one as teacher: on the training part of `data` (or all of `calibration`),
    and accuracy is then measured on the part held out.

    Raises:
        ValueError: an unknown method or option, or a value out of its range.
    """

    model: str
    data: str
    method: str = "snp"
    weights: str | None = None
    ratios: Ratios = Ratios()
    preset: str | None = None
    budget: Budget | None = None
    align: int = 1
    options: tuple[tuple[str, Value], ...] = ()
    calibration: str | None = None
    limit: int | None = None
    seed: int = 0
    recovery: tuple[tuple[str, Value], ...] | None = None

    def __post_init__(self) -> None:
        _known(self.method)
        if self.preset is not None and not self.ratios.removes_nothing:
            raise ValueError("give a preset or ratios, not both")
        if self.budget is not None and not (self.preset is None and self.ratios.removes_nothing):
            raise ValueError("give a budget, or ratios or a preset, not both: a budget finds the ratios")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {self.limit}")
        _ = self.method_options
        _ = read_recovery(self.recovery or ())

    @property
    def method_options(self) -> Options:
        """The method's options with the job's values in them."""
        kind = METHODS[self.method].options
        known = [option.name for option in fields(kind)]
        for name, _ in self.options:
            if name not in known:
                listed = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"method {self.method} has no option {name!r}; {listed}")
        return kind(**dict(self.options))

    def target(self, dense: Architecture) -> Architecture:
        """The architecture this job asks for.

        Raises:
            ValueError: it asks for a budget (`solve` finds its widths), ratios or preset do not fit the
                model, or the criterion cannot rank what they remove.
        """
        if self.budget is not None:
            raise ValueError(
                "what a budget removes is found on images: use prune, or give ratios or a preset"
            )
        ratios, method = self.removed(dense), METHODS[self.method]
        if isinstance(method, Trained):
            return method.target(dense, ratios, self.align, self.method_options)
        target = shrink(dense, ratios, self.align)
        if isinstance(method, Criterion):
            method.require_ranked(dense, target)
        return target

    def removed(self, dense: Architecture) -> Ratios:
        """The job's ratios, its preset's where it names one.

        Raises:
            ValueError: a preset for another model.
        """
        return self.ratios if self.preset is None else preset_ratios(self.preset, dense)

    @property
    def trains(self) -> bool:
        """Whether training images are learned from on the way: accuracy is then measured on others."""
        return self.recovery is not None or bool(getattr(self.method_options, "epochs", 0))

    def command(self, out: str = "pruned") -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "prune", "--model", self.model, "--data", self.data]
        words += ["--method", self.method]
        given = {"weights": self.weights, "calibration": self.calibration, "preset": self.preset}
        given |= {name: _ratio_words(getattr(self.ratios, name)) for name in asdict(self.ratios)}
        given |= {
            "align": str(self.align) if self.align != default_align(self.budget) else None,
            "limit": str(self.limit) if self.limit else None,
            "seed": str(self.seed) if self.seed else None,
        }
        given |= _budget_words(self.budget) if self.budget else {}
        for name, value in given.items():
            words += [f"--{name}", value] if value else []
        for name, number in self.options:
            words += ["--option", f"{name}={number}"]
        if self.recovery is not None:
            words += ["--recover", *option_words(self.recovery)]
        return shlex.join([*words, "--out", out])

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal Job back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, or not a job.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            ratios: dict[str, Any] = data.pop("ratios")
            ratios = {name: tuple(v) if isinstance(v, list) else v for name, v in ratios.items()}
            options = tuple((name, value) for name, value in data.pop("options"))
            budget = data.pop("budget", None)  # older jobs have none
            budget = Budget(**budget) if budget else None
            recovery = data.pop("recovery", None)
            recovery = None if recovery is None else tuple((name, value) for name, value in recovery)
            known: dict[str, Any] = {"options": options, "budget": budget, "recovery": recovery}
            return cls(**data, **known, ratios=Ratios(**ratios))
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a PruneScope job: {error}") from error


@dataclass(frozen=True)
class Survey:
    """What budgets are solved on, whatever their size; measured once for model, images and method."""

    scores: Scores | None
    sensitivities: Sensitivities


@dataclass(frozen=True)
class Outcome:
    """What a pruning run produced: the smaller model, the plan where parts were chosen, both evaluations.

    `allocation` holds the widths found for the job's budget, if it has one; `start` the evaluation
    between pruning and fine-tuning, if the job asks for a recovery.
    """

    job: Job
    dense: LoadedModel
    pruned: LoadedModel
    plan: Plan | None
    before: Evaluation
    after: Evaluation
    seconds: float
    allocation: Allocation | None = None
    start: Evaluation | None = None

    @property
    def agreement(self) -> Agreement:
        """How far the two models predict the same on the test images."""
        return agreement(self.before, self.after)

    def report(self) -> dict[str, Any]:
        """The figures before and after, under the keys of the command line contract."""
        report: dict[str, Any] = {
            "model": self.job.model,
            "method": self.job.method,
            "data": self.job.data,
            "job": json.loads(self.job.to_json()),
            "fine_tuned": self.start is not None,
        }
        report |= cost_report(self.dense.model.arch, self.pruned.model.arch)
        report |= budget_report(self.allocation) if self.allocation else {}
        evaluations = {"before": self.before, "pruned": self.start, "after": self.after}
        for when, evaluation in evaluations.items():
            for name in () if evaluation is None else ("top1", "top5", "top1_low", "top1_high"):
                report[f"{name}_{when}"] = getattr(evaluation, name)
        report |= {"agreement": self.agreement.share, "images": self.after.images, "seconds": self.seconds}
        return report


def method_options(method: str, written: Iterable[tuple[str, str]]) -> tuple[tuple[str, Value], ...]:
    """Options of a method from what a user wrote, name and value.

    Raises:
        ValueError: an unknown method or option, or a value of another kind.
    """
    kind = METHODS[_known(method)].options
    return tuple((name, parse_option(kind, name, text)) for name, text in written)


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    return method


def cost_report(dense: Architecture, pruned: Architecture) -> dict[str, Any]:
    """Parameters, GMACs and float32 bytes before and after."""
    before, after = cost(dense), cost(pruned)
    return {
        "params_before": before.params,
        "params_after": after.params,
        "gmacs_before": before.gmacs,
        "gmacs_after": after.gmacs,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
    }


def budget_report(allocation: Allocation) -> dict[str, Any]:
    """Kind, asked, got, the predicted divergence, and the widths of every block."""
    budget = allocation.budget
    report = {"kind": budget.kind, "asked": budget.asked, "got": allocation.got}
    report |= {"batch": budget.batch} if budget.kind == "ms" else {}
    widths = [asdict(block) for block in allocation.arch.blocks]
    return {"budget": report | {"predicted_kl": allocation.loss, "widths": widths}}


def default_align(budget: Budget | None) -> int:
    """What widths are rounded to unless told: multiples of 8 are fast, and a budget can afford them."""
    return 8 if budget else 1


def require_classifier(loaded: LoadedModel) -> None:
    """Refuse to measure the accuracy of a model without a classifier.

    Raises:
        ValueError: it has none.
    """
    if loaded.model.arch.num_classes == 0:
        raise ValueError(
            f"{loaded.name} has no classifier, so no accuracy can be measured: load a model with classes, "
            "or weights of one"
        )


def image_sets(job: Job, loaded: LoadedModel) -> tuple[ImageSet, ImageSet]:
    """The images a job calibrates on and the images it tests on; no image is in both.

    Raises:
        ValueError: the data cannot be read, or does not fit the model.
    """
    classes = loaded.model.arch.num_classes
    other = job.calibration is not None
    calibration = open_data(
        job.calibration or job.data, loaded.preprocess, classes, "all" if other else "calibration"
    )
    apart = "heldout" if job.trains else "test"
    test = open_data(job.data, loaded.preprocess, classes, "all" if other else apart)
    return calibration, test.sample(job.limit, job.seed) if job.limit else test


def score(job: Job, loaded: LoadedModel, calibration: ImageSet, progress: Progress = _quiet) -> Scores:
    """Scores of the job's criterion, on as many calibration images as it asks for.

    Raises:
        ValueError: the job's method is a projection, which scores nothing.
    """
    criterion = METHODS[job.method]
    if not isinstance(criterion, Criterion):
        raise ValueError(f"{job.method} gives no scores: it projects instead of choosing")
    images = _calibration(job, loaded, calibration, "Scoring", progress)
    return criterion.score(loaded.model, images, job.method_options)


def survey(
    job: Job,
    loaded: LoadedModel,
    calibration: ImageSet,
    progress: Progress = _quiet,
    scores: Scores | None = None,
) -> Survey:
    """Measure what the job's budget is solved on. `scores` are reused where already at hand.

    Raises:
        ValueError: no budget, a method that cannot narrow a single block, or no images.
    """
    method, model, budget = METHODS[job.method], loaded.model, job.budget
    if budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    require_narrowing(job.method)
    few = calibration.sample(min(budget.images, len(calibration)), job.seed)
    structures: tuple[str, ...] = STRUCTURES
    if isinstance(method, Criterion):
        scores = scores or score(job, loaded, calibration, progress)
        narrow, structures = narrow_by_scores(model, scores), method.ranks
    elif isinstance(method, Projection) and method.narrow is not None:
        images = _calibration(job, loaded, calibration, "Reading calibration images", progress)
        narrow = method.narrow(model, images, job.method_options)
        few = _others(job, calibration, budget.images)
    images = tracked(few, loaded, "Running the dense model", progress)
    return Survey(scores, measure_sensitivities(model, images, narrow, structures, progress))


def _others(job: Job, calibration: ImageSet, count: int) -> ImageSet:
    """Calibration images that a projection is not fitted on, which it would flatter; `count` at most.

    Raises:
        ValueError: it is fitted on all there are.
    """
    fitted = int(getattr(job.method_options, "images", 0))
    mixed = calibration.sample(len(calibration), job.seed)  # its beginning is what the method is given
    others = mixed.subset(range(min(fitted, len(mixed)), len(mixed)))
    if not len(others):
        raise ValueError(
            f"a budget needs calibration images besides those that {job.method} is fitted on, but all "
            f"{len(mixed)} are taken: lower its option images, or give more images"
        )
    return others.sample(min(count, len(others)), job.seed)


def require_narrowing(name: str) -> None:
    """Refuse a method that no budget can be solved for.

    Raises:
        ValueError: it is one.
    """
    method = METHODS[name]
    if isinstance(method, Criterion):
        able = bool(set(method.ranks) & set(STRUCTURES))
    else:
        able = isinstance(method, Projection) and method.narrow is not None
    if not able:
        raise ValueError(
            f"{method.title} cannot narrow a single block, which budgets are solved with: "
            "give ratios, or take another method such as snp"
        )


def time_widths(job: Job, dense: Architecture, progress: Progress = _quiet) -> LatencyTable | None:
    """For a budget in ms the times of blocks on this machine; None for others.

    Raises:
        ValueError: the budget is out of reach, whatever is most sensitive.
    """
    if job.budget is None or job.budget.kind != "ms":
        return None
    table = measure_table(dense, job.budget.batch, job.align, progress)
    require_reachable(job.budget, table.lowest(dense), table.model)
    return table


def solve(
    job: Job,
    dense: Architecture,
    found: Survey,
    progress: Progress = _quiet,
    table: LatencyTable | None = None,
) -> Allocation:
    """Widths for the job's budget; one in ms is timed on this machine, on `table` where already at hand.

    Raises:
        ValueError: no budget, or one out of reach.
    """
    budget = job.budget
    if budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    curves = found.sensitivities
    if budget.kind != "ms":
        return allocate(dense, curves, budget, job.align)
    table = table or measure_table(dense, budget.batch, job.align, progress)
    return allocate_latency(dense, curves, budget, table, job.align, progress=progress)


def make_smaller(
    job: Job,
    loaded: LoadedModel,
    calibration: ImageSet,
    progress: Progress = _quiet,
    target: Architecture | None = None,
    scores: Scores | None = None,
) -> tuple[ViT, Plan | None]:
    """The smaller model, and the plan it was cut by where the method chooses.

    `target` and `scores` are reused where already at hand; a budget is solved without them.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    method, dense = METHODS[job.method], loaded.model
    if target is None and job.budget is not None:
        found = survey(job, loaded, calibration, progress, scores)
        target, scores = solve(job, dense.arch, found, progress).arch, found.scores
    target = target or job.target(dense.arch)
    if isinstance(method, Projection):
        images = _calibration(job, loaded, calibration, "Reading calibration images", progress)
        tell = partial(progress, "Projecting")
        return method.project(dense, images, target, job.method_options, tell), None
    if isinstance(method, Trained):
        images = _calibration(job, loaded, calibration, "Ranking heads", progress)
        ratios, lesson = job.removed(dense.arch), _lesson(job, loaded)
        monitor = as_monitor(progress)
        return method.prune(dense, images, ratios, job.align, job.method_options, lesson, monitor)
    method.require_ranked(dense.arch, target)  # a given target, or a budget's
    scores = scores or score(job, loaded, calibration, progress)
    plan = select(scores, dense.arch, target)
    return cut(dense, plan), plan


def _lesson(job: Job, loaded: LoadedModel) -> Lesson | None:
    """What a method that trains learns from: the training part of `data`, or all of `calibration`."""
    if not getattr(job.method_options, "epochs", 0):
        return None
    spec, test = (job.data, None) if job.calibration is None else (job.calibration, job.data)
    images, heldout = open_training(spec, loaded.preprocess, loaded.model.arch.num_classes, test)
    return Lesson(images, loaded.preprocess, job.seed, heldout.sample(CURVE_IMAGES))


def _calibration(
    job: Job, loaded: LoadedModel, calibration: ImageSet, what: str, progress: Progress
) -> Batches:
    wanted = getattr(job.method_options, "images", None)
    chosen = calibration.sample(min(wanted, len(calibration)), job.seed) if wanted else calibration
    return tracked(chosen, loaded, what, progress)


def prune(
    job: Job,
    *,
    dense: LoadedModel | None = None,
    before: Evaluation | None = None,
    found: Survey | None = None,
    allocation: Allocation | None = None,
    progress: Progress = _quiet,
) -> Outcome:
    """Score, select, cut and evaluate.

    The dense model, its evaluation `before`, and for a budget what was `found` on the way to it and its
    `allocation` are reused where already at hand.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
    """
    began = time.perf_counter()
    sparsity = getattr(job.method_options, "sparsity", 0)
    if job.preset is None and job.ratios.removes_nothing and job.budget is None and not sparsity:
        raise ValueError("nothing to remove: set at least one ratio above 0, or name a preset or a budget")
    dense = dense or load(job.model, Path(job.weights) if job.weights else None)
    require_classifier(dense)
    if job.budget is None:
        job.target(dense.model.arch)  # bad ratios are found before images are read
    else:
        require_narrowing(job.method)
    calibration, test = image_sets(job, dense)
    if job.budget is not None and allocation is None:
        table = time_widths(job, dense.model.arch, progress)  # out of reach is said now, not after minutes
        found = found or survey(job, dense, calibration, progress)
        allocation = solve(job, dense.model.arch, found, progress, table)
    small, plan = make_smaller(
        job,
        dense,
        calibration,
        progress,
        allocation.arch if allocation else None,
        found.scores if found else None,
    )
    pruned = replace(dense, model=small, name=f"{dense.name}, {job.method}")
    if before is None or before.labels != tuple(test.label(i) for i in range(len(test))):  # of other images
        before = evaluate(dense.model, tracked(test, dense, "Evaluating the dense model", progress))
    after = evaluate(pruned.model, tracked(test, pruned, "Evaluating the pruned model", progress))
    start = None
    if job.recovery is not None:
        start, pruned = after, _recover(job, pruned, dense, test, progress)
        after = evaluate(pruned.model, tracked(test, pruned, "Evaluating the recovered model", progress))
    return Outcome(job, dense, pruned, plan, before, after, time.perf_counter() - began, allocation, start)


def _recover(
    job: Job, pruned: LoadedModel, dense: LoadedModel, test: ImageSet, progress: Progress
) -> LoadedModel:
    classes, other = dense.model.arch.num_classes, job.data if job.calibration else None
    images, _ = open_training(job.calibration or job.data, dense.preprocess, classes, other)
    settings = read_recovery(job.recovery or ())
    return recover(pruned, dense, images, test, settings, job.seed, as_monitor(progress))


def tracked(
    images: ImageSet, loaded: LoadedModel, what: str, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for a model, telling `progress` how far they have been read."""
    done = 0
    progress(what, 0.0)
    for batch, labels in batches(images, loaded.preprocess, BATCH):
        yield batch, labels
        done += len(labels)
        progress(what, done / len(images))


def _ratio_words(value: float | tuple[float, ...]) -> str | None:
    values = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{number:g}" for number in values) if any(values) else None


def _budget_words(budget: Budget) -> dict[str, str | None]:
    defaults = {option.name: option.default for option in fields(Budget)}
    given = {name: value for name, value in asdict(budget).items() if value != defaults[name]}
    return {f"budget-{name}": str(value) for name, value in given.items()}
