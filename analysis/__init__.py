"""Reads a Vision Transformer, never changes it."""

from __future__ import annotations

import os
import sys

# Read when torch is loaded. Its threads spin while they wait for each other; where anything else wants
# the processor, GNU's default of 300,000 turns makes a forward pass many times slower. This many cost
# an idle machine nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

_declared: list[torch.library.Library] = []  # a Library's operators vanish with the object


def _import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not fit the installed torch.

    A CPU build of torch beside the package index's CUDA build of torchvision cannot load
    torchvision's operators, and `import torchvision` (so `import timm`) dies on
    "operator torchvision::nms does not exist". Only its Python transforms are used here, so
    declaring the two operators it asks for loses nothing.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left half-made
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision  # noqa: F401


_import_torchvision()
