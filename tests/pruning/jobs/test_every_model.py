"""Every kind of model that the project writes can be read and pruned once more, by every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attention.capture import capture
from analysis.data.batches import batches
from analysis.heads.graph import SIMILARITIES
from analysis.measure.cost import cost
from analysis.measure.evaluate import evaluate
from analysis.models.load import LoadedModel, load
from analysis.vit import Architecture, ViT
from pruning.budget.allocate import Budget
from pruning.bundle.write import write_bundle
from pruning.criteria.head_measures import HEAD_MEASURES, ask_heads, read_heads
from pruning.criteria.registry import CRITERIA
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios
from pruning.jobs.inputs import image_sets, prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, preview, prune
from pruning.methods import METHODS
from tests.support.models import TINY, random_images, random_vit
from tests.support.training import PREPROCESS, image_set

THIRD = Ratios(qk=0.3, v=0.3, mlp=0.3)
RECOVERY = (("epochs", 1), ("batch", 20), ("workers", 0))

# What makes each product from a dense model; every method's own result is one as well.
PRODUCTS: dict[str, dict[str, object]] = {
    "narrower stream": {"method": "snp", "ratios": replace(THIRD, embed=0.25)},
    "rotated": {"method": "spectral", "ratios": replace(THIRD, embed=0.25)},
    "compensated": {"method": "taylor", "ratios": THIRD, "compensate": True},
    "uneven heads": {"method": "l2", "ratios": replace(THIRD, heads=(1 / 3, 0.0))},
    "heads locked": {"method": "l1", "ratios": THIRD, "locks": HeadLocks(remove=((1, 2),))},
    "by a budget": {"method": "spectral", "budget": Budget(gmacs=0.6), "skip_unread": True},  # share of dense
    "lean": {"method": "snp", "ratios": THIRD, "skip_unread": True},
    "lean, distilled": {"method": "taylor", "ratios": THIRD, "skip_unread": True},
    "recovered": {"method": "spectral", "ratios": THIRD, "skip_unread": True, "recovery": RECOVERY},
}


def job(method: str, model: str, data: str, **fields: object) -> Job:
    """A job with few images, and with the least training that a method can do."""
    options: dict[str, int] = {}
    if "images" in METHODS[method].options.__dataclass_fields__:
        options["images"] = 6
    if method == "gohsp":
        options |= {"batch": 20}
    found = Job(model, data, method, options=tuple(options.items()), limit=8)
    return replace(found, **fields)  # type: ignore[arg-type]


def ratios_for(method: str, arch: Architecture = TINY) -> Ratios:
    """What a method can remove of this model: a head of every block that has more than one, or a third."""
    criterion = CRITERIA.get(method)
    if criterion is None or criterion.ranks != ("heads",):
        return THIRD
    return Ratios(heads=tuple(0.5 if widths.heads > 1 else 0.0 for widths in arch.blocks))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, str]]:
    """The bundle of a product, made on first use, and the images."""
    folder = tmp_path_factory.mktemp("products")
    image_set(folder)
    data = str(folder / "images")
    dense: dict[bool, str] = {}
    for distilled in (False, True):
        dense[distilled] = str(folder / f"dense-{distilled}")
        model = random_vit(replace(TINY, distilled=distilled), seed=int(distilled))
        write_bundle(Path(dense[distilled]), model, PREPROCESS, name="dense", report={})
    known: dict[str, str] = {}

    def make(name: str) -> tuple[str, str]:
        if name not in known:
            start = dense[name == "lean, distilled"]
            fields = dict(PRODUCTS.get(name) or {"method": name, "ratios": ratios_for(name)})
            budget = fields.get("budget")
            if isinstance(budget, Budget):
                whole = cost(load(start).model.arch).gmacs
                fields["budget"] = Budget(gmacs=budget.gmacs * whole)
            outcome = prune(job(str(fields.pop("method")), start, data, **fields))
            known[name] = str(folder / name.replace(", ", "-").replace(" ", "-"))
            write_bundle(
                Path(known[name]), outcome.pruned.model, outcome.pruned.preprocess, name=name, report={}
            )
        return known[name], data

    return make


@pytest.fixture(params=[*PRODUCTS, *METHODS])
def product(request: pytest.FixtureRequest, made: Callable[[str], tuple[str, str]]) -> tuple[str, str]:
    return made(request.param)


def test_the_products_differ_as_their_names_say(made: Callable[[str], tuple[str, str]]) -> None:
    found = {name: load(made(name)[0]).model.arch for name in PRODUCTS}
    assert {name for name, arch in found.items() if arch.skip_unread} == {
        *("by a budget", "lean", "lean, distilled", "recovered")
    }
    assert found["rotated"].embed_dim == found["narrower stream"].embed_dim < TINY.embed_dim
    assert [widths.heads for widths in found["uneven heads"].blocks] == [2, 3]
    assert [widths.heads for widths in found["heads locked"].blocks] == [3, 2]
    assert found["lean, distilled"].distilled


def test_every_method_prunes_it_once_more(product: tuple[str, str]) -> None:
    """With a mask that predicts the cut where the method chooses, and a result that is smaller and finite."""
    loaded = load(product[0])
    images = random_images(loaded.model.arch, 4)
    for method in METHODS:
        ratios = ratios_for(method, loaded.model.arch)
        if ratios.removes_nothing:
            continue  # it ranks heads only, and every block has but one
        again = job(method, *product, ratios=ratios)
        run = prepare(again, dense=loaded)
        target = again.target(loaded.model.arch)
        before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
        small, tried = make_smaller(run, target).model, preview(run, target)
        with torch.no_grad():
            got, guess, own = small(images), tried(images), loaded.model(images)
        assert got.isfinite().all() and cost(small.arch).params < cost(loaded.model.arch).params, method
        assert (got - own).abs().max() > 0 and small.arch.skip_unread == loaded.model.arch.skip_unread, method
        if METHODS[method].chooses:
            torch.testing.assert_close(guess, got, atol=1e-5, rtol=1e-4, msg=f"{method}: {{}}".format)
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(value, before[name]), (method, name)


def test_its_heads_and_its_attention_are_read(product: tuple[str, str]) -> None:
    loaded = load(product[0])
    data = batches(image_sets(job("l1", *product), loaded)[0], loaded.preprocess, 5)
    shown = [next(iter(data))]
    reading = read_heads(loaded.model, shown)
    heads = sum(widths.heads for widths in loaded.model.arch.blocks)
    assert set(reading.alike) == set(SIMILARITIES)
    for name, entry in HEAD_MEASURES.items():
        values = ask_heads(loaded.model, name, shown) if entry.needs_labels else reading.values[name]
        assert len(values) == heads and torch.tensor(values).isfinite().all(), name
    with torch.no_grad(), capture(loaded.model) as record:
        blocks = list(record(shown[0][0]))
        torch.testing.assert_close(record.logits, loaded.model(shown[0][0]), atol=1e-5, rtol=1e-4)
    for block in blocks:
        torch.testing.assert_close(block.attention.sum(-1), torch.ones(block.attention.shape[:-1]))


def test_it_is_recovered_and_budgeted(made: Callable[[str], tuple[str, str]]) -> None:
    for name in ("rotated", "lean, distilled", "uneven heads"):
        model, data = made(name)
        loaded = load(model)
        budget = Budget(gmacs=0.8 * cost(loaded.model.arch).gmacs)
        again = job("spectral", model, data, budget=budget, recovery=RECOVERY, align=1)
        outcome = prune(again)
        assert cost(outcome.pruned.model.arch).gmacs <= budget.gmacs
        assert evaluate(outcome.pruned.model, images_of(outcome.pruned)).images == 4


def images_of(loaded: LoadedModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(random_images(loaded.model.arch, 4), torch.arange(4))]


def test_a_lean_model_says_what_the_whole_one_says(made: Callable[[str], tuple[str, str]]) -> None:
    lean = load(made("lean")[0]).model
    whole = ViT(replace(lean.arch, skip_unread=False)).eval()
    whole.load_state_dict(lean.state_dict())
    images = random_images(lean.arch, 4)
    with torch.no_grad():
        torch.testing.assert_close(lean(images), whole(images), atol=1e-5, rtol=1e-4)
