"""Glossary: the axes used in every signature and shape comment of the project.

B  images of a batch                     L  blocks
H  heads of a block                      N  tokens, prefix tokens included
D  channels of a head; Dqk for queries and keys, Dv for values, where they differ
E  embedding width (residual stream)     F  hidden neurons of an MLP
C  image channels                        Y, X  image height and width in pixels

The structures that can be removed, under the names used everywhere:

qk     query-key pairs of a head: channel i of its queries together with channel i of its keys
v      value neurons of a head, with the columns of `proj` that read them
mlp    MLP neurons: a row of `fc1` (two where the MLP is gated) with its column of `fc2`
heads  whole heads: all their query-key pairs and value neurons
embed  channels of the residual stream, through the whole network
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.architecture import Architecture

STRUCTURES = ("qk", "v", "mlp", "heads", "embed")

BLOCK_TITLES = {  # of what is told block by block
    "qk": "Query-key pairs per head",
    "v": "Value channels per head",
    "mlp": "MLP neurons",
    "heads": "Heads",
    "tokens": "Input tokens",
}


def of_blocks(arch: Architecture, name: str) -> list[int]:
    """How many each block has of one of `BLOCK_TITLES`; of `tokens`, how many it is given."""
    return list(arch.tokens[:-1]) if name == "tokens" else [getattr(block, name) for block in arch.blocks]


def told_by_block(models: Iterable[Architecture]) -> tuple[str, ...]:
    """What is told of every block of these models: `tokens` only if one of them merges some."""
    merges = any(arch.merges for arch in models)
    return tuple(name for name in BLOCK_TITLES if merges or name != "tokens")
