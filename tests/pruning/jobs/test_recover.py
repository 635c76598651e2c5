"""Recovery learns from the teacher by its formulas, as a job, behind pruning and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.data.batches import batches
from analysis.data.open import open_training
from analysis.data.scenes import CLASSES
from analysis.measure.evaluate import Evaluation, Fidelity, Likeness, evaluate, wilson
from analysis.measure.paired import paired_change
from analysis.models.load import LoadedModel, load
from analysis.models.preprocess import Preprocess
from analysis.vit import BlockWidths, ViT
from pruning.bundle.report import Report
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.cut.ratios import Ratios
from pruning.files import OutputError
from pruning.gohsp.method import STRUCTURING
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob, run_recover, unless_harmed
from pruning.jobs.run_prune import prune
from pruning.progress import Cancelled
from pruning.runs import folder as runs
from pruning.runs import metrics, process
from pruning.runs.monitor import RunMonitor
from pruning.training.checkpoint import CHECKPOINTS
from pruning.training.distillation import (
    Distillation,
    Recovery,
    Stream,
    recover,
    require_pair,
    soft_loss,
    stream_loss,
)
from pruning.training.train import TRAINING
from tests.support.models import SHORTER, TINY, random_images, random_vit
from tests.support.training import PREPROCESS, Recorder, image_set, write_images

SMALL = replace(TINY, blocks=(BlockWidths(3, 5, 7, 20), BlockWidths(2, 9, 4, 11)))
SHORT = Recovery(epochs=1, batch=10, augment="none", workers=0)
FEW = tuple({"epochs": 1, "batch": 20, "workers": 0, "lr": 1e-3}.items())


def loaded(model: ViT, name: str, preprocess: Preprocess = PREPROCESS) -> LoadedModel:
    return LoadedModel(model, preprocess, name, "test")


def bundle(folder: Path, model: ViT) -> str:
    write_bundle(folder, model, PREPROCESS, name=folder.name, report={})
    return str(folder)


def tokens_behind(model: ViT, images: Tensor) -> list[Tensor]:
    x, found = model.embed(images), []
    for block in model.blocks:
        x, _ = block(x)
        found.append(x)
    return found


@torch.no_grad()
def slow_parts(student: ViT, teacher: ViT, images: Tensor, targets: Tensor, heat: float) -> list[float]:
    """Distillation, labels and features, image by image and token by token."""
    softened, hard, streams = [], [], []
    for i in range(len(images)):
        one = images[i : i + 1]
        s, t = student(one)[0], teacher(one)[0]
        p, q = ((x / heat).exp() / (x / heat).exp().sum() for x in (t, s))
        softened.append(float(heat**2 * sum(p[c] * (p[c] / q[c]).log() for c in range(len(p)))))
        odds = (s.exp() / s.exp().sum()).log()
        hard.append(float(-odds[targets[i]] if targets.ndim == 1 else -(targets[i] * odds).sum()))
        if student.arch.embed_dim == teacher.arch.embed_dim:
            for a, b in zip(tokens_behind(student, one), tokens_behind(teacher, one), strict=True):
                for pair in zip(a[0], b[0], strict=True):
                    x, y = ((z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() for z in pair)
                    streams.append(float((x - y).square().mean()))
    return [sum(values) / len(values) if values else 0.0 for values in (softened, hard, streams)]


@pytest.mark.parametrize("soft_targets", [False, True])
def test_loss(variant: ViT, soft_targets: bool) -> None:
    if not variant.arch.num_classes:
        pytest.skip("no classes to learn")
    student, images = random_vit(variant.arch, seed=7), random_images(variant.arch, 3)
    targets = torch.rand(3, 10).softmax(-1) if soft_targets else torch.tensor([1, 9, 1])
    options = Recovery(temperature=3.0, soft=0.7, features=0.4)
    objective = Distillation(variant, student, options)
    loss, figures = objective.loss(student, images, targets)
    parts = slow_parts(student, variant, images, targets, 3.0)
    got = [float(figures[name]) for name in ("distillation", "labels", "features")]
    assert got == pytest.approx(parts, rel=1e-4)
    expected = 0.7 * parts[0] + 0.3 * parts[1] + 0.4 * parts[2]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4) and min(parts) > 0
    assert not any(block._forward_hooks for model in (student, variant) for block in model.blocks)


@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_a_student_that_skips_unread_tokens_is_compared_on_those_it_computes(distilled: bool) -> None:
    """A model that is its teacher but for the tokens it skips has nothing to learn; another one has."""
    arch = replace(TINY, distilled=distilled)
    teacher, images = random_vit(arch), random_images(arch, 3)
    student = ViT(replace(arch, skip_unread=True)).eval()
    student.load_state_dict(teacher.state_dict())
    targets = torch.tensor([1, 9, 1])
    objective = Distillation(teacher, student, Recovery())
    assert objective.matches
    _, figures = objective.loss(student, images, targets)
    assert float(figures["features"]) == pytest.approx(0, abs=1e-5)
    other = random_vit(student.arch, seed=7)
    _, figures = objective.loss(other, images, targets)
    streams = []
    read = student.arch.computed_tokens
    for index, (a, b) in enumerate(
        zip(tokens_behind(other, images), tokens_behind(teacher, images), strict=True)
    ):
        both = [z[:, :read] if index == arch.depth - 1 else z for z in (a, b)]
        for x, y in zip(*(z.flatten(0, 1) for z in both), strict=True):
            u, v = ((z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() for z in (x, y))
            streams.append((index, float((u - v).square().mean())))
    means = [
        sum(v for i, v in streams if i == k) / sum(i == k for i, _ in streams) for k in range(arch.depth)
    ]
    assert float(figures["features"]) == pytest.approx(sum(means) / len(means), rel=1e-4)


def without_changes(model: ViT) -> ViT:
    """The same model, whose attention adds nothing to the stream: tokens are only merged."""
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.attn.proj.parameters():
                parameter.zero_()
    return model


@pytest.mark.parametrize(
    "more", [{}, {"distilled": True, "registers": 1}, {"pool": "avg", "class_token": False}]
)
@torch.no_grad()
def test_a_student_that_only_merges_has_the_means_of_its_teacher(more: dict[str, Any]) -> None:
    """Means of means: where merging is all that the student does differently, there is nothing to learn."""
    blocks = tuple(BlockWidths(3, 8, 8, 0, merge) for merge in (4, 3, 2, 0))
    arch = replace(TINY, image_size=(32, 32), blocks=blocks, **more)
    student = without_changes(random_vit(arch))
    dense = tuple(replace(block, merge=0) for block in blocks)
    teacher = ViT(replace(arch, blocks=dense)).eval()
    teacher.load_state_dict(student.state_dict())
    images, targets = random_images(arch, 3), torch.tensor([1, 9, 1])
    objective = Distillation(teacher, student, Recovery())
    _, figures = objective.loss(student, images, targets)
    assert float(figures["features"]) == pytest.approx(0, abs=1e-9)
    _, figures = Distillation(student, teacher, Recovery()).loss(teacher, images, targets)
    assert float(figures["features"]) > 0.01  # patches that merged differ from their mean
    objective = Distillation(student, student, Recovery())  # as when a model that merges is structured
    _, figures = objective.loss(student, images, targets)
    assert float(figures["features"]) == pytest.approx(0, abs=1e-9)
    if "pool" not in more:
        lean = ViT(replace(arch, skip_unread=True)).eval()
        lean.load_state_dict(student.state_dict())
        _, figures = Distillation(teacher, lean, Recovery()).loss(lean, images, targets)
        assert float(figures["features"]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", list(SHORTER))
@torch.no_grad()
def test_merged_tokens_are_compared_with_the_mean_of_the_teachers(name: str) -> None:
    arch = SHORTER[name]
    if not arch.num_classes:
        pytest.skip("no classes to learn")
    student, images = random_vit(arch, seed=7), random_images(arch, 3)
    full = tuple(BlockWidths(3, 8, 8, 32) for _ in arch.blocks)
    teacher = random_vit(replace(arch, blocks=full))
    _, figures = Distillation(teacher, student, Recovery()).loss(student, images, torch.tensor([1, 9, 1]))
    means = []
    for image in images:
        x, sizes, y = student.embed(image[None]), None, teacher.embed(image[None])
        groups = [[place] for place in range(arch.num_tokens)]
        for block, other in zip(student.blocks, teacher.blocks, strict=True):
            if block.merge is not None:
                added, read = block.attn(block.norm1(x), sizes)
                places = block.merge.places(x + block.ls1(added), read)[0].tolist()
                joined = [
                    [i for i, place in enumerate(places) if place == new] for new in range(max(places) + 1)
                ]
                groups = [[patch for i in one for patch in groups[i]] for one in joined]
            (x, sizes), (y, _) = block(x, sizes), other(y)
            losses = []
            for token, patches in zip(x[0], groups, strict=True):
                mean = sum(y[0, patch] for patch in patches) / len(patches)
                u, v = ((z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() for z in (token, mean))
                losses.append(float((u - v).square().mean()))
            means.append(sum(losses) / len(losses))
    assert float(figures["features"]) == pytest.approx(sum(means) / len(means), rel=1e-4)


def test_streams_of_another_shape_are_left_out(images: Tensor) -> None:
    teacher, student = random_vit(TINY), random_vit(replace(TINY, embed_dim=16))
    objective = Distillation(teacher, student, Recovery())
    loss, figures = objective.loss(student, images, torch.zeros(4, dtype=torch.int64))
    assert "features" not in figures
    expected = 0.9 * figures["distillation"] + 0.1 * figures["labels"]
    torch.testing.assert_close(loss.detach(), expected)


@torch.no_grad()
def test_a_teacher_without_a_share_is_not_asked(images: Tensor) -> None:
    class Silent(ViT):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("asked")

    targets, student = torch.tensor([1, 2, 3, 4]), random_vit(TINY)
    objective = Distillation(Silent(TINY), student, Recovery(soft=0.0, features=0.0))
    loss, figures = objective.loss(student, images, targets)
    assert not figures
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(student(images), targets))


@torch.no_grad()
def test_a_copy_has_nothing_to_learn(tiny: ViT, images: Tensor) -> None:
    logits = tiny(images)
    tokens = [Stream(x, x.shape[1]) for x in tokens_behind(tiny, images)]
    assert float(soft_loss(logits, logits, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(stream_loss(tokens, tokens)) == 0
    shifted = [replace(stream, values=3 * stream.values + 1) for stream in tokens]
    assert float(stream_loss(tokens, shifted)) == pytest.approx(0, abs=1e-5)  # scale and mean do not count


def test_recovery_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    teacher, student = random_vit(TINY), random_vit(TINY)
    with torch.no_grad():
        for parameter in student.blocks.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    before, untouched = random_vit(TINY), {n: p.clone() for n, p in student.state_dict().items()}
    images, monitor = image_set(tmp_path), Recorder()
    options = replace(SHORT, epochs=15, lr=3e-3, soft=1.0)
    result = recover(loaded(student, "small"), loaded(teacher, "large"), images, images, options, 0, monitor)
    (x, _), *_ = batches(images, PREPROCESS, 40)
    with torch.no_grad():
        far, near = (float(soft_loss(m(x), teacher(x), 1.0)) for m in (student, result.model))
    assert near < far / 2
    for a, b in zip(teacher.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b) and a.grad is None and a.requires_grad
    assert all(torch.equal(p, untouched[n]) for n, p in student.state_dict().items())
    assert not teacher.training and result.name == "small" and not result.model.training
    assert monitor.curve("features") and monitor.curve("top1") and not monitor.notes


def test_another_width_is_said(tmp_path: Path) -> None:
    monitor, images = Recorder(), image_set(tmp_path)
    student = loaded(random_vit(replace(TINY, embed_dim=16)), "small")
    recover(student, loaded(random_vit(TINY), "large"), images, None, SHORT, 0, monitor)
    assert monitor.notes == ["teacher and student differ in width or depth: matched on their logits only"]


# ---- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: replace(m, model=random_vit(replace(TINY, num_classes=7))),
            r"^teacher and student must have the same classes, but large has 10 and small has 7$",
        ),
        (
            lambda m: replace(m, preprocess=replace(PREPROCESS, labels=tuple("abcdefghji"))),
            r"^teacher and student must have the same classes in the same order, but class 8 is 'i' in large "
            r"and 'j' in small$",
        ),
        (
            lambda m: replace(m, preprocess=replace(PREPROCESS, mean=(0.4, 0.5, 0.5))),
            r"^teacher and student must see images alike, but large and small differ in image size or norm",
        ),
    ],
)
def test_other_teacher(change: Callable[[LoadedModel], LoadedModel], message: str) -> None:
    teacher = loaded(random_vit(TINY), "large", replace(PREPROCESS, labels=tuple("abcdefghij")))
    require_pair(loaded(random_vit(SMALL), "small"), teacher)
    with pytest.raises(ValueError, match=message):
        require_pair(change(loaded(random_vit(SMALL), "small")), teacher)


def test_bad_settings() -> None:
    with pytest.raises(
        ValueError, match=r"^features cannot be matched in a compiled model: set features=0 or"
    ):
        Recovery(compile=True)
    with pytest.raises(
        ValueError, match=r"^recovery has no option 'heat'; it has epochs, images, batch, base_lr,"
    ):
        RecoverJob("a", "b", "demo", options=(("heat", 2),))
    with pytest.raises(ValueError, match=r"^temperature must be a number from 0.1 to 100.0, got 0$"):
        Job("demo", "demo", recovery=(("temperature", 0),))
    with pytest.raises(ValueError, match=r"^limit must be at least 1 image, got 0$"):
        RecoverJob("a", "b", "demo", limit=0)
    with pytest.raises(ValueError, match=r"^`options` is missing$"):
        RecoverJob.from_json('{"model": "demo"}')


# ---- which images


def test_training_images(tmp_path: Path) -> None:
    first, second = (str(write_images(tmp_path / name, 6, seed=i)) for i, name in enumerate("ab"))
    train, test = open_training(first, PREPROCESS, 10)
    names = [{images.item_name(i) for i in range(len(images))} for images in (train, test)]
    assert len(train) == len(test) == 30 and not names[0] & names[1]
    train, test = open_training(first, PREPROCESS, 10, second)
    assert len(train) == len(test) == 60
    with pytest.raises(ValueError, match=r"^test and training images must differ, got 'x' for both"):
        open_training("x", PREPROCESS, 10, "x")
    known = replace(PREPROCESS, labels=CLASSES)
    train, test = open_training("demo", known, 10, first)
    assert train.item_name(0) == "circle/train-00000" and len(train) == 20_000 and len(test) == 60
    train, test = open_training("demo", known, 10)
    assert len(train) == 20_000 and test.item_name(1) == "triangle/test-00001"


# ---- jobs


@pytest.mark.parametrize(
    "job",
    [
        RecoverJob("demo", "a b", "cifar10:x"),
        RecoverJob("m", "t", "d", "w", "v", "e", (("epochs", 3), ("augment", "light")), 7, 5),
        Job("demo", "demo", recovery=()),
        Job("demo", "demo", recovery=(("epochs", 2), ("compile", False))),
    ],
)
def test_json(job: RecoverJob | Job) -> None:
    assert type(job).from_json(job.to_json()) == job
    assert Job.from_json(Job("demo", "demo").to_json()).recovery is None


@pytest.fixture
def three(tmp_path: Path) -> tuple[str, str, str]:
    """A dense and a pruned bundle, and a folder of images."""
    small, large = bundle(tmp_path / "small", random_vit(SMALL)), bundle(tmp_path / "large", random_vit(TINY))
    return small, large, str(write_images(tmp_path / "set"))


def test_run_recover(three: tuple[str, str, str]) -> None:
    small, large, data = three
    job = RecoverJob(small, large, data, options=FEW, limit=15)
    (Path(small) / "report.json").write_text('{"version": 3, "method": "l1", "ratios": {"v": 0.5}}')
    outcome = run_recover(job)
    _, test = open_training(data, PREPROCESS, 10)
    test = test.sample(15)
    report = outcome.report()
    models = {"before": load(large).model, "pruned": load(small).model, "after": outcome.pruned.model}
    for when, model in models.items():
        assert report[f"top1_{when}"] == evaluate(model, batches(test, PREPROCESS)).top1
    assert (
        report["fine_tuned"] is True
        and report["images"] == 15
        and report["params_after"] < report["params_before"]
    )
    assert report["top1_change"] == asdict(paired_change(outcome.before, outcome.after))
    assert report["top1_change_by_recovery"] == asdict(paired_change(outcome.start, outcome.after))
    assert Report.from_data(json.loads(json.dumps(report))).top1_change is not None
    assert json.loads(json.dumps(report))["recovery"]["lr"] == 1e-3 and outcome.plan is None
    assert outcome.pruned.model.arch == SMALL
    assert report["pruned_by"] == "l1" and report["ratios"]["v"] == 0.5


def test_recover_resumes(three: tuple[str, str, str], tmp_path: Path) -> None:
    job = RecoverJob(*three, options=(*FEW, ("images", 20), ("epochs", 4)))
    with pytest.raises(Cancelled):
        run_recover(job, Recorder(tmp_path, cancel_at=9))
    resumed, whole = run_recover(job, Recorder(tmp_path)), run_recover(job)
    for a, b in zip(resumed.pruned.model.parameters(), whole.pruned.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gohsp_resumes(three: tuple[str, str, str], tmp_path: Path) -> None:
    """Ended in its first training, and again in its second."""
    _, large, data = three
    options = tuple({"epochs": 2, "batch": 10, "updates": 2, "images": 8}.items())
    job = Job(large, data, "gohsp", ratios=Ratios(mlp=0.5), options=options, recovery=(*FEW, ("batch", 10)))

    class Ending(Recorder):
        end = ""

        def __call__(self, what: str, share: float) -> None:
            if what == self.end and share >= 0.5:
                raise Cancelled

    for phase in (STRUCTURING, TRAINING):
        ending = Ending(tmp_path)
        ending.end = phase
        with pytest.raises(Cancelled):
            prune(job, progress=ending)
    again = Recorder(tmp_path)
    resumed, whole = prune(job, progress=again), prune(job)
    assert again.notes == ["going on after 4 steps", "going on after 1 steps"]
    for a, b in zip(resumed.pruned.model.parameters(), whole.pruned.model.parameters(), strict=True):
        assert torch.equal(a, b)


def command(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    code = main(arguments.split())
    out, err = capsys.readouterr()
    assert code == 0, err
    report: dict[str, float] = json.loads(out)
    return report


def test_command(three: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large, data = three
    job = RecoverJob(small, large, data, options=FEW)
    words = job.command(str(tmp_path / "out")).removeprefix("python -m pruning ")
    report = command(f"{words} --json", capsys)
    assert report["job"] == json.loads(job.to_json())
    recovered, expected = load(str(tmp_path / "out")), run_recover(job).pruned
    for a, b in zip(recovered.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "after fine-tuning" in (tmp_path / "out" / "README.md").read_text()
    assert main([*words.split()[:-1], str(tmp_path / "no"), "--epochs", "0"]) == 2
    assert "epochs must be a whole number from 1 to 10000, got 0" in capsys.readouterr().err


def test_prune_and_recover(
    three: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, large, data = three
    words = f"prune --model {large} --data {data} --method l1 --mlp .5 --json"
    plain = command(f"{words} --out {tmp_path / 'plain'}", capsys)
    options = (
        "--recover --epochs 1 --recover-option batch=20 --recover-option workers=0 --recover-option lr=1e-3"
    )
    report = command(f"{words} {options} --out {tmp_path / 'both'}", capsys)
    assert (plain["fine_tuned"], report["fine_tuned"]) == (False, True) and "top1_pruned" not in plain
    assert report["images"] == 20
    # the same as pruning, then recovering what was pruned
    job = RecoverJob(str(tmp_path / "plain"), large, data, options=FEW)
    expected = run_recover(job)
    assert [report[f"top1_{when}"] for when in ("before", "pruned", "after")] == [
        e.top1 for e in (expected.before, expected.start, expected.after)
    ]
    both = load(str(tmp_path / "both")).model
    for a, b in zip(both.parameters(), expected.pruned.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert main([*words.split(), "--epochs", "1", "--out", str(tmp_path / "no")]) == 2
    assert "--epochs and --recover-option need --recover" in capsys.readouterr().err


def outcome(right: int, total: int = 100) -> Evaluation:
    """An evaluation in which the first `right` images are predicted correctly."""
    predictions = tuple(int(i >= right) for i in range(total))
    zeros = (0,) * total
    return Evaluation(
        right / total, 1.0, *wilson(right, total), total, 0.0, predictions, zeros, (1.0,) * total
    )


@pytest.mark.parametrize(("before", "after", "kept"), [(90, 70, True), (90, 88, False), (70, 90, False)])
def test_a_model_that_recovery_made_worse_is_not_taken(
    before: int, after: int, kept: bool, tiny: ViT
) -> None:
    """Two of 100 images fewer may be chance; twenty are not."""
    monitor = Recorder()
    start, recovered = (loaded(tiny, "start"), outcome(before)), (loaded(tiny, "end"), outcome(after))
    assert unless_harmed(start, recovered, monitor) is (start if kept else recovered)
    said = (
        f"recovery made the model worse ({before}.0% before, {after}.0% after), so the model from before it "
        "is kept: choose a lower learning rate (base_lr), or more images"
    )
    assert monitor.notes == ([said] if kept else [])


def alike(pooled: float, tokens: float, half: float = 0.01) -> Evaluation:
    """An evaluation of features, with means of their cosines and half the width of the intervals."""
    first, second = (Likeness(mean, mean - half, mean + half, mean) for mean in (pooled, tokens))
    return replace(outcome(50), fidelity=Fidelity(first, second, 1.0))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (alike(0.99, 0.99), alike(0.9, 0.99), True),
        (alike(0.99, 0.99), alike(0.98, 0.99), False),  # which may be chance
        (alike(0.99, 0.8), alike(0.9, 0.99), False),  # the tokens have gained
        (alike(0.8, 0.8), alike(0.9, 0.9), False),
    ],
)
def test_features_that_recovery_made_less_like_are_not_taken(
    before: Evaluation, after: Evaluation, kept: bool, tiny: ViT
) -> None:
    monitor = Recorder()
    start, recovered = (loaded(tiny, "start"), before), (loaded(tiny, "end"), after)
    assert unless_harmed(start, recovered, monitor) is (start if kept else recovered)
    said = (
        "recovery made the features less like the dense model's (cosine 0.990 before, 0.900 after), so the "
    )
    assert [note.startswith(said) for note in monitor.notes] == [True] * kept


def test_what_is_kept_is_what_is_reported(
    three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both commands: the model and its accuracy are those from before, and count as not fine-tuned."""
    small, large, data = three
    for module in ("recover", "run_prune"):
        monkeypatch.setattr(f"pruning.jobs.{module}.unless_harmed", lambda start, recovered, monitor: start)
    recovered = run_recover(RecoverJob(small, large, data, options=FEW))
    pruned = prune(Job(large, data, "l1", ratios=Ratios(mlp=0.5), recovery=FEW))
    plain = prune(Job(large, data, "l1", ratios=Ratios(mlp=0.5)))
    for got, wanted in (
        (recovered.pruned.model, load(small).model),
        (pruned.pruned.model, plain.pruned.model),
    ):
        for name, value in got.state_dict().items():
            assert torch.equal(value, wanted.state_dict()[name]), name
    for result in (recovered, pruned):
        report = result.report()
        assert result.after is result.start and report["fine_tuned"] is False
        assert report["top1_after"] == report["top1_pruned"]


