"""What other families of Vision Transformers have, through everything that prunes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from analysis.measure import cost
from analysis.models.load import read_bundle
from analysis.models.preprocess import Preprocess
from analysis.vit import Architecture, ViT
from pruning.budget import (
    Budget,
    allocate,
    measure_schedules,
    measure_sensitivities,
    measure_table,
    narrow_by_scores,
)
from pruning.bundle.write import write_bundle
from pruning.criteria.magnitude import MagnitudeOptions, SeedOptions
from pruning.criteria.registry import CRITERIA
from pruning.criteria.snp import pair_scores
from pruning.cut import Plan, Ratios, cut, mask, select, shrink, with_merges
from pruning.export import export_onnx
from pruning.export.flat import flat_tokens
from pruning.gohsp.admm import Structure, hard_projection
from pruning.projection import compensate, remove_halves, spectral, spectral_target
from pruning.projection.bases.planes import choose_planes, plane_products
from pruning.projection.rotation import rotate
from pruning.quantize.layers import input_spans, linear_layers
from pruning.quantize.smooth import smooth, smoothing_factors
from tests.support.models import EVERY_PART, FAMILIES, TINY, batches, random_images, random_vit

RATIOS = {
    "inside": Ratios(qk=(0.5, 0.3), mlp=(0.4, 0.8)),
    "embed": Ratios(embed=0.3),
    "everything": Ratios(qk=0.5, v=0.25, mlp=0.4, heads=0.3, embed=0.3),
}


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> ViT:
    return random_vit(request.param)


def able(arch: Architecture, ratios: Ratios) -> Ratios:
    return replace(ratios, qk=0.0) if arch.qk_norm else ratios


def random_plan(model: ViT, ratios: Ratios) -> Plan:
    scores = CRITERIA["random"].score(model, [], SeedOptions(seed=5))
    return select(scores, model.arch, shrink(model.arch, able(model.arch, ratios)))


@pytest.mark.parametrize("what", RATIOS)
def test_cut_equals_mask(what: str, family: ViT) -> None:
    plan, images = random_plan(family, RATIOS[what]), random_images(family.arch)
    with torch.no_grad():
        small, masked = cut(family, plan)(images), mask(family, plan)(images)
    if small.shape != masked.shape:  # without a head the output has one value per channel that stays
        masked = masked[:, list(plan.embed)]
    torch.testing.assert_close(small, masked, atol=1e-5, rtol=1e-4)
    if what == "everything":
        lean = replace(plan.architecture(family.arch), skip_unread=family.arch.pool == "token")
        again = ViT(lean).eval()
        again.load_state_dict(cut(family, plan).state_dict())
        torch.testing.assert_close(again(images), small, atol=1e-5, rtol=1e-4)


def test_what_has_to_stay_whole_is_refused() -> None:
    whole = random_vit(FAMILIES["qk-norm"])
    with pytest.raises(ValueError, match="queries and keys of a model with qk-norm stay whole"):
        shrink(whole.arch, Ratios(qk=0.5))
    with pytest.raises(ValueError, match="queries and keys of a model with qk-norm stay whole"):
        spectral_target(whole.arch, replace(whole.arch, blocks=(replace(TINY.blocks[0], qk=4),) * 2))
    inner = FAMILIES["inner norms"]
    with pytest.raises(ValueError, match=r"leaves the values .* whole"):
        spectral_target(inner, shrink(inner, Ratios(v=0.5)))
    turned = random_vit(FAMILIES["rotary"])
    plan = Plan.keep_all(turned.arch)
    odd = replace(plan.blocks[0], qk=((0, 1, 2, 5),) * 3)
    with pytest.raises(ValueError, match="stay or go together"):
        cut(turned, replace(plan, blocks=(odd, plan.blocks[1])))
    assert shrink(turned.arch, Ratios(qk=0.4)).blocks[0].qk == 6  # not 5
    for name in ("gated", "inner norms", "no final norm", "attention pooling"):
        with pytest.raises(ValueError, match=r"the embedding of a model .*\s*rotated"):
            rotate(random_vit(FAMILIES[name]), batches(random_images(TINY)), 20)


@pytest.mark.parametrize("name", ["snp", "l1", "l2", "gm", "taylor"])
def test_every_criterion_scores_every_part(name: str, family: ViT) -> None:
    if name == "taylor" and not family.arch.num_classes:
        return
    criterion = CRITERIA[name]
    scores = criterion.score(family, batches(random_images(family.arch)), criterion.options())
    target = shrink(family.arch, able(family.arch, RATIOS["everything"]))
    assert cut(family, select(scores, family.arch, target)).arch == target
    for widths, qk, v, mlp in zip(family.arch.blocks, scores.qk, scores.v, scores.mlp, strict=True):
        assert (qk.shape, v.shape) == ((widths.heads, widths.qk), (widths.heads, widths.v))
        assert mlp.shape == (widths.mlp,)
        assert float(mlp.std()) > 0


@pytest.mark.parametrize("name", ["rotary", "qk-norm", "position bias"])
def test_budgets_leave_whole_what_has_to_stay(name: str) -> None:
    model = random_vit(FAMILIES[name])
    images, arch = batches(random_images(model.arch)), model.arch
    narrow = narrow_by_scores(model, CRITERIA["l1"].score(model, [], MagnitudeOptions()))
    measured = measure_sensitivities(model, images, narrow)
    measured = replace(measured, tokens=measure_schedules(model, images))
    for share in (0.9, 0.7):
        found = allocate(arch, measured, Budget(gmacs=share * cost(arch).gmacs), align=1).arch
        assert cost(found).gmacs <= share * cost(arch).gmacs
        if name == "qk-norm":
            assert [block.qk for block in found.blocks] == [block.qk for block in arch.blocks]
    table = measure_table(replace(arch, blocks=arch.blocks[:1], image_size=(32, 40)), 1, 4)
    assert len(table.tokens[arch.blocks[0]]) == 4


def test_snp_takes_the_terms_of_a_plane_together() -> None:
    """Against N x N matrices: the cosine of the leading terms with q1 k1^T + q2 k2^T."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 9, 6, generator=generator, dtype=torch.float64)
    found = pair_scores(q, k, 2, together=2)
    for image in range(2):
        for head in range(3):
            one, two = q[image, head], k[image, head]
            u, s, vh = torch.linalg.svd(one @ two.T)
            for plane in range(3):
                term = one[:, 2 * plane : 2 * plane + 2] @ two[:, 2 * plane : 2 * plane + 2].T
                cosines = [(s[j] * u[:, j, None] * vh[j] * term).sum() / s[j] / term.norm() for j in range(2)]
                expected = sum(cosine.abs() for cosine in cosines) / 2
                torch.testing.assert_close(found[image, head, 2 * plane], expected)
                torch.testing.assert_close(found[image, head, 2 * plane + 1], expected)


