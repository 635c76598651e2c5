"""GOHSP: rank heads with a graph, train towards structured sparsity by ADMM, then cut.

Yin, Uzkent, Shen, Jin, Yuan, AAAI 2023: graph-based ranking of heads, an optimisation that imposes
different structures on different parts, removal, fine-tuning [paper]. No code is public; the details are
[ours] and documented in `pruning.criteria.head_graph` and `pruning.gohsp.admm`.
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
from analysis.outputs import FEATURES, task_of
from analysis.vit import Architecture, ViT
from pruning.criteria import SCOPES, GraphOptions, counts_together, rank_heads
from pruning.cut import HeadLocks, Plan, Ratios, cut, shrink
from pruning.gohsp.admm import Admm, AdmmOptions, Structure, hard_projection
from pruning.options import choice_field, option_field, switch_field
from pruning.progress import Monitor
from pruning.training import Distillation, Objective, Recovery, batch_size, train

STRUCTURING = "Training towards the structure"


@dataclass(frozen=True)
class GohspOptions(GraphOptions):
    """Options of GOHSP: ranking of heads, sparsity, and training."""

    scope: str = choice_field(
        "block",
        SCOPES,
        "block removes the ratio of heads in every block; global removes the same total, ranking all heads "
        "together.",
    )
    sparsity: float = option_field(
        0.0,
        0.0,
        0.95,
        "Share of all parameters to remove, through value channels and MLP neurons; 0 uses the ratios.",
    )
    epochs: int = option_field(
        1, 0, 10_000, "Passes over the training images before the cut; 0 cuts without training."
    )
    train_images: int = option_field(0, 0, 1_000_000_000, "Training images per epoch; 0 uses all images.")
    batch: int = option_field(64, 2, 65_536, "Images per training step, over all processes.")
    lr: float = option_field(
        0.0, 0.0, 1.0, "Peak learning rate; 0 uses the default of a recovery, in proportion to the batch."
    )
    distill: bool = switch_field(True, "Learn from the dense model's logits as well as from the labels.")
    updates: int = option_field(
        16, 1, 100_000, "Updates of the structure over the whole training, if it were never fixed."
    )
    settle: float = option_field(
        0.5, 0.0, 1.0, "Fraction of the training after which the structure no longer changes."
    )
    pull: float = option_field(
        8.0,
        0.0,
        100.0,
        "Strength of the pull towards the structure: without the loss, exp(-pull) of the distance remains.",
    )
    dual: bool = switch_field(
        False, "Use ADMM's dual variable, which makes many groups of weights change places on the way."
    )

    @property
    def trains(self) -> bool:
        """Whether `epochs` is above 0."""
        return self.epochs > 0

    @property
    def removes(self) -> float:
        """The sparsity."""
        return self.sparsity

    def quick(self, images: int) -> Self:
        """The same options with at most `images` images and no training."""
        return replace(super().quick(images), epochs=0)


@dataclass(frozen=True)
class TrainingData:
    """Training images, and `test` images on which top-1 is measured during training.

    `recipe`, if given, replaces the training settings in the method's options, including those of the
    distillation if `distill` is on.
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
    training_data: TrainingData | None = None,
    monitor: Monitor = Monitor(),
    locks: HeadLocks = HeadLocks(),
) -> tuple[ViT, Plan]:
    """Return a smaller model and the plan it was cut by; `model` is not changed.

    Heads are ranked on `batches`. With `epochs` above 0 the weights are first trained on `training_data`
    towards the structure. Then comes the hard projection, and the cut, which does not change the logits.

    Raises:
        ValueError: raised by `gohsp_target` or `rank_heads`, or epochs without training data.
        Cancelled: the user cancelled the computation.
    """
    options = options or GohspOptions()
    if options.epochs and training_data is None:
        raise ValueError(f"{options.epochs} epochs need training images: provide some, or set epochs=0")
    target = gohsp_target(model.arch, ratios, align, options, locks)
    heads = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    if any(
        after.heads < before.heads for before, after in zip(model.arch.blocks, target.blocks, strict=True)
    ):
        heads = list(locks.order(rank_heads(model, batches, options)))
        target = gohsp_target(model.arch, ratios, align, options, locks, heads)
    structure = Structure(model.arch, target, tuple(tuple(block.tolist()) for block in heads))
    own = copy.deepcopy(model)
    if options.epochs and training_data is not None:
        own = _train_admm(model, structure, options, training_data, monitor).to(
            next(model.parameters()).device
        )
    plan = hard_projection(own, structure)
    return cut(own, plan).train(model.training), plan