def test_prune_passes_the_monitor_on(three: tuple[str, str, str]) -> None:
    _, large, data = three
    job = Job(large, data, method="l1", ratios=replace(Job("", "").ratios, mlp=0.5), recovery=FEW)
    monitor = Recorder()
    outcome = prune(job, progress=monitor)
    assert monitor.curve("loss") and monitor.curve("top1")[-1][1] == outcome.after.top1
    assert outcome.start is not None and outcome.report()["top1_pruned"] == outcome.start.top1


# ---- in a run folder


def carry_out(folder: Path, job: Job | RecoverJob) -> metrics.Metrics:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / runs.JOB).write_text(registry.pack(job))
    assert process.execute(folder).state == "done"
    return metrics.read_metrics(folder)


def where(found: metrics.Metrics, name: str) -> dict[str, list[int]]:
    """Steps of a curve in each phase."""
    return {what: steps for what in found.phases if (steps := found.curve(name, what)[0])}


def test_each_training_of_a_run_has_curves_of_its_own(three: tuple[str, str, str], tmp_path: Path) -> None:
    """GOHSP trains twice: towards the structure, and to recover; 20 images in two steps each."""
    _, large, data = three
    options = tuple({"epochs": 1, "batch": 10, "updates": 2, "images": 8}.items())
    job = Job(large, data, "gohsp", ratios=Ratios(mlp=0.5), options=options, recovery=(*FEW, ("batch", 10)))
    found = carry_out(tmp_path / "runs" / "one", job)
    assert where(found, "loss") == {STRUCTURING: [2], TRAINING: [2]}
    assert where(found, "top1") == {STRUCTURING: [2], TRAINING: [0, 2]}
    assert where(found, "top1_dense") == {TRAINING: [0]}
    assert where(found, "primal_residual") == {STRUCTURING: [2]}
    report = runs.report(runs.read(tmp_path / "runs" / "one"))
    assert report is not None and report.fine_tuned is True and report.job is not None
    assert report.job["model"] == "large" and str(tmp_path) not in report.to_json()
    assert not (tmp_path / "runs" / "one" / CHECKPOINTS).exists()  # nothing is left to go on with
    boards = [path.name for path in (tmp_path / "runs" / "one" / "tensorboard").iterdir()]
    assert sorted(boards) == ["training", "training-towards-the-structure"]


