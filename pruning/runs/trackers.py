"""Passes a run's curves on: to TensorBoard's files in the run folder, and to MLflow if a server is set."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 10
_MLFLOW_RUN = "mlflow.txt"
_ENDS = {"done": "FINISHED", "cancelled": "KILLED"}


class TensorBoard:
    """Event files below a run folder, in a folder for each phase, as each has steps of its own.

    What an earlier attempt wrote after this one's first step is hidden.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}

    def add(self, what: str, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step.

        Raises:
            OSError: an earlier one could not be written.
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
        """Write what is left.

        Raises:
            OSError: it could not be written.
        """
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names. Never the reason why a run fails.

    Without the package, or as soon as the server fails, one line in the log says so and no more is sent.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._note = note
        self._mlflow: Any = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            return
        # its own patience would hold a run up for many minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            self._mlflow = importlib.import_module("mlflow")
        except ImportError:
            note("MLFLOW_TRACKING_URI is set, but mlflow is not installed (pip install mlflow): not logging")
        self._try(lambda mlflow: self._begin(mlflow, folder, job))

    def _begin(self, mlflow: Any, folder: Path, job: Mapping[str, Any]) -> None:
        known = folder / _MLFLOW_RUN
        if known.exists():  # a resumed run goes on with its own
            mlflow.start_run(run_id=known.read_text(encoding="utf-8").strip())
            return
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
            mlflow.set_experiment("prunescope")
        run = mlflow.start_run(run_name=folder.name)
        known.write_text(run.info.run_id + "\n", encoding="utf-8")
        mlflow.log_params({name: _short(value) for name, value in job.items() if name != "version"})

    def add(self, what: str, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step."""
        named = {f"{what}/{name}" if what else name: value for name, value in values.items()}
        self._try(lambda mlflow: mlflow.log_metrics(named, step=step))

    def close(self, state: str) -> None:
        """The run has ended in this state."""
        self._try(lambda mlflow: mlflow.end_run(status=_ENDS.get(state, "FAILED")))

    def _try(self, send: Callable[[Any], None]) -> None:
        if self._mlflow is None:
            return
        try:
            send(self._mlflow)
        except Exception as error:  # whatever the server or the network do, the run goes on
            self._mlflow = None
            self._note(f"MLflow failed, no more is sent to it: {type(error).__name__}: {error}")


def _short(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:500]  # the server takes no more
