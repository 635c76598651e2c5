"""Writes a command's result to the folder given by --out: a bundle that is also a finished run."""

from __future__ import annotations

import time
from pathlib import Path

from pruning.bundle import EVALUATIONS_FILE, JOB_FILE, STATUS_FILE
from pruning.jobs import PruneResult, RecoverResult, evaluations, registry
from pruning.runs.status import Status


def save_output(result: PruneResult | RecoverResult, folder: Path) -> None:
    """Write a bundle together with the files of a finished run, so that `report` and the app accept it.

    Raises:
        ValueError: the folder is not empty.
        OutputError: the disk is full, or the folder cannot be written to.
    """
    now = time.time()
    began = now - result.seconds
    status = Status("done", began, began, now, share=1.0, began=began, ended=now, workdir=str(Path.cwd()))
    records = {
        JOB_FILE: registry.pack(result.job),
        STATUS_FILE: status.to_json(),
        EVALUATIONS_FILE: evaluations.Evaluations.of(result).to_json(),
    }
    registry.save(result, folder, records)
