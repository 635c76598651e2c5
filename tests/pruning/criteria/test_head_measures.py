from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attention.capture import capture
from analysis.data.scenes import CLASSES
from analysis.heads import loss
from analysis.heads import statistics as head_statistics
from analysis.heads.graph import SIMILARITIES, similarities
from analysis.models.load import load
from analysis.models.preprocess import Preprocess
from analysis.vit import ViT
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.criteria.head_graph import GraphOptions, rank_heads
from pruning.criteria.head_measures import HEAD_MEASURES, HeadReading, ask_heads, read_heads, weights_id
from pruning.criteria.snp import SnpOptions, snp
from pruning.files import save_json
from pruning.jobs import registry
from pruning.jobs.heads import HeadsJob, open_reading, run_heads
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import launch, process
from tests.support.models import SHORTER, TINY, VARIANTS, batches, random_images, random_vit

NEED_LABELS = {"taylor": loss.taylor, "ablation": loss.ablation, "integrated": loss.integrated_gradients}


def in_a_row(values) -> list[float]:
    return [float(value) for block in values for value in block]


def data(model: ViT, count: int = 5, size: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(random_images(model.arch, count), size)


# ---- the measures


def test_every_measure_says_what_it_is() -> None:
    for name, measure in HEAD_MEASURES.items():
        ways = [way for way in (measure.gather, measure.graph, measure.ask) if way is not None]
        assert len(ways) == 1 and measure.important in (-1, 0, 1), name
        assert measure.title and measure.explanation.endswith(".") and measure.explanation.count(". ") == 0
        assert measure.needs_labels == (name in NEED_LABELS)


def test_one_pass_gives_what_each_gives_by_itself(variant: ViT) -> None:
    found = read_heads(variant, data(variant))
    expected = {
        "snp": in_a_row(snp(variant, data(variant), SnpOptions()).heads),
        "gohsp": in_a_row(rank_heads(variant, data(variant), GraphOptions())),
    }
    for name, read in (
        ("confidence", head_statistics.confidence),
        ("entropy", head_statistics.entropy),
        ("distance", head_statistics.attended_distance),
        ("prefix", head_statistics.prefix_mass),
    ):
        with capture(variant) as record:  # all images at once
            blocks = [read(block, variant.arch).mean(0) for block in record(random_images(variant.arch, 5))]
        expected[name] = in_a_row(blocks)
    assert list(found.values) == [name for name in HEAD_MEASURES if name not in NEED_LABELS]
    for name, values in found.values.items():
        assert values == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    for kind in SIMILARITIES:
        for got, graph in zip(found.graphs(kind), similarities(variant, data(variant), kind), strict=True):
            torch.testing.assert_close(got, graph)
    assert found.counts == tuple(widths.heads for widths in variant.arch.blocks) and found.images == 5


@pytest.mark.parametrize("name", NEED_LABELS)
def test_the_loss_is_asked_by_the_same_functions(name: str, tiny: ViT) -> None:
    assert ask_heads(tiny, name, data(tiny)) == pytest.approx(in_a_row(NEED_LABELS[name](tiny, data(tiny))))


def test_the_loss_is_not_asked_for_what_does_not_need_it(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="snp does not ask the loss: read_heads has it"):
        ask_heads(tiny, "snp", data(tiny))
    with pytest.raises(ValueError, match="heads are read on images, got none"):
        read_heads(tiny, [])


def test_reading_holds_no_images_and_leaves_the_model_alone(tiny: ViT) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    tiny.train()
    seen: list[weakref.ref[torch.Tensor]] = []

    def stream() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(4):
            assert all(old() is None for old in seen[:-1])
            images = random_images(TINY, count=2, seed=number)
            seen.append(weakref.ref(images))
            yield images, torch.tensor([1, 2])
            del images

    read_heads(tiny, stream())
    assert len(seen) == 4 and all(module.training for module in tiny.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_importance_is_high_where_a_head_should_stay(tiny: ViT) -> None:
    found = read_heads(tiny, data(tiny))
    for name, values in found.values.items():
        sign = HEAD_MEASURES[name].important or 1
        assert found.importance(name) == tuple(sign * value for value in values)
    assert found.importance("gohsp") == found.values["gohsp"]  # central heads stay
    assert found.importance("confidence") == found.values["confidence"]
    assert found.importance("entropy") == found.values["entropy"]


def test_a_reading_belongs_to_its_model(tiny: ViT) -> None:
    other = random_vit(TINY, seed=3)
    assert weights_id(tiny) == weights_id(random_vit(TINY)) == read_heads(tiny, data(tiny)).model
    assert weights_id(other) != weights_id(tiny) != weights_id(random_vit(VARIANTS["distilled"]))


def test_every_bit_of_every_weight_counts_and_nothing_else(tiny: ViT) -> None:
    """A sum over weights would round as the machine does, and not see two of them exchanged."""
    known = weights_id(tiny)
    bias = tiny.blocks[1].mlp.fc1.bias
    with torch.no_grad():
        bias[:2] = bias[:2].flip(0)
        assert weights_id(tiny) != known
        bias[:2] = bias[:2].flip(0)
        assert weights_id(tiny) == known
        weight = tiny.get_parameter("head.weight")
        weight.data = weight.T.contiguous().T  # lies in memory otherwise
        assert not weight.is_contiguous() and weights_id(tiny) == known
        bias[3] = torch.nextafter(bias[3], torch.tensor(torch.inf))
        assert weights_id(tiny) != known


def test_a_reading_survives_json(tiny: ViT, tmp_path: Path) -> None:
    found = read_heads(tiny, data(tiny))
    save_json(found, tmp_path / "heads.json")
    again = HeadReading.read(tmp_path / "heads.json")
    assert (again.counts, again.images, again.model) == (found.counts, found.images, found.model)
    assert again.values == found.values
    for kind in SIMILARITIES:
        torch.testing.assert_close(again.alike[kind], found.alike[kind], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"values": {"snp": [1.0]}}, ": `values.snp` must have a value for each of the 6 heads"),
        ({"alike": {"attention": [[0.0]]}}, ": `alike.attention` must be between 6 heads"),
        ({"counts": 3}, ": `counts` must be a list, got a whole number"),
        ({"images": None}, ": `images` must be a whole number, got null"),
        (None, " is not JSON: Expecting value"),
    ],
)
def test_a_damaged_reading_is_a_sentence(
    change: dict[str, object] | None, sentence: str, tiny: ViT, tmp_path: Path
) -> None:
    text = read_heads(tiny, data(tiny)).to_json()
    text = "[" if change is None else json.dumps(json.loads(text) | change)
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(ValueError, match=rf"heads\.json{sentence}"):
        open_reading(tmp_path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        open_reading(tmp_path / "elsewhere")


# ---- the job


def test_a_job_comes_back_and_says_its_command() -> None:
    job = HeadsJob("deit_tiny", "some images", weights="w.safetensors", images=16, seed=2)
    assert registry.unpack(registry.pack(job)) == ("heads", job)
    assert job.command() == (
        "python -m pruning heads --model deit_tiny --weights w.safetensors --data 'some images' "
        "--images 16 --seed 2"
    )
    with pytest.raises(ValueError, match="measured on at least 1 image, got 0"):
        HeadsJob("demo", "demo", images=0)
    with pytest.raises(ValueError, match="`model` must be text, got a whole number"):
        HeadsJob.from_json('{"model": 1}')


@pytest.fixture(scope="module", params=["plain", "no head"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model for the demo's images, with a classifier and without."""
    classes = 10 if request.param == "plain" else 0
    arch = replace(TINY, image_size=(64, 64), patch_size=(16, 16), num_classes=classes)
    preprocess = Preprocess((64, 64), labels=CLASSES if classes else ())
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return write_bundle(folder, random_vit(arch), preprocess, name="tiny", report={})


def test_a_run_leaves_a_reading(bundle: Path, tmp_path: Path) -> None:
    job = HeadsJob(str(bundle), "demo", images=6)
    folder, lock = launch._create(job, tmp_path, 1)
    lock.close()
    done = process.execute(folder)
    found, model = open_reading(folder), load(str(bundle)).model
    assert (done.state, done.bundle, runs.report(done)) == ("done", None, None)
    assert found.model == weights_id(model) and found.images == 6
    assert set(found.values) == set(HEAD_MEASURES)
    with pytest.raises(ValueError, match=r"is done: its result is in .*heads\.json"):
        launch.resume(folder)


def test_it_can_be_cancelled_on_the_way(bundle: Path) -> None:
    said: list[tuple[str, float]] = []

    class Stop(Monitor):
        def __call__(self, what: str, share: float) -> None:
            said.append((what, share))
            if share > 0:
                raise Cancelled

    with pytest.raises(Cancelled):
        run_heads(HeadsJob(str(bundle), "demo", images=8), Stop())
    assert [what for what, _ in said] == ["Reading attention"] * 2 and 0 < said[-1][1] < 1


def test_the_command_line_measures_too(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["heads", "--model", str(bundle), "--data", "demo", "--images", "4"]
    assert main([*words, "--json", "--out", str(tmp_path / "found.json")]) == 0
    said = json.loads(capsys.readouterr().out)
    written = HeadReading.read(tmp_path / "found.json")
    assert said["images"] == written.images == 4
    for name, rows in said["values"].items():
        assert in_a_row(rows) == pytest.approx(written.values[name], rel=1e-5)
        assert [len(row) for row in rows] == list(written.counts)
    assert main(words) == 0
    assert "confidence" in capsys.readouterr().out
    assert main([*words[:-1], "0"]) == 2
    assert "at least 1 image" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_an_error(tiny: ViT, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        save_json(read_heads(tiny, data(tiny)), tmp_path / "nowhere" / "heads.json")


@pytest.mark.parametrize("name", ["merging, distilled", "without halves"])
def test_heads_are_read_where_tokens_merge_and_where_blocks_have_none(name: str) -> None:
    model = random_vit(SHORTER[name])
    reading = read_heads(model, data(model))
    asked = [ask_heads(model, measure, data(model)) for measure in NEED_LABELS]
    heads = sum(reading.counts)
    assert reading.counts == tuple(widths.heads for widths in model.arch.blocks) and heads >= 5
    for values in (*reading.values.values(), *asked):
        assert len(values) == heads and all(math.isfinite(value) for value in values)
    for weights in reading.alike.values():
        assert weights.shape == (heads, heads) and bool(weights.isfinite().all())
    assert [len(graph) for graph in reading.graphs("cka")] == list(reading.counts)
