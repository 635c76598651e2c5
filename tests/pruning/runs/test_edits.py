"""Every JSON file of runs and bundles: those of the previous release are read, and no edit slips through."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from analysis.models import Preprocess, Reading, architecture, load
from analysis.vit import Architecture
from pruning.budget.allocate import Budget
from pruning.bundle.report import Report
from pruning.criteria.magnitude import MagnitudeOptions
from pruning.criteria.magnitude import l2 as l2_scores
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios
from pruning.files import save_json
from pruning.jobs import registry
from pruning.jobs.bench import BenchJob, Timings, read_timings
from pruning.jobs.evaluations import read_evaluations, read_report
from pruning.jobs.heads import HeadsJob, open_reading
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.jobs.survey import SurveyJob, SurveyResult, read_survey, save_survey
from pruning.jobs.trial import Trial, TrialJob, open_trial
from pruning.methods import Survey
from pruning.runs import finished, metrics
from pruning.runs import folder as runs
from pruning.runs.status import Status
from tests.support.budgets import synthetic
from tests.support.edits import require_refused, taken
from tests.support.models import TINY, random_vit

PREVIOUS = Path(__file__).parents[2] / "support" / "previous"  # run folders as the release before wrote them
RUNS = sorted(path.name for path in PREVIOUS.iterdir())
BUNDLES = [name for name in RUNS if (PREVIOUS / name / "bundle").is_dir()]
# Fields of later architectures, which are off in earlier ones.
FAMILIES: dict[str, Any] = {
    field.name: field.default
    for field in fields(Architecture)
    if field.name not in json.loads((PREVIOUS / BUNDLES[0] / "bundle" / "architecture.json").read_text())
}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run folder of the previous release, with weights that fit the bundle in it."""
    place = tmp_path / "runs" / request.param
    shutil.copytree(PREVIOUS / request.param, place)
    if (place / "bundle").is_dir():
        arch = Architecture.from_json((place / "bundle" / "architecture.json").read_text())
        save_file(dict(random_vit(arch).state_dict()), place / "bundle" / "model.safetensors")
    return place


of_runs = pytest.mark.parametrize("folder", RUNS, indirect=True)
of_bundles = pytest.mark.parametrize("folder", BUNDLES, indirect=True)


def renewed(file: Path, written: str, version: int = 1, gone: tuple[str, ...] = (), **new: Any) -> None:
    """Write a file as today: another version, what is `new`, and without each "field.name" that is gone."""
    wanted = json.loads(file.read_text()) | {"version": version} | new
    for entry in gone:
        field, _, name = entry.partition(".")
        wanted[field].pop(name, None)
    assert json.loads(written) == wanted
    file.write_text(written)


def renew_job(folder: Path) -> None:
    job = runs.read(folder).job
    assert job is not None
    known = json.loads((folder / "job.json").read_text())
    new = {}
    if known.get("budget"):  # of widths alone, as they were then
        new["budget"] = known["budget"] | {"tokens": False, "depth": False}
    renewed(folder / "job.json", registry.pack(job), job.VERSION, **new)


def renew_heads(folder: Path) -> None:
    renewed(folder / "heads.json", open_reading(folder).to_json(), 2, ("alike.cosine", "values.gohsp"))


# ---- the files of the previous release


@of_runs
def test_runs_of_the_previous_release_are_read(folder: Path) -> None:
    found = runs.read(folder)
    assert found.problem is None and found.state == "done" and found.job is not None
    assert found.status.workdir == "/somewhere" and "python -m pruning" in found.job.command()
    renew_job(folder)
    renewed(folder / "status.json", found.status.to_json())
    assert runs.read(folder) == found
    points = metrics.read_metrics(folder)
    assert len(points.points) == (3 if (folder / metrics.METRICS).exists() else 0)


