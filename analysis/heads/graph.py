"""The head graph: similarities between the heads of a block, their Markov chain, its stationary distribution.

GOHSP (Yin et al., AAAI 2023) treats the correlations between heads as a Markov chain, runs it to
convergence and takes its stationary distribution as the heads' importance [paper]. The choice of
similarity, the direction of edges, teleport and laziness are [ours].

In a model that merges, a token counts for every patch that it stands for.

`weights[i, j]` is the weight of the edge from head i to head j, from 0 to 1. Self-loops are left out
[ours]: a head's similarity to itself carries no information and only slows down convergence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations, capture
from analysis.heads.statistics import bits
from analysis.measure import Batches
from analysis.vit import ViT

RIDGE = 1e-3  # relative to the mean variance of the predicting head's channels
_ROUNDING = 1e-12  # relative to the second moments: smaller variances are rounding errors


def cosine(block: BlockActivations) -> Float[Tensor, "B H H"]:
    """|cosine| of what the heads add to the residual stream, for each image, as vectors of N E values.

    GOHSP compares the heads' outputs [paper]; that they are compared behind `proj` is [ours]: the outputs
    themselves depend on the basis of each head's value channels, which the model does not. The absolute
    value is [ours], because a Markov chain needs non-negative weights. A head that adds nothing has
    similarity 0.
    """
    outputs, writes = block.patch_output.double(), block.writes.double()
    flat, columns = outputs.transpose(1, 2).flatten(2), writes.transpose(0, 1).flatten(1)  # B N H*Dv, E H*Dv
    # <o_i W_i^T, o_j W_j^T> = sum of (o_i^T o_j) * (W_i^T W_j), which needs no N E values per head
    return _cosines(_block_sums(flat.mT @ flat * (columns.T @ columns), outputs.shape[1]))


def linear_cka(block: BlockActivations) -> Float[Tensor, "B H H"]:
    """Linear CKA of what the heads add to the residual stream, for each image (Kornblith et al. 2019).

    |Y_i^T Y_j|_F^2 / (|Y_i^T Y_i|_F |Y_j^T Y_j|_F) with Y = `head_output @ writes.mT`, N E values, centred
    over the tokens of the image: 1 if the tokens differ from each other in the same ways, in any
    orthogonal basis. A head with the same output for all tokens has similarity 0.
    """
    added = block.patch_output.double() @ _factor(block.writes.double())  # B H N Dv
    centred = added - added.mean(dim=2, keepdim=True)
    constant = centred.square().sum((2, 3)) <= _ROUNDING * added.square().sum((2, 3))  # B H
    centred = centred.masked_fill(constant[..., None, None], 0)
    flat = centred.transpose(1, 2).flatten(2)  # B N H*Dv
    return _cosines(_block_sums((flat.mT @ flat).square(), added.shape[1]))


def _block_sums(products: Float[Tensor, "B H*Dv H*Dv"], heads: int) -> Float[Tensor, "B H H"]:
    """Sums over the channels of each pair of heads."""
    return products.unflatten(2, (heads, -1)).sum(-1).unflatten(1, (heads, -1)).sum(2)


def _factor(writes: Float[Tensor, "H E Dv"]) -> Float[Tensor, "H Dv Dv"]:
    """R^T of the QR decomposition: x @ R^T has the inner products of x @ writes.mT, in fewer channels."""
    return torch.linalg.qr(writes, mode="r").R.mT


def _cosines(inner: Float[Tensor, "B H H"]) -> Float[Tensor, "B H H"]:
    """|Cosines| from inner products; 0 for a vector of length 0."""
    length = inner.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(length > 0, 1 / length, 0.0)
    return (inner * scale[..., None] * scale[..., None, :]).abs().clamp_max(1)


def attention_overlap(block: BlockActivations) -> Float[Tensor, "B H H"]:
    """1 - Jensen-Shannon divergence of the heads' attention rows, mean over the query tokens of each image.

    With logarithms to base 2 the divergence, and hence the overlap, is between 0 and 1.
    """
    maps = block.patch_attention
    entropy = bits(maps)  # B H
    rows = []
    for head in range(maps.shape[1]):  # one head against all others: B H N N values, not B H H N N
        mixed = bits((maps + maps[:, head : head + 1]) / 2)  # B H
        rows.append(1 - (mixed - (entropy + entropy[:, head : head + 1]) / 2))
    return torch.stack(rows, dim=1).clamp(0, 1)  # B H H


class Similarity(Protocol):
    """Accumulates the edge weights of one block over batches; memory use depends on the widths only.

    A block without heads has no weights.
    """

    def add(self, block: BlockActivations) -> None: ...

    def weights(self) -> Float[Tensor, "H H"]: ...


class ImageMean:
    """Mean over images of a symmetric similarity that is defined per image."""

    def __init__(self, measure: Callable[[BlockActivations], Float[Tensor, "B H H"]]) -> None:
        self._measure = measure
        self._total: Tensor | float = 0.0
        self._images = 0

    def add(self, block: BlockActivations) -> None:
        images, heads = block.q.shape[:2]
        values = self._measure(block) if heads else block.q.new_zeros(images, 0, 0)
        self._total = self._total + values.sum(dim=0).cpu()
        self._images += len(values)

    def weights(self) -> Float[Tensor, "H H"]:
        return _without_loops(symmetric(torch.as_tensor(self._total) / self._images))


class Predictability:
    """R^2(i from j): the share of head i's variance explained by ridge regression on head j's output.

    weights[i, j] = 1 - E|y - W z|^2 / E|y|^2 with y head i's output and z head j's, both centred over
    all tokens of all images, W = C_yz (C_zz + RIDGE mean(diag C_zz) I)^-1. This is the only asymmetric
    similarity: the walk moves from a head to the heads that predict it. R^2 is computed on the data the
    regression was fitted on, so it is biased upwards (by about Dv / tokens). A head with constant output
    has weight 0 in both directions.
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0
        self._tokens = 0
        self._heads = 0

    def add(self, block: BlockActivations) -> None:
        outputs = block.patch_output.double().transpose(1, 2).flatten(2).flatten(0, 1)  # tokens H*Dv
        self._sum = self._sum + outputs.sum(dim=0).cpu()
        self._products = self._products + (outputs.T @ outputs).cpu()
        self._tokens += len(outputs)
        self._heads = block.head_output.shape[1]

    def weights(self) -> Float[Tensor, "H H"]:
        if not self._heads:
            return torch.zeros(0, 0, dtype=torch.float64)
        mean = torch.as_tensor(self._sum) / self._tokens
        moments = torch.as_tensor(self._products) / self._tokens  # H*Dv H*Dv
        covariance = moments - torch.outer(mean, mean)
        parts = covariance.unflatten(0, (self._heads, -1)).unflatten(2, (self._heads, -1))  # H D H D
        parts = parts.transpose(1, 2)  # H H D D
        variances = covariance.diagonal().unflatten(0, (self._heads, -1)).sum(dim=-1)  # H
        # a variance is a difference of two large numbers, so a tiny one is only rounding error
        noise = _ROUNDING * moments.diagonal().unflatten(0, (self._heads, -1)).sum(dim=-1)
        constant = variances <= noise
        explained = torch.stack([_explained_by(parts, j) for j in range(self._heads)], dim=1)
        shares = (explained / variances[:, None]).masked_fill(constant[:, None] | constant, 0)
        return _without_loops(shares.clamp(0, 1))


