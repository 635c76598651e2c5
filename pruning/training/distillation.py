"""Recovery: fine-tuning of a pruned model with the dense one as teacher (Hinton et al. 2015)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.data import ImageSet
from analysis.models import LoadedModel
from analysis.outputs import FEATURES, task_of
from analysis.vit import Merge, ViT
from pruning.options import Value, option_field, parse_option
from pruning.progress import Monitor
from pruning.training.objective import Objective, bare, cross_entropy
from pruning.training.recipe import Training
from pruning.training.train import train


@dataclass(frozen=True)
class Recovery(Training):
    """How a pruned model is fine-tuned: a `Training`, and what it learns from its teacher."""

    temperature: float = option_field(
        2.0, 0.1, 100.0, "Softens what teacher and student say; 1 leaves it as it is"
    )
    soft: float = option_field(0.9, 0.0, 1.0, "Share of the teacher in the loss; the rest is the labels")
    features: float = option_field(1.0, 0.0, 1e4, "Weight of matching the teacher's tokens after each block")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features and self.compile:
            raise ValueError("features cannot be matched in a compiled model: set features=0 or compile=off")


class Distillation(Objective):
    """Teacher's soft labels, the labels themselves, and the teacher's residual stream where it fits.

    loss = soft · T² · KL(teacher / T || student / T) + (1 - soft) · CE(labels) + features · M, where M
    is the mean squared difference of the tokens B N E behind each block, every token normalised to
    mean 0 and variance 1 [ours]; a token that the student has merged is compared with the mean of the
    teacher's. Streams of another width or depth cannot be compared: then M is 0.

    Without a classifier loss = 1 - cos(pooled feature, teacher's) + features · M: labels play no part, and
    neither do `soft` and `temperature` [ours].
    """

    def __init__(self, teacher: ViT, student: ViT, options: Recovery) -> None:
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.options = options
        shapes = [(m.arch.embed_dim, m.arch.depth, m.arch.num_tokens) for m in (teacher, student)]
        self.matches = options.features > 0 and shapes[0] == shapes[1]
        self.task = task_of(teacher)

    def identity(self) -> object:
        """The teacher is told by its architecture; a run has but one."""
        return type(self).__qualname__, self.teacher.arch

    def loss(
        self, model: nn.Module, images: Float[Tensor, "B C Y X"], targets: Shaped[Tensor, "B *classes"]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss above, with its parts as figures; a teacher with no share in it is not asked."""
        options, teacher = self.options, self.teacher.to(images.device)
        if self.task == FEATURES:
            return self._loss_of_features(model, images)
        if not options.soft and not self.matches:
            return cross_entropy(model(images), targets), {}
        with torch.no_grad(), _streams(teacher, self.matches) as wanted:
            soft = teacher(images)
        with _streams(bare(model), self.matches) as got:
            logits = model(images)
        figures = {"distillation": soft_loss(logits, soft, options.temperature)}
        figures["labels"] = cross_entropy(logits, targets)
        loss = options.soft * figures["distillation"] + (1 - options.soft) * figures["labels"]
        if self.matches:
            figures["features"] = stream_loss(got, wanted)
            loss = loss + options.features * figures["features"]
        return loss, {name: value.detach() for name, value in figures.items()}

    def _loss_of_features(
        self, model: nn.Module, images: Float[Tensor, "B C Y X"]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        with torch.no_grad(), _streams(self.teacher, self.matches) as wanted:
            pooled = self.teacher(images)
        with _streams(bare(model), self.matches) as got:
            figures = {"distillation": 1 - F.cosine_similarity(model(images).float(), pooled.float()).mean()}
        loss = figures["distillation"]
        if self.matches:
            figures["features"] = stream_loss(got, wanted)
            loss = loss + self.options.features * figures["features"]
        return loss, {name: value.detach() for name, value in figures.items()}

    @property
    def score_name(self) -> str:
        """Top-1, or of features their cosine with the teacher's."""
        return "cosine" if self.task == FEATURES else super().score_name

    def score(self, model: ViT, images: Float[Tensor, "B C Y X"], labels: Int[Tensor, " B"]) -> Tensor:
        """Whether the class is right, or the cosine of the pooled feature with the teacher's."""
        if self.task != FEATURES:
            return super().score(model, images, labels)
        return F.cosine_similarity(model(images), self.teacher.to(images.device)(images))

    def require_model(self, model: ViT) -> None:
        """Any model can learn what its teacher does.

        Raises:
            ValueError: a model without a classifier that is to learn without its teacher.
        """
        if self.task == FEATURES:
            require_teaching(self.options)


def require_teaching(options: Recovery) -> None:
    """Refuse options by which a model without a classifier would have nothing to learn from.

    Raises:
        ValueError: the teacher has no share.
    """
    if not options.soft:
        raise ValueError(
            "a model without a classifier learns from its teacher alone: set soft above 0, or choose another "
            "recipe"
        )


def soft_loss(
    logits: Float[Tensor, "B classes"], teacher: Float[Tensor, "B classes"], temperature: float
) -> Float[Tensor, ""]:
    """T² KL(teacher || student) of the softened class probabilities, mean over images."""
    student = F.log_softmax(logits / temperature, dim=-1)
    wanted = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, wanted, log_target=True, reduction="batchmean")


@dataclass(frozen=True, eq=False)
class Stream:
    """The residual stream behind one block.

    `place` says which of the `count` tokens that there are now each token of the first block is part of;
    None where nothing has merged. A last block that skips unread tokens gives fewer values than `count`.
    """

    values: Float[Tensor, "B N E"]
    count: int
    place: Int[Tensor, "B N0"] | None = None


def stream_loss(got: Sequence[Stream], wanted: Sequence[Stream]) -> Float[Tensor, ""]:
    """Mean squared difference of normalised tokens, mean over blocks.

    Where the student has merged tokens, each is compared with the mean of the teacher's over the patches it
    stands for. A last block that skips unread tokens computes only the first ones, which never merge: then
    those that both models compute are compared.
    """
    losses = []
    for a, b in zip(got, wanted, strict=True):
        both = min(a.values.shape[1], b.values.shape[1])
        if a.values.shape[1] == a.count and b.values.shape[1] == b.count:
            own, other = a.values, _merged_alike(b, a)
        else:
            own, other = a.values[:, :both], b.values[:, :both]
        losses.append(F.mse_loss(_normalised(own), _normalised(other)))
    return torch.stack(losses).mean()


def _merged_alike(teacher: Stream, student: Stream) -> Float[Tensor, "B N E"]:
    """The teacher's stream, averaged over the patches of each of the student's tokens."""
    x, width = teacher.values, teacher.values.shape[-1]
    if teacher.place is not None:  # every patch has the value of its token
        x = x.gather(1, teacher.place[..., None].expand(-1, -1, width))
    if student.place is None:
        return x
    sums = F.pad(x, (0, 1), value=1.0)  # the number of patches as a last channel
    into = student.place[..., None].expand(-1, -1, width + 1)
    sums = sums.new_zeros(len(x), student.count, width + 1).scatter_add(1, into, sums)
    return sums[..., :-1] / sums[..., -1:]


def _normalised(tokens: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
    return F.layer_norm(tokens, tokens.shape[-1:])


@contextmanager
def _streams(model: ViT, wanted: bool) -> Iterator[list[Stream]]:
    """Collects the stream behind each block while the model runs inside the `with`."""
    found: list[Stream] = []
    places: list[Tensor] = []  # of the tokens of the first block, after each merging
    hooks: list[RemovableHandle] = []

    def merging(merge: Merge, given: tuple[Tensor, Tensor | None, Tensor | None], _: object) -> None:
        x, _, read = given
        with torch.no_grad():
            place = merge.places(x, read)
            places.append(place.gather(1, places[-1]) if places else place)

    def behind(count: int, _: nn.Module, __: object, output: tuple[Tensor, Tensor | None]) -> None:
        found.append(Stream(output[0], count, places[-1] if places else None))

    count = model.arch.num_tokens
    for block in model.blocks if wanted else ():
        if block.merge is not None:
            count -= block.merge.count
            hooks.append(block.merge.register_forward_hook(merging))
        hooks.append(block.register_forward_hook(partial(behind, count)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def recover(
    student: LoadedModel,
    teacher: LoadedModel,
    images: ImageSet,
    test: ImageSet | None,
    options: Recovery,
    seed: int = 0,
    monitor: Monitor = Monitor(),
    known: Mapping[str, float] | None = None,
) -> LoadedModel:
    """Fine-tune a copy of `student` on `images` so that it does what `teacher` does.

    `known` are figures that the curves begin with.

    Raises:
        ValueError: teacher and student do not fit, or see images differently; what `train` refuses.
        Cancelled: the monitor asked for an end.
    """
    require_pair(student, teacher)
    objective = Distillation(teacher.model, student.model, options)
    if options.features and not objective.matches:
        what = "pooled features" if objective.task == FEATURES else "logits"
        monitor.note(f"teacher and student differ in width or depth: matched on their {what} only")
    model = train(
        student.model,
        images,
        student.preprocess,
        objective,
        options,
        seed=seed,
        test=test,
        monitor=monitor,
        known=known,
    )
    return replace(student, model=model)


def require_pair(
    student: LoadedModel,
    teacher: LoadedModel,
    options: Recovery | None = None,
    both: str = "teacher and student",
) -> None:
    """Check that one model can learn from the other, with these options if they are given.

    `both` is what the two are called, the teacher first.

    Raises:
        ValueError: other classes, features of another width, or other preprocessing.
    """
    counts = [loaded.model.arch.num_classes for loaded in (student, teacher)]
    if counts[0] != counts[1]:
        way = "" if all(counts) else ": leave the classifier out of both, by the option --num-classes 0"
        raise ValueError(
            f"{both} must have the same classes, but {teacher.name} has {counts[1]} "
            f"and {student.name} has {counts[0]}{way}"
        )
    if not counts[0] and options is not None:
        require_teaching(options)
    widths = [loaded.model.arch.feature_dim for loaded in (student, teacher)]
    if not counts[0] and widths[0] != widths[1]:
        raise ValueError(
            f"without a classifier {both} must have features of one width, but "
            f"{teacher.name} has {widths[1]} channels and {student.name} has {widths[0]}"
        )
    labels = [loaded.preprocess.labels for loaded in (student, teacher)]
    if all(labels) and labels[0] != labels[1]:
        differ = next(i for i, (a, b) in enumerate(zip(*labels, strict=True)) if a != b)
        raise ValueError(
            f"{both} must have the same classes in the same order, but class {differ} is "
            f"{labels[1][differ]!r} in {teacher.name} and {labels[0][differ]!r} in {student.name}"
        )
    plain = [replace(loaded.preprocess, labels=()) for loaded in (student, teacher)]
    if plain[0] != plain[1]:
        raise ValueError(
            f"{both} must see images alike, but {teacher.name} and {student.name} "
            "differ in image size or normalisation"
        )


def recovery_options(written: Iterable[tuple[str, str]]) -> tuple[tuple[str, Value], ...]:
    """Options of a recovery from what a user wrote, name and value.

    Raises:
        ValueError: an unknown option, or a value of another kind.
    """
    return tuple((name, parse_option(Recovery, name, text)) for name, text in written)


# Named settings of a recovery, as differences from the defaults. `snp` is SNP's fine-tuning: optimiser, base
# learning rate, weight decay, mixup, cutmix, drop path, an average of the weights and no teacher are the
# paper's [paper's repository]; its 300 epochs at a batch of 512 or more as well. Warm-up, last learning rate,
# smoothing, augmentation and the decay of the average are those of DeiT, on which its code builds [ours].
RECIPES: dict[str, tuple[tuple[str, Value], ...]] = {
    "few-epochs": (),
    "snp": (
        ("epochs", 300),
        ("batch", 512),
        ("base_lr", 2.5e-4),
        ("min_lr", 0.04),
        ("weight_decay", 0.05),
        ("warmup", 5 / 300),
        ("clip", 0.0),
        ("augment", "strong"),
        ("mixup", 0.8),
        ("cutmix", 1.0),
        ("smoothing", 0.1),
        ("drop_path", 0.1),
        ("ema", 0.99996),
        ("soft", 0.0),
        ("features", 0.0),
    ),
}


def read_recovery(options: Iterable[tuple[str, Value]]) -> Recovery:
    """The settings with these values in them.

    Raises:
        ValueError: an unknown option, or a value out of its range.
    """
    known = [option.name for option in fields(Recovery)]
    values = dict(options)
    for name in values:
        if name not in known:
            raise ValueError(f"recovery has no option {name!r}; it has {', '.join(known)}")
    return Recovery(**values)  # type: ignore[arg-type]  # Options checks every value


def option_words(options: Iterable[tuple[str, Value]]) -> list[str]:
    """These options on the command line."""
    return [word for name, value in options for word in ("--recover-option", f"{name}={value}")]
