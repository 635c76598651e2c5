"""Numbers and jobs as people read them: units, separators, intervals, what was removed."""

from __future__ import annotations

from typing import Any

from analysis.anatomy import STRUCTURES
from pruning.budget import amount
from pruning.criteria import CRITERIA
from pruning.cut import PerBlock
from pruning.jobs import registry
from pruning.jobs.bench import BenchJob
from pruning.jobs.heads import HeadsJob
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.jobs.survey import SurveyJob
from pruning.methods import METHODS
from pruning.wording import count


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
    if isinstance(job, SurveyJob):
        return f"Sensitivities, {METHODS[job.method].title}"
    if isinstance(job, HeadsJob):
        return f"Heads measured on {count(job.images)} images"
    return registry.words(job)


def removed(job: Job) -> str:
    """What a job removes, in a few words."""
    if job.preset:
        return f"preset {job.preset}"
    if job.budget:
        return f"budget {amount(job.budget.asked, job.budget.kind)}"
    parts = [(name, _fraction(getattr(job.ratios, name))) for name in STRUCTURES]
    sparsity = job.method_options.removes
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
