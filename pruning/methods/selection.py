"""Selection methods: remove the parts with the lowest scores of a criterion, keep the others unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from analysis.models import LoadedModel
from analysis.vit import Architecture, ViT
from pruning.budget import BUDGETED_STRUCTURES, narrow_by_scores
from pruning.criteria import Criterion
from pruning.cut import Plan, Scores, cut, mask, select, shrink, within_heads
from pruning.methods.heads_first import heads_first, heads_only
from pruning.methods.method import Made, Request, Survey, Task, require_narrowing
from pruning.methods.sensitivities import sensitivities
from pruning.options import Options
from pruning.projection import COMPENSATION_IMAGES, compensate


@dataclass(frozen=True)
class Selection:
    """A criterion as a `Method`."""

    criterion: Criterion
    chooses: bool = True
    heads_first: bool = True

    @property
    def title(self) -> str:
        """The criterion's title."""
        return self.criterion.title

    @property
    def explanation(self) -> str:
        """The criterion's explanation."""
        return self.criterion.explanation

    @property
    def options(self) -> type[Options]:
        """The criterion's options."""
        return self.criterion.options

    @property
    def ranks_heads(self) -> bool:
        """Whether the criterion ranks heads."""
        return "heads" in self.criterion.ranks

    @property
    def narrows(self) -> bool:
        """Whether the criterion ranks any structure that budgets narrow."""
        return bool(set(self.criterion.ranks) & set(BUDGETED_STRUCTURES))

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture after removing the ratios, subject to the locks.

        Raises:
            ValueError: ratios or locks do not fit the model, or narrow what the criterion does not rank.
        """
        target = request.locks.widths(dense, shrink(dense, request.ratios, request.align))
        start = heads_only(dense, target) if request.heads_by else request.locks.left(dense)
        self.criterion.require_ranked(start, target)
        return target

    def scores(self, task: Task) -> Scores | None:
        """Scores of `task.start`; None if they depend on which heads another criterion removes first."""
        return None if task.request.heads_by else self._score(task, task.start)

    def _score(self, task: Task, loaded: LoadedModel) -> Scores:
        images = task.batches("Scoring", loaded)
        return self.criterion.score(loaded.model, images, task.request.options)

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Scores, and the sensitivity to keeping only the highest ones in one structure of one block.

        Raises:
            ValueError: the criterion ranks no structure that budgets narrow, or there are no images.
        """
        require_narrowing(self)
        scores = scores or self._score(task, task.start)
        sample = task.calibration.sample(min(images, len(task.calibration)), task.request.seed)
        narrow = narrow_by_scores(task.start.model, scores)
        return Survey(sensitivities(task, sample, narrow, self.criterion.ranks), scores)

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Cut the parts with the lowest scores, and compensate if requested.

        Raises:
            ValueError: the target narrows what the criterion does not rank.
        """
        heads, plan = self._plan(task, target, scores)
        small = cut(task.dense.model, plan)
        if task.request.compensate:
            images = task.sampled(COMPENSATION_IMAGES, "Reading calibration images")
            progress = partial(task.monitor, "Compensating")
            place = task.monitor.folder
            small = compensate(task.dense.model, small, images, plan.embed, progress, place=place)
        return Made(small, plan, heads)

    def _plan(self, task: Task, target: Architecture, scores: Scores | None) -> tuple[Plan | None, Plan]:
        """The plan by which whole heads are removed first, if any, and the complete plan."""
        heads, _, plan = self._select(task, target, scores)
        return heads, plan if heads is None else within_heads(heads, plan)

    def _select(
        self, task: Task, target: Architecture, scores: Scores | None
    ) -> tuple[Plan | None, LoadedModel, Plan]:
        """The plan by which whole heads are removed first, if any, the model without them, and its plan."""
        heads = heads_first(task, target)
        start = task.start if heads is task.locked else task.without(heads)
        self.criterion.require_ranked(start.model.arch, target)  # not checked yet if it comes from a budget
        if scores is None or task.request.heads_by:
            scores = self._score(task, start)
        target = self._spread(task.request, target, scores)
        return heads, start, select(scores, start.model.arch, target, task.request.locks.within(heads))

    def _spread(self, request: Request, target: Architecture, scores: Scores) -> Architecture:
        """The widths that `target` becomes once scores are known: here the same."""
        return target

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The dense model with the removed parts masked; with `compensate` or `heads_by`, the cut model."""
        if task.request.compensate or task.request.heads_by:
            return self.make(task, target, scores).model
        return mask(task.dense.model, self._plan(task, target, scores)[1])
