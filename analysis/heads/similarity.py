"""Heads that are alike, in all blocks: similarities between any two, neighbours, groups, a layout.

The heads of all blocks stand in one row, block after block, and a similarity is a square over them.
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

QUERIES = 64  # rows of an attention map that heads of different blocks are compared on, at most
_LAYOUT = 3  # neighbours that pull a head, in a layout

Head = tuple[int, int]  # block, and head within it


def head_names(arch: Architecture) -> tuple[Head, ...]:
    """All heads in the order of a similarity's rows."""
    return tuple((block, head) for block, widths in enumerate(arch.blocks) for head in range(widths.heads))


class AllHeads:
    """Gathers one kind of similarity between all heads of a model; told of every block in its order.

    Within a block it is the head graph's (`analysis.heads.graph`), from all there is. Heads of different
    blocks are compared image by image: by `cosine` of their outputs, where missing channels count as
    zero [ours], or by the overlap of their `attention` on `QUERIES` rows, evenly spread [ours].
    Predictability has no value across blocks; it stays zero there.
    """

    def __init__(self, arch: Architecture, kind: str) -> None:
        self._arch = arch
        self._within: list[Similarity] = [SIMILARITIES[kind]() for _ in arch.blocks]
        self._across = ACROSS.get(kind)
        self._parts: list[Tensor] = []
        self._total = torch.zeros(())
        self._images = 0

    def add(self, block: BlockActivations) -> None:
        """Take in a block; after the last one of a batch, the blocks are compared with each other."""
        self._within[block.index].add(block)
        if self._across is None:
            return
        part, compare = self._across
        self._parts.append(part(block, max(widths.v for widths in self._arch.blocks)))
        if block.index == self._arch.depth - 1:
            heads = torch.cat(self._parts, dim=1)  # B heads ...
            self._parts = []
            self._total = self._total + torch.stack([compare(image) for image in heads]).sum(dim=0).cpu()
            self._images += len(heads)

    def weights(self) -> Float[Tensor, "heads heads"]:
        """The similarity of every pair, 0 to 1; zero on the diagonal, symmetric but for predictability.

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


def _outputs(block: BlockActivations, width: int) -> Float[Tensor, "B H values"]:
    output = F.pad(block.head_output, (0, width - block.head_output.shape[-1]))  # B H N width
    return F.normalize(output.flatten(2).double(), dim=-1)


def _cosines(outputs: Float[Tensor, "heads values"]) -> Float[Tensor, "heads heads"]:
    return (outputs @ outputs.T).abs().clamp_max(1)


def _some_rows(block: BlockActivations, _: int) -> Float[Tensor, "B H rows N"]:
    tokens = block.q.shape[2]
    rows = torch.linspace(0, tokens - 1, min(tokens, QUERIES)).round().long()
    return block.attention[:, :, rows.to(block.q.device)]


def _overlaps(maps: Float[Tensor, "heads rows N"]) -> Float[Tensor, "heads heads"]:
    """1 - Jensen-Shannon divergence of rows, mean over rows."""
    own, result = bits(maps), maps.new_zeros(len(maps), len(maps), dtype=torch.float64)
    for head in range(len(maps) - 1):  # each pair once
        mixed = bits((maps[head + 1 :] + maps[head]) / 2)
        result[head, head + 1 :] = 1 - (mixed - (own[head + 1 :] + own[head]) / 2)
    return (result + result.T).clamp(0, 1)


ACROSS: dict[str, tuple[Callable[[BlockActivations, int], Tensor], Callable[[Tensor], Tensor]]] = {
    "cosine": (_outputs, _cosines),
    "attention": (_some_rows, _overlaps),
}


def diagonal_blocks(
    weights: Float[Tensor, "heads heads"], counts: Sequence[int]
) -> tuple[Float[Tensor, "H H"], ...]:
    """Each block's own part of a similarity of all heads."""
    parts = weights.split(list(counts))
    return tuple(part.split(list(counts), dim=1)[index] for index, part in enumerate(parts))


def nearest(weights: Float[Tensor, "heads heads"], head: int, count: int) -> list[tuple[int, float]]:
    """The heads most like one, likest first, with their similarity; those that resemble it at all."""
    order = symmetric(weights)[head].sort(descending=True, stable=True)
    pairs = zip(order.indices.tolist(), order.values.tolist(), strict=True)
    return [(other, value) for other, value in pairs if other != head and value > 0][:count]


def groups(weights: Float[Tensor, "heads heads"], threshold: float = 0.0) -> list[int]:
    """The group of every head: communities of the graph of similarities of at least `threshold`.

    By modularity, with Louvain's method (Blondel et al. 2008) as networkx has it; groups are
    numbered by their first head. A head that resembles no other that much is a group of its own.
    """
    import networkx  # here and below: the app's first page must not wait for it

    graph = _joined(weights, threshold)
    found = networkx.community.louvain_communities(graph, seed=0)
    number = {head: place for place, heads in enumerate(sorted(found, key=min)) for head in heads}
    return [number[head] for head in range(len(weights))]


def layout(weights: Float[Tensor, "heads heads"]) -> list[tuple[float, float]]:
    """A place for every head, from -1 to 1, such that each is near those it resembles most.

    networkx' spring layout on every head's nearest few; the same for the same similarities,
    whatever threshold edges are drawn at.
    """
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(len(weights)))
    for head in range(len(weights)):
        graph.add_weighted_edges_from((head, other, w) for other, w in nearest(weights, head, _LAYOUT))
    places = networkx.spring_layout(graph, iterations=400, seed=0, method="force")
    across, down = ([float(places[head][axis]) for head in range(len(weights))] for axis in (0, 1))
    return list(zip(_spread(across), _spread(down), strict=True))


def _spread(values: list[float]) -> list[float]:
    """From -1 to 1; all in the middle where they are one."""
    low, high = min(values), max(values)
    return [2 * (value - low) / (high - low) - 1 if high > low else 0.0 for value in values]


def edges(
    weights: Float[Tensor, "heads heads"], threshold: float, most: int | None = None
) -> list[tuple[int, int, float]]:
    """Pairs of heads at least `threshold` alike, likest first, `most` of them; each pair once."""
    listed = _joined(weights, threshold).edges(data="weight")
    return sorted(listed, key=lambda edge: (-edge[2], edge[0], edge[1]))[:most]


def _joined(weights: Tensor, threshold: float) -> networkx.Graph:
    import networkx

    mutual = symmetric(weights)  # only predictability tells one direction from the other
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(weights)))
    rows, columns = torch.nonzero(torch.triu((mutual >= threshold) & (mutual > 0), 1), as_tuple=True)
    values = mutual[rows, columns].tolist()
    graph.add_weighted_edges_from(zip(rows.tolist(), columns.tolist(), values, strict=True))
    return graph
