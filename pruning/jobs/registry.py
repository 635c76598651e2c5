"""What a run can be: a kind of job, how it is carried out, and `job.json`, where both are written down."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from analysis.formats import Stored, dump, in_file, parse, read_text
from analysis.models import LoadedModel
from pruning.bundle import is_bundle, write_bundle
from pruning.cut import Plan
from pruning.files import save_json
from pruning.jobs import titles
from pruning.jobs.bench import TIMINGS, BenchJob, run_bench
from pruning.jobs.evaluations import save_evaluations
from pruning.jobs.heads import READING, HeadsJob, run_heads
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob, run_recover
from pruning.jobs.run_prune import prune
from pruning.jobs.survey import SURVEY, SurveyJob, run_survey, save_survey
from pruning.jobs.trial import TRIAL, TrialJob, run_trial
from pruning.progress import Monitor

BUNDLE = titles.BUNDLE


class Result(Protocol):
    """What carrying out a job gives: a smaller model, and the figures before and after."""

    @property
    def pruned(self) -> LoadedModel: ...

    @property
    def plan(self) -> Plan | None: ...

    def report(self) -> Mapping[str, Any]: ...


def save(result: Result, folder: Path, records: Mapping[str, str] | None = None) -> None:
    """Write what a run produced as a bundle; all of the folder appears at once, or nothing.

    `records` are texts of other files that lie beside the bundle's own.

    Raises:
        ValueError: the folder holds something.
        OutputError: the disk is full, or the place cannot be written to.
    """
    pruned = result.pruned
    write_bundle(
        folder,
        pruned.model,
        pruned.preprocess,
        name=pruned.name,
        report=result.report(),
        plan=result.plan,
        half=pruned.half,
        records=records,
    )


@dataclass(frozen=True)
class RunKind:
    """A kind of run: its job, a format with a `command`, and its work.

    `title` names the kind, and `describe` says what one job does, for people.
    `write` puts what `execute` gives into the run folder under the name `output`, where all of it appears
    at once: from then on the run needs no more work. `output` is a bundle or a file.
    """

    job: type[Stored]
    execute: Callable[[Any, Monitor], Any]
    title: str
    describe: Callable[[Any], str]
    output: str = BUNDLE
    write: Callable[[Any, Path], None] = save

    def is_complete(self, folder: Path) -> bool:
        """Whether a run folder holds the result."""
        place = folder / self.output
        return is_bundle(place) if self.output == BUNDLE else place.is_file()


RUN_KINDS: dict[str, RunKind] = {
    "prune": RunKind(
        Job,
        lambda job, monitor: save_evaluations(prune(job, progress=monitor), monitor),
        "Pruning",
        titles.of_pruning,
    ),
    "recover": RunKind(
        RecoverJob,
        lambda job, monitor: save_evaluations(run_recover(job, monitor), monitor),
        "Recovering",
        titles.of_recovery,
    ),
    "bench": RunKind(BenchJob, run_bench, "Timing", titles.of_bench, TIMINGS, save_json),
    "survey": RunKind(
        SurveyJob, run_survey, "Measuring sensitivities", titles.of_survey, SURVEY, save_survey
    ),
    "heads": RunKind(HeadsJob, run_heads, "Measuring heads", titles.of_heads, READING, save_json),
    "trial": RunKind(TrialJob, run_trial, "Trying", titles.of_trial, TRIAL, save_json),
}


def kind_of(job: object) -> str:
    """The kind of run a job is for.

    Raises:
        ValueError: no kind of run takes such a job.
    """
    for name, kind in RUN_KINDS.items():
        if type(job) is kind.job:
            return name
    raise ValueError(f"no run takes a {type(job).__name__}; there are runs for {', '.join(RUN_KINDS)}")


def describe(job: Any) -> str:
    """What a run does, in a few words: method and extent.

    Raises:
        ValueError: no kind of run takes such a job.
    """
    return RUN_KINDS[kind_of(job)].describe(job)


def pack(job: Any) -> str:
    """The text of `job.json`: the kind, and the job's own fields beside it.

    Raises:
        ValueError: no kind of run takes such a job.
    """
    return dump({"kind": kind_of(job)} | job.to_data(), indent=2)


def unpack(text: str) -> tuple[str, Any]:
    """Kind and job from `pack`.

    Raises:
        ValueError: not JSON, an unknown kind, or not a job of that kind.
    """
    data = parse(text)
    if not isinstance(data, dict) or "kind" not in data:
        raise ValueError(f"this must be an object with a `kind`, one of {', '.join(RUN_KINDS)}")
    name = data.pop("kind")
    if not isinstance(name, str) or name not in RUN_KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(RUN_KINDS)}, got {name!r:.60}")
    return name, RUN_KINDS[name].job.from_data(data)


def read_job(file: Path) -> tuple[str, Any]:
    """Kind and job that lie in a file.

    Raises:
        ValueError: it cannot be read, or as `unpack`.
    """
    text = read_text(file)
    try:
        return unpack(text)
    except ValueError as error:
        raise in_file(file, error) from error


def words(job: Any) -> str:
    """Kind and method of a job, for people and for the name of a folder."""
    return " ".join(str(word) for word in (kind_of(job), getattr(job, "method", None)) if word)


def folder_name(job: Any, when: str) -> str:
    """Name of a run's folder: `when`, a short name for the job's values, and its words."""
    digest = hashlib.blake2b(pack(job).encode(), digest_size=3).hexdigest()
    return re.sub(r"[^\w.-]+", "-", f"{when}-{digest}-{words(job)}")
