from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import torch
from conftest import TINY, random_vit

from analysis.models import LoadedModel
from analysis.preprocess import Preprocess
from analysis.scenes import CLASSES
from pruning.__main__ import main
from pruning.criteria import SnpOptions
from pruning.job import Job, image_sets, prune, score
from pruning.selection import Ratios

JOB = Job(
    model="demo",
    data="demo",
    ratios=Ratios(qk=0.5, mlp=(0.25, 0.5)),
    options=(("gamma", 2), ("images", 8)),
    limit=20,
)
ARCH = replace(TINY, image_size=(64, 64), patch_size=(16, 16))


def dense() -> LoadedModel:
    return LoadedModel(random_vit(ARCH), Preprocess((64, 64), labels=CLASSES), "demo", "made for a test")


def test_survives_json_and_hashes() -> None:
    for job in (JOB, Job("m", "d", preset="snp-deit-tiny", weights="w", calibration="c", align=8, seed=3)):
        assert Job.from_json(job.to_json()) == job
        assert hash(Job.from_json(job.to_json())) == hash(job)


def test_options_reach_the_method() -> None:
    assert JOB.method_options == SnpOptions(gamma=2, images=8)
    assert replace(JOB, method="l2", options=()).method_options is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "there is no method 'magic'; there are snp, l1, l2, random, spectral"),
        ({"options": (("beta", 1),)}, "method snp has no option 'beta'; it has gamma, images"),
        ({"method": "l1"}, "method l1 has no option 'gamma'; it has none"),
        ({"options": (("gamma", -5),)}, "gamma must be a whole number from 0 to 1024"),
        ({"preset": "snp-deit-tiny"}, "a preset or ratios, not both"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_impossible_jobs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(JOB, **change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratios": {}, "options": []}'])
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a PruneScope job"):
        Job.from_json(text)


def test_the_command_shown_is_the_same_job(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    jobs = []

    def stop(job: Job, **_: object) -> None:
        jobs.append(job)
        raise ValueError("far enough")

    monkeypatch.setattr("pruning.__main__.prune", stop)
    others = Job(
        "a b", "c", "random", weights="w.pth", preset="snp-deit-tiny", calibration="x.zip", align=8, seed=3
    )
    for job in (JOB, others):
        assert main(shlex.split(job.command(str(tmp_path / "out")))[3:]) == 2
    assert jobs == [JOB, others]


def test_calibration_and_test_images_are_disjoint() -> None:
    calibration, test = image_sets(JOB, dense())
    assert len(test) == 20
    assert not {calibration.item_name(i) for i in range(len(calibration))} & {
        test.item_name(i) for i in range(len(test))
    }


def test_prune_end_to_end() -> None:
    told: list[tuple[str, float]] = []
    given = dense()
    outcome = prune(JOB, dense=given, progress=lambda what, share: told.append((what, share)))
    assert outcome.pruned.model.arch == JOB.target(ARCH)
    assert outcome.pruned.preprocess == given.preprocess
    assert outcome.before.labels == outcome.after.labels
    report = outcome.report()
    assert report["images"] == 20 and report["fine_tuned"] is False
    assert report["params_after"] == sum(p.numel() for p in outcome.pruned.model.parameters())
    assert report["top1_low_after"] <= report["top1_after"] <= report["top1_high_after"]
    for stage in ("Scoring", "Evaluating the dense model", "Evaluating the pruned model"):
        shares = [share for what, share in told if what == stage]
        assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    again = prune(JOB, dense=given, before=outcome.before)
    assert again.plan == outcome.plan
    assert again.after.predictions == outcome.after.predictions


def test_a_projection_runs_as_a_method_and_has_no_plan() -> None:
    ratios = Ratios(qk=0.5, v=0.25, mlp=0.25)
    job = Job("demo", "demo", "spectral", ratios=ratios, options=(("images", 8),), limit=20)
    told: list[str] = []
    outcome = prune(job, dense=dense(), progress=lambda what, share: told.append(what))
    assert outcome.plan is None
    assert outcome.pruned.model.arch == job.target(ARCH)
    assert outcome.report()["params_after"] == sum(p.numel() for p in outcome.pruned.model.parameters())
    assert "Projecting" in told
    with pytest.raises(ValueError, match="spectral gives no scores"):
        score(job, dense(), image_sets(job, dense())[0])


def test_nothing_to_remove_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to remove: set at least one ratio above 0"):
        prune(replace(JOB, ratios=Ratios()), dense=dense())


def test_a_random_job_depends_on_its_own_seed() -> None:
    job = Job("demo", "demo", "random", ratios=Ratios(mlp=0.5), limit=4)
    plans = [prune(replace(job, options=(("seed", s),)), dense=dense()).plan for s in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert torch.get_default_dtype() == torch.float32
