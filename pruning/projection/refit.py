"""Refits: what a layer's weight becomes when its inputs are fewer, or not what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pruning.projection.block_parts import HalfBlock, folded, set_folded
from pruning.projection.least_squares import Moments, Statistics, regularised, ridge_held_out
from pruning.projection.streams import Still, Streams

_LOCAL = 1e-3  # strength of the ridge by which kept channels stand in for the removed ones


@dataclass(frozen=True)
class Aim:
    """What a writer is refitted to: statistics of its inputs z and of what is aimed at, and its weight.

    The same for every width, so it is worked out once for a whole curve: its products take time that is
    cubic in the width. `halves` are the statistics of each half of the images.
    """

    weight: Float[Tensor, "E I"]
    whole: Statistics
    halves: tuple[Statistics, Statistics] | None
    local: Statistics  # of weight z alone, and of a regularised covariance


def aim(moments: Moments, weight: Float[Tensor, "E I"], pull: float) -> Aim:
    """What is aimed at is so much as `pull` says of what would bring the dense stream back, else weight z.

    `moments` are of the inputs z and of what would bring it back.
    """
    whole, halves = moments.statistics().towards(weight, 1 - pull), moments.halves()
    if halves is not None:
        halves = halves[0].towards(weight, 1 - pull), halves[1].towards(weight, 1 - pull)
    covariance = regularised(whole.covariance, _LOCAL)
    return Aim(weight, whole, halves, replace(whole, covariance=covariance, cross=covariance @ weight.T))


def goal(aim: Aim) -> tuple[Tensor, Float[Tensor, "E I"]]:
    """Covariance of a layer's inputs, regularised, and the weight that would be best with all of them."""
    best, strength = ridge_held_out(aim.whole, aim.halves, aim.weight)
    return regularised(aim.whole.covariance, min(strength, _LOCAL)), best


def refit(
    aim: Aim, down: Float[Tensor, "K I"] | Int[Tensor, " K"]
) -> tuple[Float[Tensor, "E K"], Float[Tensor, " E"]]:
    """Weight on the new channels, and the bias behind it.

    New channels are `down` z, or those of z that it numbers. Least squares shrunk towards the local
    solution, which stands in for weight z alone.
    """
    local, whole, halves = _narrowed(aim.local, down), _narrowed(aim.whole, down), aim.halves
    prior = torch.linalg.solve(local.covariance, local.cross).T
    if halves is not None:
        halves = _narrowed(halves[0], down), _narrowed(halves[1], down)
    fitted, _ = ridge_held_out(whole, halves, prior)
    return fitted, whole.mean_out - fitted @ whole.mean_in


def reader_moments(
    streams: Streams,
    weights: Float[Tensor, " N"],
    before: Callable[[Tensor], Tensor],
    after: Callable[[Tensor], Tensor],
    widths: tuple[int, int],
) -> Moments:
    """Moments of what `after` makes of the pruned stream and `before` of the dense one, of these widths."""
    moments = Moments(*widths, streams.device)
    for _, dense, x in streams:
        moments.add(after(x), before(dense), weights)
    return moments


def refit_reader(wide: nn.Linear, narrow: nn.Linear, moments: Moments, prior: Float[Tensor, "E K"]) -> None:
    """Give `narrow` what `wide` makes of the best linear estimate of its inputs, from other ones.

    `moments` are of the other inputs and of those of `wide`; the estimate is shrunk towards `prior`.
    """
    whole = moments.statistics()
    estimate, _ = ridge_held_out(whole, moments.halves(), prior)
    shift = whole.mean_out - estimate @ whole.mean_in
    weight = wide.weight.double()
    narrow.weight.copy_(weight @ estimate)
    narrow.bias.copy_(wide.bias.double() + weight @ shift)


def writer_moments(
    streams: Streams | Still,
    weights: Float[Tensor, " N"],
    dense: HalfBlock | None,
    layer: nn.Linear,
    inputs: Callable[[Tensor], Tensor],
    missing: Callable[[Tensor, Tensor], Tensor],
    *,
    advance: bool = True,
) -> Moments:
    """Moments of a writer's inputs and of what it has to add; takes the dense stream behind `dense`.

    `layer` has the writer's widths. `inputs` are of the pruned stream, `missing` of the dense stream
    behind this half and the pruned one before it. Without `advance` the dense stream stays where it is,
    and without `dense` as well: then there is nothing to add.
    """
    moments = Moments(layer.in_features, layer.out_features, streams.device)
    for number, before, x in streams:
        behind = None if dense is None else dense.through(before)
        wanted = x.new_zeros(*x.shape[:2], layer.out_features) if behind is None else missing(behind, x)
        moments.add(inputs(x), wanted, weights)
        if advance and behind is not None:
            streams.write(number, dense=behind)
    return moments


def refit_writer(
    dense: HalfBlock,
    narrow: HalfBlock,
    streams: Streams,
    weights: Float[Tensor, " N"],
    onto: Callable[[Float[Tensor, "B N E"]], Float[Tensor, "B N K"]],
    *,
    keep_bias: bool = False,
) -> None:
    """Refit a writer so that the pruned stream meets the dense one behind it; takes both streams there.

    `onto` takes the dense stream to the channels of the pruned one. With `keep_bias` the bias stays as
    well where held-out images speak against any change of the weight.
    """
    layer, inputs = narrow.writer, narrow.before_writer()
    moments = writer_moments(streams, weights, dense, layer, inputs, lambda behind, x: onto(behind) - x)
    weight, bias = folded(layer, narrow.scale)
    whole = moments.statistics()
    fitted, strength = ridge_held_out(whole, moments.halves(), weight)
    if strength < float("inf") or not keep_bias:
        bias = whole.mean_out - fitted @ whole.mean_in
    set_folded(layer, narrow.scale, fitted, bias)
    streams.advance(narrow.through)


def _narrowed(statistics: Statistics, down: Tensor) -> Statistics:
    return statistics.through(down) if down.is_floating_point() else statistics.only(down)
