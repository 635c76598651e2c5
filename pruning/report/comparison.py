"""Comparisons of models as data, which the Compare page and the report show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from analysis.attention import AttentionMaps, Map
from analysis.data import ImageSet
from analysis.measure import (
    CLASSES,
    NEIGHBOURS,
    Agreement,
    Cost,
    Evaluation,
    PairedChange,
    Timing,
    agreement,
    cost,
    ece,
    front,
    paired_change,
)
from analysis.models import DEMO, WEIGHTS_FILE, LoadedModel, Named, architecture
from analysis.paths import is_file, may_be_path, user_path
from analysis.vit import Architecture
from pruning.bundle import Report, is_bundle
from pruning.cut import Indices, Plan, kept_heads, unmerged
from pruning.jobs import Timings, read_report
from pruning.quantize import QuantizedReport
from pruning.report.quantized import quantized_in
from pruning.runs import JOB, FinishedRun, Heads, read_plan
from pruning.wording import base_name

DENSE = "dense"
MAX_COMPARED = 4  # models shown next to the dense one


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison, with its evaluation on the images of the comparison.

    `name` is short, `title` says how the model was made, `source` is what `load` takes. `when` says whether
    `result` was measured before or after fine-tuning, and is empty if nothing was pruned; `start` is the
    evaluation before fine-tuning, if known. `command` is the command line that makes the model. `heads` says
    which heads of the dense model stay if there is no plan. `int8` are the figures of its quantised files.
    """

    name: str
    title: str
    source: Named
    arch: Architecture
    result: Evaluation
    when: str = ""
    plan: Plan | None = None
    start: Evaluation | None = None
    command: str = ""
    heads: Heads | None = None
    int8: tuple[QuantizedReport, ...] = ()

    @cached_property
    def cost(self) -> Cost:
        """Parameters, MACs and bytes."""
        return cost(self.arch)

    @cached_property
    def ece(self) -> float:
        """Expected calibration error on the images, a fraction."""
        return ece(self.result)

    @cached_property
    def file_bytes(self) -> int | None:
        """Size of the weights file in bytes, None if it is not on this machine."""
        file = _weights_file(self.source.model, self.source.weights)
        return None if file is None else file.stat().st_size

    @property
    def dtype(self) -> str:
        """The precision of the weights file, empty if it is not on this machine."""
        if self.file_bytes is None:
            return ""
        return "float16" if self.file_bytes < 3 * self.cost.params else "float32"

    def agreement(self, dense: ComparedModel) -> Agreement:
        """How far its predictions agree with those of the dense model."""
        return agreement(dense.result, self.result)

    def top1_change(self, dense: ComparedModel) -> PairedChange:
        """How its top-1 differs from the dense model's on the same images."""
        return paired_change(dense.result, self.result)

    def has_maps_like(self, dense: Architecture) -> bool:
        """Whether its attention maps are comparable with the dense model's; a teacher may differ in shape."""
        mine, other = ((arch.depth, arch.num_tokens, arch.image_size) for arch in (self.arch, dense))
        return mine == other

    def kept(self, dense: Architecture) -> tuple[Indices | None, ...]:
        """Which heads of the dense model its heads are, per block; None where that is not known."""
        if not self.has_maps_like(dense) or (self.plan is not None and not self._fits(self.plan, dense)):
            return (None,) * dense.depth
        if self.plan is None and self.heads is not None and self._heads_fit(self.heads, dense):
            return self.heads
        return kept_heads(self.plan, dense, self.arch)

    def _fits(self, plan: Plan, dense: Architecture) -> bool:
        """Whether cutting the dense model by the plan gives this model's widths, whatever tokens merge."""
        try:
            return unmerged(plan.architecture(dense)).blocks == unmerged(self.arch).blocks
        except ValueError:
            return False

    def _heads_fit(self, heads: Heads, dense: Architecture) -> bool:
        """Whether these can be the heads of the dense model that this model kept."""
        if len(heads) != dense.depth:
            return False
        blocks = zip(heads, dense.blocks, self.arch.blocks, strict=True)
        return all(
            one is None or (len(one) == mine.heads and max(one, default=-1) < before.heads)
            for one, before, mine in blocks
        )


@dataclass(frozen=True)
class Trade:
    """A model in the trade-off of accuracy against MACs.

    `speedup` is over the dense model, with its 95 % interval, if it was measured.
    """

    name: str
    gmacs: float
    result: Evaluation
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    dense: bool = False

    @classmethod
    def of(cls, model: ComparedModel, timing: Timing | None = None) -> Trade:
        """The point of a smaller model."""
        if timing is None:
            return cls(model.name, model.cost.gmacs, model.result)
        speedups = (timing.speedup, timing.speedup_low, timing.speedup_high)
        return cls(model.name, model.cost.gmacs, model.result, *speedups)