@of_bundles
def test_bundles_of_the_previous_release_are_read(folder: Path) -> None:
    place = folder / "bundle"
    loaded, report, plan = load(str(place)), read_report(place), finished.read_plan(place)
    renewed(place / "preprocess.json", loaded.preprocess.to_json())
    blocks = json.loads((place / "architecture.json").read_text())["blocks"]
    merged = [block | {"merge": 0} for block in blocks]
    renewed(place / "architecture.json", loaded.model.arch.to_json(), 3, blocks=merged, **FAMILIES)
    assert report is not None
    renewed(place / "report.json", report.to_json(), 4)
    if plan is not None:
        renewed(place / "plan.json", plan.to_json())
    renewed(folder / "evaluations.json", read_evaluations(folder).to_json(), 3)
    again = finished.FinishedRun(runs.read(folder))
    assert (again.arch, again.report, again.plan) == (loaded.model.arch, report, plan)
    assert again.report.top1_after == again.after.top1 and again.before.images == 6


def test_results_of_the_previous_release_are_read(tmp_path: Path) -> None:
    for name in ("bench/timings.json", "heads/heads.json"):
        (tmp_path / Path(name).name).write_bytes((PREVIOUS / name).read_bytes())
    renewed(tmp_path / "timings.json", read_timings(tmp_path).to_json(), 2, each={})
    renew_heads(tmp_path)


# ---- edits

JOBS: dict[str, tuple[type, tuple[str, ...]]] = {
    "prune": (Job, ("ratios", "options")),
    "budget": (Job, ("ratios", "options")),
    "plain": (Job, ("ratios", "options")),
    "recover": (RecoverJob, ("options",)),
    "bench": (BenchJob, ("batches",)),
    "heads": (HeadsJob, ()),
}


# a preset goes with no ratios and no budget, and heads are removed first by a few criteria only
DEPENDS = ("(job.)?(preset|heads_by): text", "(job.)?budget.(gmacs|ms|params): .*")


def of_job(name: str, place: str = "") -> list[str]:
    """Edits that the job of a run takes."""
    kind, needed = JOBS[name]
    fine = taken(kind, place, needed)
    if kind is Job:
        fine += [*taken(Ratios, f"{place}ratios."), *taken(Budget, f"{place}budget."), *taken(HeadLocks)]
        fine += taken(HeadLocks, f"{place}locks.")
    return [*fine, *taken(Reading, f"{place}reading.")]


def in_job(name: str) -> str:
    """How a job calls a field: an option by its name, and what is out of its range in words."""
    inside = name.removeprefix("job.")
    if name.startswith("recovery."):
        return f"{name}|{inside.rpartition('.')[2]}"
    if inside.endswith("][1]"):
        return f"{name}|images|epochs|batch|warmup"
    outer, _, inner = inside.partition(".")
    return f"{name}|{inner}" if outer in ("ratios", "budget") else f"{name}|{inside}"


def reading(folder: Path) -> Callable[[], None]:
    """Reads a run folder as the app and the command line do; what cannot be read is an error here."""

    def read() -> None:
        found = runs.read(folder)
        if found.problem is not None:
            raise ValueError(found.problem)

    return read


@of_runs
def test_no_edit_of_a_job_slips_through(folder: Path) -> None:
    renew_job(folder)
    fine = [*of_job(folder.name), r"models\[1\]\[1\]: text", r"models\[0\]\[1\]: text"]
    assert require_refused(folder / "job.json", reading(folder), fine, DEPENDS, in_job) > 30


@of_runs
def test_no_edit_of_a_status_slips_through(folder: Path) -> None:
    renewed(folder / "status.json", runs.read(folder).status.to_json())
    fine = [*taken(Status), r"figures\.\w+: missing"]
    assert require_refused(folder / "status.json", reading(folder), fine) > 80


def test_no_edit_of_a_job_that_surveys_slips_through(tmp_path: Path) -> None:
    job = SurveyJob("demo", "demo", "snp", options=(("images", 8),), removed=((0, 1),))
    (tmp_path / "job.json").write_text(registry.pack(job))
    fine = [*taken(SurveyJob), *taken(Reading, "reading.")]
    assert require_refused(tmp_path / "job.json", reading(tmp_path), fine, DEPENDS, in_job) > 50