def _explained_by(parts: Float[Tensor, "H H D D"], j: int) -> Float[Tensor, " H"]:
    """Variance of every head's output that is explained by ridge regression on head j's output."""
    own, cross = parts[j, j], parts[:, j]  # D D; H D D: covariance of each head's output with head j's
    ridge = RIDGE * own.diagonal().mean().clamp_min(torch.finfo(own.dtype).tiny)
    shrunk = own + ridge * torch.eye(len(own), dtype=own.dtype)
    weight = torch.linalg.solve_ex(shrunk, cross.transpose(1, 2))[0].transpose(1, 2)  # H D D
    return (weight * (2 * cross - weight @ own)).sum(dim=(1, 2))


SIMILARITIES: dict[str, Callable[[], Similarity]] = {
    "cosine": lambda: ImageMean(cosine),
    "cka": lambda: ImageMean(linear_cka),
    "attention": lambda: ImageMean(attention_overlap),
    "predictability": Predictability,
}


def similarities(model: ViT, batches: Batches, kind: str = "cosine") -> tuple[Float[Tensor, "H H"], ...]:
    """Edge weights of every block's head graph over all images, float64 with a zero diagonal.

    Raises:
        ValueError: an unknown similarity, no images, or activations that are not finite.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {kind!r}")
    accumulators = [SIMILARITIES[kind]() for _ in model.blocks]
    images = 0
    with capture(model) as record:
        for batch, _ in batches:
            for block in record(batch):
                accumulators[block.index].add(block)
            images += len(batch)
    if images == 0:
        raise ValueError("the head graph needs calibration images, got none")
    weights = tuple(each.weights() for each in accumulators)
    if not all(bool(each.isfinite().all()) for each in weights):
        raise ValueError("similarities of heads must be finite; check the model's weights for NaN")
    return weights


def transition(weights: Float[Tensor, "H H"], teleport: float = 0.0) -> Float[Tensor, "H H"]:
    """Transition matrix P = (1 - teleport) rownorm(weights) + teleport / H; rows sum to one.

    The diagonal of `weights` is ignored. From a head without edges the walk moves to all heads with equal
    probability, as in PageRank; with a single head it stays there.

    Raises:
        ValueError: weights that are not a square matrix of finite numbers of at least 0, or teleport
            outside [0, 1].
    """
    _require_weights(weights)
    if not 0 <= teleport <= 1:
        raise ValueError(f"teleport must be from 0 to 1, got {teleport}")
    heads = len(weights)
    weights = _without_loops(weights.double())
    degree = weights.sum(dim=1, keepdim=True)
    # a sum of tiny weights may be too small to divide by: such a head counts as one without edges
    chain = torch.where(degree > torch.finfo(torch.float64).tiny, weights / degree, 1 / heads)
    return (1 - teleport) * chain + teleport / heads


def stationary(
    chain: Float[Tensor, "H H"], tolerance: float = 1e-12, iterations: int = 100_000
) -> Float[Tensor, " H"]:
    """Stationary distribution pi = pi P, by power iteration from the uniform distribution; sums to one.

    Iterates the lazy chain (P + I) / 2, which has the same pi and converges for a periodic P, too. Stops
    when the sum of |pi P - pi| is at most `tolerance`.

    Raises:
        ValueError: `chain` is not a transition matrix, its stationary distribution is not unique, or
            the iteration does not converge within `iterations`.
    """
    _require_weights(chain)
    if not torch.allclose(chain.sum(dim=1), torch.ones(len(chain), dtype=chain.dtype), atol=1e-6):
        raise ValueError("every row of a transition matrix must sum to 1: compute it with transition()")
    import networkx  # imported late: slow, and the app's first page does not need it

    graph = networkx.from_numpy_array(chain.numpy(), create_using=networkx.DiGraph)
    if networkx.number_attracting_components(graph) > 1:
        raise ValueError(
            "the head graph has disconnected groups of heads, so its stationary distribution is not "
            "unique: use a teleport above 0"
        )
    chain = chain.double()
    pi = torch.full((len(chain),), 1 / len(chain), dtype=torch.float64)
    for _ in range(iterations):
        following = pi @ chain
        if (following - pi).abs().sum() <= tolerance:
            return following / following.sum()
        pi = (pi + following) / 2
    raise ValueError(
        f"the chain did not converge to {tolerance:g} within {iterations} iterations: use a higher teleport"
    )


def symmetric(weights: Float[Tensor, "H H"]) -> Float[Tensor, "H H"]:
    """(weights + weights^T) / 2, symmetric to the last bit.

    A similarity that is symmetric by definition need not be computed as such: matrix products on some
    processors sum the two halves in different orders, and so round them differently.
    """
    return (weights + weights.T) / 2


def _without_loops(weights: Tensor) -> Tensor:
    return weights.clone().fill_diagonal_(0)


def _require_weights(weights: Tensor) -> None:
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights):
        raise ValueError(f"a head graph needs a square matrix of weights, got shape {tuple(weights.shape)}")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("weights between heads must be finite and at least 0")
