"""`report.json`: the figures before and after, under the keys of the command line contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from analysis.formats import Checked, Stored, dump, plain
from analysis.measure import PairedChange
from analysis.vit import BlockWidths
from pruning.bundle.layout import REPORT_FILE
from pruning.cut import Indices, Ratios, require_indices
from pruning.wording import base_name

RECOVER = "recover"  # the method of a recovery, in its report
_PLACES = ("model", "weights", "device", "teacher", "teacher_weights", "data", "calibration", "test_data")


@dataclass(frozen=True)
class BudgetFigures(Checked):
    """The requested budget, the value reached, and the widths of every block.

    `predicted_for` names the device that milliseconds were predicted for, where they were not measured.
    """

    kind: str
    asked: int | float
    got: int | float
    predicted_kl: float
    widths: tuple[BlockWidths, ...]
    batch: int | None = None
    predicted_for: str | None = None


@dataclass(frozen=True)
class Report(Stored):
    """How the model of a bundle was made, and its figures. Unknown fields are None and are not written.

    Accuracies are fractions; those that end in `pruned` were measured between pruning and fine-tuning.
    Those without an ending belong to a model that was trained and not pruned. `job` has the fields of the
    job, `heads` the heads of the dense model that stay in each block, None for a block where that is unknown.
    `ratios` and `preset` say what was removed if there is no job, or if it is a recovery's: then `pruned_by`
    is the method by which the model that it began with was made; files of version 3 do not tell.
    `top1_change` is the paired change of top-1 from before to after, `top1_change_by_recovery` that from
    between pruning and fine-tuning to after; files of version 1 have neither.

    Of a model without a classifier `knn` is top-1 by k nearest neighbours, or `neighbours` the share of
    images with the dense model's nearest neighbour, where there are no labels. `cosine_pooled` and
    `cosine_tokens` are those of the features with the dense model's, means with 95 % interval and 5th
    percentile, `cka` the linear CKA of the pooled ones; files of version 2 have none of these.

    Raises:
        ValueError: a field of the wrong type, or heads out of order.
    """

    VERSION: ClassVar[int] = 4
    INDENT: ClassVar[int | None] = 2

    model: str | None = None
    method: str | None = None
    pruned_by: str | None = None
    data: str | None = None
    job: Mapping[str, Any] | None = None
    fine_tuned: bool | None = None
    recovery: Mapping[str, Any] | None = None
    preset: str | None = None
    ratios: Ratios | None = None
    params_before: int | None = None
    params_after: int | None = None
    gmacs_before: float | None = None
    gmacs_after: float | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    heads: tuple[Indices | None, ...] | None = None
    budget: BudgetFigures | None = None
    top1: float | None = None
    top5: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None
    top1_before: float | None = None
    top5_before: float | None = None
    top1_low_before: float | None = None
    top1_high_before: float | None = None
    top1_pruned: float | None = None
    top5_pruned: float | None = None
    top1_low_pruned: float | None = None
    top1_high_pruned: float | None = None
    top1_after: float | None = None
    top5_after: float | None = None
    top1_low_after: float | None = None
    top1_high_after: float | None = None
    top1_change: PairedChange | None = None
    top1_change_by_recovery: PairedChange | None = None
    knn_before: float | None = None
    knn_low_before: float | None = None
    knn_high_before: float | None = None
    knn_pruned: float | None = None
    knn_low_pruned: float | None = None
    knn_high_pruned: float | None = None
    knn_after: float | None = None
    knn_low_after: float | None = None
    knn_high_after: float | None = None
    knn_change: PairedChange | None = None
    knn_change_by_recovery: PairedChange | None = None
    neighbours_before: float | None = None
    neighbours_low_before: float | None = None
    neighbours_high_before: float | None = None
    neighbours_pruned: float | None = None
    neighbours_low_pruned: float | None = None
    neighbours_high_pruned: float | None = None
    neighbours_after: float | None = None
    neighbours_low_after: float | None = None
    neighbours_high_after: float | None = None
    neighbours_change: PairedChange | None = None
    neighbours_change_by_recovery: PairedChange | None = None
    cosine_pooled: float | None = None
    cosine_pooled_low: float | None = None
    cosine_pooled_high: float | None = None
    cosine_pooled_p5: float | None = None
    cosine_tokens: float | None = None
    cosine_tokens_low: float | None = None
    cosine_tokens_high: float | None = None
    cosine_tokens_p5: float | None = None
    cka: float | None = None
    agreement: float | None = None
    images: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for block in self.heads or ():
            if block is not None:
                require_indices("heads", block, least=0)

    @property
    def stage(self) -> str:
        """Whether the figures were measured before or after fine-tuning."""
        return "after fine-tuning" if self.fine_tuned else "before fine-tuning"

    def figures(self) -> dict[str, Any]:
        """The known fields, by name."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: plain(value) for name, value in known.items() if value is not None}

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal report back."""
        return dump({"version": self.VERSION} | self.figures(), self.INDENT)

    def pruning(self) -> dict[str, Any]:
        """How the model was pruned, for the report of what is made of it; a recovery hands it on."""
        recovered = self.method == RECOVER
        found: dict[str, Any] = {"preset": self.preset, "ratios": self.ratios}
        if self.job is not None and not recovered:
            found = {name: self.job.get(name) for name in found}
        found["pruned_by"] = self.pruned_by if recovered else self.method
        return {name: plain(value) for name, value in found.items() if value}

    def without_places(self) -> Report:
        """The report without the folders of this machine: models and data are given by name only."""
        top = {name: _named(name, getattr(self, name)) for name in ("model", "data")}
        job = self.job and {name: _named(name, value) for name, value in self.job.items()}
        return replace(self, job=job, **top)


def find_report(bundle: Path) -> Report | None:
    """The report in a bundle, None if there is none; its job is not checked.

    Raises:
        ValueError: it is damaged.
    """
    return Report.find(bundle / REPORT_FILE)


def _named(name: str, value: Any) -> Any:
    return base_name(value) if name in _PLACES and isinstance(value, str) else value
