"""Writes what no process of a run writes: a command's result in the folder of --out, and a run's note."""

from __future__ import annotations

import time
from pathlib import Path

from pruning.bundle import EVALUATIONS_FILE, JOB_FILE, STATUS_FILE
from pruning.files import replace_text
from pruning.jobs import PruneResult, RecoverResult, evaluations, registry
from pruning.runs.claim import writing_to
from pruning.runs.status import NOTE, RunNote, Status


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


def write_note(folder: Path, note: RunNote) -> None:
    """Keep what people say of a run; nothing else in its folder changes.

    Raises:
        OutputError: the folder cannot be written to.
    """
    with writing_to(folder):
        replace_text(folder / NOTE, note.to_json())
