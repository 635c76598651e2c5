"""Attention against the objects of demo scenes, for each model of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from analysis.attention import (
    ObjectAttention,
    RolloutScore,
    default_row,
    object_attention,
    rollout_on_object,
    row_readings,
    with_masks,
)
from analysis.data import ImageSet
from analysis.measure import wilson
from analysis.models import LoadedModel
from pruning import wording
from pruning.progress import Progress

SCENES = 100


@dataclass(frozen=True)
class OnObjects:
    """One model's attention against the objects, seen from where its prediction is read."""

    heads: ObjectAttention
    rollout: RolloutScore

    @property
    def mass(self) -> float:
        """Mean over all heads of the share of their attention on the object."""
        return _mean(self.heads.mass)

    @property
    def pointing(self) -> float:
        """Mean over all heads of how often their peak lies on the object."""
        return _mean(self.heads.pointing)

    def rows(self) -> dict[str, str]:
        """The figures in words."""
        low, high = wilson(self.rollout.hits, self.rollout.images)
        return {
            "Rollout, mass on the object": wording.percent(self.rollout.mass),
            "Rollout, pointing game": wording.percent(self.rollout.pointing),
            "its 95 % interval": f"{100 * low:.1f} to {100 * high:.1f}{wording.NBSP}%",
            "Heads, mass on the object, mean": wording.percent(self.mass),
            "Heads, pointing game, mean": wording.percent(self.pointing),
        }


def on_objects(loaded: LoadedModel, scenes: ImageSet, progress: Progress, what: str) -> OnObjects:
    """Read at most `SCENES` scenes, the same ones for every model.

    Raises:
        ValueError: images whose objects are not known.
    """
    shown = scenes.sample(min(SCENES, len(scenes)))
    read = row_readings(loaded.model.arch)[default_row(loaded.model.arch)]

    def told(begin: float) -> Iterator[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]]:
        done = 0
        for images, masks in with_masks(shown, loaded.preprocess):
            progress(what, begin + done / len(shown) / 2)
            yield images, masks
            done += len(images)

    heads = object_attention(loaded.model, told(0.0), read)
    return OnObjects(heads, rollout_on_object(loaded.model, told(0.5), read))


def _mean(values: tuple[Tensor, ...]) -> float:
    known = [value for row in values for value in row.tolist()]
    return sum(known) / len(known)
