"""GOHSP as a `Method`."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.vit import Architecture, ViT
from pruning.cut import Scores
from pruning.gohsp import GohspOptions, gohsp, gohsp_target
from pruning.methods.method import Made, Request, Survey, Task, require_narrowing
from pruning.options import Options


@dataclass(frozen=True)
class Gohsp:
    """Ranks heads with a graph, prunes the other structures by ADMM training."""

    title: str = "GOHSP"
    explanation: str = (
        "Ranks heads with a graph of their similarities, trains the weights towards the pruned structure "
        "(ADMM), then cuts. With a symmetric similarity (all but predictability) and no teleport the "
        "stationary distribution is each head's degree, so the Markov chain adds nothing."
    )
    options: type[Options] = GohspOptions
    chooses: bool = False
    heads_first: bool = False
    ranks_heads: bool = True
    narrows: bool = False

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture after removing the ratios or the sparsity, subject to the locks.

        Raises:
            ValueError: ratios that GOHSP does not support, or a sparsity that cannot be reached.
        """
        return gohsp_target(dense, request.ratios, request.align, _options(request), request.locks)

    def scores(self, task: Task) -> None:
        """None: GOHSP only ranks heads, in `make`."""
        return

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Not supported.

        Raises:
            ValueError: always: GOHSP cannot narrow a single block.
        """
        require_narrowing(self)
        raise AssertionError("require_narrowing refuses GOHSP")

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Rank, train and cut. With scope global the ranking determines the widths, not `target`.

        Raises:
            ValueError: raised by `gohsp`.
        """
        request, options = task.request, _options(task.request)
        images = task.batches("Ranking heads")
        training_data = task.training() if options.trains else None
        small, plan = gohsp(
            task.dense.model,
            images,
            request.ratios,
            request.align,
            options,
            training_data,
            task.monitor,
            request.locks,
        )
        return Made(small, plan)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The cut model; a task from `Task.quick` is cut without training."""
        return self.make(task, target).model


def _options(request: Request) -> GohspOptions:
    options = request.options
    if not isinstance(options, GohspOptions):
        raise TypeError(f"GOHSP takes GohspOptions, got {type(options).__name__}")
    return options
