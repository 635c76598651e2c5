"""The damage of schedules: that of the merging model, wherever its measuring begins."""

from __future__ import annotations

import pytest
import torch

from analysis.outputs import divergence, output
from analysis.vit import ViT
from pruning.budget.tokens import measure_schedules, schedules
from pruning.cut import unmerged, with_merges
from tests.support.models import SHORTER, VARIANTS, random_images, random_vit

MODELS = {name: VARIANTS[name] for name in ("plain", "distilled", "average pool", "uneven", "no head")}
MODELS |= {name: SHORTER[name] for name in ("merging", "without halves")}


@pytest.mark.parametrize("name", MODELS)
def test_the_damage_of_a_schedule_is_that_of_the_model_that_merges(name: str) -> None:
    model = random_vit(MODELS[name])
    batches = [(random_images(model.arch, count=count, seed=count), torch.zeros(count)) for count in (3, 4)]
    found = {one.merges: one.kl for one in measure_schedules(model, batches)}
    plain = ViT(unmerged(model.arch)).eval()
    plain.load_state_dict(model.state_dict())
    assert set(schedules(model.arch)) <= set(found)
    for merges in schedules(model.arch):
        small = ViT(with_merges(model.arch, merges)).eval()
        small.load_state_dict(model.state_dict())
        with torch.no_grad():
            kl = torch.cat(
                [divergence(output(plain, images), output(small, images)) for images, _ in batches]
            )
        assert found[merges] == pytest.approx(float(kl.mean()), rel=1e-3, abs=1e-7)


def test_there_must_be_images() -> None:
    with pytest.raises(ValueError, match="got none"):
        measure_schedules(random_vit(VARIANTS["plain"]), [])
