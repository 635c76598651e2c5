"""What a process needs before it computes: `setup` for programs, and a repair of torchvision for everyone."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder


def setup() -> None:
    """Set this process up; every program of the project calls it before anything loads torch.

    Threads of OpenMP spin while they wait for each other. Where other programs want the processor, too,
    GNU's default of 300,000 turns makes a forward pass many times slower; 10,000 cost an idle machine
    nothing. The number is read when torch is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@cache  # a Library's operators vanish with the object, so it is kept
def mend_torchvision() -> object:
    """Make sure that torchvision can be imported, also where its operators do not fit the installed torch.

    A CPU build of torch beside the package index's CUDA build of torchvision cannot load
    torchvision's operators, and `import torchvision` (so `import timm`) dies on
    "operator torchvision::nms does not exist". Only its Python transforms are used here, so
    declaring the two operators it asks for loses nothing. torchvision itself takes over a second to
    import: that is left to whoever needs it.
    """
    import torch  # here, because `setup` must come before it

    spec = importlib.util.find_spec("torchvision") if "torchvision" not in sys.modules else None
    if spec is None or not spec.submodule_search_locations:
        return None  # imported already, or not there, which importing it will say
    folder = FileFinder(spec.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    operators = folder.find_spec("_C")
    try:
        if operators is None or operators.origin is None:
            raise OSError("torchvision has no operators of its own")
        torch.ops.load_library(operators.origin)
        return None
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
