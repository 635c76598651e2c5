"""Selection methods published with a compensation of their own, which folds what goes into what stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from analysis.vit import Architecture, ViT
from pruning.criteria import counts_together
from pruning.cut import Scores, cut, within_heads
from pruning.methods.method import Made, Request, Survey, Task, require_narrowing
from pruning.methods.selection import Selection
from pruning.methods.sensitivities import held_out, sensitivities
from pruning.options import Options
from pruning.projection import Folding, VbpOptions, fold, narrow_folded, whole_in_foldings


@dataclass(frozen=True)
class Folded(Selection):
    """A criterion whose cut is followed by the compensation that `folding` makes of the options."""

    chooses: bool = False
    folding: Callable[[Any], Folding] = field(kw_only=True)

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture after removing the ratios, subject to the locks.

        Raises:
            ValueError: ratios or locks that do not fit the model, or that remove what cannot be folded.
        """
        target = super().target(dense, request)
        for name, reason in whole_in_foldings(dense).items():
            pairs = zip(dense.blocks, target.blocks, strict=True)
            if any(getattr(after, name) < getattr(before, name) for before, after in pairs):
                raise ValueError(f"{self.title} cannot narrow {name} of this model: {reason}")
        return target

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Scores, and the sensitivity to keeping only the best of one structure of one block, compensated.

        Raises:
            ValueError: the criterion ranks no structure that budgets narrow, or all calibration images are
                used to fit the compensation.
        """
        require_narrowing(self)
        options = task.request.options
        others = held_out(task, _images(options), images)
        scores = scores or self._score(task, task.start)
        fitted = task.batches("Reading calibration images", task.start)
        place, folding = task.monitor.folder, self.folding(options)
        narrow = narrow_folded(task.start.model, scores, fitted, folding, _images(options), place)
        whole = whole_in_foldings(task.start.model.arch)
        narrowed = [name for name in self.criterion.ranks if name not in whole]
        return Survey(sensitivities(task, others, narrow, narrowed), scores)

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Cut the parts with the lowest scores, and compensate; VBP spreads its neurons over the blocks.

        Raises:
            ValueError: the target narrows what the criterion does not rank, or there are no images.
        """
        heads, start, plan = self._select(task, target, scores)
        options = task.request.options
        images = task.batches("Reading calibration images", start)
        progress = partial(task.monitor, "Compensating")
        small = cut(start.model, plan)
        place, folding = task.monitor.folder, self.folding(options)
        small = fold(start.model, small, plan, images, folding, _images(options), progress, place)
        return Made(small, plan if heads is None else within_heads(heads, plan), heads)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The cut and compensated model."""
        return self.make(task, target, scores).model

    def _spread(self, request: Request, target: Architecture, scores: Scores) -> Architecture:
        """With VBP's global scope, as many neurons in all, ranked over all blocks together.

        One ratio for all blocks leaves open how many go where; a budget and a ratio for each block do not.
        Counts are rounded to multiples of `align`.
        """
        options, ratio = request.options, request.ratios.mlp
        if (
            not isinstance(options, VbpOptions)
            or options.scope != "global"
            or isinstance(ratio, tuple)
            or not ratio
        ):
            return target
        counts = counts_together(scores.mlp, sum(widths.mlp for widths in target.blocks))
        aligned = [max(request.align, round(count / request.align) * request.align) for count in counts]
        blocks = tuple(
            replace(widths, mlp=min(count, len(own)))
            for widths, count, own in zip(target.blocks, aligned, scores.mlp, strict=True)
        )
        return replace(target, blocks=blocks)


def _images(options: Options) -> int:
    count = options.calibration_images
    if count is None:
        raise TypeError(f"a folding needs a number of images, {type(options).__name__} has none")
    return count
