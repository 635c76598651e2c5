"""Merging tokens alone as a `Method`: no weight changes."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.vit import Architecture, ViT
from pruning.cut import Plan, Scores, cut
from pruning.methods.method import Made, Request, Survey, Task
from pruning.methods.sensitivities import schedules_alone
from pruning.options import Options


@dataclass(frozen=True)
class Tokens:
    """Leaves every weight as it is; tokens merge as the job says, or as its budget finds."""

    title: str = "Token merging"
    explanation: str = (
        "Removes no weights. Patches that look alike to the model become one token on the way through, so "
        "later blocks have fewer to compute (ToMe, Bolya et al., ICLR 2023; later and fewer merges are ours)."
    )
    options: type[Options] = Options
    chooses: bool = False
    heads_first: bool = False
    ranks_heads: bool = False
    narrows: bool = True

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The dense architecture.

        Raises:
            ValueError: ratios or locks ask for parts to be removed.
        """
        if not request.ratios.removes_nothing or request.locks.remove:
            raise ValueError(
                "method tokens removes no parts: set tokens or a budget, or take another method, with which "
                "merging goes as well"
            )
        return dense

    def scores(self, task: Task) -> None:
        """None: it ranks nothing."""
        return

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """What each schedule of merging does to the predictions; no structure is narrowed.

        Raises:
            ValueError: there are no images, or heads are locked to go.
        """
        self.target(task.dense.model.arch, task.request)
        sample = task.calibration.sample(min(images, len(task.calibration)), task.request.seed)
        return Survey(schedules_alone(task, sample))

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """A copy of the model.

        Raises:
            ValueError: the target is not the dense model.
        """
        plan = Plan.keep_all(task.dense.model.arch)
        return Made(cut(task.dense.model, plan), plan)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The same."""
        return self.make(task, target).model
