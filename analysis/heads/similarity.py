"""Similarities between all heads of a model, across blocks: nearest heads, groups, layout of the graph.

The heads of all blocks are indexed consecutively, block after block; a similarity is a square matrix
over that index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations
from analysis.heads.graph import SIMILARITIES, Similarity, symmetric
from analysis.heads.statistics import bits
from analysis.vit import Architecture

if TYPE_CHECKING:
    import networkx

QUERIES = 64  # at most so many rows of an attention map are compared between blocks
_APART = 0.62  # distance that heads of a layout have at least, as a share of that in a square grid of them
_PUSHES = 100  # after which they stay where they are
_LAYOUT = 3  # nearest neighbours whose edges determine a head's position in the layout

Head = tuple[int, int]  # block, and head within it
OfImage = Callable[[int], Tensor]  # of a batch's image with this index: a row, or a map, per head of a block


def head_names(arch: Architecture) -> tuple[Head, ...]:
    """All heads in the order of the rows of a similarity matrix."""
    return tuple((block, head) for block, widths in enumerate(arch.blocks) for head in range(widths.heads))


class AllHeads:
    """Accumulates one kind of similarity between all heads of a model, from its blocks in order.

    Within a block it is the similarity of the head graph (`analysis.heads.graph`). Heads of different
    blocks are compared per image: by the `cosine` of what they add to the residual stream, or by the overlap
    of their `attention` on `QUERIES` evenly spaced rows [ours]. The other kinds are not defined across
    blocks and are zero there.
    """

    def __init__(self, arch: Architecture, kind: str) -> None:
        self._arch = arch
        self._within: list[Similarity] = [SIMILARITIES[kind]() for _ in arch.blocks]
        self._across = ACROSS.get(kind)
        self._parts: list[OfImage] = []
        self._total = torch.zeros(())
        self._images = 0

    def add(self, block: BlockActivations) -> None:
        """Add the activations of a block; with the last block of a batch, compare the blocks."""
        self._within[block.index].add(block)
        if self._across is None:
            return
        part, compare = self._across
        self._parts.append(part(block))
        if block.index == self._arch.depth - 1:
            for image in range(len(block.q)):
                self._total = self._total + compare([of_image(image) for of_image in self._parts]).cpu()
            self._images += len(block.q)
            self._parts = []

    def weights(self) -> Float[Tensor, "heads heads"]:
        """The similarity of every pair, 0 to 1; zero on the diagonal; symmetric except predictability.

        Raises:
            ValueError: nothing was added, or activations were not finite.
        """
        within = torch.block_diag(*(each.weights() for each in self._within))
        if not bool(within.isfinite().all()):
            raise ValueError("similarities of heads must be finite; check the model's weights for NaN")
        if self._across is None:
            return within
        inside = torch.block_diag(*(torch.ones(w.heads, w.heads) for w in self._arch.blocks)).bool()
        return torch.where(inside, within, symmetric(self._total / self._images))


def _added(block: BlockActivations) -> OfImage:
    """What each head adds to the stream, N E values, as unit vectors; made for one image at a time."""
    outputs, writes = block.patch_output.double(), block.writes.double()
    return lambda image: F.normalize((outputs[image] @ writes.mT).flatten(1), dim=-1)


def _cosines(parts: list[Tensor]) -> Float[Tensor, "heads heads"]:
    vectors = torch.cat([part for part in parts if len(part)] or parts[:1])  # heads N*E
    return (vectors @ vectors.T).abs().clamp_max(1)


def _sampled_rows(block: BlockActivations) -> OfImage:
    attention = block.patch_attention
    tokens = attention.shape[2]
    rows = torch.linspace(0, tokens - 1, min(tokens, QUERIES)).round().long()
    sampled = attention[:, :, rows.to(attention.device)]  # B H rows N
    return lambda image: sampled[image]


def _overlaps(parts: list[Tensor]) -> Float[Tensor, "heads heads"]:
    """1 - Jensen-Shannon divergence of rows, mean over rows."""
    maps = torch.cat(parts)  # heads rows N
    own, result = bits(maps), maps.new_zeros(len(maps), len(maps), dtype=torch.float64)
    for head in range(len(maps) - 1):  # each pair once
        mixed = bits((maps[head + 1 :] + maps[head]) / 2)
        result[head, head + 1 :] = 1 - (mixed - (own[head + 1 :] + own[head]) / 2)
    return (result + result.T).clamp(0, 1)


ACROSS: dict[str, tuple[Callable[[BlockActivations], OfImage], Callable[[list[Tensor]], Tensor]]] = {
    "cosine": (_added, _cosines),
    "attention": (_sampled_rows, _overlaps),
}


def diagonal_blocks(
    weights: Float[Tensor, "heads heads"], counts: Sequence[int]
) -> tuple[Float[Tensor, "H H"], ...]:
    """The diagonal block of a similarity matrix for each block of the model."""
    parts = weights.split(list(counts))
    return tuple(part.split(list(counts), dim=1)[index] for index, part in enumerate(parts))


def nearest(weights: Float[Tensor, "heads heads"], head: int, count: int) -> list[tuple[int, float]]:
    """The `count` heads most similar to one, with their similarities in descending order; zeros left out."""
    order = symmetric(weights)[head].sort(descending=True, stable=True)
    pairs = zip(order.indices.tolist(), order.values.tolist(), strict=True)
    return [(other, value) for other, value in pairs if other != head and value > 0][:count]


def groups(weights: Float[Tensor, "heads heads"], threshold: float = 0.0) -> list[int]:
    """The group number of every head: communities of the graph of similarities of at least `threshold`.

    Found by modularity with the Louvain method (Blondel et al. 2008) of networkx; groups are numbered
    by their first head. A head without a similarity of at least `threshold` forms its own group.
    """
    import networkx  # imported late, here and below: slow, and the app's first page does not need it

    graph = _graph(weights, threshold)
    communities = networkx.community.louvain_communities(graph, seed=0)
    number = {head: place for place, heads in enumerate(sorted(communities, key=min)) for head in heads}
    return [number[head] for head in range(len(weights))]


def layout(weights: Float[Tensor, "heads heads"]) -> list[tuple[float, float]]:
    """A position for every head, coordinates from -1 to 1, near the heads most similar to it.

    networkx's spring layout of the graph of each head's nearest neighbours, in which heads that would lie
    on each other are then pushed apart. It depends on the similarities only, not on the threshold at which
    edges are drawn.
    """
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(len(weights)))
    for head in range(len(weights)):
        graph.add_weighted_edges_from((head, other, w) for other, w in nearest(weights, head, _LAYOUT))
    positions = networkx.spring_layout(graph, iterations=400, seed=0, method="force")
    across, down = (_rescaled([float(positions[head][axis]) for head in positions]) for axis in (0, 1))
    across, down = _spread(torch.tensor([across, down], dtype=torch.float64)).tolist()
    return list(zip(_rescaled(across), _rescaled(down), strict=True))


def _spread(places: Float[Tensor, "2 heads"]) -> Float[Tensor, "2 heads"]:
    """Move places that are too close apart, each as far as the other, until they are not or time is up."""
    least = _APART * 2 / len(places[0]) ** 0.5
    for _ in range(_PUSHES):
        offsets = places[:, :, None] - places[:, None, :]
        distances = offsets.norm(dim=0).clamp_min(1e-6)
        lacking = (least - distances).clamp_min(0).fill_diagonal_(0)
        if not bool((lacking > 0.01 * least).any()):
            break
        places = places + (offsets / distances * lacking / 2).sum(dim=2)
    return places


def _rescaled(values: list[float]) -> list[float]:
    """Rescale to the range -1 to 1; equal values all become 0."""
    low, high = min(values), max(values)
    return [2 * (value - low) / (high - low) - 1 if high > low else 0.0 for value in values]


def edges(
    weights: Float[Tensor, "heads heads"], threshold: float, most: int | None = None
) -> list[tuple[int, int, float]]:
    """Pairs of heads with similarity of at least `threshold`, in descending order, at most `most` of them."""
    pairs = _graph(weights, threshold).edges(data="weight")
    return sorted(pairs, key=lambda edge: (-edge[2], edge[0], edge[1]))[:most]


def _graph(weights: Tensor, threshold: float) -> networkx.Graph:
    import networkx

    mutual = symmetric(weights)  # predictability depends on the direction
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(weights)))
    rows, columns = torch.nonzero(torch.triu((mutual >= threshold) & (mutual > 0), 1), as_tuple=True)
    values = mutual[rows, columns].tolist()
    graph.add_weighted_edges_from(zip(rows.tolist(), columns.tolist(), values, strict=True))
    return graph
