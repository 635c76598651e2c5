from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.anatomy import STRUCTURES
from analysis.models.load import LoadedModel
from analysis.models.preprocess import Preprocess
from analysis.vit import ViT
from pruning.criteria.registry import CRITERIA
from pruning.criteria.snp import SnpOptions
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import select
from pruning.jobs.inputs import Prepared
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller
from tests.support.models import TINY, batches, on_variants, random_images, random_vit


@on_variants("plain", "no head", "distilled", "registers", "rms norms", "uneven")
@pytest.mark.parametrize("name", CRITERIA)
def test_leaves_the_model_untouched_and_scores_everything_it_ranks(name: str, variant: ViT) -> None:
    before = {key: value.clone() for key, value in variant.state_dict().items()}
    criterion, given = CRITERIA[name], batches(random_images(variant.arch))
    scores = criterion.score(variant, given, criterion.options())
    for index, widths in enumerate(variant.arch.blocks):
        assert scores.qk[index].shape == (widths.heads, widths.qk)
        assert scores.v[index].shape == (widths.heads, widths.v)
        assert scores.mlp[index].shape == (widths.mlp,)
        assert scores.heads[index].shape == (widths.heads,)
    assert scores.embed.shape == (variant.arch.embed_dim,)
    for structure in STRUCTURES:
        own = getattr(scores, structure)
        parts = own if isinstance(own, tuple) else (own,)
        assert not any(part.requires_grad for part in parts)
        assert any(part.unique().numel() > 1 for part in parts) == (structure in criterion.ranks)
    for key, value in variant.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", CRITERIA)
def test_every_entry_can_be_shown_and_drives_a_selection(name: str, tiny: ViT) -> None:
    criterion = CRITERIA[name]
    assert criterion.title and criterion.explanation.endswith(".")
    assert (criterion.options().calibration_images is not None) == (name not in ("l1", "l2", "gm", "random"))
    target = shrink(TINY, Ratios(heads=0.3))
    criterion.require_ranked(TINY, target)
    scores = criterion.score(tiny, batches(random_images(TINY)), criterion.options())
    assert select(scores, TINY, target).architecture(TINY) == target


@pytest.mark.parametrize(
    ("ratios", "lost"),
    [
        (Ratios(qk=0.5), "qk"),
        (Ratios(v=(0.0, 0.25), mlp=0.5, heads=0.4), "v, mlp"),
        (Ratios(embed=0.25), "embed"),
    ],
)
def test_what_a_criterion_does_not_rank_cannot_be_narrowed(ratios: Ratios, lost: str) -> None:
    job = Job("demo", "demo", "ablation", ratios=ratios)
    message = f"Head ablation ranks heads only and cannot choose what goes of {lost}: set these ratios to 0"
    with pytest.raises(ValueError, match=message):
        job.target(TINY)
    loaded = LoadedModel(random_vit(TINY), Preprocess(TINY.image_size), "tiny", "made for a test")
    with pytest.raises(ValueError, match=message):  # as a budget does, with a target of its own
        unread: Any = None  # images that nobody asks for
        run = Prepared(job, loaded, unread, unread)
        make_smaller(run, target=shrink(TINY, ratios))
    assert replace(job, method="taylor").target(TINY) == shrink(TINY, ratios)
    assert replace(job, ratios=Ratios(heads=0.4)).target(TINY) == shrink(TINY, Ratios(heads=0.4))


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        SnpOptions().gamma = 3
    assert replace(SnpOptions(), gamma=3).gamma == 3
