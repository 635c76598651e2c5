"""Jobs and the small dense model that several tests carry out."""

from __future__ import annotations

from dataclasses import replace

from analysis.data.scenes import CLASSES
from analysis.models.load import LoadedModel
from analysis.models.preprocess import Preprocess
from pruning.budget.allocate import Budget
from pruning.jobs.prune_job import Job
from tests.support.models import TINY, random_vit

BUDGET = Job("demo", "demo", "l2", budget=Budget(params=40_000, images=8), align=8, limit=20)
ARCH = replace(TINY, image_size=(64, 64), patch_size=(16, 16))


def dense() -> LoadedModel:
    return LoadedModel(random_vit(ARCH), Preprocess((64, 64), labels=CLASSES), "demo", "made for a test")
