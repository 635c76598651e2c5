"""Where models come from: the demo, timm, the hub, weights files, bundles; and their preprocessing."""

from analysis.models.bundle_files import ARCHITECTURE_FILE, PREPROCESS_FILE, REQUIRED_FILES, WEIGHTS_FILE
from analysis.models.load import DEMO, LoadedModel, architecture, load, suggested
from analysis.models.preprocess import Preprocess
from analysis.models.weights import read_weights

__all__ = [
    "ARCHITECTURE_FILE",
    "DEMO",
    "PREPROCESS_FILE",
    "REQUIRED_FILES",
    "WEIGHTS_FILE",
    "LoadedModel",
    "Preprocess",
    "architecture",
    "load",
    "read_weights",
    "suggested",
]
