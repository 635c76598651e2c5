"""Surveys: measured once, kept under what they depend on, read by every later budget."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.measure.cost import cost
from analysis.models.load import LoadedModel
from pruning import cache
from pruning.budget.allocate import Budget
from pruning.cli.main import main
from pruning.cut.head_locks import HeadLocks
from pruning.jobs.inputs import prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import prune
from pruning.jobs.survey import SurveyJob, kept_survey, run_survey, survey_key, surveyed
from pruning.progress import Monitor
from tests.support.jobs import ARCH, dense

JOB = Job("demo", "demo", "l2", budget=Budget(gmacs=0.9 * cost(ARCH).gmacs, images=8), align=2, limit=10)


class Telling(Monitor):
    """Keeps what is being done and what is noted."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.shares: list[float] = []
        self.notes: list[str] = []

    def __call__(self, what: str, share: float) -> None:
        self.done.append(what)
        self.shares.append(share)

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_a_second_budget_of_any_size_measures_nothing() -> None:
    first, second = Telling(), Telling()
    given = dense()
    prune(JOB, dense=given, progress=first)
    assert "Measuring sensitivities" in first.done
    assert all(note.startswith("Candidate ") for note in first.notes)
    smaller = replace(JOB, budget=Budget(params=0.8 * cost(ARCH).params, images=8), align=1, limit=5)
    outcome = prune(smaller, dense=dense(), progress=second)
    assert outcome.allocation is not None
    assert not {"Measuring sensitivities", "Scoring", "Running the dense model"} & set(second.done)
    assert second.notes[0] == "Sensitivities were measured before and are reused."
    assert all(note.startswith("Candidate ") for note in second.notes[1:])  # which are compared each time


@pytest.mark.parametrize("method", ["l2", "spectral"])
def test_the_steps_of_a_survey_are_one_that_rises_to_its_end(method: str) -> None:
    """Else the time left is that of a step, and jumps where the next one begins."""
    told, options = Telling(), {"spectral": (("images", 8),)}.get(method, ())
    surveyed(prepare(replace(JOB, method=method, options=options), told, dense()))
    assert set(told.done) == {"Measuring sensitivities"}
    assert told.shares == sorted(told.shares) and told.shares[-1] == 1.0
    assert max(late - soon for soon, late in pairwise(told.shares)) < 0.2


def test_what_is_kept_is_what_was_measured() -> None:
    run = prepare(JOB, dense=dense())
    measured = surveyed(run)
    kept = kept_survey(run)
    assert kept is not None and kept.sensitivities == measured.sensitivities
    assert measured.scores is not None and kept.scores is not None
    for name in ("qk", "v", "mlp", "heads"):
        for mine, theirs in zip(getattr(kept.scores, name), getattr(measured.scores, name), strict=True):
            torch.testing.assert_close(mine, theirs.double(), rtol=0, atol=0)
    torch.testing.assert_close(kept.scores.embed, measured.scores.embed.double(), rtol=0, atol=0)


def other_weights(given: LoadedModel) -> LoadedModel:
    other = dense()
    with torch.no_grad():
        other.model.blocks[0].mlp.fc1.weight[0, 0] += 1e-3
    return replace(given, model=other.model)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "l1"},
        {"seed": 1},
        {"budget": Budget(gmacs=JOB.budget.gmacs, images=9)},
        {"locks": HeadLocks(remove=((0, 1),))},
        {"method": "taylor", "options": (("images", 8),)},
    ],
)
def test_whatever_a_survey_depends_on_makes_another_key(change: dict[str, Any]) -> None:
    run = prepare(JOB, dense=dense())
    other = prepare(replace(JOB, **change), dense=dense())
    images = other.job.budget.images if other.job.budget else 0
    assert survey_key(run, 8) != survey_key(other, images)
    assert survey_key(run, 8) != survey_key(prepare(JOB, dense=other_weights(run.dense)), 8)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": Budget(params=1000, images=8)},
        {"align": 1},
        {"limit": 3},
        {"compensate": True},
        {"locks": HeadLocks(keep=((0, 1),))},
        {"skip_unread": True},
    ],
)
def test_what_plays_no_part_leaves_the_key(change: dict[str, Any]) -> None:
    run, other = prepare(JOB, dense=dense()), prepare(replace(JOB, **change), dense=dense())
    assert survey_key(run, 8) == survey_key(other, 8)
    assert SurveyJob.of(JOB) == SurveyJob.of(replace(JOB, **change))


def test_a_changed_image_makes_another_key(tmp_path: Path) -> None:
    from PIL import Image

    from analysis.data.scenes import CLASSES

    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (64, 64), (20 * number, 40, 90)).save(tmp_path / name / f"{number}.png")
    job = replace(JOB, data=str(tmp_path), limit=None)
    before = survey_key(prepare(job, dense=dense()), 8)
    assert survey_key(prepare(job, dense=dense()), 8) == before
    for name in CLASSES:
        for number in range(4):
            Image.new("RGB", (64, 64), (20 * number, 40, 91)).save(tmp_path / name / f"{number}.png")
    assert survey_key(prepare(job, dense=dense()), 8) != before


def test_a_damaged_or_later_file_is_measured_anew() -> None:
    run = prepare(JOB, dense=dense())
    surveyed(run)
    (file,) = (cache.cache_folder() / "surveys").iterdir()
    good = json.loads(file.read_text())
    for text in ("{", "[]", json.dumps(good | {"version": 2}), json.dumps(good | {"scores": {"qk": "x"}})):
        file.write_text(text)
        assert kept_survey(run) is None
    again = Telling()
    surveyed(prepare(JOB, again, dense()))
    assert "Measuring sensitivities" in again.done and kept_survey(run) is not None


def test_a_file_of_fewer_blocks_is_measured_anew() -> None:
    run = prepare(JOB, dense=dense())
    surveyed(run)
    (file,) = (cache.cache_folder() / "surveys").iterdir()
    good = json.loads(file.read_text())
    for place in (good["sensitivities"]["blocks"], good["scores"]["qk"]):
        kept = place.pop()
        file.write_text(json.dumps(good))
        assert kept_survey(run) is None
        place.append(kept)
    file.write_text(json.dumps(good))
    assert kept_survey(run) is not None


def test_a_cache_that_cannot_be_written_is_noted_and_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "file" / "below"))
    told = Telling()
    outcome = prune(JOB, dense=dense(), progress=told)
    assert outcome.allocation is not None
    assert any("could not be kept" in note for note in told.notes)


def test_only_so_many_results_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 3)
    for number in range(5):
        cache.keep("kind", str(number), "{}")
    assert len(list((cache.cache_folder() / "kind").iterdir())) == 3
    assert cache.kept_file("kind", "4").exists()


def test_the_command_is_the_same_job_and_finds_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    job = SurveyJob("demo", "demo", "l2", images=2, removed=((0, 1),))
    words = shlex.split(job.command())[3:]
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["reused"], first["images"], len(first["blocks"])) == (False, 2, 6)
    assert main([*words, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["reused"] and second["key"] == first["key"] and second["blocks"] == first["blocks"]
    assert run_survey(job).reused
    assert SurveyJob.from_json(job.to_json()) == job
    assert main(words) == 0 and "blocks" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "ablation"}, "cannot narrow a single block"),
        ({"method": "magic"}, "there is no method 'magic'"),
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"options": (("gamma", 1),)}, "has no option 'gamma'"),
    ],
)
def test_impossible_surveys_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SurveyJob("demo", "demo", "l2"), **change)
