from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from analysis.vit import ViT
from pruning.criteria.magnitude import SeedOptions
from pruning.criteria.registry import CRITERIA
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import select
from pruning.cut.surgery import cut, mask
from tests.support import reference
from tests.support.models import TINY, VARIANTS, random_images, random_vit

RATIOS = {
    "qk": Ratios(qk=(0.5, 0.3)),
    "v": Ratios(v=(0.25, 0.6)),
    "mlp": Ratios(mlp=(0.4, 0.8)),
    "heads": Ratios(heads=(0.4, 0.0)),
    "embed": Ratios(embed=0.3),
    "everything": Ratios(qk=0.5, v=0.25, mlp=0.4, heads=0.3, embed=0.3),
}


def random_plan(model: ViT, ratios: Ratios) -> Plan:
    scores = CRITERIA["random"].score(model, [], SeedOptions(seed=5))
    return select(scores, model.arch, shrink(model.arch, ratios))


@pytest.mark.parametrize("what", RATIOS)
def test_cut_equals_mask(what: str, variant: ViT) -> None:
    plan, images = random_plan(variant, RATIOS[what]), random_images(variant.arch)
    with torch.no_grad():
        small, masked, dense = cut(variant, plan)(images), mask(variant, plan)(images), variant(images)
    if variant.arch.num_classes:  # without a head the output has one value per channel that stays
        assert (small - dense).abs().max() > 1e-3
    else:
        masked = masked[:, list(plan.embed)]
    torch.testing.assert_close(small, masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_number_format_stays(dtype: torch.dtype, tiny: ViT) -> None:
    """Of the weights and of the logits, in the smaller model and in the masked one."""
    model, plan = copy.deepcopy(tiny).to(dtype), random_plan(tiny, RATIOS["everything"])
    images = random_images(TINY).to(dtype)
    with torch.no_grad():
        small, masked, exact = cut(model, plan), mask(model, plan), cut(tiny, plan)
        assert {value.dtype for value in small.state_dict().values()} == {dtype}
        assert small(images).dtype == masked(images).dtype == dtype
        tolerance = {torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
        for one in (small, masked):
            torch.testing.assert_close(one(images).float(), exact(images.float()), atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("what", RATIOS)
def test_a_mask_also_hides_where_unread_tokens_are_left_out(what: str, tiny: ViT) -> None:
    less = ViT(replace(TINY, skip_unread=True)).eval()
    less.load_state_dict(tiny.state_dict())
    plan, images = random_plan(tiny, RATIOS[what]), random_images(TINY)
    torch.testing.assert_close(mask(less, plan)(images), cut(less, plan)(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("what", [name for name in RATIOS if "embed" not in name and name != "everything"])
@pytest.mark.parametrize("name", ["plain", "layer scale, no prefix in pos_embed"])
def test_cut_equals_loops_over_what_the_plan_keeps(what: str, name: str) -> None:
    """Twin that shares no code with `cut` or `mask`: it reads the dense weights by index."""
    model = random_vit(VARIANTS[name])
    plan, images = random_plan(model, RATIOS[what]), random_images(model.arch, count=1)
    small = cut(model, plan).double()
    x = model.double().embed(images.double())[0].detach()
    for index, widths in enumerate(model.arch.blocks):
        prefix = f"blocks.{index}."
        state = {
            key.removeprefix(prefix): value for key, value in model.state_dict().items() if prefix in key
        }
        heads = list(range(widths.heads))
        sizes = (widths.qk, widths.v)
        x = reference.block_forward(x, state, heads, plan.blocks[index], sizes, model.arch.scale, 1e-6)
    torch.testing.assert_close(small(images.double()), model.classify(x[None]))


@pytest.mark.parametrize("name", ["plain", "rms norms"])
def test_embed_cut_is_a_network_that_never_had_the_channels(name: str) -> None:
    """Twin for the residual stream: dropped channels are NaN in the dense weights, and do no harm."""
    model = random_vit(VARIANTS[name])
    plan, images = random_plan(model, RATIOS["embed"]), random_images(model.arch)
    expected = cut(model, plan)(images)
    gone = [channel for channel in range(24) if channel not in plan.embed]
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith(("token", "pos_embed")):
                value[..., gone] = torch.nan
            elif key in ("head.weight", "head_dist.weight") or ".qkv.weight" in key or ".fc1.weight" in key:
                value[:, gone] = torch.nan
            elif any(part in key for part in ("norm", "patch_embed", ".proj.", ".fc2.")):
                value[gone] = torch.nan
    again = cut(model, plan)(images)
    assert bool(model(images).isnan().all())
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("act", [cut, mask])
def test_keeping_everything_is_the_identity(act, variant: ViT) -> None:
    images = random_images(variant.arch)
    same = act(variant, Plan.keep_all(variant.arch))
    assert same is not variant
    torch.testing.assert_close(list(same.parameters()), list(variant.parameters()), rtol=0, atol=0)
    torch.testing.assert_close(same(images), variant(images))


@pytest.mark.parametrize("act", [cut, mask])
def test_leaves_its_argument_untouched(act, variant: ViT) -> None:
    before = {name: value.clone() for name, value in variant.state_dict().items()}
    result = act(variant, random_plan(variant, RATIOS["everything"]))
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.zero_()
    assert variant.state_dict().keys() == before.keys()
    for name, value in variant.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_cut_has_the_planned_architecture_and_its_cost(variant: ViT) -> None:
    plan = random_plan(variant, RATIOS["everything"])
    small = cut(variant, plan)
    assert small.arch == plan.architecture(variant.arch)
    fresh = ViT(small.arch)
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in fresh.state_dict().items()
    }


def test_cut_twice_equals_cut_once() -> None:
    model, images = random_vit(TINY), random_images(TINY)
    first = random_plan(model, Ratios(mlp=0.5))
    half = cut(model, first)
    second = random_plan(half, Ratios(mlp=0.5))
    blocks = tuple(
        type(a)(a.heads, a.qk, a.v, tuple(a.mlp[i] for i in b.mlp))
        for a, b in zip(first.blocks, second.blocks, strict=True)
    )
    torch.testing.assert_close(cut(half, second)(images), cut(model, Plan(first.embed, blocks))(images))


@pytest.mark.parametrize("act", [cut, mask])
def test_another_models_plan_is_refused(act) -> None:
    with pytest.raises(ValueError, match="keeps mlp index 31, but the model has only 20"):
        act(random_vit(VARIANTS["uneven"]), Plan.keep_all(TINY))


def test_training_mode_is_kept(tiny: ViT) -> None:
    assert not cut(tiny, Plan.keep_all(TINY)).training
    assert cut(tiny.train(), Plan.keep_all(TINY)).training
