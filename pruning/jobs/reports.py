"""Reading the report of a bundle, with the job that it carries."""

from __future__ import annotations

from pathlib import Path

from analysis.formats import in_file
from pruning.bundle import REPORT_FILE, Report, find_report
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.training import read_recovery


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