def test_no_edit_of_a_job_that_tries_slips_through(tmp_path: Path) -> None:
    budget = Budget(gmacs=0.01)
    job = TrialJob.of(Job("demo", "demo", "snp", budget=budget, options=(("images", 8),)), TINY)
    (tmp_path / "job.json").write_text(registry.pack(job))
    fine = [*taken(TrialJob), *taken(Job, "pruning."), *taken(Ratios, "pruning.ratios.")]
    fine += [*taken(Budget, "pruning.budget."), *taken(HeadLocks, "pruning.locks.")]
    fine += [*taken(Reading, "pruning.reading."), r"blocks\[\d\]\.merge: missing"]
    # whether there are widths, what budgets go with and what heads are removed by depends on other fields
    depends = (
        "blocks: .*",
        r"pruning\.budget(\.(gmacs|ms|params))?: .*",
        r"pruning\.(preset|heads_by|runtime|device): text",
        r"pruning\.tokens: (whole|list)",
    )
    named = lambda name: f"{name}|images" if name.endswith("][1]") else f"{name}|{name.rpartition('.')[2]}"
    assert require_refused(tmp_path / "job.json", reading(tmp_path), fine, depends, named) > 100


@of_bundles
def test_no_edit_of_a_report_slips_through(folder: Path) -> None:
    place = folder / "bundle"
    report = read_report(place)
    assert report is not None
    renewed(place / "report.json", report.to_json(), 4)
    fine = [*taken(Report), *of_job(folder.name, "job."), r"recovery\.\w+: missing", "job.version: missing"]
    fine += [
        r"heads\[\d\]: nothing",
        r"budget\.batch: (missing|nothing|whole)",
        r"budget\.(asked|got): number",
    ]
    assert require_refused(place / "report.json", lambda: read_report(place), fine, DEPENDS, in_job) > 150


@of_bundles
def test_no_edit_of_a_plan_slips_through(folder: Path) -> None:
    place = folder / "bundle"
    plan = finished.read_plan(place)
    if plan is None:
        assert folder.name == "recover"
        return
    renewed(place / "plan.json", plan.to_json())
    assert require_refused(place / "plan.json", lambda: finished.read_plan(place)) > 200


@of_bundles
def test_no_edit_of_a_bundle_that_is_loaded_slips_through(folder: Path) -> None:
    place = folder / "bundle"
    loaded = load(str(place))
    blocks = json.loads((place / "architecture.json").read_text())["blocks"]
    merged = [block | {"merge": 0} for block in blocks]
    renewed(place / "architecture.json", loaded.model.arch.to_json(), 3, blocks=merged, **FAMILIES)
    renewed(place / "preprocess.json", loaded.preprocess.to_json())
    size = lambda name: re.sub(r"(_size)\[.\]", r"\1", name)
    read = lambda: architecture(str(place))
    assert require_refused(place / "architecture.json", read, architecture_takes(), (), size) > 150
    fine = taken(Preprocess, needed=("mean", "std", "labels"))
    assert require_refused(place / "preprocess.json", lambda: load(str(place)), fine) > 80


def architecture_takes() -> list[str]:
    """Edits that the format of an architecture allows."""
    return [*taken(Architecture), r"blocks\[.\]\.merge: missing"]


@of_bundles
def test_no_edit_of_evaluations_slips_through(folder: Path) -> None:
    renewed(folder / "evaluations.json", read_evaluations(folder).to_json(), 3)
    named = lambda name: f"{name}|{name}.top1"
    read = lambda: read_evaluations(folder)
    assert require_refused(folder / "evaluations.json", read, ["start: nothing"], (), named) > 100


def test_no_edit_of_a_result_slips_through(tmp_path: Path) -> None:
    for name in ("bench/timings.json", "heads/heads.json"):
        (tmp_path / Path(name).name).write_bytes((PREVIOUS / name).read_bytes())
    renewed(tmp_path / "timings.json", read_timings(tmp_path).to_json(), 2, each={})
    named = lambda name: f"{name}|{name.replace('.mood', '')}"
    file, read = tmp_path / "timings.json", lambda: read_timings(tmp_path)
    fine = [r"models\[\d\]\[1\]: (text|nothing)", r"ms\.\d: missing", "each: missing"]
    assert require_refused(file, read, fine, (), named) > 80
    times = dict.fromkeys((1, 2), ((1.5, 2.5, 3.5), (2.5, 3.5, 4.5)))
    file.write_text(Timings.of_times(BenchJob((("a", None), ("b", None))), times, 1).to_json())
    fine = [r"models\[\d\]\[1\]: text", r"each\.\d: missing", "each: (missing|object)"]
    inside = lambda name: f"{named(name)}|{name.partition('[')[0]}"  # a time that is gone is seen by its row
    assert require_refused(file, read, fine, (), inside) > 120
    renew_heads(tmp_path)
    fine = [r"(values|alike)\.\w+: missing"]
    assert require_refused(tmp_path / "heads.json", lambda: open_reading(tmp_path), fine) > 150


