"""Models without a classifier: pruned, measured, budgeted and recovered for what their features are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from analysis.measure import KNN, NEIGHBOURS
from analysis.models.load import LoadedModel, load
from analysis.outputs import divergence, output
from analysis.threads import threads
from pruning.budget.allocate import Budget
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.criteria.head_measures import HEAD_MEASURES
from pruning.cut.ratios import Ratios
from pruning.evaluation import EvaluationImages, evaluate_model
from pruning.jobs.heads import measure_heads
from pruning.jobs.inputs import prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, prune
from pruning.jobs.survey import SurveyJob
from pruning.methods import METHODS
from pruning.progress import quiet
from pruning.training.distillation import Distillation, Recovery, recover, require_pair
from tests.support.bundles import isolated
from tests.support.models import TINY, random_images, random_vit
from tests.support.training import PREPROCESS, Recorder, write_images

HEADLESS = replace(TINY, num_classes=0)
RATIOS = {
    "ablation": Ratios(heads=0.3),
    "head-graph": Ratios(heads=0.3),
    "vbp": Ratios(mlp=0.25),
    "corp": Ratios(qk=0.25, mlp=0.25),
    "tokens": Ratios(),
    "spectral": Ratios(qk=0.25, v=0.25, mlp=0.25),
}
OPTIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "spectral": (("images", 8),),
    "vbp": (("images", 8), ("scope", "block")),
    "corp": (("images", 8),),
    "gohsp": (("train_images", 8), ("batch", 4)),
}
TRAINING = (("epochs", 1), ("batch", 8), ("workers", 0))
BUDGETED: dict[str, Any] = {"options": OPTIONS["spectral"], "ratios": Ratios(), "align": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), each=12, classes=3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "backbone"
    return write_bundle(place, random_vit(HEADLESS), PREPROCESS, name="backbone", report={})


def dense() -> LoadedModel:
    return LoadedModel(random_vit(HEADLESS), PREPROCESS, "backbone", "made for a test")


def job(photos: Path, method: str = "l2", **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "ratios": RATIOS.get(method, Ratios(qk=0.25, v=0.25, mlp=0.25, heads=0.3)),
        "options": OPTIONS.get(method, ()),
        "tokens": 1 if method == "tokens" else None,
        "limit": 8,
    }
    return Job("backbone", str(photos), method, **(settings | changes))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_a_backbone(method: str, photos: Path) -> None:
    found = prune(job(photos, method), dense=dense())
    assert found.after.measure == KNN and found.after.fidelity is not None
    assert found.after.fidelity.tokens is not None
    report = found.report()
    for name in ("cosine_pooled", "cosine_tokens", "cka", "knn_before", "knn_after", "knn_change"):
        assert name in report, name
    assert "top1_after" not in report


def test_the_measured_divergence_is_that_of_features(photos: Path) -> None:
    run = prepare(job(photos), dense=dense())
    small = random_vit(HEADLESS, seed=4)
    held = run.calibration.sample(len(run.calibration), 0)
    last = held.subset(range(len(held) - 4, len(held)))
    images = torch.stack([PREPROCESS(last.image(i)) for i in range(4)])
    with torch.no_grad():
        wanted = divergence(output(run.dense.model, images), output(small, images)).mean()
    assert run.task.divergence(small, 4) == pytest.approx(float(wanted), rel=1e-5)


def test_a_budget_keeps_the_patch_tokens_unless_told_otherwise(photos: Path) -> None:
    budget = Budget(gmacs=0.00007, images=8)
    whole = replace(job(photos, "spectral"), budget=budget, skip_unread=None, **BUDGETED)
    assert not whole.without_unread(HEADLESS).skip_unread and whole.without_unread(TINY).skip_unread
    assert "unread" not in whole.command()
    found = prune(whole, dense=dense())
    assert not found.pruned.model.arch.skip_unread and found.allocation is not None
    assert found.after.fidelity is not None and found.after.fidelity.tokens is not None
    lean = replace(whole, skip_unread=True, budget=replace(budget, gmacs=0.00006))
    assert prepare(lean, dense=dense()).task.dense.model.arch.skip_unread
    found = prune(lean, dense=dense())
    assert found.pruned.model.arch.skip_unread and found.after.fidelity is not None
    assert found.after.fidelity.tokens is None
    assert SurveyJob.of(lean, HEADLESS).skip_unread and not SurveyJob.of(whole, HEADLESS).skip_unread


def test_the_embedding_of_a_backbone_stays(photos: Path) -> None:
    with pytest.raises(ValueError, match="its embedding is what it gives, so it cannot be made narrower"):
        prune(job(photos, ratios=Ratios(embed=0.2)), dense=dense())


def test_a_gallery_is_matched_by_the_names_of_its_classes(photos: Path, tmp_path: Path) -> None:
    """The folders 1 and 2 have other numbers in a set that has no folder 0."""
    from analysis.data import open_data

    fewer = write_images(tmp_path / "fewer", each=4, classes=4, seed=7)
    for file in (fewer / "0").iterdir():
        file.unlink()
    (fewer / "0").rmdir()
    gallery, queries = open_data(photos, PREPROCESS, 0), open_data(fewer, PREPROCESS, 0)
    tested = EvaluationImages.of(queries, gallery)
    assert tested.gallery is not None and not tested.labelled  # no image of class 3 to be found
    names = [tested.gallery.classes[tested.gallery.label(i)] for i in range(len(gallery))]
    assert names == [gallery.classes[gallery.label(i)] for i in range(len(gallery))]
    assert tested.gallery.classes == ("1", "2", "3", "0")
    assert EvaluationImages.of(gallery, queries.subset(range(4))).labelled is False
    assert EvaluationImages.of(queries, queries).labelled


def test_without_labels_nearest_neighbours_are_compared(tmp_path: Path) -> None:
    one = write_images(tmp_path / "one", each=24, classes=1)
    found = prune(job(one), dense=dense())
    assert found.before.measure == found.after.measure == NEIGHBOURS
    assert found.before.top1 == 1 and "neighbours_after" in found.report()
    tested = prepare(job(one), dense=dense()).tested
    again = evaluate_model(dense(), tested, "", quiet, reference=found.before)
    assert again.top1 == 1 and again.predictions == found.before.predictions


def test_what_a_backbone_learns_from_its_teacher() -> None:
    """1 - cos of the pooled feature, and the tokens behind each block; labels play no part."""
    teacher, student = random_vit(HEADLESS), random_vit(HEADLESS, seed=3)
    images, options = random_images(HEADLESS), Recovery(features=0.4, soft=0.3)
    objective = Distillation(teacher, student, options)
    loss, figures = objective.loss(student, images, torch.full((4,), 999))
    pooled = 1 - F.cosine_similarity(student(images), teacher(images)).mean()
    streams: list[torch.Tensor] = []
    for model in (student, teacher):
        x = model.embed(images)
        for block in model.blocks:
            x, _ = block(x)
            streams.append(F.layer_norm(x, x.shape[-1:]))
    tokens = torch.stack([F.mse_loss(a, b) for a, b in zip(streams[:2], streams[2:], strict=True)]).mean()
    torch.testing.assert_close(loss, pooled + 0.4 * tokens)
    assert set(figures) == {"distillation", "features"}
    cosines = F.cosine_similarity(student(images), teacher(images))
    torch.testing.assert_close(objective.score(student, images, torch.zeros(4)), cosines)


def test_recovery_brings_features_back(photos: Path) -> None:
    from analysis.data import open_data

    teacher, images = dense(), open_data(photos, PREPROCESS, 0)
    torch.manual_seed(0)
    noisy = random_vit(HEADLESS)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    student, monitor = replace(teacher, model=noisy), Recorder()
    options = Recovery(epochs=3, batch=12, lr=3e-3, workers=0, augment="none", precision="float32", ema=0.0)
    recovered = recover(student, teacher, images, images, options, monitor=monitor)
    tested = EvaluationImages(images)
    before, after = (
        evaluate_model(one, tested, "", quiet, dense=teacher).fidelity for one in (student, recovered)
    )
    assert before is not None and after is not None
    assert after.pooled.mean > before.pooled.mean + 0.01
    assert monitor.curve("cosine")[-1][1] == pytest.approx(after.pooled.mean, abs=1e-4)
    with pytest.raises(ValueError, match="learns from its teacher alone: set soft above 0"):
        recover(student, teacher, images, images, replace(options, soft=0.0))
    narrow = replace(teacher, model=random_vit(replace(HEADLESS, embed_dim=16)))
    with pytest.raises(ValueError, match="must have features of one width, but backbone has 24 channels"):
        recover(narrow, teacher, images, images, options)


def test_all_head_measures_are_taken(photos: Path) -> None:
    images = prepare(job(photos), dense=dense()).calibration.subset(range(6))
    assert set(measure_heads(dense(), images).values) == set(HEAD_MEASURES)


def test_a_bundle_of_a_backbone_runs_by_itself(photos: Path, tmp_path: Path, backbone: Path) -> None:
    words = ["prune", "--model", str(backbone), "--data", str(photos), "--method", "l2", "--mlp", "0.25"]
    assert main([*words, "--tokens", "2,0", "--limit", "6", "--out", str(tmp_path / "small")]) == 0
    assert "k nearest neighbours" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    photo = next((photos / "0").iterdir())
    shown = isolated(tmp_path / "small", _EXAMPLE, str(photo))
    assert "pooled feature: 24 numbers" in shown and "7, each of 24 numbers" in shown
    small = load(str(tmp_path / "small"))
    assert small.task == "features" and small.model.arch.merges


_EXAMPLE = """
import sys
from pathlib import Path
sys.argv[0] = "example.py"
import example
assert example.main() == 0
pooled, tokens = example.features(example.read(Path(sys.argv[1])))
model = example.load_model()
assert pooled.shape == (24,) and tokens.shape == (7, 24)
"""


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_pruning_needs_no_class_folders(
    photos: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, photo in enumerate(sorted(photos.rglob("*.png"))[:16]):
        shutil.copy(photo, flat / f"{number}.png")
    words = ["prune", "--model", str(backbone), "--data", str(flat), "--method", "l2", "--mlp", "0.25"]
    found = printed(capsys, *words, "--out", str(tmp_path / "small"))
    assert found["images"] == 8 and {"cosine_pooled", "neighbours_after"} <= found.keys()
    assert "class folders" in refused(capsys, "evaluate", "--model", "demo", "--data", str(flat))


def test_the_command_line_measures_features(
    photos: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = write_images(tmp_path / "queries", each=4, classes=3, seed=5)
    words = ["--model", str(backbone), "--data", str(queries)]
    found = printed(capsys, "evaluate", *words)
    assert {"knn", "knn_low", "knn_high", "images"} <= found.keys() and "top1" not in found
    found = printed(capsys, "evaluate", *words, "--gallery", str(photos), "--against", str(backbone))
    assert found["cosine_pooled"] == pytest.approx(1) and found["cka"] == pytest.approx(1)
    assert found["knn_before"] == found["knn"]
    options = ["--recover-option", "batch=8", "--recover-option", "workers=0"]
    words = ["--model", str(backbone), "--teacher", str(backbone), "--data", str(photos)]
    found = printed(
        capsys, "recover", *words, "--epochs", "1", *options, "--limit", "6", "--out", str(tmp_path / "r")
    )
    assert found["cosine_pooled"] > 0.5 and "knn_after" in found
    words = ["--model", str(backbone), "--data", str(photos)]
    assert printed(capsys, "survey", *words, "--method", "l2", "--budget-images", "6")["blocks"]
    found = printed(capsys, "heads", *words, "--images", "4")
    assert set(found["values"]) == set(HEAD_MEASURES)


def test_a_gallery_belongs_to_features(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--model", "demo", "--data", "demo", "--gallery", str(photos)]
    assert main(words) == 2
    assert "--gallery and --against are about features" in capsys.readouterr().err


def test_made_smaller_by_taylor_as_its_scores_say(photos: Path) -> None:
    run = prepare(job(photos, "taylor", options=(("images", 6),)), dense=dense())
    scores = run.method.scores(run.task)
    assert scores is not None and all(bool((block >= 0).all()) for block in scores.mlp)
    small = make_smaller(run, scores=scores).model
    assert small.arch.blocks[0].mlp == 24


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_what_says_nothing_is_not_told_as_a_figure(
    photos: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without classes to vote on, and without a dense model, a model's neighbours are always its own."""
    one = write_images(tmp_path / "one", each=4, classes=1, seed=5)
    words = ["evaluate", "--model", str(backbone), "--data"]
    assert "one has images of one class only" in refused(capsys, *words, str(one))
    said = refused(capsys, *words, str(photos), "--gallery", str(one))
    assert "the gallery one has no images of class" in said and "--against" in said
    found = printed(capsys, *words, str(one), "--against", str(backbone))
    assert found["neighbours"] == 1 and found["cosine_pooled"] == pytest.approx(1)


