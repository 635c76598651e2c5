"""The `Method` protocol, and the values that methods take and return."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch

from analysis.data import ImageSet
from analysis.measure import Batches
from analysis.models import LoadedModel
from analysis.outputs import divergence, output
from analysis.vit import Architecture, ViT
from pruning.budget import Sensitivities
from pruning.cut import Half, HeadLocks, Plan, Ratios, Scores, cut
from pruning.gohsp import TrainingData
from pruning.options import Options
from pruning.progress import Monitor
from pruning.projection import remove_halves, steered
from pruning.tracked import RepeatableBatches, tracked

SHALLOWER_IMAGES = 128  # that the means of halves of blocks are taken over


@dataclass(frozen=True)
class Request:
    """What to remove, and how: everything in a job except its model and images.

    `heads_by` names a criterion that removes whole heads before the method prunes inside the others;
    `compensate` requests a least-squares refit of `proj` and `fc2` after a selection.
    """

    ratios: Ratios
    options: Options
    align: int = 1
    locks: HeadLocks = HeadLocks()
    heads_by: str | None = None
    compensate: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Task:
    """A request, with the dense model, the calibration images and the monitor to report to.

    `training` opens the training data; it is called only if the method trains. `whole` is the dense model
    before halves of its blocks were removed, None where none were.
    """

    dense: LoadedModel
    request: Request
    calibration: ImageSet
    training: Callable[[], TrainingData]
    monitor: Monitor = Monitor()
    whole: LoadedModel | None = None

    @cached_property
    def locked(self) -> Plan | None:
        """The plan that removes exactly the heads locked to go; None if there are none.

        Raises:
            ValueError: the locks do not fit the model.
        """
        return self.request.locks.plan(self.dense.model.arch)

    @cached_property
    def start(self) -> LoadedModel:
        """The dense model without the heads locked to go, which is scored and which budgets start from."""
        return self.without(self.locked)

    def shallower(self, gone: Collection[Half]) -> Task:
        """The same task for the dense model without these halves of blocks; it stays what is aimed at.

        Raises:
            ValueError: the model cannot do without them, or there are no images.
        """
        model = remove_halves(self.dense.model, gone, self.sampled(SHALLOWER_IMAGES, "Averaging"))
        return replace(self, dense=replace(self.dense, model=model), whole=self.dense)

    def divergence(self, small: ViT, images: int) -> float:
        """Mean divergence from the dense model on calibration images, half of them steered.

        They are the last ones, which no method was fitted on unless there are so few that all were.
        """
        held = self.calibration.sample(len(self.calibration), self.request.seed)
        last = held.subset(range(max(0, len(held) - images), len(held)))  # methods are fitted on the first
        model, total = (self.whole or self.dense).model, 0.0
        with torch.no_grad():
            for batch, _ in steered(model, tracked(last, self.dense, "Comparing", self.monitor), 0.5):
                total += float(divergence(output(model, batch), output(small, batch)).sum())
        return total / len(last)

    def without(self, heads: Plan | None) -> LoadedModel:
        """The dense model cut by a plan that removes heads; itself if there is no plan."""
        return self.dense if heads is None else replace(self.dense, model=cut(self.dense.model, heads))

    def batches(self, what: str, loaded: LoadedModel | None = None) -> Batches:
        """As many calibration images as the options request, in batches that can be read repeatedly."""
        count = self.request.options.calibration_images
        return self.sampled(count or len(self.calibration), what, loaded)

    def sampled(self, count: int, what: str, loaded: LoadedModel | None = None) -> Batches:
        """At most `count` calibration images, in batches that can be read repeatedly."""
        chosen = self.calibration.sample(min(count, len(self.calibration)), self.request.seed)
        return RepeatableBatches(lambda: tracked(chosen, loaded or self.dense, what, self.monitor))

    def quick(self, images: int) -> Task:
        """The same task with at most `images` calibration images and no training, for a quick estimate."""
        return replace(self, request=replace(self.request, options=self.request.options.quick(images)))


@dataclass(frozen=True)
class Survey:
    """The input for solving budgets of any size: sensitivities, and scores if the method has them."""

    sensitivities: Sensitivities
    scores: Scores | None = None


class Made(NamedTuple):
    """A smaller model, the plan it was cut by (None if weights are projected), and the plan for its heads.

    `heads` is the plan by which whole heads were removed first; None if there were none.
    """

    model: ViT
    plan: Plan | None
    heads: Plan | None = None


class Method(Protocol):
    """A pruning method: one class in this folder, with an entry in `METHODS`.

    How many calibration images it uses and whether it trains depends on its options
    (`Options.calibration_images`, `Options.trains`).
    """

    @property
    def title(self) -> str: ...

    @property
    def explanation(self) -> str:
        """One or two sentences for the user."""
        ...

    @property
    def options(self) -> type[Options]: ...

    @property
    def chooses(self) -> bool:
        """Whether it selects parts of the dense model and leaves their weights unchanged.

        If so, its result can be previewed with a mask, and can be compensated.
        """
        ...

    @property
    def heads_first(self) -> bool:
        """Whether another criterion may remove whole heads before it prunes inside the others."""
        ...

    @property
    def ranks_heads(self) -> bool:
        """Whether it ranks heads itself."""
        ...

    @property
    def narrows(self) -> bool:
        """Whether it can narrow a single block, which is required for budgets."""
        ...

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture that results from the request's ratios and locks.

        Raises:
            ValueError: ratios or locks that do not fit the model, or that the method does not support.
        """
        ...

    def scores(self, task: Task) -> Scores | None:
        """Scores of every part of `task.start`; None if the method computes none in advance."""
        ...

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Measure the input for budgets, with at most `images` images for the sensitivities.

        Raises:
            ValueError: the method cannot narrow a single block, or there are too few images.
        """
        ...

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Make the smaller model. `scores` of `task.start`, if given, are not computed again.

        Raises:
            ValueError: the method cannot make this target.
        """
        ...

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """A model with the predictions of the result of `make`, for a quick estimate; it may be masked."""
        ...


def require_narrowing(method: Method) -> None:
    """Check that budgets can be solved for a method.

    Raises:
        ValueError: the method cannot narrow a single block.
    """
    if not method.narrows:
        raise ValueError(
            f"{method.title} cannot be used with a budget, because it cannot narrow a single block: "
            "set ratios, or use another method such as snp"
        )
