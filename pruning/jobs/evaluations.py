"""`evaluations.json`: what each model of a run predicted for every test image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from analysis.measure import Evaluation
from pruning.files import replace_text
from pruning.jobs.prune_result import PruneResult
from pruning.jobs.recover import RecoverResult
from pruning.progress import Monitor

EVALUATIONS = "evaluations.json"  # in a run folder: what each model said of every test image
Measured = TypeVar("Measured", PruneResult, RecoverResult)


def save_evaluations(result: Measured, monitor: Monitor) -> Measured:
    """Keep in the monitor's folder, if it has one, what the report leaves out; returns the result.

    `before` is the dense model or the teacher, `start` the smaller one before fine-tuning if there was
    any, `after` the result. It is written before the bundle, so that a finished run always has it.
    """
    if monitor.folder is None:
        return result
    found = {"before": result.before, "start": result.start, "after": result.after}
    written = {when: None if one is None else asdict(one) for when, one in found.items()}
    replace_text(monitor.folder / EVALUATIONS, json.dumps(written) + "\n")
    return result


def read_evaluations(folder: Path) -> dict[str, Evaluation | None]:
    """What `save_evaluations` wrote into a run folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    file = folder / EVALUATIONS
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {when: None if data[when] is None else _evaluation(data[when]) for when in _WHEN}
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


_WHEN = ("before", "start", "after")


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return Evaluation(**values)
