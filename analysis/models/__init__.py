"""Where models come from: the demo, timm, the hub, weights files, bundles; and their preprocessing."""

from analysis.models.load import DEMO, LoadedModel, architecture, load, suggested
from analysis.models.preprocess import Preprocess
from analysis.models.weights import read_weights

__all__ = ["DEMO", "LoadedModel", "Preprocess", "architecture", "load", "read_weights", "suggested"]
