"""Models side by side as data, and the report made of them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.attention.maps import attention_maps
from analysis.attention.pictures import Style, overlay, sheet
from analysis.data.open import open_data
from analysis.measure.evaluate import evaluate
from analysis.models.load import LoadedModel
from analysis.models.preprocess import Preprocess
from analysis.models.reading import Named
from analysis.vit import Architecture
from pruning import wording
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.cut.plan import BlockPlan, Plan
from pruning.cut.ratios import Ratios
from pruning.cut.shorter import with_architecture, with_merges
from pruning.cut.surgery import cut
from pruning.jobs import evaluations
from pruning.jobs.bench import BenchJob, Timings
from pruning.jobs.prune_job import Job
from pruning.report.charts import trade_off
from pruning.report.comparison import (
    ComparedModel,
    Comparison,
    Trade,
    aligned,
    newest_timings,
    of_bundle,
    trade_front,
)
from pruning.report.html import is_report, make_report, without_paths
from pruning.runs import folder as runs
from pruning.runs import launch, process
from pruning.tracked import tracked
from tests.support.models import TINY, random_vit

BAD = "<img src=x onerror=alert(1)> $x$ & co"  # what a class, a bundle or a file may be called
CLASSES = (BAD, "dog", "emu")
EVERY = tuple(range(3))


def photos(folder: Path, arch: Architecture, count: int = 4) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (3, count, 40, 60, 3), dtype=np.uint8)
    for name, images in zip(("0", "1", "2"), pixels, strict=True):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder


def comparison(tmp_path: Path, **change: Any) -> Comparison:
    """A tiny model beside one that lost a head of its first block, and one of which no plan is known."""
    arch = replace(TINY, num_classes=3, **change)
    preprocess = Preprocess(arch.image_size, labels=CLASSES)
    dense = random_vit(arch)
    keep = Plan.keep_all(arch)
    block = BlockPlan((0, 2), keep.blocks[0].qk[:2], keep.blocks[0].v[:2], keep.blocks[0].mlp)
    plan = replace(keep, blocks=(block, keep.blocks[1]))
    small = cut(dense, plan)
    models = {"dense": dense, "small": small, BAD: small}
    loaded = {name: LoadedModel(model, preprocess, name, "") for name, model in models.items()}
    test = replace(
        open_data(photos(tmp_path / "photos", arch), Preprocess(arch.image_size), 3), classes=CLASSES
    )
    results = {
        name: evaluate(one.model, tracked(test, one, "", lambda *_: None)) for name, one in loaded.items()
    }
    first, *others = [
        ComparedModel(name, f"title of {name}", Named(name), one.model.arch, results[name])
        for name, one in loaded.items()
    ]
    second = replace(others[0], plan=plan, when="before fine-tuning", command="prune --data /home/me/x.zip")
    trades = (Trade("dense", first.cost.gmacs, first.result, dense=True), Trade.of(second))
    times = {1: ((3.0, 4.0) * 15, (1.5, 2.0) * 15, (2.0, 4.8) * 15)}
    timings = Timings.of_times(BenchJob(tuple((name, None) for name in models), (1,)), times, 1)
    return Comparison(
        first, (second, others[1]), test, BAD, trades, timings, lambda source: loaded[source.model]
    )


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_model_that_merges_stands_beside_its_dense_one(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    small, dense = found.others[0], found.dense
    loaded = found.load(small.source)
    merging = with_architecture(loaded.model, with_merges(loaded.model.arch, (2, 1)))
    beside = replace(small, arch=merging.arch)
    assert beside.kept(dense.arch) == small.kept(dense.arch) == ((0, 2), (0, 1, 2))
    load = lambda source: found.load(source) if source == dense.source else replace(loaded, model=merging)
    page = make_report(replace(found, others=(beside,), trades=found.trades[:1], timings=None, load=load))
    assert "attention maps of small" in page and "rollout of small" in page
    assert "MLP neurons, input tokens" in page and "Input tokens" in Reader(page).text
    tokens = dense.arch.num_tokens
    for given, widths in zip((tokens, tokens - 2), beside.arch.blocks, strict=True):
        assert f"{widths.heads} × ({widths.qk}, {widths.v}), {widths.mlp}, {given}</td>" in page
    assert "input tokens" not in make_report(replace(found, trades=found.trades[:1], timings=None)).lower()


@pytest.mark.parametrize("change", [{}, {"distilled": True}, {"registers": 2, "pool": "avg"}])
def test_report_stands_alone_and_says_what_was_measured(tmp_path: Path, change: dict[str, Any]) -> None:
    found = comparison(tmp_path, **change)
    shares: list[float] = []
    page = make_report(found, 2, lambda _, share: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1
    read = Reader(page)
    assert len(page) < 5e6
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "link", "iframe", "object"}
    for tag, attributes in read.tags:
        assert attributes.get("src", "data:image/").startswith("data:image/"), attributes
        if tag == "img":
            assert attributes["alt"]
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)|@import", page)
    small = found.others[0]
    for text in (
        f"{100 * small.result.top1:.1f}",
        f"{small.cost.params:,}",
        "before fine-tuning",
        "2.00× (2.00 to 2.00), faster",
        "1.12× (0.83 to 1.50), not distinguishable",
        "over 30 alternating rounds",
        wording.paired_points(small.top1_change(found.dense)),
        wording.by_chance(small.top1_change(found.dense)),
        "prune --data x.zip",
        "title of small",
        "2 × (8, 8), 32",
        "it is not known which heads were kept",
    ):
        assert text in read.text, text
    assert read.text.count(BAD) > 3 and "<img src=x" not in page
    assert "/home/me" not in page and str(tmp_path) not in page


def test_report_of_no_such_image_is_refused(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    for image in (-1, 12):
        with pytest.raises(ValueError, match=f"12 test images, numbered from 0; got {image}"):
            make_report(found, image)


def test_charts_escape_names_and_are_the_same_again(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    trades = (*found.trades, replace(found.trades[1], name=BAD))
    first, second = (trade_off(trades, trade_front(trades), {BAD}) for _ in range(2))
    assert first == second and "<img" not in first and "&lt;img src=x" in first and "$x$" in first
    assert first.startswith("<svg") and "currentColor" in first and "url(http" not in first


def test_commands_lose_their_folders() -> None:
    command = "python -m pruning prune --model 'my models/vit one' --weights /a/b.pth --data cifar10:/c/d"
    assert without_paths(command) == (
        "python -m pruning prune --model 'vit one' --weights b.pth --data cifar10"
    )
    assert without_paths("prune --model hf-hub:timm/vit --qk 0.5") == "prune --model hf-hub:timm/vit --qk 0.5"


# ---- what is compared


def test_heads_stand_in_their_dense_places(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    dense, small, unknown = found.models
    assert small.kept(dense.arch) == ((0, 2), EVERY)
    assert unknown.kept(dense.arch) == (None, EVERY)
    told = replace(unknown, heads=((1, 2), EVERY))  # by a report, where a projection leaves no plan
    assert told.kept(dense.arch) == ((1, 2), EVERY)
    for others in (((1,), EVERY), ((1, 3), EVERY), (EVERY,)):  # of another model
        assert replace(unknown, heads=others).kept(dense.arch) == (None, EVERY)
    model = found.load(small.source)
    maps = attention_maps(model.model, model.preprocess(found.tested.image(0)))
    planes = aligned(maps, 0, small.kept(dense.arch), dense.arch)
    assert planes[0][1] is None
    for head, place in ((0, 0), (2, 1)):
        np.testing.assert_array_equal(planes[0][head], maps.blocks[0][place, 0])
    assert all(plane is None for plane in aligned(maps, 0, unknown.kept(dense.arch), dense.arch)[0])


def test_a_plan_for_another_model_is_not_believed(tmp_path: Path) -> None:
    small = comparison(tmp_path).others[0]
    fewer = replace(TINY, blocks=tuple(replace(block, heads=2) for block in TINY.blocks))
    for other in (fewer, replace(TINY, distilled=True), replace(TINY, image_size=(24, 16))):
        assert small.kept(other) == (None, None)
    assert small.kept(replace(TINY, blocks=TINY.blocks * 2)) == (None,) * 4


def test_report_beside_a_teacher_of_another_depth(tmp_path: Path) -> None:
    """As after a recovery from a larger model: what cannot be laid side by side is left out."""
    found = comparison(tmp_path)
    deep = random_vit(replace(found.dense.arch, blocks=TINY.blocks * 2))
    loaded = LoadedModel(deep, Preprocess(TINY.image_size, labels=CLASSES), "deep", "")
    dense = replace(found.dense, arch=deep.arch, title="deep")
    load = lambda source: loaded if source[0] == "dense" else found.load(source)
    page = Reader(make_report(replace(found, dense=dense, load=load), 0))
    assert "it is not known which heads were kept" in page.text and "3 × (8, 8), 32" in page.text
    assert "Attention preservation: cosine" not in page.text


def test_sheet_leaves_removed_heads_blank() -> None:
    photo = Image.new("RGB", (30, 20), "white")
    values = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    image = sheet(photo, [[values, None], [None, values, values]], 100, 24)
    assert image.size == (2 * 26 - 2, 3 * 18 - 2)
    cell = overlay(photo.resize((24, 16)), values, Style())
    assert image.crop((0, 0, 24, 16)).convert("RGB").tobytes() == cell.tobytes()
    assert image.getpixel((5, 25)) == (0, 0, 0, 0) and image.getpixel((30, 5)) == (0, 0, 0, 0)


def test_sizes_on_disk_and_half_precision(tmp_path: Path) -> None:
    result = comparison(tmp_path).dense.result
    model, preprocess = random_vit(TINY), Preprocess(TINY.image_size)
    for half in (True, False):
        folder = tmp_path / f"bundle {half}"
        write_bundle(folder, model, preprocess, name="tiny", report={}, half=half)
        found = of_bundle(folder, result)
        assert found.file_bytes == (folder / "model.safetensors").stat().st_size
        assert (found.dtype, found.when, found.plan) == ("float16" if half else "float32", "", None)
    (folder / "report.json").write_text('{"method": "l1", "fine_tuned": true, "heads": [[0, 1], null]}')
    found = of_bundle(folder, result)
    assert (found.when, found.heads) == ("after fine-tuning", ((0, 1), None))
    assert replace(found, source=Named("vit_tiny_patch16_224")).file_bytes is None
    weights = tmp_path / "w.pth"
    weights.write_bytes(bytes(17))
    assert replace(found, source=Named("vit_tiny_patch16_224", str(weights))).file_bytes == 17


def test_front_by_macs_and_by_time() -> None:
    result = lambda top1: replace(_EMPTY, top1=top1)
    trades = (
        Trade("dense", 1.0, result(0.9), 1.0, dense=True),
        Trade("slow", 0.5, result(0.8), 0.9),
        Trade("fast", 0.6, result(0.8), 2.0),
        Trade("not timed", 0.4, result(0.7)),
    )
    assert [trade.name for trade in trade_front(trades)] == ["not timed", "slow", "dense"]
    assert [trade.name for trade in trade_front(trades, "speedup")] == ["fast", "dense"]


def test_newest_timings_are_of_all_the_models() -> None:
    first, second = (Timings(((n, None), ("d", None)), {}, 1, 1, "") for n in "ab")
    assert newest_timings([first, second], [Named("d")]) is first
    assert newest_timings([first, second], [Named("b"), Named("d")]) is second
    assert newest_timings([first, second], [Named("a"), Named("b")]) is None


_EMPTY = evaluate(torch.nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 2]))])


# ---- the command


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Finished runs of a tiny model on photos."""
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    arch = replace(TINY, num_classes=3)
    model = write_bundle(
        tmp_path / "tiny", random_vit(arch), Preprocess(arch.image_size), name="tiny", report={}
    )
    data = photos(tmp_path / "photos", arch, 6)
    return [
        carry_out(Job(str(model), str(data), "l1", ratios=ratios))
        for ratios in (Ratios(mlp=0.5), Ratios(heads=0.4))
    ]


