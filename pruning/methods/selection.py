"""Methods that choose: a criterion scores every part, the lowest go, and what stays is left as it was."""

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
    """A criterion as a method."""

    criterion: Criterion
    chooses: bool = True
    heads_first: bool = True

    @property
    def title(self) -> str:
        """The criterion's title."""
        return self.criterion.title

    @property
    def explanation(self) -> str:
        """The criterion's sentence."""
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
        """Whether it ranks anything that a budget narrows."""
        return bool(set(self.criterion.ranks) & set(BUDGETED_STRUCTURES))

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """Widths by the ratios, heads as the locks demand.

        Raises:
            ValueError: ratios or locks do not fit the model, or narrow what the criterion cannot rank.
        """
        target = request.locks.widths(dense, shrink(dense, request.ratios, request.align))
        begin = heads_only(dense, target) if request.heads_by else dense
        self.criterion.require_ranked(begin, target)
        return target

    def scores(self, task: Task) -> Scores | None:
        """Scores of the model without locked heads; None where other heads go first, on which they depend."""
        return None if task.request.heads_by else self._scored(task, task.start)

    def _scored(self, task: Task, loaded: LoadedModel) -> Scores:
        images = task.batches("Scoring", loaded)
        return self.criterion.score(loaded.model, images, task.request.options)

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Scores, and the damage of keeping only the highest in one structure of one block.

        Raises:
            ValueError: the criterion ranks nothing that a budget narrows, or there are no images.
        """
        require_narrowing(self)
        scores = scores or self._scored(task, task.start)
        few = task.calibration.sample(min(images, len(task.calibration)), task.request.seed)
        narrow = narrow_by_scores(task.start.model, scores)
        return Survey(sensitivities(task, few, narrow, self.criterion.ranks), scores)

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Cut the lowest scores away, and compensate if that is asked for.

        Raises:
            ValueError: a target that narrows what the criterion cannot rank.
        """
        heads, plan = self._planned(task, target, scores)
        small = cut(task.dense.model, plan)
        if task.request.compensate:
            images = task.sampled(COMPENSATION_IMAGES, "Reading calibration images")
            tell = partial(task.monitor, "Compensating")
            small = compensate(task.dense.model, small, images, plan.embed, tell)
        return Made(small, plan, heads)

    def _planned(self, task: Task, target: Architecture, scores: Scores | None) -> tuple[Plan | None, Plan]:
        """The plan by which heads go first, if any, and the whole plan."""
        heads = heads_first(task, target)
        start = task.start if heads is task.locked else task.without(heads)
        self.criterion.require_ranked(start.model.arch, target)  # a given target, or a budget's
        if scores is None or task.request.heads_by:
            scores = self._scored(task, start)
        plan = select(scores, start.model.arch, target, task.request.locks.within(heads))
        return heads, plan if heads is None else within_heads(heads, plan)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The dense model with masks where parts would go; made on few images where weights change."""
        if task.request.compensate or task.request.heads_by:
            return self.make(task, target, scores).model
        return mask(task.dense.model, self._planned(task, target, scores)[1])
