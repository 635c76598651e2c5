"""Jobs: everything a run depends on as data, and the functions that carry them out."""

from pruning.jobs import evaluations, registry
from pruning.jobs.bench import BACKENDS, BenchJob, Timings, load_to_time, read_timings, time_models
from pruning.jobs.evaluations import read_report
from pruning.jobs.heads import HeadsJob, is_reading, measure_heads, open_reading, run_heads
from pruning.jobs.inputs import Prepared, image_sets, prepare
from pruning.jobs.prune_job import RUNTIMES, Job, default_align, default_skip_unread, method_options
from pruning.jobs.prune_result import PruneResult, accuracies, cost_report, likeness_report
from pruning.jobs.recover import RecoverJob, RecoverResult, Recovery, run_recover
from pruning.jobs.registry import describe, save
from pruning.jobs.run_prune import (
    ROUGH_IMAGES,
    make_smaller,
    preview,
    prune,
    require_embedding,
    require_feasible,
)
from pruning.jobs.solve_budget import solve, width_times
from pruning.jobs.survey import SurveyJob, kept_survey, run_survey
from pruning.jobs.titles import removed
from pruning.jobs.trial import Trial, TrialJob, open_trial

__all__ = [
    "BACKENDS",
    "ROUGH_IMAGES",
    "RUNTIMES",
    "BenchJob",
    "HeadsJob",
    "Job",
    "Prepared",
    "PruneResult",
    "RecoverJob",
    "RecoverResult",
    "Recovery",
    "SurveyJob",
    "Timings",
    "Trial",
    "TrialJob",
    "accuracies",
    "cost_report",
    "default_align",
    "default_skip_unread",
    "describe",
    "evaluations",
    "image_sets",
    "is_reading",
    "kept_survey",
    "likeness_report",
    "load_to_time",
    "make_smaller",
    "measure_heads",
    "method_options",
    "open_reading",
    "open_trial",
    "prepare",
    "preview",
    "prune",
    "read_report",
    "read_timings",
    "registry",
    "removed",
    "require_embedding",
    "require_feasible",
    "run_heads",
    "run_recover",
    "run_survey",
    "save",
    "solve",
    "time_models",
    "width_times",
]