def test_groups_are_what_a_cut_takes_away(family: ViT) -> None:
    arch = family.arch
    scores = CRITERIA["l2"].score(family, [], MagnitudeOptions(group=True))

    def total(of: ViT) -> float:
        return sum(float(weight.detach().double().square().sum()) for weight in of.parameters())

    plan = Plan.keep_all(arch)
    without = replace(plan, embed=plan.embed[1:])
    lost = total(family) - total(cut(family, without))
    assert float(scores.embed[0] ** 2) == pytest.approx(lost, rel=1e-5)
    block = replace(plan.blocks[0], mlp=plan.blocks[0].mlp[1:])
    lost = total(family) - total(cut(family, replace(plan, blocks=(block, *plan.blocks[1:]))))
    norm = family.blocks[0].mlp.norm
    inner = sum(float(weight[0].detach().square()) for weight in norm.parameters())
    assert float(scores.mlp[0][0] ** 2) + inner == pytest.approx(lost, rel=1e-5)


@pytest.mark.parametrize("name", ["gated", "inner norms", "rotary", "position bias"])
def test_projections_at_full_rank_change_nothing_and_narrow_ones_stay_close(name: str) -> None:
    family = random_vit(replace(FAMILIES[name], blocks=FAMILIES[name].blocks[:1]))
    images = random_images(family.arch, count=12)
    same = spectral(family, batches(images, 12), family.arch)
    torch.testing.assert_close(same(images), family(images), atol=2e-4, rtol=1e-3)
    ratios = Ratios(qk=0.0 if family.arch.qk_norm else 0.5, v=0.0 if family.arch.attn_norm else 0.25, mlp=0.3)
    target = spectral_target(family.arch, shrink(family.arch, ratios))
    small = spectral(family, batches(images, 12), target)
    assert small.arch == target
    scores = CRITERIA["random"].score(family, [], SeedOptions())
    chosen = cut(family, select(scores, family.arch, target))
    dense, projected, picked = family(images), small(images), chosen(images)
    assert (projected - dense).norm() < 0.8 * (picked - dense).norm()
    again = compensate(family, chosen, batches(images, 12), range(family.arch.embed_dim))
    assert (again(images) - dense).norm() < (picked - dense).norm()


