"""Gates: what is closed is silent, as if it were cut; what is open stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analysis.anatomy import STRUCTURES
from analysis.frozen import frozen_copy
from analysis.gates import Gates, gated, head_gates, open_gates, put_gates, without_heads
from analysis.vit import ViT
from pruning.criteria.magnitude import SeedOptions, random
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import select
from pruning.cut.surgery import cut
from tests.support import reference
from tests.support.models import TINY, VARIANTS, random_images, random_vit, scaled_heads

CLASSIFIERS = {name: arch for name, arch in VARIANTS.items() if arch.num_classes}
RATIOS = {
    "qk": Ratios(qk=0.4),
    "v": Ratios(v=0.4),
    "mlp": Ratios(mlp=0.4),
    "heads": Ratios(heads=0.4),
    "embed": Ratios(embed=0.4),
    "everything": Ratios(qk=0.3, v=0.3, mlp=0.3, heads=0.4, embed=0.3),
}


def gated_logits(model: ViT, images: torch.Tensor, gates: Gates) -> torch.Tensor:
    own = frozen_copy(model)
    with gated(own, gates):
        return own(images)


def no_hooks(model: ViT) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("what", RATIOS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_closed_gate_is_what_surgery_does(name: str, what: str) -> None:
    """Gates of 0 on what a plan drops give the logits of the smaller model."""
    model = random_vit(CLASSIFIERS[name])
    scores = random(model, [], SeedOptions(seed=5))
    plan = select(scores, model.arch, shrink(model.arch, RATIOS[what]))
    images = random_images(model.arch)
    with torch.no_grad():
        got, expected = gated_logits(model, images, closed(model, plan)), cut(model, plan)(images)
        assert (expected - model(images)).abs().max() > 1e-3
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def closed(model: ViT, plan: Plan) -> Gates:
    """Gates of 0 on what a plan drops, by loops; a head that goes is closed by its own gate alone."""
    gates = open_gates(model.arch)
    for gate in (*gates.embed, *gates.mlp, *gates.heads):
        gate.zero_()
    gates.embed[0][:, list(plan.embed)] = 1
    for index, block in enumerate(plan.blocks):
        gates.mlp[index][:, list(block.mlp)] = 1
        gates.heads[index][:, list(block.heads)] = 1
        for head, pairs, values in zip(block.heads, block.qk, block.v, strict=True):
            for gate, kept in ((gates.qk[index], pairs), (gates.v[index], values)):
                gate[:, head] = 0
                gate[:, head, list(kept)] = 1
    return gates


@pytest.mark.parametrize("name", ["plain", "rms norms", "uneven"])
def test_any_gates_are_what_loops_over_the_formula_give(name: str) -> None:
    """Twin that shares no code: every part of one image multiplied by its own factor."""
    arch = VARIANTS[name]
    model = random_vit(arch).double()
    image = random_images(arch, count=1).double()
    generator = torch.Generator().manual_seed(3)
    factors = [torch.rand(gate.shape, generator=generator) + 0.2 for gate in open_gates(arch).tensors]
    gates = open_gates(arch).with_tensors(factors)
    state = {key: value.detach() for key, value in model.state_dict().items()}
    expected = reference.gated_logits(state, arch, image[0], listed(gates))
    torch.testing.assert_close(gated_logits(model, image, gates)[0], expected, atol=1e-5, rtol=1e-5)


def listed(gates: Gates) -> reference.Gates:
    """The first row of every gate by structure, block, head and channel."""
    found: reference.Gates = {("embed", 0, 0, e): float(v) for e, v in enumerate(gates.embed[0][0])}
    for name in ("qk", "v"):
        for block, gate in enumerate(getattr(gates, name)):
            for head, row in enumerate(gate[0]):
                found |= {(name, block, head, channel): float(v) for channel, v in enumerate(row)}
    for block, gate in enumerate(gates.mlp):
        found |= {("mlp", block, 0, neuron): float(v) for neuron, v in enumerate(gate[0])}
    for block, gate in enumerate(gates.heads):
        found |= {("heads", block, 0, head): float(v) for head, v in enumerate(gate[0])}
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_open_gates_change_nothing(name: str) -> None:
    model, images = random_vit(CLASSIFIERS[name]), random_images(CLASSIFIERS[name])
    got = gated_logits(model, images, open_gates(model.arch))
    torch.testing.assert_close(got, model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_structure_alone_may_have_gates(structure: str, tiny: ViT) -> None:
    gates, images = open_gates(TINY, [structure]), random_images(TINY)
    assert {name for name in STRUCTURES if getattr(gates, name)} == {structure}
    for gate in gates.tensors:
        gate[..., 0] = 0
    among_all = replace(open_gates(TINY), **{structure: getattr(gates, structure)})
    got, expected = (gated_logits(tiny, images, each) for each in (gates, among_all))
    assert (got - tiny(images)).abs().max() > 1e-3
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_gates_also_act_where_unread_tokens_are_left_out(structure: str, tiny: ViT) -> None:
    """The shortcut of the last block goes round the layer of queries, and gates must not be lost there."""
    less = ViT(replace(TINY, skip_unread=True)).eval()
    less.load_state_dict(tiny.state_dict())
    gates, images = open_gates(TINY, [structure]), random_images(TINY)
    for gate in gates.tensors:
        gate[..., 0] = 0
    torch.testing.assert_close(
        gated_logits(less, images, gates), gated_logits(tiny, images, gates), atol=1e-5, rtol=1e-5
    )
    with gated(less, gates):
        pass
    assert less.arch.skip_unread


def test_a_head_gate_is_a_factor_on_the_columns_of_proj(variant: ViT) -> None:
    images = random_images(variant.arch)
    factors = torch.ones(1, sum(widths.heads for widths in variant.arch.blocks))
    factors[0, 1], factors[0, -1] = 0.0, 0.5
    last = variant.arch.blocks[1].heads - 1
    expected = scaled_heads(variant, {(0, 1): 0.0, (1, last): 0.5})(images)
    with gated(variant, head_gates(variant.arch, factors)):
        got = variant(images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - variant(images)).abs().max() > 1e-3
    assert no_hooks(variant)


def test_every_image_may_have_gates_of_its_own(tiny: ViT) -> None:
    images = random_images(TINY, count=2)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(gate.shape, generator=generator) for gate in open_gates(TINY, rows=2).tensors]
    gates = open_gates(TINY).with_tensors(rows)
    together = gated_logits(tiny, images, gates)
    for index in range(2):
        own = gates.with_tensors(row[index : index + 1] for row in rows)
        torch.testing.assert_close(together[index], gated_logits(tiny, images[index : index + 1], own)[0])


def test_no_hook_is_left_behind_by_gates_that_do_not_fit(tiny: ViT) -> None:
    short = replace(open_gates(TINY), mlp=open_gates(TINY).mlp[:1])
    with pytest.raises(IndexError), gated(tiny, short):
        pass
    assert no_hooks(tiny)


@pytest.mark.parametrize("shape", [(1, 5), (6,), (2, 7)])
def test_another_number_of_heads_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a head mask of this model must have 6 columns"):
        head_gates(TINY, torch.ones(shape))


def test_gates_put_in_for_good_stay(tiny: ViT) -> None:
    gates, images = open_gates(TINY, ["mlp"]), random_images(TINY)
    gates.mlp[0][0, :5] = 0
    own = frozen_copy(tiny)
    put_gates(own, gates)
    assert torch.equal(own(images), own(images))
    torch.testing.assert_close(own(images), gated_logits(tiny, images, gates))


def test_without_heads_is_a_model_whose_proj_does_not_read_them(variant: ViT) -> None:
    gone = [(0, head) for head in range(variant.arch.blocks[0].heads)] + [(1, 1)]
    images = random_images(variant.arch)
    got = without_heads(variant, gone)
    expected = scaled_heads(variant, dict.fromkeys(gone, 0.0))(images)
    torch.testing.assert_close(got(images), expected, atol=1e-5, rtol=1e-5)
    assert no_hooks(variant)
    assert got.head is not variant.head
    with pytest.raises(ValueError, match="this model has no head 3 in block 0"):
        without_heads(variant, [(0, 3)])
