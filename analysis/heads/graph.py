"""The head graph: how alike the heads of a block are, as a Markov chain, and its stationary distribution.

GOHSP (Yin et al., AAAI 2023) takes the correlation between heads for a Markov chain run to
convergence and its stationary distribution for their importance [paper]; which similarities,
which direction an edge has, teleport and laziness are [ours].

`weights[i, j]` is the weight of the edge from head i to head j, from 0 to 1. Self loops are left out
[ours]: that a head resembles itself says nothing about it, and it would only slow the chain down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations, capture
from analysis.heads.statistics import bits
from analysis.measure import Batches
from analysis.vit import ViT

if TYPE_CHECKING:
    import networkx

RIDGE = 1e-3  # of the mean variance of the predicting head's channels
_ROUNDING = 1e-12  # of the second moments: a variance below this share of them is none


def cosine(block: BlockActivations) -> Float[Tensor, "B H H"]:
    """|cosine| of the heads' outputs of each image, taken as vectors of N Dv values.

    The absolute value [ours]: `proj` undoes a sign, so an opposite output is as alike as an equal one,
    and a chain takes no negative weights. A head whose output is zero resembles none.
    """
    outputs = torch.nn.functional.normalize(block.head_output.double().flatten(2), dim=-1)  # B H N*Dv
    return (outputs @ outputs.transpose(-2, -1)).abs().clamp_max(1)


def attention_overlap(block: BlockActivations) -> Float[Tensor, "B H H"]:
    """1 - Jensen-Shannon divergence of the heads' attention rows, mean over the query tokens of each image.

    With logarithms to base 2 the divergence, and so the overlap, lies between 0 and 1.
    """
    maps = block.attention
    entropy = bits(maps)  # B H
    rows = []
    for head in range(maps.shape[1]):  # one head against all at a time: B H N N values, not B H H N N
        mixed = bits((maps + maps[:, head : head + 1]) / 2)  # B H
        rows.append(1 - (mixed - (entropy + entropy[:, head : head + 1]) / 2))
    return torch.stack(rows, dim=1).clamp(0, 1)  # B H H


class Similarity(Protocol):
    """Gathers the edge weights of one block, batch by batch; memory depends on the widths alone."""

    def add(self, block: BlockActivations) -> None: ...

    def weights(self) -> Float[Tensor, "H H"]: ...


class ImageMean:
    """Mean over images of a symmetric similarity that every image has by itself."""

    def __init__(self, measure: Callable[[BlockActivations], Float[Tensor, "B H H"]]) -> None:
        self._measure = measure
        self._total: Tensor | float = 0.0
        self._images = 0

    def add(self, block: BlockActivations) -> None:
        found = self._measure(block)
        self._total = self._total + found.sum(dim=0).cpu()
        self._images += len(found)

    def weights(self) -> Float[Tensor, "H H"]:
        return _without_loops(symmetric(torch.as_tensor(self._total) / self._images))


class Predictability:
    """R^2(i from j): the share of head i's variance that ridge regression on head j's output explains.

    weights[i, j] = 1 - E|y - W z|^2 / E|y|^2 with y head i's output and z head j's, both centred over
    all tokens of all images, W = C_yz (C_zz + RIDGE mean(diag C_zz) I)^-1. The only asymmetric
    similarity: from a head the walk goes to heads that predict it. Measured where it was fitted, so it
    is somewhat high (by about Dv / tokens). A head that never varies neither predicts nor is predicted.
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0
        self._tokens = 0
        self._heads = 0

    def add(self, block: BlockActivations) -> None:
        outputs = block.head_output.double().transpose(1, 2).flatten(2).flatten(0, 1)  # tokens H*Dv
        self._sum = self._sum + outputs.sum(dim=0).cpu()
        self._products = self._products + (outputs.T @ outputs).cpu()
        self._tokens += len(outputs)
        self._heads = block.head_output.shape[1]

    def weights(self) -> Float[Tensor, "H H"]:
        mean = torch.as_tensor(self._sum) / self._tokens
        moments = torch.as_tensor(self._products) / self._tokens  # H*Dv H*Dv
        covariance = moments - torch.outer(mean, mean)
        parts = covariance.unflatten(0, (self._heads, -1)).unflatten(2, (self._heads, -1))  # H D H D
        parts = parts.transpose(1, 2)  # H H D D
        variances = covariance.diagonal().unflatten(0, (self._heads, -1)).sum(dim=-1)  # H
        # a difference of two large numbers: where so little is left of them, it is rounding
        noise = _ROUNDING * moments.diagonal().unflatten(0, (self._heads, -1)).sum(dim=-1)
        still = variances <= noise
        explained = torch.stack([_explained_by(parts, j) for j in range(self._heads)], dim=1)
        shares = (explained / variances[:, None]).masked_fill(still[:, None] | still, 0)
        return _without_loops(shares.clamp(0, 1))


def _explained_by(parts: Float[Tensor, "H H D D"], j: int) -> Float[Tensor, " H"]:
    """Variance of every head's output that ridge regression on head j's output explains."""
    own, cross = parts[j, j], parts[:, j]  # D D; H D D: outputs of each head with those of head j
    ridge = RIDGE * own.diagonal().mean().clamp_min(torch.finfo(own.dtype).tiny)
    shrunk = own + ridge * torch.eye(len(own), dtype=own.dtype)
    weight = torch.linalg.solve_ex(shrunk, cross.transpose(1, 2))[0].transpose(1, 2)  # H D D
    return (weight * (2 * cross - weight @ own)).sum(dim=(1, 2))