def test_planes_are_chosen_as_well_as_any() -> None:
    """The error of all scores, against every other choice with its own best factors."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 1, 12, 8, generator=generator, dtype=torch.float64)
    k = k + q @ torch.randn(8, 8, generator=generator, dtype=torch.float64) / 2
    weights = torch.ones(12, dtype=torch.float64)
    centred = k - k.mean(dim=2, keepdim=True)
    planes, factors = choose_planes(plane_products(q, k, weights), 4)
    assert planes.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(factors[0], torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64))

    def error(chosen: list[int]) -> tuple[float, torch.Tensor]:
        turned = torch.stack([-centred[..., 1::2], centred[..., ::2]], dim=-1).flatten(-2)
        terms = [
            (q[..., 2 * p : 2 * p + 2] @ keys[..., 2 * p : 2 * p + 2].mT).flatten()
            for p in chosen
            for keys in (centred, turned)
        ]
        design, goal = torch.stack(terms, dim=1), (q @ centred.mT).flatten()
        solved = torch.linalg.lstsq(design, goal[:, None]).solution[:, 0]
        return float((design @ solved - goal).square().sum()), solved.view(-1, 2)

    planes, factors = choose_planes(plane_products(q, k, weights), 3)
    errors = {gone: error([p for p in range(4) if p != gone])[0] for gone in range(4)}
    best = min(errors, key=errors.__getitem__)
    assert planes[0].tolist() == [p for p in range(4) if p != best]
    torch.testing.assert_close(factors[0], error(planes[0].tolist())[1], rtol=1e-2, atol=1e-2)


def test_scores_of_the_narrow_model_are_those_of_the_chosen_planes() -> None:
    """Factors act on keys before they are turned, and angles go with their planes."""
    model = random_vit(FAMILIES["rotary"]).double()
    target = replace(model.arch, blocks=(replace(model.arch.blocks[0], qk=6), model.arch.blocks[1]))
    images = random_images(model.arch, count=8).double()
    small = spectral(model, batches(images), target)
    attn, narrow = model.blocks[0].attn, small.blocks[0].attn
    x = model.blocks[0].norm1(model.embed(images))
    q, k, _ = attn.split_heads(attn.qkv(x))
    mine, theirs, _ = narrow.split_heads(narrow.qkv(x))
    k, theirs = (keys - keys.mean(dim=2, keepdim=True) for keys in (k, theirs))
    exact, near = q @ k.mT, mine @ theirs.mT
    assert (near - exact).norm() < 0.6 * exact.norm()
    angles = attn.rope.view(3, 4, 3)
    for head, kept in enumerate(narrow.rope.view(3, 3, 3)):
        assert all(any(torch.equal(one, other) for other in angles[head]) for one in kept)


def test_hard_projections_and_halves(family: ViT) -> None:
    arch = family.arch
    target = shrink(arch, able(arch, Ratios(qk=0.5, v=0.25, mlp=0.5, heads=0.3)))
    heads = tuple(tuple(float(i) for i in range(block.heads)) for block in arch.blocks)
    images = random_images(arch)
    if not (arch.attn_norm or arch.mlp_norm):  # these see zeros that a cut takes away
        zeroed = random_vit(arch)
        plan = hard_projection(zeroed, Structure(arch, target, heads))
        torch.testing.assert_close(cut(zeroed, plan)(images), zeroed(images), atol=1e-5, rtol=1e-4)
    shorter = remove_halves(family, {(0, 1), (1, 0)}, batches(images))
    assert shorter.arch.blocks[0].mlp == 0 == shorter.arch.blocks[1].heads
    assert shorter(images).isfinite().all()


def test_flat_form_and_int8_layers(family: ViT) -> None:
    images = random_images(family.arch)
    lean = replace(family.arch, skip_unread=family.arch.pool == "token")
    for arch in (family.arch, lean, with_merges(lean, (2, 0)), with_merges(family.arch, (1, 1))):
        model = random_vit(arch)
        flat = flat_tokens(model)
        torch.testing.assert_close(flat(images), model(images), atol=1e-5, rtol=1e-4)
        names = linear_layers(model)
        spans = input_spans(model, [images])
        assert set(spans) == set(names)
    smoothed = smooth(family, smoothing_factors(family, input_spans(family, [images]), 0.5))
    torch.testing.assert_close(smoothed(images), family(images), atol=1e-5, rtol=1e-4)


def test_bundles(family: ViT, tmp_path: Path) -> None:
    arch = family.arch
    write_bundle(tmp_path / "bundle", family, Preprocess(arch.image_size), name="family", report={})
    again = read_bundle(tmp_path / "bundle").model
    images = random_images(arch)
    assert again.arch == arch
    torch.testing.assert_close(again(images), family(images))
    write_bundle(tmp_path / "half", family, Preprocess(arch.image_size), name="family", report={}, half=True)
    rounded = read_bundle(tmp_path / "half")
    assert rounded.half
    for name, value in rounded.model.state_dict().items():  # angles are kept as they are
        expected = family.state_dict()[name]
        assert torch.equal(value, expected if name.endswith(".rope") else expected.half().float())


def test_a_model_with_every_part_is_exported(tmp_path: Path) -> None:
    one = (replace(EVERY_PART.blocks[0], merge=2),)  # exporting takes seconds a block
    model = random_vit(replace(EVERY_PART, blocks=one))
    images = random_images(model.arch, 3)
    preprocess = Preprocess(model.arch.image_size)
    expected = model(images).detach()
    file = export_onnx(model, tmp_path / "model.onnx", preprocess)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=1e-4)
