"""Finds how to quantise a model: how far to smooth it, and which layers are to stay in float."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from analysis import outputs
from analysis.formats import Checked
from analysis.outputs import Output, task_of
from analysis.vit import ViT
from pruning.progress import Progress, quiet
from pruning.quantize.layers import Spans, input_spans, kind, linear_layers
from pruning.quantize.simulate import simulated
from pruning.quantize.smooth import smooth, smoothing_factors

ALPHAS = (None, 0.25, 0.5, 0.75, 0.9)  # None: not smoothed
ENOUGH = 5e-3  # mean KL divergence in nats: below it no layer is worth the time that it costs in float
_WORTH = 0.1  # share of the divergence that a layer, or a kind of layer, must take away to stay in float
_WHAT = "Choosing what to quantise"


@dataclass(frozen=True)
class Trial(Checked):
    """What was tried: smoothed by `alpha` (None: not), with the layers in `floating` left in float.

    `kl` is the mean divergence of its output from the float model's: of logits the KL divergence in nats, of
    features that of the pooled ones (`analysis.outputs.divergence`).
    """

    alpha: float | None
    floating: tuple[str, ...]
    kl: float


@dataclass(frozen=True)
class Choice:
    """The trial that was chosen, all trials in their order, and the model smoothed accordingly.

    `quantised` names the layers to compute in int8.
    """

    best: Trial
    tried: tuple[Trial, ...]
    model: ViT
    quantised: tuple[str, ...]


@dataclass
class _Search:
    """The model, what is known of it, and what was tried so far."""

    model: ViT
    spans: Spans
    images: Sequence[Tensor]
    progress: Progress
    expected: list[Tensor] = field(default_factory=list)  # output of the float model, by batch
    tried: list[Trial] = field(default_factory=list)

    def smoothed(self, alpha: float | None) -> tuple[ViT, Spans]:
        if alpha is None:
            return self.model, self.spans
        factors = smoothing_factors(self.model, self.spans, alpha)
        spans = {
            name: span.over(factors[name]) if name in factors else span for name, span in self.spans.items()
        }
        return smooth(self.model, factors), spans

    def trial(self, alpha: float | None, floating: Collection[str] = ()) -> Trial:
        model, spans = self.smoothed(alpha)
        kl = divergence(simulated(model, spans, floating), self.expected, self.images)
        self.tried.append(Trial(alpha, tuple(floating), kl))
        self.progress(_WHAT, min(0.99, len(self.tried) / 40))
        return self.tried[-1]


def choose(
    model: ViT,
    fit: Sequence[Float[Tensor, "B C Y X"]],
    aside: Sequence[Float[Tensor, "B C Y X"]],
    progress: Progress = quiet,
) -> Choice:
    """Choose smoothing and float layers by the divergence on images that no range was taken from.

    The ranges of the activations come from the batches `fit`, the divergence is measured on `aside`, in a
    simulation of the int8 model. Of `ALPHAS` the best is taken. If the divergence is above `ENOUGH`, layers
    are put back into float, as `_restored` says.

    Raises:
        ValueError: no images.
    """
    search = _Search(model, input_spans(model, fit), aside, progress)
    with torch.inference_mode():
        search.expected = [model(batch) for batch in aside]
    best = min((search.trial(alpha) for alpha in ALPHAS), key=lambda trial: trial.kl)
    if best.kl > ENOUGH:
        best = _restored(search, best)
    progress(_WHAT, 1.0)
    quantised = tuple(name for name in search.spans if name not in best.floating)
    return Choice(best, tuple(search.tried), search.smoothed(best.alpha)[0], quantised)


def divergence(model: ViT, expected: Sequence[Tensor], images: Sequence[Tensor]) -> float:
    """Mean divergence of a model's output from the expected one.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("there are no images to measure the divergence on")
    with torch.inference_mode():
        found = [model(batch) for batch in images]
    return mean_divergence(task_of(model), torch.cat(list(expected)), torch.cat(found))


def mean_divergence(task: str, expected: Float[Tensor, "B K"], found: Float[Tensor, "B K"]) -> float:
    """Mean over images of the divergence of logits, or of pooled features."""
    return float(outputs.divergence(Output(task, expected), Output(task, found)).mean())


def _restored(search: _Search, start: Trial) -> Trial:
    """Put the layers back into float that cost the most, from everything in int8.

    First each kind of layer (all `qkv`, all `fc2`, ..) is put back by itself. Kinds that take away less than
    a tenth of the divergence are done with; the layers of the others are put back one by one, and then
    together, the best first, as long as the next one takes away a tenth of the divergence at the start and
    it is above `ENOUGH` [ours].
    """
    names = [name for name in linear_layers(search.model) if name in search.spans]
    groups = [[name for name in names if kind(name) == one] for one in dict.fromkeys(map(kind, names))]
    worth = _WORTH * start.kl
    layers = [
        name for group in groups if start.kl - search.trial(start.alpha, group).kl >= worth for name in group
    ]
    alone = {name: search.trial(start.alpha, (name,)).kl for name in layers}
    best = start
    for name in sorted(layers, key=alone.__getitem__):
        if best.kl <= ENOUGH:
            break
        further = search.trial(start.alpha, (*best.floating, name))
        if best.kl - further.kl < worth:
            break
        best = further
    return best