@dataclass(frozen=True)
class Comparison:
    """The dense model and others to compare with it, on the images `tested`.

    `data` names these images, `trades` are all runs of this dense model on them, `load` gives a model.
    """

    dense: ComparedModel
    others: tuple[ComparedModel, ...]
    tested: ImageSet
    data: str
    trades: tuple[Trade, ...]
    timings: Timings | None
    load: Callable[[Named], LoadedModel]

    @property
    def models(self) -> tuple[ComparedModel, ...]:
        """All models, the dense one first."""
        return (self.dense, *self.others)

    @property
    def classifies(self) -> bool:
        """Whether the models are classifiers; otherwise their features were measured."""
        return self.dense.result.measure == CLASSES

    def class_name(self, index: int) -> str:
        """Name of a class of the test images, or of a nearest neighbour where they have no classes."""
        if self.dense.result.measure == NEIGHBOURS:
            return f"image {index}"
        known = self.tested.classes
        return known[index] if index < len(known) else f"class {index}"  # of the gallery alone


def dense_of(run: FinishedRun, loaded: LoadedModel) -> ComparedModel:
    """The dense model of a run, with the run's evaluation of it."""
    title = f"{base_name(run.origin.model)}, not pruned"
    return ComparedModel(DENSE, title, run.origin, loaded.model.arch, run.before)


def smaller_of(run: FinishedRun, name: str, title: str) -> ComparedModel:
    """The smaller model of a run."""
    return ComparedModel(
        name,
        title,
        Named(str(run.bundle)),
        run.arch,
        run.after,
        run.when,
        run.plan,
        run.start,
        run.job.command(),
        run.heads,
    )


def of_bundle(folder: Path, result: Evaluation) -> ComparedModel:
    """A bundle that belongs to no run, with its evaluation on the images of the comparison.

    Raises:
        ValueError: it is no bundle, or damaged.
    """
    report = read_report(folder) or Report()
    when = report.stage if report.method else ""
    arch, plan = architecture(str(folder)), read_plan(folder)
    source = Named(str(folder))
    return ComparedModel(folder.name, folder.name, source, arch, result, when, plan, heads=report.heads)


def with_int8(model: ComparedModel, built: Iterable[QuantizedReport] = ()) -> ComparedModel:
    """The model with the figures of its int8 files: those `built`, and those that lie in its folder.

    Raises:
        ValueError: the figures of one are damaged.
    """
    name, weights = model.source.model, model.source.weights
    places: list[Path] = []
    if not weights and name != "demo" and may_be_path(name):
        folder = user_path(name, "the model")
        places = [folder, folder.parent] if is_file(folder.parent / JOB) else [folder]
    return replace(model, int8=(*quantized_in(places), *built))


def trade_front(trades: Sequence[Trade], by: str = "gmacs") -> tuple[Trade, ...]:
    """The Pareto front: models that no other beats in top-1 at the same cost or less, cheapest first.

    The cost is GMACs, or with `by` "speedup" the latency, of the models for which it is known.
    """
    known = [trade for trade in trades if getattr(trade, by) is not None]
    costs = [trade.gmacs if by == "gmacs" else 1 / (trade.speedup or 1.0) for trade in known]
    points = [(cost, trade.result.top1) for cost, trade in zip(costs, known, strict=True)]
    return tuple(known[index] for index in front(points))


def newest_timings(measured: Iterable[Timings], sources: Sequence[Named]) -> Timings | None:
    """The newest measurement that includes all of these models; `measured` is sorted newest first."""
    return next(
        (timed for timed in measured if {source[:2] for source in sources} <= set(timed.models)), None
    )


def aligned(
    maps: AttentionMaps, row: int, kept: Sequence[Indices | None], dense: Architecture
) -> list[list[Map | None]]:
    """Maps of one row of a model's heads, arranged as in the dense model; None for removed heads."""
    planes: list[list[Map | None]] = []
    for block, (heads, widths) in enumerate(zip(kept, dense.blocks, strict=True)):
        own = {head: maps.blocks[block][place, row].numpy() for place, head in enumerate(heads or ())}
        planes.append([own.get(head) for head in range(widths.heads)])
    return planes


def _weights_file(name: str, weights: str | None) -> Path | None:
    if weights:
        file = user_path(weights, "the weights file")
    elif not (name == "demo" or may_be_path(name)):
        return None
    else:
        folder = DEMO if name == "demo" else user_path(name, "the model")
        file = folder / WEIGHTS_FILE
        if not is_bundle(folder):
            return None
    return file if file.is_file() else None
