"""What the Prune page offers of each method: its place in the list, and what it can narrow."""

from __future__ import annotations

from typing import Any

from analysis.measure import cost
from analysis.outputs import CLASSIFY, task_of
from analysis.vit import Architecture
from app.wording import STRUCTURE_TITLES
from pruning.criteria import CRITERIA
from pruning.cut import presets, shrink
from pruning.methods import METHODS

RECOMMENDED = ("spectral",)
CONTROLS = ("random", "snp-reversed")

BIND: Any = "query-params"  # of a widget whose value is kept in the address under its key

ASK, EXACT = "ask", "budget"
MODES = {
    ASK: "One question",
    EXACT: "Exact budget",
    "sliders": "Sliders",
    "blocks": "Per block",
    "preset": "Preset",
}
OPTIONS = {  # of all methods, where the name of the field does not say enough
    "images": "Calibration images",
    "pull": "How far weights are refitted, %",
    "steered": "Images moved to other classes, %",
    "focus": "Weight of the tokens that are read, %",
    "gamma": "Singular directions compared",
    "group": "Count all weights of a part",
    "keep": "Heads to keep",
    "teleport": "Steps to any head",
    "scope": "Heads compared",
    "sparsity": "Share of parameters to remove",
    "train_images": "Training images in a pass",
    "epochs": "Passes over the training images",
    "batch": "Images in a training step",
    "lr": "Learning rate",
    "distill": "Learn from the dense model",
    "updates": "Updates of the structure",
    "settle": "Structure fixed after",
    "dual": "Use the dual variable",
}
_NARROWED_BY_PRESETS = {"qk", "v", "mlp", "embed"}
_CANNOT = {"gohsp": ("embed",), "tokens": tuple(STRUCTURE_TITLES)}  # of methods that are no criteria


def methods() -> list[str]:
    """All methods: those that are recommended first, controls last."""
    papers = [name for name in METHODS if name not in (*RECOMMENDED, *CONTROLS)]
    return [*RECOMMENDED, *papers, *CONTROLS]


def label(method: str) -> str:
    """A method's title, and the group it belongs to."""
    group = "recommended" if method in RECOMMENDED else "control" if method in CONTROLS else "from a paper"
    return f"{METHODS[method].title} ({group})"


def structures(method: str) -> tuple[str, ...]:
    """The structures that a method can narrow, in the order of the page."""
    able = CRITERIA[method].ranks if method in CRITERIA else STRUCTURE_TITLES
    return tuple(name for name in STRUCTURE_TITLES if name in able and name not in _CANNOT.get(method, ()))


def fitting_presets(dense: Architecture) -> list[str]:
    """Published presets for a model of this shape; those that narrow the embedding need a classifier."""
    shape = dense.depth, dense.embed_dim
    found = {name: one for name, one in presets().items() if (one.depth, one.embed_dim) == shape}
    return [name for name, one in found.items() if not one.ratios.embed or task_of(dense) == CLASSIFY]


def preset_gmacs(dense: Architecture) -> dict[str, float]:
    """GMACs of the model after each published preset for its shape."""
    return {name: cost(shrink(dense, presets()[name].ratios)).gmacs for name in fitting_presets(dense)}


def modes(method: str, dense: Architecture) -> list[str]:
    """The ways of choosing widths that a method has for this model."""
    refused = set() if METHODS[method].narrows else {ASK, EXACT}
    if not structures(method):
        refused |= {"blocks"} if method == "tokens" else {"sliders", "blocks"}
    if not fitting_presets(dense) or not set(structures(method)) >= _NARROWED_BY_PRESETS:
        refused.add("preset")
    return [mode for mode in MODES if mode not in refused]
