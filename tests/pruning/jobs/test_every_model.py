"""Every kind of model that the project writes is read, pruned, measured and recovered like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.attention.capture import capture
from analysis.attention.relevance import gradients, readout
from analysis.attention.trace import trace
from analysis.gates import without_heads
from analysis.heads.graph import SIMILARITIES
from analysis.measure.cost import cost
from analysis.models.load import LoadedModel, load
from analysis.threads import threads
from analysis.vit import ViT
from pruning.budget.allocate import Budget
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.criteria.head_measures import HEAD_MEASURES
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios
from pruning.cut.shorter import with_merges, without_halves
from pruning.jobs.heads import measure_heads
from pruning.jobs.inputs import prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, preview, prune
from pruning.methods import METHODS
from pruning.training.distillation import Recovery, recover
from tests.support.models import TINY, random_images, random_vit
from tests.support.training import PREPROCESS, write_images

DENSE = {
    "plain": replace(TINY, num_classes=3),
    "rich": replace(TINY, num_classes=3, distilled=True, registers=1, layer_scale=True),
}
EVERYTHING = Ratios(qk=0.25, v=0.25, mlp=0.25, heads=0.3, embed=0.25)
RATIOS = {
    "ablation": Ratios(heads=0.3),
    "head-graph": Ratios(heads=0.3),
    "gohsp": replace(EVERYTHING, embed=0.0),
    "spectral": replace(EVERYTHING, heads=0.0),
    "tokens": Ratios(),
    "vbp": Ratios(mlp=0.25),
    "corp": Ratios(qk=0.25, mlp=0.25),
}
FEW: dict[str, tuple[tuple[str, Any], ...]] = {
    "spectral": (("images", 8),),
    "gohsp": (("epochs", 0),),
    "vbp": (("images", 8), ("scope", "block")),  # global says itself how many neurons a block keeps
    "corp": (("images", 8),),
}
TRAINED = (("train_images", 8), ("batch", 4))
RECOVERY = (("epochs", 1), ("batch", 8), ("workers", 0))
LEAN: dict[str, Any] = {"skip_unread": True}
# How each model was written: from which dense model, and by which job.
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    # what VBP and CORP write is of no other kind than what a criterion writes
    **{method: ("plain", {"method": method}) for method in METHODS if method not in ("vbp", "corp")},
    "gohsp, trained": ("plain", {"method": "gohsp", "options": TRAINED}),
    "without a narrower stream": ("plain", {"method": "spectral", "ratios": Ratios(qk=0.5, v=0.5, mlp=0.5)}),
    "uneven heads": ("plain", {"method": "l2", "ratios": replace(EVERYTHING, heads=(0.4, 0.0))}),
    "aligned": ("plain", {"method": "l2", "align": 2}),
    "heads first": ("plain", {"method": "spectral", "heads_by": "l2", "ratios": EVERYTHING}),
    "compensated": ("rich", {"method": "taylor", "compensate": True}),
    "locked": ("plain", {"method": "l1", "locks": HeadLocks(remove=((0, 1),))}),
    "recovered": ("plain", {"method": "l1", "recovery": RECOVERY}),
    "lean": ("plain", {"method": "snp", **LEAN}),
    "lean, rich": ("rich", {"method": "taylor", **LEAN}),
    "lean, gohsp": ("rich", {"method": "gohsp", **LEAN}),
    "lean, rotated": ("rich", {"method": "spectral", **LEAN}),
    "lean, budgeted": ("plain", {"method": "l2", "ratios": Ratios(), "align": 2, **LEAN}),
    "lean, compensated": ("plain", {"method": "l2", "compensate": True, **LEAN}),
    "merging": ("rich", {"method": "spectral", "tokens": (2, 0)}),
    "lean, recovered": ("plain", {"method": "l1", "recovery": RECOVERY, **LEAN}),
}
SPECIAL = [name for name in WRITTEN if name not in METHODS]
LEANS = [name for name in WRITTEN if name.startswith("lean")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On more, products of matrices this small take several times as long."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), each=16, classes=3)


def dense(name: str) -> LoadedModel:
    return LoadedModel(random_vit(DENSE[name]), replace(PREPROCESS, labels=("0", "1", "2")), name, "a test")


def job(method: str, photos: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "ratios": RATIOS.get(method, EVERYTHING),
        "options": FEW.get(method, ()),
        "limit": 8,
        "tokens": 1 if method == "tokens" else None,
    }
    return Job("a model", str(photos), method, **(settings | changes))


@pytest.fixture(scope="module")
def written(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """Models by their names in WRITTEN, each made and written once, and read back from its bundle."""
    folder, known = tmp_path_factory.mktemp("written"), {}

    def read(name: str) -> LoadedModel:
        if name not in known:
            start, changes = WRITTEN[name]
            changes = dict(changes)
            if name == "lean, budgeted":
                asked = 0.8 * cost(replace(DENSE[start], **LEAN)).gmacs
                changes["budget"] = Budget(gmacs=asked, images=8, tokens=False, depth=False)
            given = job(changes.pop("method"), photos, **changes)
            small = prune(given, dense=dense(start)).pruned
            place = folder / name.replace(", ", "-").replace(" ", "-")
            write_bundle(place, small.model, small.preprocess, name=name, report={})
            known[name] = load(str(place))
            assert known[name].model.arch == small.model.arch
        return known[name]

    return read


def all_tokens(model: ViT) -> ViT:
    """The same weights in a model whose last block computes every token."""
    whole = ViT(replace(model.arch, skip_unread=False)).eval()
    whole.load_state_dict(model.state_dict())
    return whole


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_models_are_of_every_kind(written: Callable[[str], LoadedModel]) -> None:
    """Otherwise the tests below would prove less than they say."""
    arches = {name: written(name).model.arch for name in WRITTEN}
    for name, arch in arches.items():
        assert arch.skip_unread == (name in LEANS), name
        assert arch != DENSE[WRITTEN[name][0]]
    assert {arch.norm for arch in arches.values()} == {"layer", "rms"}
    assert arches["lean, rotated"].norm == "rms"
    assert len(set(arches["lean, budgeted"].blocks)) > 1


# VBP and CORP cut as any criterion does, and merging changes no weight: on some kinds of model, to save time.
ALIKE, KINDS = ("vbp", "corp", "tokens"), ("tokens", "uneven heads", "lean, rich", "merging")
AGAIN = [(name, method) for name in WRITTEN for method in METHODS if method not in ALIKE or name in KINDS]


@pytest.mark.parametrize(("name", "method"), AGAIN)
def test_each_is_pruned_once_more_by_every_method(
    name: str, method: str, written: Callable[[str], LoadedModel], photos: Path
) -> None:
    given = written(name)
    again = job(method, photos, **({"tokens": 2} if method == name == "tokens" else {}))
    run = prepare(again, dense=given)
    before = {key: value.clone() for key, value in given.model.state_dict().items()}
    target = again.target(given.model.arch)
    scores = run.method.scores(run.task)
    made = make_smaller(run, target, scores).model
    images = random_images(given.model.arch)
    assert made.arch == target and target != given.model.arch
    assert made.arch.skip_unread == given.model.arch.skip_unread
    got = made(images)
    assert bool(got.isfinite().all())
    if run.method.chooses:
        close(preview(run, target, scores)(images), got)  # cut equals masked
    elif name in ("uneven heads", "lean, rich"):  # others preview by making, which takes as long again
        assert bool(preview(run, target)(images).isfinite().all())
    if name in LEANS:  # what is unread changes neither the logits nor what is chosen
        close(got, all_tokens(made)(images))
    if name in LEANS and (run.method.chooses or name == "lean, rich"):
        whole = prepare(again, dense=replace(given, model=all_tokens(given.model)))
        close(make_smaller(whole, replace(target, skip_unread=False)).model(images), got)
    for key, value in given.model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", SPECIAL)
def test_heads_are_measured(name: str, written: Callable[[str], LoadedModel], photos: Path) -> None:
    given = written(name)
    images = prepare(job("l1", photos), dense=given).test
    found = measure_heads(given, images)
    heads = sum(widths.heads for widths in given.model.arch.blocks)
    assert set(found.values) == set(HEAD_MEASURES) and set(found.alike) == set(SIMILARITIES)
    for measure, values in found.values.items():
        assert len(values) == heads and bool(torch.tensor(values).isfinite().all()), measure
    if name in LEANS:
        expected = measure_heads(replace(given, model=all_tokens(given.model)), images)
        for measure, values in expected.values.items():
            assert found.values[measure] == pytest.approx(values, rel=1e-3, abs=1e-5), measure
        for kind, alike in expected.alike.items():
            close(found.alike[kind], alike)


@pytest.mark.parametrize("name", SPECIAL)
def test_attention_and_gradients_are_read(name: str, written: Callable[[str], LoadedModel]) -> None:
    model = written(name).model
    images, tokens = random_images(model.arch), model.arch.num_tokens
    with capture(model) as record:
        blocks = list(record(images))
        close(record.logits, model(images))
    for block, widths in zip(blocks, model.arch.blocks, strict=True):
        assert block.patch_attention.shape == (len(images), widths.heads, tokens, tokens)
        close(block.patch_attention.sum(-1), torch.ones(len(images), widths.heads, tokens))
    found, read = gradients(model, images[0], 1), readout(model.arch)[None]
    last = [(model.arch.depth - 1, 0)]
    got = [found.relevance(read), found.rollout(read), without_heads(model, last)(images)]
    got += [trace(model, images[0]).attention(index) for index in range(model.arch.depth)]
    assert all(bool(part.isfinite().all()) for part in got)
    if name in LEANS:
        whole = all_tokens(model)
        found = gradients(whole, images[0], 1)
        expected = [found.relevance(read), found.rollout(read), without_heads(whole, last)(images)]
        expected += [trace(whole, images[0]).attention(index) for index in range(model.arch.depth)]
        for one, other in zip(got, expected, strict=True):
            close(one, other)


@pytest.mark.parametrize(
    ("method", "name"), [*(("taylor", name) for name in SPECIAL), ("spectral", "lean, rotated")]
)
def test_budgets_are_solved(
    method: str, name: str, written: Callable[[str], LoadedModel], photos: Path
) -> None:
    given = written(name)
    asked = 0.9 * cost(given.model.arch).gmacs
    again = job(method, photos, ratios=Ratios(), budget=Budget(gmacs=asked, images=8))
    small = prune(again, dense=given).pruned.model
    assert cost(small.arch).gmacs <= asked and small.arch.skip_unread == given.model.arch.skip_unread


@pytest.mark.parametrize("name", ["uneven heads", "lean, rich", "lean, rotated"])
def test_it_teaches_what_is_cut_from_it_and_learns_from_the_dense_model(
    name: str, written: Callable[[str], LoadedModel], photos: Path
) -> None:
    given = written(name)
    again = job("l2", photos, recovery=RECOVERY)
    outcome = prune(again, dense=given)
    assert outcome.start is not None
    assert outcome.pruned.model.arch == again.target(given.model.arch)
    teacher = dense(WRITTEN[name][0])
    images = prepare(again, dense=given).calibration
    learned = recover(given, teacher, images, None, Recovery(epochs=1, batch=8))
    assert learned.model.arch == given.model.arch


@pytest.mark.parametrize("name", ["lean, rich", "lean, rotated"])
def test_gohsp_trains_it(name: str, written: Callable[[str], LoadedModel], photos: Path) -> None:
    given, again = written(name), job("gohsp", photos, options=TRAINED)
    made = make_smaller(prepare(again, dense=given))
    assert made.model.arch == again.target(given.model.arch) and made.model.arch.skip_unread


COMMANDS = {
    "estimate": "--mlp 0.5",
    "evaluate": "--data D",
    "heads": "--data D --images 4",
    "survey": "--data D --method taylor --budget-images 4",
    "prune": "--data D --method taylor --heads-by ablation --heads 0.3 --qk 0.25 --out OUT",
    "bench": "--against M --rounds 2",
    "recover": "--teacher M --data D --epochs 1 --recover-option batch=8 --out OUT",
    "export": "--format bundle --out OUT",
}


@pytest.mark.parametrize("name", ["lean", "lean, rotated"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_it(
    command: str,
    name: str,
    written: Callable[[str], LoadedModel],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exports to ONNX and .pt2 of such a model are tested with the exporters."""
    model, out = written(name).name, tmp_path / "out"
    words = {"D": str(photos), "M": model, "OUT": str(out)}
    rest = [words.get(word, word) for word in COMMANDS[command].split()]
    assert main([command, "--model", model, *rest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    if out.exists():
        assert load(str(out)).model.arch.skip_unread


@pytest.mark.parametrize("method", ["spectral", "l2", "snp", "vbp", "tokens"])
def test_tokens_and_halves_go_with_a_method(method: str, photos: Path) -> None:
    """As a budget asks for them: the method works on what is left, and the result merges."""
    loaded = dense("rich")
    given = job(
        method, photos, tokens=None, ratios=replace(RATIOS.get(method, EVERYTHING), embed=0.0, heads=0.0)
    )
    run = prepare(given, dense=loaded)
    narrow = given.target(loaded.model.arch) if method != "tokens" else loaded.model.arch
    target = with_merges(without_halves(narrow, [(0, 1)]), (2, 0))
    target = with_merges(without_halves(target, [(1, 0)]), (2, 0))
    small = make_smaller(run, target).model
    assert small.arch == target and small.arch.merges
    assert small.blocks[0].mlp is None and small.blocks[1].attn is None
    images = random_images(small.arch)
    assert torch.isfinite(small(images)).all()
    rough = preview(run, target)
    assert rough.arch.merges and torch.isfinite(rough(images)).all()