def test_models_of_other_patches_are_compared_by_their_pooled_features(
    photos: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = random_vit(replace(HEADLESS, patch_size=(8, 12)))
    other = write_bundle(tmp_path / "other", wide, PREPROCESS, name="other", report={})
    found = printed(
        capsys, "evaluate", "--model", str(backbone), "--data", str(photos), "--against", str(other)
    )
    assert "cosine_pooled" in found and "cosine_tokens" not in found
    both = replace(dense(), model=random_vit(replace(HEADLESS, pool="both")), name="both")
    with pytest.raises(ValueError, match="backbone has 24 channels and both has 48"):
        require_pair(both, dense())
    with pytest.raises(ValueError, match=r"backbone has 0 and classes has 10: leave the .* --num-classes 0"):
        require_pair(replace(dense(), model=random_vit(TINY), name="classes"), dense())


def test_a_bundle_against_a_model_that_is_read_with_options(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=7).state_dict(), file)
    options = ["--image-size", "32", "--num-classes", "0"]
    words = ["--model", "test_vit", "--weights", str(file), "--data", str(photos), "--limit", "6", *options]
    small = tmp_path / "small"
    assert main(["prune", *words, "--method", "l2", "--mlp", "0.25", "--out", str(small)]) == 0
    capsys.readouterr()
    words = ["--model", str(small), "--against", "test_vit", "--against-weights", str(file), *options]
    assert "cosine_tokens" in printed(capsys, "evaluate", "--data", str(photos), *words)
    assert "leave those options out" in refused(
        capsys, "evaluate", "--model", str(small), "--data", str(photos), *options
    )


def test_estimate_refuses_what_prune_does(backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "estimate", "--model", str(backbone), "--embed", "0.5")
    assert "so it cannot be made narrower" in said
