"""Makes photos ready for the model in this folder, with the same pixels as PruneScope has."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import to_pil_image

from pruning.bundle.example import preprocess, upright


class PruneScopeImageProcessor(BaseImageProcessor):
    """Resizes, crops and normalises photos by Pillow, as `preprocess` in example.py.

    `prunescope` in preprocessor_config.json holds the settings. The other settings there are for processors
    of transformers, which come near; changing them changes nothing here.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, prunescope: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prunescope = prunescope

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """A photo, or a list of photos (Pillow, or arrays with values from 0 to 255) -> `pixel_values`."""
        photos = images if isinstance(images, list | tuple) else [images]
        values = [preprocess(upright(_as_photo(photo)), self.prunescope).numpy() for photo in photos]
        return BatchFeature({"pixel_values": values}, tensor_type=return_tensors)


def _as_photo(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return to_pil_image(np.asarray(image), do_rescale=False)