def carry_out(job: Any) -> Path:
    folder, lock = launch._create(job, runs.runs_root(), 1)
    lock.close()
    return process.execute(folder).folder


def test_command_writes_the_report(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", *map(str, two_runs), "--out", str(out), "--image", "1", "--json"]) == 0
    page = Reader(out.read_text(encoding="utf-8"))
    assert "run 1" in page.text and "L1 magnitude, heads 40 %" in page.text
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    capsys.readouterr()
    (two_runs[1] / evaluations.EVALUATIONS).unlink()
    for words, message in (
        ([str(tmp_path), "--out", str(out)], "is no run folder"),
        ([*map(str, two_runs), "--out", str(out)], "only runs of one dense model on the same images"),
        ([str(two_runs[0]), "--out", str(tmp_path / "no" / "r.html")], "choose an existing folder"),
        ([str(two_runs[0]), "--out", str(out), "--image", "99"], "numbered from 0; got 99"),
    ):
        assert main(["report", *words]) == 2
        assert message in capsys.readouterr().err


def test_command_refuses_what_is_not_done_and_too_many(
    two_runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, lock = launch._create(Job("demo", "demo", ratios=Ratios(qk=0.5)), runs.runs_root(), 1)
    lock.close()
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 2
    assert "is interrupted: only a run that has produced a model" in capsys.readouterr().err
    assert main(["report", *[f"{two_runs[0]}"] * 5, "--out", str(tmp_path / "r.html")]) == 0  # one run
    monkeypatch.setattr("pruning.cli.report.MAX_COMPARED", 1)
    capsys.readouterr()
    assert main(["report", *map(str, two_runs), "--out", str(tmp_path / "r.html")]) == 2
    assert "at most 1 runs fit side by side, got 2" in capsys.readouterr().err


def test_a_report_is_recognised_and_may_be_made_anew(two_runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = ["report", str(two_runs[0]), "--out", str(out)]
    assert main(words) == 0 and is_report(out)
    assert main(words) == 0
    weights = two_runs[0] / "bundle" / "model.safetensors"
    before = weights.read_bytes()
    assert not is_report(weights)
    assert main([*words[:-1], str(weights)]) == 2 and weights.read_bytes() == before


def test_a_damaged_run_beside_those_of_a_report_is_left_out(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = two_runs[1] / "bundle" / "plan.json"
    plan.unlink()
    plan.mkdir()
    assert main(["report", str(two_runs[0]), "--out", str(tmp_path / "r.html")]) == 0
    assert f"{two_runs[1].name} is left out of the trade-off" in capsys.readouterr().err
    assert main(["report", str(two_runs[1]), "--out", str(tmp_path / "r.html")]) == 2
    assert "plan.json cannot be read: it is a folder" in capsys.readouterr().err
