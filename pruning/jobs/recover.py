"""A recovery run as data (`RecoverJob`), and the one function that carries it out (`run_recover`)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from analysis.data import open_training
from analysis.formats import Stored
from analysis.measure import Agreement, Evaluation, Fidelity, agreement, paired_change
from analysis.models import LoadedModel, Named, Reading, load_named
from analysis.paths import user_path
from pruning.bundle import RECOVER, find_report, is_bundle, rounded
from pruning.cut import Plan
from pruning.evaluation import EvaluationImages, evaluate_model
from pruning.jobs.prune_result import accuracy_report, cost_report
from pruning.options import Value
from pruning.progress import Monitor
from pruning.training import (
    Distillation,
    Recovery,
    option_words,
    read_recovery,
    recover,
    recovery_options,
    require_pair,
)

__all__ = [
    "Distillation",
    "RecoverJob",
    "RecoverResult",
    "Recovery",
    "recover",
    "recovery_options",
    "run_recover",
]


@dataclass(frozen=True)
class RecoverJob(Stored):
    """Everything a recovery depends on; frozen, hashable, to and from JSON.

    The model `model`, usually a pruned one, is fine-tuned with `teacher`, usually the dense one. It
    is trained on the training part of `data` and tested on the part held out, or trained on all of
    `data` and tested on all of `test_data` where that is given. `options` are pairs of `Recovery`'s
    options; `limit` caps the test images. `reading` says what the files of both models do not; of a
    bundle it does not change the structure.

    Raises:
        ValueError: a value of another type or out of its range, or an unknown option.
    """

    INDENT: ClassVar[int | None] = 2
    NEEDED: ClassVar[tuple[str, ...]] = ("options",)

    model: str
    teacher: str
    data: str
    weights: str | None = None
    teacher_weights: str | None = None
    test_data: str | None = None
    options: tuple[tuple[str, Value], ...] = ()
    limit: int | None = None
    seed: int = 0
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {self.limit}")
        _ = self.recovery

    @property
    def recovery(self) -> Recovery:
        """The settings with the job's values in them."""
        return read_recovery(self.options)

    def command(self, out: str = "recovered") -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "recover", "--model", self.model, "--teacher", self.teacher]
        words += ["--data", self.data, *self.reading.words()]
        given = {
            "weights": self.weights,
            "teacher-weights": self.teacher_weights,
            "test": self.test_data,
            "limit": self.limit,
            "seed": self.seed,
        }
        for name, value in given.items():
            words += [f"--{name}", str(value)] if value else []
        return shlex.join([*words, *option_words(self.options), "--out", out])


@dataclass(frozen=True)
class RecoverResult:
    """What a recovery produced; `before` is the teacher, `start` the model before fine-tuning."""

    job: RecoverJob
    teacher: LoadedModel
    student: LoadedModel
    recovered: LoadedModel
    before: Evaluation
    start: Evaluation
    after: Evaluation
    seconds: float
    images_id: str | None = None  # of the test images
    made_by: Mapping[str, Any] = field(default_factory=dict)  # `Report.pruning` of what it began with

    @property
    def pruned(self) -> LoadedModel:
        """The smaller model, as other runs name their result."""
        return self.recovered

    @property
    def plan(self) -> Plan | None:
        """None: what was pruned is not known here."""
        return None

    @property
    def agreement(self) -> Agreement:
        """How far teacher and recovered model predict the same on the test images."""
        return agreement(self.before, self.after)

    def report(self) -> dict[str, Any]:
        """The figures before (teacher), before fine-tuning (`pruned`) and after."""
        report: dict[str, Any] = {
            "model": self.job.teacher,
            "method": RECOVER,
            **self.made_by,
            "data": self.job.test_data or self.job.data,
            "job": self.job.to_data(),
            "fine_tuned": self.after is not self.start,
            "recovery": asdict(self.job.recovery),
        }
        report |= cost_report(self.teacher.model.arch, self.recovered.model.arch)
        report |= accuracy_report({"before": self.before, "pruned": self.start, "after": self.after})
        report |= {"agreement": self.agreement.share, "images": self.after.images, "seconds": self.seconds}
        return report


