"""Measures of heads: what each says and how it is taken. One registry, `HEAD_MEASURES`.

Whatever needs no labels is read off one pass over the images, the similarities of heads with it; what
asks the loss then runs measure by measure. Memory depends on the model, not on the number of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations, capture
from analysis.formats import Stored
from analysis.heads import SIMILARITIES, AllHeads, diagonal_blocks, loss, statistics
from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.criteria.head_graph import GraphOptions, stationary_mass
from pruning.criteria.row_scores import assemble
from pruning.criteria.snp import PairScores, dissimilarity
from pruning.seeding import fingerprint

PerHead = tuple[Float[Tensor, " H"], ...]  # by block
READ = 4  # images whose attention is held at once


class Gatherer(Protocol):
    """Takes in every block of every batch, and says at the end what it found of each head."""

    def add(self, block: BlockActivations) -> None: ...

    def result(self) -> PerHead: ...


@dataclass(frozen=True)
class HeadMeasure:
    """A registry entry: one sentence for the interface, and how the measure is taken.

    `important` is 1 where a high value speaks for keeping a head, -1 where a low one does, and 0 where the
    value describes the head without ranking it. It is either gathered as images pass (`gather`), or
    computed from the head graphs of the blocks (`graph`), or asked of the loss on labelled images (`ask`).
    """

    title: str
    explanation: str
    important: int
    gather: Callable[[ViT], Gatherer] | None = None
    graph: Callable[[Sequence[Tensor]], PerHead] | None = None
    ask: Callable[[ViT, Batches], PerHead] | None = None

    @property
    def needs_labels(self) -> bool:
        """Whether it is about the loss."""
        return self.ask is not None


class _ImageMean:
    """Mean over images of a value that every image gives each head."""

    def __init__(self, model: ViT, read: Callable[[BlockActivations, Architecture], Tensor]) -> None:
        self._arch, self._read, self._images = model.arch, read, 0
        self._total = [torch.zeros(widths.heads, dtype=torch.float64) for widths in model.arch.blocks]

    def add(self, block: BlockActivations) -> None:
        found = self._read(block, self._arch)
        self._total[block.index] += found.double().sum(dim=0).cpu()
        self._images += len(found) if block.index == 0 else 0

    def result(self) -> PerHead:
        return tuple(total / self._images for total in self._total)


class _Snp:
    """SNP's aggregate: a head's share of its block's pair scores and of its value scores."""

    def __init__(self, model: ViT) -> None:
        self._model, self._pairs = model, PairScores(model.arch)

    def add(self, block: BlockActivations) -> None:
        self._pairs.add(block)

    def result(self) -> PerHead:
        return assemble(self._model, self._pairs.mean(), dissimilarity).heads


def _reads(read: Callable[[BlockActivations, Architecture], Tensor]) -> Callable[[ViT], Gatherer]:
    return lambda model: _ImageMean(model, read)


def _gohsp(graphs: Sequence[Tensor]) -> PerHead:
    return tuple(stationary_mass(weights, GraphOptions.teleport) for weights in graphs)


HEAD_MEASURES: dict[str, HeadMeasure] = {
    "snp": HeadMeasure(
        "SNP",
        "A head's share of its block's query-key and value scores by SNP.",
        1,
        gather=_Snp,
    ),
    "gohsp": HeadMeasure(
        "GOHSP",
        "Where a walk between alike heads of a block spends its time, 1 being an even share; high is a "
        "central head, which does much of what the others do and is worth keeping.",
        1,
        graph=_gohsp,
    ),
    "taylor": HeadMeasure(
        "Taylor", "How fast the loss changes as the head begins to fade.", 1, ask=loss.taylor
    ),
    "ablation": HeadMeasure(
        "Ablation", "How much the loss rises without the head; below 0 it falls.", 1, ask=loss.ablation
    ),
    "integrated": HeadMeasure(
        "Integrated gradients",
        "The head's part in what all heads together add to the log-likelihood of the right class.",
        1,
        ask=loss.integrated_gradients,
    ),
    "confidence": HeadMeasure(
        "Confidence",
        "The largest weight of an attention row, on average: 1 looks at a single token.",
        1,
        gather=_reads(statistics.confidence),
    ),
    "entropy": HeadMeasure(
        "Entropy",
        "How evenly attention spreads, in bits: 0 looks at a single token.",
        0,
        gather=_reads(statistics.entropy),
    ),
    "distance": HeadMeasure(
        "Attended distance",
        "How far from patch to attended patch, in patches, on average.",
        0,
        gather=_reads(statistics.attended_distance),
    ),
    "prefix": HeadMeasure(
        "Mass on prefix tokens",
        "The share of attention that goes to class, distillation and register tokens.",
        0,
        gather=_reads(statistics.prefix_mass),
    ),
}