@pytest.mark.parametrize(("step", "name"), [(1, "loss"), (1, "top1"), (2, "top1")])
def test_a_resumed_run_files_its_curves_as_an_unbroken_one(
    step: int, name: str, three: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before a figure is written, among them the top-1 that is owed after an epoch."""
    job = RecoverJob(*three, options=(*FEW, ("epochs", 3), ("checkpoint_seconds", 0)))
    whole = carry_out(tmp_path / "runs" / "whole", job)
    given = RunMonitor.metrics

    def ending(self: RunMonitor, now: int, **values: float) -> None:
        if now == step and name in values:
            raise KeyboardInterrupt
        given(self, now, **values)

    folder = tmp_path / "runs" / "killed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunMonitor, "metrics", ending)
        carry_out(folder, job)
    found = carry_out(folder, job)
    assert where(found, "top1") == where(whole, "top1") == {TRAINING: [0, 1, 2, 3]}
    assert where(found, "top1_dense") == {TRAINING: [0]}
    assert found.curve("top1") == whole.curve("top1")


def test_a_training_on_a_disk_that_gets_full(
    three: tuple[str, str, str], tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    """Not a step is lost: the last checkpoint goes where an older one was."""
    disk = small_disk("2m")
    job = RecoverJob(*three, options=(*FEW, ("epochs", 10), ("checkpoint_seconds", 0)))
    whole = run_recover(job).pruned.model
    folder = disk / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(registry.pack(job))
    given, done = RunMonitor.metrics, []

    def filling(self: RunMonitor, step: int, **values: float) -> None:
        done.append(step)
        if step == 7 and not (disk / "filler").exists():
            with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(512))
        given(self, step, **values)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OutputError, match="the disk is full"):
        patch.setattr(RunMonitor, "metrics", filling)
        process.execute(folder)
    assert runs.read(folder).state == "failed"
    lines = (folder / metrics.METRICS).read_bytes()
    assert lines.endswith(b"\n")
    (disk / "filler").unlink()
    assert process.execute(folder).state == "done"
    assert f"going on after {done[-1]} steps" in runs.log(folder)
    for a, b in zip(load(str(folder / runs.BUNDLE)).model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