def run_recover(job: RecoverJob, monitor: Monitor = Monitor(), *, dtype: str | None = None) -> RecoverResult:
    """Load both models, measure them, fine-tune, round to `dtype` (see `prune`), and measure again.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
        Cancelled: the monitor asked for an end.
    """
    began = time.perf_counter()
    student = load_named(Named(job.model, job.weights, job.reading))
    made_by = _pruning_of(job.model)
    teacher = load_named(Named(job.teacher, job.teacher_weights, job.reading))
    for note in dict.fromkeys((*student.notes, *teacher.notes)):
        monitor.note(note)
    require_pair(student, teacher, job.recovery)
    classes = student.model.arch.num_classes
    images, test = open_training(job.data, student.preprocess, classes, job.test_data)
    test = test.sample(job.limit, job.seed) if job.limit else test
    tested = EvaluationImages.of(test, images)
    before = evaluate_model(teacher, tested, "Evaluating the teacher", monitor)

    def measured(model: LoadedModel, what: str) -> Evaluation:
        return evaluate_model(model, tested, what, monitor, dense=teacher, reference=before)

    start = measured(student, "Evaluating the model to recover")
    known = known_curves(before, start)
    trained = recover(student, teacher, images, test, job.recovery, job.seed, monitor, known)
    recovered = rounded(trained, dtype, monitor)
    after = measured(recovered, "Evaluating the recovered model")
    recovered, after = unless_harmed((student, start), (recovered, after), monitor)
    seconds = time.perf_counter() - began
    images_id = test.names_id()
    return RecoverResult(job, teacher, student, recovered, before, start, after, seconds, images_id, made_by)


def _pruning_of(model: str) -> dict[str, Any]:
    """How a bundle was pruned, as far as it tells."""
    try:
        folder = user_path(model)
        report = find_report(folder) if is_bundle(folder) else None
    except ValueError:  # no bundle at all, or a damaged report, which is no reason to refuse its weights
        return {}
    return {} if report is None else report.pruning()


def known_curves(before: Evaluation, start: Evaluation) -> dict[str, float]:
    """What the curves of a recovery begin with: what they aim at, and what the smaller model has.

    Of features it is their cosine with the teacher's, which the training measures after an epoch.
    """
    if start.fidelity is not None:
        return {"cosine": start.fidelity.pooled.mean}
    return {"top1_dense": before.top1, "top1": start.top1}


Candidate = tuple[LoadedModel, Evaluation]


def unless_harmed(start: Candidate, recovered: Candidate, monitor: Monitor) -> Candidate:
    """The recovered model, or the one from before if recovery made it worse beyond chance; says so, then.

    Worse means that the 95 % interval of the paired change on the test images lies below 0, or that the
    features have become less like the dense model's (`_less_like`). A choice made on test images favours the
    model that is kept, but hardly so if it takes such a difference [ours].
    """
    before, after = start[1], recovered[1]
    if paired_change(before, after).high < 0:
        worse = f"the model worse ({before.top1:.1%} before, {after.top1:.1%} after)"
    elif before.fidelity and after.fidelity and _less_like(before.fidelity, after.fidelity):
        cosines = (one.fidelity.pooled.mean for one in (before, after) if one.fidelity)
        worse = "the features less like the dense model's (cosine {:.3f} before, {:.3f} after)".format(
            *cosines
        )
    else:
        return recovered
    monitor.note(
        f"recovery made {worse}, so the model from before it is kept: choose a lower learning rate "
        "(base_lr), or more images"
    )
    return start


def _less_like(before: Fidelity, after: Fidelity) -> bool:
    """Whether the cosine of pooled features or of patch tokens has fallen beyond its 95 % intervals, and
    that of the others has not risen so."""
    pairs = [(before.pooled, after.pooled)]
    if before.tokens and after.tokens:
        pairs.append((before.tokens, after.tokens))
    fell = any(new.high < old.low for old, new in pairs)
    return fell and not any(new.low > old.high for old, new in pairs)
