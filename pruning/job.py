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
from analysis.data import ImageSet, batches, open_data
from analysis.evaluate import Agreement, Batches, Evaluation, agreement, evaluate
from analysis.models import LoadedModel, load
from analysis.vit import Architecture, ViT
from pruning.criteria import Criterion
from pruning.methods import METHODS, Projection
from pruning.options import Options, Value, parse_option
from pruning.plan import Plan
from pruning.selection import Ratios, Scores, preset_ratios, select, shrink
from pruning.surgery import cut

Progress = Callable[[str, float], None]  # what is being done, and the share of it done, 0 to 1
BATCH = 32


def _quiet(what: str, share: float) -> None:
    """Progress nobody asked for."""


@dataclass(frozen=True)
class Job:
    """Everything a pruning run depends on; frozen, hashable, to and from JSON.

    `model`, `weights` and `data` are what the command line takes. Ratios are given, or named by
    a published `preset`. `options` are pairs of the method's own options. Importance is measured
    on the calibration part of `data` and accuracy on its test part, unless `calibration` names
    another image set to measure importance on; then accuracy is measured on all of `data`.
    `limit` caps the test images.

    Raises:
        ValueError: an unknown method or option, or a value out of its range.
    """

    model: str
    data: str
    method: str = "snp"
    weights: str | None = None
    ratios: Ratios = Ratios()
    preset: str | None = None
    align: int = 1
    options: tuple[tuple[str, Value], ...] = ()
    calibration: str | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _known(self.method)
        if self.preset is not None and not self.ratios.removes_nothing:
            raise ValueError("give a preset or ratios, not both")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {self.limit}")
        _ = self.method_options

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
            ValueError: ratios or preset do not fit the model.
        """
        ratios = self.ratios if self.preset is None else preset_ratios(self.preset, dense)
        return shrink(dense, ratios, self.align)

    def command(self, out: str = "pruned") -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "prune", "--model", self.model, "--data", self.data]
        words += ["--method", self.method]
        given = {"weights": self.weights, "calibration": self.calibration, "preset": self.preset}
        given |= {name: _ratio_words(getattr(self.ratios, name)) for name in asdict(self.ratios)}
        given |= {
            "align": str(self.align) if self.align != 1 else None,
            "limit": str(self.limit) if self.limit else None,
            "seed": str(self.seed) if self.seed else None,
        }
        for name, value in given.items():
            words += [f"--{name}", value] if value else []
        for name, number in self.options:
            words += ["--option", f"{name}={number}"]
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
            return cls(**data, ratios=Ratios(**ratios), options=options)
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a PruneScope job: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """What a pruning run produced: the smaller model, the plan where parts were chosen, both evaluations."""

    job: Job
    dense: LoadedModel
    pruned: LoadedModel
    plan: Plan | None
    before: Evaluation
    after: Evaluation
    seconds: float

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
            "fine_tuned": False,
        }
        report |= cost_report(self.dense.model.arch, self.pruned.model.arch)
        for when, evaluation in (("before", self.before), ("after", self.after)):
            for name in ("top1", "top5", "top1_low", "top1_high"):
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
    test = open_data(job.data, loaded.preprocess, classes, "all" if other else "test")
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


def make_smaller(
    job: Job, loaded: LoadedModel, calibration: ImageSet, progress: Progress = _quiet
) -> tuple[ViT, Plan | None]:
    """The smaller model, and the plan it was cut by where the method chooses.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    method, dense = METHODS[job.method], loaded.model
    target = job.target(dense.arch)
    if isinstance(method, Projection):
        images = _calibration(job, loaded, calibration, "Reading calibration images", progress)
        tell = partial(progress, "Projecting")
        return method.project(dense, images, target, job.method_options, tell), None
    plan = select(score(job, loaded, calibration, progress), dense.arch, target)
    return cut(dense, plan), plan


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
    progress: Progress = _quiet,
) -> Outcome:
    """Score, select, cut and evaluate. `dense` and `before` are reused where already at hand.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
    """
    began = time.perf_counter()
    if job.preset is None and job.ratios.removes_nothing:
        raise ValueError("nothing to remove: set at least one ratio above 0, or name a preset")
    dense = dense or load(job.model, Path(job.weights) if job.weights else None)
    require_classifier(dense)
    job.target(dense.model.arch)  # bad ratios are found before images are read
    calibration, test = image_sets(job, dense)
    small, plan = make_smaller(job, dense, calibration, progress)
    pruned = replace(dense, model=small, name=f"{dense.name}, {job.method}")
    if before is None:
        before = evaluate(dense.model, tracked(test, dense, "Evaluating the dense model", progress))
    after = evaluate(pruned.model, tracked(test, pruned, "Evaluating the pruned model", progress))
    return Outcome(job, dense, pruned, plan, before, after, time.perf_counter() - began)


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
