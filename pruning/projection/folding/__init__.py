"""Published methods that choose parts and fold what these did into the weights that stay: VBP and CORP."""

from pruning.projection.folding.corp import AffineFolding, CorpOptions, corp_scores
from pruning.projection.folding.fold import Folding, fold, narrow_folded, whole_in_foldings
from pruning.projection.folding.vbp import MeanShift, VbpOptions, vbp_scores

__all__ = [
    "AffineFolding",
    "CorpOptions",
    "Folding",
    "MeanShift",
    "VbpOptions",
    "corp_scores",
    "fold",
    "narrow_folded",
    "vbp_scores",
    "whole_in_foldings",
]
