"""What a run can be: a kind of job, how it is carried out, and `job.json`, where both are written down."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from analysis.evaluate import Evaluation
from analysis.models import LoadedModel
from pruning.bench import TIMINGS, BenchJob, run_bench, save_timings
from pruning.bundle import is_bundle, write_bundle
from pruning.heads_job import READING, HeadsJob, run_heads, save_reading
from pruning.job import Job
from pruning.monitor import Monitor
from pruning.outcome import Outcome
from pruning.pipeline import prune
from pruning.plan import Plan
from pruning.recover import RecoverJob, RecoverOutcome, run_recover
from pruning.status import replace_text

BUNDLE = "bundle"  # in a run folder: the smaller model
EVALUATIONS = "evaluations.json"  # in a run folder: what each model said of every test image
Measured = TypeVar("Measured", Outcome, RecoverOutcome)


class Result(Protocol):
    """What carrying out a job gives: a smaller model, and the figures before and after."""

    @property
    def pruned(self) -> LoadedModel: ...

    @property
    def plan(self) -> Plan | None: ...

    def report(self) -> Mapping[str, Any]: ...


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


def save(result: Result, folder: Path) -> None:
    """Write what a run produced as a bundle; all of the folder appears at once, or nothing.

    Raises:
        ValueError: the folder holds something.
        OutputError: the disk is full, or the place cannot be written to.
    """
    pruned = result.pruned
    report = result.report()
    write_bundle(folder, pruned.model, pruned.preprocess, name=pruned.name, report=report, plan=result.plan)


@dataclass(frozen=True)
class Kind:
    """A kind of run: its job, a frozen dataclass with `to_json`, `from_json` and `command`, and its work.

    `write` puts what `execute` gives into the run folder under the name `output`, where all of it appears
    at once: from then on the run needs no more work. `output` is a bundle or a file.
    """

    job: type[Any]
    execute: Callable[[Any, Monitor], Any]
    title: str
    output: str = BUNDLE
    write: Callable[[Any, Path], None] = save

    def is_complete(self, folder: Path) -> bool:
        """Whether a run folder holds the result."""
        place = folder / self.output
        return is_bundle(place) if self.output == BUNDLE else place.is_file()


KINDS: dict[str, Kind] = {
    "prune": Kind(
        Job, lambda job, monitor: save_evaluations(prune(job, progress=monitor), monitor), "Pruning"
    ),
    "recover": Kind(
        RecoverJob, lambda job, monitor: save_evaluations(run_recover(job, monitor), monitor), "Recovering"
    ),
    "bench": Kind(BenchJob, run_bench, "Timing", TIMINGS, save_timings),
    "heads": Kind(HeadsJob, run_heads, "Measuring heads", READING, save_reading),
}


def kind_of(job: object) -> str:
    """The kind of run a job is for.

    Raises:
        ValueError: no kind of run takes such a job.
    """
    for name, kind in KINDS.items():
        if type(job) is kind.job:
            return name
    raise ValueError(f"no run takes a {type(job).__name__}; there are runs for {', '.join(KINDS)}")


def pack(job: Any) -> str:
    """The text of `job.json`: the kind, and the job's own fields beside it.

    Raises:
        ValueError: no kind of run takes such a job.
    """
    return json.dumps({"kind": kind_of(job)} | json.loads(job.to_json()), indent=2) + "\n"


def unpack(text: str) -> tuple[str, Any]:
    """Kind and job from `pack`.

    Raises:
        ValueError: not JSON, an unknown kind, or not a job of that kind.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        name = data.pop("kind")
        kind = KINDS[name]
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:
        listed = ", ".join(KINDS)
        raise ValueError(f"a job is a JSON object with a kind, one of {listed}; this is not one") from error
    return name, kind.job.from_json(json.dumps(data))


def words(job: Any) -> str:
    """Kind and method of a job, for people and for the name of a folder."""
    return " ".join(str(word) for word in (kind_of(job), getattr(job, "method", None)) if word)


def folder_name(job: Any, when: str) -> str:
    """Name of a run's folder: `when`, a short name for the job's values, and its words."""
    digest = hashlib.blake2b(pack(job).encode(), digest_size=3).hexdigest()
    return re.sub(r"[^\w.-]+", "-", f"{when}-{digest}-{words(job)}")