SIMILARITIES: dict[str, Callable[[], Similarity]] = {
    "cosine": lambda: ImageMean(cosine),
    "attention": lambda: ImageMean(attention_overlap),
    "predictability": Predictability,
}


def similarities(model: ViT, batches: Batches, kind: str = "cosine") -> tuple[Float[Tensor, "H H"], ...]:
    """Edge weights of every block's head graph, over all images; float64, zero on the diagonal.

    Raises:
        ValueError: an unknown similarity, no images, or activations that are not finite.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {kind!r}")
    gathered = [SIMILARITIES[kind]() for _ in model.blocks]
    images = 0
    with capture(model) as record:
        for batch, _ in batches:
            for block in record(batch):
                gathered[block.index].add(block)
            images += len(batch)
    if images == 0:
        raise ValueError("the head graph needs calibration images, got none")
    weights = tuple(each.weights() for each in gathered)
    if not all(bool(each.isfinite().all()) for each in weights):
        raise ValueError("similarities of heads must be finite; check the model's weights for NaN")
    return weights


def transition(weights: Float[Tensor, "H H"], teleport: float = 0.0) -> Float[Tensor, "H H"]:
    """P = (1 - teleport) rownorm(weights) + teleport / H; rows sum to one.

    The diagonal of `weights` is left out. A head without any weight to others goes anywhere alike, as
    in PageRank; a single head stays where it is.

    Raises:
        ValueError: weights that are no square of finite numbers of at least 0, teleport outside [0, 1].
    """
    _require_weights(weights)
    if not 0 <= teleport <= 1:
        raise ValueError(f"teleport must be from 0 to 1, got {teleport}")
    heads = len(weights)
    weights = _without_loops(weights.double())
    degree = weights.sum(dim=1, keepdim=True)
    # a sum of tiny weights may be too small to divide by: such a head counts as one without weights
    chain = torch.where(degree > torch.finfo(torch.float64).tiny, weights / degree, 1 / heads)
    return (1 - teleport) * chain + teleport / heads


def stationary(
    chain: Float[Tensor, "H H"], tolerance: float = 1e-12, iterations: int = 100_000
) -> Float[Tensor, " H"]:
    """pi = pi P by power iteration from the uniform distribution; sums to one.

    The steps are those of the lazy chain (P + I) / 2, which has the same pi and converges where P
    itself goes round in a circle. Ends when the sum of |pi P - pi| is at most `tolerance`.

    Raises:
        ValueError: `chain` is no transition matrix, has no single stationary distribution, or does
            not converge within `iterations`.
    """
    _require_weights(chain)
    if not torch.allclose(chain.sum(dim=1), torch.ones(len(chain), dtype=chain.dtype), atol=1e-6):
        raise ValueError("every row of a transition matrix must sum to 1: make it by transition()")
    import networkx  # here and below: the app's first page must not wait for it

    graph = networkx.from_numpy_array(chain.numpy(), create_using=networkx.DiGraph)
    if networkx.number_attracting_components(graph) > 1:
        raise ValueError(
            "the chain falls apart into groups of heads with no way between them, so that it has no "
            "single stationary distribution: use a teleport above 0"
        )
    chain = chain.double()
    mass = torch.full((len(chain),), 1 / len(chain), dtype=torch.float64)
    for _ in range(iterations):
        moved = mass @ chain
        if (moved - mass).abs().sum() <= tolerance:
            return moved / moved.sum()
        mass = (mass + moved) / 2
    raise ValueError(
        f"the chain did not converge to {tolerance:g} within {iterations} iterations: use a higher teleport"
    )


def head_graph(weights: Float[Tensor, "H H"], names: Sequence[str]) -> networkx.DiGraph:
    """The weights as a graph with an edge, attribute `weight`, from each head to each it resembles.

    Self loops and edges of weight zero are left out.

    Raises:
        ValueError: unusable weights, or not one name of its own for each head.
    """
    _require_weights(weights)
    if len(set(names)) != len(weights) or len(names) != len(weights):
        raise ValueError(f"{len(weights)} heads need as many different names, got {', '.join(names)}")
    import networkx

    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            weight = float(weights[i, j])
            if i != j and weight > 0:
                graph.add_edge(source, target, weight=weight)
    return graph


def symmetric(weights: Float[Tensor, "H H"]) -> Float[Tensor, "H H"]:
    """The mean of both directions, the same in both to the last bit.

    A similarity that is symmetric by definition does not come out so by itself: each of its halves is
    summed in an order of its own, and not every processor's matrix product gives both the same rounding.
    """
    return (weights + weights.T) / 2


def _without_loops(weights: Tensor) -> Tensor:
    return weights.clone().fill_diagonal_(0)


def _require_weights(weights: Tensor) -> None:
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights):
        raise ValueError(f"a head graph needs a square of weights, got shape {tuple(weights.shape)}")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("weights between heads must be finite and at least 0")