def test_no_edit_of_a_trial_slips_through(tmp_path: Path) -> None:
    found = read_evaluations(PREVIOUS / "prune")
    save_json(Trial("id", found.before, found.after), tmp_path / "trial.json")
    assert open_trial(tmp_path).after == found.after
    fine = [r"(before|after)\.(measure|fidelity): missing"]
    named = lambda name: f"{name}|{name.partition('[')[0]}"
    assert require_refused(tmp_path / "trial.json", lambda: open_trial(tmp_path), fine, (), named) > 60


def test_no_edit_of_a_survey_slips_through(tmp_path: Path) -> None:
    file, model = tmp_path / "survey.json", random_vit(TINY)
    found = Survey(synthetic(TINY), l2_scores(model, [], MagnitudeOptions()))
    save_survey(SurveyResult("key", found, False, 0.0), file)
    again = read_survey(file)
    assert again.sensitivities == found.sensitivities and again.scores is not None
    fine = ["scores: nothing", r"sensitivities\.(tokens|halves): missing"]
    assert require_refused(file, lambda: read_survey(file), fine) > 150


def test_no_edit_of_a_line_of_metrics_slips_through(tmp_path: Path) -> None:
    edited, file = tmp_path / "edited" / metrics.METRICS, tmp_path / metrics.METRICS
    edited.parent.mkdir()
    lines = (PREVIOUS / "prune" / metrics.METRICS).read_text().splitlines()
    edited.write_text(lines[0])

    def read() -> None:
        file.write_text(f"{lines[1]}\n{edited.read_text()}\n")
        metrics.read_metrics(tmp_path)

    fine = [r"values\.\w+: (missing|nothing)"]
    assert require_refused(edited, read, fine) > 30


@of_runs
def test_files_of_a_later_release_are_refused_in_one_sentence(folder: Path) -> None:
    job = runs.read(folder).job
    assert job is not None
    for name, known in (("job.json", job.VERSION), ("status.json", 1)):
        before = (folder / name).read_text()
        later = json.loads(before) | {"version": known + 1, "mood": "good"}
        (folder / name).write_text(json.dumps(later))
        said = runs.read(folder).problem
        assert said == (
            f"{folder / name} was written by a later PruneScope (version {known + 1}; this one reads up to "
            f"{known}): update PruneScope"
        )
        (folder / name).write_text(before)


def test_heads_in_a_report_must_be_in_order() -> None:
    assert Report(heads=((0, 2), None, ())).heads == ((0, 2), None, ())
    wrong: tuple[tuple[Any, str], ...] = (
        (((1, 0),), "heads must be in increasing order"),
        (((-1, 0),), "heads must be whole numbers of at least 0"),
        ((1, 2), r"`heads\[0\]` must be a list or null, got a whole number"),
    )
    for heads, message in wrong:
        with pytest.raises(ValueError, match=message):
            Report(heads=heads)


def test_a_run_of_gohsp_before_its_schedule_changed_is_read() -> None:
    """The options of the schedule that is gone are left out; a name that never was is still refused."""
    job = Job("demo", "demo", "gohsp", options=(("epochs", 2), ("updates", 5)))
    old = job.to_data() | {
        "version": 1,
        "options": [["rho", 0.1], ["epochs", 2], ["growth", 1.3], ["updates", 5]],
    }
    assert Job.from_data(old) == job
    with pytest.raises(ValueError, match="has no option 'mood'"):
        Job.from_data(old | {"options": [["mood", 1]]})
