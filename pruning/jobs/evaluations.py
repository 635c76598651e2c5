"""What a run says of its models: `evaluations.json`, their predictions, and the figures in `report.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from analysis.formats import Stored, in_file
from analysis.measure import Evaluation
from pruning.bundle import EVALUATIONS_FILE, REPORT_FILE, Report, find_report
from pruning.files import replace_text
from pruning.jobs.prune_job import Job
from pruning.jobs.prune_result import PruneResult
from pruning.jobs.recover import RecoverJob, RecoverResult
from pruning.progress import Monitor
from pruning.training import read_recovery

EVALUATIONS = EVALUATIONS_FILE
MOST_NUMBER = 2**31  # of a class or an image
Measured = TypeVar("Measured", PruneResult, RecoverResult)


@dataclass(frozen=True)
class Evaluations(Stored):
    """How the models of a run did on its test images.

    `before` is the dense model or the teacher, `start` the smaller one before fine-tuning if there was
    any, `after` the result. `images_id` tells whether a set holds the same images (`ImageSet.names_id`);
    files of version 1 have none,
    and files of version 2 are all of classifiers.

    Raises:
        ValueError: a value of another type, or not one of each list for every image.
    """

    VERSION: ClassVar[int] = 3
    MOST_BYTES: ClassVar[int] = 2**30

    before: Evaluation
    start: Evaluation | None
    after: Evaluation
    images_id: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for when in ("before", "start", "after"):
            one: Evaluation | None = getattr(self, when)
            if one is not None:
                require_whole(when, one)

    @classmethod
    def of(cls, result: PruneResult | RecoverResult) -> Evaluations:
        """Those of a result."""
        return cls(result.before, result.start, result.after, result.images_id)


def require_whole(place: str, result: Evaluation) -> None:
    """Check that each list of an evaluation has an entry for every image; `place` is its name in a file.

    Raises:
        ValueError: a list is longer or shorter.
    """
    for name in ("predictions", "labels", "confidences"):
        if len(getattr(result, name)) != result.images:
            raise ValueError(f"`{place}.{name}` must have one entry for each of {result.images} images")


def is_usual(result: Evaluation, classes: int = MOST_NUMBER) -> bool:
    """Whether a model that tells so many classes apart can have done like this on at least one image."""
    shares = (result.top1, result.top5, result.top1_low, result.top1_high, *result.confidences)
    known = (*result.predictions, *result.labels)
    rounded = 1 + 1e-3  # a softmax in half precision can be a little above 1
    return (
        result.images > 0
        and all(0 <= one <= rounded for one in shares)
        and 0 <= min(known) <= max(known) < classes
    )


def save_evaluations(result: Measured, monitor: Monitor) -> Measured:
    """Keep in the monitor's folder, if it has one, what the report leaves out; returns the result.

    It is written before the bundle, so that a finished run always has it.
    """
    if monitor.folder is not None:
        replace_text(monitor.folder / EVALUATIONS, Evaluations.of(result).to_json())
    return result


def read_evaluations(folder: Path) -> Evaluations:
    """What `save_evaluations` wrote into a run folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    return Evaluations.read(folder / EVALUATIONS)


# ---- the report of a bundle


def read_report(bundle: Path) -> Report | None:
    """The report that lies in a bundle, None if there is none.

    Raises:
        ValueError: it is damaged, or the job in it is.
    """
    found = find_report(bundle)
    if found is not None:
        try:
            _require_job(found)
        except ValueError as error:
            raise in_file(bundle / REPORT_FILE, error) from error
    return found


def _require_job(report: Report) -> None:
    """Check what a report holds of a job, which is written in the job's own format."""
    if report.job is not None:
        recovers = report.method == "recover" or "teacher" in report.job
        kind = RecoverJob if recovers else Job
        kind.from_data(report.job, "job")
    if report.recovery is not None:
        try:
            read_recovery(report.recovery.items())
        except ValueError as error:
            raise ValueError(f"`recovery`: {error}") from error
