"""What a pruning method is asked to do, what it is given, and what it has to offer: `Method`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

from analysis.data import ImageSet
from analysis.measure import Batches
from analysis.models import LoadedModel
from analysis.vit import Architecture, ViT
from pruning.budget import Sensitivities
from pruning.cut import HeadLocks, Plan, Ratios, Scores, cut
from pruning.gohsp import TrainingData
from pruning.options import Options
from pruning.progress import Monitor
from pruning.tracked import RepeatableBatches, tracked


@dataclass(frozen=True)
class Request:
    """What is to be removed, and how: everything a job says but for its model and images.

    `heads_by` names a criterion that removes heads before the method works inside those that stay;
    `compensate` asks for a least-squares refit of `proj` and `fc2` after a selection.
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
    """A request, the dense model and the images it is carried out on, and the monitor it reports to.

    `training` opens what a method that trains learns from; it is called only if the method does.
    """

    dense: LoadedModel
    request: Request
    calibration: ImageSet
    training: Callable[[], TrainingData]
    monitor: Monitor = Monitor()

    @cached_property
    def locked(self) -> Plan | None:
        """The plan that removes the heads locked to go and nothing else; None where there are none.

        Raises:
            ValueError: the locks do not fit the model.
        """
        return self.request.locks.plan(self.dense.model.arch)

    @cached_property
    def start(self) -> LoadedModel:
        """The dense model without the heads locked to go: what is scored, and where a budget begins."""
        return self.without(self.locked)

    def without(self, heads: Plan | None) -> LoadedModel:
        """The dense model cut by a plan of heads; itself where there is none."""
        return self.dense if heads is None else replace(self.dense, model=cut(self.dense.model, heads))

    def batches(self, what: str, loaded: LoadedModel | None = None) -> Batches:
        """As many calibration images as the options ask for, in batches that can be read again."""
        wanted = self.request.options.calibration_images
        return self.sampled(wanted or len(self.calibration), what, loaded)

    def sampled(self, count: int, what: str, loaded: LoadedModel | None = None) -> Batches:
        """At most `count` calibration images, in batches that can be read again."""
        chosen = self.calibration.sample(min(count, len(self.calibration)), self.request.seed)
        return RepeatableBatches(lambda: tracked(chosen, loaded or self.dense, what, self.monitor))

    def quick(self, images: int) -> Task:
        """The same on at most `images` calibration images and without training: a rough try."""
        return replace(self, request=replace(self.request, options=self.request.options.quick(images)))


@dataclass(frozen=True)
class Survey:
    """What budgets of any size are solved on: sensitivities, and scores where the method ranks parts."""

    sensitivities: Sensitivities
    scores: Scores | None = None


class Made(NamedTuple):
    """A smaller model, the plan it was cut by where the method chooses, and that by which heads went."""

    model: ViT
    plan: Plan | None
    heads: Plan | None = None


class Method(Protocol):
    """A way of making a model smaller: one class in this folder, one entry in `METHODS`.

    How many calibration images it reads and whether it trains are told by its options
    (`Options.calibration_images`, `Options.trains`).
    """

    @property
    def title(self) -> str: ...

    @property
    def explanation(self) -> str:
        """One sentence for the interface."""
        ...

    @property
    def options(self) -> type[Options]: ...

    @property
    def chooses(self) -> bool:
        """Whether it keeps some of the dense model's parts and leaves their weights as they are.

        What it chooses can be tried with a mask, and can be compensated.
        """
        ...

    @property
    def heads_first(self) -> bool:
        """Whether another criterion may remove heads before it works inside the others."""
        ...

    @property
    def ranks_heads(self) -> bool:
        """Whether it can say itself which heads to remove."""
        ...

    @property
    def narrows(self) -> bool:
        """Whether it can narrow a single block, which budgets are solved with."""
        ...

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture that the request's ratios and locks ask for.

        Raises:
            ValueError: ratios or locks that do not fit the model, or that the method cannot follow.
        """
        ...

    def scores(self, task: Task) -> Scores | None:
        """What every part of `task.start` is worth; None where the method ranks nothing by itself."""
        ...

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """Measure what budgets are solved on, with at most `images` images for the sensitivities.

        Raises:
            ValueError: the method cannot narrow a single block, or there are too few images.
        """
        ...

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """The smaller model. `scores` of `task.start` are reused where they are known.

        Raises:
            ValueError: the method cannot make this target.
        """
        ...

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """A model that predicts what `make` would, for a rough measurement: masked, or made quickly."""
        ...


def require_narrowing(method: Method) -> None:
    """Refuse a method that no budget can be solved for.

    Raises:
        ValueError: it is one.
    """
    if not method.narrows:
        raise ValueError(
            f"{method.title} cannot narrow a single block, which budgets are solved with: "
            "give ratios, or take another method such as snp"
        )
