"""Numbers and jobs as people read them: units, separators, intervals, what was removed."""

from __future__ import annotations

from typing import Any

from analysis.anatomy import STRUCTURES
from analysis.evaluate import Evaluation
from pruning import kinds
from pruning.bench import BenchJob
from pruning.budget import amount
from pruning.criteria import CRITERIA
from pruning.heads_job import HeadsJob
from pruning.job import Job
from pruning.methods import METHODS
from pruning.recover import RecoverJob
from pruning.selection import PerBlock

NBSP = "\u00a0"  # keeps a number and its unit on one line


def count(number: int) -> str:
    """A number with thousands separators."""
    return f"{number:,}"


def millions(number: int) -> str:
    """Parameters in millions."""
    return f"{number / 1e6:,.2f}{NBSP}M"


def gmacs(number: float) -> str:
    """Multiply-accumulates of one image, in 10^9."""
    return f"{number:,.3f}{NBSP}GMACs"


def gmacs_of(macs: int) -> str:
    """MACs of one image, in 10^9."""
    return gmacs(macs / 1e9)


def megabytes(number: int) -> str:
    """Bytes in units of 10^6."""
    return f"{number / 1e6:,.1f}{NBSP}MB"


def percent(share: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def change(before: float, after: float) -> str:
    """Relative change, signed; a real minus sign would not be read as negative by `st.metric`."""
    return f"{100 * (after - before) / before:+.1f}{NBSP}%"


def points(before: float, after: float) -> str:
    """Difference of two fractions in percentage points."""
    return f"{100 * (after - before):+.1f} points"


def interval(result: Evaluation) -> str:
    """The 95 % interval of top-1 and the number of images it rests on."""
    low, high = 100 * result.top1_low, 100 * result.top1_high
    return f"{low:.1f} to {high:.1f}{NBSP}%, {count(result.images)} images"


def milliseconds(value: float) -> str:
    """A latency with sensible digits."""
    return f"{value:,.2f}{NBSP}ms" if value < 10 else f"{value:,.1f}{NBSP}ms"


def job(job: Any) -> str:
    """What a run does: method and extent."""
    if isinstance(job, Job):
        parts = [METHODS[job.method].title, removed(job)]
        parts += [f"heads by {CRITERIA[job.heads_by].title}"] if job.heads_by else []
        parts += ["compensated"] if job.compensate else []
        return ", ".join(parts) + (" and recovery" if job.recovery is not None else "")
    if isinstance(job, RecoverJob):
        epochs = job.recovery.epochs
        return f"Recovery, {count(epochs)} epoch{'s' * (epochs > 1)}"
    if isinstance(job, BenchJob):
        return f"Latency of {len(job.models)} models"
    if isinstance(job, HeadsJob):
        return f"Heads measured on {count(job.images)} images"
    return kinds.words(job)


def removed(job: Job) -> str:
    """What a job removes, in a few words."""
    if job.preset:
        return f"preset {job.preset}"
    if job.budget:
        return f"budget {amount(job.budget.asked, job.budget.kind)}"
    parts = [(name, _fraction(getattr(job.ratios, name))) for name in STRUCTURES]
    sparsity = getattr(job.method_options, "sparsity", 0.0)
    parts += [("parameters", _fraction(sparsity))] if sparsity else []
    listed = [f"{name} {share}" for name, share in parts if share]
    gone = len(job.locks.remove)
    listed += [f"{gone} locked head{'s' * (gone > 1)}"] if gone else []
    return ", ".join(listed) or "nothing"


def _fraction(value: PerBlock) -> str:
    if isinstance(value, tuple):
        low, high = min(value), max(value)
        if low != high:
            return f"{100 * low:.0f} to {100 * high:.0f} %"
        value = low
    return f"{100 * value:.0f} %" if value else ""
