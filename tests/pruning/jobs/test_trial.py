"""Trials: a run that estimates what a pruning job would do, on few images, and what it leaves on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.measure.evaluate import Evaluation
from analysis.models.load import load
from analysis.vit import BlockWidths
from pruning.budget.allocate import Budget
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.criteria.head_measures import weights_id
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios
from pruning.files import save_json
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import prune
from pruning.jobs.trial import TRIAL, Trial, TrialJob, open_trial, run_trial
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import launch, process
from pruning.runs.finished import flaw
from tests.support.damage import DAMAGE
from tests.support.jobs import ARCH, dense

HALF = Job("demo", "demo", "l2", ratios=Ratios(mlp=0.5, qk=0.25), limit=12)
ONE = Evaluation(0.5, 1.0, 0.1, 0.9, 2, 0.1, (0, 1), (0, 2), (0.5, 0.5))
FOUND = Trial("id", ONE, replace(ONE, predictions=(2, 1), top1=0.0))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = dense()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return str(write_bundle(folder, given.model, given.preprocess, name="tiny", report={}))


class Telling(Monitor):
    """Keeps what is done, and asks for an end once so much of a step is."""

    def __init__(self, most: float = 2.0) -> None:
        self.done: list[str] = []
        self.most = most

    def __call__(self, what: str, share: float) -> None:
        self.done.append(what)
        if share > self.most:
            raise Cancelled


def by_image(result: Evaluation) -> list[tuple[int, int]]:
    return sorted(zip(result.labels, result.predictions, strict=True))


# ---- the job


def test_a_job_comes_back_and_says_what_it_does() -> None:
    budget = replace(HALF, ratios=Ratios(), budget=Budget(gmacs=0.01))
    for job in (TrialJob(HALF, 7), TrialJob.of(budget, replace(ARCH, skip_unread=True))):
        assert registry.unpack(registry.pack(job)) == ("trial", job) and hash(job)
    assert TrialJob.of(HALF, ARCH) == TrialJob(HALF)
    assert registry.describe(TrialJob(HALF)) == "Trial of L2 magnitude, pairs 25 %, MLP 50 %"
    locks = HeadLocks(remove=((0, 1), (1, 0)))
    assert registry.describe(TrialJob(Job("demo", "demo", locks=locks))) == "Trial without heads 0.1, 1.0"
    both = registry.describe(TrialJob(replace(HALF, locks=locks)))
    assert both == "Trial of L2 magnitude, pairs 25 %, MLP 50 %, 2 locked heads"
    assert registry.folder_name(TrialJob(HALF), "now").endswith("-trial-l2")
    assert TrialJob(HALF).command().splitlines()[1] == HALF.command()


def test_jobs_that_cannot_be() -> None:
    budget = replace(HALF, ratios=Ratios(), budget=Budget(gmacs=0.01))
    wrong: tuple[tuple[Any, str], ...] = (
        (lambda: TrialJob(HALF, 0), "tried on at least 1 image, got images 0"),
        (lambda: TrialJob(budget), "at the widths that were found for it: give `blocks`"),
        (lambda: TrialJob(HALF, blocks=ARCH.blocks), "belong to a budget: `pruning` has none"),
        (lambda: TrialJob(HALF, skip_unread=True), "belong to a budget: `pruning` has none"),
    )
    for make, message in wrong:
        with pytest.raises(ValueError, match=message):
            make()


def test_widths_must_fit_the_model() -> None:
    budget = replace(HALF, ratios=Ratios(), budget=Budget(gmacs=0.01))
    narrower = replace(ARCH, blocks=tuple(replace(block, mlp=9, merge=1) for block in ARCH.blocks))
    assert TrialJob.of(budget, narrower).target(ARCH) == narrower
    assert TrialJob(HALF).target(ARCH) == HALF.target(ARCH)
    wider = BlockWidths(3, 8, 8, 10**4)
    for blocks in (ARCH.blocks[:1], (wider, *ARCH.blocks[1:])):
        with pytest.raises(ValueError, match="as many as the model has, and none wider"):
            TrialJob(budget, blocks=blocks).target(ARCH)


def test_a_budget_of_an_earlier_release_is_read_as_it_was_meant() -> None:
    budget = replace(HALF, ratios=Ratios(), budget=Budget(gmacs=0.01))
    data = json.loads(registry.pack(TrialJob.of(budget, ARCH)))
    for name in ("tokens", "depth"):
        del data["pruning"]["budget"][name]
    found = registry.unpack(json.dumps(data))[1].pruning.budget
    assert (found.tokens, found.depth) == (False, False)


# ---- what it finds


@pytest.mark.parametrize("skip", [False, True])
def test_what_is_masked_predicts_like_the_model_that_is_cut(tiny: str, skip: bool) -> None:
    job = replace(HALF, model=tiny, skip_unread=skip)
    found, made = run_trial(TrialJob(job)), prune(job)
    assert by_image(found.before) == by_image(made.before)
    assert by_image(found.after) == by_image(made.after)
    assert found.model == weights_id(load(tiny).model)


def test_a_budget_is_tried_at_its_widths_with_the_scores_of_its_survey(tiny: str) -> None:
    budget = Budget(gmacs=0.85 * prune(replace(HALF, model=tiny)).report()["gmacs_before"], images=8)
    job = replace(HALF, model=tiny, ratios=Ratios(), budget=budget, skip_unread=None)
    made, told = prune(job), Telling()
    assert made.allocation is not None
    found = run_trial(TrialJob.of(job, made.allocation.arch), told)
    assert by_image(found.after) == by_image(made.after) and "Scoring" not in told.done


def test_it_looks_at_few_images_and_can_be_cancelled(tiny: str) -> None:
    job = TrialJob(replace(HALF, model=tiny), 4)
    assert run_trial(job).before.images == 4
    told = Telling(0.5)
    with pytest.raises(Cancelled):
        run_trial(job, told)
    assert told.done


def test_a_model_without_a_classifier_is_judged_by_its_features(tmp_path: Path) -> None:
    given = dense()
    arch = replace(ARCH, num_classes=0)
    state = {name: value for name, value in given.model.state_dict().items() if "head." not in name}
    model = type(given.model)(arch)
    model.load_state_dict(state)
    preprocess = replace(given.preprocess, labels=())
    folder = write_bundle(tmp_path / "tiny", model.eval(), preprocess, name="tiny", report={})
    found = run_trial(TrialJob(replace(HALF, model=str(folder)), 6))
    assert found.after.measure == "knn" and found.after.fidelity is not None


def test_nothing_to_remove_is_said_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="nothing to remove"):
        run_trial(TrialJob(Job("no model", "no data", "l2")))


# ---- its folder


def test_a_run_leaves_a_result_and_is_listed(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, lock = launch._create(TrialJob(replace(HALF, model=tiny), 4), tmp_path, 1)
    lock.close()
    assert main(["run", str(folder)]) == 0
    done = runs.read(folder)
    assert (done.state, done.bundle, flaw(done)) == ("done", None, None)
    assert open_trial(folder).before.images == 4
    with pytest.raises(ValueError, match=rf"is done: its result is in .*{TRIAL}"):
        launch.resume(folder)
    capsys.readouterr()
    assert main(["runs", "--root", str(tmp_path)]) == 0
    assert f"{folder.name}" in (said := capsys.readouterr().out) and "done" in said


def test_one_that_was_cancelled_is_resumed(tiny: str, tmp_path: Path) -> None:
    folder, lock = launch._create(TrialJob(replace(HALF, model=tiny), 4), tmp_path, 1)
    lock.close()
    with pytest.raises(Cancelled):
        process.execute(folder, progress=Telling(0.5))
    assert runs.read(folder).state == "cancelled" and not (folder / TRIAL).exists()
    assert main(["resume", str(folder)]) == 0
    assert open_trial(folder).after.images == 4


@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_result_is_a_sentence(way: str, tmp_path: Path) -> None:
    folder, lock = launch._create(TrialJob(HALF), tmp_path, 1)
    lock.close()
    save_json(FOUND, folder / TRIAL)
    process.execute(folder)  # which finds the work done
    assert flaw(runs.read(folder)) is None and open_trial(folder) == FOUND
    DAMAGE[way](folder / TRIAL)
    said = str(flaw(runs.read(folder)))
    assert TRIAL in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"top1": 55.0}, "`after` must have shares from 0 to 1"),
        ({"predictions": (0, -1)}, "classes by their number"),
        ({"predictions": (0,)}, "`after.predictions` must have one entry for each of 2 images"),
        ({"labels": (1, 2)}, "must be of the same images"),
    ],
)
def test_results_that_cannot_be(after: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trial("id", ONE, replace(ONE, **after))