@dataclass(frozen=True, eq=False)
class HeadReading:
    """What was found of the heads of a model, `counts` of each block, on `images` images.

    `values[measure]` has one number per head, and `alike[kind]` one per pair of heads, all blocks in a row.
    `model` tells whether a model is the one that was read: see `weights_id`.
    """

    counts: tuple[int, ...]
    images: int
    values: Mapping[str, tuple[float, ...]]
    alike: Mapping[str, Float[Tensor, "heads heads"]]
    model: str

    def graphs(self, kind: str) -> tuple[Float[Tensor, "H H"], ...]:
        """The head graph of every block."""
        return diagonal_blocks(self.alike[kind], self.counts)

    def importance(self, measure: str) -> tuple[float, ...]:
        """The values, turned so that high means important; a measure that does not rank stays as it is."""
        sign = HEAD_MEASURES[measure].important or 1
        return tuple(sign * value for value in self.values[measure])

    def to_json(self) -> str:
        """Serialise; `read` gives the same back, similarities to five decimals."""
        alike = {
            kind: tuple(tuple(round(value, 5) for value in row) for row in weights.tolist())
            for kind, weights in self.alike.items()
        }
        return _File(self.counts, self.images, self.values, self.model, alike).to_json()

    @classmethod
    def read(cls, file: Path) -> HeadReading:
        """The reading that lies in a file.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        found = _File.read(file)
        alike = {kind: torch.tensor(rows, dtype=torch.float64) for kind, rows in found.alike.items()}
        return cls(found.counts, found.images, found.values, alike, found.model)


@dataclass(frozen=True)
class _File(Stored):
    """A `HeadReading` with its similarities as lists."""

    VERSION: ClassVar[int] = 2
    MOST_BYTES: ClassVar[int] = 2**27  # similarities of a thousand heads take some 30 MB

    counts: tuple[int, ...]
    images: int
    values: Mapping[str, tuple[float, ...]]
    model: str
    alike: Mapping[str, tuple[tuple[float, ...], ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = sum(self.counts)
        for name, row in self.values.items():
            if len(row) != heads:
                raise ValueError(f"`values.{name}` must have a value for each of the {heads} heads")
        for kind, rows in self.alike.items():
            if [len(row) for row in rows] != [heads] * heads:
                raise ValueError(f"`alike.{kind}` must be between {heads} heads")

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Without what version 1 measured of outputs in each head's own basis."""
        alike, values = data.get("alike"), data.get("values")
        if isinstance(alike, dict) and isinstance(values, dict) and "cka" not in alike:
            alike.pop("cosine", None)
            values.pop("gohsp", None)
        return data


def read_heads(model: ViT, batches: Batches) -> HeadReading:
    """All measures that need no labels, and all similarities, in one pass over the images.

    Raises:
        ValueError: no images, or activations that are not finite.
    """
    gathered = {name: entry.gather(model) for name, entry in HEAD_MEASURES.items() if entry.gather}
    alike = {kind: AllHeads(model.arch, kind) for kind in SIMILARITIES}
    listening: list[Gatherer | AllHeads] = [*gathered.values(), *alike.values()]
    images = 0
    with capture(model) as record:
        for batch, _ in batches:
            for some in batch.split(READ):
                for block in record(some.to(next(model.parameters()))):
                    for each in listening:
                        each.add(block)
            images += len(batch)
    if images == 0:
        raise ValueError("heads are read on images, got none")
    weights = {kind: each.weights() for kind, each in alike.items()}
    counts = tuple(widths.heads for widths in model.arch.blocks)
    values = {name: each.result() for name, each in gathered.items()}
    graphs = diagonal_blocks(weights[GraphOptions.similarity], counts)
    values |= {name: entry.graph(graphs) for name, entry in HEAD_MEASURES.items() if entry.graph}
    in_order = {name: _row(values[name]) for name in HEAD_MEASURES if name in values}
    return HeadReading(counts, images, in_order, weights, weights_id(model))


def ask_heads(model: ViT, name: str, batches: Batches) -> tuple[float, ...]:
    """One of the measures that ask the loss, for all heads in a row.

    Raises:
        ValueError: the measure does not ask the loss, or no images.
    """
    ask = HEAD_MEASURES[name].ask
    if ask is None:
        raise ValueError(f"{name} does not ask the loss: read_heads has it")
    return _row(ask(model, batches))


def _row(values: PerHead) -> tuple[float, ...]:
    return tuple(float(value) for block in values for value in block)


def weights_id(model: ViT) -> str:
    """A short name for architecture and weights, to tell whether a reading is of this very model [ours].

    It is made from the bytes of the weights, not from sums over them: those round differently on another
    machine, or on another number of threads.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return fingerprint(model.arch, digest.hexdigest())
