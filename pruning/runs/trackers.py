"""Logs a run's curves to TensorBoard files in the run folder, and to MLflow if a server is configured."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.formats import read_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 10
_MLFLOW_RUN = "mlflow.txt"
_ENDS = {"done": "FINISHED", "cancelled": "KILLED"}


class TensorBoard:
    """Event files in a run folder, with a subfolder for each phase, as each phase counts its own steps.

    Points that an earlier attempt wrote after this attempt's first step are hidden.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}

    def add(self, what: str, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of one step.

        Raises:
            OSError: figures of an earlier step could not be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        phase = re.sub(r"\W+", "-", what).strip("-").lower() or "run"
        if phase not in self._writers:
            self._writers[phase] = SummaryWriter(
                str(self._folder / phase), purge_step=step or None, flush_secs=FLUSH_SECONDS
            )
        for name, value in values.items():
            self._writers[phase].add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still buffered.

        Raises:
            OSError: it could not be written.
        """
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names; it never makes the run itself fail.

    If the package is missing or the server fails, one line is written to the log and logging stops.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._note = note
        self._mlflow: Any = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            return
        # mlflow's own timeouts would delay a run by many minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            self._mlflow = importlib.import_module("mlflow")
        except ImportError:
            note("MLFLOW_TRACKING_URI is set, but mlflow is not installed (pip install mlflow): not used")
        self._try(lambda mlflow: self._begin(mlflow, folder, job))

    def _begin(self, mlflow: Any, folder: Path, job: Mapping[str, Any]) -> None:
        known = folder / _MLFLOW_RUN
        if known.exists():  # a resumed run continues its MLflow run
            mlflow.start_run(run_id=read_text(known).strip())
            return
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
            mlflow.set_experiment("prunescope")
        run = mlflow.start_run(run_name=folder.name)
        known.write_text(run.info.run_id + "\n", encoding="utf-8")
        mlflow.log_params({name: _short(value) for name, value in job.items() if name != "version"})

    def add(self, what: str, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of one step."""
        named = {f"{what}/{name}" if what else name: value for name, value in values.items()}
        self._try(lambda mlflow: mlflow.log_metrics(named, step=step))

    def close(self, state: str) -> None:
        """End the MLflow run with the status that corresponds to `state`."""
        self._try(lambda mlflow: mlflow.end_run(status=_ENDS.get(state, "FAILED")))

    def _try(self, send: Callable[[Any], None]) -> None:
        if self._mlflow is None:
            return
        try:
            send(self._mlflow)
        except Exception as error:  # whatever the server or the network does, the run continues
            self._mlflow = None
            self._note(f"Logging to MLflow failed and was stopped: {type(error).__name__}: {error}")


def _short(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:500]  # the server's limit
