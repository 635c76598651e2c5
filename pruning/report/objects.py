"""How well the attention of a model matches the objects of demo scenes."""

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
class ObjectScores:
    """One model's attention on the objects, from the token that its prediction is read from."""

    heads: ObjectAttention
    rollout: RolloutScore

    @property
    def mass(self) -> float:
        """Share of attention on the object, averaged over all heads."""
        return _mean(self.heads.mass)

    @property
    def pointing(self) -> float:
        """How often the peak of attention is on the object, averaged over all heads."""
        return _mean(self.heads.pointing)

    def rows(self) -> dict[str, str]:
        """The figures as text, by name."""
        low, high = wilson(self.rollout.hits, self.rollout.images)
        return {
            "Rollout, mass on the object": wording.percent(self.rollout.mass),
            "Rollout, pointing game": wording.percent(self.rollout.pointing),
            "Rollout, 95 % interval": f"{100 * low:.1f} to {100 * high:.1f}{wording.NBSP}%",
            "Heads, mass on the object, mean": wording.percent(self.mass),
            "Heads, pointing game, mean": wording.percent(self.pointing),
        }


def object_scores(loaded: LoadedModel, scenes: ImageSet, progress: Progress, what: str) -> ObjectScores:
    """Score a model on at most `SCENES` scenes, the same ones for every model.

    Raises:
        ValueError: images whose objects are not known.
    """
    shown = scenes.sample(min(SCENES, len(scenes)))
    read = row_readings(loaded.model.arch)[default_row(loaded.model.arch)]

    def tracked_scenes(begin: float) -> Iterator[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]]:
        done = 0
        for images, masks in with_masks(shown, loaded.preprocess):
            progress(what, begin + done / len(shown) / 2)
            yield images, masks
            done += len(images)

    heads = object_attention(loaded.model, tracked_scenes(0.0), read)
    return ObjectScores(heads, rollout_on_object(loaded.model, tracked_scenes(0.5), read))


def _mean(values: tuple[Tensor, ...]) -> float:
    known = [value for row in values for value in row.tolist()]
    return sum(known) / max(len(known), 1)
