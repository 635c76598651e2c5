"""Jobs as people read them: what a run does, and what it removes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.anatomy import STRUCTURES
from pruning.budget import amount
from pruning.criteria import CRITERIA
from pruning.cut import HeadLocks, PerBlock, format_heads
from pruning.jobs.bench import BenchJob
from pruning.jobs.heads import HeadsJob
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.jobs.survey import SurveyJob
from pruning.jobs.trial import TrialJob
from pruning.methods import METHODS
from pruning.wording import base_name, count, from_to

_NAMES = {"qk": "pairs", "v": "values", "mlp": "MLP", "heads": "heads", "embed": "residual"}  # of structures
BUNDLE = "bundle"  # in a run folder: the smaller model


def of_pruning(job: Job) -> str:
    """Method, what is removed, and what is done besides."""
    parts = [METHODS[job.method].title, removed(job)]
    parts += [f"heads by {CRITERIA[job.heads_by].title}"] if job.heads_by else []
    parts += ["compensated"] if job.compensate else []
    return ", ".join(parts) + (" and recovery" if job.recovery is not None else "")


def of_recovery(job: RecoverJob) -> str:
    """What is fine-tuned, and how long. The bundle of a run is called by the folder of the run."""
    epochs, path = job.recovery.epochs, Path(job.model)
    name = path.parent.name if path.name == BUNDLE else base_name(job.model)
    return f"Recovery of {name or 'a bundle'}, {count(epochs)} epoch{'s' * (epochs > 1)}"


def of_bench(job: BenchJob) -> str:
    """How many models are timed."""
    return f"Latency of {len(job.models)} models"


def of_survey(job: SurveyJob) -> str:
    """The method whose sensitivities are measured."""
    return f"Sensitivities, {METHODS[job.method].title}"


def of_heads(job: HeadsJob) -> str:
    """On how many images heads are measured."""
    return f"Heads measured on {count(job.images)} images"


def of_trial(job: TrialJob) -> str:
    """The pruning that is tried, or the heads that are left out where nothing else is."""
    heads = job.pruning.locks.remove
    if heads and removed(replace(job.pruning, locks=HeadLocks())) == "nothing":
        return f"Trial without head{'s' * (len(heads) > 1)} {format_heads(heads).replace(',', ', ')}"
    return f"Trial of {of_pruning(job.pruning)}"


def removed(job: Job) -> str:
    """What a job removes, in a few words."""
    if job.preset:
        return f"preset {job.preset}"
    if job.budget:
        return f"budget {amount(job.budget.asked, job.budget.kind)}"
    parts = [(_NAMES[name], _fraction(getattr(job.ratios, name))) for name in STRUCTURES]
    sparsity = job.method_options.removes
    parts += [("parameters", _fraction(sparsity))] if sparsity else []
    listed = [f"{name} {share}" for name, share in parts if share]
    gone = len(job.locks.remove)
    listed += [f"{gone} locked head{'s' * (gone > 1)}"] if gone else []
    listed += [_merged(job.tokens)] if job.tokens is not None else []
    return ", ".join(listed) or "nothing"


def _merged(tokens: int | tuple[int, ...]) -> str:
    counts = tokens if isinstance(tokens, tuple) else (tokens,)
    if not any(counts):
        return "no tokens merged"
    return f"{from_to(counts)} tokens merged a block"


def _fraction(value: PerBlock) -> str:
    if isinstance(value, tuple):
        low, high = min(value), max(value)
        if low != high:
            return f"{100 * low:.0f} to {100 * high:.0f} %"
        value = low
    return f"{100 * value:.0f} %" if value else ""
