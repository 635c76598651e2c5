"""Measuring a model on test images: a classifier's accuracy, or what a backbone's features are worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.data import ImageSet
from analysis.measure import CLASSES, KNN, NEIGHBOURS, Evaluation, evaluate, evaluate_features
from analysis.models import LoadedModel
from analysis.outputs import CLASSIFY
from pruning.progress import Progress
from pruning.tracked import tracked

GALLERY_IMAGES = 2000  # at most: neighbours are looked for in so many images


@dataclass(frozen=True)
class EvaluationImages:
    """Test images, with the labelled images of a gallery beside them, which features are judged by.

    Classes of the gallery have the numbers that they have in the test images. Without a gallery the other
    test images are one.
    """

    images: ImageSet
    gallery: ImageSet | None = None

    @classmethod
    def of(cls, images: ImageSet, gallery: ImageSet | None) -> EvaluationImages:
        """At most `GALLERY_IMAGES` images of a gallery, a stratified sample."""
        if gallery is None:
            return cls(images)
        if len(gallery) > GALLERY_IMAGES:
            gallery = gallery.sample(GALLERY_IMAGES)
        classes = list(images.classes)
        classes += [name for name in gallery.classes if name not in images.classes]
        number = [classes.index(name) for name in gallery.classes]
        labels = tuple(number[label] for label in gallery.source_labels)
        return cls(images, replace(gallery, classes=tuple(classes), source_labels=labels))

    @property
    def labelled(self) -> bool:
        """Whether labels can tell a right neighbour from a wrong one: the gallery has more than one class.

        It must have every class of the test images, too.
        """
        shown = self.images if self.gallery is None else self.gallery
        return len(_labels(shown)) > 1 and not self.lacking

    @property
    def lacking(self) -> tuple[str, ...]:
        """Classes of the test images of which the gallery has no image."""
        own = _labels(self.images)
        shown = own if self.gallery is None else _labels(self.gallery)
        return tuple(self.images.classes[label] for label in sorted(own - shown))


def evaluate_model(
    loaded: LoadedModel,
    tested: EvaluationImages,
    what: str,
    progress: Progress,
    *,
    dense: LoadedModel | None = None,
    reference: Evaluation | None = None,
) -> Evaluation:
    """Top-1 of a classifier; of a backbone what `evaluate_features` says, with `dense` also its likeness.

    Raises:
        ValueError: images that cannot be read, or output that is not finite.
    """
    images = tracked(tested.images, loaded, what, progress)
    if loaded.task == CLASSIFY:
        return evaluate(loaded.model, images)
    gallery = None
    if tested.gallery is not None:
        gallery = tracked(tested.gallery, loaded, f"{what}: the gallery", progress)
    return evaluate_features(
        loaded.model,
        images,
        gallery,
        labelled=tested.labelled,
        dense=None if dense is None else dense.model,
        reference=reference,
    )


def is_of(result: Evaluation, loaded: LoadedModel, tested: EvaluationImages) -> bool:
    """Whether an evaluation that is at hand can be of this model on these images."""
    if loaded.task != CLASSIFY and not tested.labelled:
        return result.measure == NEIGHBOURS and result.images == len(tested.images)
    measure = CLASSES if loaded.task == CLASSIFY else KNN
    labels = tuple(tested.images.label(i) for i in range(len(tested.images)))
    return result.measure == measure and result.labels == labels


def _labels(images: ImageSet) -> set[int]:
    return {images.label(i) for i in range(len(images))}
