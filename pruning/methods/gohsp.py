"""GOHSP as a method: it ranks heads, trains towards the structure that stays, and cuts."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.vit import Architecture, ViT
from pruning.cut import Scores
from pruning.gohsp import GohspOptions, gohsp, gohsp_target
from pruning.methods.method import Made, Request, Survey, Task, require_narrowing
from pruning.options import Options


@dataclass(frozen=True)
class Gohsp:
    """Heads by their graph, the rest by ADMM."""

    title: str = "GOHSP"
    explanation: str = (
        "Ranks heads by a graph of how alike they are (symmetric by cosine and attention: there the chain "
        "adds nothing to the plain degree), trains towards the structure that stays, and cuts."
    )
    options: type[Options] = GohspOptions
    chooses: bool = False
    heads_first: bool = False
    ranks_heads: bool = True
    narrows: bool = False

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """Widths by ratios, sparsity and locks.

        Raises:
            ValueError: ratios that GOHSP cannot follow, or a sparsity out of reach.
        """
        return gohsp_target(dense, request.ratios, request.align, _options(request), request.locks)

    def scores(self, task: Task) -> None:
        """It ranks heads alone, while it works."""
        return

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Not to be had.

        Raises:
            ValueError: always: GOHSP cannot narrow a single block.
        """
        require_narrowing(self)
        raise AssertionError("require_narrowing refuses GOHSP")

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Rank, train and cut. With one ranking of all heads the ranking decides the widths, not `target`.

        Raises:
            ValueError: what `gohsp` refuses.
        """
        request, options = task.request, _options(task.request)
        images = task.batches("Ranking heads")
        learned = task.training() if options.trains else None
        small, plan = gohsp(
            task.dense.model,
            images,
            request.ratios,
            request.align,
            options,
            learned,
            task.monitor,
            request.locks,
        )
        return Made(small, plan)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The model cut without training."""
        return self.make(task, target).model


def _options(request: Request) -> GohspOptions:
    options = request.options
    if not isinstance(options, GohspOptions):
        raise TypeError(f"GOHSP takes GohspOptions, got {type(options).__name__}")
    return options
