"""Which way of following attention through the blocks is chosen, and its settings."""

from __future__ import annotations

from dataclasses import dataclass

FLOW_METHODS = {
    "rollout": "Rollout",
    "gradient": "Gradient rollout",
    "relevance": "Class relevance",
}
FLOW_NOTES = {
    "rollout": "How much of each patch can have reached the token through all blocks (Abnar & Zuidema 2020).",
    "gradient": "Rollout of attention weighed by its gradient for the class (Gildenblat 2020).",
    "relevance": "What speaks for the class, gathered over all blocks (Chefer et al. 2021).",
}


@dataclass(frozen=True)
class Flow:
    """How attention is followed through all blocks.

    `label` and `classifier` are the gradients' own; label None is each image's likeliest class.
    """

    method: str
    fuse: str
    discard: float
    blocks: int
    label: int | None
    classifier: str
