"""Run folders: starting, monitoring, cancelling, resuming and reading runs."""

from pruning.runs.finished import FinishedRun, Heads, flaw, is_finished, read_plan
from pruning.runs.folder import CANCEL, JOB, Run, list_runs, log, read, report, runs_root
from pruning.runs.launch import cancel, resume, start
from pruning.runs.metrics import Metrics, read_metrics
from pruning.runs.output import save_output
from pruning.runs.process import RunFailed, execute
from pruning.runs.queue import MOST_WAITING, run_dispatcher

__all__ = [
    "CANCEL",
    "JOB",
    "MOST_WAITING",
    "FinishedRun",
    "Heads",
    "Metrics",
    "Run",
    "RunFailed",
    "cancel",
    "execute",
    "flaw",
    "is_finished",
    "list_runs",
    "log",
    "read",
    "read_metrics",
    "read_plan",
    "report",
    "resume",
    "run_dispatcher",
    "runs_root",
    "save_output",
    "start",
]
