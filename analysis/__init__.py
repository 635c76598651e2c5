"""Reads a Vision Transformer, never changes it."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

# Read when torch is loaded. Its threads spin while they wait for each other; where anything else wants
# the processor, GNU's default of 300,000 turns makes a forward pass many times slower. This many cost
# an idle machine nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

_declared: list[torch.library.Library] = []  # a Library's operators vanish with the object


def _mend_torchvision() -> None:
    """See to it that torchvision can be imported, also where its operators do not fit the installed torch.

    A CPU build of torch beside the package index's CUDA build of torchvision cannot load
    torchvision's operators, and `import torchvision` (so `import timm`) dies on
    "operator torchvision::nms does not exist". Only its Python transforms are used here, so
    declaring the two operators it asks for loses nothing. torchvision itself takes over a second to
    import: that is left to whoever needs it.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return  # importing it will say so
    folder = FileFinder(spec.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    operators = folder.find_spec("_C")
    try:
        if operators is None or operators.origin is None:
            raise OSError("torchvision has no operators of its own")
        torch.ops.load_library(operators.origin)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


_mend_torchvision()
