"""GOHSP: heads ranked by their graph, then structured sparsity by ADMM, then physical removal.

Yin, Uzkent, Shen, Jin, Yuan, AAAI 2023: graph-based ranking of heads, an optimisation that imposes
different structures on different parts, removal, fine-tuning [paper]. No code is public, and what is
finer than that is [ours]: `pruning.criteria.head_graph` and `pruning.gohsp.admm` say what.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.data import ImageSet
from analysis.measure import Batches, cost
from analysis.models import Preprocess
from analysis.vit import Architecture, ViT
from pruning.criteria import SCOPES, GraphOptions, head_counts, rank_heads
from pruning.cut import HeadLocks, Plan, Ratios, cut, shrink
from pruning.gohsp.admm import Admm, AdmmOptions, Structure, hard_projection
from pruning.options import choice_field, option_field, switch_field
from pruning.progress import Monitor
from pruning.training import Distillation, Objective, Recovery, batch_size, train

STRUCTURING = "Training towards the structure"


@dataclass(frozen=True)
class GohspOptions(GraphOptions):
    """Settings of GOHSP: how heads are ranked, how much goes, and how it is trained away."""

    scope: str = choice_field(
        "block", SCOPES, "Remove the ratio of heads in every block, or the same number in one ranking of all."
    )
    sparsity: float = option_field(
        0.0,
        0.0,
        0.95,
        "Share of all parameters to remove, by value channels and MLP neurons; 0: as the ratios say.",
    )
    epochs: int = option_field(
        1, 0, 10_000, "Passes over the training images before the cut; 0: no training."
    )
    train_images: int = option_field(0, 0, 1_000_000_000, "Training images of one epoch; 0: all there are.")
    batch: int = option_field(64, 2, 65_536, "Images of one step, over all processes.")
    lr: float = option_field(5e-4, 0.0, 1.0, "Highest learning rate.")
    distill: bool = switch_field(True, "Learn from the dense model as well as from the labels.")
    rho: float = option_field(1e-3, 1e-9, 1e3, "Pull towards the structure at the beginning.")
    growth: float = option_field(1.2, 1.0, 10.0, "Factor on rho at every update of the structure.")
    updates: int = option_field(40, 1, 100_000, "Updates of the structure, over the whole training.")

    @property
    def trains(self) -> bool:
        """Whether there is any training."""
        return self.epochs > 0

    @property
    def removes(self) -> float:
        """The sparsity."""
        return self.sparsity

    def quick(self, images: int) -> Self:
        """The same without training."""
        return replace(super().quick(images), epochs=0)


@dataclass(frozen=True)
class TrainingData:
    """What there is to train on, and `test` images for the curve of top-1.

    `recipe` says in full how, in place of the method's options; with `distill` it is the teacher's too.
    """

    images: ImageSet
    preprocess: Preprocess
    seed: int = 0
    test: ImageSet | None = None
    recipe: Recovery | None = None


def gohsp(
    model: ViT,
    batches: Batches,
    ratios: Ratios,
    align: int = 1,
    options: GohspOptions | None = None,
    lesson: TrainingData | None = None,
    monitor: Monitor = Monitor(),
    locks: HeadLocks = HeadLocks(),
) -> tuple[ViT, Plan]:
    """A smaller model and the plan it was cut by; `model` is not changed.

    Heads are ranked on `batches`. With `epochs` the weights are trained on `lesson` towards the
    structure, without they are projected as they are. Then the hard projection, whose logits the cut keeps.

    Raises:
        ValueError: what `gohsp_target` and `rank_heads` refuse; epochs without a lesson.
        Cancelled: the monitor asked for an end.
    """
    options = options or GohspOptions()
    if options.epochs and lesson is None:
        raise ValueError(f"{options.epochs} epochs need training images: give some, or set epochs=0")
    target = gohsp_target(model.arch, ratios, align, options, locks)
    heads = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    if any(
        after.heads < before.heads for before, after in zip(model.arch.blocks, target.blocks, strict=True)
    ):
        heads = list(locks.order(rank_heads(model, batches, options)))
        target = gohsp_target(model.arch, ratios, align, options, locks, heads)
    structure = Structure(model.arch, target, tuple(tuple(block.tolist()) for block in heads))
    ready = copy.deepcopy(model)
    if options.epochs and lesson is not None:
        ready = _optimised(model, structure, options, lesson, monitor).to(next(model.parameters()).device)
    plan = hard_projection(ready, structure)
    return cut(ready, plan).train(model.training), plan


def _optimised(
    model: ViT, structure: Structure, options: GohspOptions, lesson: TrainingData, monitor: Monitor
) -> ViT:
    """The model after the ADMM training: full size, near the structure."""
    training = lesson.recipe or Recovery(
        epochs=options.epochs,
        images=options.train_images,
        batch=options.batch,
        lr=options.lr,
    )
    size = batch_size(training, len(lesson.images), 1)
    steps = training.epochs * max(1, min(training.images or len(lesson.images), len(lesson.images)) // size)
    settings = AdmmOptions(options.rho, options.growth, -(-steps // options.updates))
    inner = Distillation(model, model, training) if options.distill else Objective()
    objective = Admm(inner, model, structure, settings)
    return train(
        model,
        lesson.images,
        lesson.preprocess,
        objective,
        training,
        seed=lesson.seed,
        test=lesson.test,
        monitor=monitor,
        what=STRUCTURING,
    )


def gohsp_target(
    dense: Architecture,
    ratios: Ratios,
    align: int,
    options: GohspOptions,
    locks: HeadLocks = HeadLocks(),
    heads: Sequence[Float[Tensor, " H"]] | None = None,
) -> Architecture:
    """The widths that stay. Without the ranking, global scope is taken as spread evenly.

    Raises:
        ValueError: ratios that GOHSP cannot follow, or a sparsity out of reach.
    """
    if ratios.embed:
        raise ValueError(
            "GOHSP keeps the whole residual stream: set embed to 0, or use method snp to remove some of it"
        )
    if options.sparsity and any(getattr(ratios, name) != 0 for name in ("v", "mlp")):
        raise ValueError("give a sparsity, or ratios v and mlp, not both: sparsity finds these ratios")
    target = locks.widths(dense, shrink(dense, ratios, align))
    if heads is not None and options.scope == "global":
        counts = head_counts(heads, sum(widths.heads for widths in target.blocks))
        blocks = (replace(widths, heads=count) for widths, count in zip(target.blocks, counts, strict=True))
        target = replace(target, blocks=tuple(blocks))
    return sparsity_target(dense, target, options.sparsity, align) if options.sparsity else target


def sparsity_target(
    dense: Architecture, start: Architecture, sparsity: float, align: int = 1
) -> Architecture:
    """`start` with value channels and MLP neurons cut by one ratio, the lowest that is enough.

    Enough is: at most (1 - sparsity) of the dense model's parameters. Heads and query-key pairs
    stay as they are in `start`.

    Raises:
        ValueError: even one channel a head and one neuron a block are too many.
    """
    limit = (1 - sparsity) * cost(dense).params

    def at(ratio: float) -> Architecture:
        rest = Ratios(
            v=tuple(min(ratio, 1 - 1 / widths.v) for widths in dense.blocks),  # one is left at least
            mlp=tuple(min(ratio, 1 - 1 / widths.mlp) for widths in dense.blocks),
        )
        pairs = zip(start.blocks, shrink(dense, rest, align).blocks, strict=True)
        return replace(start, blocks=tuple(replace(old, v=new.v, mlp=new.mlp) for old, new in pairs))

    low, high = 0.0, 1.0
    if cost(at(high)).params > limit:
        least = cost(at(high)).params / cost(dense).params
        raise ValueError(
            f"sparsity {sparsity:g} is out of reach: with these heads at least {least:.0%} of the parameters "
            "stay; remove more heads, or choose a lower sparsity"
        )
    if cost(at(low)).params <= limit:
        return at(low)
    for _ in range(40):  # finer than any width
        middle = (low + high) / 2
        low, high = (low, middle) if cost(at(middle)).params <= limit else (middle, high)
    return at(high)
