"""Jobs: everything a run depends on as data, and the functions that carry them out."""

from pruning.jobs import evaluations, registry, titles
from pruning.jobs.bench import BenchJob, Named, Timings, read_timings
from pruning.jobs.heads import HeadsJob, measure_heads, open_reading, run_heads, save_reading
from pruning.jobs.inputs import BATCH, image_sets, require_classifier, tracked
from pruning.jobs.prune_job import Job, default_align, default_skip_unread, method_options
from pruning.jobs.prune_result import PruneResult, cost_report
from pruning.jobs.recover import RecoverJob, Recovery, run_recover
from pruning.jobs.registry import save
from pruning.jobs.run_prune import choose, make_smaller, prune
from pruning.jobs.solve_budget import Survey, require_narrowing, score, solve, survey, without_locked
from pruning.jobs.titles import job, removed

__all__ = [
    "BATCH",
    "BenchJob",
    "HeadsJob",
    "Job",
    "Named",
    "PruneResult",
    "RecoverJob",
    "Recovery",
    "Survey",
    "Timings",
    "choose",
    "cost_report",
    "default_align",
    "default_skip_unread",
    "evaluations",
    "image_sets",
    "job",
    "make_smaller",
    "measure_heads",
    "method_options",
    "open_reading",
    "prune",
    "read_timings",
    "registry",
    "removed",
    "require_classifier",
    "require_narrowing",
    "run_heads",
    "run_recover",
    "save",
    "save_reading",
    "score",
    "solve",
    "survey",
    "titles",
    "tracked",
    "without_locked",
]
