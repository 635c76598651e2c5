"""What the Attention page shows of one image: everything below the page's controls is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from analysis.attention import TokenMaps, Trace, mask_seen, patch_cover, token_maps
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app.parts.pictures import Style
from app.state import viewed_image
from app.state.viewed_image import ViewedImage
from app.views.attention.map_picture import MapPicture
from app.views.attention.queries import Query


@dataclass(frozen=True)
class Marks:
    """What is drawn over a picture: lines between patches, the outline of the object."""

    lines: bool
    outline: bool


@dataclass(frozen=True, eq=False)
class AttentionView:
    """One image under one model: its trace, from which all maps are computed, and how they are drawn.

    `object_cover` Y X is the share of each patch that the object covers, where that is known.
    """

    image: ViewedImage
    loaded: LoadedModel
    class_names: tuple[str, ...]
    trace: Trace
    picture: MapPicture
    object_cover: Tensor | None

    @property
    def arch(self) -> Architecture:
        """The model's architecture."""
        return self.loaded.model.arch

    def maps(self, query: Query) -> TokenMaps:
        """Where the query looks in every head, and who looks at it."""
        return token_maps(self.trace, query.weights)


@dataclass(frozen=True, eq=False)
class ViewSettings:
    """What the views of several images have in common."""

    loaded: LoadedModel
    class_names: tuple[str, ...]
    style: Style
    marks: Marks

    def view(self, image: ViewedImage) -> AttentionView:
        """The view of an image, which goes through the model if its trace is not kept already."""
        mask = self._object_mask(image)
        return AttentionView(
            image,
            self.loaded,
            self.class_names,
            viewed_image.trace_of(image, self.loaded),
            self.picture(image),
            None if mask is None else patch_cover(mask, self.loaded.model.arch),
        )

    def picture(self, image: ViewedImage) -> MapPicture:
        """How maps are drawn over an image; it need not have been through the model."""
        photo = viewed_image.cropped(image, self.loaded)
        mask = self._object_mask(image) if self.marks.outline else None
        outline = None if mask is None else mask.numpy()[: photo.height, : photo.width]
        return MapPicture(photo, self.loaded.model.arch.grid, self.style, self.marks.lines, outline)

    def _object_mask(self, image: ViewedImage) -> Tensor | None:
        """Which pixels of what the model sees show the object, Y X."""
        return None if image.mask is None else mask_seen(image.mask, self.loaded.preprocess)
