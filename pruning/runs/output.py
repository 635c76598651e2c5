"""A command's result in the folder of the user's choice: a bundle that is a finished run as well."""

from __future__ import annotations

import time
from pathlib import Path

from pruning.bundle import EVALUATIONS_FILE, JOB_FILE, STATUS_FILE
from pruning.jobs import PruneResult, RecoverResult, evaluations, registry
from pruning.runs.status import Status


def save_output(result: PruneResult | RecoverResult, folder: Path) -> None:
    """Write a bundle, and beside its files those of a run, so that `report` and the app take it for one.

    Raises:
        ValueError: the folder holds something.
        OutputError: the disk is full, or the place cannot be written to.
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
