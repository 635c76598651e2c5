"""Image sets: opening, splitting, labelling and batching."""

from analysis.data.batches import batches, read_ahead
from analysis.data.image_set import ImageSet
from analysis.data.images import EXTENSIONS, BadImageError, read_image
from analysis.data.labels import UnnamedClassesError
from analysis.data.open import class_folders, open_data, open_training
from analysis.data.overlap import require_apart
from analysis.data.scenes import CALIBRATION_IMAGES, CLASSES, SIZE, render
from analysis.data.zips import ZIP_ERRORS

__all__ = [
    "CALIBRATION_IMAGES",
    "CLASSES",
    "EXTENSIONS",
    "SIZE",
    "ZIP_ERRORS",
    "BadImageError",
    "ImageSet",
    "UnnamedClassesError",
    "batches",
    "class_folders",
    "open_data",
    "open_training",
    "read_ahead",
    "read_image",
    "render",
    "require_apart",
]
