"""What a pruning run produced, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from analysis.measure import (
    CLASSES,
    KNN,
    NEIGHBOURS,
    Agreement,
    Evaluation,
    agreement,
    cost,
    paired_change,
)
from analysis.models import LoadedModel
from analysis.vit import Architecture
from pruning.budget import Allocation
from pruning.cut import Indices, Plan
from pruning.jobs.prune_job import Job


@dataclass(frozen=True)
class PruneResult:
    """What a pruning run produced: the smaller model, the plan where parts were chosen, both evaluations.

    `allocation` holds the widths found for the job's budget, if it has one; `start` the evaluation
    between pruning and fine-tuning, if the job asks for a recovery. `heads` says per block which heads
    of the dense model stay, also where a projection leaves no plan.
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
    heads: tuple[Indices | None, ...] = ()
    images_id: str | None = None  # of the test images

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
            "job": self.job.to_data(),
            "fine_tuned": self.job.method_options.trains
            or (self.start is not None and self.start is not self.after),
        }
        report |= cost_report(self.dense.model.arch, self.pruned.model.arch)
        report |= {"heads": [None if one is None else list(one) for one in self.heads]} if self.heads else {}
        report |= budget_report(self.allocation) if self.allocation else {}
        report |= accuracy_report({"before": self.before, "pruned": self.start, "after": self.after})
        report |= {"agreement": self.agreement.share, "images": self.after.images, "seconds": self.seconds}
        return report


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


def accuracy_report(evaluations: Mapping[str, Evaluation | None]) -> dict[str, Any]:
    """Accuracies of "before", "pruned" (before fine-tuning, if known) and "after", and their changes.

    Those of features have names of their own; `likeness_report` tells how like the dense model's they are.
    """
    report: dict[str, Any] = {}
    for when, evaluation in evaluations.items():
        if evaluation is not None:
            report |= {f"{name}_{when}": value for name, value in accuracies(evaluation).items()}
    after = evaluations["after"]
    for name, when in (("change", "before"), ("change_by_recovery", "pruned")):
        first = evaluations[when]
        if first is not None and after is not None:
            report[f"{ACCURACY_KEYS[after.measure]}_{name}"] = asdict(paired_change(first, after))
    return report | (likeness_report(after) if after is not None else {})


# How JSON calls top-1, by what it is about.
ACCURACY_KEYS = {CLASSES: "top1", KNN: "knn", NEIGHBOURS: "neighbours"}


def accuracies(found: Evaluation) -> dict[str, float]:
    """Top-1 with its interval under the name of what was measured; of a classifier top-5, too."""
    key = ACCURACY_KEYS[found.measure]
    top5 = {"top5": found.top5} if found.measure == CLASSES else {}
    return {key: found.top1, **top5, f"{key}_low": found.top1_low, f"{key}_high": found.top1_high}


def likeness_report(found: Evaluation) -> dict[str, float]:
    """Cosines with the dense model's features: mean, 95 % interval and 5th percentile; and linear CKA."""
    if found.fidelity is None:
        return {}
    report: dict[str, float] = {}
    for name, likeness in (("pooled", found.fidelity.pooled), ("tokens", found.fidelity.tokens)):
        if likeness is not None:
            report[f"cosine_{name}"] = likeness.mean
            ends = {"low": likeness.low, "high": likeness.high, "p5": likeness.p5}
            report |= {f"cosine_{name}_{end}": value for end, value in ends.items()}
    return report | {"cka": found.fidelity.cka}


def budget_report(allocation: Allocation) -> dict[str, Any]:
    """Kind, asked, got, the predicted divergence, and the widths of every block."""
    budget = allocation.budget
    report = {"kind": budget.kind, "asked": budget.asked, "got": allocation.got}
    report |= {"batch": budget.batch} if budget.kind == "ms" else {}
    report |= {"predicted_for": allocation.device} if allocation.device else {}
    widths = [asdict(block) for block in allocation.arch.blocks]
    return {"budget": report | {"predicted_kl": allocation.loss, "widths": widths}}
