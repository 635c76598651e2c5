"""Run folders: starting, monitoring, cancelling, resuming and reading runs."""

from pruning.runs.finished import FinishedRun, Heads, flaw, is_finished, read_plan
from pruning.runs.folder import CANCEL, JOB, Run, list_runs, log, read, report, runs_root
from pruning.runs.launch import cancel, resume, start
from pruning.runs.metrics import Metrics, read_metrics
from pruning.runs.output import save_output, write_note
from pruning.runs.process import RunFailed, execute
from pruning.runs.queue import MOST_WAITING, run_dispatcher
from pruning.runs.status import LONGEST_NAME, LONGEST_TEXT, NOTE, RunNote, label
from pruning.runs.trash import delete, deleted, forget, numbers, restore

__all__ = [
    "CANCEL",
    "JOB",
    "LONGEST_NAME",
    "LONGEST_TEXT",
    "MOST_WAITING",
    "NOTE",
    "FinishedRun",
    "Heads",
    "Metrics",
    "Run",
    "RunFailed",
    "RunNote",
    "cancel",
    "delete",
    "deleted",
    "execute",
    "flaw",
    "forget",
    "is_finished",
    "label",
    "list_runs",
    "log",
    "numbers",
    "read",
    "read_metrics",
    "read_plan",
    "report",
    "restore",
    "resume",
    "run_dispatcher",
    "runs_root",
    "save_output",
    "start",
    "write_note",
]
