"""Attention followed through all blocks: by rollout, gradient rollout, or class relevance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.attention import Map, readout, rollout_of
from app.state import viewed_image
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView

METHOD_TITLES = {
    "rollout": "Rollout",
    "gradient": "Gradient rollout",
    "relevance": "Class relevance",
}
METHOD_NOTES = {
    "rollout": "How much of each patch can have reached the token through all blocks (Abnar & Zuidema 2020).",
    "gradient": "Rollout of attention that is weighted by the gradient of the class's logit "
    "(Gildenblat 2020).",
    "relevance": "How much each patch speaks for the class, accumulated over all blocks "
    "(Chefer et al. 2021).",
}


@dataclass(frozen=True)
class Propagation:
    """How attention is followed through all blocks.

    `fuse` and `blocks` are used by rollout, `label` and `classifier` by the two methods that follow
    the gradient of a logit. `label` None means the likeliest class of each image.
    """

    method: str
    fuse: str
    discard: float
    blocks: int
    label: int | None
    classifier: str


def with_class(propagation: Propagation, view: AttentionView) -> Propagation:
    """The same with a class: the image's likeliest one where none was chosen."""
    if propagation.label is not None or propagation.method == "rollout":
        return propagation
    return replace(propagation, label=view.trace.top(1)[0][0])


def propagated(view: AttentionView, propagation: Propagation, query: Query) -> Map:
    """The map of an image, Y X: rollout from the query, or relevance where the class is read from."""
    propagation = with_class(propagation, view)
    if propagation.label is None:
        rows = rollout_of(
            view.trace,
            query.weights[None],
            fuse=propagation.fuse,
            discard=propagation.discard,
            blocks=propagation.blocks,
        )
        return rows[0].numpy()
    classifier = propagation.classifier
    gradients = viewed_image.gradients_of(view.image, view.loaded, propagation.label, classifier)
    read = readout(view.arch, classifier)[None]
    if propagation.method == "relevance":
        return gradients.map(gradients.relevance(read))[0].numpy()
    return gradients.map(gradients.rollout(read, propagation.discard))[0].numpy()


def title(view: AttentionView, propagation: Propagation, query: Query) -> str:
    """The method, and what the map was read from; `propagation` with its class."""
    method = METHOD_TITLES[propagation.method]
    if propagation.label is None:
        return f"{method} from {query.phrase}"
    name = view.class_names[propagation.label]
    if view.arch.pool != "token":
        return f"{method} for {name}, read at all patches alike"
    used = readout(view.arch, propagation.classifier)[: len(view.arch.prefix_names)] > 0
    tokens = (token for token, here in zip(view.arch.prefix_names, used.tolist(), strict=True) if here)
    return f"{method} for {name}, read at the {' and '.join(tokens)} token"
