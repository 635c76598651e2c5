"""Load models and their preprocessing: the demo, timm, the hub, weights files, bundles."""

from analysis.models.bundle_files import (
    ARCHITECTURE_FILE,
    IN_FULL,
    PREPROCESS_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
)
from analysis.models.load import (
    DEMO,
    WEIGHTS_ENDINGS,
    LoadedModel,
    architecture,
    load,
    load_named,
    require_bundle,
    suggested,
)
from analysis.models.modules import load_module
from analysis.models.preprocess import Preprocess
from analysis.models.reading import Named, Reading, read_classes
from analysis.models.recognize import fitting_names
from analysis.models.timm_source import HUB
from analysis.models.weights import read_pickled, read_weights
from analysis.setup import mend_torchvision

__all__ = [
    "ARCHITECTURE_FILE",
    "DEMO",
    "HUB",
    "IN_FULL",
    "PREPROCESS_FILE",
    "REQUIRED_FILES",
    "WEIGHTS_ENDINGS",
    "WEIGHTS_FILE",
    "LoadedModel",
    "Named",
    "Preprocess",
    "Reading",
    "architecture",
    "fitting_names",
    "load",
    "load_module",
    "load_named",
    "read_classes",
    "read_pickled",
    "read_weights",
    "require_bundle",
    "suggested",
]

# timm and torchvision are imported in many places, each as late as it can be, and all of them have this
# package imported before. A user of the project as a library is not asked to call anything first.
mend_torchvision()