def _train_admm(
    model: ViT, structure: Structure, options: GohspOptions, data: TrainingData, monitor: Monitor
) -> ViT:
    """The model after ADMM training: still of full size, but close to the structure."""
    training = data.recipe or Recovery(
        epochs=options.epochs,
        images=options.train_images,
        batch=options.batch,
        lr=options.lr,
    )
    size = batch_size(training, len(data.images), 1)
    steps = training.epochs * max(1, min(training.images or len(data.images), len(data.images)) // size)
    settings = AdmmOptions(steps, options.updates, options.settle, options.pull, options.dual)
    distill = options.distill or task_of(model) == FEATURES  # which has nothing else to learn from
    inner = Distillation(model, model, training) if distill else Objective()
    objective = Admm(inner, model, structure, settings)
    return train(
        model,
        data.images,
        data.preprocess,
        objective,
        training,
        seed=data.seed,
        test=data.test,
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
    """The architecture after the cut. Without the scores of `heads`, scope global is treated as block.

    Raises:
        ValueError: ratios that GOHSP does not support, or a sparsity that cannot be reached.
    """
    if ratios.embed:
        raise ValueError(
            "GOHSP does not prune the residual stream: set embed to 0, or use a method that does, such as snp"
        )
    if options.sparsity and any(getattr(ratios, name) != 0 for name in ("v", "mlp")):
        raise ValueError("set either sparsity or the ratios v and mlp: sparsity determines these ratios")
    target = locks.widths(dense, shrink(dense, ratios, align))
    if heads is not None and options.scope == "global":
        counts = counts_together(heads, sum(widths.heads for widths in target.blocks))
        blocks = (replace(widths, heads=count) for widths, count in zip(target.blocks, counts, strict=True))
        target = replace(target, blocks=tuple(blocks))
    return sparsity_target(dense, target, options.sparsity, align) if options.sparsity else target


def sparsity_target(
    dense: Architecture, start: Architecture, sparsity: float, align: int = 1
) -> Architecture:
    """`start` with value channels and MLP neurons reduced by the lowest ratio that reaches the sparsity.

    At most (1 - sparsity) of the dense model's parameters remain. Heads and query-key pairs are those of
    `start`.

    Raises:
        ValueError: even one value channel per head and one neuron per block are too many.
    """
    limit = (1 - sparsity) * cost(dense).params

    def at(ratio: float) -> Architecture:
        rest = Ratios(
            v=tuple(min(ratio, 1 - 1 / max(1, widths.v)) for widths in dense.blocks),  # keeps at least one
            mlp=tuple(min(ratio, 1 - 1 / max(1, widths.mlp)) for widths in dense.blocks),
        )
        pairs = zip(start.blocks, shrink(dense, rest, align).blocks, strict=True)
        return replace(start, blocks=tuple(replace(old, v=new.v, mlp=new.mlp) for old, new in pairs))

    low, high = 0.0, 1.0
    if cost(at(high)).params > limit:
        least = cost(at(high)).params / cost(dense).params
        raise ValueError(
            f"sparsity {sparsity:g} cannot be reached: with these heads at least {least:.0%} of the "
            "parameters remain; remove more heads or choose a lower sparsity"
        )
    if cost(at(low)).params <= limit:
        return at(low)
    for _ in range(40):  # finer than any width
        middle = (low + high) / 2
        low, high = (low, middle) if cost(at(middle)).params <= limit else (middle, high)
    return at(high)
